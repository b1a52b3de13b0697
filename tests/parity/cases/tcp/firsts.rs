//! First lines as `http_inspector` sees them, and PROXY headers that are wrong.

use super::{case, listeners, logs};
use crate::harness::Case;
use crate::tcp::Step::{self, End, Half, Read, Send};

/// What a chain says, and what it matches.
const CHAINS: [(&str, &str); 4] = [
    ("nothing", ""),
    ("http/10", "application_protocols: [http/1.0]"),
    ("http/11", "application_protocols: [http/1.1]"),
    ("http/h2", "application_protocols: [h2c]"),
];

pub(super) fn listeners() -> Vec<String> {
    let inspector = listeners::filter("listener.http_inspector.v3.HttpInspector", "");
    let said = |text: &str| {
        [listeners::filter(
            "network.direct_response.v3.Config",
            &format!("response: {{inline_string: \"{text}\"}}"),
        )]
    };
    let filters = CHAINS.map(|(text, _)| said(text));
    let chains: Vec<(&str, &[String])> = CHAINS
        .iter()
        .zip(&filters)
        .map(|((_, matches), filter)| (*matches, &filter[..]))
        .collect();
    let fields = format!("listener_filters: [{inspector}]\nlistener_filters_timeout: 0.3s");
    let without = |name: &str, version: &str| {
        let fields = format!("disallowed_versions: [{version}], stat_prefix: {name}");
        listeners::inspected(
            name,
            "listener_filters_timeout: 0.3s",
            &[listeners::filter("listener.proxy_protocol.v3.ProxyProtocol", &fields)],
        )
    };
    vec![
        listeners::listener("firsts", &fields, &chains),
        without("pp-1", "V1"),
        without("pp-2", "V2"),
        sni(),
    ]
}

fn sni() -> String {
    let fields = format!(
        "listener_filters: [{}]",
        listeners::filter("listener.tls_inspector.v3.TlsInspector", "")
    );
    let filters = [
        listeners::filter("network.sni_cluster.v3.SniCluster", ""),
        listeners::proxy("sni", "cluster: closed"),
    ];
    listeners::listener("sni", &fields, &[("", &filters)])
}

pub(super) fn cases() -> Vec<Case> {
    lines().into_iter().chain(headers()).collect()
}

/// Each says which chain is chosen; none where the line never ends.
fn lines() -> Vec<Case> {
    const LINES: &[(&str, u16, &[u8])] = &[
        ("HTTP/1.1", 7, b"GET / HTTP/1.1\r\n\r\n"),
        ("HTTP/1.0", 7, b"GET / HTTP/1.0\r\n\r\n"),
        ("HTTP/2.1", 7, b"GET / HTTP/2.1\r\n\r\n"),
        ("HTTP/0.9", 7, b"GET /\r\n\r\n"),
        ("HTTP/11.1", 7, b"GET / HTTP/11.1\r\n\r\n"),
        ("something behind the version", 7, b"GET / HTTP/1.1x\r\n\r\n"),
        ("a space behind the version", 7, b"GET / HTTP/1.1 \r\n\r\n"),
        ("two spaces", 7, b"GET  / HTTP/1.1\r\n\r\n"),
        ("a tab", 7, b"GET\t/ HTTP/1.1\r\n\r\n"),
        ("four words", 7, b"GET / x HTTP/1.1\r\n\r\n"),
        ("small letters", 7, b"get / http/1.1\r\n\r\n"),
        ("no carriage return", 7, b"GET / HTTP/1.1\nhost: a\n\n"),
        ("an empty line in front", 7, b"\r\nGET / HTTP/1.1\r\n\r\n"),
        ("an empty line alone", 7, b"\r\n"),
        ("a line feed alone", 7, b"\n"),
        ("a method of nobody", 7, b"BREW / HTTP/1.1\r\n\r\n"),
        ("a method that is none", 7, b"G@T / HTTP/1.1\r\n\r\n"),
        ("a method alone", 7, b"GET\r\n\r\n"),
        ("a target that is none", 7, b"GET x HTTP/1.1\r\n\r\n"),
        ("an absolute target", 7, b"GET http://a.test/x?y HTTP/1.1\r\n\r\n"),
        ("a target of one slash", 7, b"GET http:/a HTTP/1.1\r\n\r\n"),
        ("two at signs", 7, b"GET http://a@@b/ HTTP/1.1\r\n\r\n"),
        ("CONNECT", 7, b"CONNECT a.test:1 HTTP/1.1\r\n\r\n"),
        ("a target that is no text", 7, b"GET /\x80 HTTP/1.1\r\n\r\n"),
        ("the start of a preface", 7, b"PRI * HTTP/2.0\r\n\r\nno\r\n\r\n"),
        ("a ClientHello", 7, b"\x16\x03\x01\0\x05\x01\0\0\x01\0"),
        ("half a preface", 0, b"PRI * HTTP/2.0\r\n\r\n"),
        ("half a line", 0, b"GET / HTTP/1.1"),
        ("a line without its end", 0, b"GET / HTTP/1.1\r"),
        ("a word", 0, b"hello"),
    ];
    let of = |(name, count, bytes): &(&'static str, u16, &'static [u8])| {
        let steps: &'static [Step] = Box::leak(Box::new([Send(bytes), End]));
        logs(0, case(format!("first line: {name}").leak(), "firsts", *count, steps))
    };
    let long = [b"GET /", &[b'a'; 70_000][..]].concat().leak();
    let long: &'static [Step] = Box::leak(Box::new([Send(long), End]));
    LINES
        .iter()
        .map(of)
        .chain([logs(0, case("first line: too long", "firsts", 0, long))])
        .collect()
}

fn headers() -> Vec<Case> {
    const SERVED: &[(&str, &str, &[Step])] = &[
        (
            "the other version, where the first is not allowed",
            "pp-1",
            &[Send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0hello"), Read(5), Half, End],
        ),
        (
            "the other version, where the second is not allowed",
            "pp-2",
            &[Send(b"PROXY UNKNOWN\r\nhello"), Read(5), Half, End],
        ),
    ];
    const REFUSED: &[(&str, &str, &[u8])] = &[
        (
            "nearly a PROXY header",
            "pp",
            b"PROXYTCP4 192.0.2.1 198.51.100.1 1000 443\r\n",
        ),
        (
            "a PROXY header of datagrams",
            "pp",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 1000 443\r\n",
        ),
        (
            "a PROXY header of another family",
            "pp",
            b"PROXY TCP4 ::1 ::2 1000 443\r\n",
        ),
        (
            "a PROXY header of a port that is none",
            "pp",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 99999\r\n",
        ),
        ("a PROXY header without end", "pp", &[b'1'; 0]),
        (
            "a PROXY header that does too little",
            "pp",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\xc0\0\x02\x01",
        ),
        (
            "a PROXY header of an unknown command",
            "pp",
            b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\0",
        ),
        (
            "a PROXY header with half a TLV",
            "pp",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0e\xc0\0\x02\x01\xc6\x33\x64\x01\x03\xe8\x01\xbb\x02\0",
        ),
        (
            "the first version, not allowed and wrong",
            "pp-1",
            b"PROXY TCP4 nonsense\r\n",
        ),
        ("the first version, not allowed and without end", "pp-1", &[b'1'; 0]),
        (
            "the second version, not allowed",
            "pp-2",
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0hello",
        ),
        (
            "the second version, not allowed and wrong",
            "pp-2",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        ),
        (
            "the second version, not allowed and cut short",
            "pp-2",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        ),
        (
            "no header where the second version is not allowed",
            "pp-2",
            b"hello, this is no header",
        ),
        ("a few bytes of no header", "pp-2", b"hi"),
        ("the start of a header", "pp-2", b"PROXY TC"),
    ];
    let endless: &'static [u8] = [b"PROXY TCP4 ", &[b'1'; 200][..]].concat().leak();
    let served = SERVED
        .iter()
        .map(|(name, listener, steps)| case(name, listener, 5, steps));
    let refused = REFUSED.iter().map(|(name, listener, bytes)| {
        let bytes = if bytes.is_empty() { endless } else { bytes };
        logs(0, case(name, listener, 0, Box::leak(Box::new([Send(bytes), End]))))
    });
    served.chain(refused).collect()
}
