//! The state that the handle, the accept loop and all streams share: one lock, and two signals that never queue.

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::script::Script;
use crate::store::Store;
use crate::transcript::{Entry, Transcript};

/// What the lock guards.
#[derive(Debug, Default)]
pub struct Inner {
    /// Resources.
    pub store: Store,
    /// Mischief.
    pub script: Script,
    /// What was seen.
    pub transcript: Transcript,
    /// Streams opened so far.
    pub streams: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    recorded: watch::Sender<u64>,
    /// `control_plane.identifier` of responses.
    pub identifier: String,
}

impl Shared {
    /// Shared state that starts from `store`.
    pub fn new(store: Store, script: Script, identifier: String) -> Self {
        let inner = Inner {
            store,
            script,
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
            changed: watch::Sender::new(0),
            recorded: watch::Sender::new(0),
            identifier,
        }
    }

    /// Takes the lock; never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Changes state or script and wakes every stream.
    pub fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let result = change(&mut self.inner.lock());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    /// Wakes whenever [`Shared::change`] was called.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Writes a transcript entry.
    pub fn record(&self, entry: Entry) {
        self.inner.lock().transcript.record(entry);
        self.announce_record();
    }

    /// Wakes whoever waits for transcript entries.
    pub fn announce_record(&self) {
        self.recorded.send_modify(|count| *count += 1);
    }

    /// Wakes whenever an entry was recorded.
    pub fn records(&self) -> watch::Receiver<u64> {
        self.recorded.subscribe()
    }
}
