//! Builders for Envoy's messages: short where tests and demos are always the same, open (`edit`) where they are not.
//!
//! Each builder is a thin coat over one message. It goes into a [`crate::Snapshot`] or a push as it is, `build()` gives the message, and
//! `edit` reaches every field that has no method here. Nothing is validated: a test may want what is wrong.
//!
//! ```
//! use control_plane_mock::resources::*;
//! let listener = listener_http("ingress", "127.0.0.1", 10000, hcm("ingress").rds("local").websocket())
//!     .tls(tls_downstream("cert").validation("ca").require_client_certificate().alpn(["h2", "http/1.1"]));
//! let route = route_config("local")
//!     .vhost(["*"])
//!     .route("/api", "api")
//!     .with_route(prefix("/").weighted([("old", 90), ("new", 10)]).retry("5xx", 2));
//! let cluster = cluster_eds("api").http2().least_request().tls(tls_upstream("cert", "ca").san_uri_prefix("spiffe://td/"));
//! # let _ = (listener.build(), route.build(), cluster.build());
//! ```

use std::time::Duration;

use prost::{Message, Name};
use remora_proto::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use remora_proto::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use remora_proto::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, SocketAddress, TransportSocket, address,
    data_source, transport_socket,
};
use remora_proto::pb::google::protobuf::{Any, Duration as ProtoDuration, UInt32Value};

mod bootstrap;
mod cluster;
mod endpoints;
mod listener;
mod route;
mod secret;
mod tls;

pub use bootstrap::{Variant, bootstrap_ads, bootstrap_ads_with};
pub use cluster::{ClusterBuilder, Limits, cluster_dns, cluster_eds, cluster_static};
pub use endpoints::{EndpointBuilder, EndpointsBuilder, endpoint, endpoints, endpoints_of};
pub use listener::{HcmBuilder, ListenerBuilder, access_log_file, access_log_stdout, hcm, listener_http, listener_tcp};
pub use route::{RouteBuilder, RouteConfigBuilder, VhostBuilder, exact, prefix, route_config};
pub use secret::{secret_ca, secret_cert};
pub use tls::{DownstreamTlsBuilder, UpstreamTlsBuilder, tls_downstream, tls_upstream};

/// Gives a builder its way out (`build`, `From`, [`crate::IntoResource`]) and its way in (`edit`).
macro_rules! builder {
    ($(#[$doc:meta])* $name:ident => $message:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            message: $message,
        }

        impl $name {
            /// The message as it stands.
            pub fn build(self) -> $message {
                self.into()
            }

            /// Changes any field of the message.
            pub fn edit(mut self, change: impl FnOnce(&mut $message)) -> Self {
                change(&mut self.message);
                self
            }
        }

        impl crate::store::IntoResource for $name {
            fn into_any(self) -> remora_proto::pb::google::protobuf::Any {
                let message: $message = self.into();
                crate::store::IntoResource::into_any(message)
            }
        }
    };
}
pub(crate) use builder;

/// Packs a message.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// A socket address.
pub fn socket_address(address: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
            ..SocketAddress::default()
        })),
    }
}

/// "From the aggregated stream", waited for without a limit of its own.
pub fn from_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// Text inlined in a message.
pub fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    }
}

fn duration(duration: Duration) -> Option<ProtoDuration> {
    Some(ProtoDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn tls_socket(context: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}

fn strings<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(Into::into).collect()
}
