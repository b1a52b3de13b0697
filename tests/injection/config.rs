//! Bootstraps in the shape of what istiod sends, the addresses apart: virtual outbound and inbound, protocol detection, mutual TLS by static
//! certificates.

use control_plane_mock::pki::{Authority, Identity, Leaf};
use serde_json::{Value, json};

/// Who may talk to whom.
pub struct Trust {
    authority: Authority,
}

impl Trust {
    pub fn new() -> Self {
        Self {
            authority: Authority::new("root").unwrap(),
        }
    }

    pub fn identity(&self, account: &str) -> Identity {
        let leaf = Leaf::spiffe("cluster.local", "default", account);
        self.authority.issue(&leaf).unwrap()
    }

    fn common(&self, identity: &Identity, alpn: &[&str]) -> Value {
        json!({
            "tls_certificates": [{
                "certificate_chain": {"inline_string": identity.chain_pem},
                "private_key": {"inline_string": identity.key_pem},
            }],
            "validation_context": {"trusted_ca": {"inline_string": self.authority.root_pem()}},
            "alpn_protocols": alpn,
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        })
    }

    fn upstream(&self, identity: &Identity, alpn: &[&str]) -> Value {
        socket(
            "Upstream",
            json!({"common_tls_context": self.common(identity, alpn), "sni": "outbound_.80_._.orders"}),
        )
    }

    fn downstream(&self, identity: &Identity, alpn: &[&str]) -> Value {
        let context = json!({"common_tls_context": self.common(identity, alpn), "require_client_certificate": true});
        socket("Downstream", context)
    }
}

fn socket(side: &str, mut context: Value) -> Value {
    let kind = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    context["@type"] = kind.into();
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

/// A service that the client's sidecar knows: where it is called, and who serves it.
pub struct Service {
    pub name: &'static str,
    /// HTTP services listen on the port of any address, others on their own.
    pub address: &'static str,
    pub port: u16,
    pub kind: Kind,
    pub endpoint: (&'static str, u16),
    /// With mutual TLS.
    pub mutual: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Http,
    Grpc,
    Tcp,
}

/// How a pod's sidecar takes its inbound traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Redirect,
    Tproxy,
}

/// Ports of the application behind every sidecar, which the sidecar knows; others go through as they are.
pub const HTTP: u16 = 8080;
pub const GRPC: u16 = 9090;
/// The server speaks first; mutual TLS or plaintext is told apart by the first bytes.
pub const MYSQL: u16 = 3306;
/// The server speaks first, in plaintext: nothing may wait for the client.
pub const PLAIN: u16 = 3307;

/// The bootstrap of a sidecar that is `identity` and calls `services`.
pub fn bootstrap(trust: &Trust, identity: &Identity, services: &[Service], mode: Mode) -> String {
    let mut listeners = vec![virtual_outbound(mode), virtual_inbound(trust, identity, mode)];
    let mut clusters = vec![
        original_dst("PassthroughCluster", false),
        original_dst("InboundPassthroughCluster", true),
        json!({"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "10s"}),
    ];
    for port in [HTTP, GRPC, MYSQL, PLAIN] {
        let mut cluster = original_dst(&inbound(port), true);
        if port == GRPC {
            cluster["typed_extension_protocol_options"] = http2();
        }
        clusters.push(cluster);
    }
    for service in services {
        clusters.push(outbound_cluster(trust, identity, service));
        listeners.push(outbound_listener(service));
    }
    let admin = json!({"socket_address": {"address": "127.0.0.1", "port_value": 15000}});
    let bootstrap = json!({
        "node": {"id": "sidecar~10.77.0.1~pod.default~default.svc.cluster.local", "cluster": "pod.default"},
        "admin": {"address": admin},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    });
    bootstrap.to_string()
}

fn inbound(port: u16) -> String {
    format!("inbound|{port}||")
}

fn outbound(service: &Service) -> String {
    format!("outbound|{}||{}", service.port, service.name)
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn both(port: u16, rest: Value) -> Value {
    let mut listener = json!({
        "address": address("0.0.0.0", port),
        "additional_addresses": [{"address": address("::", port)}],
    });
    let all = listener.as_object_mut().unwrap();
    all.extend(rest.as_object().unwrap().clone());
    listener
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster, "cluster": cluster,
    }})
}

fn http_manager(prefix: &str, cluster: &str, extra: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "use_remote_address": false,
        "route_config": {"name": prefix, "virtual_hosts": [{
            "name": prefix, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
        }]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        }}],
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

fn http2() -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }})
}

/// To wherever the connection was going; what goes to the application comes from 127.0.0.6.
fn original_dst(name: &str, to_application: bool) -> Value {
    let mut cluster = json!({
        "name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s",
    });
    if to_application {
        cluster["upstream_bind_config"] = json!({
            "source_address": {"address": "127.0.0.6", "port_value": 0},
            "extra_source_addresses": [{"address": {"address": "::6", "port_value": 0}}],
        });
    }
    cluster
}

fn outbound_cluster(trust: &Trust, identity: &Identity, service: &Service) -> Value {
    let (ip, port) = service.endpoint;
    let name = outbound(service);
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(ip, port)}}]}]},
    });
    if service.kind == Kind::Grpc {
        cluster["typed_extension_protocol_options"] = http2();
    }
    if service.mutual {
        let alpn: &[&str] = match service.kind {
            Kind::Http => &["istio-http/1.1"],
            Kind::Grpc => &["istio-h2"],
            Kind::Tcp => &["istio"],
        };
        cluster["transport_socket"] = trust.upstream(identity, alpn);
    }
    cluster
}

fn outbound_listener(service: &Service) -> Value {
    let cluster = outbound(service);
    match service.kind {
        Kind::Http | Kind::Grpc => both(
            service.port,
            json!({
                "name": format!("0.0.0.0_{}", service.port),
                "bind_to_port": false,
                "traffic_direction": "OUTBOUND",
                "listener_filters": [tls_inspector(json!(null)), http_inspector(json!(null))],
                "listener_filters_timeout": "0s",
                "continue_on_listener_filters_timeout": true,
                "filter_chains": [{
                    "filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]},
                    "filters": [http_manager(&cluster, &cluster, json!({}))],
                }],
                "default_filter_chain": {"name": "PassthroughFilterChain", "filters": [tcp_proxy("PassthroughCluster")]},
            }),
        ),
        Kind::Tcp => json!({
            "name": format!("{}_{}", service.address, service.port),
            "address": address(service.address, service.port),
            "bind_to_port": false,
            "traffic_direction": "OUTBOUND",
            "filter_chains": [{"filters": [tcp_proxy(&cluster)]}],
        }),
    }
}

fn virtual_outbound(mode: Mode) -> Value {
    both(
        15001,
        json!({
            "name": "virtualOutbound",
            "use_original_dst": true,
            "transparent": mode == Mode::Tproxy,
            "traffic_direction": "OUTBOUND",
            "max_connections_to_accept_per_socket_event": 1,
            "filter_chains": [
                {
                    "name": "virtualOutbound-blackhole",
                    "filter_chain_match": {"destination_port": 15001},
                    "filters": [tcp_proxy("BlackHoleCluster")],
                },
                {"name": "virtualOutbound-catchall-tcp", "filters": [tcp_proxy("PassthroughCluster")]},
            ],
        }),
    )
}

fn virtual_inbound(trust: &Trust, identity: &Identity, mode: Mode) -> Value {
    let mut listener_filters = vec![json!({"name": "envoy.filters.listener.original_dst", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    }})];
    if mode == Mode::Tproxy {
        listener_filters.push(json!({"name": "envoy.filters.listener.original_src", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc", "mark": 1337,
        }}));
    }
    let port = |port: u16| json!({"destination_port_range": {"start": port, "end": port + 1}});
    let disabled =
        |ports: &[u16]| json!({"or_match": {"rules": ports.iter().map(|each| port(*each)).collect::<Vec<_>>()}});
    listener_filters.push(tls_inspector(disabled(&[15006, PLAIN])));
    listener_filters.push(http_inspector(disabled(&[15006, HTTP, GRPC, MYSQL, PLAIN])));

    let mutual = [
        "istio",
        "istio-peer-exchange",
        "istio-http/1.0",
        "istio-http/1.1",
        "istio-h2",
    ];
    let tls = trust.downstream(identity, &["istio-h2", "istio-http/1.1", "istio", "h2", "http/1.1"]);
    let mut chains = vec![json!({
        "name": "virtualInbound-blackhole",
        "filter_chain_match": {"destination_port": 15006},
        "filters": [tcp_proxy("BlackHoleCluster")],
    })];
    for known in [HTTP, GRPC, MYSQL, PLAIN] {
        let filter = if known == HTTP || known == GRPC {
            let forward = json!({"forward_client_cert_details": "APPEND_FORWARD", "set_current_client_cert_details": {"uri": true}});
            http_manager(&format!("inbound_{known}"), &inbound(known), forward)
        } else {
            tcp_proxy(&inbound(known))
        };
        if known != PLAIN {
            chains.push(json!({
                "name": format!("0.0.0.0_{known}"),
                "filter_chain_match": {"destination_port": known, "transport_protocol": "tls", "application_protocols": mutual},
                "transport_socket": tls,
                "filters": [filter],
            }));
        }
        chains.push(json!({
            "name": format!("0.0.0.0_{known}"),
            "filter_chain_match": {"destination_port": known, "transport_protocol": "raw_buffer"},
            "filters": [filter],
        }));
    }
    let passthrough = "InboundPassthroughCluster";
    chains.push(json!({
        "name": "virtualInbound-catchall-http",
        "filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]},
        "filters": [http_manager(passthrough, passthrough, json!({}))],
    }));
    for transport in ["raw_buffer", "tls"] {
        chains.push(json!({
            "name": "virtualInbound",
            "filter_chain_match": {"transport_protocol": transport},
            "filters": [tcp_proxy(passthrough)],
        }));
    }
    both(
        15006,
        json!({
            "name": "virtualInbound",
            "transparent": mode == Mode::Tproxy,
            "traffic_direction": "INBOUND",
            "listener_filters": listener_filters,
            "listener_filters_timeout": "0s",
            "continue_on_listener_filters_timeout": true,
            "max_connections_to_accept_per_socket_event": 1,
            "filter_chains": chains,
        }),
    )
}

fn tls_inspector(disabled: Value) -> Value {
    listener_filter("tls_inspector", "TlsInspector", disabled)
}

fn http_inspector(disabled: Value) -> Value {
    listener_filter("http_inspector", "HttpInspector", disabled)
}

fn listener_filter(name: &str, message: &str, disabled: Value) -> Value {
    let kind = format!("type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}");
    let mut filter = json!({"name": format!("envoy.filters.listener.{name}"), "typed_config": {"@type": kind}});
    if !disabled.is_null() {
        filter["filter_disabled"] = disabled;
    }
    filter
}
