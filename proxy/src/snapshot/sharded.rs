//! A persistent map: copying shares shards, changing one entry copies one shard.
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

const SHARDS: usize = 256;

type Shard<V> = HashMap<Arc<str>, V, FixedState>;

/// Name → value. Cloning costs 256 reference counts, an insertion copies 1/256 of the entries.
#[derive(Clone)]
pub struct ShardedMap<V> {
    shards: Arc<[Arc<Shard<V>>]>,
    len: usize,
}

impl<V> Default for ShardedMap<V> {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Self {
            shards: (0..SHARDS).map(|_| empty.clone()).collect(),
            len: 0,
        }
    }
}

impl<V: Clone> ShardedMap<V> {
    pub fn get(&self, name: &str) -> Option<&V> {
        self.shards[shard_of(name)].get(name)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn insert(&mut self, name: Arc<str>, value: V) -> Option<V> {
        let old = self.shard_mut(shard_of(&name)).insert(name, value);
        self.len += usize::from(old.is_none());
        old
    }

    pub fn remove(&mut self, name: &str) -> Option<V> {
        let shard = shard_of(name);
        if !self.shards[shard].contains_key(name) {
            return None;
        }
        let old = self.shard_mut(shard).remove(name);
        self.len -= usize::from(old.is_some());
        old
    }

    /// In no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    fn shard_mut(&mut self, index: usize) -> &mut Shard<V> {
        let shards = Arc::make_mut(&mut self.shards);
        Arc::make_mut(&mut shards[index])
    }
}

fn shard_of(name: &str) -> usize {
    use std::hash::BuildHasher;
    // The high half: the maps inside the shards use the low bits of the same hash.
    (FixedState::with_seed(SHARDS as u64).hash_one(name) >> 32) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut map = ShardedMap::default();
        for index in 0..1000 {
            map.insert(Arc::from(format!("c{index}")), index);
        }
        let before = map.clone();
        assert_eq!(map.insert(Arc::from("c7"), 70), Some(7));
        assert_eq!(map.remove("c8"), Some(8));
        assert_eq!(map.remove("c8"), None);
        assert_eq!(
            (before.get("c7"), before.get("c8"), before.len()),
            (Some(&7), Some(&8), 1000)
        );
        assert_eq!((map.get("c7"), map.get("c8"), map.len()), (Some(&70), None, 999));
        let shared = map
            .shards
            .iter()
            .zip(before.shards.iter())
            .filter(|(a, b)| Arc::ptr_eq(a, b))
            .count();
        assert!(shared >= SHARDS - 2);
    }
}
