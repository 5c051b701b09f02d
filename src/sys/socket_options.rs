//! Options of sockets beyond those that the library always sets: plain data, usable on any thread,
//! without a lock.

use std::{fmt, io, sync::Arc, time::Duration};

use super::{BorrowedSocket, Sock};

/// Options of a connection's socket, or of a listener's.
/// [`ConnectOptions::socket_options`](crate::ConnectOptions::socket_options) and
/// [`SockMan::bind_and_start_listening_with`](crate::SockMan::bind_and_start_listening_with) take
/// them. An option that is not set keeps the system's default.
///
/// The library sets the options on a new socket, before `bind`, `connect` and `listen`. Through a
/// proxy, the socket is the one to the proxy. Over I2P, it is the socket of the connection to the
/// SAM bridge, and not the control socket of the session.
///
/// The connections that a listener accepts have the same options. On Linux and Android, the kernel
/// copies the listener's options. On other systems, the library sets the keepalive and the DSCP
/// value on each accepted connection, and the kernel copies the sizes of the buffers.
///
/// On a unix-domain socket, only [`send_buffer`](SocketOptions::send_buffer),
/// [`receive_buffer`](SocketOptions::receive_buffer) and [`custom`](SocketOptions::custom) apply.
/// The other options are about TCP and IP, and the library skips them there.
///
/// # Errors
///
/// Setters take any value. The connect or the bind fails with
/// [`ConnectErrorKind::SocketOption`](crate::error::ConnectErrorKind::SocketOption) or
/// [`BindErrorKind::SocketOption`](crate::error::BindErrorKind::SocketOption), which names the
/// option, if the value is out of its range ([`io::ErrorKind::InvalidInput`]), if the system does
/// not have the option ([`io::ErrorKind::Unsupported`]), or if the system refuses it.
///
/// # Examples
///
/// ```
/// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use sockman::{ConnectOptions, options::SocketOptions};
///
/// // A peer whose cable is pulled is noticed within a minute, idle or not.
/// let socket = SocketOptions::default()
///     .keepalive_idle(Duration::from_secs(30))
///     .keepalive_interval(Duration::from_secs(10))
///     .keepalive_count(3)
///     .user_timeout(Duration::from_secs(60));
/// sockman.bind_and_start_listening_with("127.0.0.1:0", &socket)?;
/// let options = ConnectOptions::default().socket_options(socket);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct SocketOptions {
    keepalive: Keepalive,
    user_timeout: Option<Duration>,
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
    notsent_lowat: Option<u32>,
    dscp: Option<u8>,
    interface: Option<String>,
    custom: Option<Arc<Custom>>,
}

type Custom = dyn Fn(BorrowedSocket<'_>) -> io::Result<()> + Send + Sync;

#[derive(Debug, Clone, Copy, Default)]
struct Keepalive {
    idle: Option<Duration>,
    interval: Option<Duration>,
    count: Option<u32>,
}

/// The longest time-out: Linux refuses more milliseconds than fit into an `i32` (24 days).
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);
/// The longest times and the most probes that Linux takes for a keepalive.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MOST_PROBES: u32 = 127;
/// The largest buffer that fits into the `int` that the system takes.
const LARGEST_BUFFER: usize = i32::MAX as usize;
/// A DSCP value has six bits (RFC 2474).
const LARGEST_DSCP: u8 = 63;

impl SocketOptions {
    /// Turns keepalive on, and sets after which time without data from the peer the kernel sends
    /// the first probe (`SO_KEEPALIVE`, `TCP_KEEPIDLE`; `TCP_KEEPALIVE` on macOS). Unit: whole
    /// seconds, a fraction is cut off. Default: no keepalive. The default of the time, if another
    /// setter turns keepalive on, is the system's, two hours on most.
    ///
    /// Keepalive notices that the peer's host is gone, for example because a cable was pulled, on a
    /// connection on which this side sends nothing. After
    /// [`keepalive_count`](SocketOptions::keepalive_count) probes without an answer,
    /// [`event_got_permanent_read_error`](crate::EventHandler::event_got_permanent_read_error)
    /// reports [`io::ErrorKind::TimedOut`], or [`io::ErrorKind::ConnectionReset`] on Windows. While
    /// sent data has no acknowledgement, the kernel sends no probes:
    /// [`user_timeout`](SocketOptions::user_timeout) limits that time. A live peer's kernel answers
    /// the probes, even if its program hangs.
    ///
    /// Range: 1 to 32,767 seconds. OpenBSD has no such option for one socket.
    #[doc(alias("SO_KEEPALIVE", "TCP_KEEPIDLE"))]
    pub fn keepalive_idle(mut self, time: Duration) -> SocketOptions {
        self.keepalive.idle = Some(time);
        self
    }

    /// Turns keepalive on, and sets the time between two probes (`TCP_KEEPINTVL`). Unit: whole
    /// seconds, a fraction is cut off. The system's default is 75 seconds on most. Range: 1 to
    /// 32,767 seconds. OpenBSD has no such option for one socket.
    #[doc(alias = "TCP_KEEPINTVL")]
    pub fn keepalive_interval(mut self, time: Duration) -> SocketOptions {
        self.keepalive.interval = Some(time);
        self
    }

    /// Turns keepalive on, and sets after how many probes without an answer the kernel ends the
    /// connection (`TCP_KEEPCNT`). The system's default is 8 or 9 on most. With a
    /// [`user_timeout`](SocketOptions::user_timeout), Linux ends the connection at that time
    /// instead, and the count has no effect. Range: 1 to 127. OpenBSD has no such option for one
    /// socket.
    #[doc(alias = "TCP_KEEPCNT")]
    pub fn keepalive_count(mut self, probes: u32) -> SocketOptions {
        self.keepalive.count = Some(probes);
        self
    }

    /// Sets how long sent data may stay without an acknowledgement, and data in the kernel's buffer
    /// unsent because the peer takes nothing, before the kernel ends the connection
    /// (`TCP_USER_TIMEOUT`). Unit: milliseconds. Default: the system's, about 15 minutes on Linux
    /// for data without an acknowledgement, and no limit for a peer that takes nothing.
    ///
    /// [`event_got_permanent_read_error`](crate::EventHandler::event_got_permanent_read_error)
    /// reports the end as [`io::ErrorKind::TimedOut`], or as
    /// [`io::ErrorKind::HostUnreachable`] if a router said so. The time-out ends a connection whose
    /// peer is alive but does not read for so long.
    ///
    /// Range: 1 ms to 2,147,483,647 ms. Linux and Android only; elsewhere the call fails with
    /// [`io::ErrorKind::Unsupported`].
    #[doc(alias = "TCP_USER_TIMEOUT")]
    pub fn user_timeout(mut self, time: Duration) -> SocketOptions {
        self.user_timeout = Some(time);
        self
    }

    /// Sets the size of the kernel's send buffer, in bytes (`SO_SNDBUF`). Default: the system
    /// adapts the size to the connection (on Linux from 16 KiB up to 4 MiB, `tcp_wmem`).
    ///
    /// A set size is no longer adapted. Linux doubles the size for its own bookkeeping, and
    /// silently takes at most `net.core.wmem_max`. Range: 1 to 2,147,483,647 bytes.
    #[doc(alias = "SO_SNDBUF")]
    pub fn send_buffer(mut self, bytes: usize) -> SocketOptions {
        self.send_buffer = Some(bytes);
        self
    }

    /// Sets the size of the kernel's receive buffer, in bytes (`SO_RCVBUF`). Default: the system
    /// adapts the size to the connection (on Linux from 128 KiB up to 6 MiB and more, `tcp_rmem`).
    ///
    /// The size limits the window that TCP offers to the peer. The library sets the size before
    /// `connect` and `listen`, because TCP agrees on the scale of the window at the beginning of a
    /// connection. A set size is no longer adapted. Linux doubles the size for its own bookkeeping,
    /// and silently takes at most `net.core.rmem_max`. Range: 1 to 2,147,483,647 bytes.
    #[doc(alias = "SO_RCVBUF")]
    pub fn receive_buffer(mut self, bytes: usize) -> SocketOptions {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Sets how many bytes that are not sent yet the kernel takes (`TCP_NOTSENT_LOWAT`). Default:
    /// the system's, on Linux no limit other than the send buffer.
    ///
    /// By default, Linux reports room to send only when a third of the send buffer is free. With a
    /// buffer of 4 MiB, a slow reader takes more than a megabyte between two calls of
    /// [`event_ready_to_send`](crate::EventHandler::event_ready_to_send), and looks idle meanwhile.
    /// With this option, Linux reports room as soon as less than half of `bytes` is unsent. So the
    /// embedder sees the progress of a slow reader within `bytes`, decides late what to send next,
    /// and keeps a full window under way all the same. The price is more calls: about one for each
    /// half of `bytes`. A good value is 16 KiB to 128 KiB.
    ///
    /// Range: 1 to 2,147,483,647 bytes. Linux and Android only; elsewhere the call fails with
    /// [`io::ErrorKind::Unsupported`].
    #[doc(alias = "TCP_NOTSENT_LOWAT")]
    pub fn notsent_lowat(mut self, bytes: u32) -> SocketOptions {
        self.notsent_lowat = Some(bytes);
        self
    }

    /// Sets the DSCP value of the packets, which tells routers how to treat them: the upper six bits
    /// of `IP_TOS` for IPv4, and of `IPV6_TCLASS` for IPv6. Default: 0, best effort. Examples: 8 for
    /// bulk data of low priority (CS1), 46 for expedited forwarding (EF).
    ///
    /// Range: 0 to 63.
    #[doc(alias("IP_TOS", "IPV6_TCLASS"))]
    pub fn dscp(mut self, value: u8) -> SocketOptions {
        self.dscp = Some(value);
        self
    }

    /// Binds the socket to a network interface, for example `"eth0"` (`SO_BINDTODEVICE`). All its
    /// packets leave through the interface and come in through it. Default: the routing table
    /// decides.
    ///
    /// Unlike a source address ([`ConnectOptions::bind`](crate::ConnectOptions::bind)), the
    /// interface keeps packets from leaving through another one when the route changes, for example
    /// when a VPN goes down.
    ///
    /// Linux and Android only; elsewhere the call fails with [`io::ErrorKind::Unsupported`]. An
    /// interface that does not exist is `ENODEV`. Before Linux 5.7, the process needs
    /// `CAP_NET_RAW`.
    #[doc(alias = "SO_BINDTODEVICE")]
    pub fn interface(mut self, name: impl Into<String>) -> SocketOptions {
        self.interface = Some(name.into());
        self
    }

    /// Sets a function that sets whatever else the socket needs. The library calls the function
    /// once for each new socket, after all other options, and before `bind`, `connect` and
    /// `listen`, on the thread that connects or binds. No lock is held. An error of the function
    /// ends the connect or the bind. Default: none.
    ///
    /// The function gets the descriptor, from which `socket2::SockRef::from` makes a socket with
    /// typed setters. The function must not make the descriptor blocking. The library does not call
    /// the function for accepted connections. A socket of a test double has no descriptor, so there
    /// the call fails with [`io::ErrorKind::Unsupported`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(target_os = "linux")]
    /// # fn f() {
    /// use socket2::SockRef;
    /// use sockman::options::SocketOptions;
    ///
    /// let options = SocketOptions::default()
    ///     .custom(|socket| SockRef::from(&socket).set_tcp_congestion(b"cubic"));
    /// # }
    /// ```
    pub fn custom(
        mut self,
        set: impl Fn(BorrowedSocket<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> SocketOptions {
        self.custom = Some(Arc::new(set));
        self
    }

    /// Returns the options that are set, in the order in which they are applied.
    fn set(&self) -> impl Iterator<Item = SocketOption<'_>> {
        let Keepalive { idle, interval, count } = self.keepalive;
        let has_keepalive = idle.is_some() || interval.is_some() || count.is_some();
        [
            self.interface.as_deref().map(SocketOption::Interface),
            self.send_buffer.map(SocketOption::SendBuffer),
            self.receive_buffer.map(SocketOption::ReceiveBuffer),
            has_keepalive.then_some(SocketOption::Keepalive { idle, interval, count }),
            self.user_timeout.map(SocketOption::UserTimeout),
            self.notsent_lowat.map(SocketOption::NotsentLowat),
            self.dscp.map(SocketOption::Dscp),
            self.custom.as_deref().map(SocketOption::Custom),
        ]
        .into_iter()
        .flatten()
    }

    /// Sets the options on a socket that is neither bound nor connected.
    ///
    /// # Errors
    ///
    /// Returns the first option that cannot be set.
    pub(crate) fn apply(&self, sock: &dyn Sock, is_unix: bool) -> Result<(), OptionError> {
        for option in self.set().filter(|option| !is_unix || option.is_for_unix()) {
            let set = option.validate().and_then(|()| sock.set_option(&option));
            set.map_err(|source| OptionError { option: option.name(), source })?;
        }
        Ok(())
    }

    /// Sets the options that the system does not copy from a listener to an accepted connection.
    /// Linux copies all of them.
    pub(crate) fn apply_to_accepted(
        &self,
        sock: &dyn Sock,
        is_unix: bool,
    ) -> Result<(), OptionError> {
        if cfg!(any(target_os = "linux", target_os = "android")) {
            return Ok(());
        }
        let SocketOptions { keepalive, dscp, .. } = self;
        SocketOptions { keepalive: *keepalive, dscp: *dscp, ..SocketOptions::default() }
            .apply(sock, is_unix)
    }
}

impl fmt::Debug for SocketOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.set()).finish()
    }
}

/// An option that could not be set.
#[derive(Debug)]
pub(crate) struct OptionError {
    /// The name of the option in the system's manual pages.
    pub(crate) option: &'static str,
    pub(crate) source: io::Error,
}

/// One option of a socket, for [`Sock::set_option`]. [`SocketOptions`] documents the options.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum SocketOption<'a> {
    /// `SO_KEEPALIVE`, and what is set of `TCP_KEEPIDLE`, `TCP_KEEPINTVL` and `TCP_KEEPCNT`.
    Keepalive {
        /// The time without data before the first probe.
        idle: Option<Duration>,
        /// The time between two probes.
        interval: Option<Duration>,
        /// The number of probes.
        count: Option<u32>,
    },
    /// `TCP_USER_TIMEOUT`.
    UserTimeout(Duration),
    /// `SO_SNDBUF`, in bytes.
    SendBuffer(usize),
    /// `SO_RCVBUF`, in bytes.
    ReceiveBuffer(usize),
    /// `TCP_NOTSENT_LOWAT`, in bytes.
    NotsentLowat(u32),
    /// The DSCP value: the upper six bits of `IP_TOS` or `IPV6_TCLASS`.
    Dscp(u8),
    /// `SO_BINDTODEVICE`.
    Interface(&'a str),
    /// The function of [`SocketOptions::custom`].
    Custom(&'a (dyn Fn(BorrowedSocket<'_>) -> io::Result<()> + Send + Sync)),
}

impl SocketOption<'_> {
    /// Returns the name of the option in the system's manual pages. The name of a function is
    /// `SocketOptions::custom`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            SocketOption::Keepalive { .. } => "SO_KEEPALIVE",
            SocketOption::UserTimeout(_) => "TCP_USER_TIMEOUT",
            SocketOption::SendBuffer(_) => "SO_SNDBUF",
            SocketOption::ReceiveBuffer(_) => "SO_RCVBUF",
            SocketOption::NotsentLowat(_) => "TCP_NOTSENT_LOWAT",
            SocketOption::Dscp(_) => "IP_TOS",
            SocketOption::Interface(_) => "SO_BINDTODEVICE",
            SocketOption::Custom(_) => "SocketOptions::custom",
        }
    }

    fn is_for_unix(&self) -> bool {
        matches!(
            self,
            SocketOption::SendBuffer(_) | SocketOption::ReceiveBuffer(_) | SocketOption::Custom(_)
        )
    }

    /// Checks the range of the value. Some systems cut a value that is out of range, and a value of
    /// zero has another meaning for some options.
    fn validate(&self) -> io::Result<()> {
        let seconds = |time: &Duration| (Duration::from_secs(1)..=LONGEST_KEEPALIVE).contains(time);
        let (is_in_range, requirement) = match self {
            SocketOption::Keepalive { idle, interval, count } => (
                [idle, interval].into_iter().flatten().all(seconds)
                    && count.is_none_or(|count| (1..=MOST_PROBES).contains(&count)),
                "the times must be from 1 to 32767 seconds, and the count from 1 to 127",
            ),
            SocketOption::UserTimeout(time) => (
                (Duration::from_millis(1)..=LONGEST_USER_TIMEOUT).contains(time),
                "the time must be from 1 to 2147483647 ms",
            ),
            SocketOption::SendBuffer(bytes) | SocketOption::ReceiveBuffer(bytes) => (
                (1..=LARGEST_BUFFER).contains(bytes),
                "the size must be from 1 to 2147483647 bytes",
            ),
            SocketOption::NotsentLowat(bytes) => (
                i32::try_from(*bytes).is_ok_and(|bytes| bytes > 0),
                "the value must be from 1 to 2147483647 bytes",
            ),
            SocketOption::Dscp(value) => {
                (*value <= LARGEST_DSCP, "the DSCP value must be from 0 to 63")
            }
            // The kernel cuts a longer name off, and an empty name removes the binding.
            SocketOption::Interface(name) => (
                (1..=LONGEST_INTERFACE).contains(&name.len()) && !name.contains('\0'),
                "the name of the interface must have 1 to 15 bytes, and no NUL byte",
            ),
            SocketOption::Custom(_) => (true, ""),
        };
        if is_in_range {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, requirement))
    }
}

/// The longest name of an interface on Linux (`IFNAMSIZ` less the terminator).
const LONGEST_INTERFACE: usize = 15;

impl fmt::Debug for SocketOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            SocketOption::Keepalive { idle, interval, count } => {
                write!(f, "(idle {idle:?}, interval {interval:?}, count {count:?})")
            }
            SocketOption::UserTimeout(time) => write!(f, "({time:?})"),
            SocketOption::SendBuffer(bytes) | SocketOption::ReceiveBuffer(bytes) => {
                write!(f, "({bytes})")
            }
            SocketOption::NotsentLowat(bytes) => write!(f, "({bytes})"),
            SocketOption::Dscp(value) => write!(f, "(DSCP {value})"),
            SocketOption::Interface(name) => write!(f, "({name:?})"),
            SocketOption::Custom(_) => Ok(()),
        }
    }
}
