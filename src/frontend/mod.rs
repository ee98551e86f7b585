//! Floor 7: the front doors. They translate, authorise and map errors; they decide nothing and do not know each other.

pub mod grpc;
pub mod http;
pub mod kafka;
