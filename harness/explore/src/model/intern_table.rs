//! A table that stores each distinct value once, with what is derived from it, and identifies it by
//! a number. Looking up a number takes no lock: an entry never moves.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use ahash::RandomState;

/// The number of an interned value.
pub(super) type Id = u32;

/// The length of the first chunk; each following chunk is twice as long.
const FIRST_CHUNK: usize = 256;
const CHUNKS: usize = 24;

/// Interned values of one kind.
pub(super) struct InternTable<K, V> {
    ids: Mutex<HashMap<K, Id, RandomState>>,
    /// The `n`-th holds `FIRST_CHUNK << n` entries.
    chunks: [OnceLock<Box<[OnceLock<V>]>>; CHUNKS],
}

impl<K, V> Default for InternTable<K, V> {
    fn default() -> Self {
        let ids = HashMap::with_hasher(RandomState::with_seeds(9, 10, 11, 12));
        InternTable { ids: Mutex::new(ids), chunks: [const { OnceLock::new() }; CHUNKS] }
    }
}

impl<K: Hash + Eq, V> InternTable<K, V> {
    /// The number of a value. A new value gets the next number, and `derive` computes its entry.
    pub(super) fn intern(&self, key: K, derive: impl FnOnce(&K) -> V) -> Id {
        if let Some(id) = lock(&self.ids).get(&key) {
            return *id;
        }
        let value = derive(&key);
        let mut ids = lock(&self.ids);
        let next = ids.len();
        // Another thread may have interned the same value meanwhile.
        let id = *ids.entry(key).or_insert(next as Id);
        if id as usize == next {
            let (chunk, index) = position(next);
            let chunk = self.chunks[chunk]
                .get_or_init(|| (0..FIRST_CHUNK << chunk).map(|_| OnceLock::new()).collect());
            assert!(chunk[index].set(value).is_ok(), "a number is assigned once");
        }
        id
    }

    /// The entry of an interned value.
    pub(super) fn get(&self, id: Id) -> &V {
        let (chunk, index) = position(id as usize);
        self.chunks[chunk]
            .get()
            .and_then(|chunk| chunk[index].get())
            .expect("a number belongs to an interned value")
    }

    /// How many values are interned.
    pub(super) fn len(&self) -> usize {
        lock(&self.ids).len()
    }
}

/// The chunk of an entry, and its index there.
fn position(number: usize) -> (usize, usize) {
    let chunk = (number / FIRST_CHUNK + 1).ilog2() as usize;
    (chunk, number - FIRST_CHUNK * ((1 << chunk) - 1))
}

/// A panic in another thread is reported there; the tables stay consistent.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
