//! Golden tables over whole route configurations.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3 as pbc;
use remora_proto::pb::envoy::config::route::v3 as pbr;
use remora_proto::pb::envoy::config::route::v3::route_match::PathSpecifier;
use remora_proto::pb::google::protobuf::UInt32Value;

use super::{Action, RequestView, Route, RouteTable};
use crate::config::BuildContext;
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::header_policy::{finalize_request, finalize_response, set_authority};
use crate::testing::exchange;

fn table(hosts: Vec<pbr::VirtualHost>) -> RouteTable {
    parse(pbr::RouteConfiguration {
        name: "r".into(),
        virtual_hosts: hosts,
        ..Default::default()
    })
}

fn parse(config: pbr::RouteConfiguration) -> RouteTable {
    RouteTable::parse(Bytes::from(config.encode_to_vec()), &BuildContext::default()).expect("compiles")
}

fn host(name: &str, domains: &[&str], routes: Vec<pbr::Route>) -> pbr::VirtualHost {
    pbr::VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes,
        ..Default::default()
    }
}

fn to_cluster(path: PathSpecifier, cluster: &str) -> pbr::Route {
    let action = pbr::RouteAction {
        cluster_specifier: Some(pbr::route_action::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    with_action(path, action)
}

fn with_action(path: PathSpecifier, action: pbr::RouteAction) -> pbr::Route {
    pbr::Route {
        name: format!("{path:?}"),
        r#match: Some(pbr::RouteMatch {
            path_specifier: Some(path),
            ..Default::default()
        }),
        action: Some(pbr::route::Action::Route(action)),
        ..Default::default()
    }
}

fn prefix(text: &str) -> PathSpecifier {
    PathSpecifier::Prefix(text.into())
}

fn regex(text: &str) -> PathSpecifier {
    PathSpecifier::SafeRegex(remora_proto::pb::envoy::r#type::matcher::v3::RegexMatcher {
        regex: text.into(),
        ..Default::default()
    })
}

fn select(table: &RouteTable, exchange: &Exchange) -> Option<Arc<Route>> {
    table.select(&RequestView::of(exchange)).1
}

fn cluster(table: &RouteTable, exchange: &Exchange) -> Option<String> {
    let route = select(table, exchange)?;
    let chosen = route.forward()?.cluster.choose(&RequestView::of(exchange), None)?;
    Some(chosen.cluster.to_string())
}

#[test]
fn paths_match_by_their_kind_and_the_first_route_wins() {
    let separated = PathSpecifier::PathSeparatedPrefix("/sep".into());
    let table = table(vec![host(
        "all",
        &["*"],
        vec![
            to_cluster(PathSpecifier::Path("/exact".into()), "exact"),
            to_cluster(regex("/re/[0-9]+|/x"), "regex"),
            to_cluster(separated, "separated"),
            to_cluster(prefix("/foo"), "foo"),
            to_cluster(prefix("/foobar"), "never"),
        ],
    )]);
    let cases = [
        ("/exact", Some("exact")),
        ("/exact?q", Some("exact")),
        ("/exact/", None),
        ("/re/12", Some("regex")),
        ("/re/12/", None),
        ("/sep", Some("separated")),
        ("/sep/a", Some("separated")),
        ("/separate", None),
        ("/foobar", Some("foo")),
        ("/FOO", None),
    ];
    for (path, expected) in cases {
        assert_eq!(
            cluster(&table, &exchange("GET", path, &[])).as_deref(),
            expected,
            "{path}"
        );
    }
}

#[test]
fn a_matched_virtual_host_without_a_route_is_final_and_virtual_hosts_are_built_on_use() {
    let table = table(vec![
        host("a", &["a.com", "a.com:*"], vec![to_cluster(prefix("/only"), "a")]),
        host("any", &["*"], vec![to_cluster(prefix("/"), "any")]),
    ]);
    assert_eq!(table.virtual_host_count(), 2);
    assert_eq!(table.built_count(), 0);
    assert_eq!(cluster(&table, &exchange("GET", "/", &[("host", "a.com")])), None);
    assert_eq!(table.built_count(), 1);
    assert_eq!(
        cluster(&table, &exchange("GET", "/only", &[("host", "A.com:80")])).as_deref(),
        Some("a")
    );
    assert_eq!(
        cluster(&table, &exchange("GET", "/only", &[("host", "b.com")])).as_deref(),
        Some("any")
    );
    assert_eq!(table.clusters_to_validate(), Ok(Vec::new()), "off by default");
}

#[test]
fn ports_are_ignored_only_where_asked() {
    let config = |ignore_port_in_host_matching| pbr::RouteConfiguration {
        virtual_hosts: vec![host("a", &["a.com", "[::1]"], vec![to_cluster(prefix("/"), "a")])],
        ignore_port_in_host_matching,
        ..Default::default()
    };
    let (strict, lax) = (parse(config(false)), parse(config(true)));
    for (authority, expected) in [("a.com:8080", true), ("[::1]:80", true), ("[::1]", true)] {
        let exchange = exchange("GET", "/", &[("host", authority)]);
        assert_eq!(cluster(&lax, &exchange).is_some(), expected, "{authority}");
        assert_eq!(
            cluster(&strict, &exchange).is_some(),
            !authority.contains("80"),
            "{authority}"
        );
    }
}

#[test]
fn headers_match_as_envoys_do() {
    use pbr::header_matcher::HeaderMatchSpecifier as S;
    let exact = |text: &str| {
        S::StringMatch(remora_proto::pb::envoy::r#type::matcher::v3::StringMatcher {
            match_pattern: Some(
                remora_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern::Exact(text.into()),
            ),
            ..Default::default()
        })
    };
    let range = S::RangeMatch(remora_proto::pb::envoy::r#type::v3::Int64Range { start: 1, end: 5 });
    // name, matcher, inverted, missing counts as empty, headers, expected
    let cases: Vec<(&str, S, bool, bool, &[(&str, &str)], bool)> = vec![
        ("a", exact("1"), false, false, &[("a", "1")], true),
        ("a", exact("1,2"), false, false, &[("a", "1"), ("a", "2")], false),
        ("a", exact("2"), false, false, &[("a", "1"), ("a", "2")], true),
        ("a", exact("1"), true, false, &[], false),
        ("a", exact("1"), true, true, &[], true),
        ("a", exact(""), false, true, &[], true),
        ("a", S::PresentMatch(true), false, false, &[("a", "")], true),
        ("a", S::PresentMatch(true), true, false, &[], true),
        ("a", S::PresentMatch(false), false, false, &[], true),
        ("a", range.clone(), false, false, &[("a", "4")], true),
        ("a", range.clone(), false, false, &[("a", "5")], false),
        ("a", range, false, false, &[("a", "x")], false),
        (":method", exact("GET"), false, false, &[], true),
        (":authority", exact("h"), false, false, &[("host", "h")], true),
        (":path", exact("/?q"), false, false, &[], true),
    ];
    for (index, (name, specifier, invert_match, treat_missing_header_as_empty, headers, expected)) in
        cases.into_iter().enumerate()
    {
        let matcher = super::headers::HeaderMatcher::compile(&pbr::HeaderMatcher {
            name: name.into(),
            invert_match,
            treat_missing_header_as_empty,
            header_match_specifier: Some(specifier),
        })
        .expect("compiles");
        let exchange = exchange("GET", "/?q", headers);
        assert_eq!(matcher.matches(&RequestView::of(&exchange)), expected, "case {index}");
    }
}

#[test]
fn weights_divide_the_stream_random_number() {
    let entry = |name: &str, weight| pbr::weighted_cluster::ClusterWeight {
        name: name.into(),
        weight: Some(UInt32Value { value: weight }),
        ..Default::default()
    };
    let weighted = pbr::WeightedCluster {
        clusters: vec![entry("a", 20), entry("none", 0), entry("b", 80)],
        ..Default::default()
    };
    let action = pbr::RouteAction {
        cluster_specifier: Some(pbr::route_action::ClusterSpecifier::WeightedClusters(weighted)),
        ..Default::default()
    };
    let table = table(vec![host("all", &["*"], vec![with_action(prefix("/"), action)])]);
    for (random, expected) in [(0, "a"), (19, "a"), (20, "b"), (99, "b"), (100, "a")] {
        let mut exchange = exchange("GET", "/", &[]);
        exchange.random = random;
        assert_eq!(cluster(&table, &exchange).as_deref(), Some(expected), "{random}");
    }
}

#[test]
fn redirects_build_their_location_as_envoy_does() {
    use pbr::redirect_action::{PathRewriteSpecifier as P, SchemeRewriteSpecifier as S};
    let redirect = |change: &dyn Fn(&mut pbr::RedirectAction)| {
        let mut value = pbr::RedirectAction::default();
        change(&mut value);
        value
    };
    let https = |value: &mut pbr::RedirectAction| value.scheme_rewrite_specifier = Some(S::HttpsRedirect(true));
    let captured = remora_proto::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute {
        pattern: Some(remora_proto::pb::envoy::r#type::matcher::v3::RegexMatcher {
            regex: "^/p/(.*)$".into(),
            ..Default::default()
        }),
        substitution: "\\1".into(),
    };
    let cases = [
        (redirect(&https), "h.com:80", "/p?q", "https://h.com/p?q"),
        (redirect(&https), "h.com:81", "/p", "https://h.com:81/p"),
        (
            redirect(&|r| r.port_redirect = 8080),
            "[::1]:80",
            "/",
            "http://[::1]:8080/",
        ),
        (
            redirect(&|r| r.host_redirect = "new".into()),
            "h:80",
            "/",
            "http://new/",
        ),
        (
            redirect(&|r| r.path_rewrite_specifier = Some(P::PathRedirect("/n?a=1".into()))),
            "h",
            "/p?q",
            "http://h/n?a=1",
        ),
        (
            redirect(&|r| r.path_rewrite_specifier = Some(P::PathRedirect("/n".into()))),
            "h",
            "/p?q",
            "http://h/n?q",
        ),
        (
            redirect(&|r| r.path_rewrite_specifier = Some(P::PrefixRewrite("/n".into()))),
            "h",
            "/p/x?q",
            "http://h/n/x?q",
        ),
        (redirect(&|r| r.strip_query = true), "h", "/p?q", "http://h/p"),
        // What is rewritten never goes on with the host's name.
        (
            redirect(&|r| r.path_rewrite_specifier = Some(P::PathRedirect("n".into()))),
            "h",
            "/p?q",
            "http://h/n?q",
        ),
        (
            redirect(&|r| r.path_rewrite_specifier = Some(P::RegexRewrite(captured.clone()))),
            "h",
            "/p/.evil.com/x",
            "http://h/.evil.com/x",
        ),
        (
            redirect(&|r| r.path_rewrite_specifier = Some(P::PrefixRewrite(String::new()))),
            "h",
            "/p/x",
            "http://h/p/x",
        ),
    ];
    for (value, authority, path, expected) in cases {
        let route = pbr::Route {
            action: Some(pbr::route::Action::Redirect(value)),
            ..to_cluster(prefix("/p"), "unused")
        };
        let mut any = route.clone();
        any.r#match = Some(pbr::RouteMatch {
            path_specifier: Some(prefix("/")),
            ..Default::default()
        });
        let table = table(vec![host("all", &["*"], vec![route, any])]);
        let exchange = exchange("GET", path, &[("host", authority), ("x-forwarded-proto", "http")]);
        let route = select(&table, &exchange).expect("a route");
        let Action::Redirect(redirect) = &route.action else {
            panic!("not a redirect")
        };
        assert_eq!(redirect.location(&route.matcher.path, &exchange), expected);
    }
}

#[test]
fn mutations_apply_from_the_route_outwards_unless_the_most_specific_wins() {
    let overwrite = |value: &str| pbc::HeaderValueOption {
        header: Some(pbc::HeaderValue {
            key: "x-level".into(),
            value: value.into(),
            ..Default::default()
        }),
        append_action: 2,
        ..Default::default()
    };
    for (most_specific_header_mutations_wins, expected) in [(false, "table"), (true, "route")] {
        let mut route = to_cluster(prefix("/"), "c");
        route.request_headers_to_add = vec![overwrite("route")];
        route.response_headers_to_add = vec![overwrite("route %REQ(x-a)% %RESP(x-b)%")];
        let mut all = host("all", &["*"], vec![route]);
        all.request_headers_to_add = vec![overwrite("host")];
        let table = parse(pbr::RouteConfiguration {
            virtual_hosts: vec![all],
            request_headers_to_add: vec![overwrite("table")],
            most_specific_header_mutations_wins,
            ..Default::default()
        });
        let mut exchange = exchange("GET", "/", &[("x-a", "1")]);
        let route = select(&table, &exchange).expect("a route");
        finalize_request(&mut exchange, &route, route.forward().expect("forwards")).expect("fits");
        assert_eq!(exchange.headers()["x-level"], expected);
        let mut response = http::HeaderMap::new();
        response.insert("x-b", http::HeaderValue::from_static("2"));
        finalize_response(&exchange, &route, &mut response);
        assert_eq!(response["x-level"], "route 1 2");
    }
}

#[test]
fn what_a_rewrite_makes_goes_on_even_if_no_uri_can_hold_it() {
    let rewritten = |prefix_rewrite: &str| {
        let action = pbr::RouteAction {
            prefix_rewrite: prefix_rewrite.into(),
            cluster_specifier: Some(pbr::route_action::ClusterSpecifier::Cluster("c".into())),
            ..Default::default()
        };
        let table = table(vec![host("all", &["*"], vec![with_action(prefix("/old"), action)])]);
        let mut exchange = exchange("GET", "/old/a?b", &[]);
        let route = select(&table, &exchange).expect("a route");
        let done = finalize_request(&mut exchange, &route, route.forward().expect("forwards"));
        done.map(|()| {
            assert_eq!(exchange.headers()["x-envoy-original-path"], "/old/a?b");
            exchange.request.uri().to_string()
        })
    };
    for (prefix_rewrite, expected) in [
        ("/new", "/new/a?b"),
        ("/café{x}|^", "/café{x}|^/a?b"),
        ("/n w", "/n%20w/a?b"),
        ("/<n>`\t", "/%3Cn%3E%60%09/a?b"),
        ("/x#f", "/x%23f/a?b"),
        ("#", "/%23/a?b"),
        ("/x?y", "/x?y/a?b"),
        ("/x?y#z", "/x?y%23z/a?b"),
        ("none", "/none/a?b"),
        ("*", "/*/a?b"),
        ("http://other/x", "/http://other/x/a?b"),
    ] {
        assert_eq!(rewritten(prefix_rewrite).as_deref(), Ok(expected), "{prefix_rewrite}");
    }
    let too_long = rewritten(&format!("/{}", "x".repeat(70_000)));
    assert!(matches!(too_long, Err(Failure::BadRequest { .. })));
}

#[test]
fn host_rewrites_to_nothing_leave_the_host() {
    use pbr::route_action::HostRewriteSpecifier;
    use remora_proto::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
    let everything = RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher {
            regex: ".*".into(),
            ..Default::default()
        }),
        substitution: String::new(),
    };
    for specifier in [
        HostRewriteSpecifier::HostRewriteLiteral(String::new()),
        HostRewriteSpecifier::HostRewritePathRegex(everything),
        HostRewriteSpecifier::HostRewriteHeader("x-empty".into()),
    ] {
        let action = pbr::RouteAction {
            append_x_forwarded_host: true,
            host_rewrite_specifier: Some(specifier),
            cluster_specifier: Some(pbr::route_action::ClusterSpecifier::Cluster("c".into())),
            ..Default::default()
        };
        let table = table(vec![host("all", &["*"], vec![with_action(prefix("/"), action)])]);
        let mut exchange = exchange("GET", "/", &[("host", "before"), ("x-empty", "")]);
        let route = select(&table, &exchange).expect("a route");
        finalize_request(&mut exchange, &route, route.forward().expect("forwards")).expect("fits");
        assert_eq!(exchange.headers()["host"], "before");
        assert!(!exchange.headers().contains_key("x-forwarded-host"));
    }
}

#[test]
fn rewrites_keep_what_was_there_before() {
    let action = pbr::RouteAction {
        prefix_rewrite: "/new".into(),
        append_x_forwarded_host: true,
        host_rewrite_specifier: Some(pbr::route_action::HostRewriteSpecifier::HostRewriteLiteral("up".into())),
        cluster_specifier: Some(pbr::route_action::ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    };
    let table = table(vec![host("all", &["*"], vec![with_action(prefix("/old"), action)])]);
    let mut exchange = exchange("GET", "/old/x?q", &[("host", "down")]);
    let route = select(&table, &exchange).expect("a route");
    finalize_request(&mut exchange, &route, route.forward().expect("forwards")).expect("fits");
    assert_eq!(exchange.request.uri().path_and_query().expect("a path"), "/new/x?q");
    assert_eq!(exchange.headers()["x-envoy-original-path"], "/old/x?q");
    assert_eq!(exchange.headers()["host"], "up");
    assert_eq!(exchange.headers()["x-forwarded-host"], "down");
    assert_eq!(exchange.authority.as_ref().expect("an authority"), "up");
}

#[test]
fn connect_matches_only_its_own_matcher() {
    let connect = PathSpecifier::ConnectMatcher(Default::default());
    let table = table(vec![host(
        "all",
        &["*"],
        vec![to_cluster(prefix("/"), "plain"), to_cluster(connect, "tunnel")],
    )]);
    assert_eq!(
        cluster(&table, &exchange("CONNECT", "h.com:443", &[])).as_deref(),
        Some("tunnel")
    );
    assert_eq!(cluster(&table, &exchange("GET", "/", &[])).as_deref(), Some("plain"));
}

#[test]
fn problems_name_the_field() {
    let mut bad = to_cluster(regex("("), "c");
    bad.response_headers_to_add = vec![pbc::HeaderValueOption::default()];
    let config = pbr::RouteConfiguration {
        virtual_hosts: vec![
            host("a", &["a"], vec![to_cluster(prefix("/"), "c"), bad]),
            host("b", &["b", "A"], vec![]),
        ],
        ..Default::default()
    };
    let refused = RouteTable::parse(Bytes::from(config.encode_to_vec()), &BuildContext::default());
    let problems = refused.err().expect("refused");
    let paths: Vec<_> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "virtual_hosts[0].routes[1].match.safe_regex.regex",
            "virtual_hosts[0].routes[1].response_headers_to_add[0].header",
            "virtual_hosts[1].domains[1]"
        ]
    );
}

#[test]
fn hash_policies_combine_by_rotation_and_stop_at_a_terminal_one() {
    use pbr::route_action::hash_policy::{Header, PolicySpecifier};
    use xxhash_rust::xxh64::xxh64;
    let header = |name: &str, terminal| {
        let header = Header {
            header_name: name.into(),
            regex_rewrite: None,
        };
        let value = pbr::route_action::HashPolicy {
            terminal,
            policy_specifier: Some(PolicySpecifier::Header(header)),
        };
        super::hash::HashPolicy::compile(&value).expect("compiles")
    };
    let exchange = exchange("GET", "/", &[("a", "1"), ("b", "2")]);
    let view = RequestView::of(&exchange);
    let hash =
        |policies: &[super::hash::HashPolicy]| super::hash::hash(policies, &view, &exchange.connection.remote).hash;
    assert_eq!(
        hash(&[header("a", false), header("b", false)]),
        Some(xxh64(b"1", 0).rotate_left(1) ^ xxh64(b"2", 0))
    );
    assert_eq!(hash(&[header("a", true), header("b", false)]), Some(xxh64(b"1", 0)));
    assert_eq!(
        hash(&[header("missing", true), header("b", false)]),
        Some(xxh64(b"2", 0))
    );
    assert_eq!(hash(&[header("missing", true)]), None);
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = RouteTable::parse(Bytes::from(bytes), &BuildContext::default());
    }

    #[test]
    fn arbitrary_requests_never_panic(path in "/[ -~]{0,20}", authority in "[ -~]{0,20}") {
        let action = pbr::RouteAction {
            prefix_rewrite: "/n".into(),
            cluster_specifier: Some(pbr::route_action::ClusterSpecifier::Cluster("c".into())),
            ..Default::default()
        };
        let table = table(vec![host("all", &["*", "*.a", "a.*", "a"], vec![with_action(prefix("/a"), action)])]);
        if path.parse::<http::Uri>().is_ok() {
            let mut exchange = exchange("GET", &path, &[]);
            if let Ok(authority) = http::HeaderValue::from_str(&authority) {
                set_authority(&mut exchange, authority);
            }
            if let Some(route) = select(&table, &exchange) {
                finalize_request(&mut exchange, &route, route.forward().expect("forwards")).expect("fits");
            }
        }
    }
}
