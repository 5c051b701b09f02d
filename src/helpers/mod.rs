//! Optional helpers for embedders. They use the public methods of `SockMan` only.

mod connection_table;
mod deadlines;
mod send_queue;

pub use self::{
    connection_table::ConnectionTable,
    deadlines::Deadlines,
    send_queue::{PushError, SendQueue, SendQueueLimits},
};
