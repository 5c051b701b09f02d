//! Server-sent events (the HTML standard, section 9.2): an answer of unlimited length. Any thread
//! can push events.

use std::{error::Error, fmt};

use sockman::{ConnectionId, helpers::PushError, stateful::Remote};

use super::{
    connection::{Connection, Flight, Phase},
    response::{self, Afterwards, Encoded},
};

/// The most unsent bytes of a client when the next event comes. A client with more has fallen
/// behind and is disconnected; it can reconnect. One event may be longer.
pub const MAX_UNREAD: usize = 256 * 1024;

/// A stream of events to one client. Dropping it ends the stream in order.
#[derive(Debug)]
pub struct EventStream {
    outlet: Box<dyn EventOutlet>,
    /// `false` for HTTP/1.0, which has no chunks. In HTTP/1.0 the end of the connection ends the
    /// stream.
    is_chunked: bool,
}

/// The way from an event stream to its client. Each kind of server has its own. Any thread calls
/// these methods.
pub trait EventOutlet: fmt::Debug + Send + Sync {
    /// Sends bytes without waiting for the client.
    ///
    /// # Errors
    ///
    /// The client has left, or has left more than [`MAX_UNREAD`] bytes unread and is disconnected.
    fn send(&self, bytes: Vec<u8>) -> Result<(), StreamClosed>;

    /// Sends the last bytes, and ends the connection in order.
    fn end(&self, last: &'static [u8]);
}

/// The error returned when the client of an event stream has left or was disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamClosed;

impl fmt::Display for StreamClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client of this event stream is gone")
    }
}

impl Error for StreamClosed {}

impl EventStream {
    /// Returns a stream over `outlet`, whose client has been sent the [`head`](Self::head).
    pub fn over(outlet: Box<dyn EventOutlet>, is_http_1_0: bool) -> EventStream {
        EventStream { outlet, is_chunked: !is_http_1_0 }
    }

    /// Returns the head of the answer whose body is the stream.
    pub fn head(is_http_1_0: bool) -> Vec<u8> {
        let mut bytes = response::head(200, "text/event-stream", Afterwards::Stream);
        bytes.extend_from_slice(b"Cache-Control: no-store\r\n");
        if !is_http_1_0 {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// Sends an event without waiting for the client. May be called from any thread.
    ///
    /// # Errors
    ///
    /// Returns [`StreamClosed`] if the client has left or has fallen behind. Nothing more can be
    /// sent on this stream.
    pub fn send(&self, event: &str, data: &str) -> Result<(), StreamClosed> {
        let mut text = format!("event: {event}\n");
        // A browser also takes a lone carriage return as the end of a line.
        for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
            text += "data: ";
            text += line;
            text.push('\n');
        }
        text.push('\n');
        if self.is_chunked {
            text = format!("{:x}\r\n{text}\r\n", text.len());
        }
        self.outlet.send(text.into_bytes())
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.outlet.end(if self.is_chunked { b"0\r\n\r\n" } else { b"" });
    }
}

/// The way to a client without TLS.
#[derive(Debug)]
struct Plain {
    remote: Remote<Connection>,
}

/// Sends the head of a stream to a client without TLS.
///
/// # Errors
///
/// The connection is closed or broken.
pub(super) fn begin(
    remote: &Remote<Connection>,
    flight: &Flight,
    is_http_1_0: bool,
) -> Result<EventStream, PushError> {
    let (bytes, afterwards) = (EventStream::head(is_http_1_0), Afterwards::Stream);
    let plain = Plain { remote: remote.clone() };
    // From here on, an error drops the stream, and the drop ends it.
    let stream = EventStream::over(Box::new(plain), is_http_1_0);
    flight.send(&Encoded { bytes, afterwards }, |bytes| remote.push(bytes))?;
    remote.wake();
    Ok(stream)
}

impl EventOutlet for Plain {
    fn send(&self, bytes: Vec<u8>) -> Result<(), StreamClosed> {
        if self.remote.queue().queued() > MAX_UNREAD {
            log_unread(self.remote.id());
            self.remote.close();
        }
        self.remote.push(&bytes).map_err(|_| StreamClosed)
    }

    fn end(&self, last: &'static [u8]) {
        // If the client is gone, nothing is left to do.
        let _ = self.remote.run(move |link, connection| {
            connection.take_sent(false);
            let _ = link.push(last);
            connection.is_active();
            connection.phase = Phase::Closing;
        });
    }
}

/// Logs that a client has fallen behind.
pub fn log_unread(id: ConnectionId) {
    log::debug!("closing event stream {id}: the client leaves more than {MAX_UNREAD} bytes unread");
}
