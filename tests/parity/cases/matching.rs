//! Every way in which a route can match, as a table: a match, and requests that hold and that fail.

use super::{bootstrap, listener};
use crate::harness::{Case, World, get};

/// Where a match is tried: its path, YAML of its conditions, and requests: whether they match, what comes behind the path, header lines.
struct Row {
    path: &'static str,
    conditions: &'static str,
    requests: &'static [(bool, &'static str, &'static str)],
}

const fn row(
    path: &'static str,
    conditions: &'static str,
    requests: &'static [(bool, &'static str, &'static str)],
) -> Row {
    Row {
        path,
        conditions,
        requests,
    }
}

const ROWS: &[Row] = &[
    row(
        "/header/exact",
        "headers: [{name: x-a, string_match: {exact: One}}]",
        &[
            (true, "", "x-a: One\n"),
            (false, "", "x-a: one\n"),
            (false, "", ""),
            (false, "", "x-a: One, Two\n"),
        ],
    ),
    row(
        "/header/folded",
        "headers: [{name: x-a, string_match: {exact: One, ignore_case: true}}]",
        &[(true, "", "x-a: oNE\n"), (false, "", "x-a: two\n")],
    ),
    row(
        "/header/prefix",
        "headers: [{name: x-a, string_match: {prefix: ab}}]",
        &[
            (true, "", "x-a: abc\n"),
            (false, "", "x-a: cab\n"),
            (false, "", "x-a: Abc\n"),
        ],
    ),
    row(
        "/header/suffix",
        "headers: [{name: x-a, string_match: {suffix: ab}}]",
        &[(true, "", "x-a: cab\n"), (false, "", "x-a: abc\n")],
    ),
    row(
        "/header/contains",
        "headers: [{name: x-a, string_match: {contains: ab, ignore_case: true}}]",
        &[(true, "", "x-a: cABc\n"), (false, "", "x-a: acb\n")],
    ),
    row(
        "/header/regex",
        r#"headers: [{name: x-a, string_match: {safe_regex: {regex: "[0-9]+"}}}]"#,
        &[
            (true, "", "x-a: 42\n"),
            (false, "", "x-a: 42a\n"),
            (false, "", "x-a:\n"),
        ],
    ),
    row(
        "/header/present",
        "headers: [{name: x-a, present_match: true}]",
        &[(true, "", "x-a: 1\n"), (true, "", "x-a:\n"), (false, "", "")],
    ),
    row(
        "/header/absent",
        "headers: [{name: x-a, present_match: false}]",
        &[(false, "", "x-a: 1\n"), (true, "", "")],
    ),
    row(
        "/header/inverted",
        "headers: [{name: x-a, string_match: {exact: one}, invert_match: true}]",
        &[(false, "", "x-a: one\n"), (true, "", "x-a: two\n"), (false, "", "")],
    ),
    row(
        "/header/missing-is-empty",
        r#"headers: [{name: x-a, string_match: {exact: one}, invert_match: true, treat_missing_header_as_empty: true}]"#,
        &[(false, "", "x-a: one\n"), (true, "", "x-a: two\n"), (true, "", "")],
    ),
    row(
        "/header/range",
        "headers: [{name: x-a, range_match: {start: -5, end: 5}}]",
        &[
            (true, "", "x-a: -5\n"),
            (true, "", "x-a: 4\n"),
            (false, "", "x-a: 5\n"),
            (false, "", "x-a: 1x\n"),
        ],
    ),
    row(
        "/header/two",
        "headers: [{name: x-a, present_match: true}, {name: x-b, string_match: {exact: b}}]",
        &[
            (true, "", "x-a: 1\nx-b: b\n"),
            (false, "", "x-a: 1\n"),
            (false, "", "x-b: b\n"),
        ],
    ),
    row(
        "/header/twice",
        r#"headers: [{name: x-a, string_match: {exact: "1,2"}}]"#,
        &[
            (false, "", "x-a: 1\nx-a: 2\n"),
            (false, "", "x-a: 1\n"),
            (true, "", "x-a: 1,2\n"),
        ],
    ),
    row(
        "/header/method",
        r#"headers: [{name: ":method", string_match: {exact: GET}}]"#,
        &[(true, "", "")],
    ),
    row(
        "/header/authority",
        r#"headers: [{name: ":authority", string_match: {exact: parity.test}}]"#,
        &[(true, "", "")],
    ),
    row(
        "/header/path",
        r#"headers: [{name: ":path", string_match: {suffix: "?x"}}]"#,
        &[(true, "?x", ""), (false, "?y", "")],
    ),
    row(
        "/query/exact",
        "query_parameters: [{name: a, string_match: {exact: One}}]",
        &[
            (true, "?a=One", ""),
            (false, "?a=one", ""),
            (false, "?b=One", ""),
            (true, "?b=1&a=One", ""),
            (false, "", ""),
        ],
    ),
    row(
        "/query/present",
        "query_parameters: [{name: a, present_match: true}]",
        &[
            (true, "?a", ""),
            (true, "?a=", ""),
            (true, "?b&a=1", ""),
            (false, "?ab", ""),
            (false, "?A", ""),
        ],
    ),
    row(
        "/query/prefix",
        "query_parameters: [{name: a, string_match: {prefix: x, ignore_case: true}}]",
        &[(true, "?a=Xy", ""), (false, "?a=yx", "")],
    ),
    row(
        "/query/regex",
        r#"query_parameters: [{name: a, string_match: {safe_regex: {regex: "\\d+"}}}]"#,
        &[(true, "?a=12", ""), (false, "?a=1b", "")],
    ),
    row(
        "/query/encoded",
        r#"query_parameters: [{name: a, string_match: {exact: "b c"}}]"#,
        &[(false, "?a=b%20c", ""), (false, "?a=b+c", "")],
    ),
    row(
        "/query/two",
        "query_parameters: [{name: a, present_match: true}, {name: b, string_match: {exact: b}}]",
        &[(true, "?b=b&a", ""), (false, "?a", "")],
    ),
    row(
        "/cookie/exact",
        "cookies: [{name: a, string_match: {exact: one}}]",
        &[
            (true, "", "cookie: a=one\n"),
            (true, "", "cookie: b=2; a=one\n"),
            (true, "", "cookie: b=2\ncookie: a=one\n"),
            (false, "", "cookie: a=two\n"),
            (false, "", "cookie: aa=one\n"),
            (false, "", ""),
        ],
    ),
    row(
        "/cookie/inverted",
        "cookies: [{name: a, string_match: {exact: one}, invert_match: true}]",
        &[
            (false, "", "cookie: a=one\n"),
            (true, "", "cookie: a=two\n"),
            (true, "", ""),
        ],
    ),
    row(
        "/fraction/none",
        "runtime_fraction: {default_value: {numerator: 0}}",
        &[(false, "", "")],
    ),
    row(
        "/fraction/all",
        "runtime_fraction: {default_value: {numerator: 1000000, denominator: MILLION}, runtime_key: some.key}",
        &[(true, "", "")],
    ),
    row("/tls/presented", "tls_context: {presented: true}", &[(false, "", "")]),
    row(
        "/tls/not-presented",
        "tls_context: {presented: false}",
        &[(true, "", "")],
    ),
    row(
        "/tls/not-validated",
        "tls_context: {validated: false}",
        &[(true, "", "")],
    ),
    row(
        "/metadata/missing",
        "dynamic_metadata: [{filter: some, path: [{key: a}], value: {string_match: {exact: x}}}]",
        &[(false, "", "")],
    ),
    row(
        "/metadata/inverted",
        "dynamic_metadata: [{filter: some, path: [{key: a}], value: {string_match: {exact: x}}, invert: true}]",
        &[(true, "", "")],
    ),
];

/// Ways to match a path, and paths with what they come to.
const PATHS: &[(&str, &[(bool, &str)])] = &[
    (
        "prefix: /p/one",
        &[(true, "/p/one"), (true, "/p/oneandmore"), (false, "/p/on")],
    ),
    (
        "prefix: /p/TWO, case_sensitive: false",
        &[(true, "/p/two/x"), (true, "/P/tWo")],
    ),
    (
        "path: /p/three",
        &[(true, "/p/three"), (true, "/p/three?q"), (false, "/p/three/")],
    ),
    (
        "path_separated_prefix: /p/four",
        &[
            (true, "/p/four"),
            (true, "/p/four/x"),
            (true, "/p/four?x"),
            (false, "/p/fourx"),
        ],
    ),
    (
        r#"safe_regex: {regex: "/p/five/[a-z]+/?"}"#,
        &[
            (true, "/p/five/abc"),
            (true, "/p/five/abc/"),
            (true, "/p/five/abc?x=1"),
            (false, "/p/five/ABC"),
        ],
    ),
    (
        r#"path_match_policy: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: "/p/six/{a}/{b}"}}"#,
        &[(true, "/p/six/x/y"), (false, "/p/six/x"), (false, "/p/six/x/y/z")],
    ),
    (
        r#"path_match_policy: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: "/p/seven/*/{rest=**}"}}"#,
        &[
            (true, "/p/seven/x/y"),
            (true, "/p/seven/x/y/z.html"),
            (false, "/p/seven"),
        ],
    ),
];

pub fn world() -> World {
    let mut routes = String::new();
    for (number, (matcher, _)) in PATHS.iter().enumerate() {
        routes.push_str(&format!(
            "    - {{match: {{{matcher}}}, direct_response: {{status: 200, body: {{inline_string: path {number}}}}}}}\n"
        ));
    }
    for row in ROWS {
        let (path, conditions) = (row.path, row.conditions);
        routes.push_str(&format!(
            "    - {{match: {{prefix: {path}, {conditions}}}, direct_response: {{status: 200, body: {{inline_string: \"{path}\"}}}}}}\n"
        ));
    }
    let manager = format!(
        "route_config:\n  name: routes\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{routes}"
    );
    World {
        name: "matching",
        yaml: bootstrap(&[listener("http", &manager)], &[]),
        cases: cases(),
        stats: &["http.http.downstream_rq", "http.http.no_route", "http.http.rq_"],
    }
}

fn cases() -> Vec<Case> {
    let status = |matches: bool| if matches { 200 } else { 404 };
    let mut cases = Vec::new();
    for row in ROWS {
        for (number, (matches, rest, headers)) in row.requests.iter().enumerate() {
            let path = format!("{}{rest}", row.path);
            cases.push(get(
                leaked(format!("{} {number}", row.path)),
                status(*matches),
                &path,
                headers,
            ));
        }
    }
    for (matcher, paths) in PATHS {
        for (matches, path) in *paths {
            let kind = matcher.split(':').next().unwrap_or_default();
            cases.push(get(leaked(format!("{kind} {path}")), status(*matches), path, ""));
        }
    }
    cases
}

/// Names of cases live as long as the program.
fn leaked(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}
