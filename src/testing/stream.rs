//! One end of a connection of the double: what it has received, what it may send, how it ended.
//!
//! A stream is plain data behind the mutex of [`Network`](super::Network), with the rules of the
//! kernel that the network stands for. `winsock` has the rules that only Windows has.
//! The stream calls no other code.

use std::{collections::VecDeque, time::Duration};

use super::{
    calls::Call,
    kernel::{Arrival, End, Kernel, Kind, Sys},
};
use crate::sys::{Readiness, errors};

#[derive(Debug)]
pub(super) struct Stream {
    /// The other end, or `None` while the stream connects and when the other end is gone.
    pub(super) other: Option<End>,
    pub(super) is_connecting: bool,
    pub(super) incoming: VecDeque<u8>,
    /// The number of bytes on the way to this end.
    pub(super) in_flight: usize,
    /// The most bytes that `incoming` and `in_flight` may have together.
    pub(super) window: usize,
    /// Whether the other end has ended its stream.
    pub(super) got_fin: bool,
    pub(super) receive_shut: bool,
    pub(super) send_shut: bool,
    pub(super) fin_sent: bool,
    pub(super) error: Option<i32>,
    /// Whether the stream is over in both directions, because it was reset or refused.
    pub(super) is_broken: bool,
    /// Whether the stream was reset, on Windows. Each call on the stream then fails.
    pub(super) was_aborted: bool,
    /// Whether a send found no room, so that the poller reports room as soon as it exists. Linux
    /// has the flag `SOCK_NOSPACE` for this.
    wants_room: bool,
    /// The latency of the bytes that this end sends.
    pub(super) latency: Duration,
    /// The size of the largest piece in which the bytes of this end arrive.
    pub(super) chunk: Option<usize>,
    last_arrival: Duration,
    /// The room that the other end had when it closed, and the size of its window. The value exists
    /// while this end does not know yet that the other end has closed.
    pub(super) last_room: Option<(usize, usize)>,
    /// The number of bytes in front of an urgent byte. A receive ends in front of the urgent byte.
    urgent: Option<usize>,
    /// Whether the close of this end is a reset (`SO_LINGER` of zero).
    pub(super) resets_on_close: bool,
    /// Whether a send has met the end of the connection.
    met_end: bool,
}

/// The time between the pieces of one send.
const BETWEEN_CHUNKS: Duration = Duration::from_micros(1);

impl Stream {
    pub(super) fn new(window: usize, latency: Duration) -> Stream {
        Stream {
            other: None,
            is_connecting: false,
            incoming: VecDeque::new(),
            in_flight: 0,
            window,
            got_fin: false,
            receive_shut: false,
            send_shut: false,
            fin_sent: false,
            error: None,
            is_broken: false,
            was_aborted: false,
            wants_room: false,
            latency,
            chunk: None,
            last_arrival: Duration::ZERO,
            last_room: None,
            urgent: None,
            resets_on_close: false,
            met_end: false,
        }
    }

    pub(super) fn break_with(&mut self, errno: i32) {
        self.error = Some(errno);
        self.break_off();
    }

    pub(super) fn break_off(&mut self) {
        self.is_broken = true;
        self.receive_shut = true;
        self.send_shut = true;
    }

    pub(super) fn room(&self) -> usize {
        self.window.saturating_sub(self.incoming.len() + self.in_flight)
    }

    /// Returns how ready the stream is. `room` and `window` are the room and the window of the
    /// other end.
    pub(super) fn readiness(&mut self, is_unix: bool, room: usize, window: usize) -> Readiness {
        if self.is_connecting {
            return Readiness::default();
        }
        let hung_up = self.is_broken || (self.receive_shut && self.send_shut);
        let writable = self.send_shut || is_writable(is_unix, room, window);
        if !writable && !is_unix {
            self.wants_room = true;
        }
        Readiness {
            token: 0,
            readable: !self.incoming.is_empty() || self.receive_shut,
            writable,
            read_closed: self.receive_shut,
            broken: hung_up || self.error.is_some(),
            write_closed: false,
            priority: self.urgent.is_some(),
        }
    }

    /// Returns what kqueue's `EVFILT_READ` reports (`filt_soread`), with mio's names. An urgent byte
    /// is not reported.
    pub(super) fn read_filter(&self) -> Readiness {
        if self.is_connecting {
            return Readiness::default();
        }
        Readiness {
            readable: !self.incoming.is_empty() || self.receive_shut || self.error.is_some(),
            read_closed: self.receive_shut,
            broken: self.receive_shut && self.error.is_some(),
            ..Readiness::default()
        }
    }

    /// Returns what kqueue's `EVFILT_WRITE` reports (`filt_sowrite`), with mio's names. The end of
    /// sending is reported whoever ended it.
    pub(super) fn write_filter(&self, room: usize, window: usize) -> Readiness {
        if self.is_connecting {
            return Readiness::default();
        }
        Readiness {
            writable: self.send_shut || self.error.is_some() || has_kqueue_room(room, window),
            write_closed: self.send_shut,
            broken: self.send_shut && self.error.is_some(),
            ..Readiness::default()
        }
    }

    /// Receives at most `at_most` bytes, and at most as many as `buffer` has room for. With
    /// `hides_late_reset`, a reset after the end of the stream is not returned.
    pub(super) fn receive(
        &mut self,
        at_most: usize,
        hides_late_reset: bool,
        buffer: &mut [u8],
    ) -> Sys<usize> {
        if self.urgent == Some(0) {
            self.urgent = None;
        }
        let available = self.incoming.len().min(self.urgent.unwrap_or(usize::MAX));
        if available > 0 {
            let bytes = available.min(buffer.len()).min(at_most);
            for (place, byte) in buffer.iter_mut().zip(self.incoming.drain(..bytes)) {
                *place = byte;
            }
            self.urgent = self.urgent.map(|ahead| ahead - bytes);
            return Ok(bytes);
        }
        if self.got_fin && hides_late_reset {
            return Ok(0);
        }
        if let Some(errno) = self.error.take() {
            return Err(errno);
        }
        if self.is_connecting {
            return Err(errors::EAGAIN);
        }
        if self.receive_shut { Ok(0) } else { Err(errors::EAGAIN) }
    }
}

/// Returns whether a poller reports room. Linux reports room when a third of the buffer is free,
/// and on unix-domain sockets when three quarters are free.
fn is_writable(is_unix: bool, room: usize, window: usize) -> bool {
    room > 0 && if is_unix { room * 4 >= window * 3 } else { room * 3 >= window }
}

/// Returns whether kqueue reports room: `SO_SNDLOWAT` bytes are free, which are 2,048 unless the
/// buffer is smaller.
fn has_kqueue_room(room: usize, window: usize) -> bool {
    room > 0 && room >= window.min(2048)
}

/// The state of a connected socket of the program. [`Network::probe`](super::Network::probe) and
/// [`Peer::probe_program`](super::Peer::probe_program) return this state and change nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The [key](super::Peer::key) of the other end, once the socket is connected.
    pub peer: Option<u64>,
    /// Whether data has arrived and was not received yet.
    pub has_data: bool,
    /// How many bytes are on the way to the socket.
    pub in_flight: usize,
    /// Whether the stream towards the program has ended, in order or not.
    pub has_end: bool,
    /// Whether an error is pending for the next call that reports it.
    pub has_error: bool,
    /// Whether the connection was reset or refused. The value stays `true` after a call has
    /// reported the error.
    pub is_broken: bool,
    /// Whether a send would not block.
    pub is_writable: bool,
    /// Whether the program has ended its own stream, or the connection is over.
    pub is_send_shut: bool,
    /// Whether a poller watches the socket.
    pub is_watched: bool,
}

impl Kernel {
    pub(super) fn probe(&mut self, fd: usize) -> Option<Probe> {
        let end = self.end_of(fd)?;
        let (room, window) = (self.room(end), self.window_of_other(end));
        let system = self.system;
        let is_unix = self.socket(end)?.is_unix;
        let is_watched = self.is_watched(end);
        let has_room = match system.has_kqueue() {
            true => has_kqueue_room(room, window),
            false if system.has_afd() => room > 0,
            false => is_writable(is_unix, room, window),
        };
        let stream = self.stream(end)?;
        Some(Probe {
            is_watched,
            peer: stream.other.map(|other| other.serial),
            has_data: !stream.incoming.is_empty(),
            in_flight: stream.in_flight,
            has_end: stream.receive_shut,
            has_error: stream.error.is_some() || stream.was_aborted,
            is_broken: stream.is_broken,
            is_writable: stream.send_shut || has_room,
            is_send_shut: stream.send_shut,
        })
    }

    /// Returns how many bytes the other end would take now, as far as this end knows. This end does
    /// not know that the other end has closed before the FIN or the reset arrives.
    pub(super) fn room(&mut self, end: End) -> usize {
        let Some(stream) = self.stream(end) else { return 0 };
        let (other, last) =
            (stream.other, stream.last_room.map_or(stream.window, |(room, _)| room));
        other.and_then(|other| self.stream(other)).map_or(last, |other| other.room())
    }

    pub(super) fn window_of_other(&mut self, end: End) -> usize {
        let Some(stream) = self.stream(end) else { return 0 };
        let window = stream.last_room.map_or(stream.window, |(_, window)| window);
        let other = stream.other;
        other.and_then(|other| self.stream(other)).map_or(window, |other| other.window)
    }

    /// Copies what is next in the stream. Returns `None` if there is nothing; the next receive says
    /// why.
    pub(super) fn peek(&mut self, end: End, buffer: &mut [u8]) -> Option<usize> {
        let Kind::Stream(stream) = &self.socket(end)?.kind else { return None };
        let next = stream.incoming.iter().take(stream.urgent.unwrap_or(usize::MAX));
        let copied = buffer.iter_mut().zip(next).map(|(place, byte)| *place = *byte).count();
        (copied > 0).then_some(copied)
    }

    pub(super) fn recv(&mut self, end: End, buffer: &mut [u8]) -> Sys<usize> {
        self.fault(Some(end), Call::Recv)?;
        let received = self.recv_now(end, buffer);
        if received == Err(errors::EAGAIN) {
            self.rearm(end);
        }
        received
    }

    fn recv_now(&mut self, end: End, buffer: &mut [u8]) -> Sys<usize> {
        if self.system.has_afd() {
            self.winsock_recv_fails(end)?;
        }
        let at_most = self.longest_receive(end);
        let receive_returns_late_reset = self.system.receive_returns_late_reset();
        let socket = self.socket(end).ok_or(errors::EBADF)?;
        let hides_late_reset = !socket.is_unix && !receive_returns_late_reset;
        match &mut socket.kind {
            Kind::Stream(stream) => {
                let received = stream.receive(at_most, hides_late_reset, buffer)?;
                let other = stream.other;
                if let Some(other) = other.filter(|_| received > 0) {
                    self.there_is_room(other);
                }
                Ok(received)
            }
            Kind::Scripted(script) => {
                let received = script.recv_now(buffer);
                if script.goes_on_after(&received) {
                    self.tell(end);
                }
                received
            }
            Kind::Fresh | Kind::Listener(_) => Err(errors::ENOTCONN),
        }
    }

    /// Returns the most bytes that a receive takes. A receive on a real unix-domain socket may end
    /// before all data is received, for example at ancillary data. In this double, the receive ends
    /// where a piece of the sender ends.
    fn longest_receive(&mut self, end: End) -> usize {
        let is_unix = self.socket(end).is_some_and(|socket| socket.is_unix);
        let other = self.stream(end).and_then(|stream| stream.other).filter(|_| is_unix);
        let chunk = other.and_then(|other| self.stream(other)).and_then(|other| other.chunk);
        chunk.map_or(usize::MAX, |chunk| chunk.max(1))
    }

    /// Reports that the window of `of`'s other end has opened.
    pub(super) fn there_is_room(&mut self, of: End) {
        let (room, window) = (self.room(of), self.window_of_other(of));
        // kqueue has no flag like Linux's `SOCK_NOSPACE`: each acknowledgement may cause an event.
        if self.system.has_kqueue() {
            if has_kqueue_room(room, window) {
                self.tell_write(of);
            }
            return;
        }
        if self.system.has_afd() {
            return self.tell_write(of);
        }
        let Some(is_unix) = self.socket(of).map(|socket| socket.is_unix) else { return };
        let Some(stream) = self.stream(of) else { return };
        if is_writable(is_unix, room, window) && (is_unix || stream.wants_room) {
            stream.wants_room = false;
            self.tell(of);
        }
    }

    pub(super) fn send(&mut self, end: End, data: &[u8]) -> Sys<usize> {
        self.fault(Some(end), Call::Send)?;
        let sent = self.send_now(end, data);
        if sent == Err(errors::EAGAIN) {
            self.rearm(end);
        }
        sent
    }

    fn send_now(&mut self, end: End, data: &[u8]) -> Sys<usize> {
        if self.system.has_afd() {
            self.winsock_send_fails(end)?;
        }
        let room = self.room(end);
        let (elapsed, system) = (self.elapsed, self.system);
        let socket = self.socket(end).ok_or(errors::EBADF)?;
        let is_unix = socket.is_unix;
        let stream = match &mut socket.kind {
            Kind::Stream(stream) => stream,
            Kind::Scripted(script) => {
                let (has_room, sent) = (script.has_room(), script.send_now(data));
                if has_room && sent != Ok(data.len()) {
                    self.tell(end);
                }
                return sent;
            }
            Kind::Fresh | Kind::Listener(_) => return Err(errors::EPIPE),
        };
        if stream.is_broken
            && system.send_returns_prototype()
            && !std::mem::replace(&mut stream.met_end, true)
        {
            return Err(errors::EPROTOTYPE);
        }
        // A send leaves the error to the next receive: on the BSDs, and on a unix-domain socket
        // everywhere.
        if stream.send_shut && (is_unix || system.receive_returns_late_reset()) {
            return Err(errors::EPIPE);
        }
        if let Some(errno) = stream.error.take() {
            return Err(errno);
        }
        if stream.send_shut {
            return Err(errors::EPIPE);
        }
        if data.is_empty() {
            return Ok(0);
        }
        let Some(other) = stream.other else { return Err(errors::EAGAIN) };
        let sent = data.len().min(room);
        if sent < data.len() {
            stream.wants_room = true;
        }
        if sent == 0 {
            return Err(errors::EAGAIN);
        }
        stream.last_room = stream.last_room.map(|(room, of)| (room - sent.min(room), of));
        let chunk = stream.chunk.unwrap_or(sent).max(1);
        let (mut at, is_cut) = (stream.next_arrival(elapsed), chunk < sent);
        let pieces: Vec<Vec<u8>> = data[..sent].chunks(chunk).map(<[u8]>::to_vec).collect();
        for bytes in pieces {
            if is_cut {
                at += BETWEEN_CHUNKS;
            }
            if let Some(other) = self.stream(other) {
                other.in_flight += bytes.len();
            }
            self.on_wire(end, other, at, Arrival::Data { from: end, bytes });
        }
        Ok(sent)
    }

    pub(super) fn send_urgent(&mut self, end: End) {
        let elapsed = self.elapsed;
        let Some(stream) = self.stream(end).filter(|stream| !stream.send_shut) else { return };
        let (at, Some(other)) = (stream.next_arrival(elapsed), stream.other) else { return };
        self.on_wire(end, other, at, Arrival::Urgent);
    }

    /// Puts an arrival behind everything that is already on this wire. Delivers the arrival at once
    /// if nothing delays it.
    pub(super) fn on_wire(&mut self, from: End, to: End, at: Duration, arrival: Arrival) {
        if let Some(stream) = self.stream(from) {
            stream.last_arrival = at;
        }
        if at <= self.elapsed {
            self.arrive(to, arrival);
        } else {
            self.put_on_wire(at, to, arrival);
        }
    }

    pub(super) fn arrive(&mut self, to: End, arrival: Arrival) {
        let (system, has_kqueue) = (self.system, self.system.has_kqueue());
        let is_unix = self.socket(to).is_some_and(|socket| socket.is_unix);
        if system.has_afd() && matches!(arrival, Arrival::Data { .. }) && self.refuses_data(to) {
            return self.abort(to);
        }
        let Some(stream) = self.stream(to) else {
            // The receiving socket no longer exists. The reset that answers arrives after
            // everything that was sent earlier.
            if let Arrival::Data { from, .. } = arrival {
                let latency = self.stream(from).map_or(Duration::ZERO, |from| from.latency);
                let at = self.last_arrival_at(from).max(self.elapsed + latency);
                self.later_or_now(from, at, Arrival::Reset);
            }
            return;
        };
        match arrival {
            Arrival::Data { bytes, .. } => {
                stream.in_flight = stream.in_flight.saturating_sub(bytes.len());
                if !stream.is_broken {
                    stream.incoming.extend(bytes);
                }
            }
            Arrival::Urgent => {
                stream.urgent = Some(stream.incoming.len());
                if !system.reports_urgent_data() {
                    return;
                }
            }
            Arrival::Fin => {
                stream.got_fin = true;
                stream.receive_shut = true;
                let other = stream.other;
                // On the BSDs, the close of a unix-domain peer ends both directions at once
                // (`soisdisconnected`).
                if has_kqueue && is_unix && other.is_none_or(|other| self.stream(other).is_none()) {
                    if let Some(stream) = self.stream(to) {
                        stream.send_shut = true;
                    }
                    self.tell_write(to);
                }
            }
            Arrival::Reset => return self.got_reset(to),
            Arrival::Request { .. } | Arrival::Spurious => {}
        }
        self.tell_read(to);
    }

    fn got_reset(&mut self, end: End) {
        let is_unix = self.socket(end).is_some_and(|socket| socket.is_unix);
        let returns_late_reset = self.system.receive_returns_late_reset();
        let has_afd = self.system.has_afd();
        let Some(stream) = self.stream(end).filter(|stream| !stream.is_broken) else { return };
        if has_afd {
            stream.was_reset();
            return self.tell(end);
        }
        // Only TCP on Linux has another error for a reset that comes after the end of the stream.
        let is_late = stream.got_fin && !is_unix && !returns_late_reset;
        stream.break_with(if is_late { errors::EPIPE } else { errors::ECONNRESET });
        self.tell(end);
    }

    pub(super) fn shutdown_write(&mut self, end: End) -> Sys<()> {
        let (elapsed, refuses_second) = (self.elapsed, self.system.refuses_second_shutdown());
        let stream = self.stream(end).ok_or(errors::ENOTCONN)?;
        if stream.is_broken || (refuses_second && stream.send_shut) {
            return Err(errors::ENOTCONN);
        }
        stream.send_shut = true;
        let is_first = !std::mem::replace(&mut stream.fin_sent, true);
        let (at, other) = (stream.next_arrival(elapsed), stream.other);
        if let Some(other) = other.filter(|_| is_first) {
            self.on_wire(end, other, at, Arrival::Fin);
        }
        if self.system.has_kqueue() {
            self.tell_write(end);
        } else {
            self.tell(end);
        }
        Ok(())
    }

    pub(super) fn shutdown_read(&mut self, end: End) -> Sys<()> {
        let refuses_second = self.system.refuses_second_shutdown();
        let stream = self.stream(end).ok_or(errors::ENOTCONN)?;
        if stream.is_broken || (refuses_second && stream.receive_shut) {
            return Err(errors::ENOTCONN);
        }
        stream.receive_shut = true;
        self.tell_read(end);
        Ok(())
    }

    pub(super) fn shutdown_both(&mut self, end: End) -> Sys<()> {
        let stream = self.stream(end).ok_or(errors::ENOTCONN)?;
        let has_ended = stream.receive_shut || stream.send_shut;
        if has_ended && self.system.refuses_second_shutdown() {
            return Err(errors::ENOTCONN);
        }
        if self.system.has_afd() && self.has_unread(end) {
            self.abort(end);
            return Ok(());
        }
        self.shutdown_write(end)?;
        if let Some(stream) = self.stream(end) {
            stream.receive_shut = true;
        }
        self.tell(end);
        Ok(())
    }

    /// Applies the effect that the close or reset of an end has on the other end.
    pub(super) fn stream_closed(&mut self, stream: &Stream) {
        let Some(other) = stream.other else { return };
        let at = stream.next_arrival(self.elapsed);
        if let Some(other) = self.stream(other) {
            other.last_room = Some((stream.room(), stream.window));
        }
        if stream.is_broken {
            return;
        }
        // Unread data makes the close a reset, so that the other end learns that the data is lost.
        let resets_unread = self.system.close_resets_unread() && !stream.incoming.is_empty();
        if resets_unread || stream.resets_on_close {
            return self.later_or_now(other, at, Arrival::Reset);
        }
        if !stream.fin_sent {
            self.later_or_now(other, at, Arrival::Fin);
        }
        let ends_at_once = !self.system.has_kqueue() || stream.fin_sent;
        let is_unix = self.socket(other).is_some_and(|socket| socket.is_unix) && ends_at_once;
        if let Some(stream) = self.stream(other).filter(|_| is_unix) {
            stream.send_shut = true;
            self.tell(other);
        }
    }

    pub(super) fn reset(&mut self, end: End) {
        let elapsed = self.elapsed;
        let Some(stream) = self.stream(end) else { return };
        let (at, room, other) =
            (stream.next_arrival(elapsed), (stream.room(), stream.window), stream.other.take());
        if let Some(other) = other {
            if let Some(other) = self.stream(other) {
                other.last_room = Some(room);
            }
            self.later_or_now(other, at, Arrival::Reset);
        }
        self.close(end);
    }

    pub(super) fn reset_other_of(&mut self, end: End) {
        if let Some(other) = self.stream(end).and_then(|stream| stream.other.take()) {
            let at = self.elapsed;
            self.later_or_now(other, at, Arrival::Reset);
        }
    }

    pub(super) fn later_or_now(&mut self, to: End, at: Duration, arrival: Arrival) {
        if at <= self.elapsed {
            self.arrive(to, arrival);
        } else {
            self.put_on_wire(at, to, arrival);
        }
    }
}

impl Stream {
    /// Returns when bytes that are sent now arrive. Later bytes do not overtake earlier bytes.
    pub(super) fn next_arrival(&self, now: Duration) -> Duration {
        self.last_arrival.max(now + self.latency)
    }
}
