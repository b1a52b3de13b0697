//! What other rooms leave for `/xds`: what was let pass without being done, what could not be put to use, and what the last publication cost.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;

/// Shared by whoever checks and builds configuration.
#[derive(Default)]
pub struct Notes {
    tolerated: Mutex<BTreeSet<String>>,
    unusable: Mutex<BTreeSet<String>>,
    publication: Mutex<Option<Publication>>,
}

/// One publication to the workers. It may hold what several responses brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Of the snapshot.
    pub generation: u64,
    /// Resources that came, changed or went.
    pub changes: usize,
    /// Time from the client's publication being taken to the workers' seeing it.
    pub build: Duration,
}

/// Different lines that are kept; the log has all.
const LIMIT: usize = 200;

impl Notes {
    /// Remembers that a field is set, is not honoured, and was let pass.
    pub fn tolerate(&self, line: String) {
        let mut tolerated = self.tolerated.lock();
        if tolerated.len() < LIMIT {
            tolerated.insert(line);
        }
    }

    pub fn tolerated(&self) -> Vec<String> {
        self.tolerated.lock().iter().cloned().collect()
    }

    /// Remembers that something was accepted, and failed when it was put to use.
    pub fn unusable(&self, line: String) {
        let mut unusable = self.unusable.lock();
        if unusable.len() < LIMIT {
            unusable.insert(line);
        }
    }

    pub fn failures(&self) -> Vec<String> {
        self.unusable.lock().iter().cloned().collect()
    }

    pub fn published(&self, publication: Publication) {
        *self.publication.lock() = Some(publication);
    }

    pub fn publication(&self) -> Option<Publication> {
        *self.publication.lock()
    }
}
