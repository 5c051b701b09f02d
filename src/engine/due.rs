//! The connections that are due, each listed at most once.
//!
//! This module belongs to the socket thread and takes no lock. Only this module changes the lists
//! and the [`Listed`] flag of each slot.

use std::mem;

use super::slab::Key;

/// Whether a connection is listed. Each slot contains one `Listed` flag.
#[derive(Debug, Default)]
pub(crate) struct Listed(bool);

impl Listed {
    #[inline]
    pub(crate) fn is_listed(&self) -> bool {
        self.0
    }
}

/// The list of connections that are due, and the turns of the current pass.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// The connections that are due in the next pass: new, woken, left with work, or with an event.
    next: Vec<Key>,
    /// The turns of the current pass.
    turns: Vec<Key>,
    /// How many of `turns` have ended.
    over: usize,
}

impl Due {
    /// Adds a connection to the list, unless the list already contains the connection.
    #[inline]
    pub(crate) fn list(&mut self, key: Key, listed: &mut Listed) {
        if !mem::replace(&mut listed.0, true) {
            self.next.push(key);
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    /// Returns the connection at this position of the list.
    #[inline]
    pub(crate) fn at(&self, position: usize) -> Option<Key> {
        self.next.get(position).copied()
    }

    /// Removes the connection at this position from the list. Another connection moves to the
    /// position. `listed` is the flag in the connection's slot, if the slot still exists.
    pub(crate) fn strike(&mut self, position: usize, listed: Option<&mut Listed>) {
        if position < self.next.len() {
            self.next.swap_remove(position);
        }
        if let Some(listed) = listed {
            listed.0 = false;
        }
    }

    /// Puts turns back into the list if an interrupt or a panic kept them from ending.
    pub(crate) fn relist_cut_short(&mut self) {
        let over = mem::take(&mut self.over);
        self.next.extend(self.turns.drain(..).skip(over));
    }

    /// Begins the turns of a pass, one for each listed connection.
    pub(crate) fn begin_turns(&mut self) {
        mem::swap(&mut self.next, &mut self.turns);
    }

    /// Returns the connection that gets the next turn. The connection stays the next one until
    /// [`turn_over`](Due::turn_over), so a turn that panics is repeated.
    #[inline]
    pub(crate) fn next_turn(&self) -> Option<Key> {
        self.turns.get(self.over).copied()
    }

    #[inline]
    pub(crate) fn turn_over(&mut self) {
        self.over += 1;
    }

    pub(crate) fn end_turns(&mut self) {
        self.turns.clear();
        self.over = 0;
    }

    /// Keeps a connection listed for the next pass, because its turn left work.
    #[inline]
    pub(crate) fn work_left(&mut self, key: Key) {
        self.next.push(key);
    }

    /// Clears the flag of a connection whose turn left no work, so that it can be listed again.
    #[inline]
    pub(crate) fn rests(listed: &mut Listed) {
        listed.0 = false;
    }
}
