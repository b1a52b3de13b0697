use std::time::Duration;

use super::*;

fn options(yaml: &str) -> Options {
    with_flags(&["remora", "--config-yaml", yaml])
}

fn with_flags(flags: &[&str]) -> Options {
    match crate::cli::parse(flags.iter().copied()).expect("a command line") {
        crate::cli::Command::Run(options) => *options,
        other => panic!("expected to run, got {other:?}"),
    }
}

fn refusal(yaml: &str) -> String {
    Bootstrap::load(&options(yaml)).expect_err("refused").to_string()
}

const MESH: &str = r#"
node: {id: sidecar~1, cluster: app.ns, locality: {zone: a}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}, access_log_path: /dev/null}
dynamic_resources:
  lds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}, initial_metadata: [{key: x-a, value: b}]}]
static_resources:
  clusters: [{name: xds-grpc, type: STATIC, connect_timeout: 1s}, {name: agent, type: STATIC, connect_timeout: 1s}]
  listeners: [{name: stats, address: {socket_address: {address: 0.0.0.0, port_value: 15090}}}]
layered_runtime:
  layers:
  - {name: global, static_layer: {re2.max_program_size.error_level: "32768", a: {b: 3, c: {numerator: 1, denominator: HUNDRED}}}}
  - {name: admin, admin_layer: {}}
stats_config:
  use_all_default_tags: false
  stats_tags: [{tag_name: cluster_name, regex: '^cluster\.((.+?(\..+?\.svc\.cluster\.local)?);\.)'}]
  stats_matcher: {inclusion_list: {patterns: [{prefix: cluster.xds-grpc}, {suffix: rbac.allowed}]}}
  histogram_bucket_settings: [{match: {prefix: istiocustom}, buckets: [10, 1, 5.5]}, {match: {prefix: ""}, buckets: [7]}]
application_log_config: {log_format: {json_format: {level: "%l", msg: "%j"}}}
"#;

#[test]
fn reads_what_a_mesh_writes() {
    let bootstrap = Bootstrap::load(&options(MESH)).expect("accepted");
    let ads = bootstrap.ads.as_ref().expect("configured");
    assert!(ads.delta && ads.node_on_first_message_only);
    assert_eq!(ads.cluster_name.as_ref(), "xds-grpc");
    assert_eq!(ads.initial_metadata, [("x-a".to_owned(), b"b".to_vec())]);
    assert_eq!(ads.mux().mode, remora_xds::Mode::Delta);
    let wait = |source: &Option<ConfigSource>| source.as_ref().map(|own| own.initial_fetch_timeout.as_secs());
    assert_eq!((wait(&bootstrap.lds), wait(&bootstrap.cds)), (Some(0), Some(15)));
    let admin = bootstrap.admin.as_ref().expect("configured");
    assert_eq!(admin.address.to_string(), "127.0.0.1:15000");
    assert_eq!(admin.access_log.len(), 1);
    assert_eq!(bootstrap.log_format.as_deref(), Some(r#"{"level":"%l","msg":"%j"}"#));
    assert_eq!(bootstrap.runtime.get("a.b"), Some("3"));
    assert_eq!(
        bootstrap.runtime.get("a.c"),
        Some(r#"{"numerator":1,"denominator":"HUNDRED"}"#)
    );
    assert!(bootstrap.warnings.is_empty(), "{:?}", bootstrap.warnings);
    assert!(bootstrap.stats.matcher.accepts("cluster.xds-grpc.upstream_cx_total"));
    assert!(!bootstrap.stats.matcher.accepts("cluster.agent.upstream_cx_total"));
    let bounds = |name: &str| bootstrap.stats.buckets.of(name).map(|bounds| bounds.to_vec());
    assert_eq!(bounds("istiocustom.istio_request_bytes"), Some(vec![1.0, 5.5, 10.0]));
    assert_eq!(bounds("cluster.a.upstream_rq_time"), Some(vec![7.0]));
}

#[test]
fn static_resources_are_slices_of_what_the_dump_shows() {
    let bootstrap = Bootstrap::load(&options(MESH)).expect("accepted");
    let names: Vec<&str> = bootstrap.clusters.iter().map(|cluster| cluster.name.as_ref()).collect();
    assert_eq!(names, ["xds-grpc", "agent"]);
    assert_eq!(bootstrap.listeners[0].name.as_ref(), "stats");
    let dump = pb::Bootstrap::decode(bootstrap.bytes.as_ref()).expect("decodes");
    let dumped = dump.static_resources.expect("there");
    assert_eq!(dumped.clusters[1].encode_to_vec(), bootstrap.clusters[1].bytes);
    assert_eq!(dump.node.as_ref(), Some(bootstrap.node.as_ref()));
    assert!(
        bootstrap
            .bytes
            .as_ptr_range()
            .contains(&bootstrap.clusters[0].bytes.as_ptr())
    );
}

#[test]
fn flags_win_over_the_node() {
    let flags = [
        "remora",
        "--config-yaml",
        MESH,
        "--service-node",
        "me",
        "--service-zone",
        "z",
        "--service-cluster",
        "c",
    ];
    let node = Bootstrap::load(&with_flags(&flags)).expect("accepted").node;
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("me", "c"));
    assert_eq!(node.locality.as_ref().map(|locality| locality.zone.as_str()), Some("z"));
    assert_eq!(node.user_agent_name, "envoy");
    assert!(
        node.extensions
            .iter()
            .any(|own| own.name == "envoy.filters.http.router" && !own.disabled)
    );
}

#[test]
fn the_flag_is_merged_over_the_file() {
    let path = std::env::temp_dir().join(format!("remora-bootstrap-{}.yaml", std::process::id()));
    std::fs::write(&path, MESH).expect("written");
    let name = path.to_str().expect("UTF-8");
    let more = "{node: {id: other}, static_resources: {clusters: [{name: third}]}}";
    let loaded = Bootstrap::load(&with_flags(&["remora", "-c", name, "--config-yaml", more]));
    std::fs::remove_file(&path).expect("removed");
    let bootstrap = loaded.expect("accepted");
    assert_eq!(
        (bootstrap.node.id.as_str(), bootstrap.node.cluster.as_str()),
        ("other", "app.ns")
    );
    assert_eq!(bootstrap.clusters.len(), 3);
}

#[test]
fn says_what_is_wrong_and_where() {
    let missing = Bootstrap::load(&with_flags(&["remora", "-c", "/nowhere/envoy.yaml"])).expect_err("refused");
    assert_eq!(
        missing.to_string(),
        "error initializing configuration '/nowhere/envoy.yaml': unable to read the file: No such file or directory (os error 2)"
    );
    let cases = [
        (
            "{nod: {}}",
            "nod: envoy.config.bootstrap.v3.Bootstrap has no such field (line 1)",
        ),
        ("{node: {id: [}}", "line 1, column"),
        (
            "{node: {id: a, cluster: b}, dynamic_resources: {cds_config: {ads: {}}}}",
            "dynamic_resources.ads_config: required: a source is `ads`",
        ),
        (
            "{dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}}",
            "node: node 'id' and 'cluster' are required",
        ),
        (
            "{admin: {address: {socket_address: {address: localhost, port_value: 1}}}}",
            "admin.address.socket_address.address: malformed IP address: localhost",
        ),
        (
            "{stats_config: {stats_tags: [{tag_name: a, regex: '('}]}}",
            "stats_config.stats_tags[0].regex: ",
        ),
    ];
    for (yaml, expected) in cases {
        let said = refusal(yaml);
        assert!(said.contains(expected), "{yaml}: {said}");
    }
}

/// On the way of a whole bootstrap, where the table of fields has a word, too.
#[test]
fn transport_api_version_v2_of_ads_is_refused_and_auto_means_v3() {
    let ads = |version: &str| {
        let ads = format!("{{api_type: GRPC, {version} grpc_services: [{{envoy_grpc: {{cluster_name: x}}}}]}}");
        let cluster = "{name: x, type: STATIC, connect_timeout: 1s}";
        format!(
            "{{node: {{id: a, cluster: b}}, dynamic_resources: {{ads_config: {ads}}}, static_resources: {{clusters: [{cluster}]}}}}"
        )
    };
    let said = refusal(&ads("transport_api_version: V2,"));
    assert!(
        said.contains("ads_config.transport_api_version: only V3 is supported"),
        "{said}"
    );
    for version in ["", "transport_api_version: AUTO,", "transport_api_version: V3,"] {
        assert!(Bootstrap::load(&options(&ads(version))).is_ok(), "{version}");
    }
}

#[test]
fn stats_are_flushed_every_five_seconds_unless_the_bootstrap_says_otherwise() {
    let flush = |yaml: &str| Bootstrap::load(&options(yaml)).expect("accepted").stats.flush;
    assert_eq!(flush("{}"), Flush::Every(Duration::from_secs(5)));
    let every = Flush::Every(Duration::from_millis(200));
    assert_eq!(flush("{stats_flush_interval: 0.2s}"), every);
    assert_eq!(flush("{stats_flush_on_admin: true}"), Flush::OnAdmin);
}

#[test]
fn unknown_fields_pass_where_they_are_allowed() {
    let flags = [
        "remora",
        "--allow-unknown-static-fields",
        "--config-yaml",
        "{nod: {}, node: {id: a}}",
    ];
    let bootstrap = Bootstrap::load(&with_flags(&flags)).expect("accepted");
    assert_eq!(bootstrap.node.id, "a");
    assert_eq!(
        bootstrap.warnings,
        ["ignored unknown field: line 1: nod: envoy.config.bootstrap.v3.Bootstrap has no such field"]
    );
}

#[test]
fn of_the_runtime_keys_that_stand_nowhere_those_without_effect_are_named() {
    let text = "{layered_runtime: {layers: [{name: s, static_layer: {tracing.random_sampling: 5, mine: 1, \
        fault.http.abort.abort_percent: 5, upstream: {use_retry: 0}}}]}}";
    let bootstrap = Bootstrap::load(&options(text)).expect("accepted");
    let mut warnings = bootstrap.warnings.clone();
    warnings.sort();
    let named = ["tracing.random_sampling", "upstream.use_retry"];
    assert_eq!(
        warnings,
        named.map(|key| format!("the runtime key {key} has no effect unless something is configured with it"))
    );
    let null = "{layered_runtime: {layers: [{name: s, static_layer: {a: {b: null}}}]}}";
    let wrong = Bootstrap::load(&options(null))
        .expect_err("null is no value")
        .to_string();
    let place = "layered_runtime.layers[0].static_layer: invalid runtime entry value for a.b";
    assert!(wrong.contains(place), "{wrong}");
}

#[test]
fn the_runtime_limits_connections_of_listeners_and_of_all() {
    let text = r#"
layered_runtime:
  layers:
  - name: first
    static_layer: {envoy.resource_limits.listener.a.connection_limit: 5, envoy: {resource_limits: {listener: {b.c: {connection_limit: 7}}}}}
  - name: second
    static_layer: {envoy.resource_limits.listener.a.connection_limit: 6, overload.global_downstream_max_connections: 9}
"#;
    let bootstrap = Bootstrap::load(&options(text)).expect("accepted");
    let limits = bootstrap.runtime.connection_limits();
    assert_eq!((limits.len(), limits["a"], limits["b.c"]), (2, 6, 7));
    assert_eq!(bootstrap.max_connections, Some(9));
    assert!(bootstrap.warnings.is_empty(), "{:?}", bootstrap.warnings);
}
