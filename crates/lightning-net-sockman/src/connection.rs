//! [`Connection`], a handle that waits for the end of a connection. Any thread may use it. It has
//! one mutex, which the socket thread takes for a moment when the connection has ended.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use sockman::ConnectionId;

/// Whether a connection has ended, and its peer manager knows.
#[derive(Debug, Default)]
pub(crate) struct End {
    has_come: Mutex<bool>,
    came: Condvar,
}

/// Reports the end when it is dropped. It lies in the connection's value, so the report also comes
/// if the driver is dropped.
#[derive(Debug)]
pub(crate) struct ReportOnDrop(pub(crate) Arc<End>);

impl Drop for ReportOnDrop {
    fn drop(&mut self) {
        *self.0.has_come.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.came.notify_all();
    }
}

/// A handle to a connection that a [`Driver`](crate::Driver) has made. A clone is a handle to the
/// same connection. A dropped handle changes nothing: the connection goes on.
///
/// The handle takes the place of the future that the functions of `lightning-net-tokio` return.
///
/// A connection that LDK has ended goes on sending what is queued until the peer closes, for at
/// most three seconds. It has ended after that.
#[derive(Debug, Clone)]
pub struct Connection {
    id: ConnectionId,
    end: Arc<End>,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, end: Arc<End>) -> Connection {
        Connection { id, end }
    }

    /// Returns the id of the connection, for the methods of
    /// [`Driver::sockman`](crate::Driver::sockman).
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Returns whether the connection has ended, and the peer manager knows.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.end.has_come.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the connection has ended and the peer manager knows, but not longer than
    /// `timeout`. Returns whether the connection has ended.
    ///
    /// Do not call this method on the socket thread, for example in a message handler: the end
    /// cannot come while that thread waits, so the whole `timeout` would pass.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn f(connection: lightning_net_sockman::Connection) {
    /// use std::time::Duration;
    ///
    /// if !connection.wait_closed(Duration::from_secs(10)) {
    ///     println!("connection {} is still open", connection.id());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let has_come = self.end.has_come.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.end.came.wait_timeout_while(has_come, timeout, |has_come| !*has_come);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
