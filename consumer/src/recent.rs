//! A map that keeps recently used entries and drops the rest.

use std::{collections::HashMap, hash::Hash};

/// A map of at most `capacity` entries. It always keeps at least the last `capacity / 2` entries written.
///
/// It has two generations: entries are written to the young one, and when that has half the capacity, the old one is
/// dropped and the young one takes its place. This needs no clock and no list of uses, and the same writes always leave
/// the same entries.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation: (capacity / 2).max(1),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.make_room(&key);
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Removes the entry with this `key`.
    pub(crate) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Returns the entry with this `key`, created by `new` if there is none, and moves it to the young generation.
    pub(crate) fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        self.make_room(&key);
        let known = self.old.remove(&key);
        self.young.entry(key).or_insert_with(|| known.unwrap_or_else(new))
    }

    fn make_room(&mut self, key: &K) {
        if self.young.len() >= self.generation && !self.young.contains_key(key) {
            // An entry that is written now must survive the change of generations.
            let survivor = self.old.remove_entry(key);
            self.old = std::mem::take(&mut self.young);
            self.old.extend(survivor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_half_and_never_more_than_its_capacity() {
        let mut recent = Recent::new(10);
        for n in 0..1_000_u32 {
            recent.insert(n, n);
            assert!(recent.young.len() + recent.old.len() <= 10);
            for kept in n.saturating_sub(4)..=n {
                assert_eq!(recent.get(&kept), Some(&kept), "{kept} after {n}");
            }
        }
        assert_eq!(recent.get(&900), None);
    }

    #[test]
    fn what_is_used_again_stays() {
        let mut recent = Recent::new(10);
        for n in 0..1_000_u32 {
            *recent.entry(u32::MAX, || 0) += 1;
            recent.insert(n, 0);
        }
        assert_eq!(recent.get(&u32::MAX), Some(&1_000));
    }
}
