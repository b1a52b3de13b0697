//! The example in `proxy/examples/custom_filter.rs`: its filter, registered as its `main` does it, in a proxy on real sockets.

use remora::filters::http::register;
use remora_tests::{Backend, Http1, Sidecar};

#[allow(
    dead_code,
    clippy::print_stderr,
    reason = "a whole program; its main is not called here"
)]
#[path = "../../proxy/examples/custom_filter.rs"]
mod example;

const BOOTSTRAP: &str = r#"
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: a}}]}]
          http_filters:
          - name: greeting
            typed_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: "GREETING"}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: a
    load_assignment:
      cluster_name: a
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}}]}]
"#;

#[tokio::test]
async fn the_examples_filter_greets() {
    register(example::registration());
    let backend = Backend::start("a").await;
    let bootstrap = BOOTSTRAP.replace("PORT", &backend.port().to_string());
    let sidecar = Sidecar::start(&bootstrap.replace("GREETING", "hello from outside"))
        .await
        .unwrap();
    let mut client = Http1::connect(sidecar.listener("http").await).await.unwrap();
    let answer = client.get("mesh.test", "/", "").await;
    assert_eq!((answer.status, answer.header("x-backend")), (200, Some("a")));
    assert_eq!(answer.header("x-greeting"), Some("hello from outside"));
    // What it makes of its configuration decides whether the proxy starts.
    let refused = Sidecar::start(&bootstrap.replace("GREETING", r"no\nheader")).await;
    let problem = refused.err().unwrap();
    assert!(problem.contains("http_filters[0]"), "{problem}");
}

/// What docs promise: the filter and its registration are 30 lines.
#[test]
fn the_example_is_thirty_lines() {
    let text = include_str!("../../proxy/examples/custom_filter.rs");
    let begin = text.find("struct Greeting").unwrap();
    let end = text.find("fn main()").unwrap();
    let code = text[begin..end]
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//"));
    assert!(code.count() <= 30);
}
