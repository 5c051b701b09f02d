//! The double's operating system: a table of sockets, the wires between them, readiness, and a
//! clock that stands still until it is moved. The double behaves as the kernel of a real [`System`]
//! does, also in its edges.
//!
//! The kernel is plain data behind [`Network`](super::Network)'s mutex. The kernel calls no other
//! code.

mod accepting;
mod afd;
mod pollers;
mod system;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use self::pollers::PollerState;
pub(super) use self::system::{Filter, System};
use super::{calls::Call, handover::Placeholder, script::Script, stream::Stream};
use crate::{
    address::{NetAddr, Service},
    sys::{RawSocket, Readiness, errors, sync::Condvar},
};

/// The result of a system call of the double: an `errno` if the call fails.
pub(super) type Sys<T> = Result<T, i32>;

/// A descriptor, and a serial number that distinguishes the sockets which had this descriptor. The
/// descriptor and the serial number together identify one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct End {
    pub(super) fd: usize,
    pub(super) serial: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The program under test owns the socket, which counts against the program's limit of
    /// descriptors.
    Program,
    /// A peer or a backlog owns the socket.
    Elsewhere,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) serial: u64,
    pub(super) owner: Owner,
    pub(super) is_unix: bool,
    pub(super) local: Option<Service>,
    pub(super) remote: Option<Service>,
    pub(super) kind: Kind,
    pub(super) registration: Option<(u64, usize)>,
    /// Which of its entries are in the ready list of its poller, by [`Filter`].
    listed: [bool; 3],
    /// What the poller of Windows keeps for the socket.
    interest: afd::Interest,
    /// How many descriptors of the program the socket has besides its first one.
    pub(super) copies: usize,
    /// Whether the socket has ever had a copy.
    pub(super) was_copied: bool,
    /// The errors that the next calls fail with.
    faults: VecDeque<(Call, i32)>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Fresh,
    Listener(Backlog),
    Stream(Stream),
    Scripted(Script),
}

#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) waiting: VecDeque<End>,
    pub(super) limit: usize,
    pub(super) is_shut: bool,
    /// Whether the program and a peer both hold the listener.
    pub(super) is_shared: bool,
    /// Whether a holder has cleared `O_NONBLOCK`.
    pub(super) is_blocking: bool,
}

/// The outcome of a connect to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The connect never gets an answer.
    Silence,
    /// The connect fails with this error.
    Refusal(i32),
}

/// Something that arrives on a wire.
#[derive(Debug)]
pub(super) enum Arrival {
    Data {
        from: End,
        bytes: Vec<u8>,
    },
    Urgent,
    Fin,
    Reset,
    /// The request of the connecting socket reaches its destination. The arrival is addressed to
    /// the connecting socket.
    Request {
        to: Service,
    },
    /// The poller reports the socket although nothing arrives.
    Spurious,
}

#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) system: System,
    /// The time since the network was created.
    pub(super) elapsed: Duration,
    sockets: Vec<Option<Socket>>,
    next_serial: u64,
    next_port: u16,
    next_poller: u64,
    next_registration: u64,
    pollers: HashMap<u64, PollerState>,
    listeners: HashMap<Service, End>,
    pub(super) fates: HashMap<Service, Fate>,
    /// The arrivals on the wires, ordered by time and number.
    arrivals: BTreeMap<(Duration, u64), (End, Arrival)>,
    next_arrival: u64,
    /// The errors that the next calls on any socket of the program fail with.
    pub(super) faults: VecDeque<(Call, i32)>,
    /// The calls that fail each time, and their errors.
    pub(super) lasting_faults: HashMap<Call, i32>,
    pub(super) descriptor_limit: Option<usize>,
    /// The number of calls that failed because a test ordered this one failure.
    pub(super) faults_taken: u64,
    /// The failures that have happened because a test ordered them: the call, the error, and whether
    /// every call of the kind failed.
    pub(super) faults_met: HashSet<(Call, i32, bool)>,
    /// When an accept or a registration last failed, either because a test ordered the failure or
    /// for lack of a descriptor.
    pub(super) exhausted_at: Option<Duration>,
    /// When a call last failed with an error that passes by itself, because a test ordered it.
    pub(super) lacked_at: Option<Duration>,
    /// How many accepts of the program would have waited, because another holder had cleared
    /// `O_NONBLOCK` and no client was there.
    pub(super) blocked_accepts: u64,
    /// The descriptors that stand for shared listeners until the program adopts them.
    pub(super) shared: HashMap<RawSocket, End>,
    /// The descriptors that stand for streams that left the program, oldest first.
    pub(super) placeholders: Vec<Placeholder>,
    pub(super) descriptors: usize,
    /// The latency and the window of new streams.
    pub(super) latency: Duration,
    pub(super) window: usize,
    /// How often the program has made each call.
    calls: [u64; Call::ALL.len()],
    /// The time-out of the last poll.
    pub(super) last_timeout: Option<Duration>,
    /// The events that the next poll reports instead of the ready sockets.
    pub(super) injected: Vec<Readiness>,
    /// Whether polls wait and do not move the clock.
    pub(super) is_blocking: bool,
    /// The condition variable that is signalled when a waiting poll has to check again.
    pub(super) changed: Arc<Condvar>,
}

const DEFAULT_WINDOW: usize = 64 * 1024;

impl Kernel {
    pub(super) fn new(system: System) -> Kernel {
        Kernel { system, next_port: 49152, window: DEFAULT_WINDOW, ..Kernel::default() }
    }

    /// Returns the number of descriptors that the program holds, its listeners included.
    pub(super) fn descriptors(&self) -> usize {
        self.descriptors
    }

    pub(super) fn create(&mut self, owner: Owner, is_unix: bool, kind: Kind) -> Sys<End> {
        if owner == Owner::Program {
            if self.descriptor_limit.is_some_and(|limit| self.descriptors >= limit) {
                return Err(errors::EMFILE);
            }
            self.descriptors += 1;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let socket = Socket {
            serial,
            owner,
            is_unix,
            local: None,
            remote: None,
            kind,
            registration: None,
            listed: [false; 3],
            interest: afd::Interest::default(),
            copies: 0,
            was_copied: false,
            faults: VecDeque::new(),
        };
        // Like a real kernel, the double takes the lowest free number, so numbers are reused at
        // once.
        let free = self.sockets.iter().position(Option::is_none);
        let fd = free.unwrap_or(self.sockets.len());
        match free {
            Some(fd) => self.sockets[fd] = Some(socket),
            None => self.sockets.push(Some(socket)),
        }
        Ok(End { fd, serial })
    }

    /// Returns the address `like` with a new port, for a socket without a port.
    pub(super) fn ephemeral(&mut self, like: &Service) -> Service {
        self.next_port = self.next_port.checked_add(1).unwrap_or(49152);
        Service::new(like.addr().clone(), self.next_port)
    }

    pub(super) fn socket(&mut self, end: End) -> Option<&mut Socket> {
        let socket = self.sockets.get_mut(end.fd)?.as_mut()?;
        (socket.serial == end.serial).then_some(socket)
    }

    pub(super) fn stream(&mut self, end: End) -> Option<&mut Stream> {
        match &mut self.socket(end)?.kind {
            Kind::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// Counts the call. Returns the `errno` with which a test ordered the call to fail, or `None`.
    pub(super) fn fault(&mut self, end: Option<End>, call: Call) -> Sys<()> {
        let mut own = None;
        if let Some(socket) = end.and_then(|end| self.socket(end)) {
            if socket.owner == Owner::Elsewhere {
                return Ok(());
            }
            own = take_fault(&mut socket.faults, call);
        }
        self.calls[call as usize] += 1;
        let once = own.or_else(|| take_fault(&mut self.faults, call));
        let lasting = self.lasting_faults.get(&call).copied();
        let Some(errno) = once.or(lasting) else { return Ok(()) };
        self.faults_taken += u64::from(once.is_some());
        self.faults_met.insert((call, errno, once.is_none()));
        // A listener asks an accepted socket for its address, and backs off if that lacks buffers.
        if matches!(call, Call::Accept | Call::Register | Call::LocalAddress) {
            self.exhausted_at = Some(self.elapsed);
        }
        if matches!(errno, errors::ENOBUFS | errors::ENOMEM | errors::EINTR) {
            self.lacked_at = Some(self.elapsed);
        }
        // An edge follows a call that reports "would block" although it would not have blocked. If
        // the failure lasts, the edge comes when `heal` ends it.
        if errno == errors::EAGAIN && once.is_some() {
            if let Some(end) = end {
                let at = self.elapsed;
                self.put_on_wire(at, end, Arrival::Spurious);
            }
        }
        Err(errno)
    }

    pub(super) fn fail_next(&mut self, end: End, call: Call, errno: i32) {
        if let Some(socket) = self.socket(end) {
            socket.faults.push_back((call, errno));
        }
    }

    /// Cancels the pending faults.
    pub(super) fn heal(&mut self) {
        self.faults.clear();
        for socket in self.sockets.iter_mut().flatten() {
            socket.faults.clear();
        }
        let would_block = self.lasting_faults.drain().any(|(_, errno)| errno == errors::EAGAIN);
        if would_block {
            let ends: Vec<End> = (0..self.sockets.len()).filter_map(|fd| self.end_of(fd)).collect();
            ends.into_iter().for_each(|end| self.tell_again(end));
        }
    }

    pub(super) fn bind(&mut self, end: End, to: &Service) -> Sys<()> {
        self.fault(Some(end), Call::Bind)?;
        let address =
            if to.port() == 0 && !to.addr().is_unix() { self.ephemeral(to) } else { to.clone() };
        if self.listeners.contains_key(&address) {
            return Err(errors::EADDRINUSE);
        }
        self.socket(end).ok_or(errors::EBADF)?.local = Some(address);
        Ok(())
    }

    pub(super) fn listen(&mut self, end: End, limit: usize) -> Sys<()> {
        self.fault(Some(end), Call::Listen)?;
        let socket = self.socket(end).ok_or(errors::EBADF)?;
        let address = socket.local.clone().ok_or(errors::EINVAL)?;
        socket.kind = Kind::Listener(Backlog { limit, ..Backlog::default() });
        self.listeners.insert(address, end);
        Ok(())
    }

    pub(super) fn listener_at(&self, address: &Service) -> Option<End> {
        self.listeners.get(address).copied()
    }

    /// Returns the listener that takes a connection from an owner to this address. A wildcard stands for all
    /// addresses of its family to peers, and for the loopback addresses to the program: the program's other
    /// destinations are its peers.
    pub(super) fn listener_for(&self, from: Owner, to: &Service) -> Option<End> {
        self.listener_at(to).or_else(|| {
            let wildcard = match to.addr() {
                NetAddr::Ipv4(_) => NetAddr::from(Ipv4Addr::UNSPECIFIED),
                NetAddr::Ipv6(_) => NetAddr::from(Ipv6Addr::UNSPECIFIED),
                _ => return None,
            };
            let is_reachable = from == Owner::Elsewhere || to.addr().is_loopback();
            is_reachable.then(|| self.listener_at(&Service::new(wildcard, to.port()))).flatten()
        })
    }

    pub(super) fn backlog(&mut self, end: End) -> Option<&mut Backlog> {
        match &mut self.socket(end)?.kind {
            Kind::Listener(backlog) => Some(backlog),
            _ => None,
        }
    }

    pub(super) fn connect(&mut self, end: End, to: &Service) -> Sys<()> {
        let is_unix = self.socket(end).ok_or(errors::EBADF)?.is_unix;
        let under_way = match self.fault(Some(end), Call::Connect) {
            // POSIX: a connect that a signal interrupts continues asynchronously.
            Err(errors::EINTR) if !is_unix => errors::EINTR,
            outcome => outcome.map(|()| errors::EINPROGRESS)?,
        };
        if is_unix {
            return self.connect_unix(end, to);
        }
        let local = self.ephemeral(to);
        let mut stream = Stream::new(self.window, self.latency);
        stream.is_connecting = true;
        let latency = stream.latency;
        let socket = self.socket(end).ok_or(errors::EBADF)?;
        socket.local = Some(match socket.local.take() {
            // The kernel chooses the address when it has the destination.
            Some(bound) if bound.addr().is_unspecified() => {
                Service::new(local.addr().clone(), bound.port())
            }
            Some(bound) => bound,
            None => local,
        });
        socket.remote = Some(to.clone());
        socket.kind = Kind::Stream(stream);
        let at = self.elapsed + latency;
        self.put_on_wire(at, end, Arrival::Request { to: to.clone() });
        Err(under_way)
    }

    /// Returns the listener at this address, if the listener's backlog has room.
    pub(super) fn listener_with_room(&mut self, from: Owner, at: &Service) -> Sys<End> {
        let listener = self.listener_for(from, at).ok_or(errors::ECONNREFUSED)?;
        let full = self.system.full_unix_backlog();
        let backlog = self.backlog(listener).ok_or(errors::ECONNREFUSED)?;
        if backlog.is_shut {
            return Err(errors::ECONNREFUSED);
        }
        if backlog.waiting.len() >= backlog.limit {
            return Err(full);
        }
        Ok(listener)
    }

    fn connect_unix(&mut self, end: End, to: &Service) -> Sys<()> {
        let listener = self.listener_with_room(Owner::Program, to)?;
        let stream = Stream::new(self.window, Duration::ZERO);
        let socket = self.socket(end).ok_or(errors::EBADF)?;
        socket.local.get_or_insert(Service::UNIX_UNNAMED);
        socket.remote = Some(to.clone());
        socket.kind = Kind::Stream(stream);
        self.enter_backlog(end, listener)
    }

    /// Creates the other end of a connecting socket, and puts it into the backlog of the listener.
    fn enter_backlog(&mut self, client: End, listener: End) -> Sys<()> {
        let window = self.window;
        let socket = self.socket(client).ok_or(errors::EBADF)?;
        let (is_unix, local, remote) =
            (socket.is_unix, socket.local.clone(), socket.remote.clone());
        let latency = self.stream(client).map_or(Duration::ZERO, |stream| stream.latency);
        let mut stream = Stream::new(window, latency);
        stream.other = Some(client);
        let server = self.create(Owner::Elsewhere, is_unix, Kind::Stream(stream))?;
        let socket = self.socket(server).ok_or(errors::EBADF)?;
        (socket.local, socket.remote) = (remote, local);
        if let Some(stream) = self.stream(client) {
            stream.other = Some(server);
            stream.is_connecting = false;
        }
        self.backlog(listener).ok_or(errors::ECONNREFUSED)?.waiting.push_back(server);
        self.tell_read(listener);
        self.tell(client);
        Ok(())
    }

    /// Creates two connected streams. One stream has this owner, and a peer owns the other stream.
    pub(super) fn pair(
        &mut self,
        owner: Owner,
        is_unix: bool,
        me: &Service,
        them: &Service,
    ) -> Sys<(End, End)> {
        // The data of a unix-domain socket arrives at once.
        let latency = if is_unix { Duration::ZERO } else { self.latency };
        let window = self.window;
        let ours = self.create(owner, is_unix, Kind::Stream(Stream::new(window, latency)))?;
        let theirs =
            self.create(Owner::Elsewhere, is_unix, Kind::Stream(Stream::new(window, latency)))?;
        for (end, other, local, remote) in [(ours, theirs, me, them), (theirs, ours, them, me)] {
            let socket = self.socket(end).ok_or(errors::EBADF)?;
            socket.local = Some(local.clone());
            socket.remote = Some(remote.clone());
            if let Kind::Stream(stream) = &mut socket.kind {
                stream.other = Some(other);
            }
        }
        Ok((ours, theirs))
    }

    pub(super) fn put_on_wire(&mut self, at: Duration, to: End, arrival: Arrival) {
        let number = self.next_arrival;
        self.next_arrival += 1;
        self.arrivals.insert((at.max(self.elapsed), number), (to, arrival));
        self.changed.notify_all();
    }

    pub(super) fn next_arrival(&self) -> Option<Duration> {
        self.arrivals.keys().next().map(|(at, _)| *at)
    }

    /// Returns the time at which the last arrival on the way to this end comes.
    pub(super) fn last_arrival_at(&self, end: End) -> Duration {
        let on_the_way = self.arrivals.iter().filter(|(_, (to, _))| *to == end);
        on_the_way.map(|((at, _), _)| *at).next_back().unwrap_or_default()
    }

    /// Delivers everything that has arrived by now.
    pub(super) fn deliver(&mut self) {
        while let Some(entry) = self.arrivals.first_entry() {
            if entry.key().0 > self.elapsed {
                return;
            }
            let (to, arrival) = entry.remove();
            match arrival {
                Arrival::Request { to: address } => self.request_arrives(to, &address),
                Arrival::Spurious => self.tell_again(to),
                arrival => self.arrive(to, arrival),
            }
        }
    }

    fn request_arrives(&mut self, client: End, to: &Service) {
        if self.stream(client).is_none() {
            return;
        }
        let refusal = match (self.fates.get(to).copied(), self.listener_for(Owner::Program, to)) {
            (Some(Fate::Silence), _) => return,
            (Some(Fate::Refusal(errno)), _) => errno,
            (None, Some(listener)) => {
                let Some(backlog) = self.backlog(listener) else { return };
                if backlog.is_shut {
                    errors::ECONNREFUSED
                } else if backlog.waiting.len() >= backlog.limit {
                    // A full backlog acts like a lost SYN, which is sent again after a second.
                    let at = self.elapsed + Duration::from_secs(1);
                    self.put_on_wire(at, client, Arrival::Request { to: to.clone() });
                    return;
                } else {
                    // The call always succeeds, because both sockets exist, as checked above.
                    if self.enter_backlog(client, listener).is_ok() {
                        return;
                    }
                    errors::ECONNREFUSED
                }
            }
            // The kernel has chosen the port of the destination for the socket itself.
            (None, None) if self.is_local(client, to) => {
                if let Some(stream) = self.stream(client) {
                    stream.is_connecting = false;
                    stream.other = Some(client);
                }
                return self.tell(client);
            }
            (None, None) => errors::ECONNREFUSED,
        };
        if let Some(stream) = self.stream(client) {
            stream.is_connecting = false;
            stream.break_with(refusal);
        }
        self.tell(client);
    }

    fn is_local(&mut self, end: End, address: &Service) -> bool {
        self.socket(end).is_some_and(|socket| socket.local.as_ref() == Some(address))
    }

    /// Closes a descriptor of the socket, and the socket itself with the last one.
    pub(super) fn close(&mut self, end: End) {
        let Some(socket) = self.socket(end) else { return };
        if socket.copies > 0 {
            socket.copies -= 1;
            self.descriptors -= 1;
            return;
        }
        let Some(socket) = self.sockets.get_mut(end.fd).and_then(Option::take) else { return };
        if socket.owner == Owner::Program {
            self.descriptors -= 1;
        }
        match socket.kind {
            Kind::Listener(backlog) => {
                if let Some(address) = socket.local {
                    if self.listeners.get(&address) == Some(&end) {
                        self.listeners.remove(&address);
                    }
                }
                for waiting in backlog.waiting {
                    self.reset_other_of(waiting);
                    self.close(waiting);
                }
            }
            Kind::Stream(stream) => self.stream_closed(&stream),
            Kind::Fresh | Kind::Scripted(_) => {}
        }
    }

    pub(super) fn end_of(&self, fd: usize) -> Option<End> {
        let socket = self.sockets.get(fd)?.as_ref()?;
        Some(End { fd, serial: socket.serial })
    }

    pub(super) fn calls(&self, call: Call) -> u64 {
        self.calls[call as usize]
    }
}

fn take_fault(faults: &mut VecDeque<(Call, i32)>, call: Call) -> Option<i32> {
    let position = faults.iter().position(|(of, _)| *of == call)?;
    faults.remove(position).map(|(_, errno)| errno)
}
