//! Doubles for the models: a poller that sleeps under the scheduler, until an event or its waker and
//! never because time goes by. A wake-up that is lost is a deadlock, which the scheduler tells.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use shuttle::sync::{Condvar, Mutex};
use sockman::{
    Service,
    sys::{More, Poller, Readiness, Sock, SockFactory, Waker},
};

/// The kernel of a model.
#[derive(Default)]
pub struct Machine {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next_fd: RawFd,
    is_woken: bool,
    events: Vec<Readiness>,
    tokens: HashMap<RawFd, usize>,
    socks: HashMap<RawFd, SockState>,
    dropped: Vec<RawFd>,
}

#[derive(Default)]
struct SockState {
    room: usize,
    wants_room: bool,
    sent: Vec<u8>,
    received: VecDeque<u8>,
    clients: usize,
    is_listening: bool,
    is_shut: bool,
    is_connected: bool,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

impl Machine {
    pub fn new() -> Arc<Machine> {
        Arc::new(Machine::default())
    }

    /// A socket that is connected and has room for so many bytes.
    pub fn sock(self: &Arc<Self>, room: usize) -> (Box<dyn Sock>, RawFd) {
        let fd = self.fresh(room);
        (Box::new(ModelSock { machine: Arc::clone(self), fd }), fd)
    }

    fn fresh(&self, room: usize) -> RawFd {
        let mut state = self.state.lock().unwrap();
        let fd = state.next_fd;
        state.next_fd += 1;
        state.socks.insert(fd, SockState { room, ..SockState::default() });
        fd
    }

    /// What the peer has been sent.
    pub fn sent(&self, fd: RawFd) -> Vec<u8> {
        self.state.lock().unwrap().socks[&fd].sent.clone()
    }

    /// The peer takes what it was sent: there is room again.
    pub fn make_room(&self, fd: RawFd, room: usize) {
        let mut state = self.state.lock().unwrap();
        let sock = state.socks.get_mut(&fd).unwrap();
        sock.room += room;
        if std::mem::take(&mut sock.wants_room) {
            self.tell(&mut state, fd, ready(false, true));
        }
    }

    pub fn data_arrives(&self, fd: RawFd, data: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.socks.get_mut(&fd).unwrap().received.extend(data);
        self.tell(&mut state, fd, ready(true, false));
    }

    pub fn client_comes(&self, fd: RawFd) {
        let mut state = self.state.lock().unwrap();
        state.socks.get_mut(&fd).unwrap().clients += 1;
        self.tell(&mut state, fd, ready(true, false));
    }

    pub fn connect_succeeds(&self, fd: RawFd) {
        let mut state = self.state.lock().unwrap();
        state.socks.get_mut(&fd).unwrap().is_connected = true;
        self.tell(&mut state, fd, ready(false, true));
    }

    pub fn is_shut(&self, fd: RawFd) -> bool {
        self.state.lock().unwrap().socks[&fd].is_shut
    }

    /// How often this descriptor was closed.
    pub fn drops(&self, fd: RawFd) -> usize {
        self.state.lock().unwrap().dropped.iter().filter(|dropped| **dropped == fd).count()
    }

    /// Waits until this descriptor is closed, for ever if it is not.
    pub fn wait_for_drop(&self, fd: RawFd) {
        let mut state = self.state.lock().unwrap();
        while !state.dropped.contains(&fd) {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// The descriptors that nobody has closed.
    pub fn left(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.next_fd as usize - state.dropped.len()
    }

    fn tell(&self, state: &mut State, fd: RawFd, mut event: Readiness) {
        if let Some(&token) = state.tokens.get(&fd) {
            event.token = token;
            state.events.push(event);
            self.changed.notify_all();
        }
    }
}

fn ready(readable: bool, writable: bool) -> Readiness {
    let mut event = Readiness::default();
    (event.readable, event.writable) = (readable, writable);
    event
}

#[derive(Debug)]
pub struct Factory(pub Arc<Machine>);

impl SockFactory for Factory {
    fn create_sock(&self, _: &Service) -> io::Result<Box<dyn Sock>> {
        Ok(self.0.sock(100).0)
    }
    fn create_poller(&self) -> io::Result<Box<dyn Poller>> {
        Ok(Box::new(ModelPoller(Arc::clone(&self.0))))
    }
    fn adopt_listener(&self, _: OwnedFd) -> io::Result<Box<dyn Sock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct ModelPoller(Arc<Machine>);

struct ModelWaker(Arc<Machine>);

impl Waker for ModelWaker {
    fn wake(&self) -> io::Result<()> {
        self.0.state.lock().unwrap().is_woken = true;
        self.0.changed.notify_all();
        Ok(())
    }
}

impl Poller for ModelPoller {
    fn register(&self, sock: &dyn Sock, token: usize) -> io::Result<()> {
        let mut state = self.0.state.lock().unwrap();
        let fd = sock.as_raw_fd();
        state.tokens.insert(fd, token);
        let known = &state.socks[&fd];
        let (readable, writable) =
            (!known.received.is_empty() || known.clients > 0, known.room > 0 || known.is_connected);
        if readable || writable {
            let mut event = ready(readable, writable);
            event.token = token;
            state.events.push(event);
        }
        Ok(())
    }
    fn deregister(&self, sock: &dyn Sock) -> io::Result<()> {
        self.0.state.lock().unwrap().tokens.remove(&sock.as_raw_fd());
        Ok(())
    }
    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let mut state = self.0.state.lock().unwrap();
        while timeout != Some(Duration::ZERO) && !state.is_woken && state.events.is_empty() {
            state = self.0.changed.wait(state).unwrap();
        }
        state.is_woken = false;
        events.append(&mut state.events);
        Ok(())
    }
    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(ModelWaker(Arc::clone(&self.0)))
    }
}

#[derive(Debug)]
struct ModelSock {
    machine: Arc<Machine>,
    fd: RawFd,
}

impl ModelSock {
    fn with<R>(&self, use_it: impl FnOnce(&mut SockState) -> R) -> R {
        use_it(self.machine.state.lock().unwrap().socks.get_mut(&self.fd).unwrap())
    }
}

impl Drop for ModelSock {
    fn drop(&mut self) {
        let mut state = self.machine.state.lock().unwrap();
        state.tokens.remove(&self.fd);
        state.dropped.push(self.fd);
        self.machine.changed.notify_all();
    }
}

fn would_block<T>() -> io::Result<T> {
    Err(io::ErrorKind::WouldBlock.into())
}

impl Sock for ModelSock {
    fn connect(&self, _: &Service) -> io::Result<()> {
        // EINPROGRESS.
        Err(io::Error::from_raw_os_error(115))
    }
    fn bind(&self, _: &Service) -> io::Result<()> {
        Ok(())
    }
    fn listen(self: Box<Self>, _: i32) -> io::Result<Box<dyn Sock>> {
        self.with(|sock| {
            sock.is_listening = true;
            sock.room = 0;
        });
        Ok(self)
    }
    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        let somebody = self.with(|sock| {
            let somebody = sock.clients > 0 && !sock.is_shut;
            sock.clients -= usize::from(somebody);
            somebody
        });
        if !somebody {
            return would_block();
        }
        Ok((self.machine.sock(100).0, "10.0.0.2:2".parse().unwrap()))
    }
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|sock| {
            if sock.received.is_empty() {
                return would_block();
            }
            let bytes = sock.received.len().min(buffer.len());
            for (place, byte) in buffer.iter_mut().zip(sock.received.drain(..bytes)) {
                *place = byte;
            }
            Ok(bytes)
        })
    }
    fn send(&self, data: &[u8], _: More) -> io::Result<usize> {
        self.with(|sock| {
            if sock.is_shut {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let sent = data.len().min(sock.room);
            sock.room -= sent;
            sock.wants_room |= sent < data.len();
            sock.sent.extend_from_slice(&data[..sent]);
            if sent == 0 { would_block() } else { Ok(sent) }
        })
    }
    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        self.send(&data.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>(), more)
    }
    fn shutdown(&self, _: Shutdown) -> io::Result<()> {
        self.with(|sock| sock.is_shut = true);
        Ok(())
    }
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }
    fn local_address(&self) -> io::Result<Service> {
        Ok("10.0.0.1:1".parse().unwrap())
    }
    fn peer_address(&self) -> io::Result<Service> {
        if self.with(|sock| sock.is_connected) {
            Ok("10.0.0.2:2".parse().unwrap())
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }
    fn short_read_means_empty(&self) -> bool {
        true
    }
    fn short_send_means_full(&self) -> bool {
        true
    }
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}
