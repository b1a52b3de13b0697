use prost::Message;
use remora_proto::json::{Options, encode_text};

use super::*;
use crate::http::exchange::FilterState;
use crate::runtime::io::Address;
use crate::testing::{connection, exchange, exchange_over};
use crate::tls::PeerInfo;

const NETWORK: &str = "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.";
const SSL: &str = "type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3.";

fn input(name: &str) -> String {
    let prefix = if name.ends_with("SanInput") || name == "SubjectInput" {
        SSL
    } else {
        NETWORK
    };
    format!(r#"{{"name": "in", "typed_config": {{"@type": "{prefix}{name}"}}}}"#)
}

fn header(name: &str) -> String {
    let kind = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput";
    format!(r#"{{"name": "in", "typed_config": {{"@type": "{kind}", "header_name": "{name}"}}}}"#)
}

fn leaf(name: &str, action: &str) -> String {
    let kind = "type.googleapis.com/envoy.config.rbac.v3.Action";
    format!(
        r#"{{"action": {{"name": "a", "typed_config": {{"@type": "{kind}", "name": "{name}", "action": "{action}"}}}}}}"#
    )
}

fn exact(input: &str, entries: &[(&str, String)]) -> String {
    map("exact_match_map", input, entries)
}

fn map(kind: &str, input: &str, entries: &[(&str, String)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(key, on_match)| format!(r#""{key}": {on_match}"#))
        .collect();
    format!(
        r#""matcher_tree": {{"input": {input}, "{kind}": {{"map": {{{}}}}}}}"#,
        entries.join(", ")
    )
}

fn list(entries: &[(String, String)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(predicate, on_match)| format!(r#"{{"predicate": {predicate}, "on_match": {on_match}}}"#))
        .collect();
    format!(r#""matcher_list": {{"matchers": [{}]}}"#, entries.join(", "))
}

fn text(input: &str, pattern: &str) -> String {
    format!(r#"{{"single_predicate": {{"input": {input}, "value_match": {{{pattern}}}}}}}"#)
}

fn nested(matcher: &str) -> String {
    format!(r#"{{"matcher": {{{matcher}}}}}"#)
}

fn compile(matcher: &str, of: Of) -> Compiled<Tree> {
    let encoded = encode_text(
        &format!("{{{matcher}}}"),
        "xds.type.matcher.v3.Matcher",
        &Options::default(),
    );
    let bytes = encoded.expect("fits").bytes;
    Tree::compile(&xds::Matcher::decode(&bytes[..]).expect("decodes"), of)
}

/// What the tree says of a connection: the leaf, and whether it lets pass.
fn says(matcher: &str, info: &crate::listener::ConnectionInfo) -> (bool, Option<String>) {
    let tree = compile(matcher, Of::Connections).expect("compiles");
    let decision = tree.decide(&Subject::of_connection(info));
    (decision.allowed, decision.policy.map(str::to_owned))
}

fn let_in(name: &str) -> (bool, Option<String>) {
    (true, Some(name.to_owned()))
}

const DENIED: (bool, Option<String>) = (false, None);

#[test]
fn a_map_finds_its_entry_and_else_what_is_said_for_no_match() {
    let info = connection(None);
    let source = input("SourceIPInput");
    let here = exact(&source, &[("10.0.0.1", leaf("here", "ALLOW"))]);
    assert_eq!(says(&here, &info), let_in("here"));
    let elsewhere = exact(&source, &[("10.0.0.9", leaf("there", "ALLOW"))]);
    assert_eq!(says(&elsewhere, &info), DENIED);
    let otherwise = format!(r#"{elsewhere}, "on_no_match": {}"#, leaf("else", "DENY"));
    assert_eq!(says(&otherwise, &info), (false, Some("else".to_owned())));
    assert_eq!(says("", &info), DENIED);
    for (name, value) in [
        ("DestinationIPInput", "10.0.0.2"),
        ("DestinationPortInput", "80"),
        ("SourcePortInput", "1111"),
        ("DirectSourceIPInput", "10.0.0.1"),
    ] {
        let tree = exact(&input(name), &[(value, leaf(name, "ALLOW"))]);
        assert_eq!(says(&tree, &info), let_in(name));
    }
}

/// An address that somebody told as a mapped one is of the other family, as in Envoy. Those of clients of a listener of both families are not.
#[test]
fn a_mapped_address_is_no_other() {
    let mut info = connection(None);
    let source = input("SourceIPInput");
    let here = exact(&source, &[("10.0.0.1", leaf("here", "DENY"))]);
    let mapped = "[::ffff:10.0.0.1]:1111".parse().expect("an address");
    info.remote = Address::Ip(mapped);
    assert_eq!(says(&here, &info), DENIED);
    info.remote = Address::accepted(mapped);
    assert_eq!(says(&here, &info), (false, Some("here".to_owned())));
}

#[test]
fn the_longest_prefix_wins_unless_it_leads_nowhere() {
    let info = connection(None);
    let source = input("SourceIPInput");
    let nowhere = nested(&exact(&source, &[("9.9.9.9", leaf("never", "ALLOW"))]));
    let prefixes = |long: String| {
        map(
            "prefix_match_map",
            &source,
            &[("10.0", long), ("1", leaf("short", "ALLOW"))],
        )
    };
    assert_eq!(says(&prefixes(leaf("long", "ALLOW")), &info), let_in("long"));
    assert_eq!(says(&prefixes(nowhere.clone()), &info), let_in("short"));
    // In a list too.
    let is_ten = text(&source, r#""prefix": "10.""#);
    let entries = [(is_ten.clone(), nowhere), (is_ten, leaf("later", "ALLOW"))];
    assert_eq!(says(&list(&entries), &info), let_in("later"));
}

#[test]
fn predicates_combine() {
    let info = connection(None);
    let source = |pattern: &str| text(&input("SourceIPInput"), pattern);
    let (yes, no) = (source(r#""exact": "10.0.0.1""#), source(r#""suffix": ".9""#));
    let both = |kind: &str, left: &str, right: &str| format!(r#"{{"{kind}": {{"predicate": [{left}, {right}]}}}}"#);
    let not = |inner: &str| format!(r#"{{"not_matcher": {inner}}}"#);
    let name = text(&input("ServerNameInput"), r#""exact": "a.test""#);
    for (predicate, holds) in [
        (both("and_matcher", &yes, &no), false),
        (both("and_matcher", &yes, &not(&no)), true),
        (both("or_matcher", &no, &yes), true),
        (both("or_matcher", &no, &no), false),
        // A name that is absent is not that name.
        (name.clone(), false),
        (not(&name), true),
        (source(r#""contains": "0.0.", "ignore_case": true"#), true),
        (
            source(r#""safe_regex": {"google_re2": {}, "regex": "10\\.[0-9.]+"}"#),
            true,
        ),
    ] {
        let tree = list(&[(predicate.clone(), leaf("p", "ALLOW"))]);
        assert_eq!(says(&tree, &info).0, holds, "{predicate}");
    }
}

#[test]
fn addresses_are_in_ranges() {
    let info = connection(None);
    let predicate = |input: &str, range: &str| {
        let kind = "type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip";
        format!(
            r#"{{"single_predicate": {{"input": {input}, "custom_match": {{"name": "ip", "typed_config": {{"@type": "{kind}",
                "stat_prefix": "ip", "cidr_ranges": [{{"address_prefix": "{range}", "prefix_len": 8}}]}}}}}}}}"#
        )
    };
    for (range, holds) in [("10.0.0.0", true), ("11.0.0.0", false)] {
        let tree = list(&[(predicate(&input("SourceIPInput"), range), leaf("in", "ALLOW"))]);
        assert_eq!(says(&tree, &info).0, holds);
    }
    let named = list(&[(predicate(&input("ServerNameInput"), "10.0.0.0"), leaf("in", "ALLOW"))]);
    let problems = compile(&named, Of::Connections).expect_err("refused");
    assert_eq!(
        problems.0[0].path,
        "matcher_list.matchers[0].predicate.single_predicate.custom_match.cidr_ranges"
    );
}

#[test]
fn a_question_that_cannot_be_asked_lets_nobody_in() {
    let plain = connection(None);
    let uri = input("UriSanInput");
    let fallback = leaf("fallback", "ALLOW");
    let mapped = format!(
        r#"{}, "on_no_match": {fallback}"#,
        exact(&uri, &[("spiffe://a/b", leaf("web", "ALLOW"))])
    );
    assert_eq!(says(&mapped, &plain), DENIED);
    let asks = text(&uri, r#""exact": "spiffe://a/b""#);
    let not = format!(r#"{{"not_matcher": {asks}}}"#);
    assert_eq!(says(&list(&[(not, fallback.clone())]), &plain), DENIED);
    let listed = format!(
        r#"{}, "on_no_match": {fallback}"#,
        list(&[(asks.clone(), fallback.clone())])
    );
    assert_eq!(says(&listed, &plain), DENIED);
    // What is known may decide before.
    let source = text(&input("SourceIPInput"), r#""prefix": "10.""#);
    let either = format!(r#"{{"or_matcher": {{"predicate": [{asks}, {source}]}}}}"#);
    assert_eq!(says(&list(&[(either, fallback.clone())]), &plain), let_in("fallback"));
    // A client without a certificate has no names: that is an answer.
    assert_eq!(
        says(&mapped, &connection(Some(PeerInfo::default()))),
        let_in("fallback")
    );
    let peer = PeerInfo {
        uri_sans: vec!["spiffe://a/b".into()],
        dns_sans: vec!["a.test".into(), "b.test".into()],
        subject: Some("CN=web".into()),
        ..PeerInfo::default()
    };
    let info = connection(Some(peer));
    assert_eq!(says(&mapped, &info), let_in("web"));
    for (name, value) in [("DnsSanInput", "a.test,b.test"), ("SubjectInput", "CN=web")] {
        let tree = exact(&input(name), &[(value, leaf(name, "ALLOW"))]);
        assert_eq!(says(&tree, &info), let_in(name));
    }
}

#[test]
fn requests_have_headers_and_state() {
    let tree = exact(
        &header("x-tenant"),
        &[("a,b", leaf("both", "ALLOW")), ("c", leaf("c", "LOG"))],
    );
    let tree = compile(&tree, Of::Requests).expect("compiles");
    let decide = |headers: &[(&str, &str)]| {
        let request = exchange("GET", "/", headers);
        let decision = tree.decide(&Subject::of(&request));
        (decision.allowed, decision.log)
    };
    // Where some leaf asks the log to log, the others say that they do not.
    assert_eq!(decide(&[("x-tenant", "a"), ("x-tenant", "b")]), (true, Some(false)));
    assert_eq!(decide(&[("x-tenant", "c")]), (true, Some(true)));
    assert_eq!(decide(&[]), (false, None));
    let state = r#"{"name": "in", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.FilterStateInput", "key": "who"}}"#;
    let tree = compile(&exact(state, &[("web", leaf("web", "ALLOW"))]), Of::Requests).expect("compiles");
    let mut request = exchange_over(connection(None), "GET", "/", &[]);
    assert!(!tree.decide(&Subject::of(&request)).allowed);
    let values = [("who".to_owned(), "web".to_owned())];
    request.extensions.insert(FilterState(values.into_iter().collect()));
    assert!(tree.decide(&Subject::of(&request)).allowed);
}

#[test]
fn what_envoy_does_not_take_is_refused_by_path() {
    let path = |matcher: &str| {
        compile(matcher, Of::Connections).expect_err("refused").0[0]
            .path
            .clone()
    };
    let source = input("SourceIPInput");
    assert_eq!(
        path(&exact(&header("x"), &[("a", leaf("a", "ALLOW"))])),
        "matcher_tree.input.typed_config"
    );
    assert_eq!(
        path(&exact(&input("TransportProtocolInput"), &[("a", leaf("a", "ALLOW"))])),
        "matcher_tree.input.typed_config"
    );
    assert_eq!(
        path(&exact(&source, &[("a", leaf("", "ALLOW"))])),
        "matcher_tree.exact_match_map.map[\"a\"].action.name"
    );
    let keeping = leaf("a", "ALLOW").replacen('{', r#"{"keep_matching": true, "#, 1);
    assert_eq!(
        path(&exact(&source, &[("a", keeping)])),
        "matcher_tree.exact_match_map.map[\"a\"].keep_matching"
    );
    let other =
        r#"{"action": {"name": "a", "typed_config": {"@type": "type.googleapis.com/google.protobuf.Duration"}}}"#;
    assert_eq!(
        path(&exact(&source, &[("a", other.to_owned())])),
        "matcher_tree.exact_match_map.map[\"a\"].action.typed_config"
    );
    let alone = format!(
        r#"{{"and_matcher": {{"predicate": [{}]}}}}"#,
        text(&source, r#""exact": "a""#)
    );
    assert_eq!(
        path(&list(&[(alone, leaf("a", "ALLOW"))])),
        "matcher_list.matchers[0].predicate.and_matcher.predicate"
    );
    assert_eq!(path(r#""matcher_list": {}"#), "matcher_list.matchers");
}
