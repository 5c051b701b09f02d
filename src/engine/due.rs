//! What is due: the connections that get a turn, each listed at most once.
//!
//! Belongs to the socket thread; no lock. This module alone changes the lists and the mark in each
//! slot that says "listed".

use std::mem;

use super::slab::Key;

/// Whether a connection is listed. Each slot holds one.
#[derive(Debug, Default)]
pub(crate) struct Listed(bool);

impl Listed {
    #[inline]
    pub(crate) fn is_listed(&self) -> bool {
        self.0
    }
}

/// The list of connections that are due, and the turns of the pass under way.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// New, woken, left with work, or with an event: due in the next pass.
    next: Vec<Key>,
    /// The turns of the pass under way.
    turns: Vec<Key>,
    /// How many of `turns` are over.
    over: usize,
}

impl Due {
    /// Lists a connection, unless it is listed already.
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

    /// The connection at this position of the list.
    #[inline]
    pub(crate) fn at(&self, position: usize) -> Option<Key> {
        self.next.get(position).copied()
    }

    /// Takes the connection at this position off the list. Another one takes the position.
    /// `listed` is the mark of its slot, if there still is one.
    pub(crate) fn strike(&mut self, position: usize, listed: Option<&mut Listed>) {
        if position < self.next.len() {
            self.next.swap_remove(position);
        }
        if let Some(listed) = listed {
            listed.0 = false;
        }
    }

    /// Puts the turns that an interrupt or a panic kept from running back on the list.
    pub(crate) fn relist_cut_short(&mut self) {
        let over = mem::take(&mut self.over);
        self.next.extend(self.turns.drain(..).skip(over));
    }

    /// Begins the turns of a pass: everything that is listed gets one.
    pub(crate) fn begin_turns(&mut self) {
        mem::swap(&mut self.next, &mut self.turns);
    }

    /// The next connection that gets a turn. It stays the next until [`turn_over`](Due::turn_over):
    /// a turn that panics is repeated.
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

    /// A turn left work: the connection stays listed, for the next pass.
    #[inline]
    pub(crate) fn work_left(&mut self, key: Key) {
        self.next.push(key);
    }

    /// A turn left no work: the connection is no longer listed.
    #[inline]
    pub(crate) fn rests(listed: &mut Listed) {
        listed.0 = false;
    }
}
