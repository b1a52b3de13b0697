use std::io::Read as _;

use bytes::Bytes;
use remora_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use remora_proto::pb::google::protobuf::Any;

use super::*;
use crate::config::BuildContext;
use crate::filters::http::tests;
use crate::testing::exchange;

fn compressor(library: &str) -> Arc<dyn Filter> {
    let config = pb::Compressor {
        compressor_library: Some(TypedExtensionConfig {
            name: "x".into(),
            typed_config: Some(Any {
                type_url: format!("type.googleapis.com/envoy.extensions.compression.{library}"),
                value: Vec::new(),
            }),
        }),
        ..pb::Compressor::default()
    };
    tests::compile(REGISTRATION, &config, &BuildContext::default()).expect("compiles")
}

fn chain() -> Vec<Arc<dyn Filter>> {
    let names = [
        "brotli.compressor.v3.Brotli",
        "zstd.compressor.v3.Zstd",
        "gzip.compressor.v3.Gzip",
    ];
    names.iter().map(|name| compressor(name)).collect()
}

fn answer(content_type: &'static str) -> http::Response<Body> {
    let mut response = http::Response::new(Body::from(Bytes::from_static(b"whatever")));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Head and body of a response of three chunks that went through the whole chain.
fn through(accept: &str, mut response: http::Response<Body>) -> (HeaderMap, Vec<u8>) {
    let filters = chain();
    let mut exchange = exchange("GET", "/", &[("accept-encoding", accept)]);
    for filter in &filters {
        filter.request_headers(&mut exchange);
    }
    for filter in filters.iter().rev() {
        filter.response_headers(&mut exchange, &mut response);
    }
    let mut body = Vec::new();
    for (text, end) in [
        ("hello ".repeat(50), false),
        ("world".to_owned(), false),
        (String::new(), true),
    ] {
        let mut chunk = Bytes::from(text);
        for filter in filters.iter().rev() {
            filter.response_body(&exchange.extensions, &mut chunk, end);
        }
        body.extend_from_slice(&chunk);
    }
    (response.into_parts().0.headers, body)
}

fn expected() -> String {
    "hello ".repeat(50) + "world"
}

#[test]
fn each_library_says_the_same_again_when_it_is_undone() {
    let (head, body) = through("gzip", answer("text/plain; charset=utf-8"));
    assert_eq!(
        (&head[CONTENT_ENCODING], &head[VARY]),
        (
            &HeaderValue::from_static("gzip"),
            &HeaderValue::from_static("Accept-Encoding")
        )
    );
    let mut text = String::new();
    flate2::read::GzDecoder::new(body.as_slice())
        .read_to_string(&mut text)
        .expect("gzip");
    assert_eq!(text, expected());
    let (head, body) = through("br", answer("text/plain"));
    assert_eq!(head[CONTENT_ENCODING], "br");
    let mut text = String::new();
    brotli::Decompressor::new(body.as_slice(), 4096)
        .read_to_string(&mut text)
        .expect("brotli");
    assert_eq!(text, expected());
    let (head, body) = through("zstd", answer("text/plain"));
    assert_eq!(head[CONTENT_ENCODING], "zstd");
    assert_eq!(
        zstd::decode_all(body.as_slice()).expect("zstd"),
        expected().into_bytes()
    );
}

#[test]
fn the_client_chooses_among_what_is_offered() {
    for (accept, chosen) in [
        ("gzip, br", "gzip"),
        ("gzip;q=0.5, br;q=0.9", "br"),
        ("*", "br"),
        ("br;q=0, *", "zstd"),
        ("identity, gzip;q=0.5", ""),
        ("deflate", ""),
        ("", ""),
        ("*;q=0", ""),
    ] {
        let (head, body) = through(accept, answer("text/html"));
        let found = head
            .get(CONTENT_ENCODING)
            .map_or("", |value| value.to_str().expect("text"));
        assert_eq!(found, chosen, "{accept}");
        assert_eq!(body == expected().into_bytes(), chosen.is_empty(), "{accept}");
        assert_eq!(head[VARY], "Accept-Encoding", "{accept}");
    }
}

#[test]
fn what_would_not_gain_or_must_not_change_is_left_alone() {
    let with = |name: http::HeaderName, value: &'static str| {
        let mut response = answer("text/plain");
        response.headers_mut().insert(name, HeaderValue::from_static(value));
        response
    };
    for response in [
        answer("image/png"),
        with(CONTENT_LENGTH, "29"),
        with(CONTENT_ENCODING, "gzip"),
        with(CACHE_CONTROL, "public, no-transform"),
    ] {
        let (head, body) = through("gzip", response);
        assert_eq!(body, expected().into_bytes());
        assert!(!head.contains_key(VARY), "{head:?}");
    }
    let (head, _) = through("gzip", with(ETAG, "\"strong\""));
    assert!(!head.contains_key(ETAG));
    let (head, _) = through("gzip", with(ETAG, "W/\"weak\""));
    assert!(head.contains_key(ETAG) && head.contains_key(CONTENT_ENCODING));
}
