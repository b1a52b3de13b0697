//! A host: one endpoint of a cluster as configured now, and its state, which outlives the configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::runtime::io::Address;
use crate::tls::UpstreamTls;

/// One endpoint in one version of its cluster's endpoints.
pub struct Host {
    pub address: Address,
    pub hostname: Arc<str>,
    /// `load_balancing_weight`, 1 when unset.
    pub weight: u32,
    pub priority: u32,
    pub locality: Arc<Locality>,
    pub metadata: Option<Arc<remora_proto::pb::envoy::config::core::v3::Metadata>>,
    /// The transport socket for this host (after `transport_socket_matches`); `None` is plaintext.
    pub tls: Option<Arc<UpstreamTls>>,
    pub state: Arc<HostState>,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Clone)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

/// Survives every configuration change as long as (cluster name, address) lives.
#[derive(Default)]
pub struct HostState {
    /// Unique in the process: part of the pool key.
    pub id: u64,
    /// Bits of [`HealthFlag`].
    pub flags: AtomicU32,
    pub rq_active: AtomicU32,
    pub cx_active: AtomicU32,
    pub cx_total: AtomicU64,
    pub cx_connect_fail: AtomicU64,
    pub rq_total: AtomicU64,
    pub rq_success: AtomicU64,
    pub rq_error: AtomicU64,
    pub rq_timeout: AtomicU64,
    pub outlier: crate::cluster::outlier::HostOutlier,
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
}

/// Host states by (cluster name, address); an entry lives as long as somebody holds its state.
#[derive(Default)]
pub struct HostRegistry;
