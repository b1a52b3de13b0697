//! The worked examples of forwarding, trust and sanitising.

use http::{HeaderMap, HeaderValue, StatusCode};
use remora_proto::pb::envoy::config::core::v3::CidrRange;
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager as pbh,
};
use remora_proto::pb::google::protobuf::{BoolValue, UInt32Value};

use super::{HeaderPolicy, Verdict};
use crate::config::BuildContext;
use crate::http::exchange::Exchange;
use crate::testing::{connection, exchange, exchange_over};
use crate::tls::PeerInfo;

fn policy(change: impl FnOnce(&mut HttpConnectionManager)) -> HeaderPolicy {
    let mut value = HttpConnectionManager::default();
    change(&mut value);
    HeaderPolicy::compile(&value, &BuildContext::default()).expect("compiles")
}

fn edge(hops: u32) -> HeaderPolicy {
    policy(|value| {
        value.use_remote_address = Some(BoolValue { value: true });
        value.xff_num_trusted_hops = hops;
    })
}

fn header<'a>(exchange: &'a Exchange, name: &str) -> Option<&'a str> {
    exchange.headers().get(name).map(|value| value.to_str().expect("text"))
}

fn remote(exchange: &Exchange) -> String {
    exchange
        .remote
        .as_ref()
        .and_then(|remote| remote.ip())
        .expect("an address")
        .ip()
        .to_string()
}

#[test]
fn the_client_is_who_the_trust_matrix_says() {
    let mesh = |hops| policy(|value| value.xff_num_trusted_hops = hops);
    let cases = [
        (edge(0), None, "10.0.0.1", "10.0.0.1"),
        (edge(0), Some("1.1.1.1"), "10.0.0.1", "1.1.1.1,10.0.0.1"),
        (
            edge(2),
            Some("1.1.1.1,2.2.2.2,3.3.3.3"),
            "2.2.2.2",
            "1.1.1.1,2.2.2.2,3.3.3.3,10.0.0.1",
        ),
        (edge(2), Some("1.1.1.1"), "10.0.0.1", "1.1.1.1,10.0.0.1"),
        (mesh(0), Some("1.1.1.1, 2.2.2.2"), "2.2.2.2", "1.1.1.1, 2.2.2.2"),
        (mesh(1), Some("1.1.1.1, 2.2.2.2"), "1.1.1.1", "1.1.1.1, 2.2.2.2"),
        (mesh(2), Some("1.1.1.1, 2.2.2.2"), "10.0.0.1", "1.1.1.1, 2.2.2.2"),
        (mesh(0), Some("nonsense"), "10.0.0.1", "nonsense"),
    ];
    for (index, (policy, forwarded, client, upstream)) in cases.into_iter().enumerate() {
        let headers: Vec<_> = forwarded.map(|value| ("x-forwarded-for", value)).into_iter().collect();
        let mut exchange = exchange("GET", "/", &headers);
        assert_eq!(policy.request(&mut exchange), Verdict::Continue);
        assert_eq!(remote(&exchange), client, "case {index}");
        assert_eq!(
            header(&exchange, "x-forwarded-for").unwrap_or_default(),
            upstream,
            "case {index}"
        );
    }
}

#[test]
fn without_ranges_of_its_own_private_addresses_are_internal() {
    let policy = policy(|value| value.internal_address_config = Some(pbh::InternalAddressConfig::default()));
    for (address, internal) in [
        ("10.1.1.1", true),
        ("172.31.1.1", true),
        ("172.32.1.1", false),
        ("192.168.1.1", true),
        ("127.0.0.1", true),
        ("127.0.0.2", false),
        ("::1", true),
        ("fd00::1", true),
        ("fc00::1", false),
        ("8.8.8.8", false),
    ] {
        let mut exchange = exchange("GET", "/", &[("x-forwarded-for", address)]);
        assert_eq!(policy.request(&mut exchange), Verdict::Continue);
        assert_eq!(exchange.internal, internal, "{address}");
    }
}

#[test]
fn te_on_several_lines_is_one_list() {
    for lines in [["trailers", "gzip"], ["gzip", "trailers;q=1"]] {
        let mut exchange = exchange("GET", "/", &[("te", lines[0]), ("te", lines[1])]);
        assert_eq!(edge(0).request(&mut exchange), Verdict::Continue);
        let values: Vec<_> = exchange.headers().get_all("te").iter().collect();
        assert_eq!(values, ["trailers"]);
    }
}

#[test]
fn what_a_client_says_of_its_address_is_replaced() {
    let spoofed = [
        ("x-envoy-external-address", "9.9.9.9"),
        ("x-envoy-external-address", "8.8.8.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-port", "2"),
    ];
    let policy = policy(|value| {
        value.use_remote_address = Some(BoolValue { value: true });
        value.append_x_forwarded_port = true;
    });
    let mut exchange = exchange("GET", "/", &spoofed);
    assert_eq!(policy.request(&mut exchange), Verdict::Continue);
    for (name, expected) in [
        ("x-envoy-external-address", "10.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", "80"),
    ] {
        let values: Vec<_> = exchange.headers().get_all(name).iter().collect();
        assert_eq!(values, [expected], "{name}");
    }
}

#[test]
fn only_a_lone_address_in_a_configured_range_is_internal() {
    let ranges = pbh::InternalAddressConfig {
        cidr_ranges: vec![CidrRange {
            address_prefix: "10.0.0.0".into(),
            prefix_len: Some(UInt32Value { value: 8 }),
        }],
        ..Default::default()
    };
    let with = policy(|value| value.internal_address_config = Some(ranges));
    let without = policy(|_| {});
    let cases = [
        (&with, "10.1.1.1", true),
        (&with, "10.1.1.1,10.1.1.2", false),
        (&with, "11.1.1.1", false),
        (&without, "10.1.1.1", false),
    ];
    for (policy, forwarded, internal) in cases {
        let headers = [
            ("x-forwarded-for", forwarded),
            ("x-envoy-max-retries", "3"),
            ("x-envoy-internal", "true"),
        ];
        let mut exchange = exchange("GET", "/", &headers);
        policy.request(&mut exchange);
        assert_eq!(exchange.internal, internal, "{forwarded}");
        assert_eq!(header(&exchange, "x-envoy-internal").is_some(), internal);
        assert_eq!(header(&exchange, "x-envoy-max-retries").is_some(), internal);
    }
}

#[test]
fn hop_by_hop_headers_go_and_upgrades_stay() {
    let sent = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("te", "gzip, trailers"),
        ("keep-alive", "1"),
        ("proxy-connection", "x"),
    ];
    let mut plain = exchange("GET", "/", &sent);
    policy(|_| {}).request(&mut plain);
    for name in ["connection", "upgrade", "keep-alive", "proxy-connection"] {
        assert_eq!(header(&plain, name), None, "{name}");
    }
    assert_eq!(header(&plain, "te"), Some("trailers"));
    let mut upgrade = exchange("GET", "/", &sent);
    upgrade.upgrade = Some(crate::http::upgrade::UpgradeKind::Upgrade("websocket".into()));
    policy(|_| {}).request(&mut upgrade);
    assert_eq!(header(&upgrade, "upgrade"), Some("websocket"));
    assert_eq!(header(&upgrade, "keep-alive"), None);
}

#[test]
fn a_second_forwarded_proto_does_not_hide_behind_the_first() {
    let sent = [("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")];
    let mut exchange = exchange("GET", "/", &sent);
    policy(|_| {}).request(&mut exchange);
    let all = exchange.headers().get_all("x-forwarded-proto");
    let all: Vec<_> = all.iter().collect();
    assert_eq!(all, ["https,http"]);
}

#[test]
fn forwarded_proto_is_overwritten_only_by_the_first_hop() {
    for (policy, sent, expected) in [
        (edge(0), Some("https"), "http"),
        (edge(1), Some("https"), "https"),
        (policy(|_| {}), Some("https"), "https"),
        (policy(|_| {}), None, "http"),
    ] {
        let headers: Vec<_> = sent.map(|value| ("x-forwarded-proto", value)).into_iter().collect();
        let mut exchange = exchange("GET", "/", &headers);
        policy.request(&mut exchange);
        assert_eq!(header(&exchange, "x-forwarded-proto"), Some(expected));
    }
}

#[test]
fn paths_are_normalised_in_envoys_order() {
    use pbh::PathWithEscapedSlashesAction as A;
    let with = |action: A| {
        policy(|value| {
            value.normalize_path = Some(BoolValue { value: true });
            value.merge_slashes = true;
            value.path_with_escaped_slashes_action = action as i32;
        })
    };
    let path = |exchange: &Exchange| exchange.request.uri().to_string();
    let mut forwarded = exchange("GET", "/a%2F..%2f/b//c?x=//", &[]);
    assert_eq!(with(A::UnescapeAndForward).request(&mut forwarded), Verdict::Continue);
    assert_eq!(path(&forwarded), "/b/c?x=//");
    let mut kept = exchange("GET", "/a%2Fb/./c", &[]);
    assert_eq!(with(A::KeepUnchanged).request(&mut kept), Verdict::Continue);
    assert_eq!(path(&kept), "/a%2Fb/c");
    let refused = with(A::RejectRequest).request(&mut exchange("GET", "/a%5cb", &[]));
    assert!(matches!(
        refused,
        Verdict::Reject {
            status: StatusCode::BAD_REQUEST,
            ..
        }
    ));
    let redirected = with(A::UnescapeAndRedirect).request(&mut exchange("GET", "/a%2Fb", &[]));
    assert!(matches!(redirected, Verdict::Redirect { location, .. } if location == "/a/b"));
}

#[test]
fn hosts_lose_ports_and_dots_where_asked() {
    let any = policy(|value| value.strip_port_mode = Some(pbh::StripPortMode::StripAnyHostPort(true)));
    let matching = policy(|value| value.strip_matching_host_port = true);
    let dot = policy(|value| value.strip_trailing_host_dot = true);
    let cases = [
        (&any, "h:81", "h"),
        (&any, "[::1]:81", "[::1]"),
        (&any, "[::1]", "[::1]"),
        (&matching, "h:80", "h"),
        (&matching, "h:81", "h:81"),
        (&dot, "h.:81", "h:81"),
        (&dot, "h.", "h"),
    ];
    for (policy, sent, expected) in cases {
        let mut exchange = exchange("GET", "/", &[("host", sent)]);
        policy.request(&mut exchange);
        assert_eq!(exchange.authority.as_ref().expect("an authority"), expected);
        assert_eq!(header(&exchange, "host"), Some(expected));
    }
}

#[test]
fn client_certificates_are_told_only_over_mutual_tls() {
    let mode = |mode: pbh::ForwardClientCertDetails| {
        policy(|value| {
            value.forward_client_cert_details = mode as i32;
            value.set_current_client_cert_details = Some(pbh::SetCurrentClientCertDetails {
                uri: true,
                ..Default::default()
            });
        })
    };
    let peer = PeerInfo {
        uri_sans: vec!["spiffe://a".into()],
        sha256: Some("ab".into()),
        certificate: Some(vec![1, 2, 3].into()),
        ..PeerInfo::default()
    };
    use pbh::ForwardClientCertDetails as F;
    let cases = [
        (F::Sanitize, true, None),
        (F::ForwardOnly, true, Some("theirs")),
        (F::ForwardOnly, false, None),
        (F::AppendForward, true, Some("theirs,Hash=ab;URI=spiffe://a")),
        (F::SanitizeSet, true, Some("Hash=ab;URI=spiffe://a")),
        (F::SanitizeSet, false, None),
        (F::AlwaysForwardOnly, false, Some("theirs")),
    ];
    for (forward, mutual, expected) in cases {
        let connection = connection(mutual.then(|| peer.clone()));
        let mut exchange = exchange_over(connection, "GET", "/", &[("x-forwarded-client-cert", "theirs")]);
        mode(forward).request(&mut exchange);
        assert_eq!(
            header(&exchange, "x-forwarded-client-cert"),
            expected,
            "{forward:?} {mutual}"
        );
    }
}

#[test]
fn responses_get_server_date_and_no_hop_by_hop_headers() {
    let date = HeaderValue::from_static("now");
    for (mode, theirs, expected) in [
        (0, Some("up"), Some("envoy")),
        (1, Some("up"), Some("up")),
        (2, None, None),
    ] {
        let policy = policy(|value| value.server_header_transformation = mode);
        let mut headers = HeaderMap::new();
        headers.extend(theirs.map(|name| (http::header::SERVER, HeaderValue::from_static(name))));
        headers.insert("connection", HeaderValue::from_static("close"));
        policy.response(&exchange("GET", "/", &[]), StatusCode::OK, &mut headers, &date);
        assert_eq!(
            headers.get("server").map(|value| value.to_str().expect("text")),
            expected
        );
        assert_eq!(headers["date"], "now");
        assert!(!headers.contains_key("connection"));
    }
}

#[test]
fn referers_that_say_too_much_are_removed() {
    for (referer, stays) in [
        ("https://a.com/x", true),
        ("https://u:p@a.com/x", false),
        ("https://a.com/#f", false),
        ("/relative", false),
    ] {
        let mut exchange = exchange("GET", "/", &[("referer", referer)]);
        policy(|_| {}).request(&mut exchange);
        assert_eq!(header(&exchange, "referer").is_some(), stays, "{referer}");
    }
}
