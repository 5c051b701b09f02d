//! I2P through a router's SAM bridge: sessions, outbound streams, and the parts with which the
//! I2P-accept thread accepts.
//!
//! `dialogue` is the pure state machine of SAM. `talk` runs the state machine over one socket.
//! `session` keeps the persistent session and the unused transient sessions, each behind a mutex
//! that is held for a moment. `dial` connects, on the caller's thread or on the socket thread. The
//! engine's `i2p_accept` accepts with these parts, on a thread of its own.

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
