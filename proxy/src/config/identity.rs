//! Configuration by number, for whoever has to compare a lot of it often.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

/// Encoded configuration: equal bytes have equal ids for as long as somebody holds them, different ones never.
#[derive(Debug)]
pub struct Identity {
    id: u64,
    bytes: Arc<[u8]>,
}

#[derive(Default)]
struct Interned {
    last: u64,
    known: HashMap<Arc<[u8]>, Weak<Identity>>,
}

static INTERNED: LazyLock<Mutex<Interned>> = LazyLock::new(Mutex::default);

impl Identity {
    /// The identity of `bytes`, shared with whoever has equal ones. For compiling configuration.
    pub fn of(bytes: &[u8]) -> Arc<Self> {
        let mut interned = INTERNED.lock();
        if let Some(known) = interned.known.get(bytes).and_then(Weak::upgrade) {
            return known;
        }
        // Zero is for what has no configuration.
        interned.last += 1;
        let identity = Arc::new(Self {
            id: interned.last,
            bytes: Arc::from(bytes),
        });
        interned.known.insert(identity.bytes.clone(), Arc::downgrade(&identity));
        identity
    }

    /// Never zero, and never that of other bytes before or after.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let mut interned = INTERNED.lock();
        // Equal bytes may have come again meanwhile, under another number.
        if interned
            .known
            .get(&self.bytes)
            .is_some_and(|known| known.strong_count() == 0)
        {
            interned.known.remove(&self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_share_an_id_and_different_ones_never_do() {
        let (one, same, other) = (
            Identity::of(b"identity a"),
            Identity::of(b"identity a"),
            Identity::of(b"identity b"),
        );
        assert_eq!(one.id(), same.id());
        assert_ne!(one.id(), other.id());
        assert_ne!(one.id(), 0);
        let id = one.id();
        drop((one, same));
        assert!(!INTERNED.lock().known.contains_key(b"identity a".as_slice()));
        assert_ne!(Identity::of(b"identity a").id(), id, "nobody held it");
    }
}
