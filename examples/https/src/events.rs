//! Event streams over TLS. Any thread adds events, and the socket thread encrypts them.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use sockman::stateful::ConnectionClosed;
use sockman_http_rpc::{EventOutlet, EventStream, MAX_UNREAD, StreamClosed, log_unread};
use sockman_rustls::TlsRemote;

use crate::{
    client::{Client, Phase},
    handler::Https,
};

/// The way from an event stream to its client.
struct Encrypted {
    /// Weak, because a stream may outlive the server.
    https: Weak<Https>,
    remote: TlsRemote<Client>,
    /// How many bytes were not encrypted. The closures that hold them have no other limit.
    unread: Arc<AtomicUsize>,
}

/// Sends the head of a stream.
///
/// # Errors
///
/// The connection is closed.
pub(crate) fn begin(
    https: &Arc<Https>,
    remote: TlsRemote<Client>,
    is_http_1_0: bool,
) -> Result<EventStream, ConnectionClosed> {
    let head = EventStream::head(is_http_1_0);
    let unread = Arc::new(AtomicUsize::new(head.len()));
    let (handler, counted) = (Arc::clone(https), Arc::clone(&unread));
    remote.run(move |link, client| handler.begin_events(link, client, head, counted))?;
    let outlet = Encrypted { https: Arc::downgrade(https), remote, unread };
    Ok(EventStream::over(Box::new(outlet), is_http_1_0))
}

impl EventOutlet for Encrypted {
    fn send(&self, bytes: Vec<u8>) -> Result<(), StreamClosed> {
        if self.unread.fetch_add(bytes.len(), Ordering::SeqCst) > MAX_UNREAD {
            log_unread(self.remote.id());
            self.remote.close();
        }
        let added = self.remote.run(move |link, client| {
            // A client that was refused its stream, or has ended it, gets no events.
            if client.phase == Phase::Streaming {
                client.add(&bytes);
                client.go_on(link);
            }
        });
        added.map_err(|_| StreamClosed)
    }

    fn end(&self, last: &'static [u8]) {
        let https = Weak::clone(&self.https);
        // If the client is gone, nothing is left to do.
        let _ = self.remote.run(move |link, client| match https.upgrade() {
            Some(https) => https.end_events(link, client, last),
            None => drop(link.close()),
        });
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypted").field("id", &self.remote.id()).finish_non_exhaustive()
    }
}
