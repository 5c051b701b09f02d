//! What the socket thread does after a send that took less than it was given.

use std::{io, os::fd::RawFd, sync::Arc};

use parking_lot::Mutex;

use super::Machine;
use crate::{
    address::Service,
    engine::connection::ConnectionId,
    engine::threads::run_one_pass,
    event_handler::{EventHandler, NextRecv},
    options::Options,
    sockman::SockMan,
    sys::Readiness,
};

/// Always has ten bytes to send, and notes how many were taken.
#[derive(Default)]
struct Source {
    taken: Mutex<Vec<usize>>,
}

impl EventHandler for Source {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.taken.lock().push(sockman.send_bytes(id, &[0; 10], false).unwrap());
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

const WRITABLE: Readiness = Readiness {
    token: 0,
    readable: false,
    writable: true,
    read_closed: false,
    broken: false,
    priority: false,
};

struct Rig {
    machine: Arc<Machine>,
    source: Arc<Source>,
    sockman: SockMan,
    fd: RawFd,
}

impl Rig {
    /// One connection, not writable yet.
    fn new(is_unix: bool) -> Rig {
        let machine = Machine::new();
        let source = Arc::new(Source::default());
        let options = Options::default().sweep(None).sock_factory(machine.factory());
        let handler: Arc<dyn EventHandler> = source.clone();
        let sockman = SockMan::new(handler, options).unwrap();
        sockman.bind_and_start_listening(&"10.0.0.1:1".parse().unwrap()).unwrap();
        run_one_pass(&sockman).unwrap();
        let (listener, fd) = (3, machine.fresh_fd());
        machine.script(fd, |script| script.is_unix = is_unix);
        machine.script(listener, |script| script.accepts.push_back(Ok(fd)));
        machine.event(listener, Readiness { readable: true, ..Readiness::default() });
        for _ in 0..2 {
            run_one_pass(&sockman).unwrap();
        }
        Rig { machine, source, sockman, fd }
    }

    /// What the sends of one pass took, and how many there were.
    fn pass(&self) -> (Vec<usize>, usize) {
        run_one_pass(&self.sockman).unwrap();
        let calls = self.machine.script(self.fd, |script| std::mem::take(&mut script.send_calls));
        (std::mem::take(&mut *self.source.taken.lock()), calls)
    }
}

/// The price of a full socket: no second `send` that only says "would block". And G5: the event that
/// tells of room brings the connection back.
#[test]
fn a_short_send_on_tcp_clears_the_latch() {
    let rig = Rig::new(false);
    rig.machine.script(rig.fd, |script| script.room.extend([10, 4]));
    rig.machine.event(rig.fd, WRITABLE);
    assert_eq!(rig.pass(), (vec![10], 1), "all taken: more may fit");
    assert_eq!(rig.pass(), (vec![4], 1));
    assert_eq!(rig.pass(), (vec![], 0));
    assert_eq!(rig.machine.last_timeout(), None, "nothing to do until there is room");
    rig.machine.event(rig.fd, WRITABLE);
    assert_eq!(rig.pass(), (vec![10], 1));
}

/// Elsewhere it says nothing: on unix-domain sockets, and on an embedder's own.
#[test]
fn a_short_send_on_another_socket_is_followed_by_one_that_would_block() {
    let rig = Rig::new(true);
    rig.machine.script(rig.fd, |script| script.room.extend([4, 0]));
    rig.machine.event(rig.fd, WRITABLE);
    assert_eq!(rig.pass(), (vec![4], 1));
    assert_eq!(rig.pass(), (vec![0], 1));
    assert_eq!(rig.pass(), (vec![], 0));
    rig.machine.event(rig.fd, WRITABLE);
    assert_eq!(rig.pass(), (vec![10], 1));
}

/// The price of a peer that resets: no `shutdown` of what is over. And G4: a socket of which nothing
/// but an error is known is shut down at once.
#[test]
fn a_close_shuts_down_what_is_not_over() {
    for (event, is_shut) in [
        (Readiness { broken: true, read_closed: true, ..WRITABLE }, false),
        (Readiness { broken: true, ..WRITABLE }, true),
        (Readiness { read_closed: true, ..WRITABLE }, true),
        (WRITABLE, true),
    ] {
        let rig = Rig::new(false);
        rig.machine.event(rig.fd, event);
        rig.pass();
        assert!(rig.sockman.close_connection(crate::engine::map::ConnectionMap::new(1).next_id()));
        assert_eq!(rig.machine.script(rig.fd, |script| script.shut), is_shut, "{event:?}");
    }
}
