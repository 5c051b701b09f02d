//! An outbound stream: a session, and a connection to the address in that session.
//!
//! Both drivers step an outbound stream through [`Dial`](crate::dial::Dial), which wraps the
//! stream. A step takes the locks of `session` for a moment.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Instant,
};

use super::{
    dialogue::Goal,
    error::{SamError, SamResult},
    session::{Fault, I2P_PORT, I2p, Made, Session, SessionMaker},
    talk::Talk,
};
use crate::{
    address::{Destination, I2pHash, NetAddr, Service},
    dial::{
        Awaits, ConnectError, ConnectErrorKind, ConnectFault, ConnectPhase, Step,
        fault::{is_of_family, of_system_call},
    },
    sys::Sock,
};

#[derive(Debug)]
pub(crate) struct I2pDial {
    i2p: Arc<I2p>,
    to: I2pHash,
    state: State,
    /// The session, which the socket of the stream keeps open.
    held: Arc<OnceLock<Arc<Session>>>,
}

#[derive(Debug)]
enum State {
    Session(SessionMaker),
    Stream(Arc<Session>, Box<Talk>),
}

impl I2pDial {
    /// Prepares a connect. Returns `None` if `to` is not an I2P address.
    ///
    /// # Errors
    ///
    /// The address has a port other than 0.
    pub(crate) fn new(i2p: &Arc<I2p>, to: &Destination) -> Result<Option<I2pDial>, ConnectError> {
        let Some(service) = to.service() else { return Ok(None) };
        let NetAddr::I2p(address) = service.addr() else { return Ok(None) };
        if service.port() != I2P_PORT {
            return Err(ConnectError::new(to, ConnectErrorKind::I2pPort));
        }
        let state = State::Session(SessionMaker::new(i2p));
        let (i2p, to) = (Arc::clone(i2p), address.clone());
        Ok(Some(I2pDial { i2p, to, state, held: Arc::default() }))
    }

    pub(crate) fn held(&self) -> Arc<OnceLock<Arc<Session>>> {
        Arc::clone(&self.held)
    }

    /// Returns this side's own address, or `None` before there is a session.
    pub(crate) fn me(&self) -> Option<&Service> {
        self.held.get().map(|session| &session.address)
    }

    pub(crate) fn phase(&self) -> ConnectPhase {
        match &self.state {
            State::Session(_) => ConnectPhase::I2pSession,
            State::Stream(..) => ConnectPhase::I2pConnect,
        }
    }

    /// Returns the socket to wait on instead of the stream's own socket, and its number, or `None`
    /// to wait on the stream's own.
    pub(crate) fn control(&self) -> Option<(u32, &dyn Sock)> {
        match &self.state {
            State::Session(maker) => maker.control().map(|control| (maker.controls(), control)),
            State::Stream(..) => None,
        }
    }

    /// Takes the next step.
    ///
    /// # Errors
    ///
    /// The connect failed.
    pub(crate) fn step(
        &mut self,
        sock: &dyn Sock,
        to: &Destination,
        now: Instant,
    ) -> Result<Step, ConnectError> {
        if let State::Session(maker) = &mut self.state {
            let session = match maker.step(now).map_err(|fault| self.failed(to, fault))? {
                Made::Session(session) => session,
                Made::WaitForSocket(awaits) => return Ok(Step::WaitForSocket(awaits)),
                Made::WaitUntil(at) => return Ok(Step::WaitUntil(at)),
                Made::Restarted => return Ok(Step::WaitUntil(now)),
            };
            let goal = Goal::Connect { session: session.id.clone(), to: self.to.clone() };
            let talk = Talk::new(self.i2p.sam(), goal, now);
            self.held.get_or_init(|| Arc::clone(&session));
            self.state = State::Stream(session, Box::new(talk));
        }
        let State::Stream(session, talk) = &mut self.state else {
            return Ok(Step::WaitForSocket(Awaits::Any));
        };
        match talk.step(sock, now) {
            Ok(step) => Ok(step),
            Err(error) => {
                let session = Arc::clone(session);
                // Only this result of the router says that the session is at fault. After other
                // results, other connects may use the session.
                let is_gone =
                    matches!(error, SamError::Refused { result: SamResult::InvalidId, .. });
                if is_gone {
                    self.i2p.forget(&session);
                } else {
                    self.i2p.give_back(session);
                }
                Err(self.failed(to, error.into()))
            }
        }
    }

    /// Returns the error for a system call that failed before the connect to the bridge, or beside
    /// it. `step` names the call.
    pub(crate) fn failed_before(
        &self,
        to: &Destination,
        step: &'static str,
        source: io::Error,
    ) -> ConnectError {
        self.failed(to, Fault::Os { step, source })
    }

    fn failed(&self, to: &Destination, fault: Fault) -> ConnectError {
        let sam = self.i2p.sam().clone();
        let kind = match fault {
            // The family is the one of the bridge's address.
            Fault::Os { step: "socket", source } if is_of_family(&source) => {
                ConnectErrorKind::SamFailed { sam, error: SamError::Unreachable { source } }
            }
            // A lack of this host is no fault of the bridge.
            Fault::Sam(SamError::Unreachable { source })
                if of_system_call("connect", &source) == ConnectFault::Host =>
            {
                return ConnectError::of_connect(to, source);
            }
            Fault::Os { step, source } => ConnectErrorKind::Os { step, source },
            Fault::KeyFile(error) => ConnectErrorKind::I2pKeyFile { error },
            Fault::Sam(SamError::Refused { request, result })
                if is_about_the_peer(request, &result) =>
            {
                ConnectErrorKind::I2pPeer { sam, result }
            }
            Fault::Sam(error) => ConnectErrorKind::SamFailed { sam, error },
        };
        ConnectError::new(to, kind)
    }
}

/// Returns whether the router works and the peer is at fault.
fn is_about_the_peer(request: &str, result: &SamResult) -> bool {
    match result {
        SamResult::CantReachPeer
        | SamResult::Timeout
        | SamResult::KeyNotFound
        | SamResult::PeerNotFound => true,
        // In the reply to SESSION CREATE, the key is this side's own.
        SamResult::InvalidKey => matches!(request, "NAMING LOOKUP" | "STREAM CONNECT"),
        _ => false,
    }
}
