//! The flag of a send that says whether more data follows. The flag is a plain value.

/// Whether more data follows a send immediately.
///
/// # Examples
///
/// ```
/// use std::io::IoSlice;
/// use sockman::{ConnectionId, SockMan, error::SendError, options::More};
///
/// /// Sends a head. The body follows, so the kernel may put both into one packet.
/// fn send_head(sockman: &SockMan, id: ConnectionId, head: &[u8]) -> Result<usize, SendError> {
///     sockman.send_with(id, &[IoSlice::new(head)], More::Follows)
/// }
/// ```
#[doc(alias("will_send_more", "MSG_MORE"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum More {
    /// More data follows. The kernel may hold back an incomplete packet until the data comes
    /// (`MSG_MORE` on Linux and Android; no effect elsewhere).
    Follows,
    /// No more data follows now. The kernel sends at once.
    No,
}

/// Converts `true` to [`More::Follows`].
impl From<bool> for More {
    fn from(will_send_more: bool) -> More {
        if will_send_more { More::Follows } else { More::No }
    }
}
