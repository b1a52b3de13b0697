//! TLS listeners, asked by `openssl s_client`: versions, suites, groups, names, client certificates good and bad.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use control_plane_mock::pki::{Authority, Identity, Leaf};
use tempfile::TempDir;

use super::{bootstrap, cluster};
use crate::harness::{Case, Wire, World};

const LOG: &str = "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% sni=%REQUESTED_SERVER_NAME% peer=%DOWNSTREAM_PEER_URI_SAN% \
                   subject=%DOWNSTREAM_PEER_SUBJECT% issuer=%DOWNSTREAM_PEER_ISSUER% own=%DOWNSTREAM_LOCAL_URI_SAN% \
                   failure=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% flags=%RESPONSE_FLAGS% ended=%CONNECTION_TERMINATION_DETAILS%";

/// All certificates of the world.
pub(super) struct Pki {
    root: Authority,
    pub(super) server: Identity,
    second: Identity,
    self_signed: Identity,
    /// SHA-256 of the good client's certificate.
    client_hash: String,
    /// SHA-256 of its key, in base64.
    client_spki: String,
    pub(super) files: Arc<TempDir>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let (root, other) = (Authority::new("root").unwrap(), Authority::new("other").unwrap());
        let issue = |authority: &Authority, leaf: Leaf| authority.issue(&leaf).unwrap();
        let leaf = |account: &str| Leaf::spiffe("td", "ns", account).common_name(account);
        let files = Arc::new(tempfile::tempdir().unwrap());
        let clients = [
            ("client", issue(&root, leaf("client"))),
            ("stranger", issue(&root, leaf("stranger"))),
            (
                "foreign",
                issue(&other, Leaf::spiffe("other", "ns", "client").common_name("foreign")),
            ),
            ("impostor", issue(&other, leaf("client"))),
            ("expired", issue(&root, leaf("client").expired())),
            ("early", issue(&root, leaf("client").not_yet_valid())),
            ("revoked", issue(&root, leaf("client"))),
            ("nameless", issue(&root, Leaf::new().common_name("nameless"))),
            ("alone", leaf("client").self_signed().unwrap()),
            (
                "other name",
                issue(&root, leaf("client").other_name(&[1, 2, 3, 4], "some name")),
            ),
            ("authority", root.identity()),
        ];
        for (name, identity) in &clients {
            std::fs::write(files.path().join(format!("{name}.pem")), &identity.chain_pem).unwrap();
            std::fs::write(files.path().join(format!("{name}.key")), &identity.key_pem).unwrap();
        }
        let client = &clients[0].1.leaf_der;
        let client = remora::tls::x509::CertificateFacts::parse(client).unwrap();
        let revoked = clients.iter().find(|(name, _)| *name == "revoked").unwrap().1.serial;
        std::fs::write(files.path().join("crl"), root.revoke(&[revoked]).unwrap()).unwrap();
        std::fs::write(files.path().join("root"), root.root_pem()).unwrap();
        std::fs::write(files.path().join("other"), other.root_pem()).unwrap();
        let server = issue(&root, leaf("server").dns("a.test"));
        std::fs::write(files.path().join("server.pem"), &server.chain_pem).unwrap();
        std::fs::write(files.path().join("server.key"), &server.key_pem).unwrap();
        Self {
            server,
            second: issue(&root, leaf("second").dns("b.test")),
            self_signed: leaf("self").dns("a.test").self_signed().unwrap(),
            client_hash: client.sha256,
            client_spki: base64::engine::general_purpose::STANDARD.encode(client.spki_sha256),
            root,
            files,
        }
    }
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

pub(super) fn file(files: &Path, name: &str) -> String {
    format!("{{filename: {}}}", quoted(&files.join(name).display().to_string()))
}

fn certificate(identity: &Identity) -> String {
    format!(
        "{{certificate_chain: {{inline_string: {}}}, private_key: {{inline_string: {}}}}}",
        quoted(&identity.chain_pem),
        quoted(&identity.key_pem)
    )
}

/// A listener with this context (flow style: fields of the common context, then of the whole).
fn listener(name: &str, certificates: &[&Identity], common: &str, whole: &str) -> String {
    let certificates: Vec<String> = certificates.iter().map(|identity| certificate(identity)).collect();
    let certificates = certificates.join(", ");
    let separated = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!(", {text}")
        }
    };
    let (common, whole) = (separated(common), separated(whole));
    format!(
        r#"  - name: {name}
    stat_prefix: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    access_log: [{{name: envoy.access_loggers.file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{{{{log}}}}", log_format: {{text_format_source: {{inline_string: "{LOG}\n"}}}}}}}}]
    filter_chains:
    - filters: [{{name: tcp_proxy, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {name}, cluster: say, access_log: [{{name: envoy.access_loggers.file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{{{{log}}}}", log_format: {{text_format_source: {{inline_string: "tcp_proxy {LOG}\n"}}}}}}}}]}}}}]
      transport_socket:
        name: tls
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{tls_certificates: [{certificates}]{common}}}{whole}}}
"#
    )
}

fn listeners(pki: &Pki) -> Vec<String> {
    let plain = |name: &str, common: &str| listener(name, &[&pki.server], common, "");
    let asking = |name: &str, validation: &str, whole: &str| {
        listener(
            name,
            &[&pki.server],
            &format!("validation_context: {{{validation}}}"),
            whole,
        )
    };
    let files = pki.files.path();
    let trusted = format!("trusted_ca: {}", file(files, "root"));
    let required = "require_client_certificate: true";
    let san = |matcher: &str| {
        format!("{trusted}, match_typed_subject_alt_names: [{{san_type: URI, matcher: {{{matcher}}}}}]")
    };
    let other_name = |oid: &str| {
        format!(
            "{trusted}, match_typed_subject_alt_names: [{{san_type: OTHER_NAME, oid: {oid}, matcher: {{prefix: some}}}}]"
        )
    };
    let domain = |name: &str, bundle: &str| format!("{{name: {name}, trust_bundle: {}}}", file(files, bundle));
    let spiffe = format!(
        r#"custom_validator_config: {{name: envoy.tls.cert_validator.spiffe, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig, trust_domains: [{}, {}]}}}}"#,
        domain("td", "root"),
        domain("other", "other")
    );
    vec![
        plain("plain", ""),
        plain("tls12", "tls_params: {tls_maximum_protocol_version: TLSv1_2}"),
        plain("tls13", "tls_params: {tls_minimum_protocol_version: TLSv1_3}"),
        plain(
            "suite",
            "tls_params: {tls_maximum_protocol_version: TLSv1_2, cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384]}",
        ),
        plain("curve", "tls_params: {ecdh_curves: [P-256]}"),
        plain("alpn", "alpn_protocols: [h2, http/1.1]"),
        listener("names", &[&pki.server, &pki.second], "", ""),
        listener("sni", &[&pki.server], "", "require_sni: true"),
        asking("optional", &trusted, ""),
        asking("required", &trusted, required),
        asking("exact", &san("exact: spiffe://td/ns/ns/sa/client"), required),
        asking("prefix", &san("prefix: spiffe://td/"), required),
        asking("suffix", &san("suffix: /sa/client"), required),
        asking("contains", &san("contains: /STRANGER, ignore_case: true"), required),
        asking(
            "regex",
            &san("safe_regex: {regex: \"spiffe://[a-z]+/.*/client\"}"),
            required,
        ),
        asking(
            "kind",
            &san("prefix: spiffe").replace("san_type: URI", "san_type: DNS"),
            required,
        ),
        asking(
            "spki",
            &format!("{trusted}, verify_certificate_spki: [\"{}\"]", pki.client_spki),
            required,
        ),
        asking("crl", &format!("{trusted}, crl: {}", file(files, "crl")), required),
        asking("crl optional", &format!("{trusted}, crl: {}", file(files, "crl")), ""),
        asking("exact optional", &san("exact: spiffe://td/ns/ns/sa/client"), ""),
        asking(
            "lenient",
            &format!("{trusted}, allow_expired_certificate: true"),
            required,
        ),
        asking(
            "untrusting",
            &format!("{trusted}, trust_chain_verification: ACCEPT_UNTRUSTED"),
            required,
        ),
        asking(
            "untrusting names",
            &format!(
                "{}, trust_chain_verification: ACCEPT_UNTRUSTED",
                san("exact: spiffe://td/ns/ns/sa/client")
            ),
            required,
        ),
        asking("resuming", &trusted, required),
        asking(
            "resuming untrusting",
            &format!("{trusted}, trust_chain_verification: ACCEPT_UNTRUSTED"),
            required,
        ),
        asking("other name", &other_name("1.2.3.4"), required),
        asking("other name of another type", &other_name("1.2.3.5"), required),
        asking("spiffe", &spiffe, required),
        asking(
            "pinned",
            &format!("{trusted}, verify_certificate_hash: [\"{}\"]", pki.client_hash),
            required,
        ),
        asking("alone", &format!("trusted_ca: {}", file(files, "alone.pem")), required),
        listener("authority", &[&pki.root.identity()], "", ""),
        listener("self-signed", &[&pki.self_signed], "", ""),
    ]
}

pub fn world() -> World {
    let pki = Pki::new();
    World {
        name: "tls",
        yaml: bootstrap(&listeners(&pki), &[cluster("say", &["{{say}}"], "")]),
        cases: cases(&pki),
        stats: &[
            "listener.plain.",
            "listener.tls1",
            "listener.names.",
            "listener.required.ssl.",
            "listener.optional.ssl.",
            "listener.crl.ssl.",
            "listener.spiffe.ssl.",
            "listener.untrusting",
            "listener.resuming",
            "listener.other",
            "tcp.required.",
            "tcp.crl.",
        ],
    }
}

fn cases(pki: &Pki) -> Vec<Case> {
    let without = NEGOTIATED
        .iter()
        .map(|(name, listener, count, arguments)| (*name, *listener, *count, *arguments, ""));
    without
        .chain(CERTIFIED.iter().copied())
        .chain(matrix())
        .map(|row| case(pki, row))
        .collect()
}

/// Every kind of client against every kind of listener, in every version.
fn matrix() -> Vec<Row> {
    const CLIENTS: [&str; 9] = [
        "", "client", "stranger", "foreign", "impostor", "expired", "early", "revoked", "nameless",
    ];
    let mut rows = Vec::new();
    for (listener, is_required, has_list, has_name) in [
        ("plain", false, false, false),
        ("optional", false, false, false),
        ("required", true, false, false),
        ("crl", true, true, false),
        ("crl optional", false, true, false),
        ("exact", true, false, true),
        ("exact optional", true, false, true),
    ] {
        for client in CLIENTS {
            let good = match client {
                "" => !is_required,
                "foreign" | "impostor" | "expired" | "early" => false,
                "revoked" => !has_list,
                "stranger" | "nameless" => !has_name,
                _ => true,
            };
            // Nobody is asked: nobody is refused.
            let count = if good || listener == "plain" { 6 } else { 0 };
            for version in ["-tls1_2", "-tls1_3"] {
                // A case of its own: the alert is another.
                if client.is_empty() && is_required && version == "-tls1_2" {
                    continue;
                }
                let name = format!("{listener} × {client} × {version}");
                rows.push((&*name.leak(), listener, count, version, client));
            }
        }
    }
    rows
}

/// Name, listener, bytes received, arguments, and the client's certificate (if it has one).
type Row = (&'static str, &'static str, u16, &'static str, &'static str);

fn case(pki: &Pki, (name, listener, status, arguments, client): Row) -> Case {
    let mut arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    if !client.is_empty() {
        let path = |kind: &str| pki.files.path().join(format!("{client}.{kind}")).display().to_string();
        arguments.extend(["-cert".to_owned(), path("pem"), "-key".to_owned(), path("key")]);
    }
    Case {
        name,
        listener,
        wire: Wire::OpenSsl {
            arguments,
            _files: pki.files.clone(),
        },
        status,
        // Of the listener and of `tcp_proxy`. A client that comes back at once is gone before all is said.
        logs: if listener.starts_with("resuming") { 0 } else { 2 },
        seen: 0,
    }
}

const NEGOTIATED: &[(&str, &str, u16, &str)] = &[
    ("the newest version", "plain", 6, ""),
    (
        "the server's choice of a suite",
        "plain",
        6,
        "-ciphersuites TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256",
    ),
    ("TLS 1.2", "plain", 6, "-tls1_2"),
    ("a name", "plain", 6, "-servername a.test"),
    ("a suite", "plain", 6, "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305"),
    (
        "a suite of TLS 1.3",
        "plain",
        6,
        "-ciphersuites TLS_CHACHA20_POLY1305_SHA256",
    ),
    ("no suite in common", "plain", 0, "-tls1_2 -cipher AES128-SHA256"),
    ("no group in common", "plain", 0, "-groups P-384"),
    ("1.2 at most, asked for anything", "tls12", 6, ""),
    ("1.2 at most, asked for 1.3", "tls12", 0, "-tls1_3"),
    ("1.3 at least, asked for anything", "tls13", 6, ""),
    ("1.3 at least, asked for 1.2", "tls13", 0, "-tls1_2"),
    ("the only suite", "suite", 6, "-cipher ECDHE-ECDSA-AES256-GCM-SHA384"),
    (
        "another suite",
        "suite",
        0,
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    ("the only curve", "curve", 6, ""),
    ("another curve", "curve", 0, "-groups X25519"),
    ("ALPN in common", "alpn", 6, "-alpn http/1.1,h2"),
    ("no ALPN in common", "alpn", 6, "-alpn nonsense"),
    ("the first name", "names", 6, "-servername a.test"),
    ("the second name", "names", 6, "-servername b.test"),
    ("no such name", "names", 6, "-servername c.test"),
    ("SNI required and there", "sni", 6, "-servername a.test"),
    ("SNI required and not there", "sni", 6, "-noservername"),
];

const CERTIFIED: &[Row] = &[
    ("optional certificate, none", "optional", 6, "", ""),
    ("optional certificate, good", "optional", 6, "", "client"),
    ("optional certificate, bad", "optional", 0, "", "foreign"),
    ("required certificate, none", "required", 0, "", ""),
    ("required certificate, none, TLS 1.2", "required", 0, "-tls1_2", ""),
    ("required certificate, good", "required", 6, "", "client"),
    (
        "required certificate, good, TLS 1.2",
        "required",
        6,
        "-tls1_2",
        "client",
    ),
    (
        "required certificate, of another authority",
        "required",
        0,
        "",
        "foreign",
    ),
    ("required certificate, expired", "required", 0, "", "expired"),
    ("required certificate, not yet valid", "required", 0, "", "early"),
    ("exact name", "exact", 6, "", "client"),
    ("another name", "exact", 0, "", "stranger"),
    ("no name at all", "exact", 0, "", "nameless"),
    ("name by prefix", "prefix", 6, "", "stranger"),
    ("name by suffix", "suffix", 6, "", "client"),
    ("another suffix", "suffix", 0, "", "stranger"),
    ("name by a part, whatever its case", "contains", 6, "", "stranger"),
    ("another part", "contains", 0, "", "client"),
    ("name by a pattern", "regex", 6, "", "client"),
    ("another pattern", "regex", 0, "", "stranger"),
    ("name of another kind", "kind", 0, "", "client"),
    ("key pinned", "spki", 6, "", "client"),
    ("not revoked", "crl", 6, "", "client"),
    ("revoked", "crl", 0, "", "revoked"),
    ("expired, allowed", "lenient", 6, "", "expired"),
    ("untrusted, allowed", "untrusting", 6, "", "foreign"),
    ("untrusted, another name", "untrusting names", 6, "", "foreign"),
    ("trusted, another name", "untrusting names", 6, "", "stranger"),
    ("trusted, its name", "untrusting names", 6, "", "client"),
    ("resumed", "resuming", 6, "-tls1_2 -reconnect", "client"),
    (
        "resumed by id",
        "resuming",
        6,
        "-tls1_2 -no_ticket -reconnect",
        "client",
    ),
    (
        "resumed, and not trusted",
        "resuming untrusting",
        6,
        "-tls1_2 -reconnect",
        "foreign",
    ),
    ("other name", "other name", 6, "", "other name"),
    ("no other name", "other name", 0, "", "client"),
    (
        "other name of another type",
        "other name of another type",
        0,
        "",
        "other name",
    ),
    ("SPIFFE, first domain", "spiffe", 6, "", "client"),
    ("SPIFFE, second domain", "spiffe", 6, "", "foreign"),
    ("SPIFFE, name of the other domain", "spiffe", 0, "", "impostor"),
    ("SPIFFE, no name", "spiffe", 0, "", "nameless"),
    ("pinned", "pinned", 6, "", "client"),
    ("good, and not pinned", "pinned", 0, "", "stranger"),
    ("a leaf signed by itself, trusted", "alone", 6, "", "alone"),
    ("a leaf signed by itself, not trusted", "required", 0, "", "alone"),
    ("an authority's own certificate", "required", 6, "", "authority"),
    ("an authority as a server", "authority", 6, "", ""),
    ("a server signed by itself", "self-signed", 6, "", ""),
];
