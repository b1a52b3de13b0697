//! Resource types as data: everything the protocol machine and the store need to know of one, in one row.

use std::fmt;

/// One kind of xDS resource. A type that is not in this file works too: make a `static` of it.
pub struct TypeInfo {
    /// Full type URL, `type.googleapis.com/...`.
    pub url: &'static str,
    /// The name that stats and logs use: `cds`, `eds`, ...
    pub short: &'static str,
    /// Path of the SotW rpc of the type's own service; empty where there is none.
    pub sotw_path: &'static str,
    /// Path of the delta rpc of the type's own service; empty where there is none.
    pub delta_path: &'static str,
    /// A SotW response is the whole set: what it does not list is gone (CDS and LDS only).
    pub full_state: bool,
    /// A delta removal (or an expired TTL) of a requested name deletes it. Off for what only its parent can end: an assignment, a
    /// route configuration, a secret.
    pub removal_deletes: bool,
    /// A parent that replaces a version in use waits even for what the control plane says there is none of (RDS only).
    pub waits_for_absent: bool,
    /// A changed parent wants a new copy of this resource before it is published (EDS only).
    pub fresh_on_change: bool,
    /// Removals of one response come before its additions, so that an address can move between names (LDS only).
    pub removals_first: bool,
    /// An entry without payload and with the held version only refreshes its TTL.
    pub heartbeats: bool,
    /// A file of this type may hold nothing: what is known stays (EDS and RDS).
    pub may_be_silent: bool,
    /// Each subscribed resource has counters of its own (Envoy: `sds.<name>.`, `http.<prefix>.rds.<name>.`). Off for what comes by the ten
    /// thousand.
    pub counted_by_name: bool,
    /// Where additions of this type stand in an update; removals stand in reverse, after all additions.
    pub rank: u8,
    /// Short names of types that send no request while a response of this type is applied.
    pub pauses: &'static [&'static str],
}

/// How resource types are passed around. Equality is by type URL.
pub type ResourceType = &'static TypeInfo;

impl PartialEq for TypeInfo {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl Eq for TypeInfo {}

impl fmt::Debug for TypeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short)
    }
}

/// The row most types are a variation of.
const LEAF: TypeInfo = TypeInfo {
    url: "",
    short: "",
    sotw_path: "",
    delta_path: "",
    full_state: false,
    removal_deletes: false,
    waits_for_absent: false,
    fresh_on_change: false,
    removals_first: false,
    heartbeats: true,
    may_be_silent: false,
    counted_by_name: false,
    rank: 9,
    pauses: &[],
};

pub static CLUSTER: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    short: "cds",
    sotw_path: "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
    delta_path: "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
    full_state: true,
    removal_deletes: true,
    rank: 2,
    pauses: &["eds", "sds"],
    ..LEAF
};

pub static ASSIGNMENT: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    short: "eds",
    sotw_path: "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
    delta_path: "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
    fresh_on_change: true,
    may_be_silent: true,
    rank: 1,
    ..LEAF
};

pub static LISTENER: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.config.listener.v3.Listener",
    short: "lds",
    sotw_path: "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
    delta_path: "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
    full_state: true,
    removal_deletes: true,
    removals_first: true,
    rank: 6,
    pauses: &["rds", "srds", "sds"],
    ..LEAF
};

pub static ROUTE: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    short: "rds",
    sotw_path: "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
    delta_path: "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
    waits_for_absent: true,
    may_be_silent: true,
    counted_by_name: true,
    rank: 4,
    ..LEAF
};

pub static SCOPED_ROUTE: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
    short: "srds",
    sotw_path: "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
    delta_path: "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
    removal_deletes: true,
    rank: 5,
    ..LEAF
};

pub static VIRTUAL_HOST: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.config.route.v3.VirtualHost",
    short: "vhds",
    delta_path: "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
    heartbeats: false,
    removal_deletes: true,
    rank: 3,
    ..LEAF
};

pub static SECRET: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    short: "sds",
    sotw_path: "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
    delta_path: "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    counted_by_name: true,
    rank: 0,
    ..LEAF
};

pub static RUNTIME: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.service.runtime.v3.Runtime",
    short: "rtds",
    sotw_path: "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
    delta_path: "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
    removal_deletes: true,
    counted_by_name: true,
    rank: 0,
    ..LEAF
};

pub static EXTENSION_CONFIG: TypeInfo = TypeInfo {
    url: "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    short: "ecds",
    sotw_path: "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
    delta_path: "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
    counted_by_name: true,
    rank: 3,
    ..LEAF
};

/// Istio's workload metadata (WDS): wildcard over ADS only.
pub static WORKLOAD: TypeInfo = TypeInfo {
    url: "type.googleapis.com/istio.workload.Workload",
    short: "wds",
    removal_deletes: true,
    rank: 7,
    ..LEAF
};

/// No xDS type: owners of references outside xDS (bootstrap clusters and listeners). One is published once its references have arrived.
pub static PINNED: TypeInfo = TypeInfo {
    short: "pinned",
    removal_deletes: true,
    rank: 8,
    ..LEAF
};

/// The full name in front of a wrapped SotW resource.
pub(crate) const WRAPPER_URL: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// Every type of this file that a control plane can send.
pub static ALL: [ResourceType; 10] = [
    &CLUSTER,
    &ASSIGNMENT,
    &LISTENER,
    &ROUTE,
    &SCOPED_ROUTE,
    &VIRTUAL_HOST,
    &SECRET,
    &RUNTIME,
    &EXTENSION_CONFIG,
    &WORKLOAD,
];

/// The row of a type URL.
pub fn by_url(url: &str) -> Option<ResourceType> {
    ALL.iter().copied().find(|ty| ty.url == url)
}
