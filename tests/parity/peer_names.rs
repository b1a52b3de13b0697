//! What a request calls its upstream: the SNI, and the name that the certificate has to have (`auto_sni`, `auto_san_validation`).
//!
//! Each proxy is its own upstream, behind a socket in the file system, and says in its answers which SNI it was asked for.

use std::net::SocketAddr;

use control_plane_mock::pki::{Authority, Leaf};
use remora_tests::{Http1, ask_admin};

use crate::cases::{bootstrap, listener};
use crate::harness::Pair;

/// Name (of the cluster and its route too); fields of the HTTP options, of the TLS context, of the endpoint, and of the route.
struct Upstream {
    name: &'static str,
    http: &'static str,
    tls: &'static str,
    endpoint: &'static str,
    route: &'static str,
}

const PLAIN: Upstream = Upstream {
    name: "plain",
    http: "",
    tls: "ROOT",
    endpoint: "",
    route: "",
};

const BOTH: &str = "auto_sni: true, auto_san_validation: true";
const HEADER: &str = "auto_sni: true, auto_san_validation: true, override_auto_sni_header: x-name";

fn upstreams() -> Vec<Upstream> {
    let of = |name, http| Upstream { name, http, ..PLAIN };
    vec![
        of("plain", ""),
        of("both", BOTH),
        of("sni", "auto_sni: true"),
        of("san", "auto_san_validation: true"),
        of("header", HEADER),
        Upstream {
            tls: "ROOT, sni: b.test",
            ..of("static", "auto_sni: true")
        },
        Upstream {
            tls: "ROOT, sni: b.test",
            ..of("static-san", "auto_san_validation: true")
        },
        Upstream {
            tls: "ROOT, auto_host_sni: true",
            endpoint: ", hostname: c.test",
            ..of("hostname", BOTH)
        },
        Upstream {
            tls: "",
            ..of("blind", BOTH)
        },
        Upstream {
            tls: "ANY",
            ..of("accepting", BOTH)
        },
        Upstream {
            route: ", host_rewrite_literal: \"a.test:1\"",
            ..of("literal", BOTH)
        },
        Upstream {
            route: ", host_rewrite_header: x-name",
            ..of("by-header", BOTH)
        },
        Upstream {
            route: ", auto_host_rewrite: true",
            endpoint: ", hostname: b.test",
            ..of("by-host", BOTH)
        },
        of("mutated", HEADER),
    ]
}

const HOSTS: &[&str] = &[
    "a.test",
    "b.test",
    "a.test",
    "A.TEST",
    "a.test:8080",
    "x.wild.test",
    "x.y.wild.test",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.0.0.2",
    "[::1]",
    "[::1]:80",
    "a_b.test",
];

const HEADERS: &[&str] = &[
    "x-name: a.test\r\n",
    "x-name: b.test:80\r\n",
    "x-name: \r\n",
    "x-name: a.test\r\nx-name: b.test\r\n",
];

fn cluster(upstream: &Upstream, root: &str) -> String {
    let (common, whole) = upstream.tls.split_once(',').unwrap_or((upstream.tls, ""));
    let common = match common {
        "ROOT" => format!("validation_context: {{trusted_ca: {{inline_string: {root}}}}}"),
        "ANY" => format!(
            "validation_context: {{trusted_ca: {{inline_string: {root}}}, trust_chain_verification: ACCEPT_UNTRUSTED}}"
        ),
        _ => String::new(),
    };
    let separator = if whole.is_empty() { "" } else { "," };
    let Upstream {
        name, http, endpoint, ..
    } = upstream;
    let http = match *http {
        "" => String::new(),
        http => format!(
            r#"    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http_protocol_options: {{}}}}
        upstream_http_protocol_options: {{{http}}}
"#
        ),
    };
    format!(
        r#"  - name: {name}
    connect_timeout: 5s
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: "{{{{log}}}}.sock"}}}}{endpoint}}}}}]}}]
{http}    transport_socket: {{name: tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{{common}}}{separator}{whole}}}}}
"#
    )
}

/// Behind the socket: an answer that tells the SNI.
fn server(chain: &str, key: &str) -> String {
    let manager = r#"route_config:
  name: told
  virtual_hosts:
  - {name: all, domains: ["*"], response_headers_to_add: [{header: {key: x-sni, value: "<%REQUESTED_SERVER_NAME%>"}}], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}"#;
    let socket = format!(
        r#"      transport_socket: {{name: tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{tls_certificates: [{{certificate_chain: {{inline_string: {chain}}}, private_key: {{inline_string: {key}}}}}]}}}}}}"#
    );
    let plain = listener("server", manager).replace(
        "{socket_address: {address: 127.0.0.1, port_value: 0}}",
        "{pipe: {path: \"{{log}}.sock\"}}",
    );
    let inspector = r#"    listener_filters: [{name: tls_inspector, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]"#;
    format!("{plain}{socket}\n{inspector}\n")
}

#[tokio::test]
async fn requests_name_their_upstreams_alike() {
    let root = Authority::new("root").unwrap();
    let leaf = Leaf::new()
        .dns("a.test")
        .dns("*.wild.test")
        .ip(std::net::Ipv4Addr::LOCALHOST.into());
    let identity = root.issue(&leaf).unwrap();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let upstreams = upstreams();
    let routes: String = upstreams
        .iter()
        .map(|upstream| {
            let Upstream { name, route, .. } = upstream;
            let added = match *name {
                "mutated" => ", request_headers_to_add: [{header: {key: x-name, value: b.test}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]",
                _ => "",
            };
            format!("    - {{match: {{prefix: /{name}/}}, route: {{cluster: {name}{route}}}{added}}}\n")
        })
        .collect();
    let manager = format!(
        "route_config:\n  name: routes\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{routes}"
    );
    let clusters: Vec<String> = upstreams
        .iter()
        .map(|upstream| cluster(upstream, &quoted(root.root_pem())))
        .collect();
    let listeners = [
        listener("http", &manager),
        server(&quoted(&identity.chain_pem), &quoted(&identity.key_pem)),
    ];
    let Some(pair) = Pair::start("peer names", &bootstrap(&listeners, &clusters)).await else {
        return;
    };
    let [admin_of_theirs, admin_of_ours] = pair.admins();
    let theirs = told(pair.envoy("http"), admin_of_theirs, &upstreams).await;
    let ours = told(pair.remora("http"), admin_of_ours, &upstreams).await;
    for expected in [
        "both a.test: 200 <a.test>",
        "both b.test: 503 ",
        "sni b.test: 200 <b.test>",
        "static-san b.test: 503 ",
    ] {
        assert!(
            theirs.iter().any(|line| line.starts_with(expected)),
            "{expected}: {theirs:#?}"
        );
    }
    let differ: Vec<_> = theirs
        .iter()
        .zip(&ours)
        .filter(|(theirs, ours)| theirs != ours)
        .collect();
    assert!(
        differ.is_empty() && theirs.len() == ours.len(),
        "Envoy and Remora: {differ:#?}"
    );
}

/// An answer and its SNI for each request, and how many connections that took.
async fn told(proxy: SocketAddr, admin: SocketAddr, upstreams: &[Upstream]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut client = Http1::connect(proxy).await.unwrap();
    for upstream in upstreams {
        let name = upstream.name;
        let requests = HOSTS.iter().map(|host| (*host, ""));
        let requests = requests.chain(HEADERS.iter().map(|headers| ("a.test", *headers)));
        for (host, headers) in requests {
            let answer = client.get(host, &format!("/{name}/"), headers).await;
            let headers = headers.trim_end().replace("\r\n", " ");
            let asked = format!("{name} {host} {headers}");
            let told = answer.header("x-sni").map_or_else(|| answer.text(), str::to_owned);
            lines.push(format!("{}: {} {told}", asked.trim_end(), answer.status));
        }
        for stat in [
            "upstream_cx_total",
            "upstream_cx_http1_total",
            "ssl.fail_verify_san",
            "ssl.handshake",
        ] {
            let answer = ask_admin(admin, "GET", &format!("/stats?filter=^cluster.{name}.{stat}$")).await;
            lines.push(answer.text());
        }
    }
    lines
}
