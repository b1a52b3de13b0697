//! What becomes of paths: normalisation, slashes, escapes, as every connection manager is told to.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, named};

const ROUTES: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: private, match: {prefix: /private}, direct_response: {status: 403}}
    - {name: all, match: {prefix: /}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let with = |name: &str, fields: &str| listener(name, &format!("{fields}\n{ROUTES}"));
    let listeners = [
        with("plain", "codec_type: AUTO"),
        with("normal", "normalize_path: true"),
        with("merge", "merge_slashes: true"),
        with(
            "reject",
            "normalize_path: true\nmerge_slashes: true\npath_with_escaped_slashes_action: REJECT_REQUEST",
        ),
        with(
            "redirect",
            "normalize_path: true\npath_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT",
        ),
        with(
            "forward",
            "normalize_path: true\nmerge_slashes: true\npath_with_escaped_slashes_action: UNESCAPE_AND_FORWARD",
        ),
    ];
    World {
        name: "paths",
        yaml: bootstrap(&listeners, &[cluster("a", &["{{a}}"], "")]),
        cases: cases(),
        stats: &[
            "http.plain.downstream_rq",
            "http.normal.downstream_rq",
            "http.reject.downstream_rq",
            "http.redirect.downstream_rq",
            "http.forward.downstream_rq",
        ],
    }
}

/// Paths, and what each listener answers, in their order.
const PATHS: &[(&str, [u16; 6])] = &[
    ("/a/../private", [200, 403, 200, 403, 403, 403]),
    ("/a/..%2fprivate", [200, 200, 200, 400, 307, 403]),
    ("/a/%2e%2e/private", [200, 403, 200, 403, 403, 403]),
    ("/a%5c..%5cprivate", [200, 200, 200, 400, 307, 403]),
    ("//private", [200, 200, 403, 403, 200, 403]),
    ("/./private", [200, 403, 200, 403, 403, 403]),
    ("/%70rivate", [200, 403, 200, 403, 403, 403]),
    ("/private%2f", [403, 403, 403, 400, 307, 403]),
    ("/PRIVATE", [200, 200, 200, 200, 200, 200]),
    ("/a//b///c?x=//y", [200, 200, 200, 200, 200, 200]),
    ("/a/b/..?q=../x", [200, 200, 200, 200, 200, 200]),
    ("/a;b=c/../d", [200, 200, 200, 200, 200, 200]),
    ("/a%zz", [200, 200, 200, 200, 200, 200]),
    ("/a%00b", [200, 400, 200, 400, 400, 400]),
    ("/a%7eb%2Dc", [200, 200, 200, 200, 200, 200]),
    ("/a|b", [200, 200, 200, 200, 200, 200]),
    ("/a#b", [400, 400, 400, 400, 400, 400]),
    ("/a?b#c", [400, 400, 400, 400, 400, 400]),
];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (path, statuses) in PATHS {
        for (listener, status) in ["plain", "normal", "merge", "reject", "redirect", "forward"]
            .into_iter()
            .zip(statuses)
        {
            cases.push(get(named(format!("{path} at {listener}")), *status, path, "").on(listener));
        }
    }
    cases
}
