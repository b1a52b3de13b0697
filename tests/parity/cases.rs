//! The worlds. Each is one bootstrap and the cases played on it.

pub mod admin;
pub mod authz;
pub mod balancing;
pub mod codec;
pub mod failures;
pub mod families;
pub mod fields;
pub mod filters;
pub mod headers;
pub mod http2;
pub mod logging;
pub mod matching;
pub mod messages;
pub mod mirroring;
pub mod mutations;
pub mod operations;
pub mod outliers;
pub mod paths;
pub mod redirects;
pub mod replies;
pub mod retries;
pub mod routing;
pub mod rows;
pub mod runtime;
pub mod source;
pub mod switches;
pub mod tcp;
pub mod timeouts;
pub mod tls;
pub mod tls_upstream;
pub mod tokens;
pub mod zones;

/// A bootstrap around listeners and clusters.
pub fn bootstrap(listeners: &[String], clusters: &[String]) -> String {
    let admin = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\nstatic_resources:\n";
    format!(
        "{admin}  listeners:\n{}  clusters:\n{}",
        listeners.concat(),
        clusters.concat()
    )
}

/// A listener with one connection manager of these fields (YAML, not indented); it logs to `{{log}}`.
pub fn listener(name: &str, manager: &str) -> String {
    let fields: String = manager.lines().map(|line| format!("          {line}\n")).collect();
    format!(
        r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: "{{{{log}}}}"
              log_format: {{text_format_source: {{inline_string: "{FORMAT}\n"}}}}
{fields}"#
    )
}

const FORMAT: &str = "%REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% code=%RESPONSE_CODE% \
                      flags=%RESPONSE_FLAGS% long=%RESPONSE_FLAGS_LONG% details=%RESPONSE_CODE_DETAILS% \
                      ended=%CONNECTION_TERMINATION_DETAILS% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% in=%BYTES_RECEIVED% \
                      out=%BYTES_SENT% host=%UPSTREAM_HOST% cluster=%UPSTREAM_CLUSTER% route=%ROUTE_NAME% \
                      tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT% grpc=%GRPC_STATUS% xff=%REQ(X-FORWARDED-FOR)% \
                      remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% type=%RESP(CONTENT-TYPE)%";

/// A STATIC cluster of these ports (`{{a}}` ...), with more fields (YAML lines, not indented).
pub fn cluster(name: &str, ports: &[&str], fields: &str) -> String {
    let hosts = ports.iter().map(|port| {
        format!("        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: \"{port}\"}}}}}}\n")
    });
    let hosts = hosts.collect::<String>().replace("\"{{", "{{").replace("}}\"", "}}");
    let lb = if ports.is_empty() {
        String::new()
    } else {
        format!("      - lb_endpoints:\n{hosts}")
    };
    let endpoints = if ports.is_empty() {
        " []".to_owned()
    } else {
        format!("\n{lb}")
    };
    let fields: String = fields.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "  - name: {name}\n    type: STATIC\n    connect_timeout: 1s\n    load_assignment:\n      cluster_name: {name}\n      \
         endpoints:{endpoints}\n{fields}"
    )
}

/// Fields of a cluster that speaks HTTP/2.
const HTTP2: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}"#;
