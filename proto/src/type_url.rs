//! Type URLs: `type.googleapis.com/` and a message's full name.

/// What Envoy and every control plane put before the name.
pub const PREFIX: &str = "type.googleapis.com/";

pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const LOCALITY_ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint";
pub const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub const SCOPED_ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
pub const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
pub const EXTENSION_CONFIG: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
pub const XDS_TYPED_STRUCT: &str = "type.googleapis.com/xds.type.v3.TypedStruct";
pub const UDPA_TYPED_STRUCT: &str = "type.googleapis.com/udpa.type.v1.TypedStruct";

/// The full name in a type URL: what follows the last slash.
pub fn full_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

/// The type URL of a message's full name.
pub fn type_url(full_name: &str) -> String {
    format!("{PREFIX}{full_name}")
}

/// Whether the message is one of the two `TypedStruct`s, whose value stands for another message.
pub fn is_typed_struct(full_name: &str) -> bool {
    matches!(full_name, "xds.type.v3.TypedStruct" | "udpa.type.v1.TypedStruct")
}
