//! The bytes that a [`SendQueue`](super::SendQueue) holds, in order: bytes of its own, and
//! references to memory that several queues share.
//!
//! The types here are plain data. The queue's mutex protects them.

use std::{
    collections::VecDeque,
    io::IoSlice,
    mem::{self, size_of},
    sync::Arc,
};

use super::send_budget::Share;

/// A shared piece below this length is copied into the queue's own bytes, because a reference takes
/// memory too, and because the kernel takes one long piece faster than many short ones.
const SHORTEST_SHARED: usize = 256;
/// The most pieces that one send offers to the kernel. An array of this length lies on the stack.
pub(super) const PIECES_PER_SEND: usize = 64;
/// An empty queue keeps a buffer up to this size for the next push, and frees a larger one. With a
/// budget, it frees each buffer.
const KEPT_CAPACITY: usize = 16 * 1024;
/// A buffer shrinks if it could hold this many times the bytes that are left. A peer that leaves a
/// few bytes unread must not keep the memory of all that it has read.
const SHRINK_AT: usize = 4;

/// A part of a message, for [`SendQueue::push_pieces`](super::SendQueue::push_pieces) and
/// [`SendQueue::enqueue_pieces`](super::SendQueue::enqueue_pieces).
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use sockman::{SendQueue, SockMan, helpers::{Piece, PushError}};
///
/// /// Sends a block behind a header of its own to each peer. The block lies in memory once.
/// fn send(sockman: &SockMan, peers: &[SendQueue], block: &Arc<[u8]>) -> Result<(), PushError> {
///     let header = (block.len() as u32).to_be_bytes();
///     for peer in peers {
///         peer.push_pieces(sockman, &[Piece::Bytes(&header), Piece::Shared(block)])?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Piece<'a> {
    /// Bytes that the queue copies if the kernel does not take them at once.
    Bytes(&'a [u8]),
    /// Bytes in shared memory. The queue keeps a reference instead of a copy. It copies bytes of
    /// fewer than 256, because a reference costs as much.
    Shared(&'a Arc<[u8]>),
}

impl<'a> Piece<'a> {
    /// Returns the bytes of the piece.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        match *self {
            Piece::Bytes(bytes) => bytes,
            Piece::Shared(shared) => shared,
        }
    }
}

impl<'a> From<&'a [u8]> for Piece<'a> {
    fn from(bytes: &'a [u8]) -> Piece<'a> {
        Piece::Bytes(bytes)
    }
}

impl<'a> From<&'a Arc<[u8]>> for Piece<'a> {
    fn from(shared: &'a Arc<[u8]>) -> Piece<'a> {
        Piece::Shared(shared)
    }
}

/// Returns the number of bytes of the pieces.
pub(super) fn length_of<'a>(pieces: impl Iterator<Item = Piece<'a>>) -> usize {
    pieces.map(|piece| piece.as_bytes().len()).sum()
}

/// The queued bytes.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// All bytes that are not shared, in order.
    own: VecDeque<u8>,
    /// How many own bytes have been sent. The number wraps.
    own_sent: usize,
    shared: VecDeque<Shared>,
    /// The bytes of memory behind `shared`.
    shared_bytes: usize,
}

#[derive(Debug)]
struct Shared {
    memory: Arc<[u8]>,
    /// How many bytes of the memory have been sent. Not 0 only in the first element of the list,
    /// because a later one is sent later.
    sent: usize,
    /// The value of `own_sent` at which this piece is next.
    at: usize,
}

impl Shared {
    fn left(&self) -> &[u8] {
        self.memory.get(self.sent..).unwrap_or_default()
    }
}

impl Pieces {
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self.shared.front() {
            None => self.own.len(),
            Some(first) => self.own.len() + self.shared_bytes - first.sent,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.shared.is_empty()
    }

    /// Appends the pieces without their first `skip` bytes. `skip` is not 0 only if nothing is
    /// queued. Returns `false`, and appends nothing, if the budget does not allow the memory.
    pub(super) fn append<'a>(
        &mut self,
        pieces: impl Iterator<Item = Piece<'a>> + Clone,
        skip: usize,
        share: Option<&mut Share>,
    ) -> bool {
        let rest = Rest { pieces, skip };
        if let Some(share) = share {
            if !self.reserve(rest.clone(), share) {
                return false;
            }
        }
        for part in rest {
            match part {
                Part::Own(bytes) => self.own.extend(bytes),
                Part::Shared(memory, sent) => {
                    let at = self.own_sent.wrapping_add(self.own.len());
                    self.shared_bytes += memory.len();
                    self.shared.push_back(Shared { memory: Arc::clone(memory), sent, at });
                }
            }
        }
        true
    }

    /// Makes room for the parts, and takes the memory from the budget. Returns `false` if the
    /// budget does not allow that.
    fn reserve<'a>(&mut self, parts: impl Iterator<Item = Part<'a>>, share: &mut Share) -> bool {
        let (mut own, mut references, mut shared_bytes) =
            (self.own.len(), self.shared.len(), self.shared_bytes);
        for part in parts {
            match part {
                Part::Own(bytes) => own += bytes.len(),
                Part::Shared(memory, _) => {
                    references += 1;
                    shared_bytes += memory.len();
                }
            }
        }
        // Twice the capacity, so that many small pushes do not copy the bytes each time. If the
        // budget does not allow that much, as much as is needed.
        for factor in [2, 1] {
            let own = grown(self.own.capacity(), own, factor);
            let references = grown(self.shared.capacity(), references, factor);
            if share.grow_to(own + references * size_of::<Shared>() + shared_bytes) {
                self.own.reserve_exact(own - self.own.len());
                self.shared.reserve_exact(references - self.shared.len());
                return true;
            }
        }
        false
    }

    /// Writes the first pieces into `into`, with at most `limit` bytes. Returns how many pieces
    /// these are, and how many bytes.
    pub(super) fn first<'a>(
        &'a self,
        limit: usize,
        into: &mut [IoSlice<'a>; PIECES_PER_SEND],
    ) -> (usize, usize) {
        let mut first = First { into, count: 0, bytes: 0, limit };
        let mut own = 0;
        for shared in &self.shared {
            let next = shared.at.wrapping_sub(self.own_sent);
            if !self.add_own(&mut first, own, next) || !first.add(shared.left()) {
                return (first.count, first.bytes);
            }
            own = next;
        }
        self.add_own(&mut first, own, self.own.len());
        (first.count, first.bytes)
    }

    /// Returns the first bytes, at most `limit`, if nothing is shared and the bytes lie in one piece.
    /// Nearly all queues are like that, and need no list of pieces.
    #[inline]
    pub(super) fn only(&self, limit: usize) -> Option<&[u8]> {
        match self.own.as_slices() {
            (own, []) if self.shared.is_empty() => own.get(..limit.min(own.len())),
            _ => None,
        }
    }

    fn add_own<'a>(&'a self, first: &mut First<'a, '_>, from: usize, to: usize) -> bool {
        let (front, back) = self.own.as_slices();
        let middle = front.len();
        let front = front.get(from..to.min(middle)).unwrap_or_default();
        let back = back.get(from.saturating_sub(middle)..to.saturating_sub(middle));
        first.add(front) && first.add(back.unwrap_or_default())
    }

    /// Removes the first `sent` bytes, and frees memory that the others do not need.
    pub(super) fn remove_first(&mut self, sent: usize, share: Option<&mut Share>) {
        let (mut left, mut own) = (sent, 0);
        while let Some(first) = self.shared.front_mut() {
            let before = left.min(first.at.wrapping_sub(self.own_sent) - own);
            own += before;
            left -= before;
            let of_first = left.min(first.left().len());
            first.sent += of_first;
            left -= of_first;
            if !first.left().is_empty() {
                break;
            }
            self.shared_bytes -= first.memory.len();
            self.shared.pop_front();
        }
        own += left;
        self.own.drain(..own);
        self.own_sent = self.own_sent.wrapping_add(own);
        self.shrink(share);
    }

    /// Takes all bytes out, and gives their memory back to the budget.
    pub(super) fn take(&mut self, share: Option<&mut Share>) -> Pieces {
        if let Some(share) = share {
            share.shrink_to(0);
        }
        mem::take(self)
    }

    /// Returns all bytes in one piece.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_PER_SEND];
            let (count, length) = self.first(usize::MAX, &mut slices);
            slices.iter().take(count).for_each(|slice| bytes.extend_from_slice(slice));
            self.remove_first(length, None);
        }
        bytes
    }

    fn shrink(&mut self, share: Option<&mut Share>) {
        shrink(&mut self.own, share.is_some());
        shrink(&mut self.shared, share.is_some());
        if let Some(share) = share {
            let references = self.shared.capacity() * size_of::<Shared>();
            share.shrink_to(self.own.capacity() + references + self.shared_bytes);
        }
    }
}

/// Returns the capacity of a buffer that has to hold `needed` elements.
fn grown(capacity: usize, needed: usize, factor: usize) -> usize {
    if needed <= capacity { capacity } else { needed.max(capacity.saturating_mul(factor)) }
}

/// Frees memory that the elements of a buffer no longer need.
fn shrink<T>(buffer: &mut VecDeque<T>, has_budget: bool) {
    let (length, capacity) = (buffer.len(), buffer.capacity());
    let kept = KEPT_CAPACITY / size_of::<T>();
    if length == 0 && (capacity > kept || has_budget) {
        *buffer = VecDeque::new();
    } else if capacity > kept && capacity / SHRINK_AT >= length {
        buffer.shrink_to((length * 2).max(kept));
    }
}

/// The pieces without their first bytes.
#[derive(Clone)]
struct Rest<I> {
    pieces: I,
    skip: usize,
}

/// What the queue keeps of a piece.
enum Part<'a> {
    Own(&'a [u8]),
    /// Shared memory, of which this many bytes have been sent.
    Shared(&'a Arc<[u8]>, usize),
}

impl<'a, I: Iterator<Item = Piece<'a>>> Iterator for Rest<I> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        loop {
            let piece = self.pieces.next()?;
            let bytes = piece.as_bytes();
            let skip = self.skip.min(bytes.len());
            self.skip -= skip;
            let left = bytes.get(skip..).unwrap_or_default();
            match piece {
                _ if left.is_empty() => {}
                Piece::Shared(memory) if left.len() >= SHORTEST_SHARED => {
                    return Some(Part::Shared(memory, skip));
                }
                _ => return Some(Part::Own(left)),
            }
        }
    }
}

/// The pieces of the next send.
struct First<'a, 'b> {
    into: &'b mut [IoSlice<'a>; PIECES_PER_SEND],
    count: usize,
    bytes: usize,
    limit: usize,
}

impl<'a> First<'a, '_> {
    /// Adds a piece, or a part of it. Returns `false` if no more pieces follow.
    fn add(&mut self, bytes: &'a [u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Some(place) = self.into.get_mut(self.count) else { return false };
        let piece = bytes.get(..self.limit - self.bytes).unwrap_or(bytes);
        *place = IoSlice::new(piece);
        self.count += 1;
        self.bytes += piece.len();
        self.bytes < self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More pieces than one send takes, of which the first one is half sent.
    #[test]
    fn all_pieces_leave_in_order_as_one() {
        let shared: Arc<[u8]> = vec![b's'; SHORTEST_SHARED].into();
        let mut pieces = Pieces::default();
        let message = [Piece::Shared(&shared), Piece::Bytes(b"own")];
        for _ in 0..PIECES_PER_SEND {
            assert!(pieces.append(message.into_iter(), 0, None));
        }
        pieces.remove_first(100, None);
        let expected = [&shared[..], b"own"].concat().repeat(PIECES_PER_SEND);
        assert_eq!(pieces.take(None).into_bytes(), expected[100..]);
        assert_eq!((pieces.len(), Arc::strong_count(&shared)), (0, 1));
    }
}
