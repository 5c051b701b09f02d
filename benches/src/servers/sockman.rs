//! `sockman`, with a handler that is written for speed: `event_got_data` sends at once, and only
//! the bytes that the kernel does not accept go into a map.
use std::{
    collections::HashMap,
    error::Error,
    hint::black_box,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use sockman::{ConnectionId, EventHandler, NextRecv, Options, Service, SockMan};

use super::{Contract, NOT_CALLED, STOP_READING_ABOVE, Task, announce, chat, leftovers::Leftovers};

pub(super) fn serve(task: Task, options: Options) -> Result<(), Box<dyn Error>> {
    let sockman = match task.contract {
        Contract::Echo => SockMan::new(Arc::new(Echo::new(task)), options)?,
        Contract::Sink => SockMan::new(Arc::new(Sink), options)?,
        Contract::Source => {
            SockMan::new(Arc::new(Source { zeroes: vec![0; task.send_size] }), options)?
        }
        Contract::Chat => return chat::sockman::serve(options),
    };
    let bound = sockman.bind_and_start_listening("127.0.0.1:0")?;
    for _ in 0..task.more_listeners {
        sockman.bind_and_start_listening(format!("{NOT_CALLED}:0"))?;
    }
    let threads = sockman.start_sockets_threads()?;
    announce(bound.to_socket_addr().ok_or("the listener is not bound to an IP address")?)?;
    Ok(threads.join()?)
}

/// Runs two echo servers, each with its own thread. The kernel distributes the clients over both
/// servers.
pub(super) fn serve_twice(task: Task) -> Result<(), Box<dyn Error>> {
    let options = Options::default().reuse_port(true);
    let first = SockMan::new(Arc::new(Echo::new(task)), options.clone())?;
    let second = SockMan::new(Arc::new(Echo::new(task)), options)?;
    let bound = first.bind_and_start_listening("127.0.0.1:0")?;
    second.bind_and_start_listening(&bound)?;
    let threads = [first.start_sockets_threads()?, second.start_sockets_threads()?];
    announce(bound.to_socket_addr().ok_or("the listener is not bound to an IP address")?)?;
    for thread in threads {
        thread.join()?;
    }
    Ok(())
}

struct Echo {
    work: u32,
    /// The map has entries only for peers that are slow at the moment.
    slow: Mutex<HashMap<ConnectionId, Slow>>,
    /// The number of entries, so that the hooks take no lock while there are none.
    slow_count: AtomicUsize,
}

/// A peer that has not accepted everything.
#[derive(Default)]
struct Slow {
    leftovers: Leftovers,
    /// The peer has sent EOF: close the connection when everything is sent.
    finished: bool,
}

impl Echo {
    fn new(task: Task) -> Echo {
        Echo { work: task.work, slow: Mutex::default(), slow_count: AtomicUsize::new(0) }
    }

    /// Relaxed, because only the socket thread changes and reads the count.
    fn all_are_quick(&self) -> bool {
        self.slow_count.load(Ordering::Relaxed) == 0
    }

    fn forget(&self, id: ConnectionId) {
        if !self.all_are_quick() && self.slow.lock().remove(&id).is_some() {
            self.slow_count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn close(&self, sockman: &SockMan, id: ConnectionId) {
        self.forget(id);
        sockman.close_connection(id);
    }
}

impl EventHandler for Echo {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        !self.all_are_quick() && self.slow.lock().contains_key(&id)
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.all_are_quick()
            || (self.slow.lock().get(&id))
                .is_none_or(|slow| slow.leftovers.len() <= STOP_READING_ABOVE)
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let mut all_slow = self.slow.lock();
        let Some(slow) = all_slow.get_mut(&id) else { return NextRecv::Proceed };
        let was_paused = slow.leftovers.len() > STOP_READING_ABOVE;
        let outcome = sockman.send_bytes(id, slow.leftovers.as_slice());
        if let Ok(sent) = outcome {
            slow.leftovers.advance(sent);
        }
        let (is_quick, finished) = (slow.leftovers.is_empty(), slow.finished);
        let reads_again = was_paused && slow.leftovers.len() <= STOP_READING_ABOVE;
        drop(all_slow);
        match outcome {
            Ok(_) if is_quick && finished => self.close(sockman, id),
            Ok(_) if is_quick => self.forget(id),
            Ok(_) => {}
            Err(_) => self.close(sockman, id),
        }
        if reads_again {
            sockman.wake(id);
        }
        NextRecv::Proceed
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        work(self.work);
        if !self.all_are_quick()
            && let Some(slow) = self.slow.lock().get_mut(&id)
        {
            slow.leftovers.keep(data);
            return;
        }
        match sockman.send_bytes(id, data) {
            Ok(sent) if sent == data.len() => {}
            Ok(sent) => {
                let mut slow = Slow::default();
                slow.leftovers.keep(&data[sent..]);
                self.slow.lock().insert(id, slow);
                self.slow_count.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => self.close(sockman, id),
        }
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        if let Some(slow) = self.slow.lock().get_mut(&id) {
            slow.finished = true;
            return;
        }
        self.close(sockman, id);
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        self.close(sockman, id);
    }
}

/// Computes in steps, each of which depends on the step before.
fn work(rounds: u32) {
    let mut number = 1_u64;
    for _ in 0..rounds {
        number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

struct Sink;

impl EventHandler for Sink {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }

    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        false
    }

    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        sockman.close_connection(id);
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        sockman.close_connection(id);
    }
}

struct Source {
    zeroes: Vec<u8>,
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
        if sockman.send_bytes(id, &self.zeroes).is_err() {
            sockman.close_connection(id);
        }
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        sockman.close_connection(id);
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        sockman.close_connection(id);
    }
}
