//! Optional helpers for embedders. They use the public methods of `SockMan`; of the rest of the
//! library, its locks and the hash of its map.

mod connection_table;
mod deadlines;
mod send_queue;

pub use self::{
    connection_table::ConnectionTable,
    deadlines::Deadlines,
    send_queue::{PushError, SendQueue, SendQueueLimits},
};
