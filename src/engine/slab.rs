//! A vector with reusable places. Each key carries a generation, so that a key finds nothing after
//! its place was freed, even if another value has taken the place.
//!
//! A slab belongs to the socket thread alone, and takes no lock.

use std::slice;

use super::growth;

/// The index of a place and its generation. The poller's tokens are made of keys. The order of keys
/// has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

/// A decoded token: the kind of thing that it stands for, and its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Connection(Key),
    Listener(Key),
    /// A connect under way.
    Attempt(Key),
}

/// A token consists of, from the most significant bit: two bits for the kind, the generation, the
/// index.
const INDEX_BITS: u32 = if usize::BITS >= 64 { 32 } else { 20 };
const GENERATION_BITS: u32 = usize::BITS - INDEX_BITS - 2;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: usize = (1 << GENERATION_BITS) - 1;
const LISTENER: usize = 1 << (INDEX_BITS + GENERATION_BITS);
/// No kind sets both bits, because the poller's own waker has the token with all bits set.
const ATTEMPT: usize = 2 << (INDEX_BITS + GENERATION_BITS);
const KIND_MASK: usize = LISTENER | ATTEMPT;

impl Key {
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }
}

impl Token {
    #[inline]
    pub(crate) fn encode(self) -> usize {
        let (kind, key) = match self {
            Token::Connection(key) => (0, key),
            Token::Listener(key) => (LISTENER, key),
            Token::Attempt(key) => (ATTEMPT, key),
        };
        kind | ((key.generation as usize) << INDEX_BITS) | key.index as usize
    }

    // The masks make both casts lossless.
    #[allow(clippy::cast_possible_truncation)]
    #[inline]
    pub(crate) fn decode(token: usize) -> Token {
        let key = Key {
            index: (token & INDEX_MASK) as u32,
            generation: ((token >> INDEX_BITS) & GENERATION_MASK) as u32,
        };
        match token & KIND_MASK {
            0 => Token::Connection(key),
            LISTENER => Token::Listener(key),
            _ => Token::Attempt(key),
        }
    }
}

/// A vector with reusable places, whose keys carry a generation.
///
/// After a peak, the places at the end are given up as soon as they are free. A round over all
/// values skips each block of places that has no value. The generations stay, because a late key
/// must not find a later value.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    values: Vec<Option<T>>,
    /// How many values each block of places has.
    blocks: Vec<u32>,
    /// The generation of each place. The generations have a vector of their own, because padding
    /// would double their size next to the values.
    generations: Vec<u32>,
    /// The free places. Some of them may have been given up, or taken again since.
    free: Vec<u32>,
    len: usize,
    /// The number of places that a test allows.
    #[cfg(test)]
    limit: usize,
}

/// The number of places in a block.
const BLOCK: usize = 64;
/// A slab keeps memory for this many places even if it is empty.
const KEPT_PLACES: usize = 1024;

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        let (values, blocks, generations, free) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Slab {
            values,
            blocks,
            generations,
            free,
            len: 0,
            #[cfg(test)]
            limit: INDEX_MASK,
        }
    }

    /// Stores a value and returns its key. Returns `None` if every index is taken. A slab has 2^32
    /// - 1 indices, and 2^20 - 1 on 32-bit machines.
    pub(crate) fn insert(&mut self, value: T) -> Option<Key> {
        while let Some(index) = self.free.pop() {
            // The place may have been given up, and may have been taken again since.
            if let Some(place @ None) = self.values.get_mut(index as usize) {
                *place = Some(value);
                return self.inserted(index);
            }
        }
        let index = u32::try_from(self.values.len()).ok()?;
        if index as usize >= self.limit() {
            return None;
        }
        growth::push(&mut self.values, Some(value));
        if self.generations.len() < self.values.len() {
            growth::push(&mut self.generations, 0);
        }
        if self.blocks.len() * BLOCK < self.values.len() {
            self.blocks.push(0);
        }
        self.inserted(index)
    }

    #[cfg(not(test))]
    fn limit(&self) -> usize {
        INDEX_MASK
    }

    #[cfg(test)]
    fn limit(&self) -> usize {
        self.limit
    }

    /// Allows no more places than there are.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn limit_to_current(&mut self) {
        self.limit = self.values.len();
    }

    fn inserted(&mut self, index: u32) -> Option<Key> {
        self.len += 1;
        *self.blocks.get_mut(index as usize / BLOCK)? += 1;
        Some(Key { index, generation: *self.generations.get(index as usize)? })
    }

    #[allow(clippy::cast_possible_truncation)] // The mask is at most 30 bits wide.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let generation = self.generations.get_mut(key.index as usize)?;
        if *generation != key.generation {
            return None;
        }
        let value = self.values.get_mut(key.index as usize)?.take()?;
        *generation = generation.wrapping_add(1) & (GENERATION_MASK as u32);
        growth::push(&mut self.free, key.index);
        self.len -= 1;
        *self.blocks.get_mut(key.index as usize / BLOCK)? -= 1;
        self.give_up_places();
        Some(value)
    }

    /// Gives the free places at the end up, and their memory if it is much.
    fn give_up_places(&mut self) {
        while let Some(None) = self.values.last() {
            self.values.pop();
        }
        self.blocks.truncate(self.values.len().div_ceil(BLOCK));
        if self.values.capacity() / 4 > self.values.len().max(KEPT_PLACES) {
            self.values.shrink_to(self.values.len() * 2);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        if *self.generations.get(key.index as usize)? != key.generation {
            return None;
        }
        self.values.get_mut(key.index as usize)?.as_mut()
    }

    #[inline]
    pub(crate) fn iter_mut(&mut self) -> IterMut<'_, T> {
        let Slab { values, generations, blocks, .. } = self;
        IterMut { values: values.iter_mut(), generations, blocks, index: 0 }
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        let dropped: Vec<Key> =
            self.iter_mut().filter_map(|(key, value)| (!keep(value)).then_some(key)).collect();
        for key in dropped {
            self.remove(key);
        }
    }
}

/// The values of a slab with their keys. A chain of the standard iterators would execute six times
/// as many instructions for each value of a sweep.
pub(crate) struct IterMut<'a, T> {
    values: slice::IterMut<'a, Option<T>>,
    generations: &'a [u32],
    blocks: &'a [u32],
    /// The index of the next one of `values`.
    index: usize,
}

impl<'a, T> Iterator for IterMut<'a, T> {
    type Item = (Key, &'a mut T);

    #[allow(clippy::cast_possible_truncation)] // `insert` keeps indices within 32 bits.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let index = self.index;
            if index % BLOCK == 0 && self.blocks.get(index / BLOCK) == Some(&0) {
                // The last block may be shorter, and then `nth` ends the iterator.
                self.index += BLOCK;
                self.values.nth(BLOCK - 1)?;
                continue;
            }
            let value = self.values.next()?;
            self.index += 1;
            if let Some(value) = value {
                let generation = *self.generations.get(index)?;
                return Some((Key { index: index as u32, generation }, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G1: a late event does not find the connection that has taken the place.
    #[test]
    fn a_key_of_a_freed_place_finds_nothing_even_when_it_is_taken_again() {
        let mut slab = Slab::new();
        let old = slab.insert('a').unwrap();
        assert_eq!(slab.remove(old), Some('a'));
        assert_eq!(slab.get_mut(old), None);
        let new = slab.insert('b').unwrap();
        assert_eq!(new.index, old.index, "places are reused");
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut 'b'));
    }

    /// The cost of a sweep after a peak: places without a value are skipped or given up.
    #[test]
    fn after_a_peak_a_round_walks_about_as_many_places_as_there_are_values() {
        const PEAK: usize = if cfg!(miri) { 3_000 } else { 100_000 };
        for kept in [0, 77, PEAK - 1] {
            let mut slab = Slab::new();
            let keys: Vec<_> = (0..PEAK).map(|n| slab.insert(n).unwrap()).collect();
            assert_eq!((slab.len(), slab.iter_mut().count()), (PEAK, PEAK));
            for (n, key) in keys.iter().enumerate().filter(|(n, _)| *n != kept) {
                assert_eq!(slab.remove(*key), Some(n));
            }
            let walked = slab.blocks.iter().filter(|len| **len > 0).count() * BLOCK;
            assert_eq!(walked, BLOCK, "one block has a value");
            assert_eq!(slab.iter_mut().collect::<Vec<_>>(), [(keys[kept], &mut { kept })]);
            assert_eq!(slab.remove(keys[kept]), Some(kept));
            assert_eq!((slab.len(), slab.values.len(), slab.blocks.len()), (0, 0, 0));
            assert!(slab.values.capacity() <= 4 * KEPT_PLACES, "{}", slab.values.capacity());
        }
    }

    /// G10: an idle connection does not pay for places that nobody needs.
    #[test]
    fn a_slab_keeps_room_for_few_more_values_than_it_has() {
        let mut slab = Slab::new();
        for n in 0..if cfg!(miri) { 1_000 } else { 100_000 } {
            let _ = slab.insert(n);
            let most = slab.values.len() * 9 / 8 + BLOCK;
            for capacity in [slab.values.capacity(), slab.generations.capacity()] {
                assert!(capacity <= most, "{capacity} places for {} values", slab.values.len());
            }
        }
    }

    /// G1: places that were given up after a peak and taken again do not answer to old keys, and no
    /// place is given out twice.
    #[test]
    fn places_taken_again_after_a_peak_have_new_keys() {
        const PEAK: usize = if cfg!(miri) { 500 } else { 5_000 };
        let mut slab = Slab::new();
        let mut old = Vec::new();
        for round in 0..4 {
            // Every other round frees the places from the end.
            let mut keys: Vec<_> = (0..PEAK).map(|n| slab.insert(n).unwrap()).collect();
            assert_eq!(slab.iter_mut().count(), PEAK);
            assert!(old.iter().all(|key| slab.get_mut(*key).is_none()), "round {round}");
            for (n, key) in keys.iter().enumerate() {
                assert_eq!(slab.get_mut(*key), Some(&mut { n }));
            }
            if round % 2 == 0 {
                keys.reverse();
            }
            assert!(keys.iter().all(|key| slab.remove(*key).is_some()));
            assert!(keys.iter().all(|key| slab.remove(*key).is_none()));
            old.append(&mut keys);
        }
    }

    /// G1: decoding a token returns what was encoded.
    #[test]
    fn tokens_keep_kind_index_and_generation() {
        let mut slab = Slab::new();
        for _ in 0..3 {
            let key = slab.insert(()).unwrap();
            slab.remove(key);
        }
        let key = slab.insert(()).unwrap();
        for token in [Token::Connection(key), Token::Listener(key), Token::Attempt(key)] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }

    /// G1: a generation never grows into the bits of the kind.
    #[test]
    fn generations_wrap_within_the_token() {
        let mut slab = Slab::new();
        let key = slab.insert(()).unwrap();
        slab.generations[key.index as usize] = GENERATION_MASK as u32;
        let last = Key { generation: GENERATION_MASK as u32, ..key };
        assert_eq!(Token::decode(Token::Connection(last).encode()), Token::Connection(last));
        assert_eq!(slab.remove(last), Some(()));
        assert_eq!(slab.insert(()).unwrap().generation, 0);
    }
}
