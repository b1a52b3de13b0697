//! What is true of each parser, whatever bytes it gets: it ends, it does not panic, and it does not matter in which pieces the bytes come.
//!
//! One function a target, used by libFuzzer (`fuzz_targets/`) and, over a corpus with seeded mutations, by the workspace's own tests.

#![allow(dead_code, reason = "a fuzz target uses one of them")]

use bytes::BytesMut;
use http::Method;
use remora::http::codec::h1::H1Options;
use remora::http::codec::h1::decode::{BodyDecoder, Decoded, TrailerLimits};
use remora::http::codec::h1::parse;
use remora::http::codec::h2::H2Options;
use remora::http::codec::h2::wire::Machine;
use remora::listener::detect::{client_hello as hello, fingerprint, http as detection, proxy_protocol as proxy};
use remora::telemetry::format::Format;
use remora_proto::json::{Options, encode_text, to_json};
use remora_proto::ledger::Report;
use remora_proto::validate::validate;

pub type Target = fn(&[u8]);

/// By name, for whoever runs all of them.
pub const ALL: &[(&str, Target)] = &[
    ("h1_request", h1_request),
    ("h1_response", h1_response),
    ("h1_body", h1_body),
    ("h2_connection", h2_connection),
    ("proxy_protocol", proxy_protocol),
    ("client_hello", client_hello),
    ("http_detection", http_detection),
    ("access_log_format", access_log_format),
    ("yaml", yaml),
    ("wire", wire),
];

/// A request's head, whole and byte by byte.
pub fn h1_request(data: &[u8]) {
    let options = H1Options {
        accept_http_10: true,
        ..H1Options::default()
    };
    let mut whole = BytesMut::from(data);
    let at_once = parse::request(&mut whole, &options);
    let mut pieces = BytesMut::new();
    let mut in_pieces = Ok(None);
    let mut taken = 0;
    for byte in data {
        pieces.extend_from_slice(&[*byte]);
        taken += 1;
        in_pieces = parse::request(&mut pieces, &options);
        if !matches!(in_pieces, Ok(None)) {
            break;
        }
    }
    match (at_once, in_pieces) {
        (Ok(Some(one)), Ok(Some(other))) => {
            assert_eq!(one.request.method(), other.request.method());
            assert_eq!(one.request.uri(), other.request.uri());
            assert_eq!(one.request.headers(), other.request.headers());
            assert_eq!((one.body, one.keep_alive), (other.body, other.keep_alive));
            assert_eq!(
                whole.len(),
                pieces.len() + data.len() - taken,
                "both leave the same bytes"
            );
        }
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        (one, other) => panic!("whole: {}, in pieces: {}", outcome(&one), outcome(&other)),
    }
}

/// Frames of a peer, on a connection that has begun; and a peer that begins otherwise. The pieces change nothing, and no window loses a byte.
pub fn h2_connection(data: &[u8]) {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let options = H2Options::default();
    let begun = [HELLO, data].concat();
    let roles: [(fn(&H2Options) -> Machine, &[u8]); 3] = [
        (Machine::server, &begun),
        (Machine::server, data),
        (Machine::client, begun.get(24..).unwrap_or_default()),
    ];
    for (role, bytes) in roles {
        let (mut whole, mut pieces) = (role(&options), role(&options));
        whole.receive(bytes);
        whole.check();
        for byte in bytes {
            pieces.receive(&[*byte]);
            pieces.check();
        }
        assert_eq!(whole.output(), pieces.output());
    }
}

/// The same for a response's head, as the answer to several methods.
pub fn h1_response(data: &[u8]) {
    let options = H1Options::default();
    for method in [Method::GET, Method::HEAD, Method::CONNECT] {
        let mut whole = BytesMut::from(data);
        let at_once = parse::response(&mut whole, &method, &options);
        let mut pieces = BytesMut::new();
        let mut in_pieces = Ok(None);
        for byte in data {
            pieces.extend_from_slice(&[*byte]);
            in_pieces = parse::response(&mut pieces, &method, &options);
            if !matches!(in_pieces, Ok(None)) {
                break;
            }
        }
        match (at_once, in_pieces) {
            (Ok(Some(one)), Ok(Some(other))) => {
                assert_eq!(one.response.status(), other.response.status());
                assert_eq!(one.response.headers(), other.response.headers());
                assert_eq!((one.body, one.keep_alive), (other.body, other.keep_alive));
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            (one, other) => panic!("whole: {}, in pieces: {}", outcome(&one), outcome(&other)),
        }
    }
}

fn outcome<T, E: std::fmt::Debug>(result: &Result<Option<T>, E>) -> String {
    match result {
        Ok(Some(_)) => "a head".to_owned(),
        Ok(None) => "more is needed".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

/// A body: the first byte says how it is framed, the second how large the pieces are.
pub fn h1_body(data: &[u8]) {
    let [framing, step, body @ ..] = data else { return };
    let decoder = match framing % 3 {
        0 => BodyDecoder::chunked(),
        1 => BodyDecoder::length(u64::from(*step) * 3),
        _ => BodyDecoder::UntilClose,
    };
    let at_once = decode(decoder.clone(), body, body.len().max(1));
    let in_pieces = decode(decoder, body, usize::from(*step).max(1));
    assert_eq!(at_once, in_pieces);
}

/// All data, and how it ended: the rest of the bytes that belongs to what follows, or an error.
fn decode(mut decoder: BodyDecoder, body: &[u8], step: usize) -> (Vec<u8>, Option<Result<usize, ()>>) {
    let limits = TrailerLimits {
        bytes: 60 * 1024,
        count: 100,
    };
    let mut buffer = BytesMut::new();
    let mut data = Vec::new();
    let mut fed = 0;
    for piece in body.chunks(step) {
        buffer.extend_from_slice(piece);
        fed += piece.len();
        loop {
            match decoder.decode(&mut buffer, limits) {
                Ok(Decoded::Data(part)) => data.extend_from_slice(&part),
                Ok(Decoded::Trailers(_)) => {}
                Ok(Decoded::End) => return (data, Some(Ok(fed - buffer.len()))),
                Ok(Decoded::NeedMore) => break,
                Err(_) => return (data, Some(Err(()))),
            }
        }
    }
    (data, None)
}

pub fn proxy_protocol(data: &[u8]) {
    for end in 0..=data.len().min(600) {
        proxy::parse(&data[..end]);
    }
    proxy::parse(data);
}

pub fn client_hello(data: &[u8]) {
    for end in (0..=data.len()).step_by(7) {
        hello::parse(&data[..end], 16 * 1024);
    }
    hello::parse(data, 16 * 1024);
    hello::parse(data, 8);
    fingerprint::Wanted { ja3: true, ja4: true }.take(data);
}

pub fn http_detection(data: &[u8]) {
    for end in 0..=data.len().min(300) {
        detection::parse(&data[..end]);
    }
}

pub fn access_log_format(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Format::text(text);
        let _ = Format::header(text);
    }
}

/// A bootstrap as text; what is accepted can be written again.
pub fn yaml(data: &[u8]) {
    const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(encoded) = encode_text(text, BOOTSTRAP, &Options::default()) {
        validate(&encoded.bytes, BOOTSTRAP, &mut Report::default());
        let _ = to_json(&encoded.bytes, BOOTSTRAP);
    }
}

/// Bytes as messages of several types, one of them recursive.
pub fn wire(data: &[u8]) {
    for name in [
        "envoy.config.cluster.v3.Cluster",
        "envoy.config.route.v3.RouteConfiguration",
        "envoy.config.rbac.v3.RBAC",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "google.protobuf.Struct",
    ] {
        validate(data, name, &mut Report::default());
        let _ = to_json(data, name);
    }
}
