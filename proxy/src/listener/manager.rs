//! Which listeners exist: applies a snapshot's listeners to the workers.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use remora_xds::Resource;

use super::active::{ActiveListener, Directory, ListenerState, Shared};
use super::balance::{ConnectionLimit, Loads};
use super::bind::{BindError, Bound, bind, listen};
use super::chain_match::FilterChain;
use super::stats::{InspectorStats, ManagerStats, Scope};
use super::{Direction, Inherit, ListenerConfig, accept};
use crate::runtime::drain::{Drain, DrainPhase};
use crate::runtime::io::Address;
use crate::runtime::worker::Workers;
use crate::telemetry::stats::Stats;
use addresses::{Sockets, duplicate_address, duplicates, refusal, sockets_of_a_neighbour};
use claims::Claims;
pub use draining::Draining;

mod addresses;
mod claims;
mod draining;

/// Owns every listener of the process.
pub struct ListenerManager {
    workers: Arc<Workers>,
    shared: Arc<Shared>,
    stats: Stats,
    counters: Arc<ManagerStats>,
    draining: Draining,
    /// What listeners that drain were made of, the first to drain first.
    drained: Arc<Mutex<Vec<Arc<Resource>>>>,
    active: Mutex<BTreeMap<Arc<str>, Arc<ActiveListener>>>,
    /// Locked after `active`, where both are.
    claims: Mutex<Claims>,
    /// Sockets are kept at hand for the next epoch.
    handing_over: bool,
    /// Where sockets of the epoch before come from.
    inherit: Option<Arc<dyn Inherit>>,
}

/// What happens when some listener cannot bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBindError {
    /// Nothing is applied: static listeners at startup.
    ApplyNothing,
    /// The others are applied: a dynamic update.
    ApplyOthers,
}

/// A listener with sockets that nobody accepts from yet.
struct Prepared {
    listener: Arc<ActiveListener>,
    /// Per address, one socket per worker.
    sockets: Vec<Vec<Bound>>,
}

impl ListenerManager {
    /// `max_connections`: of all listeners together.
    pub fn new(workers: Arc<Workers>, stats: &Stats, draining: Draining, max_connections: Option<u64>) -> Self {
        let counters: Arc<ManagerStats> = stats.group("listener_manager.");
        counters.workers_started.set(1);
        Self {
            shared: Arc::new(
                Shared::new(InspectorStats::new(stats))
                    .limited(ConnectionLimit::new(max_connections))
                    .balanced(&workers),
            ),
            workers,
            stats: stats.clone(),
            counters,
            draining,
            drained: Arc::default(),
            active: Mutex::default(),
            claims: Mutex::default(),
            handing_over: false,
            inherit: None,
        }
    }

    /// Takes part in hot restarts: keeps sockets at hand for the next epoch, and takes those of the epoch before.
    #[must_use]
    pub fn with_restart(mut self, inherit: Option<Arc<dyn Inherit>>) -> Self {
        self.handing_over = true;
        self.inherit = inherit;
        self
    }

    /// Copies of the sockets on an address of the configuration, for the next epoch. With port 0 the listener's name counts too.
    pub fn hand_over(&self, listener: &str, address: &str) -> Vec<OwnedFd> {
        let active = self.active.lock();
        for candidate in active.values() {
            for (configured, sockets) in &*candidate.sockets.lock() {
                let any_port = configured.ip().is_some_and(|ip| ip.port() == 0);
                if configured.to_string() == address && (!any_port || *candidate.name == *listener) {
                    return sockets
                        .iter()
                        .filter_map(|socket| socket.copy().ok())
                        .map(OwnedFd::from)
                        .collect();
                }
            }
        }
        Vec::new()
    }

    /// Makes sure that a listener of the control plane can have its addresses, before its update is accepted: binds them (nothing listens yet) and
    /// keeps the sockets until [`apply`](Self::apply) starts the listener.
    ///
    /// # Errors
    /// Why it cannot be had, in Envoy's words. What is there stays as it is.
    pub fn reserve(&self, config: &ListenerConfig) -> Result<(), String> {
        let active = self.active.lock();
        let mut claims = self.claims.lock();
        if let Some(address) = claims.conflict(config) {
            return Err(duplicate_address(&config.name, address));
        }
        let running = active.get(&config.name);
        let sockets = match running.map_or(Sockets::New, |listener| Sockets::after(listener, config)) {
            Sockets::Stay | Sockets::Settable => None,
            Sockets::Refused(reason) => return Err(reason),
            Sockets::New => {
                let reserved = claims.take_sockets(config);
                let sockets = reserved.map_or_else(|| self.bind_all(&active, config), Ok);
                Some(sockets.map_err(|error| {
                    self.counters.listener_create_failure.inc();
                    error.in_envoys_words()
                })?)
            }
        };
        claims.put(config, sockets);
        Ok(())
    }

    /// Lets go of what [`reserve`](Self::reserve) keeps for listeners that an update takes away.
    pub fn release(&self, gone: &dyn Fn(&str) -> bool) {
        self.claims.lock().release(gone);
    }

    /// Makes `wanted` the listeners of the process. What is equal by hash is not touched; what keeps its addresses keeps its sockets and the
    /// connections of its unchanged chains; what is gone stops accepting at once and drains.
    ///
    /// # Errors
    /// Every listener that could not have its address; see [`OnBindError`] for what then happened to the others.
    pub fn apply(
        &self,
        wanted: impl IntoIterator<Item = Arc<ListenerConfig>>,
        on_error: OnBindError,
    ) -> Result<(), Vec<BindError>> {
        let wanted: BTreeMap<Arc<str>, Arc<ListenerConfig>> =
            wanted.into_iter().map(|config| (config.name.clone(), config)).collect();
        let mut active = self.active.lock();
        let mut errors = duplicates(&wanted);
        let (mut prepared, mut updates) = (Vec::new(), Vec::new());
        for config in wanted.values() {
            let running = active.get(&config.name);
            let sockets = running.map_or(Sockets::New, |listener| Sockets::after(listener, config));
            match (running, sockets) {
                (Some(listener), _) if listener.state.load().hash == config.hash => {}
                (Some(listener), Sockets::Stay | Sockets::Settable) => updates.push((listener.clone(), config)),
                (_, Sockets::Refused(reason)) => errors.push(refusal(config, reason)),
                _ if errors.iter().any(|error| error.listener == config.name) => {}
                _ => match self.prepare(&active, config) {
                    Ok(listener) => prepared.push(listener),
                    Err(error) => errors.push(error),
                },
            }
        }
        self.counters.listener_create_failure.add(errors.len() as u64);
        if !errors.is_empty() && on_error == OnBindError::ApplyNothing {
            return Err(errors);
        }
        for (listener, config) in updates {
            self.update(&listener, config);
        }
        for listener in prepared {
            self.start(&mut active, listener);
        }
        let gone: Vec<_> = active
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(listener) = active.remove(&name) {
                self.counters.listener_removed.inc();
                self.drain(listener);
            }
        }
        self.counters.total_listeners_active.set(active.len() as u64);
        self.shared.directory.store(Arc::new(Directory::new(active.values())));
        if on_error == OnBindError::ApplyNothing {
            self.claims.lock().fix(wanted.values());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// All listeners, by name.
    pub fn listeners(&self) -> Vec<Arc<ActiveListener>> {
        self.active.lock().values().cloned().collect()
    }

    /// Where the listener `name` really listens; empty if there is none.
    pub fn addresses(&self, name: &str) -> Vec<Address> {
        self.active
            .lock()
            .get(name)
            .map(|listener| listener.addresses.clone())
            .unwrap_or_default()
    }

    /// Asks the connections of all listeners (or of the inbound ones) to leave, as `--drain-strategy` says, without closing a socket.
    pub fn drain_connections(&self, inbound_only: bool) {
        for listener in self.matching(inbound_only) {
            listener
                .state
                .load()
                .chains
                .all()
                .for_each(|chain| self.draining.ask(chain));
        }
    }

    /// Asks all connections at once, whatever the strategy: the process wants to end.
    pub fn hurry_connections(&self, inbound_only: bool) {
        for listener in self.matching(inbound_only) {
            let state = listener.state.load();
            let chains = state.chains.all();
            chains.for_each(|chain| chain.drain.advance(DrainPhase::Draining));
        }
    }

    /// Asks the connections of listeners that do not drain for changes only to leave, for as long as health checks are made to fail.
    pub fn set_unhealthy(&self, unhealthy: bool) {
        self.shared.unhealthy.store(unhealthy, Ordering::Relaxed);
        for listener in self.listeners() {
            listener.state.load().show_health(unhealthy);
        }
    }

    /// Closes the sockets of all listeners (or of the inbound ones); connections go on.
    pub fn stop_accepting(&self, inbound_only: bool) {
        for listener in self.matching(inbound_only) {
            listener.stop_accepting();
            self.counters.listener_stopped.inc();
        }
    }

    /// Closes every connection that is left.
    pub fn close_connections(&self) {
        for listener in self.listeners() {
            let state = listener.state.load();
            state
                .chains
                .all()
                .for_each(|chain| chain.drain.advance(DrainPhase::Closed));
        }
    }

    /// Whether anything is left to wait for once [`stop_accepting`](Self::stop_accepting) was called: a connection, of listeners that are gone
    /// too, or an accept loop that may be about to take one.
    pub fn is_busy(&self) -> bool {
        let accepting = |listener: &Arc<ActiveListener>| listener.stop.listeners() > 0;
        self.listeners().iter().any(accepting) || Arc::strong_count(&self.shared.open) > 1
    }

    fn matching(&self, inbound_only: bool) -> Vec<Arc<ActiveListener>> {
        let inbound = |listener: &Arc<ActiveListener>| listener.state.load().settings.direction == Direction::Inbound;
        let mut listeners = self.listeners();
        listeners.retain(|listener| !inbound_only || inbound(listener));
        listeners
    }

    /// Per address that is bound to a port: one socket per worker, which does not listen unless another listener or process left it so.
    fn bind_all(
        &self,
        active: &BTreeMap<Arc<str>, Arc<ActiveListener>>,
        config: &ListenerConfig,
    ) -> Result<Vec<Vec<Bound>>, BindError> {
        let addresses = config.addresses.iter().enumerate().filter(|_| config.bind_to_port);
        let bound = addresses.map(|(index, address)| {
            let inherited = self
                .inherit
                .as_ref()
                .map(|parent| parent.sockets(&config.name, address))
                .filter(|sockets| !sockets.is_empty());
            bind(
                &config.name,
                address,
                &config.settings.of_address(index),
                config.reuse_port,
                self.workers.len(),
                inherited.unwrap_or_else(|| sockets_of_a_neighbour(active, config, address)),
            )
        });
        bound.collect()
    }

    fn prepare(
        &self,
        active: &BTreeMap<Arc<str>, Arc<ActiveListener>>,
        config: &Arc<ListenerConfig>,
    ) -> Result<Prepared, BindError> {
        let reserved = self.claims.lock().take_sockets(config);
        let sockets = reserved.map_or_else(|| self.bind_all(active, config), Ok)?;
        let (mut addresses, mut handles) = (Vec::new(), Vec::new());
        let mut unused = sockets.iter();
        for (index, address) in config.addresses.iter().enumerate() {
            let Some(bound) = unused.next() else {
                addresses.push(address.clone());
                continue;
            };
            listen(bound, &config.name, address, &config.settings.of_address(index))?;
            // What cannot be bound twice is at hand for a listener that takes the address over.
            if self.handing_over || !config.reuse_port || address.ip().is_none() {
                // One that cannot be copied now cannot be handed over later; it serves all the same.
                handles.push((
                    address.clone(),
                    bound.iter().filter_map(|socket| socket.copy().ok()).collect(),
                ));
            }
            let actual = bound.first().and_then(Bound::address);
            addresses.push(actual.map_or_else(|| address.clone(), Address::Ip));
        }
        let prefix = config.settings.stat_prefix.as_deref();
        let state = ListenerState::new(config, None);
        state.show_health(self.shared.unhealthy.load(Ordering::Relaxed));
        let stats = Scope::new(&self.stats, prefix, addresses.first(), self.workers.len());
        stats.count(&state.chains);
        let listener = ActiveListener {
            name: config.name.clone(),
            stats,
            addresses,
            configured: config.addresses.clone(),
            bind_to_port: config.bind_to_port,
            reuse_port: config.reuse_port,
            state: ArcSwap::from_pointee(state),
            loads: Loads::new(self.workers.len()),
            limit: ConnectionLimit::new(config.settings.connection_limit),
            stop: Drain::new().0,
            sockets: Mutex::new(handles),
        };
        Ok(Prepared {
            listener: Arc::new(listener),
            sockets,
        })
    }

    /// Starts to accept; a listener of the same name that stood elsewhere drains.
    fn start(&self, active: &mut BTreeMap<Arc<str>, Arc<ActiveListener>>, prepared: Prepared) {
        let Prepared { listener, sockets } = prepared;
        for per_worker in sockets {
            for (index, socket) in per_worker.into_iter().enumerate() {
                let (shared, listener) = (self.shared.clone(), listener.clone());
                // There may be more sockets than workers: the epoch before may have had more.
                self.workers.run(index % self.workers.len().max(1), "accept", move || {
                    let stop = listener.stop.signal();
                    accept::run(shared, listener, socket, stop)
                });
            }
        }
        self.counters.listener_create_success.add(self.workers.len() as u64);
        match active.insert(listener.name.clone(), listener) {
            Some(old) => {
                self.counters.listener_modified.inc();
                self.drain(old);
            }
            None => self.counters.listener_added.inc(),
        }
    }

    /// Swaps the chains and settings of a listener that stays where it is.
    fn update(&self, listener: &Arc<ActiveListener>, config: &ListenerConfig) {
        let old = listener.state.load_full();
        let new = ListenerState::new(config, Some(&old));
        if !new.settings.finds_sockets_of(&old.settings) {
            listener.set(&new.settings);
        }
        let vanished: Vec<Arc<FilterChain>> = old
            .chains
            .all()
            .filter(|chain| !new.chains.all().any(|kept| Arc::ptr_eq(kept, chain)))
            .cloned()
            .collect();
        listener.stats.count(&new.chains);
        new.show_health(self.shared.unhealthy.load(Ordering::Relaxed));
        listener.state.store(Arc::new(new));
        // Each worker takes over the new chains.
        self.counters.listener_create_success.add(self.workers.len() as u64);
        self.counters.listener_modified.inc();
        self.counters.listener_in_place_updated.inc();
        self.drain_chains(vanished, None);
    }
}

#[cfg(test)]
mod tests;
