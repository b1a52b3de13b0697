//! A host: one endpoint of a cluster as configured now, and its state, which outlives the configuration.

mod drains;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::bugs::{Bug, planted};
use crate::config::identity::Identity;
use crate::runtime::io::Address;
use crate::tcp::proxy_header::ProxyHeader;
use crate::tls::{UpstreamSocket, UpstreamTls};
use drains::Drains;

pub use super::registry::HostRegistry;

/// One endpoint in one version of its cluster's endpoints.
pub struct Host {
    pub address: Address,
    /// Which of the hosts with this address it is, where the configuration names that several times: the first is 0.
    pub twin: u32,
    /// `additional_addresses`: tried after `address` (happy eyeballs).
    pub additional_addresses: Box<[Address]>,
    pub hostname: Arc<str>,
    /// `load_balancing_weight`, 1 when unset.
    pub weight: u32,
    pub priority: u32,
    pub locality: Arc<Locality>,
    pub metadata: Option<Arc<remora_proto::pb::envoy::config::core::v3::Metadata>>,
    /// The transport socket for this host (after `transport_socket_matches`); `None` is plaintext.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Sent before all else (`upstream_proxy_protocol`).
    pub proxy_header: Option<Arc<ProxyHeader>>,
    /// Its transport socket is not supported: no connection to it comes about.
    pub unusable: bool,
    /// Of the transport socket's configuration; see [`UpstreamSocket::id`].
    pub socket_identity: Option<Arc<Identity>>,
    /// `health_check_config`, when the endpoint has one.
    pub health_check: Option<Arc<HealthCheckTarget>>,
    pub state: Arc<HostState>,
}

/// Where active checks of one endpoint go instead of to its address.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct HealthCheckTarget {
    pub address: Option<Address>,
    /// Overrides the port; 0 keeps it.
    pub port: u16,
    pub hostname: String,
    pub disabled: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Clone)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

impl From<remora_proto::pb::envoy::config::core::v3::Locality> for Locality {
    fn from(locality: remora_proto::pb::envoy::config::core::v3::Locality) -> Self {
        Self {
            region: locality.region,
            zone: locality.zone,
            sub_zone: locality.sub_zone,
        }
    }
}

/// See [`Host::key`].
pub type HostKey = (Address, u32);

impl Host {
    /// A plaintext host of weight 1 and priority 0 that nobody has state for yet.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            twin: 0,
            additional_addresses: Box::default(),
            hostname: Arc::from(""),
            weight: 1,
            priority: 0,
            locality: Arc::default(),
            metadata: None,
            tls: None,
            proxy_header: None,
            unusable: false,
            socket_identity: None,
            health_check: None,
            state: Arc::new(HostState::new()),
        }
    }

    /// What tells it apart from the other hosts of its cluster, and connects it to its state.
    pub fn key(&self) -> HostKey {
        (self.address.clone(), self.twin)
    }

    /// Takes the transport socket that was chosen for it.
    pub fn use_socket(&mut self, socket: UpstreamSocket) {
        self.tls = socket.tls;
        self.proxy_header = socket.header;
        self.unusable = socket.unusable;
        self.socket_identity = socket.identity;
    }

    /// `disable_active_health_check`
    pub fn refuses_checks(&self) -> bool {
        self.health_check.as_ref().is_some_and(|target| target.disabled)
    }

    /// Whether active checks of `other` go to another place, or only one of the two is checked.
    pub(super) fn is_checked_unlike(&self, other: &Host) -> bool {
        let place = |host: &Host| {
            let target = host.health_check.as_deref().cloned().unwrap_or_default();
            (target.disabled, target.address, target.port)
        };
        place(self) != place(other)
    }

    /// The transport socket that was chosen for it.
    pub fn socket(&self) -> UpstreamSocket {
        UpstreamSocket {
            tls: self.tls.clone(),
            header: self.proxy_header.clone(),
            unusable: self.unusable,
            identity: self.socket_identity.clone(),
        }
    }

    /// [`UpstreamSocket::id`]
    pub fn socket_id(&self) -> u64 {
        self.socket_identity.as_ref().map_or(0, |identity| identity.id())
    }

    /// Whether it is in another priority or locality now: to Envoy it is another host there.
    pub fn has_moved(&self, other: &Host) -> bool {
        self.priority != other.priority || self.locality != other.locality
    }

    /// Whether `other` is this very endpoint with the same attributes, so that either may stand for both.
    pub fn same(&self, other: &Host) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (None, None) => true,
            _ => false,
        };
        same_tls
            && self.proxy_header == other.proxy_header
            && self.unusable == other.unusable
            && Arc::ptr_eq(&self.state, &other.state)
            && self.address == other.address
            && self.additional_addresses == other.additional_addresses
            && self.hostname == other.hostname
            && (self.weight, self.priority) == (other.weight, other.priority)
            && self.locality == other.locality
            && self.metadata == other.metadata
            && self.health_check == other.health_check
    }
}

/// Survives every configuration change as long as (cluster name, address) lives.
#[derive(Default)]
pub struct HostState {
    /// Unique in the process: part of the pool key.
    pub id: u64,
    /// Bits of [`HealthFlag`].
    pub flags: AtomicU32,
    pub rq_active: AtomicU32,
    /// Requests that wait for a connection to it.
    pub rq_pending_active: AtomicU32,
    pub cx_active: AtomicU32,
    /// Pooled connections, those that are still connecting included.
    pub(crate) cx_claimed: AtomicU32,
    pub cx_total: AtomicU64,
    pub cx_connect_fail: AtomicU64,
    pub rq_total: AtomicU64,
    pub rq_success: AtomicU64,
    pub rq_error: AtomicU64,
    pub rq_timeout: AtomicU64,
    pub outlier: crate::cluster::outlier::HostOutlier,
    /// For `PeakEwma`.
    pub rtt: crate::cluster::lb::peak_ewma::Average,
    /// In how many clusters' endpoints this host is now; see [`HostState::is_member`].
    pub(super) members: AtomicU32,
    pub(super) checked: AtomicBool,
    /// An answer to a request failed the host since its last check.
    pub(super) failed_passively: AtomicBool,
    /// Goes up when active checks of the host begin anew, or end.
    pub(super) check_epoch: AtomicU32,
    pub(super) ramp: super::slow_start::Ramp,
    drains: Drains,
}

impl HostState {
    /// State with an id of its own.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            ..Self::default()
        }
    }

    pub fn has(&self, flag: HealthFlag) -> bool {
        self.flags.load(Ordering::Relaxed) & flag as u32 != 0
    }

    /// Sets or clears `flag`; true if that changed something.
    pub fn set(&self, flag: HealthFlag, on: bool) -> bool {
        let bit = flag as u32;
        let before = match on {
            true => self.flags.fetch_or(bit, Ordering::Relaxed),
            false => self.flags.fetch_and(!bit, Ordering::Relaxed),
        };
        (before & bit != 0) != on
    }

    /// A request to it ended well, or did not.
    pub fn count_outcome(&self, success: bool) {
        let counter = if success { &self.rq_success } else { &self.rq_error };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Coarse health, from the flags.
    pub fn health(&self) -> Health {
        const UNHEALTHY: u32 = HealthFlag::FailedActiveHc as u32
            | HealthFlag::FailedOutlierCheck as u32
            | HealthFlag::FailedEdsHealth as u32
            | HealthFlag::EdsStatusDraining as u32;
        const DEGRADED: u32 = HealthFlag::DegradedActiveHc as u32
            | HealthFlag::DegradedEdsHealth as u32
            | HealthFlag::DegradedOutlierDetection as u32;
        let flags = self.flags.load(Ordering::Relaxed);
        let is_degraded = flags & DEGRADED != 0 && !planted(Bug::DegradedIsHealthy);
        match (flags & UNHEALTHY != 0, is_degraded) {
            (true, _) => Health::Unhealthy,
            (false, true) => Health::Degraded,
            (false, false) => Health::Healthy,
        }
    }

    /// Whether some cluster's endpoints still contain this host. When not, pools finish what runs and open nothing new.
    pub fn is_member(&self) -> bool {
        self.members.load(Ordering::Relaxed) != 0
    }

    /// One more cluster has this host.
    pub(super) fn joined(&self) {
        self.members.fetch_add(1, Ordering::Relaxed);
    }

    /// One cluster less has this host.
    pub(super) fn left(&self) {
        self.members.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether an active health check has ever finished.
    pub(super) fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    /// Active checks begin anew or end: nothing that they found counts any more.
    pub(super) fn forget_checks(&self) {
        self.check_epoch.fetch_add(1, Ordering::Relaxed);
        self.checked.store(false, Ordering::Relaxed);
        self.failed_passively.store(false, Ordering::Relaxed);
        for flag in [
            HealthFlag::FailedActiveHc,
            HealthFlag::DegradedActiveHc,
            HealthFlag::PendingActiveHc,
            HealthFlag::ExcludedViaImmediateHcFail,
            HealthFlag::ActiveHcTimeout,
        ] {
            self.set(flag, false);
        }
    }

    /// The flags as `/clusters` prints them: `healthy`, or `/failed_eds_health/…`.
    pub fn flags_text(&self) -> String {
        let mut text = String::new();
        for (flag, name) in HEALTH_FLAGS {
            if self.has(flag) {
                // Writing to a string cannot fail.
                let _ = write!(text, "/{name}");
            }
        }
        if text.is_empty() {
            text.push_str("healthy");
        }
        text
    }
}

/// How usable a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Unhealthy,
    Degraded,
    Healthy,
}

/// Why a host is not healthy; Envoy's names in `/clusters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HealthFlag {
    FailedActiveHc = 1,
    FailedOutlierCheck = 1 << 1,
    FailedEdsHealth = 1 << 2,
    DegradedActiveHc = 1 << 3,
    DegradedEdsHealth = 1 << 4,
    PendingDynamicRemoval = 1 << 5,
    PendingActiveHc = 1 << 6,
    ExcludedViaImmediateHcFail = 1 << 7,
    ActiveHcTimeout = 1 << 8,
    EdsStatusDraining = 1 << 9,
    DegradedOutlierDetection = 1 << 10,
}

/// In the order of Envoy's `/clusters`.
const HEALTH_FLAGS: [(HealthFlag, &str); 11] = [
    (HealthFlag::FailedActiveHc, "failed_active_hc"),
    (HealthFlag::FailedOutlierCheck, "failed_outlier_check"),
    (HealthFlag::FailedEdsHealth, "failed_eds_health"),
    (HealthFlag::DegradedActiveHc, "degraded_active_hc"),
    (HealthFlag::DegradedEdsHealth, "degraded_eds_health"),
    (HealthFlag::PendingDynamicRemoval, "pending_dynamic_removal"),
    (HealthFlag::PendingActiveHc, "pending_active_hc"),
    (HealthFlag::ExcludedViaImmediateHcFail, "excluded_via_immediate_hc_fail"),
    (HealthFlag::ActiveHcTimeout, "active_hc_timeout"),
    (HealthFlag::EdsStatusDraining, "eds_status_draining"),
    (HealthFlag::DegradedOutlierDetection, "degraded_outlier_detection"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_as_envoy_prints_them() {
        let state = HostState::new();
        assert_eq!(
            (state.flags_text().as_str(), state.health()),
            ("healthy", Health::Healthy)
        );
        assert!(state.set(HealthFlag::DegradedEdsHealth, true));
        assert_eq!(state.health(), Health::Degraded);
        assert!(state.set(HealthFlag::FailedOutlierCheck, true));
        assert!(!state.set(HealthFlag::FailedOutlierCheck, true));
        assert_eq!(state.flags_text(), "/failed_outlier_check/degraded_eds_health");
        assert_eq!(state.health(), Health::Unhealthy);
    }
}
