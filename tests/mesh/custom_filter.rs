//! The example in `proxy/examples/custom_filter.rs`: its filter, registered as its `main` does it, in a proxy on real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use control_plane_mock::resources::{HcmBuilder, Variant, cluster_static, hcm, listener_http, prefix, route_config};
use remora::filters::http::{Filter, Registration, Stage, register};
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use remora_proto::pb::google::protobuf::Any;
use remora_tests::{Backend, Http1, Load, Mesh, Sidecar, until};

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

/// What docs promise: the whole program, with its imports and its `main`, is 30 lines.
#[test]
fn the_example_is_thirty_lines() {
    let text = include_str!("../../proxy/examples/custom_filter.rs");
    let code = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//"));
    assert!(code.count() <= 30);
}

struct Nothing;

impl Filter for Nothing {}

/// Passes its check, and panics when it is built.
fn treacherous() -> Registration {
    static COMPILED: AtomicUsize = AtomicUsize::new(0);
    Registration {
        type_name: "google.protobuf.UInt32Value",
        compile: |_, _| {
            assert!(COMPILED.fetch_add(1, Ordering::SeqCst).is_multiple_of(2), "planted");
            Ok(Stage::Filter(Arc::new(Nothing)))
        },
        per_route: &[],
    }
}

fn with_treacherous(manager: HcmBuilder) -> HcmBuilder {
    manager.edit(|manager| {
        let filter = manager::HttpFilter {
            name: "treacherous".to_owned(),
            config_type: Some(manager::http_filter::ConfigType::TypedConfig(Any {
                type_url: "type.googleapis.com/google.protobuf.UInt32Value".to_owned(),
                value: Vec::new(),
            })),
            ..manager::HttpFilter::default()
        };
        manager.http_filters.insert(0, filter);
    })
}

/// A panic while a push is built costs what it was about: the last good version stays, the rest of the push and every later one are applied.
#[tokio::test]
async fn a_push_that_panics_while_it_is_built_ends_nothing() {
    register(treacherous());
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mesh = Mesh::start(Variant::Sotw).await;
    let plane = mesh.handle();
    let routes = || route_config("inline").vhost(["*"]).with_route(prefix("/").cluster("a"));
    let listener = |manager: HcmBuilder| listener_http("http", "127.0.0.1", 0, manager);
    plane.push_cluster(cluster_static("a", [("127.0.0.1", a.port())]));
    plane.push_listener(listener(hcm("http").inline(routes())));
    let sidecar = mesh.sidecar("one").await;
    let load = Load::on(sidecar.listener("http").await, "mesh.test");
    load.more(10).await;

    plane.push_listener(listener(with_treacherous(hcm("other").inline(routes()))));
    let page = async || sidecar.admin("GET", "/xds").await.text();
    until("the failure on the page", async || {
        page().await.contains("planted").then_some(())
    })
    .await;
    let text = page().await;
    assert!(
        text.contains("could not be put to use") && text.contains("lds http: it panicked"),
        "{text}"
    );
    assert!(sidecar.stat("server.task_panics").await > 0);
    load.more(10).await;

    plane.push_cluster(cluster_static("a", [("127.0.0.1", b.port())]));
    until("the next push", async || (b.requests() > 0).then_some(())).await;
    load.none_failed().await;
}
