//! The weak handle of a [`SockMan`].

use std::sync::{Arc, Weak};

use super::SockMan;
use crate::engine::shared::Shared;

/// A weak handle that does not keep the `SockMan` alive. A handler stores this type instead of a
/// `SockMan`.
///
/// [`SockMan::downgrade`] returns a weak handle. The default handle belongs to no `SockMan`.
///
/// # Examples
///
/// ```
/// use std::sync::OnceLock;
/// use sockman::{SockMan, WeakSockMan};
///
/// #[derive(Default)]
/// struct Handler {
///     sockman: OnceLock<WeakSockMan>, // Set once, right after `SockMan::new`.
/// }
///
/// impl Handler {
///     fn sockman(&self) -> Option<SockMan> {
///         self.sockman.get()?.upgrade()
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct WeakSockMan {
    shared: Weak<Shared>,
}

impl SockMan {
    /// Returns a weak handle that does not keep the `SockMan` alive.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sockman::{SockMan, WeakSockMan};
    /// use std::sync::OnceLock;
    ///
    /// struct Handler {
    ///     sockman: OnceLock<WeakSockMan>,
    /// }
    ///
    /// impl Handler {
    ///     fn sockman(&self) -> Option<SockMan> {
    ///         self.sockman.get()?.upgrade()
    ///     }
    /// }
    /// # fn f(sockman: SockMan, handler: Handler) {
    ///
    /// // After `SockMan::new`:
    /// let _ = handler.sockman.set(sockman.downgrade());
    /// # }
    /// ```
    #[must_use]
    pub fn downgrade(&self) -> WeakSockMan {
        WeakSockMan { shared: Arc::downgrade(&self.shared) }
    }
}

impl WeakSockMan {
    /// Returns a handle to the `SockMan`, or `None` if the `SockMan` no longer exists.
    #[must_use]
    pub fn upgrade(&self) -> Option<SockMan> {
        self.shared.upgrade().map(SockMan::of)
    }
}
