//! A listener that runs: its identity over updates, and what its accept loops and connections share.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::balance::{ConnectionLimit, Loads};
use super::bind::{Bound, set_mode};
use super::chain_match::ChainTable;
use super::stats::{InspectorStats, Scope};
use super::{ListenerConfig, ListenerSettings};
use crate::runtime::drain::{Drain, DrainPhase};
use crate::runtime::io::Address;
use crate::runtime::worker::Workers;
use crate::telemetry::access_log::AccessLog;

/// One listener by name; an update swaps [`state`](Self::state), the sockets stay.
pub struct ActiveListener {
    pub name: Arc<str>,
    /// Where it listens; port 0 of the configuration is a real port here.
    pub addresses: Vec<Address>,
    /// As configured, to tell whether an update moves it.
    pub configured: Vec<Address>,
    pub bind_to_port: bool,
    pub reuse_port: bool,
    pub state: ArcSwap<ListenerState>,
    pub stats: Scope,
    pub loads: Loads,
    pub limit: ConnectionLimit,
    /// Advanced to stop accepting.
    pub stop: Drain,
    /// Its sockets once more, by address as configured, where a next epoch may ask for them.
    pub sockets: Mutex<Vec<(Address, Vec<Bound>)>>,
}

impl ActiveListener {
    /// Closes the sockets; connections go on.
    pub fn stop_accepting(&self) {
        self.sockets.lock().clear();
        self.stop.advance(DrainPhase::Draining);
    }

    /// Gives the sockets at hand what can be changed of them: their backlog, and the modes of pipes.
    pub fn set(&self, settings: &ListenerSettings) {
        for (index, (address, sockets)) in self.sockets.lock().iter().enumerate() {
            let settings = settings.of_address(index);
            let listening = sockets.iter().try_for_each(|socket| socket.listen(settings.backlog));
            if let Err(error) = listening.and_then(|()| set_mode(address, settings.pipe_mode)) {
                tracing::warn!(listener = %self.name, %address, %error, "cannot change a socket");
            }
        }
    }
}

/// What an update swaps.
pub struct ListenerState {
    pub hash: u64,
    pub settings: ListenerSettings,
    pub chains: ChainTable,
    pub access_logs: Arc<[AccessLog]>,
    /// What the control plane sent.
    pub resource: Option<Arc<remora_xds::Resource>>,
}

impl ListenerState {
    /// The state that `config` asks for; chains that `old` has too live on.
    pub fn new(config: &ListenerConfig, old: Option<&Self>) -> Self {
        let empty = ChainTable::default();
        Self {
            hash: config.hash,
            settings: config.settings.clone(),
            access_logs: config.access_logs.clone(),
            resource: config.resource.clone(),
            chains: config.chains.adopting(old.map_or(&empty, |old| &old.chains)),
        }
    }

    /// Connections are asked to leave for as long as health checks are made to fail, unless the listener drains for changes only.
    pub fn show_health(&self, unhealthy: bool) {
        let asks = unhealthy && !self.settings.drain_modify_only;
        self.chains.all().for_each(|chain| chain.drain.set_unhealthy(asks));
    }
}

/// What all connections of the process share.
pub struct Shared {
    pub directory: ArcSwap<Directory>,
    pub inspectors: InspectorStats,
    /// Held once by every connection, from accept to end.
    pub open: Arc<()>,
    pub limit: ConnectionLimit,
    /// Health checks are made to fail (`/healthcheck/fail`).
    pub(super) unhealthy: AtomicBool,
    /// To hand connections over; they own what holds this.
    pub workers: Weak<Workers>,
    pub(super) connection_ids: AtomicU64,
}

impl Shared {
    /// Without a limit, and with nobody to hand a connection to.
    pub fn new(inspectors: InspectorStats) -> Self {
        Self {
            directory: ArcSwap::default(),
            limit: ConnectionLimit::default(),
            unhealthy: AtomicBool::new(false),
            workers: Weak::new(),
            inspectors,
            open: Arc::default(),
            connection_ids: AtomicU64::new(0),
        }
    }

    /// With a limit of all connections together.
    pub fn limited(self, limit: ConnectionLimit) -> Self {
        Self { limit, ..self }
    }

    /// With workers to hand connections over to.
    pub fn balanced(self, workers: &Arc<Workers>) -> Self {
        Self {
            workers: Arc::downgrade(workers),
            ..self
        }
    }

    /// Unique in the process, from 0 up.
    pub fn next_connection_id(&self) -> u64 {
        self.connection_ids.fetch_add(1, Ordering::Relaxed)
    }
}

/// Listeners by address, for the hand-off of `use_original_dst`.
#[derive(Default)]
pub struct Directory(HashMap<SocketAddr, Arc<ActiveListener>>);

impl Directory {
    pub fn new<'a>(listeners: impl Iterator<Item = &'a Arc<ActiveListener>>) -> Self {
        let mut map = HashMap::new();
        for listener in listeners {
            for address in listener.addresses.iter().filter_map(Address::ip) {
                map.insert(address, listener.clone());
            }
        }
        Self(map)
    }

    /// The listener of exactly this address, else of the wildcard address with this port.
    pub fn find(&self, destination: SocketAddr) -> Option<&Arc<ActiveListener>> {
        let wildcard = match destination {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, destination.port())),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, destination.port())),
        };
        self.0.get(&destination).or_else(|| self.0.get(&wildcard))
    }
}
