//! The connections that are due, each listed at most once, and the order of their turns.
//!
//! This module belongs to the socket thread and takes no lock. Only this module changes the lists
//! and the [`Listed`] flag of each slot.
//!
//! Turns come in rounds and slices. A round gives one turn to each connection that was due when the
//! round began. A slice is the part of a round between two polls, one to four milliseconds long. A
//! connection that becomes ready during a round gets its turn in the next slice, before the rest of
//! the round, so it does not wait until thousands of others have had theirs. A connection whose
//! turn left work waits for the next round.
//!
//! Where nearly all turns are light, a connection that becomes ready again after its turn waits for
//! those of the round that are light and have not had theirs. Otherwise the peers with the fastest
//! answers would have turn after turn, and the slowest would wait for several rounds.
//!
//! In a round of at most sixteen connections, one that fills large buffers has several turns in a
//! row, with a poll before each. A queue in the kernel that empties stays in the processor's cache,
//! while several that are read in turn stay full and leave the cache. Each byte then costs three
//! times as much.

use std::{
    mem,
    time::{Duration, Instant},
};

use super::{growth, queue::Queue, slab::Key};

/// Whether a connection is listed, and its last turn. Each slot contains one `Listed`.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    is_listed: bool,
    /// The round of the last turn, or 0 before the first one.
    turn_in: Round,
}

impl Listed {
    #[inline]
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed
    }
}

/// The number of a round. The numbers repeat, because a slot has room for one byte. So after a rest of
/// 255 rounds, a connection may get its turn a little later than it should.
type Round = u8;

/// The lists of connections that are due.
#[derive(Debug)]
pub(crate) struct Due {
    /// The connections that are new, were woken or swept, or had an event since the current round
    /// began.
    fresh: Queue,
    /// The connections that had an event after their turn in the current round, or may have an answer
    /// after a second one, and wait for the light ones of the round.
    again: Vec<Key>,
    /// The connections that are fresh from the next slice on. In the current slice they have had
    /// their turn.
    soon: Vec<Key>,
    /// The connections whose turn in the current round left work, and the heavy ones that had an
    /// event or were swept.
    left: Vec<Key>,
    /// The connections that have not had their turn in the current round.
    round: Queue,
    /// How many connections at the front of `round` are light: without work that a turn left, and not
    /// heavy, unless they were woken.
    light: usize,
    /// The number of the current round.
    number: Round,
    /// How many turns the current slice has had, and how many of them were heavy.
    turns: u32,
    heavy_turns: u32,
    /// Whether at most one in eight turns of the last slice was heavy.
    last_was_light: bool,
    /// The list of the current turn. The turn stays in the list until it is over.
    current: List,
    /// Whether the connection of the current turn had one in the current round before.
    is_second: bool,
    slice: Slice,
    /// Whether the current slice gave a turn of the round.
    served_round: bool,
    /// Whether the next slice begins with the round, because the last one gave no turn of the
    /// round. Without this rule, a flood of fresh connections would starve the round.
    owes_round: bool,
    bulk: Bulk,
}

/// The turns in a row of a connection that fills large buffers.
#[derive(Debug, Default)]
struct Bulk {
    /// How many turns in a row a connection may have in the current round.
    limit: usize,
    /// How long the turns in a row of a connection may take in the current round.
    time: Duration,
    /// How many turns in a row the first connection of the round has had.
    in_row: usize,
    /// When its turns in a row end. `None` until the poll that follows the first of them.
    until: Option<Instant>,
    /// Whether the first connection of the round gets the next turn, too. A poll comes before that
    /// turn.
    repeats: bool,
}

/// How many turns the repeated ones may make of a round of few connections.
const TURNS_PER_ROUND: usize = 512;

/// The largest number of turns in a row. The receive buffers of most systems are empty after as many
/// receives of 64 KiB.
const TURNS_IN_ROW: usize = 128;

/// A shorter row does not empty the queue. It then costs more than it saves, because a poll comes
/// before each of its turns. A round of more than sixteen connections thus has no rows.
const FEWEST_IN_ROW: usize = 32;

/// About how long the repeated turns of a round may take, so that a handler that takes its time does
/// not delay the next round.
const TIME_PER_ROUND: Duration = Duration::from_millis(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Fresh,
    Round,
}

/// How far the turns of the current slice are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slice {
    /// The last slice ended in order.
    Ended,
    /// Turns run, or an interrupt or a panic cut them off.
    Begun,
}

/// The initial capacity of each list. A list that is first used after hours must not allocate in a
/// pass then, unless many connections are due at once.
const CAPACITY: usize = 64;

impl Due {
    pub(crate) fn new() -> Due {
        Due {
            fresh: Queue::with_capacity(CAPACITY),
            again: Vec::with_capacity(CAPACITY),
            soon: Vec::with_capacity(CAPACITY),
            left: Vec::with_capacity(CAPACITY),
            round: Queue::with_capacity(CAPACITY),
            light: 0,
            number: 0,
            turns: 0,
            heavy_turns: 0,
            last_was_light: true,
            current: List::Fresh,
            is_second: false,
            slice: Slice::Ended,
            served_round: false,
            owes_round: false,
            bulk: Bulk::default(),
        }
    }

    /// Adds a connection that is new, was woken, or had an event, unless it is listed already.
    #[inline]
    pub(crate) fn list(&mut self, key: Key, listed: &mut Listed) {
        if !mem::replace(&mut listed.is_listed, true) {
            self.fresh.push_back(key);
        }
    }

    /// Adds a connection that had an event, or that the sweep found, unless it is listed already. A
    /// heavy one gets its turn after the fresh ones, and one that had its turn in this round after the
    /// light ones of the round.
    #[inline]
    pub(crate) fn list_as(&mut self, is_heavy: bool, key: Key, listed: &mut Listed) {
        if mem::replace(&mut listed.is_listed, true) {
            return;
        }
        if is_heavy {
            growth::push(&mut self.left, key);
        } else if listed.turn_in == self.number && self.is_in_order() {
            growth::push(&mut self.again, key);
        } else {
            self.fresh.push_back(key);
        }
    }

    /// Returns whether a connection that is ready again waits for the light ones of the round, or for the
    /// next round.
    fn is_in_order(&self) -> bool {
        self.last_was_light && (self.light > 0 || self.round.is_empty())
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.is_empty()
            && self.again.is_empty()
            && self.soon.is_empty()
            && self.left.is_empty()
            && self.round.is_empty()
    }

    /// Returns whether a round is under way.
    #[inline]
    pub(crate) fn has_round(&self) -> bool {
        !self.round.is_empty()
    }

    /// Prepares the lists for the hooks. Makes a round of which an interrupt or a panic cut off the
    /// rest begin anew: the answers of the hooks are no longer valid.
    pub(crate) fn prepare(&mut self) {
        if mem::replace(&mut self.slice, Slice::Ended) == Slice::Begun {
            self.round.drain_into(&mut self.left);
        }
        self.fresh.append(&mut self.soon);
    }

    /// Returns the connection at this position of the lists, of which a round that is under way is
    /// no part.
    pub(crate) fn at(&self, position: usize) -> Option<Key> {
        let Some(position) = position.checked_sub(self.left.len()) else {
            return self.left.get(position).copied();
        };
        match position.checked_sub(self.fresh.len()) {
            None => self.fresh.at(position),
            Some(position) => self.again.get(position).copied(),
        }
    }

    /// Removes the connection at this position of the lists. Another connection moves to the
    /// position. `listed` is the flag in the connection's slot, if the slot still exists.
    pub(crate) fn strike(&mut self, position: usize, listed: Option<&mut Listed>) {
        match position.checked_sub(self.left.len()) {
            None => drop(self.left.swap_remove(position)),
            Some(position) => match position.checked_sub(self.fresh.len()) {
                None => self.fresh.swap_remove(position),
                Some(position) => drop(self.again.swap_remove(position)),
            },
        }
        if let Some(listed) = listed {
            listed.is_listed = false;
        }
    }

    /// Begins a slice, after a poll at `now`. Begins a round, too, and returns `true`, unless one is
    /// under way.
    pub(crate) fn begin_slice(&mut self, now: Instant) -> bool {
        self.slice = Slice::Begun;
        self.served_round = false;
        self.bulk.repeats = false;
        (self.turns, self.heavy_turns) = (0, 0);
        self.fresh.append(&mut self.soon);
        let begins_round = self.round.is_empty();
        if !begins_round && !self.is_in_order() {
            self.fresh.append(&mut self.again);
        }
        if begins_round {
            self.number = self.number.checked_add(1).unwrap_or(1);
            self.round.append_queue(&mut self.fresh);
            self.round.append(&mut self.again);
            self.light = self.round.len();
            self.round.append(&mut self.left);
            self.owes_round = false;
            let count = self.round.len().max(1);
            let limit = (TURNS_PER_ROUND / count).min(TURNS_IN_ROW);
            self.bulk.limit = if limit < FEWEST_IN_ROW { 1 } else { limit };
            self.bulk.time = TIME_PER_ROUND / u32::try_from(count).unwrap_or(u32::MAX);
            self.bulk.in_row = 0;
        } else if self.bulk.in_row > 0 {
            match self.bulk.until {
                // The next turn is the last one in a row.
                Some(until) if now >= until => self.bulk.in_row = self.bulk.limit,
                Some(_) => {}
                None => self.bulk.until = now.checked_add(self.bulk.time),
            }
        }
        begins_round
    }

    /// Gives each connection of the current round one turn, and none in a row, because timers wait
    /// for the end of the round.
    pub(crate) fn end_rows(&mut self) {
        self.bulk.limit = 0;
    }

    /// Makes all listed connections a part of the round, so that they get their turns before the
    /// round ends. Those of the round that had their turn and left work get a second one.
    pub(crate) fn add_all_to_round(&mut self) {
        self.fresh.append(&mut self.again);
        self.light += self.fresh.len();
        self.round.prepend_queue(&mut self.fresh);
        self.round.append(&mut self.left);
        self.bulk.in_row = 0;
    }

    /// Returns the connection that gets the next turn: a fresh one, if there is one, otherwise one
    /// of the round. The connection stays the next one until [`turn_over`](Due::turn_over), so a
    /// turn that panics is repeated.
    #[inline]
    pub(crate) fn next_turn(&mut self) -> Option<Key> {
        let is_fresh = !self.fresh.is_empty() && (self.round.is_empty() || !self.owes_round);
        self.current = if is_fresh { List::Fresh } else { List::Round };
        match self.current {
            List::Fresh => self.fresh.front(),
            List::Round => self.round.front(),
        }
    }

    /// Returns whether nobody waits for the end of a slice that the next turn makes long: neither a
    /// connection of the other list, nor one that sent much.
    pub(crate) fn may_be_long(&self) -> bool {
        match self.current {
            List::Fresh => self.round.is_empty(),
            List::Round => self.fresh.is_empty() && self.light > 0,
        }
    }

    /// Notes that a connection has its turn.
    #[inline]
    pub(crate) fn turn_begins(&mut self, listed: &mut Listed) {
        self.is_second = mem::replace(&mut listed.turn_in, self.number) == self.number;
    }

    /// Notes whether the turn was heavy.
    #[inline]
    pub(crate) fn turn_was(&mut self, is_heavy: bool) {
        self.turns += 1;
        self.heavy_turns += u32::from(is_heavy);
    }

    /// Returns how many turns the current slice has had.
    pub(crate) fn turns(&self) -> u32 {
        self.turns
    }

    #[inline]
    pub(crate) fn turn_over(&mut self) {
        match self.current {
            List::Fresh => self.fresh.pop_front(),
            List::Round => {
                self.served_round = true;
                if !self.bulk.repeats {
                    self.bulk.in_row = 0;
                    self.round.pop_front();
                    self.light = self.light.saturating_sub(1);
                }
            }
        }
    }

    /// Ends a slice, whose turns may not all have run.
    pub(crate) fn end_slice(&mut self) {
        self.slice = Slice::Ended;
        self.last_was_light = self.heavy_turns * 8 <= self.turns;
        self.owes_round = !self.served_round && !self.round.is_empty();
    }

    /// Returns all connections that are listed.
    pub(crate) fn listed(&self) -> impl Iterator<Item = Key> + '_ {
        let (round, fresh) = (self.round.as_slice(), self.fresh.as_slice());
        let (again, soon, left) = (&self.again, &self.soon, &self.left);
        round.iter().chain(fresh).chain(again).chain(soon).chain(left).copied()
    }

    /// Keeps a connection listed for the next round, because its turn left work.
    #[inline]
    pub(crate) fn work_left(&mut self, key: Key) {
        growth::push(&mut self.left, key);
    }

    /// Keeps a connection listed, because its turn filled a large buffer and left work. The connection
    /// stays the first one of the round, unless it has had as many turns in a row as it may have.
    pub(crate) fn bulk_left(&mut self, key: Key) {
        if self.current == List::Round {
            if self.bulk.in_row == 0 {
                self.bulk.until = None;
            }
            self.bulk.in_row += 1;
            self.bulk.repeats = self.bulk.in_row < self.bulk.limit;
        }
        if !self.bulk.repeats {
            self.work_left(key);
        }
    }

    /// Returns whether the next turn repeats the last one. Then the slice is over, so that a
    /// connection has one turn between two polls.
    #[inline]
    pub(crate) fn repeats(&self) -> bool {
        self.bulk.repeats
    }

    /// Keeps a connection listed for the next slice, because the embedder may have an answer for it. One
    /// that had such a turn in this round waits like those that are ready again, because a peer that
    /// sends without a pause would have turn after turn.
    #[inline]
    pub(crate) fn may_answer(&mut self, key: Key) {
        if self.is_second && self.is_in_order() {
            growth::push(&mut self.again, key);
        } else {
            growth::push(&mut self.soon, key);
        }
    }

    /// Clears the flag of a connection whose turn left no work, so that it can be listed again.
    #[inline]
    pub(crate) fn rests(listed: &mut Listed) {
        listed.is_listed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slab::Slab;

    const COUNT: usize = 24;

    /// The next number of a fixed sequence, below `limit`.
    fn next(seed: &mut u64, limit: usize) -> usize {
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*seed >> 33).unwrap() % limit
    }

    /// The lists, and what each connection waited for.
    struct Model {
        due: Due,
        keys: Vec<Key>,
        listed: Vec<Listed>,
        is_heavy: Vec<bool>,
        /// How many slices each listed connection has waited.
        waited: Vec<usize>,
        seed: u64,
    }

    impl Model {
        fn new(seed: u64) -> Model {
            let mut slab = Slab::new();
            Model {
                due: Due::new(),
                keys: (0..COUNT).map(|_| slab.insert(()).unwrap()).collect(),
                listed: (0..COUNT).map(|_| Listed::default()).collect(),
                is_heavy: vec![false; COUNT],
                waited: vec![0; COUNT],
                seed,
            }
        }

        fn index(&self, key: Key) -> usize {
            self.keys.iter().position(|known| *known == key).unwrap()
        }

        /// Each connection that is listed is in one list, once, and no other connection is in any.
        fn check(&self) {
            let mut counts = [0; COUNT];
            self.due.listed().for_each(|key| counts[self.index(key)] += 1);
            for (index, listed) in self.listed.iter().enumerate() {
                assert_eq!(counts[index], usize::from(listed.is_listed()), "connection {index}");
            }
            assert_eq!(self.due.is_empty(), counts.iter().all(|count| *count == 0));
            if self.due.has_round() && self.due.slice == Slice::Ended {
                assert!(self.due.light <= self.due.round.len());
            }
        }

        fn list_some(&mut self) {
            for _ in 0..next(&mut self.seed, 8) {
                let index = next(&mut self.seed, COUNT);
                let (key, listed) = (self.keys[index], &mut self.listed[index]);
                match next(&mut self.seed, 8) {
                    0 => self.due.list(key, listed),
                    _ => self.due.list_as(self.is_heavy[index], key, listed),
                }
            }
        }

        fn pass(&mut self) {
            self.due.prepare();
            self.check();
            if !self.due.has_round() {
                let mut position = 0;
                while let Some(key) = self.due.at(position) {
                    if next(&mut self.seed, 4) == 0 {
                        let index = self.index(key);
                        self.due.strike(position, Some(&mut self.listed[index]));
                        self.waited[index] = 0;
                    } else {
                        position += 1;
                    }
                }
            }
            self.check();
            self.list_some();
            self.check();
            let begins_round = self.due.begin_slice(Instant::now());
            let is_hurried = next(&mut self.seed, 16) == 0;
            if is_hurried {
                self.due.end_rows();
                if !begins_round {
                    self.due.add_all_to_round();
                }
            }
            self.check();
            let mut turns = 1 + next(&mut self.seed, 6);
            let mut key = self.due.next_turn();
            let had_turn = key.is_some();
            while let Some(turn) = key {
                let index = self.index(turn);
                self.due.turn_begins(&mut self.listed[index]);
                if next(&mut self.seed, 256) == 0 {
                    return; // An interrupt or a panic.
                }
                self.waited[index] = 0;
                self.is_heavy[index] = next(&mut self.seed, 16) == 0;
                match next(&mut self.seed, 8) {
                    0 => self.due.work_left(turn),
                    1 => self.due.bulk_left(turn),
                    2 => self.due.may_answer(turn),
                    _ => Due::rests(&mut self.listed[index]),
                }
                self.due.turn_was(self.is_heavy[index]);
                self.due.turn_over();
                key = self.due.next_turn();
                turns -= 1;
                if key.is_some() && (turns == 0 || self.due.repeats()) {
                    break;
                }
            }
            self.due.end_slice();
            self.check();
            if had_turn {
                for (waited, listed) in self.waited.iter_mut().zip(&self.listed) {
                    *waited = if listed.is_listed() { *waited + 1 } else { 0 };
                }
            }
        }
    }

    /// G10: an idle connection does not pay for places in lists that nobody needs.
    #[test]
    fn the_lists_keep_room_for_few_more_connections_than_they_had() {
        // A vector that doubles would have room for 2,048.
        const COUNT: usize = 1_100;
        let mut slab = Slab::new();
        let mut due = Due::new();
        for _ in 0..COUNT {
            let key = slab.insert(()).unwrap();
            due.work_left(key);
            due.may_answer(key);
            due.is_second = true;
            due.may_answer(key);
            due.is_second = false;
            due.list(key, &mut Listed::default());
        }
        let rooms = [&due.left, &due.soon, &due.again].map(Vec::capacity);
        assert!(rooms.iter().all(|room| *room <= COUNT * 9 / 8 + CAPACITY), "{rooms:?}");
    }

    /// G5: whatever the order of events, turns, questions and interrupts, no connection is lost, none is
    /// listed twice, and each that is listed has its turn.
    #[test]
    fn no_connection_is_lost_or_listed_twice_and_each_has_its_turn() {
        let mut longest = 0;
        for seed in 0..64 {
            let mut model = Model::new(seed);
            for _ in 0..2_000 {
                model.pass();
                longest = longest.max(*model.waited.iter().max().unwrap());
            }
        }
        assert!(longest < 4 * COUNT, "{longest}");
    }
}
