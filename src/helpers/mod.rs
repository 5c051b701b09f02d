//! Optional helpers for embedders. They use the public methods of `SockMan`, and of the rest of the
//! library only its locks and the hash of its map. Each helper works on any thread and has one lock
//! of its own.

mod connection_table;
mod deadlines;
mod send_queue;

pub use self::{
    connection_table::ConnectionTable,
    deadlines::Deadlines,
    send_queue::{PushError, SendQueue, SendQueueLimits},
};
