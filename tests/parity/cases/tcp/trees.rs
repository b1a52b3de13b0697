//! Listeners whose access control is a match tree.

use super::case;
use super::listeners::{behind, filter};
use crate::harness::Case;
use crate::tcp::Step::{self, End, Half, Send};

pub(super) fn listeners() -> Vec<String> {
    let network = |input: &str| format!("envoy.extensions.matching.common_inputs.network.v3.{input}");
    let of = |input: &str| format!(r#"input: {{name: in, typed_config: {{"@type": type.googleapis.com/{input}}}}}"#);
    let leaf = |name: &str, action: &str| {
        format!(
            r#"{{action: {{name: action, typed_config: {{"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: {name}, action: {action}}}}}}}"#
        )
    };
    let map = |input: &str, kind: &str, entries: &str| {
        format!(
            "matcher_tree: {{{}, {kind}: {{map: {{{entries}}}}}}}",
            of(&network(input))
        )
    };
    let exact =
        |input: &str, key: &str, on_match: &str| map(input, "exact_match_map", &format!("\"{key}\": {on_match}"));
    let text = |input: &str, pattern: &str| {
        format!(
            "{{single_predicate: {{{}, value_match: {{{pattern}}}}}}}",
            of(&network(input))
        )
    };
    let list = |entries: &[(&str, &str)]| {
        let entries: Vec<String> = entries
            .iter()
            .map(|(predicate, on_match)| format!("{{predicate: {predicate}, on_match: {on_match}}}"))
            .collect();
        format!("matcher_list: {{matchers: [{}]}}", entries.join(", "))
    };
    let (here, no) = (leaf("here", "ALLOW"), leaf("no one", "DENY"));
    let nowhere = format!("{{matcher: {{{}}}}}", exact("DestinationIPInput", "192.0.2.9", &here));
    let (local, foreign) = (
        text("SourceIPInput", "prefix: \"127.\""),
        text("SourceIPInput", "suffix: \".9\""),
    );
    let both = format!("{{and_matcher: {{predicate: [{local}, {{not_matcher: {foreign}}}]}}}}");
    let ssl = of("envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput");
    let unasked = format!("matcher_tree: {{{ssl}, exact_match_map: {{map: {{x: {here}}}}}}}, on_no_match: {here}");
    let ranges = format!(
        r#"{{single_predicate: {{{}, custom_match: {{name: ip, typed_config: {{"@type": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: ranges, cidr_ranges: [{{address_prefix: 127.0.0.0, prefix_len: 8}}]}}}}}}}}"#,
        of(&network("SourceIPInput"))
    );
    let prefixes = format!("\"127.0\": {nowhere}, \"12\": {here}");
    let logs = format!("\"127.0.0.1\": {}, x: {}", here, leaf("log", "LOG"));
    let trees = [
        ("found", exact("DestinationIPInput", "127.0.0.1", &here)),
        ("denied by leaf", exact("SourceIPInput", "127.0.0.1", &no)),
        ("denied by nobody", exact("SourceIPInput", "127.0.0.2", &here)),
        (
            "otherwise",
            format!("{}, on_no_match: {here}", exact("SourceIPInput", "127.0.0.2", &no)),
        ),
        ("prefix", map("SourceIPInput", "prefix_match_map", &prefixes)),
        ("later", list(&[(&local, &nowhere), (&local, &here)])),
        ("both", list(&[(&foreign, &no), (&both, &here)])),
        ("denied unasked", unasked),
        ("ranges", list(&[(&ranges, &here)])),
        ("hinted", exact("SourceIPInput", "127.0.0.1", &leaf("log", "LOG"))),
        ("unhinted", map("SourceIPInput", "exact_match_map", &logs)),
    ];
    let rbac = |name: &str, field: &str, tree: &str| {
        let fields = format!("stat_prefix: \"{name}.\", {field}: {{{tree}}}");
        behind(name, &[filter("network.rbac.v3.RBAC", &fields)])
    };
    let shadow = exact("SourceIPInput", "127.0.0.1", &no);
    let mut all: Vec<String> = trees.iter().map(|(name, tree)| rbac(name, "matcher", tree)).collect();
    all.push(rbac("in the shadow", "shadow_matcher", &shadow));
    all
}

/// Access control by match trees.
pub(super) fn cases() -> Vec<Case> {
    const TALK: &[Step] = &[Send(b"hello"), Half, End];
    let allowed = [
        "found",
        "otherwise",
        "prefix",
        "later",
        "both",
        "ranges",
        "hinted",
        "unhinted",
        "in the shadow",
    ];
    let denied = ["denied by leaf", "denied by nobody", "denied unasked"];
    let allowed = allowed.map(|name| case(name, name, 5, TALK));
    let denied = denied.map(|name| case(name, name, 0, &[Send(b"hello"), End]));
    allowed.into_iter().chain(denied).collect()
}
