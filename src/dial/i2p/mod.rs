//! I2P through a router's SAM bridge: sessions, outbound streams, and the thread that accepts.
//!
//! `dialogue` is the pure state machine of SAM, `talk` one socket that it is spoken over. `session` keeps
//! the persistent session and the unused transient ones, behind a mutex each, held for a moment.
//! `dial` connects, on the caller's thread or on the socket thread; `accept_thread` accepts, on a
//! thread of its own.

mod destination;
mod dial;
mod dialogue;
mod error;
mod key_file;
mod options;
mod reply;
mod session;
mod talk;

pub(crate) use self::{
    dial::I2pDial,
    dialogue::Goal,
    session::{Fault, HeldSession, I2P_PORT, I2p, Made, Session, SessionMaker},
    talk::Talk,
};
pub use self::{
    error::{DestinationError, KeyFileError, SamError, SamResult},
    options::{I2pOptions, I2pStatus},
};
