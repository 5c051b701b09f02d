//! Server-sent events (the HTML standard, section 9.2): an answer of unlimited length. Any thread
//! can push events.

use std::{error::Error, fmt};

use sockman::{helpers::PushError, stateful::Remote};

use super::{
    connection::{Connection, Flight, Phase},
    response::{self, Afterwards, Encoded},
};

/// The most unsent bytes of a client when the next event comes. A client with more has fallen
/// behind and is disconnected; it can reconnect. One event may be longer.
const MAX_UNREAD: usize = 256 * 1024;

/// A stream of events to one client. Dropping it ends the stream in order.
#[derive(Debug)]
pub struct EventStream {
    remote: Remote<Connection>,
    /// `false` for HTTP/1.0, which has no chunks. In HTTP/1.0 the end of the connection ends the
    /// stream.
    is_chunked: bool,
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
    /// Sends the head of a stream.
    ///
    /// # Errors
    ///
    /// The connection is closed or broken.
    pub(super) fn begin(
        remote: Remote<Connection>,
        flight: &Flight,
        is_http_1_0: bool,
    ) -> Result<EventStream, PushError> {
        let is_chunked = !is_http_1_0;
        let afterwards = Afterwards::Stream;
        let mut bytes = response::head(200, "text/event-stream", afterwards);
        bytes.extend_from_slice(b"Cache-Control: no-store\r\n");
        if is_chunked {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        let stream = EventStream { remote, is_chunked };
        flight.send(&Encoded { bytes, afterwards }, |bytes| stream.remote.push(bytes))?;
        stream.remote.wake();
        Ok(stream)
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
        if self.remote.queue().queued() > MAX_UNREAD {
            log::debug!(
                "closing event stream {}: the client leaves more than {MAX_UNREAD} bytes unread",
                self.remote.id()
            );
            self.remote.close();
        }
        self.remote.push(text.as_bytes()).map_err(|_| StreamClosed)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let is_chunked = self.is_chunked;
        // If the client is gone, nothing is left to do.
        let _ = self.remote.run(move |link, connection| {
            connection.take_sent(false);
            if is_chunked {
                let _ = link.push(b"0\r\n\r\n");
            }
            connection.is_active();
            connection.phase = Phase::Closing;
        });
    }
}
