//! A vector with reusable places. Each key carries a generation, so that a key finds nothing after
//! its place was freed, even if another value has taken the place.
//!
//! A slab belongs to the socket thread alone, and takes no lock.

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
#[derive(Debug)]
pub(crate) struct Slab<T> {
    values: Vec<Option<T>>,
    /// The generation of each place. The generations have a vector of their own, because padding
    /// would double their size next to the values.
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab { values: Vec::new(), generations: Vec::new(), free: Vec::new() }
    }

    /// Stores a value and returns its key. Returns `None` if every index is taken. A slab has 2^32
    /// - 1 indices, and 2^20 - 1 on 32-bit machines.
    pub(crate) fn insert(&mut self, value: T) -> Option<Key> {
        if let Some(index) = self.free.pop() {
            let generation = *self.generations.get(index as usize)?;
            *self.values.get_mut(index as usize)? = Some(value);
            return Some(Key { index, generation });
        }
        let index = u32::try_from(self.values.len()).ok()?;
        if index as usize >= INDEX_MASK {
            return None;
        }
        self.values.push(Some(value));
        self.generations.push(0);
        Some(Key { index, generation: 0 })
    }

    #[allow(clippy::cast_possible_truncation)] // The mask is at most 30 bits wide.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let generation = self.generations.get_mut(key.index as usize)?;
        if *generation != key.generation {
            return None;
        }
        let value = self.values.get_mut(key.index as usize)?.take()?;
        *generation = generation.wrapping_add(1) & (GENERATION_MASK as u32);
        self.free.push(key.index);
        Some(value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        if *self.generations.get(key.index as usize)? != key.generation {
            return None;
        }
        self.values.get_mut(key.index as usize)?.as_mut()
    }

    #[allow(clippy::cast_possible_truncation)] // `insert` keeps indices within 32 bits.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        let places = self.values.iter_mut().zip(&self.generations).enumerate();
        places.filter_map(|(index, (value, &generation))| {
            let key = Key { index: index as u32, generation };
            value.as_mut().map(|value| (key, value))
        })
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        let dropped: Vec<Key> =
            self.iter_mut().filter_map(|(key, value)| (!keep(value)).then_some(key)).collect();
        for key in dropped {
            self.remove(key);
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
