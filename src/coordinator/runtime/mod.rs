//! Runs coordinators' state machines over the partitions of an internal topic.

mod machine;

pub use self::machine::{Effects, Machine, Now, RawRecord, ReplyTo, Ticket};
