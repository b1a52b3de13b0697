//! The listeners and clusters of the world.

use crate::cases::{HTTP2, cluster};

const LOG: &str = "%ACCESS_LOG_TYPE% flags=%RESPONSE_FLAGS% ended=%CONNECTION_TERMINATION_DETAILS% \
                   failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% in=%BYTES_RECEIVED% out=%BYTES_SENT% \
                   wire=%DOWNSTREAM_WIRE_BYTES_RECEIVED%/%DOWNSTREAM_WIRE_BYTES_SENT% host=%UPSTREAM_HOST% cluster=%UPSTREAM_CLUSTER% remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% local=%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% \
                   sni=%REQUESTED_SERVER_NAME% chain=%FILTER_CHAIN_NAME% proto=%PROTOCOL% code=%RESPONSE_CODE% \
                   tlv=%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol)% tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT% \
                   state=%FILTER_STATE(who:PLAIN)% \
                   headers=%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers)% \
                   plain=%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers:PLAIN)% \
                   trailers=%FILTER_STATE(envoy.tcp_proxy.propagate_response_trailers:TYPED)% \
                   tlvs=%FILTER_STATE(envoy.network.proxy_protocol.tlv)% two=%FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:two)% \
                   other=%FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:other)% hint=%DYNAMIC_METADATA(envoy.common)% \
                   shadow=%DYNAMIC_METADATA(envoy.filters.network.rbac)%";

/// A tunnel's are those of the request that it goes through.
const UPSTREAM: &str = " up=%UPSTREAM_WIRE_BYTES_SENT%/%UPSTREAM_WIRE_BYTES_RECEIVED%";

/// Only known to the log of the proxy.
const CLOSE: &str = " \
                   close=%DOWNSTREAM_DETECTED_CLOSE_TYPE%,%UPSTREAM_DETECTED_CLOSE_TYPE% \
                   why=%DOWNSTREAM_LOCAL_CLOSE_REASON%,%UPSTREAM_LOCAL_CLOSE_REASON%";

fn log(close: &str) -> String {
    format!(
        r#"access_log: [{{name: envoy.access_loggers.file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{{{{log}}}}", log_format: {{text_format_source: {{inline_string: "{LOG}{close}\n"}}}}}}}}]"#
    )
}

/// A network or listener filter, in flow style.
pub(super) fn filter(kind: &str, fields: &str) -> String {
    let name = kind.rsplit('.').next().unwrap_or(kind);
    let separator = if fields.is_empty() { "" } else { ", " };
    format!(
        r#"{{name: {name}, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.{kind}{separator}{fields}}}}}"#
    )
}

pub(super) fn proxy(stat_prefix: &str, fields: &str) -> String {
    let upstream = if fields.contains("tunneling_config") {
        ""
    } else {
        UPSTREAM
    };
    let fields = format!(
        "stat_prefix: {stat_prefix}, {}, {fields}",
        log(&format!("{upstream}{CLOSE}"))
    );
    filter("network.tcp_proxy.v3.TcpProxy", &fields)
}

/// A listener of these chains (the matches, and the filters in flow style) and further fields (YAML lines).
pub(super) fn listener(name: &str, fields: &str, chains: &[(&str, &[String])]) -> String {
    let mut text = format!(
        "  - name: {name}\n    stat_prefix: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n"
    );
    for line in fields.lines().filter(|line| !line.is_empty()) {
        text += &format!("    {line}\n");
    }
    text += "    filter_chains:\n";
    for (index, (matches, filters)) in chains.iter().enumerate() {
        text += &format!("    - name: chain{index}\n");
        if !matches.is_empty() {
            text += &format!("      filter_chain_match: {{{matches}}}\n");
        }
        text += "      filters:\n";
        for filter in *filters {
            text += &format!("      - {filter}\n");
        }
    }
    text
}

/// A listener of one `tcp_proxy` with these fields.
fn plain(name: &str, fields: &str) -> String {
    listener(name, "", &[("", &[proxy(name, fields)])])
}

/// A listener with these filters before a `tcp_proxy` to the echo.
pub(super) fn behind(name: &str, filters: &[String]) -> String {
    // Envoy connects for a client that it is going to deny.
    let cluster = if name.starts_with("denied") {
        "forbidden"
    } else {
        "echo"
    };
    let filters = [filters, &[proxy(name, &format!("cluster: {cluster}"))]].concat();
    listener(name, "", &[("", &filters)])
}

/// A listener with these listener filters before a `tcp_proxy`.
pub(super) fn inspected(name: &str, fields: &str, filters: &[String]) -> String {
    let fields = format!("listener_filters: [{}]\n{fields}", filters.join(", "));
    let cluster = if name.starts_with("slow") { "greet" } else { "echo" };
    listener(name, &fields, &[("", &[proxy(name, &format!("cluster: {cluster}"))])])
}

const STATE: &str = r#"on_new_connection: [{object_key: who, factory_key: envoy.string, format_string: {text_format_source: {inline_string: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}}]"#;
const FULL: &str = "circuit_breakers: {thresholds: [{max_connections: 0}]}";
const PROXY_PROTOCOL: &str = r#"transport_socket:
  name: envoy.transport_sockets.upstream_proxy_protocol
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
    config: CONFIG
    transport_socket: {name: raw, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}"#;

pub(super) fn clusters() -> Vec<String> {
    let with_header = |config: &str| PROXY_PROTOCOL.replace("CONFIG", config);
    let v2 = "{version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [5]}, added_tlvs: [{type: 226, value: YWRkZWQ=}]}";
    vec![
        cluster("echo", &["{{echo}}"], ""),
        cluster("forbidden", &["{{echo}}"], ""),
        cluster("greet", &["{{greet}}"], ""),
        cluster("closed", &["{{closed}}"], ""),
        cluster("break", &["{{break}}"], ""),
        cluster(
            "unbound",
            &["{{echo}}"],
            "upstream_bind_config: {source_address: {address: \"::1\", port_value: 0}}",
        ),
        many("ring", "lb_policy: RING_HASH"),
        many("maglev", "lb_policy: MAGLEV"),
        many("subsets", "lb_subset_config: {subset_selectors: [{keys: [number]}]}"),
        cluster("empty", &[], ""),
        cluster("full", &["{{echo}}"], FULL),
        limited("unqueued", "thresholds: [{max_pending_requests: 0}]"),
        limited("placeless", "thresholds: [{max_requests: 0}]"),
        limited("unpooled", "thresholds: [{max_connection_pools: 0}]"),
        limited("single", "thresholds: [{max_connections: 1}]"),
        limited("lonely", "per_host_thresholds: [{max_connections: 0}]"),
        cluster("tunnel", &["{{tunnel}}"], ""),
        cluster("tunnel2", &["{{tunnel}}"], HTTP2),
        cluster("header1", &["{{echo}}"], &with_header("{version: V1}")),
        cluster("header2", &["{{echo}}"], &with_header(v2)),
        cluster(
            "header3",
            &["{{echo}}"],
            &with_header("{version: V2, pass_through_tlvs: {}}"),
        ),
    ]
}

fn limited(name: &str, thresholds: &str) -> String {
    cluster(name, &["{{echo}}"], &format!("circuit_breakers: {{{thresholds}}}"))
}

/// The echo as eight hosts, of which each says its number.
fn many(name: &str, fields: &str) -> String {
    let host = |number: u8| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.{number}, port_value: {{{{echo}}}}}}}}}}, \
             metadata: {{filter_metadata: {{envoy.lb: {{number: \"{number}\"}}}}}}}}"
        )
    };
    let hosts: Vec<String> = (1..=8).map(host).collect();
    format!(
        "  - name: {name}\n    connect_timeout: 1s\n    {fields}\n    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}\n",
        hosts.join(", ")
    )
}

pub(super) fn listeners() -> Vec<String> {
    let mut all = vec![matching(), nowhere()];
    all.extend(proxies());
    all.extend(choosing());
    all.extend(tunnels());
    all.extend(filtered());
    all.extend(inspecting());
    all.push(super::hellos::listeners());
    all.extend(super::firsts::listeners());
    all.extend(super::trees::listeners());
    all.extend(stating());
    all
}

fn proxies() -> Vec<String> {
    let patient = "cluster: closed, max_connect_attempts: 3, backoff_options: {base_interval: 0.001s}";
    let weighted = "weighted_clusters: {clusters: [{name: echo, weight: 1}, {name: echo, weight: 3}]}";
    let logged =
        "cluster: echo, access_log_options: {flush_access_log_on_connected: true, flush_access_log_on_start: true}";
    let late = "cluster: greet, upstream_connect_mode: ON_DOWNSTREAM_DATA, max_early_data_bytes: 1024";
    vec![
        plain("echo", "cluster: echo"),
        plain("greet", "cluster: greet"),
        plain("narrow", "cluster: echo"),
        plain("closed", "cluster: closed"),
        plain("thrice", patient),
        plain("break", "cluster: break"),
        plain("unbound", "cluster: unbound, max_connect_attempts: 2"),
        plain("empty", "cluster: empty"),
        plain("full", "cluster: full"),
        plain("unqueued", "cluster: unqueued, max_connect_attempts: 2"),
        plain("unpooled", "cluster: unpooled"),
        plain("single", "cluster: single"),
        plain("lonely", "cluster: lonely"),
        plain("missing", "cluster: missing"),
        plain("weighted", weighted),
        plain("idle", "cluster: echo, idle_timeout: 0.3s"),
        plain("lasting", "cluster: echo, max_downstream_connection_duration: 0.3s"),
        plain("logged", logged),
        plain(
            "told",
            "cluster: echo, max_downstream_connection_duration: 1s, access_log_options: {access_log_flush_interval: 0.4s}",
        ),
        plain(
            "told as before",
            "cluster: echo, max_downstream_connection_duration: 1s, access_log_flush_interval: 0.4s",
        ),
        plain("late", late),
        plain("header1", "cluster: header1"),
        plain("header2", "cluster: header2"),
    ]
}

fn choosing() -> Vec<String> {
    let number = |number: u8| format!("metadata_match: {{filter_metadata: {{envoy.lb: {{number: \"{number}\"}}}}}}");
    let header = filter("listener.proxy_protocol.v3.ProxyProtocol", "stat_prefix: hashed");
    let hashed = proxy("hashed", "cluster: ring, hash_policy: [{source_ip: {}}]");
    let stated = proxy("stated", "cluster: maglev, hash_policy: [{filter_state: {key: who}}]");
    // Envoy takes no hash of what `envoy.string` makes.
    let state = STATE.replace("envoy.string", "envoy.hashable_string");
    let weighted = format!(
        "weighted_clusters: {{clusters: [{{name: subsets, weight: 1, {}}}]}}",
        number(5)
    );
    vec![
        listener("hashed", &format!("listener_filters: [{header}]"), &[("", &[hashed])]),
        listener(
            "stated",
            "",
            &[("", &[filter("network.set_filter_state.v3.Config", &state), stated])],
        ),
        plain("subset", &format!("cluster: subsets, {}", number(3))),
        plain("weighted subset", &weighted),
        plain("no subset", &format!("cluster: subsets, {}", number(9))),
    ]
}

fn tunnels() -> Vec<String> {
    let hostname = "hostname: \"target.test:%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"";
    let tunnel = |name: &str, cluster: &str, fields: &str| {
        plain(
            name,
            &format!("cluster: {cluster}, tunneling_config: {{{hostname}, {fields}}}"),
        )
    };
    let header = r#"headers_to_add: [{header: {key: x-added, value: "of %PROTOCOL%"}}]"#;
    let broken = r#"headers_to_add: [{header: {key: x-break, value: "yes"}}]"#;
    let refuse = r#"headers_to_add: [{header: {key: x-refuse, value: "yes"}}]"#;
    vec![
        tunnel("connect", "tunnel", header),
        tunnel("connect2", "tunnel2", header),
        tunnel("post", "tunnel", "use_post: true, post_path: /in"),
        tunnel("post2", "tunnel2", "use_post: true"),
        tunnel("refused", "tunnel", refuse),
        tunnel("placeless", "placeless", header),
        tunnel("broken", "tunnel", broken),
        tunnel("broken post", "tunnel", &format!("use_post: true, {broken}")),
        plain(
            "idle tunnel",
            &format!("cluster: tunnel, idle_timeout: 0.3s, tunneling_config: {{{hostname}}}"),
        ),
        tunnel("refused2", "tunnel2", refuse),
        tunnel("telling", "tunnel", &format!("{TELL}, {KEEP}")),
        tunnel("telling2", "tunnel2", &format!("{TELL}, {KEEP}")),
        tunnel(
            "telling4",
            "tunnel",
            &format!(
                "{}, {KEEP}",
                TELL.replace("x-tell", "x-tell-refuse")
                    .replace("}]", "}, {header: {key: x-refuse, value: a}}]")
            ),
        ),
        tunnel(
            "numbered",
            "tunnel",
            &format!("{NUMBER}, {}", show("tunnel_request_id")),
        ),
        tunnel(
            "numbered2",
            "tunnel2",
            &format!(
                "{NUMBER}, request_id_header: X-Number, request_id_metadata_key: number, {}",
                show("number")
            ),
        ),
    ]
}

const TELL: &str = r#"headers_to_add: [{header: {key: x-tell, value: "yes"}}]"#;
const KEEP: &str = "propagate_response_headers: true, propagate_response_trailers: true";
const NUMBER: &str = r#"request_id_extension: {typed_config: {"@type": type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig}}"#;

/// A header of what the metadata of `tcp_proxy` has under this key.
fn show(key: &str) -> String {
    format!(
        r#"headers_to_add: [{{header: {{key: x-shown, value: "%DYNAMIC_METADATA(envoy.filters.network.tcp_proxy:{key})%"}}}}]"#
    )
}

/// Filter state that `tcp_proxy` goes by.
fn stating() -> Vec<String> {
    let state = |key: &str, value: &str| {
        filter(
            "network.set_filter_state.v3.Config",
            &format!(
                r#"on_new_connection: [{{object_key: {key}, format_string: {{text_format_source: {{inline_string: "{value}"}}}}}}]"#
            ),
        )
    };
    let tunnel = |name: &str| proxy(name, "cluster: echo, tunneling_config: {hostname: target.test}");
    let tunnel2 = |name: &str| proxy(name, "cluster: tunnel, tunneling_config: {hostname: target.test}");
    let straight = state("envoy.tcp_proxy.disable_tunneling", "true");
    let all_the_same = state("envoy.tcp_proxy.disable_tunneling", "false");
    let idle = state("envoy.tcp_proxy.per_connection_idle_timeout_ms", "300");
    let shared = format!("{}, share_key: shared", bucket("shared"));
    let shared = |name: &str| behind(name, &[filter("network.local_ratelimit.v3.LocalRateLimit", &shared)]);
    vec![
        behind("idle by state", &[idle]),
        listener("straight", "", &[("", &[straight, tunnel("straight")])]),
        listener("all the same", "", &[("", &[all_the_same, tunnel2("all_the_same")])]),
        shared("sharing"),
        shared("sharing too"),
    ]
}

/// A token, once.
fn bucket(stat_prefix: &str) -> String {
    format!("stat_prefix: {stat_prefix}, token_bucket: {{max_tokens: 1, tokens_per_fill: 1, fill_interval: 1000s}}")
}

fn filtered() -> Vec<String> {
    let rules = |action: &str, ip: &str| {
        let range = format!("{{address_prefix: {ip}, prefix_len: 8}}");
        let policy = format!("{{permissions: [{{any: true}}], principals: [{{direct_remote_ip: {range}}}]}}");
        format!("{{action: {action}, policies: {{here: {policy}}}}}")
    };
    let rbac = |name: &str, fields: &str| {
        let fields = format!("stat_prefix: {name}., {fields}");
        behind(name, &[filter("network.rbac.v3.RBAC", &fields)])
    };
    let direct = filter("network.direct_response.v3.Config", "response: {inline_string: direct}");
    let limited = filter("network.local_ratelimit.v3.LocalRateLimit", &bucket("limited"));
    vec![
        rbac("allowed", &format!("rules: {}", rules("ALLOW", "127.0.0.0"))),
        rbac(
            "again",
            &format!(
                "rules: {}, shadow_rules: {}, enforcement_type: CONTINUOUS",
                rules("ALLOW", "127.0.0.0"),
                rules("DENY", "127.0.0.0")
            ),
        ),
        rbac("denied", &format!("rules: {}", rules("ALLOW", "10.0.0.0"))),
        rbac("shadowed", &format!("shadow_rules: {}", rules("DENY", "127.0.0.0"))),
        behind("limited", &[limited]),
        behind(
            "crowded",
            &[filter(
                "network.connection_limit.v3.ConnectionLimit",
                "stat_prefix: crowded, max_connections: 1",
            )],
        ),
        behind("stateful", &[filter("network.set_filter_state.v3.Config", STATE)]),
        listener("echoing", "", &[("", &[filter("network.echo.v3.Echo", "")])]),
        listener("speaking", "", &[("", &[direct])]),
    ]
}

fn inspecting() -> Vec<String> {
    let http = filter("listener.http_inspector.v3.HttpInspector", "");
    let pp = |fields: &str| vec![filter("listener.proxy_protocol.v3.ProxyProtocol", fields)];
    let rule = "rules: [{tlv_type: 2, on_tlv_present: {key: two}}]";
    let tlvs = format!("{rule}, pass_through_tlvs: {{match_type: INCLUDE, tlv_type: [5]}}");
    let early = filter("listener.local_ratelimit.v3.LocalRateLimit", &bucket("early"));
    let optional = "allow_requests_without_proxy_protocol: true, stat_prefix: optional";
    let with_tlvs = |name: &str, policy: &str| {
        let tlvs = r#"[{type: 5, value: ZmlyZXN0}, {type: 240, format_string: {text_format_source: {inline_string: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}}, {type: 6, value: bGFzdA==}]"#;
        let proxy = proxy(
            name,
            &format!("cluster: header3, proxy_protocol_tlvs: {tlvs}, proxy_protocol_tlv_merge_policy: {policy}"),
        );
        let header = pp(&format!("{optional}, pass_through_tlvs: {{}}")).concat();
        listener(name, &format!("listener_filters: [{header}]"), &[("", &[proxy])])
    };
    let through = format!("listener_filters: [{}]", pp(&tlvs).concat());
    let never = http.replacen('{', "{filter_disabled: {or_match: {rules: [{destination_port_range: {start: 1, end: 65536}}, {not_match: {any_match: true}}]}}, ", 1);
    let served = "listener_filters_timeout: 0.3s\ncontinue_on_listener_filters_timeout: true";
    vec![
        inspected("early", "", &[early]),
        listener(
            "disabled",
            &format!("listener_filters: [{never}]"),
            &[("", &[proxy("disabled", "cluster: greet")])],
        ),
        inspected("pp", "", &pp(&tlvs)),
        inspected("pp optional", "", &pp(optional)),
        inspected("pp second", "", &pp("disallowed_versions: [V1], stat_prefix: second")),
        listener("pp through", &through, &[("", &[proxy("through", "cluster: header2")])]),
        with_tlvs("tlvs absent", "ADD_IF_ABSENT"),
        with_tlvs("tlvs over", "OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD"),
        with_tlvs("tlvs behind", "APPEND_IF_EXISTS_OR_ADD"),
        inspected("tlvs stated", "", &pp(&format!("{rule}, tlv_location: FILTER_STATE"))),
        inspected("slow", "listener_filters_timeout: 0.3s", std::slice::from_ref(&http)),
        inspected("slow but served", served, &[http]),
    ]
}

/// Each chain says its own number.
fn matching() -> String {
    let matches = [
        "",
        "server_names: [a.test]",
        "server_names: [\"*.test\"]",
        "server_names: [a.test], application_protocols: [h2]",
        "transport_protocol: tls",
        "transport_protocol: tls, application_protocols: [h2]",
        "application_protocols: [http/1.1]",
        "application_protocols: [h2c]",
        "source_prefix_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}], server_names: [b.test]",
        "source_type: SAME_IP_OR_LOOPBACK, server_names: [c.test]",
        "source_type: EXTERNAL, server_names: [c.test]",
        "prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]",
    ];
    let filters: Vec<[String; 1]> = (0..matches.len())
        .map(|index| {
            [filter(
                "network.direct_response.v3.Config",
                &format!("response: {{inline_string: \"chain{index:02}\"}}"),
            )]
        })
        .collect();
    let chains: Vec<(&str, &[String])> = matches
        .iter()
        .zip(&filters)
        .map(|(matches, filter)| (*matches, &filter[..]))
        .collect();
    let inspectors = [
        filter(
            "listener.proxy_protocol.v3.ProxyProtocol",
            "allow_requests_without_proxy_protocol: true, stat_prefix: match",
        ),
        filter("listener.tls_inspector.v3.TlsInspector", ""),
        filter("listener.http_inspector.v3.HttpInspector", ""),
    ];
    listener(
        "match",
        &format!("listener_filters: [{}]", inspectors.join(", ")),
        &chains,
    )
}

/// A listener whose only chain never matches.
fn nowhere() -> String {
    listener(
        "nowhere",
        &log(""),
        &[("destination_port: 1", &[proxy("nowhere", "cluster: echo")])],
    )
}
