//! A listener of both families: an IPv4 client is one wherever its address is printed, compared or sent on.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, Wire, World, get};
use crate::tcp::Step::{End, Send};

/// All operators with an address that is the same in every run.
const FORMAT: &str = "%RESPONSE_CODE% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)% \
                      %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT(8)% \
                      %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT% \
                      %UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %REQ(X-FORWARDED-FOR)% %FILTER_CHAIN_NAME%";

const ROUTES: &str = r#"
route_config:
  name: routes
  request_headers_to_add:
  - {header: {key: x-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"}}
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /hashed}, route: {cluster: ring, hash_policy: [{connection_properties: {source_ip: true}}]}}
    - {match: {prefix: /}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let internal = "internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}\n";
    let detection = "original_ip_detection_extensions:\n- name: xff\n  typed_config: {\"@type\": \
         type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3.XffConfig, skip_xff_append: false, \
         xff_trusted_cidrs: {cidrs: [{address_prefix: 127.0.0.0, prefix_len: 8}]}}\n";
    let listeners = [
        http("mesh", internal, None),
        http("edge", &format!("{internal}use_remote_address: true\n"), None),
        http("trusted", detection, None),
        http("trusted inside", &format!("{internal}{detection}"), None),
        http("by remote", "", Some(("direct_remote_ip", "127.0.0.0", 8))),
        http("by mapped", "", Some(("direct_remote_ip", "::ffff:127.0.0.0", 104))),
        http("by client", "", Some(("remote_ip", "127.0.0.1", 32))),
        chains(),
        plain(),
    ];
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("ring", &["{{a}}", "{{b}}"], "lb_policy: RING_HASH"),
        cluster("peer", &["{{peer}}"], ""),
    ];
    World {
        name: "families",
        yaml: bootstrap(&listeners, &clusters),
        cases: cases(),
        stats: &["http.by"],
    }
}

/// A connection manager that takes both families, behind a principal of RBAC if there is one.
fn http(name: &str, fields: &str, principal: Option<(&str, &str, u8)>) -> String {
    let text = both(&listener(name, &format!("{fields}{ROUTES}")));
    let Some((kind, address, bits)) = principal else {
        return text;
    };
    let rbac = format!(
        r#"          http_filters:
          - name: rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {{policies: {{them: {{permissions: [{{any: true}}], principals: [{{{kind}: {{address_prefix: "{address}", prefix_len: {bits}}}}}]}}}}}}
"#
    );
    text.replace("          http_filters:\n", &rbac)
}

fn both(listener: &str) -> String {
    let format = listener.find("inline_string: \"").unwrap() + "inline_string: \"".len();
    let end = format + listener[format..].find("\\n\"").unwrap();
    format!("{}{FORMAT}{}", &listener[..format], &listener[end..]).replace(
        "{address: 127.0.0.1, port_value: 0}",
        "{address: \"::\", port_value: 0, ipv4_compat: true}",
    )
}

/// Chains by where the client comes from, and where it goes.
fn chains() -> String {
    let text = both(&listener("chains", ROUTES));
    let (head, chain) = text.split_once("    - filters:\n").unwrap();
    let named = |name: &str, rule: &str| {
        format!("    - name: {name}\n      filter_chain_match: {{{rule}}}\n      filters:\n{chain}")
    };
    let mapped = "source_prefix_ranges: [{address_prefix: \"::ffff:127.0.0.0\", prefix_len: 104}]";
    let plain = "prefix_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}], source_prefix_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]";
    format!("{head}{}{}", named("mapped", mapped), named("plain", plain))
}

fn plain() -> String {
    let log = format!("log_format: {{text_format_source: {{inline_string: \"{FORMAT}\\n\"}}}}");
    both(&format!(
        r#"  - name: plain
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: plain
          cluster: peer
          access_log:
          - name: envoy.access_loggers.file
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{{{{log}}}}", {log}}}
"#
    ))
}

fn cases() -> Vec<Case> {
    let mapped = "x-forwarded-for: ::ffff:192.0.2.1\n";
    vec![
        get("inside the mesh", 200, "/", "").on("mesh"),
        get("said to come from elsewhere", 200, "/", "x-forwarded-for: 192.0.2.1\n").on("mesh"),
        get("said to come from a mapped address", 200, "/", mapped).on("mesh"),
        get(
            "said to come from here",
            200,
            "/",
            "x-forwarded-for: ::ffff:127.0.0.1\n",
        )
        .on("mesh"),
        get("hashed", 200, "/hashed", "").on("mesh"),
        get("at the edge", 200, "/", "").on("edge"),
        get("at the edge, from elsewhere", 200, "/", mapped).on("edge"),
        get("from somebody who is trusted", 200, "/", mapped).on("trusted"),
        get(
            "one inside, from somebody who is trusted",
            200,
            "/",
            "x-forwarded-for: 127.0.0.1\n",
        )
        .on("trusted inside"),
        get(
            "two inside, from somebody who is trusted",
            200,
            "/",
            "x-forwarded-for: 127.0.0.1, 127.0.0.2\n",
        )
        .on("trusted inside"),
        get("let in by its address", 200, "/", "").on("by remote"),
        get("let in by its mapped address", 403, "/", "").on("by mapped"),
        get("let in as the client", 200, "/", "").on("by client"),
        get(
            "said to be the same, mapped",
            403,
            "/",
            "x-forwarded-for: ::ffff:127.0.0.1\n",
        )
        .on("by client"),
        get(
            "through one who is mapped",
            200,
            "/",
            "x-forwarded-for: 192.0.2.1, ::ffff:127.0.0.1\n",
        )
        .on("trusted"),
        get("said to be another client", 403, "/", mapped).on("by client"),
        get("of two chains", 200, "/", "").on("chains"),
        Case {
            wire: Wire::Tcp(&[Send(b"hello"), End]),
            ..get("without HTTP", 9, "", "").on("plain")
        },
    ]
}
