//! What the mock control plane tells the two sidecars.

use std::net::SocketAddr;
use std::time::Duration;

use control_plane_mock::resources::*;
use remora_proto::pb::envoy::config::core::v3::CidrRange;
use remora_proto::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, HttpProtocolOptions as Common};
use remora_proto::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use remora_proto::pb::envoy::config::route::v3::{
    RouteConfiguration, retry_policy::RetryHostPredicate, retry_policy::retry_host_predicate,
};
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, SetCurrentClientCertDetails,
};
use remora_proto::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use remora_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use remora_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use remora_proto::pb::google::protobuf::{StringValue, UInt32Value};

use super::mesh::{CLIENT_SPIFFE, SERVER_NAME, SERVER_SPIFFE};
use super::replica::{NAMES, Replica};
use control_plane_mock::Snapshot;

/// Secrets, by their SDS names.
pub const SERVER_CERT: &str = "server-cert";
pub const CLIENT_CERT: &str = "client-cert";
pub const CA: &str = "ca";

/// Listeners and clusters of the client sidecar.
pub const OUTBOUND_HTTP: &str = "outbound-http";
pub const OUTBOUND_TCP: &str = "outbound-tcp";
pub const ECHO: &str = "echo";
pub const CANARY: &str = "echo-canary";
pub const FRESH: &str = "echo-fresh";
pub const ECHO_TCP: &str = "echo-tcp";
pub const ROUTES: &str = "outbound";
/// Path of requests that each get a connection of their own to the server sidecar, thus a new handshake.
pub const FRESH_PATH: &str = "/fresh";
/// Path of the gRPC method.
pub const GRPC_PATH: &str = "/demo.Echo/Say";
/// Response header added by the route configuration.
pub const REVISION: &str = "x-demo-revision";
/// What it says at first.
pub const FIRST_REVISION: u32 = 1;

/// How soon a failing replica is ejected, and for how long at first.
const CONSECUTIVE_5XX: u32 = 3;
const EJECTION: Duration = Duration::from_millis(700);
const SWEEP: Duration = Duration::from_millis(100);
/// Retries of one request: more than failures that two replicas can give before both are ejected.
const RETRIES: u32 = 8;

/// Where the server sidecar listens for one replica.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    pub http: SocketAddr,
    pub tcp: SocketAddr,
}

/// Names of the server sidecar's listeners for a replica.
pub fn inbound_names(replica: &str) -> [String; 2] {
    [format!("inbound-{replica}"), format!("inbound-{replica}-tcp")]
}

/// Listeners and clusters of the server sidecar: one inbound listener per replica and protocol.
pub fn server(replicas: &[Replica]) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for (name, replica) in NAMES.iter().zip(replicas) {
        let [http, tcp] = inbound_names(name);
        let (h1, grpc, raw) = (
            format!("local-{name}"),
            format!("local-{name}-grpc"),
            format!("local-{name}-tcp"),
        );
        let routes = route_config(&http).vhost(["*"]).route(GRPC_PATH, &grpc).route("/", &h1);
        let hcm = hcm(&http).inline(routes);
        let hcm = HttpConnectionManager {
            forward_client_cert_details: ForwardClientCertDetails::SanitizeSet.into(),
            set_current_client_cert_details: Some(SetCurrentClientCertDetails {
                uri: true,
                ..Default::default()
            }),
            ..hcm.into()
        };
        let tls = || {
            tls_downstream(SERVER_CERT)
                .validation(CA)
                .require_client_certificate()
                .san_uri_exact(CLIENT_SPIFFE)
        };
        snapshot = snapshot
            .with(listener_http(&http, "127.0.0.1", 0, hcm).tls(tls().alpn(["h2", "http/1.1"])))
            .with(listener_tcp(&tcp, "127.0.0.1", 0, &raw).tls(tls()))
            .with(cluster_static(&h1, [("127.0.0.1", replica.http.port())]))
            .with(cluster_static(&grpc, [("127.0.0.1", replica.grpc.port())]).http2())
            .with(cluster_static(&raw, [("127.0.0.1", replica.tcp.port())]));
    }
    snapshot
}

/// Listeners, routes, clusters and endpoints of the client sidecar.
pub fn client(inbound: &[Inbound]) -> Snapshot {
    let tls = || {
        tls_upstream(CLIENT_CERT, CA)
            .sni(SERVER_NAME)
            .san_uri_exact(SERVER_SPIFFE)
    };
    let limits = Limits {
        retries: Some(1000),
        ..Limits::default()
    };
    let echo = |name: &str| {
        cluster_eds(name)
            .http2()
            .circuit_breakers(limits)
            .tls(tls().alpn(["h2"]))
    };
    let fresh = cluster_eds(FRESH)
        .eds_service_name(ECHO)
        .http_options(one_request_per_connection())
        .circuit_breakers(limits)
        .outlier(CONSECUTIVE_5XX, EJECTION, SWEEP)
        .tls(tls().alpn(["http/1.1"]));
    let http = |chosen: &[Inbound]| hosts(chosen.iter().map(|inbound| inbound.http));
    let (first, second) = inbound.split_at(inbound.len() / 2);
    Snapshot::new()
        .with(listener_outbound_http(""))
        .with(listener_tcp(OUTBOUND_TCP, "127.0.0.1", 0, ECHO_TCP))
        .with(routes(&[(ECHO, 100)], Retries::Off, FIRST_REVISION))
        .with(echo(ECHO).outlier(CONSECUTIVE_5XX, EJECTION, SWEEP))
        .with(echo(CANARY))
        .with(fresh)
        .with(cluster_eds(ECHO_TCP).tls(tls()))
        .with(
            endpoints_of(ECHO)
                .locality(0, "here", http(first))
                .locality(1, "there", http(second)),
        )
        .with(endpoints_of(CANARY).locality(0, "there", http(second.get(1..).unwrap_or_default())))
        // The two replicas that no scene takes down: nobody could save the connections of a lost one.
        .with(endpoints_of(ECHO_TCP).locality(0, "there", hosts(second.iter().map(|inbound| inbound.tcp))))
}

fn hosts(addresses: impl Iterator<Item = SocketAddr>) -> Vec<EndpointBuilder> {
    addresses.map(|address| endpoint("127.0.0.1", address.port())).collect()
}

/// Whether what failed is tried again: only where hosts themselves fail. All else has to be without a failure by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    Off,
    On,
}

/// The routes: everything by weight, `/fresh` apart. `revision` shows in each response.
pub fn routes(weights: &[(&str, u32)], retries: Retries, revision: u32) -> RouteConfiguration {
    let everything = match weights {
        [(cluster, _)] => prefix("/").cluster(cluster),
        weights => prefix("/").weighted(weights.iter().copied()),
    };
    let header = HeaderValueOption {
        header: Some(HeaderValue {
            key: REVISION.to_owned(),
            value: revision.to_string(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    };
    let route = |route| match retries {
        Retries::Off => route,
        Retries::On => resilient(route),
    };
    route_config(ROUTES)
        .vhost(["*"])
        .with_route(route(exact(FRESH_PATH).cluster(FRESH)))
        .with_route(route(everything))
        .edit(|config| config.response_headers_to_add.push(header))
        .build()
}

/// Retries what may be retried: an echo has no side effect.
fn resilient(route: RouteBuilder) -> RouteBuilder {
    let elsewhere = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(
            &PreviousHostsPredicate {},
        ))),
    };
    route
        .retry("5xx,unavailable", RETRIES)
        .retry_back_off(Duration::from_millis(5), Duration::from_millis(20))
        .edit_action(|action| {
            let policy = action.retry_policy.get_or_insert_default();
            policy.retry_host_predicate.push(elsewhere);
            policy.host_selection_retry_max_attempts = 3;
        })
}

/// The app's HTTP listener; `server_name` is Envoy's own when empty.
pub fn listener_outbound_http(server_name: &str) -> Listener {
    let server_name = server_name.to_owned();
    let hcm = hcm(OUTBOUND_HTTP).rds(ROUTES).edit(|hcm| hcm.server_name = server_name);
    listener_http(OUTBOUND_HTTP, "127.0.0.1", 0, hcm).build()
}

/// The same with an HTTP filter that nobody has.
pub fn listener_outbound_broken() -> Listener {
    let unknown = StringValue {
        value: "no filter".to_owned(),
    };
    let hcm = hcm(OUTBOUND_HTTP)
        .rds(ROUTES)
        .http_filter("demo.no_such_filter", &unknown);
    listener_http(OUTBOUND_HTTP, "127.0.0.1", 0, hcm).build()
}

/// The app's TCP listener with one more filter chain; the first one is as it was.
pub fn listener_outbound_tcp_grown() -> Listener {
    let mut listener = listener_tcp(OUTBOUND_TCP, "127.0.0.1", 0, ECHO_TCP).build();
    let elsewhere = CidrRange {
        address_prefix: "192.0.2.0".to_owned(),
        prefix_len: Some(UInt32Value { value: 24 }),
    };
    let filters = listener
        .filter_chains
        .first()
        .map(|chain| chain.filters.clone())
        .unwrap_or_default();
    listener.filter_chains.push(FilterChain {
        name: "elsewhere".to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            source_prefix_ranges: vec![elsewhere],
            ..FilterChainMatch::default()
        }),
        filters,
        ..FilterChain::default()
    });
    listener
}

fn one_request_per_connection() -> HttpProtocolOptions {
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Default::default())),
    };
    HttpProtocolOptions {
        common_http_protocol_options: Some(Common {
            max_requests_per_connection: Some(UInt32Value { value: 1 }),
            ..Common::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_tried_again_unless_hosts_fail() {
        use remora_proto::pb::envoy::config::route::v3::route::Action;
        let retrying = |retries| {
            let config = routes(&[(ECHO, 90), (CANARY, 10)], retries, 7);
            let routes = config.virtual_hosts.into_iter().flat_map(|host| host.routes);
            let retries = |action| matches!(action, Some(Action::Route(action)) if action.retry_policy.is_some());
            routes.map(|route| retries(route.action)).collect::<Vec<_>>()
        };
        assert_eq!(retrying(Retries::Off), [false, false]);
        assert_eq!(retrying(Retries::On), [true, true]);
    }
}
