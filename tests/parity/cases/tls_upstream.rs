//! TLS clusters in front of `openssl s_server`: what a server that is not ours makes of our handshakes, and we of its.

use super::tls::{Pki, file};
use super::{bootstrap, cluster};
use crate::harness::{Case, Wire, World};
use crate::openssl::Servers;
use crate::tcp::Step::{self, End, Half, Read, Send};

const LOG: &str = "%UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER% peer=%UPSTREAM_PEER_URI_SAN% subject=%UPSTREAM_PEER_SUBJECT% \
                   own=%UPSTREAM_LOCAL_URI_SAN% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% flags=%RESPONSE_FLAGS% tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT%";

const TALK: &[Step] = &[Send(b"hello\n"), Read(6), Half, End];
const NOTHING: &[Step] = &[End];

/// Name (of the listener and its cluster too), server, whether it is to work, and the context: `{NAME}` is a file of that name, fields of the
/// common context come before a `|`, those of the whole after it.
type Row = (&'static str, &'static str, bool, &'static str);

const ROWS: &[Row] = &[
    ("trusted", "s_plain", true, "validation_context: {trusted_ca: {root}}"),
    (
        "newest",
        "s_plain",
        true,
        "tls_params: {tls_maximum_protocol_version: TLSv1_3}, validation_context: {trusted_ca: {root}}",
    ),
    (
        "default is no 1.3",
        "s_13",
        false,
        "validation_context: {trusted_ca: {root}}",
    ),
    (
        "at least 1.3",
        "s_12",
        false,
        "tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}, validation_context: {trusted_ca: {root}}",
    ),
    (
        "suite",
        "s_plain",
        true,
        "tls_params: {cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384]}, validation_context: {trusted_ca: {root}}",
    ),
    (
        "no suite",
        "s_suite",
        false,
        "tls_params: {cipher_suites: [ECDHE-ECDSA-AES128-GCM-SHA256]}, validation_context: {trusted_ca: {root}}",
    ),
    (
        "curve",
        "s_plain",
        true,
        "tls_params: {ecdh_curves: [P-256]}, validation_context: {trusted_ca: {root}}",
    ),
    ("not asked", "s_foreign", true, ""),
    (
        "untrusted",
        "s_foreign",
        false,
        "validation_context: {trusted_ca: {root}}",
    ),
    (
        "untrusted, accepted",
        "s_foreign",
        true,
        "validation_context: {trusted_ca: {root}, trust_chain_verification: ACCEPT_UNTRUSTED}",
    ),
    (
        "expired",
        "s_expired",
        false,
        "validation_context: {trusted_ca: {root}}",
    ),
    (
        "expired, allowed",
        "s_expired",
        true,
        "validation_context: {trusted_ca: {root}, allow_expired_certificate: true}",
    ),
    (
        "revoked",
        "s_revoked",
        false,
        "validation_context: {trusted_ca: {root}, crl: {crl}}",
    ),
    (
        "name",
        "s_plain",
        true,
        "validation_context: {trusted_ca: {root}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a.test}}]}",
    ),
    (
        "other name",
        "s_plain",
        false,
        "validation_context: {trusted_ca: {root}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: b.test}}]}",
    ),
    (
        "name in the SNI",
        "s_plain",
        true,
        "validation_context: {trusted_ca: {root}}|sni: a.test, auto_sni_san_validation: true",
    ),
    (
        "other name in the SNI",
        "s_plain",
        false,
        "validation_context: {trusted_ca: {root}}|sni: b.test, auto_sni_san_validation: true",
    ),
    (
        "self-signed",
        "s_alone",
        true,
        "validation_context: {trusted_ca: {alone.pem}}",
    ),
    (
        "self-signed, untrusted",
        "s_alone",
        false,
        "validation_context: {trusted_ca: {root}}",
    ),
    (
        "authority",
        "s_authority",
        true,
        "validation_context: {trusted_ca: {root}}",
    ),
    (
        "with a certificate",
        "s_mutual",
        true,
        "tls_certificates: [{certificate_chain: {client.pem}, private_key: {client.key}}], validation_context: {trusted_ca: {root}}",
    ),
    (
        "with a certificate of others",
        "s_mutual",
        false,
        "tls_certificates: [{certificate_chain: {foreign.pem}, private_key: {foreign.key}}], validation_context: {trusted_ca: {root}}",
    ),
    (
        "without a certificate",
        "s_mutual",
        false,
        "validation_context: {trusted_ca: {root}}",
    ),
];

/// Name, server, and what the endpoint says of itself: TLS is for those of the mesh.
const MATCHED: &[(&str, &str, &str)] = &[
    ("in the mesh", "s_plain", "{mode: mesh, more: of it}"),
    ("of another mesh", "echo", "{mode: other}"),
    ("says nothing", "echo", ""),
];

fn matched((name, server, says): &(&str, &str, &str), trusting: &str) -> String {
    let metadata = match *says {
        "" => String::new(),
        says => format!(", metadata: {{filter_metadata: {{envoy.transport_socket_match: {says}}}}}"),
    };
    let kind = "type.googleapis.com/envoy.extensions.transport_sockets";
    format!(
        r#"  - name: {name}
    connect_timeout: 1s
    transport_socket_matches:
    - {{name: mesh, match: {{mode: mesh}}, transport_socket: {{name: tls, typed_config: {{"@type": {kind}.tls.v3.UpstreamTlsContext, common_tls_context: {{{trusting}}}}}}}}}
    - {{name: rest, match: {{}}, transport_socket: {{name: raw, typed_config: {{"@type": {kind}.raw_buffer.v3.RawBuffer}}}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{{server}}}}}}}}}}}{metadata}}}]}}]
"#
    )
}

pub fn world() -> (World, Servers) {
    let pki = Pki::new();
    let files = pki.files.path();
    let with_files = |text: &str| {
        let names = [
            "root",
            "crl",
            "alone.pem",
            "client.pem",
            "client.key",
            "foreign.pem",
            "foreign.key",
        ];
        names.iter().fold(text.to_owned(), |text, name| {
            text.replace(&format!("{{{name}}}"), &file(files, name))
        })
    };
    let clusters = ROWS.iter().map(|(name, server, _, context)| {
        let (common, whole) = context.split_once('|').unwrap_or((context, ""));
        let separator = if whole.is_empty() { "" } else { ", " };
        let socket = format!(
            r#"transport_socket: {{name: tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{{}}}{separator}{whole}}}}}"#,
            with_files(common)
        );
        cluster(name, &[&format!("{{{{{server}}}}}")], &socket)
    });
    let trusting = with_files("validation_context: {trusted_ca: {root}}");
    let clusters: Vec<String> = clusters
        .chain(MATCHED.iter().map(|row| matched(row, &trusting)))
        .collect();
    let names = ROWS
        .iter()
        .map(|(name, ..)| name)
        .chain(MATCHED.iter().map(|(name, ..)| name));
    let listeners: Vec<String> = names.map(|name| listener(name)).collect();
    let world = World {
        name: "tls-upstream",
        yaml: bootstrap(&listeners, &clusters),
        cases: ROWS
            .iter()
            .map(|(name, _, works, _)| case(name, *works))
            .chain(MATCHED.iter().map(|(name, ..)| case(name, true)))
            .collect(),
        stats: &[
            "cluster.trusted.ssl.",
            "cluster.in the mesh.ssl.",
            "cluster.newest.ssl.",
            "cluster.newest.upstream_cx",
            "cluster.newest.upstream_rq",
            "cluster.untrusted.upstream_cx",
            "cluster.untrusted.upstream_rq",
            "cluster.suite.ssl.",
            "cluster.curve.ssl.",
            "cluster.not asked.ssl.",
            "cluster.untrusted.ssl.",
            "cluster.revoked.ssl.",
            "cluster.other name.ssl.",
            "cluster.with a certificate.ssl.",
        ],
    };
    let servers = Servers {
        arguments: servers(&pki),
        _files: Some(pki.files),
    };
    (world, servers)
}

/// Name, and arguments.
fn servers(pki: &Pki) -> Vec<(&'static str, Vec<String>)> {
    let path = |name: &str| pki.files.path().join(name).display().to_string();
    let server = |name, identity: &str, arguments: &str| {
        let mut all = vec!["-cert".to_owned(), path(&format!("{identity}.pem"))];
        all.extend(["-key".to_owned(), path(&format!("{identity}.key"))]);
        all.extend(
            arguments
                .split_whitespace()
                .map(|argument| argument.replace("ROOT", &path("root"))),
        );
        (name, all)
    };
    vec![
        server("s_plain", "server", ""),
        server("s_12", "server", "-tls1_2"),
        server("s_13", "server", "-tls1_3"),
        server("s_suite", "server", "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384"),
        server("s_foreign", "foreign", ""),
        server("s_expired", "expired", ""),
        server("s_revoked", "revoked", ""),
        server("s_alone", "alone", ""),
        server("s_authority", "authority", ""),
        // In TLS 1.3 a client would hear of it only after its handshake.
        server(
            "s_mutual",
            "server",
            "-tls1_2 -Verify 1 -verify_return_error -CAfile ROOT",
        ),
    ]
}

fn case(name: &'static str, works: bool) -> Case {
    Case {
        name,
        listener: name,
        wire: Wire::Tcp(if works { TALK } else { NOTHING }),
        status: if works { 6 } else { 0 },
        logs: 1,
        seen: 0,
    }
}

fn listener(name: &str) -> String {
    format!(
        r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: {name}
          cluster: {name}
          access_log: [{{name: envoy.access_loggers.file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{{{{log}}}}", log_format: {{text_format_source: {{inline_string: "{LOG}\n"}}}}}}}}]
"#
    )
}
