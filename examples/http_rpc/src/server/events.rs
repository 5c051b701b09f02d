//! Server-sent events (the HTML standard, section 9.2): an answer of unlimited length. Any thread
//! can push events.

use std::{error::Error, fmt, sync::Arc};

use sockman::WeakSockMan;

use super::{
    connection::{Connection, Phase},
    handler::Handler,
    response::{self, Afterwards},
};

/// The most unsent bytes of a client when the next event comes. A client with more has fallen
/// behind and is disconnected; it can reconnect. One event may be longer.
const MAX_UNREAD: usize = 256 * 1024;

/// A stream of events to one client. Dropping it ends the stream in order.
pub struct EventStream {
    handler: Arc<Handler>,
    sockman: WeakSockMan,
    connection: Arc<Connection>,
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

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("id", &self.connection.id).finish_non_exhaustive()
    }
}

impl EventStream {
    pub(super) fn begin(
        handler: Arc<Handler>,
        sockman: WeakSockMan,
        connection: Arc<Connection>,
        is_http_1_0: bool,
    ) -> Result<EventStream, StreamClosed> {
        let stream = EventStream { handler, sockman, connection, is_chunked: !is_http_1_0 };
        let mut head = response::head(200, "text/event-stream", Afterwards::Close);
        head.extend_from_slice(b"Cache-Control: no-store\r\n");
        if stream.is_chunked {
            head.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let sockman = stream.sockman().ok_or(StreamClosed)?;
        // Sent before the phase changes: in the phase `Answering`, the socket thread may send the
        // beginning of the answer.
        let sent = stream.connection.send_answer(&sockman, &head);
        stream.connection.pass_on(Phase::Streaming);
        // The server may have received the client's end, or have stopped to receive, while the
        // worker owned the connection. The socket thread has to look, because otherwise the server
        // does not notice that the client leaves.
        sockman.wake(stream.connection.id);
        sent.map_err(|_| StreamClosed)?;
        Ok(stream)
    }

    fn sockman(&self) -> Option<sockman::SockMan> {
        self.sockman.upgrade()
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
        self.push(text.as_bytes())
    }

    fn push(&self, bytes: &[u8]) -> Result<(), StreamClosed> {
        let sockman = self.sockman().ok_or(StreamClosed)?;
        if self.connection.send.queued() > MAX_UNREAD {
            log::debug!(
                "closing event stream {}: the client leaves more than {MAX_UNREAD} bytes unread",
                self.connection.id
            );
            self.handler.close(&sockman, self.connection.id);
            return Err(StreamClosed);
        }
        self.connection.send.push(&sockman, bytes).map_err(|_| StreamClosed)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if self.connection.phase() != Phase::Streaming {
            return;
        }
        if self.is_chunked {
            let _ = self.push(b"0\r\n\r\n");
        }
        self.connection.is_active();
        self.connection.pass_on(Phase::Closing);
        if let Some(sockman) = self.sockman() {
            // The socket thread closes the connection when everything has been sent.
            sockman.wake(self.connection.id);
        }
    }
}
