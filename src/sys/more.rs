//! Whether more data follows a send. A plain value.

/// Whether more data follows a send at once.
#[doc(alias("will_send_more", "MSG_MORE"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum More {
    /// The kernel may hold back a packet that is not full, for the data that follows (`MSG_MORE`
    /// on Linux and Android; no effect elsewhere).
    Follows,
    /// The kernel sends at once.
    No,
}

/// `true`: more data follows.
impl From<bool> for More {
    fn from(will_send_more: bool) -> More {
        if will_send_more { More::Follows } else { More::No }
    }
}
