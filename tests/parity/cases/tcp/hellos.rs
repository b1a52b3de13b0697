//! ClientHellos and their fingerprints: byte by byte, so that both proxies get the same.

use super::{case, listeners, logs};
use crate::harness::Case;
use crate::tcp::Step::{self, End, Send};

pub(super) fn listeners() -> String {
    let fingerprints = listener(
        "hellos",
        "enable_ja3_fingerprinting: true, enable_ja4_fingerprinting: true",
    );
    fingerprints + &listener("tls-only", "close_connection_on_client_hello_parsing_errors: true")
}

fn listener(name: &str, options: &str) -> String {
    let inspector = listeners::filter("listener.tls_inspector.v3.TlsInspector", options);
    let log = r#"access_log: [{name: envoy.access_loggers.file, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{{log}}", log_format: {text_format_source: {inline_string: "sni=%REQUESTED_SERVER_NAME% ja3=%TLS_JA3_FINGERPRINT% ja4=%TLS_JA4_FINGERPRINT%\n"}}}}]"#;
    let proxy = listeners::filter(
        "network.tcp_proxy.v3.TcpProxy",
        &format!("stat_prefix: {name}, cluster: closed, {log}"),
    );
    format!(
        "  - name: {name}\n    stat_prefix: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n    \
         listener_filters: [{inspector}]\n    filter_chains:\n    - filters:\n      - {proxy}\n"
    )
}

/// What a client offers at random (RFC 8701).
const GREASE: u16 = 0x3a3a;
const CIPHERS: &[u16] = &[GREASE, 0x1302, 0x1301, 0xc02b];

pub(super) fn cases() -> Vec<Case> {
    let name = (0, with_length16(&[&[0], &with_length16(b"a.test")[..]].concat()));
    let groups = (10, list(&[GREASE, 29, 23]));
    let formats = (11, vec![1, 0]);
    let versions = |offered: &[u16]| (43, with_length8(&numbers(offered)));
    let signatures = (13, list(&[GREASE, 0x0403, 0x0804]));
    let protocols = |name: &[u8]| (16, with_length16(&[with_length8(name), with_length8(b"h2")].concat()));
    let all = vec![
        (GREASE, Vec::new()),
        name.clone(),
        groups.clone(),
        formats.clone(),
        versions(&[GREASE, 0x0304, 0x0303]),
        signatures,
        protocols(b"http/1.1"),
    ];
    let offered = |name, extensions: &[(u16, Vec<u8>)]| hello(name, 0x0303, CIPHERS, extensions);
    vec![
        alone("no TLS where nothing else may come", &[Send(b"hello"), End]),
        alone(
            "no ClientHello where nothing else may come",
            &[Send(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"), End],
        ),
        offered("fingerprints of a usual client", &all),
        offered("fingerprints, no extension", &[]),
        offered("fingerprints, a name alone", std::slice::from_ref(&name)),
        offered("fingerprints, a protocol of one letter", &[protocols(b"x")]),
        offered("fingerprints, a protocol that is no text", &[protocols(b"\xab\xcd")]),
        offered(
            "fingerprints, a version that is not known",
            &[versions(&[0x7f1c, 0x0303])],
        ),
        offered("fingerprints, no version but a random one", &[versions(&[GREASE])]),
        offered("fingerprints, versions that are cut short", &[(43, vec![3, 3, 4])]),
        offered(
            "fingerprints, groups that are cut short",
            &[name.clone(), (10, vec![0])],
        ),
        hello("fingerprints of an old client", 0x0301, CIPHERS, &[groups, formats]),
        hello("fingerprints, no cipher", 0x0303, &[GREASE], &[name]),
        hello(
            "fingerprints, a hundred ciphers",
            0x0303,
            &Vec::from_iter(0x100..0x178),
            &[],
        ),
    ]
}

/// Ended before it is a connection: nobody logs it.
fn alone(name: &'static str, steps: &'static [Step]) -> Case {
    logs(0, case(name, "tls-only", 0, steps))
}

fn hello(name: &'static str, version: u16, ciphers: &[u16], extensions: &[(u16, Vec<u8>)]) -> Case {
    let mut body = [&version.to_be_bytes()[..], &[7; 32], &[0]].concat();
    body.extend(list(ciphers));
    body.extend([1, 0]);
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &with_length16(content)].concat())
        .collect();
    if !extensions.is_empty() {
        body.extend(with_length16(&extensions));
    }
    let message = [&[1, 0][..], &with_length16(&body)].concat();
    let record = [&[22, 3, 1][..], &with_length16(&message)].concat();
    case(name, "hellos", 0, Box::leak(Box::new([Send(record.leak()), End])))
}

fn numbers(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn list(values: &[u16]) -> Vec<u8> {
    with_length16(&numbers(values))
}

fn with_length8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()][..], content].concat()
}

fn with_length16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}
