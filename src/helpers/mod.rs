//! Optional helpers for embedders. The helpers use the public methods of `SockMan`. Besides these
//! methods, the helpers use only the library's locks and the hash of its map. Each helper works on
//! any thread, with at most one lock of its own.

mod connection_table;
mod deadlines;
mod drained;
pub(crate) mod outlet;
mod push_error;
mod rate_limit;
mod rate_limiter;
mod send_budget;
mod send_pieces;
mod send_queue;
mod send_queue_limits;
mod send_queue_writer;

pub use self::{
    connection_table::ConnectionTable, deadlines::Deadlines, drained::Drained,
    push_error::PushError, rate_limit::RateLimit, rate_limiter::RateLimiter,
    send_budget::SendBudget, send_pieces::Piece, send_queue::SendQueue,
    send_queue_limits::SendQueueLimits, send_queue_writer::SendQueueWriter,
};
