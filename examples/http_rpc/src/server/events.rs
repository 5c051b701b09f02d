//! Server-sent events (the HTML standard, section 9.2): an answer without an end, pushed from any
//! thread.

use std::{error::Error, fmt, sync::Arc};

use sockman::WeakSockMan;

use super::{
    connection::{Connection, Phase},
    handler::Handler,
    response::{self, Afterwards},
};

/// Who leaves more than so many bytes unread when the next event comes has fallen behind, and may
/// come back. (One event may be longer.)
const MAX_UNREAD: usize = 256 * 1024;

/// One client that hears events. Dropping it ends the stream in order.
pub struct EventStream {
    handler: Arc<Handler>,
    sockman: WeakSockMan,
    connection: Arc<Connection>,
    /// HTTP/1.0 knows no chunks: there the end of the connection is the end of the stream.
    is_chunked: bool,
}

/// The client is gone, or was let go of since it had fallen behind.
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
        stream.connection.pass_on(Phase::Streaming);
        // A client that has gone is noticed only while somebody listens to it.
        stream.sockman().ok_or(StreamClosed)?.wake(stream.connection.id);
        stream.push(&head)?;
        Ok(stream)
    }

    fn sockman(&self) -> Option<sockman::SockMan> {
        self.sockman.upgrade()
    }

    /// Sends an event, from any thread, without waiting for the client.
    ///
    /// # Errors
    ///
    /// [`StreamClosed`]; nothing more can be sent on this stream.
    pub fn send(&self, event: &str, data: &str) -> Result<(), StreamClosed> {
        let mut text = format!("event: {event}\n");
        // For a browser, a carriage return alone ends a line as well.
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
            log::debug!("closing event stream {}: it has fallen behind", self.connection.id);
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
            // The socket thread closes it once everything has left.
            sockman.wake(self.connection.id);
        }
    }
}
