//! Connections without HTTP: `tcp_proxy` and what stands before it, listener filters, filter-chain match.

use super::{HTTP2, bootstrap, cluster};
use crate::harness::{Case, Wire, World};
use crate::tcp::Step::{self, End, Half, Hello, Read, Send};

const LOG: &str = "%ACCESS_LOG_TYPE% flags=%RESPONSE_FLAGS% ended=%CONNECTION_TERMINATION_DETAILS% \
                   failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% in=%BYTES_RECEIVED% out=%BYTES_SENT% host=%UPSTREAM_HOST% \
                   cluster=%UPSTREAM_CLUSTER% remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% local=%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% \
                   sni=%REQUESTED_SERVER_NAME% chain=%FILTER_CHAIN_NAME% proto=%PROTOCOL% code=%RESPONSE_CODE% \
                   tlv=%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol)% tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT%";

fn log() -> String {
    format!(
        r#"access_log: [{{name: envoy.access_loggers.file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{{{{log}}}}", log_format: {{text_format_source: {{inline_string: "{LOG}\n"}}}}}}}}]"#
    )
}

/// A network or listener filter, in flow style.
fn filter(kind: &str, fields: &str) -> String {
    let name = kind.rsplit('.').next().unwrap_or(kind);
    let separator = if fields.is_empty() { "" } else { ", " };
    format!(
        r#"{{name: {name}, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.{kind}{separator}{fields}}}}}"#
    )
}

fn proxy(stat_prefix: &str, fields: &str) -> String {
    let fields = format!("stat_prefix: {stat_prefix}, {}, {fields}", log());
    filter("network.tcp_proxy.v3.TcpProxy", &fields)
}

/// A listener of these chains (the matches, and the filters in flow style) and further fields (YAML lines).
fn listener(name: &str, fields: &str, chains: &[(&str, &[String])]) -> String {
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
fn behind(name: &str, filters: &[String]) -> String {
    let filters = [filters, &[proxy(name, "cluster: echo")]].concat();
    listener(name, "", &[("", &filters)])
}

/// A listener with these listener filters before a `tcp_proxy`.
fn inspected(name: &str, fields: &str, filters: &[String]) -> String {
    let fields = format!("listener_filters: [{}]\n{fields}", filters.join(", "));
    let cluster = if name.starts_with("slow") { "greet" } else { "echo" };
    listener(name, &fields, &[("", &[proxy(name, &format!("cluster: {cluster}"))])])
}

fn case(name: &'static str, listener: &'static str, count: u16, steps: &'static [Step]) -> Case {
    Case {
        name,
        listener,
        wire: Wire::Tcp(steps),
        status: count,
        logs: 1,
    }
}

fn logs(count: usize, case: Case) -> Case {
    Case { logs: count, ..case }
}

const FULL: &str = "circuit_breakers: {thresholds: [{max_connections: 0}]}";
const PROXY_PROTOCOL: &str = r#"transport_socket:
  name: envoy.transport_sockets.upstream_proxy_protocol
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
    config: CONFIG
    transport_socket: {name: raw, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}"#;

fn clusters() -> Vec<String> {
    let with_header = |config: &str| PROXY_PROTOCOL.replace("CONFIG", config);
    let v2 = "{version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [5]}, added_tlvs: [{type: 226, value: YWRkZWQ=}]}";
    vec![
        cluster("echo", &["{{echo}}"], ""),
        cluster("greet", &["{{greet}}"], ""),
        cluster("closed", &["{{closed}}"], ""),
        cluster("empty", &[], ""),
        cluster("full", &["{{echo}}"], FULL),
        cluster("tunnel", &["{{tunnel}}"], ""),
        cluster("tunnel2", &["{{tunnel}}"], HTTP2),
        cluster("header1", &["{{echo}}"], &with_header("{version: V1}")),
        cluster("header2", &["{{echo}}"], &with_header(v2)),
    ]
}

fn listeners() -> Vec<String> {
    let tunnel = |name: &str, cluster: &str, fields: &str| {
        plain(
            name,
            &format!(
                "cluster: {cluster}, tunneling_config: {{hostname: \"target.test:%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\", {fields}}}"
            ),
        )
    };
    let header = r#"headers_to_add: [{header: {key: x-added, value: "of %PROTOCOL%"}}]"#;
    let refuse = r#"headers_to_add: [{header: {key: x-refuse, value: "yes"}}]"#;
    let rules = |action: &str, ip: &str| {
        let range = format!("{{address_prefix: {ip}, prefix_len: 8}}");
        format!(
            "{{action: {action}, policies: {{here: {{permissions: [{{any: true}}], principals: [{{direct_remote_ip: {range}}}]}}}}}}"
        )
    };
    let rbac =
        |prefix: &str, fields: &str| filter("network.rbac.v3.RBAC", &format!("stat_prefix: {prefix}., {fields}"));
    let bucket = "stat_prefix: limited, token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 1000s}";
    let http = filter("listener.http_inspector.v3.HttpInspector", "");
    let pp = |fields: &str| vec![filter("listener.proxy_protocol.v3.ProxyProtocol", fields)];
    let tlvs =
        "rules: [{tlv_type: 2, on_tlv_present: {key: two}}], pass_through_tlvs: {match_type: INCLUDE, tlv_type: [5]}";
    vec![
        plain("echo", "cluster: echo"),
        plain("greet", "cluster: greet"),
        plain("closed", "cluster: closed"),
        plain(
            "thrice",
            "cluster: closed, max_connect_attempts: 3, backoff_options: {base_interval: 0.001s}",
        ),
        plain("empty", "cluster: empty"),
        plain("full", "cluster: full"),
        plain("missing", "cluster: missing"),
        plain(
            "weighted",
            "weighted_clusters: {clusters: [{name: echo, weight: 1}, {name: echo, weight: 3}]}",
        ),
        plain("idle", "cluster: echo, idle_timeout: 0.3s"),
        plain("lasting", "cluster: echo, max_downstream_connection_duration: 0.3s"),
        plain(
            "logged",
            "cluster: echo, access_log_options: {flush_access_log_on_connected: true, flush_access_log_on_start: true}",
        ),
        plain(
            "late",
            "cluster: greet, upstream_connect_mode: ON_DOWNSTREAM_DATA, max_early_data_bytes: 1024",
        ),
        tunnel("connect", "tunnel", header),
        tunnel("connect2", "tunnel2", header),
        tunnel("post", "tunnel", "use_post: true, post_path: /in"),
        tunnel("post2", "tunnel2", "use_post: true"),
        tunnel("refused", "tunnel", refuse),
        tunnel("refused2", "tunnel2", refuse),
        plain("header1", "cluster: header1"),
        plain("header2", "cluster: header2"),
        behind(
            "allowed",
            &[rbac("allowed", &format!("rules: {}", rules("ALLOW", "127.0.0.0")))],
        ),
        behind(
            "denied",
            &[rbac("denied", &format!("rules: {}", rules("ALLOW", "10.0.0.0")))],
        ),
        behind(
            "shadowed",
            &[rbac(
                "shadowed",
                &format!("shadow_rules: {}", rules("DENY", "127.0.0.0")),
            )],
        ),
        behind(
            "limited",
            &[filter("network.local_ratelimit.v3.LocalRateLimit", bucket)],
        ),
        listener("echoing", "", &[("", &[filter("network.echo.v3.Echo", "")])]),
        listener(
            "speaking",
            "",
            &[(
                "",
                &[filter(
                    "network.direct_response.v3.Config",
                    "response: {inline_string: direct}",
                )],
            )],
        ),
        inspected(
            "early",
            "",
            &[filter(
                "listener.local_ratelimit.v3.LocalRateLimit",
                &bucket.replace("limited", "early"),
            )],
        ),
        inspected("pp", "", &pp(tlvs)),
        inspected(
            "pp optional",
            "",
            &pp("allow_requests_without_proxy_protocol: true, stat_prefix: optional"),
        ),
        inspected("pp second", "", &pp("disallowed_versions: [V1], stat_prefix: second")),
        listener(
            "pp through",
            &format!("listener_filters: [{}]", pp(tlvs).concat()),
            &[("", &[proxy("through", "cluster: header2")])],
        ),
        inspected("slow", "listener_filters_timeout: 0.3s", std::slice::from_ref(&http)),
        inspected(
            "slow but served",
            "listener_filters_timeout: 0.3s\ncontinue_on_listener_filters_timeout: true",
            &[http],
        ),
        sni(),
        matching(),
        nowhere(),
    ]
}

fn sni() -> String {
    let fields = format!(
        "listener_filters: [{}]",
        filter("listener.tls_inspector.v3.TlsInspector", "")
    );
    let filters = [
        filter("network.sni_cluster.v3.SniCluster", ""),
        proxy("sni", "cluster: closed"),
    ];
    listener("sni", &fields, &[("", &filters)])
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
        &log(),
        &[("destination_port: 1", &[proxy("nowhere", "cluster: echo")])],
    )
}

pub fn world() -> World {
    World {
        name: "tcp",
        yaml: bootstrap(&listeners(), &clusters()),
        cases: [streams(), tunnels(), headers(), chains()]
            .into_iter()
            .flatten()
            .collect(),
        stats: &[
            "tcp.",
            "listener.echo.",
            "listener.nowhere.",
            "listener.slow.",
            "listener.pp.",
            "listener.limited.",
            "cluster.echo.upstream_cx",
            "cluster.echo.upstream_rq",
            "cluster.closed.upstream_cx",
            "cluster.closed.upstream_rq",
            "cluster.empty.upstream_cx",
            "cluster.full.upstream_cx",
            "cluster.tunnel.upstream_rq",
            "proxy_proto.",
            "local_rate_limit.",
            "listener_local_ratelimit.",
            "tls_inspector.",
            "http_inspector.",
            "allowed.",
            "denied.",
            "shadowed.",
        ],
    }
}

fn streams() -> Vec<Case> {
    const TALK: &[Step] = &[Send(b"hello"), Half, End];
    vec![
        case("echo", "echo", 5, TALK),
        case("the client ends first", "greet", 6, &[Read(6), Half, End]),
        case("server first", "greet", 11, &[Read(6), Send(b"world"), Half, End]),
        case("refused", "closed", 0, &[End]),
        case("refused three times", "thrice", 0, &[End]),
        case("no host", "empty", 0, &[End]),
        case("breaker open", "full", 0, &[End]),
        case("no cluster", "missing", 0, &[End]),
        case("weighted", "weighted", 5, TALK),
        case("idle", "idle", 5, &[Send(b"hello"), Read(5), End]),
        case("too long", "lasting", 5, &[Send(b"hello"), Read(5), End]),
        logs(3, case("logged at the start", "logged", 5, TALK)),
        case("connected late", "late", 11, TALK),
        case("allowed", "allowed", 5, TALK),
        case("denied", "denied", 0, &[Send(b"hello"), End]),
        case("denied in the shadow", "shadowed", 5, TALK),
        case("first of one", "limited", 5, TALK),
        case("second of one", "limited", 0, &[End]),
        logs(0, case("echoing", "echoing", 5, TALK)),
        logs(0, case("speaking", "speaking", 6, &[End])),
        case("first of one, early", "early", 5, TALK),
        logs(0, case("second of one, early", "early", 0, &[End])),
    ]
}

fn tunnels() -> Vec<Case> {
    const TALK: &[Step] = &[Send(b"hello"), Half, End];
    vec![
        case("CONNECT", "connect", 85, TALK),
        case("CONNECT over HTTP/2", "connect2", 61, TALK),
        case("POST", "post", 79, TALK),
        case("POST over HTTP/2", "post2", 47, TALK),
        case("CONNECT refused", "refused", 0, &[End]),
        case("CONNECT refused over HTTP/2", "refused2", 0, &[End]),
    ]
}

fn headers() -> Vec<Case> {
    const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\nhello";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x16\xc0\0\x02\x01\xc6\x33\x64\x01\x03\xe8\x01\xbb\x02\0\x03two\x05\0\x01zhello";
    vec![
        case("PROXY header to upstream", "header1", 53, &[Send(b"hello"), Half, End]),
        case(
            "binary PROXY header to upstream",
            "header2",
            41,
            &[Send(b"hello"), Half, End],
        ),
        case("PROXY header", "pp", 5, &[Send(V1), Half, End]),
        case("binary PROXY header", "pp", 5, &[Send(V2), Half, End]),
        logs(
            0,
            case("no PROXY header", "pp", 0, &[Send(b"hello, this is no header"), End]),
        ),
        logs(
            0,
            case("broken PROXY header", "pp", 0, &[Send(b"PROXY TCP4 nonsense\r\n"), End]),
        ),
        logs(
            0,
            case(
                "unknown version of PROXY",
                "pp",
                0,
                &[Send(b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0"), End],
            ),
        ),
        case(
            "PROXY header of nobody",
            "pp",
            5,
            &[Send(b"PROXY UNKNOWN\r\nhello"), Half, End],
        ),
        case(
            "binary PROXY header of nobody",
            "pp",
            5,
            &[Send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0hello"), Half, End],
        ),
        case("optional, and there", "pp optional", 5, &[Send(V1), Half, End]),
        case(
            "optional, and not there",
            "pp optional",
            24,
            &[Send(b"hello, this is no header"), Half, End],
        ),
        logs(
            0,
            case("a version that is not allowed", "pp second", 0, &[Send(V1), End]),
        ),
        case("a version that is allowed", "pp second", 5, &[Send(V2), Half, End]),
        case("a TLV passes through", "pp through", 45, &[Send(V2), Half, End]),
        logs(0, case("too slow", "slow", 0, &[End])),
        case("too slow, but served", "slow but served", 6, &[Read(6), Half, End]),
    ]
}

fn chains() -> Vec<Case> {
    let chain = |name, steps| logs(0, case(name, "match", 7, steps));
    vec![
        case("SNI names the cluster", "sni", 243, &[Hello("echo", &[]), Half, End]),
        chain(
            "plaintext",
            &[Send(b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b"), End],
        ),
        chain("HTTP/1.1", &[Send(b"GET / HTTP/1.1\r\n\r\n"), End]),
        chain("HTTP/1.0", &[Send(b"GET / HTTP/1.0\r\n\r\n"), End]),
        chain("HTTP/2 in the clear", &[Send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), End]),
        chain("exact name", &[Hello("a.test", &[]), End]),
        chain("exact name in capitals", &[Hello("A.TEST", &[]), End]),
        chain("exact name and h2", &[Hello("a.test", &["h2"]), End]),
        chain(
            "exact name and another protocol",
            &[Hello("a.test", &["http/1.1"]), End],
        ),
        chain("wildcard", &[Hello("x.y.test", &[]), End]),
        chain("wildcard and h2", &[Hello("x.test", &["h2"]), End]),
        chain("unknown name", &[Hello("other.example", &[]), End]),
        chain(
            "unknown name and h2",
            &[Hello("other.example", &["http/1.1", "h2"]), End],
        ),
        chain("no name", &[Hello("", &[]), End]),
        chain("source range", &[Hello("b.test", &[]), End]),
        chain("source type", &[Hello("c.test", &[]), End]),
        chain(
            "destination of a PROXY header",
            &[
                Send(b"PROXY TCP4 192.0.2.1 10.1.1.1 1000 443\r\n\0\x01\x02\x03\x04\x05\x06\x07\x08\x09"),
                End,
            ],
        ),
        case("no chain", "nowhere", 0, &[End]),
    ]
}
