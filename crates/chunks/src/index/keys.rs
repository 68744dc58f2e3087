//! A hash table from keys to eight bytes, made for many millions of entries.
//!
//! ```text
//! slot   key [u8; 20], frame u32 (all ones: empty), place u32
//! ```
//! Open addressing with linear probing, the entries in the order of their hashes: a look-up that fails
//! ends as soon as a larger hash is met. The home of a hash is `hash * homes >> 64`, so a table may have any
//! number of homes; it grows by a quarter when it is [`FULL_PERCENT`] full. So an entry takes 28 bytes in its
//! slot, and 33 to 41 with the free ones.
//!
//! Keys are ends of BLAKE3 hashes and uniform already: a part of each is its hash.

use crate::log::Key;

const FULL_PERCENT: usize = 85;
const EMPTY: u32 = u32::MAX;
/// Entries beyond the last home, which those that hash there overflow into.
const SPARE: usize = 64;

/// Where a blob lies: the number of its frame, and its [`place`](crate::log::place) in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub frame: u32,
    pub place: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    key: Key,
    frame: u32,
    place: u32,
}

const FREE: Slot = Slot { key: Key([0; 20]), frame: EMPTY, place: 0 };

#[derive(Debug, Default)]
pub(super) struct Keys {
    slots: Vec<Slot>,
    homes: usize,
    len: usize,
}

/// Bytes 0 of a key choose the table (see [`super::SHARDS`]), these the place in it.
fn hash(key: &Key) -> u64 {
    u64::from_be_bytes(*key.0[1..].first_chunk().expect("19 bytes"))
}

impl Slot {
    fn is_free(&self) -> bool {
        self.frame == EMPTY
    }

    fn order(&self) -> (u64, &Key) {
        (hash(&self.key), &self.key)
    }
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the table takes.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    fn home(&self, hash: u64) -> usize {
        let product = u128::from(hash) * self.homes as u128;
        usize::try_from(product >> 64).expect("less than the number of homes")
    }

    /// The first slot from the key's home on that is free or not before the key.
    fn seek(&self, key: &Key) -> usize {
        let wanted = (hash(key), key);
        let home = self.home(wanted.0);
        let before = |s: &&Slot| !s.is_free() && s.order() < wanted;
        home + self.slots[home..].iter().take_while(before).count()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Value> {
        if self.len == 0 {
            return None;
        }
        let slot = self.slots.get(self.seek(key))?;
        (!slot.is_free() && slot.key == *key).then_some(Value { frame: slot.frame, place: slot.place })
    }

    pub(super) fn insert(&mut self, key: Key, value: Value) {
        debug_assert_ne!(value.frame, EMPTY);
        if self.len * 100 >= self.homes * FULL_PERCENT {
            self.grow();
        }
        let slot = Slot { key, frame: value.frame, place: value.place };
        let at = self.seek(&key);
        if self.slots.get(at).is_some_and(|s| !s.is_free() && s.key == key) {
            self.slots[at] = slot;
            return;
        }
        let free = self.slots[at..].iter().position(Slot::is_free).unwrap_or_else(|| {
            let end = self.slots.len();
            self.add_spare();
            end - at
        });
        self.slots.copy_within(at..at + free, at + 1);
        self.slots[at] = slot;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if self.get(key).is_none() {
            return;
        }
        let at = self.seek(key);
        let moved = |(i, s): &(usize, &Slot)| !s.is_free() && self.home(hash(&s.key)) < *i;
        let next = at + 1;
        let run = self.slots.iter().enumerate().skip(next).take_while(moved).count();
        self.slots.copy_within(next..next + run, at);
        self.slots[at + run] = FREE;
        self.len -= 1;
    }

    /// Keeps what `keep` says.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Key, Value) -> bool) {
        let stays = |s: &Slot| keep(&s.key, Value { frame: s.frame, place: s.place });
        let kept: Vec<bool> = self.slots.iter().filter(|s| !s.is_free()).map(stays).collect();
        if kept.iter().all(|k| *k) {
            return;
        }
        let mut kept = kept.into_iter();
        let old = std::mem::take(&mut self.slots);
        self.slots = vec![FREE; old.len()];
        self.len = 0;
        self.refill(old.iter().filter(|s| !s.is_free() && kept.next() == Some(true)));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, Value)> {
        let used = self.slots.iter().filter(|s| !s.is_free());
        used.map(|s| (s.key, Value { frame: s.frame, place: s.place }))
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.homes += self.homes / 4 + 16;
        self.slots = vec![FREE; self.homes + SPARE];
        self.len = 0;
        self.refill(old.iter().filter(|s| !s.is_free()));
    }

    /// Room for those that crowd at the very end.
    fn add_spare(&mut self) {
        self.slots.reserve_exact(SPARE);
        self.slots.extend([FREE; SPARE]);
    }

    /// Appends entries that come in order.
    fn refill<'a>(&mut self, entries: impl Iterator<Item = &'a Slot>) {
        let mut next = 0;
        for slot in entries {
            let at = self.home(hash(&slot.key)).max(next);
            if at == self.slots.len() {
                self.add_spare();
            }
            self.slots[at] = *slot;
            next = at + 1;
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Few hashes, so that they crowd; the last ones at the very end of the table.
    fn key() -> impl Strategy<Value = Key> {
        (prop_oneof![0u8..40, 250u8..=255], 0u8..4).prop_map(|(high, low)| {
            let mut key = [high; 20];
            key[19] = low;
            Key(key)
        })
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((key(), any::<u16>(), 0u8..12), 0..600)) {
            let (mut keys, mut model) = (Keys::default(), HashMap::new());
            for (key, n, what) in steps {
                match what {
                    0..3 => {
                        keys.remove(&key);
                        model.remove(&key);
                    }
                    3 => {
                        let odd = |v: Value| !v.place.is_multiple_of(3);
                        keys.retain(|_, v| odd(v));
                        model.retain(|_, v| odd(*v));
                    }
                    _ => {
                        let value = Value { frame: u32::from(n), place: u32::from(n) * 7 };
                        keys.insert(key, value);
                        model.insert(key, value);
                    }
                }
                prop_assert_eq!(keys.get(&key), model.get(&key).copied());
            }
            prop_assert_eq!(keys.len(), model.len());
            prop_assert!(model.iter().all(|(k, v)| keys.get(k) == Some(*v)));
            prop_assert_eq!(keys.iter().collect::<HashMap<_, _>>(), model);
        }
    }

    #[test]
    fn an_entry_takes_at_most_41_bytes() {
        let mut keys = Keys::default();
        let mut state = 1u64;
        for n in 0..200_000u32 {
            let mut key = [0; 20];
            for part in key.chunks_mut(8) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                part.copy_from_slice(&(state ^ state >> 29).to_be_bytes()[..part.len()]);
            }
            keys.insert(Key(key), Value { frame: n, place: 0 });
            assert!(n < 10_000 || keys.bytes() <= 42 * keys.len(), "{} bytes for {}", keys.bytes(), keys.len());
        }
    }
}
