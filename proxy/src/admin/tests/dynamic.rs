use remora_xds::store::ErrorState;
use remora_xds::types::{self, ResourceType};
use remora_xds::{DumpEntry, Resource};
use serde_json::json;

use super::*;
use crate::admin::config_dump::dump_page;

const AT: &str = "2026-01-02T03:04:05.678Z";

fn resource(ty: ResourceType, name: &str, version: &str, bytes: Bytes) -> Arc<Resource> {
    Arc::new(Resource {
        ty,
        name: name.into(),
        bytes,
        version: version.into(),
        response: version.into(),
        hash: 0,
        updated_at: UNIX_EPOCH + Duration::from_millis(1_767_323_045_678),
    })
}

fn entry(resource: Arc<Resource>) -> DumpEntry {
    DumpEntry {
        ty: resource.ty,
        source: Arc::default(),
        name: resource.name.clone(),
        active: Some(resource),
        warming: None,
        error: None,
    }
}

fn cluster(name: &str) -> Bytes {
    message(
        "envoy.config.cluster.v3.Cluster",
        &format!("{{name: {name}, type: EDS}}"),
    )
}

fn dumped(world: &World, dump: Vec<DumpEntry>) -> serde_json::Value {
    serde_json::from_str(&dump_page(&world.state, dump)).unwrap()
}

#[test]
fn what_is_in_use_what_warms_and_what_was_refused_are_told_apart() {
    let in_use = resource(&types::CLUSTER, "a", "7", cluster("a"));
    let warms = resource(&types::CLUSTER, "b", "8", cluster("b"));
    let refused = ErrorState {
        failed: cluster("a2"),
        details: "lb_policy: no".into(),
        version: "8".into(),
        at: in_use.updated_at,
    };
    let first = DumpEntry {
        error: Some(refused),
        ..entry(in_use)
    };
    let second = DumpEntry {
        warming: Some(warms.clone()),
        active: None,
        ..entry(warms)
    };
    let dump = dumped(&World::new(), vec![first, second]);
    let any = |name: &str| json!({"@type": types::CLUSTER.url, "name": name, "type": "EDS"});
    let section = &dump["configs"][1];
    let active = json!([{
        "version_info": "7",
        "cluster": any("a"),
        "last_updated": AT,
        "error_state": {
            "failed_configuration": any("a2"),
            "last_update_attempt": AT,
            "details": "lb_policy: no",
            "version_info": "8",
        },
    }]);
    assert_eq!(section["dynamic_active_clusters"], active);
    let warming = json!([{"version_info": "8", "cluster": any("b"), "last_updated": AT}]);
    assert_eq!(section["dynamic_warming_clusters"], warming);
}

#[test]
fn what_does_not_decode_is_told_of_and_hides_nothing() {
    let in_use = resource(&types::CLUSTER, "a", "7", cluster("a"));
    let error = |failed: &'static [u8]| {
        Some(ErrorState {
            failed: failed.into(),
            details: "message is truncated".into(),
            version: "8".into(),
            at: in_use.updated_at,
        })
    };
    let replaced = DumpEntry {
        error: error(b"\x0a\x01a\x12\x7f"),
        ..entry(in_use.clone())
    };
    let new = DumpEntry {
        name: "b".into(),
        active: None,
        error: error(b""),
        ..entry(in_use.clone())
    };
    let dump = dumped(&World::new(), vec![replaced, new]);
    let section = &dump["configs"][1];
    let told = json!({"last_update_attempt": AT, "details": "message is truncated", "version_info": "8"});
    let active = &section["dynamic_active_clusters"][0];
    assert_eq!(
        (&active["cluster"]["name"], &active["error_state"]),
        (&json!("a"), &told)
    );
    assert_eq!(section["dynamic_warming_clusters"], json!([{"error_state": told}]));
}

#[test]
fn listeners_that_drain_stand_with_what_has_taken_their_place_or_alone() {
    let listener = |name: &str, version: &str| {
        let bytes = message("envoy.config.listener.v3.Listener", &format!("{{name: {name}}}"));
        resource(&types::LISTENER, name, version, bytes)
    };
    let world = World::new();
    // Of two of a name the one that has drained for longer.
    *world.puppet.draining.lock() = vec![
        listener("changed", "1"),
        listener("gone", "1"),
        listener("changed", "2"),
    ];
    let dump = dumped(
        &world,
        vec![entry(listener("changed", "3")), entry(listener("kept", "1"))],
    );
    let shown = dump["configs"][2]["dynamic_listeners"].as_array().unwrap().iter();
    let shown = shown.map(|one| {
        let version = |state: &str| one[state]["version_info"].as_str().unwrap_or_default();
        (
            one["name"].as_str().unwrap(),
            version("active_state"),
            version("draining_state"),
        )
    });
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [("changed", "3", "1"), ("kept", "1", ""), ("gone", "", "1")]
    );
}

#[test]
fn listeners_show_their_routes_and_secrets_do_not_show_their_keys() {
    let listener = message(
        "envoy.config.listener.v3.Listener",
        "{name: l, filter_chains: [{filters: [{name: hcm, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.\
         http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, route_config: {name: inside}}}]}]}",
    );
    let secret = message(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "{name: s, tls_certificate: {certificate_chain: {inline_string: chain}, private_key: {inline_string: hush}}}",
    );
    let dump = dumped(
        &World::new(),
        vec![
            entry(resource(&types::LISTENER, "l", "3", listener)),
            entry(resource(&types::SECRET, "s", "4", secret)),
        ],
    );
    let [_, _, listeners, _, routes, secrets] = dump["configs"].as_array().unwrap().as_slice() else {
        panic!("{dump}");
    };
    let state = &listeners["dynamic_listeners"][0];
    assert_eq!(
        (&state["name"], &state["active_state"]["version_info"]),
        (&"l".into(), &"3".into())
    );
    let names = routes["static_route_configs"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|route| route["route_config"]["name"].as_str()).collect();
    assert_eq!(names, [Some("local"), Some("inside")]);
    let secret = &secrets["dynamic_active_secrets"][0]["secret"]["tls_certificate"];
    assert_eq!(secret["private_key"]["inline_string"], "[redacted]");
    assert_eq!(secret["certificate_chain"]["inline_string"], "chain");
}

#[tokio::test]
async fn endpoints_are_the_hosts_of_now_or_what_arrived_with_envoys_defaults() {
    let world = World::new();
    let ports = |dump: &serde_json::Value| -> Vec<(serde_json::Value, serde_json::Value)> {
        let config = &dump["configs"][0]["endpoint_config"];
        let endpoints = config["endpoints"][0]["lb_endpoints"].as_array().unwrap().iter();
        let port = "/endpoint/address/socket_address/port_value";
        endpoints
            .map(|one| (one.pointer(port).unwrap().clone(), one["health_status"].clone()))
            .collect()
    };
    let target = "/config_dump?include_eds&resource=static_endpoint_configs&name_regex=backend";
    let healths = [(8080.into(), "HEALTHY".into()), (8081.into(), "UNHEALTHY".into())];
    let unused = world.tree(target).await;
    assert_eq!(ports(&unused), healths);
    assert!(world.state.snapshot.load().cluster("backend").is_some());
    let used = world.tree(target).await;
    assert_eq!(ports(&used), healths);
    for dump in [unused, used] {
        let config = &dump["configs"][0]["endpoint_config"];
        assert_eq!(config["policy"], json!({"overprovisioning_factor": 140}));
        let group = &config["endpoints"][0];
        assert_eq!(
            (&group["locality"]["zone"], &group["load_balancing_weight"]),
            (&json!("z"), &json!(0))
        );
        let weights = [0, 1].map(|index| &group["lb_endpoints"][index]["load_balancing_weight"]);
        assert_eq!(weights, [&json!(3), &json!(1)]);
        assert_eq!(group["lb_endpoints"][1]["endpoint"]["health_check_config"], json!({}));
    }
    let (status, _) = world.get("/config_dump?resource=static_endpoint_configs").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_stats_matcher_hides_what_it_excludes_and_no_labelled_metric() {
    let mut world = World::new();
    world
        .state
        .stats
        .group::<crate::telemetry::labelled::Labelled>("istio_")
        .counter("requests_total", &[("reporter", "source")])
        .inc();
    let page = world.page("/stats").await;
    let of_admin = ["http.admin.", "listener.admin."];
    let others = page
        .lines()
        .filter(|line| !of_admin.iter().any(|own| line.starts_with(own)));
    assert_eq!(others.count(), 1, "{page}");
    world
        .state
        .stats
        .group::<crate::telemetry::server::ServerStats>("server.");
    assert!(world.page("/stats").await.contains("server.state: 2"));
    let only = StatsMatcher::Only(Vec::new());
    Arc::get_mut(&mut world.state).unwrap().stats_matcher = only;
    let page = world.page("/stats").await;
    assert_eq!(page.lines().count(), 1, "{page}");
    assert!(page.contains("istio_requests_total"), "{page}");
    assert!(!world.page("/stats/prometheus").await.contains("envoy_cluster"));
}

#[tokio::test]
async fn whoever_reads_stats_ends_an_interval_where_the_bootstrap_says_so() {
    let mut world = World::new();
    let server = world
        .state
        .stats
        .group::<crate::telemetry::server::ServerStats>("server.");
    server.initialization_time_ms.record(7);
    let target = "/stats?filter=initialization_time_ms";
    assert!(world.page(target).await.contains(": P0(nan,7.05) "));
    Arc::get_mut(&mut world.state).unwrap().flush_stats = true;
    assert!(world.page(target).await.contains(": P0(7.05,7.05) "));
    assert!(world.page(target).await.contains(": P0(nan,7.05) "));
}

#[tokio::test]
async fn paths_that_are_not_allowed_are_forbidden_in_envoys_words() {
    let mut world = World::new();
    let exact = |path: &str| {
        StringMatcher::compile(&remora_proto::pb::envoy::r#type::matcher::v3::StringMatcher {
            match_pattern: Some(
                remora_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern::Exact(path.to_owned()),
            ),
            ..Default::default()
        })
    };
    Arc::get_mut(&mut world.state).unwrap().allow_paths = vec![exact("/ready").unwrap()];
    assert_eq!(world.get("/ready").await.0, StatusCode::OK);
    let (status, page) = world.send("POST", "/quitquitquit").await;
    assert_eq!(
        (status, page.as_str()),
        (StatusCode::FORBIDDEN, "request to path /quitquitquit not allowed")
    );
    assert!(world.puppet.calls.lock().is_empty());
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request_as_envoys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.log");
    let context = crate::config::BuildContext::default();
    let format = "%REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(:PATH)% %PROTOCOL% code=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% \
                  details=%RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% out=%BYTES_SENT% type=%RESP(CONTENT-TYPE)%";
    let yaml = format!(
        "{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, \
         path: {}, log_format: {{text_format_source: {{inline_string: \"{format}\\n\"}}}}}}}}",
        path.display()
    );
    let encoded = message("envoy.config.accesslog.v3.AccessLog", &yaml);
    let config = prost::Message::decode(&encoded[..]).unwrap();
    let log = AccessLog::compile_all(&[config], &context).unwrap().remove(0);
    let mut world = World::new();
    Arc::get_mut(&mut world.state).unwrap().access_logs = Arc::from([log]);
    world.page("/ready").await;
    world.get("/nothing?x=1").await;
    context.access_logs.flush();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "GET - /ready HTTP/1.1 code=200 flags=- details=admin_filter_response in=0 out=5 type=text/plain; charset=UTF-8"
    );
    assert!(
        lines[1].starts_with("GET - /nothing?x=1 HTTP/1.1 code=404 flags=-"),
        "{text}"
    );
    assert_eq!(lines.len(), 2);
}
