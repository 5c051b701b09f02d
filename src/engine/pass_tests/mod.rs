//! Unit tests of the pass. Each test runs single passes of the socket thread by hand, on the test's
//! own thread, over the network in memory of `testing` and with a clock that stands still.
//!
//! `bulk` and `rows` test the turns in a row of connections that fill large buffers. `pass` tests the effects of a pass on connections, listeners and deadlines. `connects` tests the
//! connects that the socket thread drives. `closes` tests closes while no thread runs. `ends` tests
//! the reports of closes, `finish` orderly ends and resets. `handles` tests the handle that a
//! callback gets. `listeners` tests which listeners a pass looks at. `sends` tests the effects of a
//! send, and `rests` when a connection rests after one. `sweep` tests the sweep. `timers` tests that data comes before the timers that it moves.
//! `turns` tests the order of the turns.

mod bulk;
mod closes;
mod connects;
mod ends;
mod finish;
mod handles;
mod listeners;
mod pass;
mod rests;
mod rows;
mod sends;
mod sweep;
mod timers;
mod turns;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{connection::ConnectionId, slab::Token, threads::run_one_pass};
use crate::{
    address::Service,
    event_handler::EventHandler,
    options::Options,
    sockman::SockMan,
    sys::errors,
    testing::{Call, Network, Peer},
};

/// A `SockMan` on a network in memory, with one listener. No thread runs, and polls do not move the
/// clock.
struct Rig<H> {
    network: Network,
    handler: Arc<H>,
    sockman: SockMan,
    /// The address of the listener.
    here: Service,
}

impl<H: EventHandler + 'static> Rig<H> {
    /// Binds the listener, and runs the pass that registers it.
    fn with_handler(handler: H, options: Options) -> Rig<H> {
        let network = Network::new();
        network.hold_clock(Some(Duration::ZERO));
        let handler = Arc::new(handler);
        let options = options.sock_factory(network.factory());
        let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
        let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let rig = Rig { network, handler, sockman, here };
        rig.pass();
        rig
    }

    fn pass(&self) {
        run_one_pass(&self.sockman).unwrap();
    }

    /// Connects a peer to the listener. The connection waits until the listener accepts it.
    fn connect_peer(&self) -> Peer {
        self.network.connect(&self.here).unwrap()
    }

    /// Makes the poller refuse all further sockets.
    fn fail_registrations(&self) {
        // No test registers as many sockets as this.
        for _ in 0..64 {
            self.network.fail_next(Call::Register, errors::ENOSPC);
        }
    }

    /// Returns the tokens of the connections that the poller watches.
    fn connections(&self) -> Vec<usize> {
        self.tokens(|token| matches!(token, Token::Connection(_)))
    }

    /// Returns the tokens of the listeners that the poller watches.
    fn listeners(&self) -> Vec<usize> {
        self.tokens(|token| matches!(token, Token::Listener(_)))
    }

    /// Returns the tokens of the attempts that the poller watches.
    fn attempts(&self) -> Vec<usize> {
        self.tokens(|token| matches!(token, Token::Attempt(_)))
    }

    fn tokens(&self, is_wanted: impl Fn(Token) -> bool) -> Vec<usize> {
        let tokens = self.network.registered_tokens().into_iter();
        tokens.filter(|token| is_wanted(Token::decode(*token))).collect()
    }
}

/// Returns the only token of a list, which must contain exactly one.
#[track_caller]
fn only(tokens: &[usize]) -> usize {
    assert_eq!(tokens.len(), 1, "exactly one socket is registered");
    tokens[0]
}

/// Numbers the connections in the order in which they first appear. Tests name connections by these
/// ordinals, because the first id is not always 0.
#[derive(Default)]
struct Ordinals {
    ids: Mutex<Vec<ConnectionId>>,
}

impl Ordinals {
    fn of(&self, id: ConnectionId) -> usize {
        let mut ids = self.ids.lock();
        ids.iter().position(|known| *known == id).unwrap_or_else(|| {
            ids.push(id);
            ids.len() - 1
        })
    }

    fn count(&self) -> usize {
        self.ids.lock().len()
    }

    fn id(&self, ordinal: usize) -> ConnectionId {
        self.ids.lock()[ordinal]
    }
}
