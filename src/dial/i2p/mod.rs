//! I2P through a router's SAM bridge: sessions and outbound streams.
//!
//! `dialogue` is the pure state machine of SAM. `talk` puts it behind the connect to the bridge.
//! `session` keeps the persistent session and the unused transient ones, behind a mutex each, held for
//! a moment. `dial` connects, on the caller's thread or on the socket thread. The engine's
//! `i2p_accept` accepts over the same parts, on a thread of its own.

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
