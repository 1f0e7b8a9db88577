//! A cache of bounded weight: what was not used for longest goes first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries are few thousands at most: they are searched one by one.
pub struct Cache<K, V> {
    entries: Mutex<VecDeque<(K, Arc<V>, usize)>>,
    room: usize,
}

impl<K: PartialEq, V> Cache<K, V> {
    /// `room` is what all entries may weigh together. One that is heavier alone is kept alone.
    pub fn new(room: usize) -> Self {
        Cache { entries: Mutex::new(VecDeque::new()), room }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(K, Arc<V>, usize)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut entries = self.lock();
        let found = entries.iter().position(|(other, ..)| other == key)?;
        let entry = entries.remove(found)?;
        let value = entry.1.clone();
        entries.push_back(entry);
        Some(value)
    }

    pub fn put(&self, key: K, value: V, weight: usize) -> Arc<V> {
        let value = Arc::new(value);
        let mut entries = self.lock();
        entries.retain(|(other, ..)| *other != key);
        entries.push_back((key, value.clone(), weight));
        let mut all: usize = entries.iter().map(|(.., weight)| weight).sum();
        while all > self.room && entries.len() > 1 {
            all -= entries.pop_front().map_or(0, |(.., weight)| weight);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_stays_and_the_weight_is_bounded() {
        let cache = Cache::new(100);
        for key in 0..4 {
            cache.put(key, key, 30);
            assert_eq!(cache.get(&0).as_deref(), Some(&0));
        }
        assert_eq!((cache.get(&1), cache.get(&2).as_deref(), cache.get(&3).as_deref()), (None, Some(&2), Some(&3)));
        cache.put(9, 9, 1000);
        assert_eq!((cache.get(&0), cache.get(&9).as_deref()), (None, Some(&9)));
    }
}
