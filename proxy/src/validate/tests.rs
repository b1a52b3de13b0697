mod every;

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
        "connect_timeout: 1s\n    transport_socket_matcher: {}",
    );
    let broken = broken.replace(
        "stat_prefix: web",
        "stat_prefix: web\n          append_local_overload: true",
    );
    let verdict = configuration(&options(&["--config-yaml", &broken]));
    let expected = "error initializing configuration '--config-yaml':
  static_resources.clusters[0].transport_socket_matcher: match trees are not supported
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

/// Faults of the text, of rules, of builders, and of what only the whole shows; several in one resource.
const WRONG: &str = r#"
node: {id: a, cluster: b, nonsense: 1}
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 9901}}
  access_log:
  - name: file
    typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /no/such/folder/log}
static_resources:
  clusters:
  - name: a
    connect_timeout: soon
    lb_policy: 77
    load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: 1}}}}]}]}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: none}, private_key: {inline_string: none}}]}
  - name: a
  - name: b
    type: EDS
    eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}
  - name: c
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: {validation_context_sds_secret_config: {name: ghost}}
  listeners:
  - {name: x, address: {socket_address: {address: 127.0.0.1, port_value: 1}}, filter_chains: [{filters: []}]}
  - {name: z, address: {socket_address: {address: 127.0.0.1, port_value: 1}}, filter_chains: [{filters: []}]}
"#;

/// The paths that a verdict names.
fn paths(verdict: &Verdict) -> Vec<String> {
    let lines = verdict.text.lines().filter_map(|line| line.strip_prefix("  "));
    let mut paths: Vec<String> = lines
        .map(|line| line.split(": ").next().unwrap_or_default().to_owned())
        .collect();
    paths.sort();
    paths
}

#[test]
fn one_run_tells_the_faults_of_every_stage() {
    let verdict = configuration(&options(&["--config-yaml", WRONG]));
    let told = paths(&verdict);
    let wanted = [
        "admin.access_log[0].typed_config.path",
        "node.nonsense",
        "static_resources.clusters[0].connect_timeout",
        "static_resources.clusters[0].lb_policy",
        "static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address",
        "static_resources.clusters[0].transport_socket.typed_config.common_tls_context.tls_certificates[0].certificate_chain",
        "static_resources.clusters[0].transport_socket.typed_config.common_tls_context.tls_certificates[0].private_key",
        "static_resources.clusters[1].name",
        "static_resources.clusters[2].eds_cluster_config.eds_config.ads",
        "static_resources.clusters[3].transport_socket.typed_config.common_tls_context",
        "static_resources.listeners[1].address",
    ];
    assert_eq!(told, wanted, "{}", verdict.text);
}

#[test]
fn what_starting_would_refuse_is_refused() {
    let twice = format!("{GOOD}\n").replace("  listeners:", "  - name: backend\n  listeners:");
    let verdict = configuration(&options(&["--config-yaml", &twice]));
    assert!(
        verdict
            .text
            .contains("static_resources.clusters[1].name: duplicate cluster 'backend'"),
        "{}",
        verdict.text
    );
    for nothing in [" ", "\n\n"] {
        let verdict = configuration(&options(&["--config-yaml", nothing]));
        assert!(verdict.text.contains("the configuration is empty"), "{}", verdict.text);
    }
}

#[test]
fn weights_that_envoy_prints_for_none_are_none() {
    let assignment = r#"{"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump", "dynamic_endpoint_configs": [{"endpoint_config":
      {"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "a", "endpoints":
        [{"locality": {}, "lb_endpoints": [], "load_balancing_weight": 0}]}}]}]}"#;
    let report = dump::report(assignment, &options(&["--config-yaml", "{}"])).expect("a dump");
    assert_eq!(
        report.text,
        "accepted  ClusterLoadAssignment a\n1 accepted, 0 tolerated, 0 refused"
    );
    let unknown = r#"{"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.SomethingElse", "things": [{}]}]}"#;
    assert!(dump::report(unknown, &options(&["--config-yaml", "{}"])).is_err());
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
       "transport_socket_matcher": {}}}]},
  {"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump", "dynamic_active_secrets": [
     {"name": "default", "secret": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": "default",
       "tls_certificate": {"certificate_chain": {"inline_string": "PEM"}, "private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="}}}},
     {"name": "elsewhere", "secret": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": "elsewhere",
       "validation_context": {"trusted_ca": {"filename": "/var/run/nowhere/root.pem"}}}}]}
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
    transport_socket_matcher: match trees are not supported
accepted  Secret default
tolerated Secret elsewhere
    validation_context.trusted_ca.filename: cannot read /var/run/nowhere/root.pem: No such file or directory (os error 2): not judged
2 accepted, 3 tolerated, 1 refused";
    assert_eq!(report.text, expected);
    assert!(!report.is_ok);
    assert!(dump::report("{}", &options(&["--config-yaml", "{}"])).is_err());
}

#[test]
fn one_route_tells_all_that_is_wrong_with_it() {
    let route = "{match: {prefix: /}, route: {cluster: backend}}";
    assert!(GOOD.contains(route));
    let wrong = r#"{match: {safe_regex: {regex: "("}}, request_headers_to_remove: [":path"], route: {cluster: backend, timeout: {nanos: -1}, hash_policy: [{header: {header_name: "a b"}}]}}, {match: {prefix: /}, route: {cluster: nobody}}"#;
    let wrong = GOOD
        .replace(route, wrong)
        .replace("stat_prefix: web", "stat_prefix: web\n          via: \"\\n\"");
    let verdict = configuration(&options(&["--config-yaml", &wrong]));
    let manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    let host = format!("{manager}.route_config.virtual_hosts[0]");
    let wanted = [
        format!("{host}.routes[0].match.safe_regex.regex"),
        format!("{host}.routes[0].request_headers_to_remove[0]"),
        format!("{host}.routes[0].route.hash_policy[0].header.header_name"),
        format!("{host}.routes[0].route.timeout"),
        format!("{host}.routes[1].route.cluster"),
        format!("{manager}.via"),
    ];
    assert_eq!(paths(&verdict), wanted, "{}", verdict.text);
}
