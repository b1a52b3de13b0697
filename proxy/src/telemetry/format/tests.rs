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
