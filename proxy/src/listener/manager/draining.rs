//! Listeners and chains that nobody comes to any more: their connections are asked to leave, and closed in the end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use remora_xds::Resource;

use super::{ActiveListener, ListenerManager};
use crate::cli::DrainStrategy;
use crate::listener::chain_match::FilterChain;
use crate::listener::stats::ManagerStats;
use crate::runtime::clock;
use crate::runtime::drain::DrainPhase;

/// How connections are asked to leave a listener or chain that drains.
#[derive(Clone, Copy, Debug)]
pub struct Draining {
    /// `--drain-time-s`
    pub time: Duration,
    pub strategy: DrainStrategy,
}

impl Draining {
    pub(super) fn ask(self, chain: &FilterChain) {
        match self.strategy {
            DrainStrategy::Immediate => chain.drain.advance(DrainPhase::Draining),
            DrainStrategy::Gradual => chain.drain.spread(self.time),
        }
    }
}

/// A listener that drains; dropped when it no longer does.
pub(super) struct Gone {
    counters: Arc<ManagerStats>,
    drained: Arc<Mutex<Vec<Arc<Resource>>>>,
    resource: Option<Arc<Resource>>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.counters.total_listeners_draining.dec();
        let Some(resource) = &self.resource else { return };
        let mut drained = self.drained.lock();
        if let Some(at) = drained.iter().position(|other| Arc::ptr_eq(other, resource)) {
            drained.remove(at);
        }
    }
}

impl ListenerManager {
    pub(super) fn drain(&self, listener: Arc<ActiveListener>) {
        listener.stop_accepting();
        self.counters.total_listeners_draining.inc();
        let state = listener.state.load();
        self.drained.lock().extend(state.resource.clone());
        let gone = Gone {
            counters: self.counters.clone(),
            drained: self.drained.clone(),
            resource: state.resource.clone(),
        };
        self.drain_chains(state.chains.all().cloned().collect(), Some(gone));
    }

    /// What the control plane's listeners were made of that drain, the first to drain first.
    pub fn draining(&self) -> Vec<Arc<Resource>> {
        self.drained.lock().clone()
    }

    /// Asks the connections of `chains` to leave, and closes them when the drain time is over.
    pub(super) fn drain_chains(&self, chains: Vec<Arc<FilterChain>>, listener: Option<Gone>) {
        if chains.is_empty() && listener.is_none() {
            return;
        }
        chains.iter().for_each(|chain| self.draining.ask(chain));
        // Of a listener that drains its chains are not counted beside it.
        let counted = if listener.is_none() { chains.len() } else { 0 };
        let counters = self.counters.clone();
        (0..counted).for_each(|_| counters.total_filter_chains_draining.inc());
        let drain_time = self.draining.time;
        self.workers.run(0, "drain", move || async move {
            clock::sleep(drain_time).await;
            chains.iter().for_each(|chain| chain.drain.advance(DrainPhase::Closed));
            (0..counted).for_each(|_| counters.total_filter_chains_draining.dec());
            drop(listener);
        });
    }
}
