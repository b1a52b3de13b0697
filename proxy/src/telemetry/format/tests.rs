//! Golden lines.

use std::time::Duration;

use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use super::{DEFAULT, Format, JsonFormat, LogView};
use crate::http::exchange::{DynamicMetadata, Exchange};
use crate::telemetry::flags::ResponseFlags;
use crate::testing::exchange;

fn finished() -> Exchange {
    let headers = [
        ("host", "h.com"),
        ("user-agent", "curl"),
        ("x-request-id", "id-1"),
        ("x-envoy-original-path", "/old?q=1"),
    ];
    let mut exchange = exchange("GET", "/new?a=1&b=", &headers);
    exchange.response_code = Some(http::StatusCode::OK);
    exchange.details = "via_upstream and more".into();
    exchange.flags = ResponseFlags::UPSTREAM_REQUEST_TIMEOUT | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
    exchange.bytes.received = 5;
    exchange.bytes.sent = 11;
    exchange.timing.request_end = Some(Duration::from_millis(2));
    exchange.timing.end = Some(Duration::from_micros(7_900));
    let fields = [
        ("k".to_owned(), string("v")),
        (
            "n".to_owned(),
            Value {
                kind: Some(Kind::NumberValue(3.0)),
            },
        ),
    ];
    let metadata = Struct {
        fields: fields.into_iter().collect(),
    };
    exchange
        .extensions
        .insert(DynamicMetadata([("ns".to_owned(), metadata)].into_iter().collect()));
    exchange
}

fn string(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.into())),
    }
}

/// The view of [`finished`], with a start time that goldens can name.
fn view(exchange: &Exchange) -> LogView<'_> {
    let start_time = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_208_000_123);
    LogView {
        start_time,
        ..LogView::of(exchange)
    }
}

fn print(format: &str) -> String {
    let mut out = Vec::new();
    Format::text(format)
        .expect("compiles")
        .write(&view(&finished()), &mut out);
    String::from_utf8(out).expect("text")
}

#[test]
fn the_default_line_is_envoys() {
    let expected = "[2024-02-29T12:00:00.123Z] \"GET /old?q=1 HTTP/1.1\" 200 UT,URX 5 11 7 - \"-\" \"curl\" \"id-1\" \"h.com\" \"-\"\n";
    assert_eq!(print(DEFAULT), expected);
}

#[test]
fn operators_print_what_envoys_do() {
    let cases = [
        ("100%%", "100%"),
        ("%REQ(:PATH)%", "/new?a=1&b="),
        ("%REQ(missing?user-agent)%", "curl"),
        ("%REQ(USER-AGENT):2%", "cu"),
        ("%REQ(missing)%|%RESP(missing)%|%TRAILER(missing)%", "-|-|-"),
        ("%RESP(:STATUS)%", "200"),
        ("%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/old"),
        (
            "%PATH(NQ)% %PATH(WQ:PATH)% %PATH(WQ:ORIG)%",
            "/old /new?a=1&b= /old?q=1",
        ),
        ("%QUERY_PARAM(a)% %QUERY_PARAM(c)% [%QUERY_PARAM(b)%]", "1 - []"),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream_and_more"),
        (
            "%RESPONSE_FLAGS_LONG%",
            "UpstreamRequestTimeout,UpstreamRetryLimitExceeded",
        ),
        ("%START_TIME(%s.%3f)%", "1709208000.123"),
        ("%REQUEST_DURATION% %RESPONSE_DURATION%", "2 -"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%", "7900"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
            "10.0.0.1:1111 10.0.0.1",
        ),
        ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%", "10.0.0.2:80 80"),
        ("%DYNAMIC_METADATA(ns:k)% %DYNAMIC_METADATA(ns:n)%", "v 3"),
        ("%DYNAMIC_METADATA(ns)%", "{\"k\":\"v\",\"n\":3}"),
        ("%METADATA(DYNAMIC:ns:k)% %DYNAMIC_METADATA(ns:x)%", "v -"),
        ("%CONNECTION_ID% %PROTOCOL% %UPSTREAM_CLUSTER%", "7 HTTP/1.1 -"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON% %REQUESTED_SERVER_NAME%", "- -"),
        ("%GRPC_STATUS%", "-"),
        ("%ACCESS_LOG_TYPE%", "DownstreamEnd"),
    ];
    for (format, expected) in cases {
        assert_eq!(print(format), expected, "{format}");
    }
}

/// Every operator of Envoy 1.40, as its own parser takes them.
const ENVOY: &str = "\
    ACCESS_LOG_TYPE BYTES_RECEIVED BYTES_RETRANSMITTED BYTES_SENT CEL CLUSTER_METADATA COALESCE COMMON_DURATION CONNECTION_ID \
    CONNECTION_TERMINATION_DETAILS CUSTOM_FLAGS DOWNSTREAM_CX_RTT DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED \
    DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT DOWNSTREAM_DETECTED_CLOSE_TYPE DOWNSTREAM_DIRECT_LOCAL_ADDRESS \
    DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_LOCAL_PORT \
    DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_REMOTE_PORT DOWNSTREAM_HANDSHAKE_DURATION \
    DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID \
    DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_CLOSE_REASON DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_IP_SAN \
    DOWNSTREAM_LOCAL_OTHERNAME_SAN DOWNSTREAM_LOCAL_PORT DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_CERT \
    DOWNSTREAM_PEER_CERT_V_END DOWNSTREAM_PEER_CERT_V_START DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 \
    DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_DNS_SAN DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_PEER_FINGERPRINT_1 DOWNSTREAM_PEER_FINGERPRINT_256 \
    DOWNSTREAM_PEER_IP_SAN DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256 DOWNSTREAM_PEER_ISSUER_SERIAL DOWNSTREAM_PEER_OTHERNAME_SAN \
    DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT \
    DOWNSTREAM_REMOTE_PORT DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_GROUP DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_VERSION \
    DOWNSTREAM_TRANSPORT_FAILURE_REASON DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT DURATION DYNAMIC_METADATA EMIT_TIME EMIT_TIME_LOCAL \
    ENVIRONMENT FILTER_CHAIN_NAME FILTER_STATE GRPC_STATUS GRPC_STATUS_NUMBER HOSTNAME LISTENER_NAME LOCAL_REPLY_BODY METADATA PACKETS_RETRANSMITTED \
    PATH PROTOCOL QUERY_PARAM QUERY_PARAMS REQ REQUESTED_SERVER_NAME REQUEST_DURATION REQUEST_HEADER REQUEST_HEADERS_BYTES REQUEST_TX_DURATION \
    REQ_WITHOUT_QUERY RESP RESPONSE_CODE RESPONSE_CODE_DETAILS RESPONSE_DURATION RESPONSE_FLAGS RESPONSE_FLAGS_LONG RESPONSE_HEADER \
    RESPONSE_HEADERS_BYTES RESPONSE_TRAILER RESPONSE_TRAILERS_BYTES RESPONSE_TX_DURATION ROUNDTRIP_DURATION ROUTE_NAME ROUTE_RESOLUTION_COUNT \
    ROUTE_RESOLUTION_TIME_US SPAN_ID START_TIME START_TIME_LOCAL STREAM_ID STREAM_INFO_REQ TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT TRACE_ID TRAILER \
    UNIQUE_ID UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_CONNECTION_ID UPSTREAM_CONNECTION_IDS_ATTEMPTED UPSTREAM_CONNECTION_POOL_READY_DURATION \
    UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT UPSTREAM_DETECTED_CLOSE_TYPE UPSTREAM_FILTER_STATE \
    UPSTREAM_HEADER_BYTES_RECEIVED UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HOST UPSTREAM_HOSTS_ATTEMPTED UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT \
    UPSTREAM_HOST_NAME UPSTREAM_HOST_NAMES_ATTEMPTED UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT UPSTREAM_HOST_NAME_WITHOUT_PORT \
    UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT UPSTREAM_LOCAL_CLOSE_REASON UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN \
    UPSTREAM_LOCAL_PORT UPSTREAM_LOCAL_URI_SAN UPSTREAM_METADATA UPSTREAM_PEER_CERT UPSTREAM_PEER_CERT_V_END UPSTREAM_PEER_CERT_V_START \
    UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN UPSTREAM_PEER_ISSUER UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN UPSTREAM_PROTOCOL \
    UPSTREAM_REMOTE_ADDRESS UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT UPSTREAM_REMOTE_PORT \
    UPSTREAM_REQUEST_ATTEMPT_COUNT UPSTREAM_SERVER_NAME UPSTREAM_TLS_CIPHER UPSTREAM_TLS_GROUP UPSTREAM_TLS_SESSION_ID UPSTREAM_TLS_VERSION \
    UPSTREAM_TRANSPORT_FAILURE_REASON UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_WIRE_BYTES_SENT VIRTUAL_CLUSTER_NAME";

/// Parameters of those that are nothing without one.
const PARAMETERS: &[(&str, &str)] = &[
    ("CLUSTER_METADATA", "a"),
    ("COALESCE", r#"{"operators":["PROTOCOL"]}"#),
    ("COMMON_DURATION", "DS_RX_BEG:DS_RX_END"),
    ("DYNAMIC_METADATA", "a"),
    ("ENVIRONMENT", "a"),
    ("FILTER_STATE", "a"),
    ("METADATA", "ROUTE:a"),
    ("QUERY_PARAM", "a"),
    ("REQ", "a"),
    ("REQUEST_HEADER", "a"),
    ("REQ_WITHOUT_QUERY", "a"),
    ("RESP", "a"),
    ("RESPONSE_HEADER", "a"),
    ("RESPONSE_TRAILER", "a"),
    ("STREAM_INFO_REQ", "a"),
    ("TRAILER", "a"),
    ("UPSTREAM_FILTER_STATE", "a"),
    ("UPSTREAM_METADATA", "a"),
];

#[test]
fn every_operator_of_envoy_is_there_or_refused_with_a_reason() {
    let refused: Vec<&str> = ENVOY
        .split_whitespace()
        .filter(|name| {
            let parameter = PARAMETERS.iter().find(|(known, _)| known == name);
            let format = match parameter {
                Some((_, parameter)) => format!("%{name}({parameter})%"),
                None => format!("%{name}%"),
            };
            match Format::text(&format) {
                Ok(_) => false,
                Err(problems) => {
                    let reason = problems.to_string();
                    assert!(reason.contains("is not supported: "), "{reason}");
                    true
                }
            }
        })
        .collect();
    let expected = [
        "CEL",
        "DOWNSTREAM_CX_RTT",
        "DOWNSTREAM_TLS_SESSION_ID",
        "UPSTREAM_TLS_SESSION_ID",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn queries_decode_as_envoys_do() {
    let cases = [
        ("q=%41%2fx+y%20z&b=%zz&%43=1", "q=A/x+y%20z&b=zz&C=1"),
        ("a=%7f%7e%80%ff%00%0a%21%3d%26%25%2b%20.", "a=%7f~%80%ff%00%0a!=&%+%20."),
        ("a=%4", "a=%4"),
        ("a=%", "a=%"),
        ("a=%zz%4z%z4x", "a=zz4zz4x"),
    ];
    for (query, expected) in cases {
        let exchange = exchange("GET", &format!("/?{query}"), &[]);
        let mut out = Vec::new();
        let format = Format::text("%QUERY_PARAMS(DECODED)%").expect("parses");
        format.write(&LogView::of(&exchange), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected, "{query}");
    }
}

#[test]
fn the_first_operator_with_a_value_counts() {
    let format =
        r#"%COALESCE({"operators":["TRACE_ID",{"command":"REQ","param":"user-agent","max_length":2},"PROTOCOL"]})%"#;
    assert_eq!(print(format), "cu");
    assert_eq!(print(r#"%COALESCE({"operators":["TRACE_ID","PROTOCOL"]}):4%"#), "HTTP");
    assert_eq!(print(r#"%COALESCE({"operators":["TRACE_ID"]})%"#), "-");
    for wrong in [
        "",
        "x",
        "{}",
        r#"{"operators":[]}"#,
        r#"{"operators":["NONE"]}"#,
        r#"{"operators":[{"param":"a"}]}"#,
    ] {
        assert!(Format::text(&format!("%COALESCE({wrong})%")).is_err(), "{wrong}");
    }
}

#[test]
fn parameters_and_lengths_are_for_those_that_take_them() {
    let cases = [
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)%", "10.0.0.0/8"),
        ("%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%", "10.0.0.2:80"),
        ("%QUERY_PARAMS%", "a=1&b="),
        ("%QUERY_PARAMS(DECODED):3%", "a=1"),
        ("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via_upstream and more"),
        ("%REQUESTED_SERVER_NAME%|%REQUESTED_SERVER_NAME(SNI_FIRST)%", "-|h.com"),
        ("%LISTENER_NAME% %DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%.", "listener ."),
    ];
    for (format, expected) in cases {
        assert_eq!(print(format), expected, "{format}");
    }
    for wrong in [
        "%PROTOCOL(a)%",
        "%PROTOCOL:3%",
        "%QUERY_PARAMS(X)%",
        "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(x)%",
    ] {
        assert!(Format::text(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    for format in [
        "%",
        "%REQ",
        "%REQ(a",
        "%REQ(a)",
        "%REQ(a):x%",
        "%REQ(a?b?c)%",
        "%NOPE%",
        "%START_TIME(%Q)%",
    ] {
        assert!(Format::text(format).is_err(), "{format}");
    }
}

#[test]
fn json_keeps_types_and_prints_null_for_nothing() {
    let fields = [
        ("code", string("%RESPONSE_CODE%")),
        ("text", string("code %RESPONSE_CODE%")),
        ("missing", string("%REQ(missing)%")),
        ("meta", string("%DYNAMIC_METADATA(ns:n)%")),
        ("quoted", string("a \"b\"")),
        (
            "flag",
            Value {
                kind: Some(Kind::BoolValue(true)),
            },
        ),
    ];
    let fields = Struct {
        fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    };
    let print = |omit_empty| {
        let mut out = Vec::new();
        JsonFormat::compile(&fields, omit_empty)
            .expect("compiles")
            .write(&view(&finished()), &mut out);
        String::from_utf8(out).expect("text")
    };
    let with_null =
        "{\"code\":200,\"flag\":true,\"meta\":3,\"missing\":null,\"quoted\":\"a \\\"b\\\"\",\"text\":\"code 200\"}\n";
    assert_eq!(print(false), with_null);
    assert_eq!(print(true), with_null.replace("\"missing\":null,", ""));
}

#[test]
fn grpc_status_comes_from_trailers_headers_or_the_http_status() {
    let mut exchange = exchange("POST", "/s/m", &[("content-type", "application/grpc")]);
    let print = |exchange: &Exchange| {
        let format = Format::text("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%").expect("compiles");
        assert!(format.needs_trailers());
        let mut out = Vec::new();
        format.write(&view(exchange), &mut out);
        String::from_utf8(out).expect("text")
    };
    exchange.response_code = Some(http::StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(print(&exchange), "Unavailable UNAVAILABLE 14");
    let status = |code| {
        [(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static(code),
        )]
    };
    exchange.logged_response = Some(Box::new(status("1").into_iter().collect()));
    assert_eq!(print(&exchange), "Canceled CANCELLED 1");
    exchange.logged_trailers = Some(Box::new(status("0").into_iter().collect()));
    assert_eq!(print(&exchange), "OK OK 0");
}

proptest::proptest! {
    #[test]
    fn arbitrary_formats_never_panic(format in "[%A-Z(:)a?_0-9]{0,24}") {
        if let Ok(format) = Format::text(&format) {
            format.write(&view(&finished()), &mut Vec::new());
        }
    }
}
