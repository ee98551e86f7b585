mod contract;
mod fake;
mod hybrid;
mod properties;
mod read_ahead;
mod reader;
