//! Two faults and more in every message: all of them are told, whatever else is wrong around them.

use super::*;

/// The bootstrap's own fields.
const OWN: &str = r#"
node: {id: a, cluster: b}
admin:
  address: {socket_address: {protocol: UDP, address: nowhere, port_value: 1}}
  allow_paths: [{safe_regex: {regex: "("}}, {safe_regex: {regex: "["}}]
  access_log:
  - name: file
    filter: {status_code_filter: {}}
    typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /no/such/folder/log}
stats_config:
  stats_tags: [{tag_name: a, regex: "("}, {tag_name: b, regex: "["}]
  stats_matcher: {inclusion_list: {patterns: [{safe_regex: {regex: "("}}, {safe_regex: {regex: "["}}]}}
layered_runtime:
  layers:
  - {name: one, disk_layer: {symlink_root: x}}
  - {name: one, rtds_layer: {name: r, rtds_config: {ads: {}}}}
cluster_manager: {local_cluster_name: nobody, outlier_detection: {event_log_path: /no/such/folder/log}}
static_resources:
  clusters: [{name: a, type: EDS}, {name: a}]
"#;

const SOURCES: &str = r#"
dynamic_resources:
  ads_config:
    api_type: REST
    transport_api_version: V2
    grpc_services: [{envoy_grpc: {cluster_name: ghost, retry_policy: {num_retries: 1}}, initial_metadata: [{key: "a b", value: x}]}]
  lds_config: {api_config_source: {api_type: GRPC, transport_api_version: V2, grpc_services: []}}
  cds_config: {self: {}, initial_fetch_timeout: 0s}
"#;

const CLUSTERS: &str = r#"
static_resources:
  secrets:
  - name: s
    tls_certificate: {certificate_chain: {inline_string: none}, private_key: {inline_string: none}}
  - name: v
    validation_context: {trusted_ca: {inline_string: none}, verify_certificate_hash: [x], verify_certificate_spki: [x]}
  clusters:
  - name: a
    load_assignment:
      cluster_name: a
      policy: {overprovisioning_factor: 0, endpoint_stale_after: 0s}
      endpoints:
      - priority: 200
        load_balancing_weight: 0
        lb_endpoints:
        - load_balancing_weight: 0
          endpoint:
            address: {socket_address: {protocol: UDP, address: one, port_value: 70000}}
            additional_addresses: [{address: {socket_address: {address: two, port_value: 1}}}, {address: {socket_address: {address: three, port_value: 1}}}]
            health_check_config: {port_value: 70000, address: {socket_address: {address: four, port_value: 1}}}
        - endpoint: {address: {socket_address: {address: five, port_value: 1}}}
      - lb_endpoints: [{endpoint: {address: {socket_address: {address: six, port_value: 1}}}}]
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: "not a name"
        allow_renegotiation: true
        common_tls_context:
          tls_params: {cipher_suites: [nothing]}
          tls_certificates:
          - {certificate_chain: {inline_string: none}, private_key: {inline_string: none}}
          - {certificate_chain: {filename: /no/such/file}, private_key: {filename: /no/such/file}}
          validation_context:
            trusted_ca: {inline_string: none}
            verify_certificate_hash: [x, xx]
            crl: {inline_string: none}
    transport_socket_matches:
    - {name: m, match: {}, transport_socket: {name: envoy.transport_sockets.raw_buffer}}
    health_checks:
    - timeout: 0s
      interval: 0s
      unhealthy_threshold: 0
      alt_port: 70000
      http_health_check: {path: "no path", expected_statuses: [{start: 1, end: 2}], request_headers_to_add: [{header: {key: "a b", value: "\n"}}]}
    - {timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {send: {text: x}, receive: [{text: v}, {text: z}]}}
    preconnect_policy: {per_upstream_preconnect_ratio: 9, predictive_preconnect_ratio: 9}
  - name: a
    connect_timeout: 0s
"#;

const LISTENERS: &str = r#"
static_resources:
  listeners:
  - name: x
    address: {socket_address: {protocol: UDP, address: nowhere, port_value: 70000}}
    additional_addresses:
    - {address: {socket_address: {address: one, port_value: 1}}}
    - {address: {pipe: {path: "@p", mode: 7}}}
    listener_filters:
    - {name: a}
    - name: b
      filter_disabled: {or_match: {rules: [{any_match: true}, {not_match: {}}]}}
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}
    socket_options: [{level: 5000000000, name: 5000000000, int_value: 5000000000}]
    access_log:
    - {name: a}
    - name: b
      filter: {and_filter: {filters: [{duration_filter: {}}, {status_code_filter: {}}]}}
      typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /no/such/folder/log}
    filter_chains:
    - filter_chain_match: {server_names: ["*x", "a*"], prefix_ranges: [{address_prefix: here}], source_ports: [0, 70000], destination_port: 70000}
      use_proxy_proto: true
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          ocsp_staple_policy: MUST_STAPLE
          session_ticket_keys: {keys: [{inline_string: x}]}
          common_tls_context: {tls_params: {ecdh_curves: [nothing]}}
      filters:
      - {name: a}
      - name: echo
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}
      - name: rbac
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC
          stat_prefix: r
          rules:
            policies:
              b: {permissions: [{header: {name: "a b"}}, {url_path: {path: {safe_regex: {regex: "("}}}}], principals: [{any: false}]}
              a: {permissions: [], principals: []}
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          rds: {route_config_name: r, config_source: {api_config_source: {api_type: REST, transport_api_version: V2}}}
          http_filters:
          - name: jwt
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                one: {local_jwks: {inline_string: none}, from_headers: [{name: "a b"}], forward_payload_header: "c d", claim_to_headers: [{header_name: "e f"}]}
                two: {remote_jwks: {http_uri: {uri: "x", cluster: c, timeout: 1s}, cache_duration: 1s, retry_policy: {retry_on: 5xx}}}
              requirement_map: {m: {provider_name: three}, n: {requires_any: {requirements: []}}}
              rules: [{match: {safe_regex: {regex: "("}}, requires: {provider_name: four}}, {match: {prefix: /}, requirement_name: o}]
          - name: rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {policies: {a: {permissions: [{destination_port: 70000}], principals: [{source_ip: {address_prefix: x}}]}}}
              shadow_rules: {policies: {b: {permissions: [{any: false}], principals: [{any: false}]}}}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
    - filters: [{name: last, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster}}]
  - name: x
    address: {socket_address: {address: 127.0.0.1, port_value: 1}}
"#;

/// Beginnings of paths, and how the lists below abbreviate them.
const SHORT: &[(&str, &str)] = &[
    (
        "static_resources.listeners[0].filter_chains[0].filters[3].typed_config.",
        "HCM ",
    ),
    ("static_resources.listeners[0].filter_chains[0].", "CHAIN "),
    ("static_resources.clusters[0].transport_socket.typed_config.", "TLS "),
    ("static_resources.clusters[0].load_assignment.", "ASSIGNMENT "),
    ("static_resources.clusters[0].health_checks", "CHECKS "),
    ("static_resources.", "STATIC "),
];

/// Checks that exactly these paths are told, in whatever order.
fn check(yaml: &str, wanted: &str) {
    let verdict = configuration(&options(&["--config-yaml", yaml]));
    let short = |path: &String| {
        let of = SHORT
            .iter()
            .find_map(|(long, short)| Some(format!("{short}{}", path.strip_prefix(long)?)));
        of.unwrap_or_else(|| path.clone())
    };
    let mut told: Vec<String> = paths(&verdict).iter().map(short).collect();
    told.sort();
    let mut wanted: Vec<&str> = wanted.trim().lines().collect();
    wanted.sort_unstable();
    assert!(!verdict.is_ok);
    assert_eq!(told, wanted, "{}", verdict.text);
}

#[test]
fn all_faults_of_the_bootstraps_own_fields_are_told() {
    check(
        OWN,
        r#"
STATIC clusters[0].eds_cluster_config
STATIC clusters[1].name
admin.access_log[0].filter.status_code_filter.comparison
admin.access_log[0].typed_config.path
admin.address.socket_address.address
admin.address.socket_address.protocol
admin.allow_paths[0].safe_regex.regex
admin.allow_paths[1].safe_regex.regex
cluster_manager.local_cluster_name
cluster_manager.outlier_detection.event_log_path
layered_runtime.layers[0].disk_layer
layered_runtime.layers[1].name
layered_runtime.layers[1].rtds_layer
stats_config.stats_matcher.inclusion_list.patterns[0].safe_regex.regex
stats_config.stats_matcher.inclusion_list.patterns[1].safe_regex.regex
stats_config.stats_tags[0].regex
stats_config.stats_tags[1].regex
"#,
    );
}

#[test]
fn all_faults_of_sources_are_told() {
    check(
        SOURCES,
        r#"
dynamic_resources.ads_config.api_type
dynamic_resources.ads_config.grpc_services[0].envoy_grpc.retry_policy.num_retries
dynamic_resources.ads_config.grpc_services[0].initial_metadata[0].key
dynamic_resources.ads_config.transport_api_version
dynamic_resources.cds_config.self
dynamic_resources.lds_config.api_config_source.grpc_services
dynamic_resources.lds_config.api_config_source.transport_api_version
node
"#,
    );
}

#[test]
fn all_faults_of_clusters_endpoints_secrets_and_health_checks_are_told() {
    check(
        CLUSTERS,
        r#"
ASSIGNMENT endpoints[0].lb_endpoints[0].endpoint.additional_addresses[0].address
ASSIGNMENT endpoints[0].lb_endpoints[0].endpoint.additional_addresses[1].address
ASSIGNMENT endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value
ASSIGNMENT endpoints[0].lb_endpoints[0].endpoint.address.socket_address.protocol
ASSIGNMENT endpoints[0].lb_endpoints[0].endpoint.health_check_config.address
ASSIGNMENT endpoints[0].lb_endpoints[0].endpoint.health_check_config.port_value
ASSIGNMENT endpoints[0].lb_endpoints[0].load_balancing_weight
ASSIGNMENT endpoints[0].load_balancing_weight
ASSIGNMENT endpoints[0].priority
ASSIGNMENT policy.endpoint_stale_after
ASSIGNMENT policy.overprovisioning_factor
CHECKS 
CHECKS [0].alt_port
CHECKS [0].healthy_threshold
CHECKS [0].http_health_check.expected_statuses[0]
CHECKS [0].http_health_check.path
CHECKS [0].http_health_check.request_headers_to_add[0].header.key
CHECKS [0].http_health_check.request_headers_to_add[0].header.value
CHECKS [0].interval
CHECKS [0].timeout
CHECKS [0].unhealthy_threshold
CHECKS [1].tcp_health_check.receive[0].text
CHECKS [1].tcp_health_check.receive[1].text
CHECKS [1].tcp_health_check.send.text
STATIC clusters[0].preconnect_policy.per_upstream_preconnect_ratio
STATIC clusters[0].preconnect_policy.predictive_preconnect_ratio
STATIC clusters[0].transport_socket_matches[0].transport_socket.typed_config
STATIC clusters[1].connect_timeout
STATIC clusters[1].name
STATIC secrets[0].tls_certificate.certificate_chain
STATIC secrets[0].tls_certificate.private_key
STATIC secrets[1].validation_context.trusted_ca
STATIC secrets[1].validation_context.verify_certificate_hash[0]
STATIC secrets[1].validation_context.verify_certificate_spki[0]
TLS allow_renegotiation
TLS common_tls_context.tls_certificates[0].certificate_chain
TLS common_tls_context.tls_certificates[0].private_key
TLS common_tls_context.tls_certificates[1].certificate_chain.filename
TLS common_tls_context.tls_certificates[1].private_key.filename
TLS common_tls_context.tls_params.cipher_suites[0]
TLS common_tls_context.validation_context.crl
TLS common_tls_context.validation_context.trusted_ca
TLS common_tls_context.validation_context.verify_certificate_hash[0]
TLS common_tls_context.validation_context.verify_certificate_hash[1]
TLS sni
"#,
    );
}

#[test]
fn all_faults_of_listeners_filters_policies_and_tokens_are_told() {
    check(
        LISTENERS,
        r#"
CHAIN filter_chain_match.destination_port
CHAIN filter_chain_match.prefix_ranges[0]
CHAIN filter_chain_match.server_names[0]
CHAIN filter_chain_match.server_names[1]
CHAIN filter_chain_match.source_ports[0]
CHAIN filter_chain_match.source_ports[1]
CHAIN filters[0].typed_config
CHAIN filters[1].typed_config
CHAIN filters[2].typed_config.rules.policies["a"].permissions
CHAIN filters[2].typed_config.rules.policies["a"].principals
CHAIN filters[2].typed_config.rules.policies["b"].permissions[0].header.name
CHAIN filters[2].typed_config.rules.policies["b"].permissions[1].url_path.path.safe_regex.regex
CHAIN filters[2].typed_config.rules.policies["b"].principals[0].any
CHAIN transport_socket.typed_config.common_tls_context.tls_certificates
CHAIN transport_socket.typed_config.common_tls_context.tls_params.ecdh_curves[0]
CHAIN transport_socket.typed_config.ocsp_staple_policy
CHAIN transport_socket.typed_config.session_ticket_keys
CHAIN use_proxy_proto
HCM http_filters[0].typed_config.providers["one"].claim_to_headers[0].claim_name
HCM http_filters[0].typed_config.providers["one"].claim_to_headers[0].header_name
HCM http_filters[0].typed_config.providers["one"].forward_payload_header
HCM http_filters[0].typed_config.providers["one"].from_headers[0].name
HCM http_filters[0].typed_config.providers["one"].local_jwks
HCM http_filters[0].typed_config.providers["two"].remote_jwks.retry_policy.retry_on
HCM http_filters[0].typed_config.requirement_map["m"].provider_name
HCM http_filters[0].typed_config.requirement_map["n"].requires_any.requirements
HCM http_filters[0].typed_config.rules[0].match.safe_regex.regex
HCM http_filters[0].typed_config.rules[0].requires.provider_name
HCM http_filters[0].typed_config.rules[1].requirement_name
HCM http_filters[1].typed_config.rules.policies["a"].permissions[0].destination_port
HCM http_filters[1].typed_config.rules.policies["a"].principals[0].source_ip.address_prefix
HCM http_filters[1].typed_config.shadow_rules.policies["b"].permissions[0].any
HCM http_filters[1].typed_config.shadow_rules.policies["b"].principals[0].any
HCM rds.config_source.api_config_source.api_type
HCM rds.config_source.api_config_source.grpc_services
HCM rds.config_source.api_config_source.transport_api_version
STATIC listeners[0].access_log[0].typed_config
STATIC listeners[0].access_log[1].filter.and_filter.filters[0].duration_filter.comparison
STATIC listeners[0].access_log[1].filter.and_filter.filters[1].status_code_filter.comparison
STATIC listeners[0].access_log[1].typed_config.path
STATIC listeners[0].additional_addresses[0].address.socket_address.address
STATIC listeners[0].additional_addresses[1].address.pipe.mode
STATIC listeners[0].address.socket_address.address
STATIC listeners[0].address.socket_address.port_value
STATIC listeners[0].address.socket_address.protocol
STATIC listeners[0].filter_chains[1].filters[0].typed_config
STATIC listeners[0].listener_filters[0].typed_config
STATIC listeners[0].listener_filters[1].filter_disabled.or_match.rules[1].not_match.rule
STATIC listeners[0].listener_filters[1].typed_config
STATIC listeners[0].socket_options[0].int_value
STATIC listeners[0].socket_options[0].level
STATIC listeners[0].socket_options[0].name
STATIC listeners[1].filter_chains
STATIC listeners[1].name
"#,
    );
}
