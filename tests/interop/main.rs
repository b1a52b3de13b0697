//! gRPC's interoperability cases with grpcio on both sides of the proxy (`cases.py`).
//!
//! Needs a Python with `grpcio`: `GRPC_PYTHON`, else `python3`. Without it a visible line says so; `REMORA_REQUIRE_ALL=1` makes that a failure.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use remora_tests::{Sidecar, within};
use tokio::task::spawn_blocking;

const BOOTSTRAP: &str = r#"admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: grpc
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: grpc
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /limited., grpc: {}}
                route: {cluster: server, prefix_rewrite: /, timeout: 0.2s}
              - match: {prefix: /closed/}
                route: {cluster: closed}
              - match: {prefix: /grpc.testing, grpc: {}}
                route:
                  cluster: server
                  timeout: 0s
                  max_stream_duration: {grpc_timeout_header_max: 0s}
                  retry_policy: {retry_on: unavailable, num_retries: 3, retry_back_off: {base_interval: 0.001s}}
  clusters:
  - name: closed
    type: STATIC
    connect_timeout: 5s
    load_assignment: {cluster_name: closed}
  - name: server
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: server
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}}]}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"#;

/// Cases that there are at least: a script that stops early has not passed.
const CASES: usize = 20;

/// The script, ended with the test.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn grpcio_talks_through_the_proxy() {
    let Some(python) = spawn_blocking(python).await.unwrap() else {
        return;
    };
    let started = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/cases.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut script = Script(started.unwrap());
    let mut output = BufReader::new(script.0.stdout.take().unwrap());
    let first = spawn_blocking(move || {
        let mut port = String::new();
        output.read_line(&mut port).unwrap();
        (port, output)
    });
    let (port, mut output) = within("the server's port", first).await.unwrap();
    let sidecar = Sidecar::start(&BOOTSTRAP.replace("PORT", port.trim())).await.unwrap();
    let address = sidecar.listener("grpc").await;
    let mut input = script.0.stdin.take().unwrap();
    writeln!(input, "{address}").unwrap();
    let rest = spawn_blocking(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        text
    });
    // The cases have their own limits; together they are no more than this.
    let text = tokio::time::timeout(Duration::from_secs(180), rest).await;
    let text = text.unwrap_or_else(|_| panic!("the cases do not end")).unwrap();
    let passed = text.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(!text.contains("not ok") && passed >= CASES, "{passed} passed:\n{text}");
}

fn python() -> Option<String> {
    let python = std::env::var("GRPC_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut probe = Command::new(&python);
    probe
        .args(["-c", "import grpc"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if probe.status().is_ok_and(|status| status.success()) {
        return Some(python);
    }
    let required = std::env::var_os("REMORA_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(
        !required,
        "{python} has no grpcio, and REMORA_REQUIRE_ALL=1 says it must have"
    );
    // To the file descriptor itself: the test harness captures what `eprintln!` prints.
    let line = format!("SKIPPED: gRPC interop ({python} has no grpcio; GRPC_PYTHON may name one that has)\n");
    let _ = Write::write_all(&mut std::io::stderr(), line.as_bytes());
    None
}
