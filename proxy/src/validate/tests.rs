use super::*;
use crate::cli::{Command, parse};

fn options(flags: &[&str]) -> Options {
    let flags = ["remora", "--mode", "validate"].iter().chain(flags).copied();
    match parse(flags).expect("a command line") {
        Command::Run(options) => *options,
        other => panic!("expected to run, got {other:?}"),
    }
}

const GOOD: &str = r#"
static_resources:
  clusters:
  - name: backend
    connect_timeout: 1s
    load_assignment:
      cluster_name: backend
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8080}}}}]}]
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: backend}}]}]}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

#[test]
fn a_good_configuration_is_ok() {
    let verdict = configuration(&options(&["--config-yaml", GOOD]));
    assert_eq!(verdict.text, "configuration '--config-yaml' OK");
    assert!(verdict.is_ok);
}

#[test]
fn every_problem_is_told_with_its_path() {
    let broken = GOOD.replace(
        "connect_timeout: 1s",
        "connect_timeout: 1s\n    connection_pool_per_downstream_connection: true",
    );
    let broken = broken.replace(
        "stat_prefix: web",
        "stat_prefix: web\n          append_local_overload: true",
    );
    let verdict = configuration(&options(&["--config-yaml", &broken]));
    let expected = "error initializing configuration '--config-yaml':
  static_resources.clusters[0].connection_pool_per_downstream_connection: pools are shared
  static_resources.listeners[0].filter_chains[0].filters[0].typed_config.append_local_overload: there is no overload manager";
    let mut lines: Vec<&str> = verdict.text.lines().collect();
    let mut wanted: Vec<&str> = expected.lines().collect();
    lines.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(lines, wanted);
    assert!(!verdict.is_ok);
}

#[test]
fn what_a_builder_refuses_is_told_too() {
    let broken = GOOD.replace("prefix: /", "safe_regex: {regex: '('}");
    let verdict = configuration(&options(&["--config-yaml", &broken]));
    assert!(
        verdict.text.contains("static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].match.safe_regex"),
        "{}",
        verdict.text
    );
}

const DUMP: &str = r#"{"configs": [
  {"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
   "bootstrap": {"node": {"id": "a", "cluster": "b", "user_agent_name": "envoy"},
     "static_resources": {"clusters": [{"name": "seen below"}]}}},
  {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "version_info": "1",
   "static_clusters": [{"cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "fine", "connect_timeout": "1s"}}],
   "dynamic_active_clusters": [
     {"version_info": "1", "cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "so-so",
       "connect_timeout": "1s", "common_lb_config": {"update_merge_window": "1s"}, "from_the_future": 1}},
     {"cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "bad", "connect_timeout": "1s",
       "connection_pool_per_downstream_connection": true}}]},
  {"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump", "dynamic_active_secrets": [
     {"name": "default", "secret": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": "default",
       "tls_certificate": {"certificate_chain": {"inline_string": "PEM"}, "private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="}}}}]}
]}"#;

#[test]
fn a_dump_is_told_resource_by_resource() {
    let report = dump::report(DUMP, &options(&["--config-yaml", "{}"])).expect("a dump");
    let expected = "\
tolerated bootstrap
    node.user_agent_name: the program puts its own there, as Envoy does
accepted  Cluster fine
tolerated Cluster so-so
    from_the_future: envoy.config.cluster.v3.Cluster has no such field
    common_lb_config.update_merge_window: updates are applied as they come, which only is sooner
refused   Cluster bad
    connection_pool_per_downstream_connection: pools are shared
accepted  Secret default
2 accepted, 2 tolerated, 1 refused";
    assert_eq!(report.text, expected);
    assert!(!report.is_ok);
    assert!(dump::report("{}", &options(&["--config-yaml", "{}"])).is_err());
}
