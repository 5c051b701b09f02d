//! Optional helpers for embedders. The helpers use the public methods of `SockMan`. Besides these
//! methods, the helpers use only the library's locks and the hash of its map. Each helper works on
//! any thread, with at most one lock of its own.

mod connection_table;
mod deadlines;
mod send_budget;
mod send_queue;

pub use self::{
    connection_table::ConnectionTable,
    deadlines::Deadlines,
    send_budget::SendBudget,
    send_queue::{PushError, SendQueue, SendQueueLimits},
};
