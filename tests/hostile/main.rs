//! Peers that mean harm, on either side: floods, bombs and stalls over HTTP/2, slow clients and ambiguous messages over HTTP/1, upstreams that
//! break every rule, half-open connections and resets below HTTP. Each attack is bounded in memory, and another client is served meanwhile.
//!
//! The proxy of a flood runs in a process of its own, so that its memory is its own.

#![allow(clippy::unwrap_used, clippy::panic)]

mod child;
mod conformance;
mod floods;
mod grid;
mod limits;
mod races;
mod reused;
mod slow;
mod smuggling;
mod tcp;
mod upstream;
mod websocket;

use std::path::PathBuf;

/// A bootstrap around one listener `http` with these fields of its connection manager (YAML, not indented) and these clusters.
fn bootstrap(manager: &str, clusters: &str) -> String {
    let indent = |text: &str, by: usize| -> String {
        let pad = " ".repeat(by);
        text.trim().lines().map(|line| format!("{pad}{line}\n")).collect()
    };
    format!(
        r#"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: http
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
{}  clusters:
{}"#,
        indent(manager, 10),
        indent(clusters, 2)
    )
}

/// A STATIC cluster with one host, and more fields (YAML lines, not indented).
fn cluster(name: &str, port: u16, fields: &str) -> String {
    let fields: String = fields.trim().lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "- name: {name}\n  type: STATIC\n  connect_timeout: 5s\n  load_assignment:\n    cluster_name: {name}\n    endpoints:\n    - lb_endpoints:\n      \
         - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n{fields}"
    )
}

/// Fields of a cluster that speaks HTTP/2, with WebSocket over it.
const HTTP2: &str = r#"
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {allow_connect: true}}
"#;

/// A program that a test needs; `None`, with a visible line, where it is not installed and need not be.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root looks.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places
        .map(|place| place.join(name))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        let required = std::env::var_os("REMORA_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(
            !required,
            "{name} is not installed, and REMORA_REQUIRE_ALL=1 says it must be"
        );
        // To the file descriptor itself: the test harness captures what `eprintln!` prints.
        let line = format!("SKIPPED: what needs {name} (not found in PATH)\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }
    found
}
