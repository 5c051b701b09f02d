//! Optional helpers for embedders. They use only the public methods of `SockMan`, on any thread.
//! Each helper has one lock of its own.

mod connection_table;
mod deadlines;
mod send_queue;

pub use self::{
    connection_table::ConnectionTable,
    deadlines::Deadlines,
    send_queue::{PushError, SendQueue, SendQueueLimits},
};
