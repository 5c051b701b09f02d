//! A queue of keys, in one piece of memory: taking its first key costs a few instructions.
//!
//! A queue belongs to the socket thread and takes no lock.

use super::{growth, slab::Key};

/// A queue of keys. The memory of the keys that were taken is used again when the queue is empty,
/// or before the queue would grow.
#[derive(Debug)]
pub(crate) struct Queue {
    keys: Vec<Key>,
    /// How many of `keys` were taken. Less than their number, unless both are 0.
    taken: usize,
}

impl Queue {
    pub(crate) fn with_capacity(capacity: usize) -> Queue {
        Queue { keys: Vec::with_capacity(capacity), taken: 0 }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    #[inline]
    pub(crate) fn front(&self) -> Option<Key> {
        self.keys.get(self.taken).copied()
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) {
        self.taken += 1;
        if self.taken >= self.keys.len() {
            self.clear();
        }
    }

    #[inline]
    pub(crate) fn push_back(&mut self, key: Key) {
        if self.keys.len() == self.keys.capacity() {
            self.make_room(1);
        }
        self.keys.push(key);
    }

    /// Makes room for this many more keys. Uses the memory of the taken keys again, if they are at
    /// least an eighth of all. So each key is moved at most seven times.
    #[cold]
    fn make_room(&mut self, more: usize) {
        if self.taken * 8 >= self.keys.len() {
            self.keys.drain(..self.taken);
            self.taken = 0;
        }
        growth::make_room(&mut self.keys, more);
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[Key] {
        self.keys.get(self.taken..).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.keys.len() - self.taken
    }

    pub(crate) fn at(&self, position: usize) -> Option<Key> {
        self.as_slice().get(position).copied()
    }

    /// Removes the key at this position, if there is one. The last key moves to the position.
    pub(crate) fn swap_remove(&mut self, position: usize) {
        if self.at(position).is_some() {
            self.keys.swap_remove(self.taken + position);
            if self.taken >= self.keys.len() {
                self.clear();
            }
        }
    }

    /// Appends the keys, and leaves `keys` empty.
    pub(crate) fn append(&mut self, keys: &mut Vec<Key>) {
        if self.keys.len() + keys.len() > self.keys.capacity() {
            self.make_room(keys.len());
        }
        self.keys.append(keys);
    }

    /// Appends the keys of another queue, and leaves that queue empty.
    pub(crate) fn append_queue(&mut self, other: &mut Queue) {
        if self.keys.len() + other.keys.len() > self.keys.capacity() {
            self.make_room(other.len());
        }
        self.keys.extend_from_slice(other.as_slice());
        other.clear();
    }

    /// Puts the keys of another queue before the first one, in their order, and leaves that queue
    /// empty.
    pub(crate) fn prepend_queue(&mut self, other: &mut Queue) {
        // The keys of the other queue take the places of the taken ones.
        growth::make_room(&mut self.keys, other.len().saturating_sub(self.taken));
        self.keys.splice(..self.taken, other.as_slice().iter().copied());
        self.taken = 0;
        other.clear();
    }

    /// Moves all keys to the end of `keys`.
    pub(crate) fn drain_into(&mut self, keys: &mut Vec<Key>) {
        growth::make_room(keys, self.len());
        keys.extend_from_slice(self.as_slice());
        self.clear();
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slab::Slab;

    fn keys(count: usize) -> Vec<Key> {
        let mut slab = Slab::new();
        (0..count).map(|_| slab.insert(()).unwrap()).collect()
    }

    /// G5: no key is lost, and none comes twice, in whatever order the operations come.
    #[test]
    fn keys_leave_in_the_order_in_which_they_came() {
        let keys = keys(12);
        let (mut queue, mut other) = (Queue::with_capacity(2), Queue::with_capacity(2));
        keys[2..6].iter().for_each(|key| queue.push_back(*key));
        keys[..3].iter().for_each(|key| other.push_back(*key));
        assert_eq!(other.front(), Some(keys[0]));
        queue.pop_front();
        queue.prepend_queue(&mut other);
        assert_eq!((queue.as_slice(), other.is_empty()), (&keys[..6], true));
        queue.pop_front();
        keys[6..9].iter().for_each(|key| other.push_back(*key));
        other.pop_front();
        queue.append_queue(&mut other);
        queue.append(&mut keys[9..].to_vec());
        assert_eq!(queue.as_slice(), [&keys[1..6], &keys[7..]].concat());
        queue.swap_remove(1);
        queue.swap_remove(99);
        assert_eq!((queue.at(0), queue.at(1), queue.at(99)), (Some(keys[1]), Some(keys[11]), None));
        let mut drained = vec![keys[0]];
        queue.drain_into(&mut drained);
        assert_eq!((drained.len(), queue.is_empty(), queue.front()), (10, true, None));
    }

    /// G10: the capacity stays near the largest number of keys, however they come and go.
    #[test]
    fn a_queue_has_room_for_few_more_keys_than_it_had() {
        const COUNT: usize = 1_000;
        let keys = keys(COUNT);
        let (mut queue, mut other) = (Queue::with_capacity(0), Queue::with_capacity(0));
        for _ in 0..3 {
            keys.iter().for_each(|key| queue.push_back(*key));
            for key in &keys {
                queue.push_back(*key);
                queue.pop_front();
            }
            keys[1..].iter().for_each(|key| other.push_back(*key));
            while queue.len() > 1 {
                queue.pop_front();
            }
            queue.prepend_queue(&mut other);
            while !queue.is_empty() {
                queue.pop_front();
            }
            // At most a seventh more than all keys were taken when the queue grew by an eighth.
            let most = (COUNT + 1) * 8 / 7 * 9 / 8 + 64;
            assert!(queue.keys.capacity() <= most, "{} of {most}", queue.keys.capacity());
        }
    }

    /// G10: the queue does not grow although it is never empty.
    #[test]
    fn the_memory_of_taken_keys_is_used_again() {
        let keys = keys(3);
        let mut queue = Queue::with_capacity(4);
        for turn in 0..1_000 {
            queue.push_back(keys[turn % 3]);
            if turn > 0 {
                assert_eq!(queue.front(), Some(keys[(turn - 1) % 3]));
                queue.pop_front();
            }
        }
        assert_eq!((queue.as_slice().len(), queue.keys.capacity()), (1, 4));
    }
}
