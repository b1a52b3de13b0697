//! The resource types an xDS server knows, by type URL, by their usual short names and by the per-type gRPC method that serves them.

/// Every type URL starts with this.
pub const PREFIX: &str = "type.googleapis.com/";

/// `envoy.config.cluster.v3.Cluster`, served by CDS.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// `envoy.config.endpoint.v3.ClusterLoadAssignment`, served by EDS.
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// `envoy.config.listener.v3.Listener`, served by LDS.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// `envoy.config.route.v3.RouteConfiguration`, served by RDS.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// `envoy.config.route.v3.ScopedRouteConfiguration`, served by SRDS.
pub const SCOPED_ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
/// `envoy.config.route.v3.VirtualHost`, served by VHDS (delta only).
pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
/// `envoy.extensions.transport_sockets.tls.v3.Secret`, served by SDS.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// `envoy.service.runtime.v3.Runtime`, served by RTDS.
pub const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
/// `envoy.config.core.v3.TypedExtensionConfig`, served by ECDS.
pub const EXTENSION_CONFIG: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// The wrapper `envoy.service.discovery.v3.Resource`, which carries TTLs and heartbeats in SotW responses.
pub const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// One row of the table of served types.
#[derive(Debug)]
pub struct ServedType {
    /// The type URL.
    pub url: &'static str,
    /// Short name used on the command line, in scenarios and in printed transcripts.
    pub short: &'static str,
    /// Path of the state-of-the-world method that serves this type alone; empty where there is none.
    pub sotw_path: &'static str,
    /// Path of the delta method that serves this type alone.
    pub delta_path: &'static str,
}

/// Path of the aggregated state-of-the-world method.
pub const ADS_SOTW_PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
/// Path of the aggregated delta method.
pub const ADS_DELTA_PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// All served types, in the order in which go-control-plane pushes them (make before break).
pub static SERVED: [ServedType; 9] = [
    ServedType {
        url: CLUSTER,
        short: "cds",
        sotw_path: "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        delta_path: "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
    },
    ServedType {
        url: ENDPOINTS,
        short: "eds",
        sotw_path: "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        delta_path: "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
    },
    ServedType {
        url: LISTENER,
        short: "lds",
        sotw_path: "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        delta_path: "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
    },
    ServedType {
        url: ROUTE,
        short: "rds",
        sotw_path: "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        delta_path: "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
    },
    ServedType {
        url: SCOPED_ROUTE,
        short: "srds",
        sotw_path: "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
        delta_path: "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
    },
    ServedType {
        url: VIRTUAL_HOST,
        short: "vhds",
        sotw_path: "",
        delta_path: "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
    },
    ServedType {
        url: SECRET,
        short: "sds",
        sotw_path: "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        delta_path: "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    },
    ServedType {
        url: RUNTIME,
        short: "rtds",
        sotw_path: "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
        delta_path: "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
    },
    ServedType {
        url: EXTENSION_CONFIG,
        short: "ecds",
        sotw_path: "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
        delta_path: "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
    },
];

/// The type URL meant by `name`: a short name (`cds`), a message name (`envoy.config.cluster.v3.Cluster`) or a type URL itself.
pub fn resolve(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    if let Some(served) = SERVED.iter().find(|served| served.short == lower) {
        return served.url.to_owned();
    }
    if name.contains('/') {
        name.to_owned()
    } else {
        format!("{PREFIX}{name}")
    }
}

/// As [`resolve`], of the types that are served.
///
/// # Errors
/// There is no such type; the message says which there are.
pub fn known(name: &str) -> Result<String, String> {
    let url = resolve(name);
    if SERVED.iter().any(|served| served.url == url) {
        return Ok(url);
    }
    let all: Vec<_> = SERVED.iter().map(|served| served.short).collect();
    Err(format!("{name:?} is none of the types {}", all.join(", ")))
}

/// Short name of a type URL, or the URL itself when the type is not one of ours.
pub fn short(url: &str) -> &str {
    SERVED
        .iter()
        .find(|served| served.url == url)
        .map_or(url, |served| served.short)
}

/// True for the types of which a SotW response is the full state (CDS and LDS).
pub fn is_full_state(url: &str) -> bool {
    url == CLUSTER || url == LISTENER
}

/// Which variant of the protocol a gRPC method speaks, and the one type it is bound to (none for ADS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Delta (incremental) rather than state of the world.
    pub delta: bool,
    /// The only type served by the method; `None` for the aggregated ones.
    pub only: Option<&'static str>,
}

/// The method behind a request path, or `None` for a path that is not an xDS one.
pub fn method(path: &str) -> Option<Method> {
    match path {
        ADS_SOTW_PATH => {
            return Some(Method {
                delta: false,
                only: None,
            });
        }
        ADS_DELTA_PATH => {
            return Some(Method {
                delta: true,
                only: None,
            });
        }
        _ => {}
    }
    SERVED.iter().find_map(|served| {
        let delta = path == served.delta_path;
        (delta || path == served.sotw_path).then_some(Method {
            delta,
            only: Some(served.url),
        })
    })
}
