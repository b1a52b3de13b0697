//! What a route calls its operation, and who is told (`decorator`).

use super::{bootstrap, cluster, listener};
use crate::harness::{World, get};

const ROUTES: &str = r#"
route_config:
  name: routes
  validate_clusters: false
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: named, match: {prefix: /named}, decorator: {operation: "a.svc:80/*"}, route: {cluster: a}}
    - {name: silent, match: {prefix: /silent}, decorator: {operation: silent, propagate: false}, route: {cluster: a}}
    - {name: direct, match: {prefix: /direct}, decorator: {operation: direct}, direct_response: {status: 200}}
    - {name: redirect, match: {prefix: /redirect}, decorator: {operation: redirect}, redirect: {path_redirect: /}}
    - {name: broken, match: {prefix: /broken}, decorator: {operation: broken}, route: {cluster: none}}
    - name: untraced
      match: {prefix: /untraced}
      decorator: {operation: untraced}
      tracing: {overall_sampling: {numerator: 0}}
      route: {cluster: a}
    - name: removed
      match: {prefix: /removed}
      decorator: {operation: removed}
      request_headers_to_remove: [x-envoy-decorator-operation]
      response_headers_to_remove: [x-envoy-decorator-operation]
      route: {cluster: a}
    - name: set
      match: {prefix: /set}
      decorator: {operation: set}
      request_headers_to_add: [{header: {key: x-envoy-decorator-operation, value: by-rule}}]
      response_headers_to_add: [{header: {key: x-envoy-decorator-operation, value: by-rule}}]
      route: {cluster: a}
    - name: followed
      match: {prefix: /followed}
      decorator: {operation: followed}
      route: {cluster: a, internal_redirect_policy: {}}
    - {name: plain, match: {prefix: /plain}, route: {cluster: a}}
"#;

/// Both headers of a client of this listener: with none, one, an empty and a second one.
macro_rules! asked {
    ($($listener:literal)*) => {
        [$(
            get(concat!($listener, ": named"), 200, "/named", "").on($listener),
            get(concat!($listener, ": named, and told"), 200, "/named", "x-envoy-decorator-operation: mine\n").on($listener),
            get(concat!($listener, ": named, and told nothing"), 200, "/named", "x-envoy-decorator-operation:\n").on($listener),
            get(concat!($listener, ": the upstream tells"), 200, "/named", "x-do: header=x-envoy-decorator-operation:theirs\n").on($listener),
            get(concat!($listener, ": kept to itself"), 200, "/silent", "").on($listener),
            get(concat!($listener, ": kept to itself, and told"), 200, "/silent", "x-envoy-decorator-operation: mine\n").on($listener),
            get(concat!($listener, ": kept to itself, and the upstream tells"), 200, "/silent", "x-do: header=x-envoy-decorator-operation:theirs\n").on($listener),
            get(concat!($listener, ": not named"), 200, "/plain", "").on($listener),
            get(concat!($listener, ": not named, and told"), 200, "/plain", "x-envoy-decorator-operation: mine\n").on($listener),
            get(concat!($listener, ": not named, and the upstream tells"), 200, "/plain", "x-do: header=x-envoy-decorator-operation:theirs\n").on($listener),
            get(concat!($listener, ": an answer of ours"), 200, "/direct", "").on($listener),
            get(concat!($listener, ": a redirect"), 301, "/redirect", "").on($listener),
            get(concat!($listener, ": no cluster"), 503, "/broken", "").on($listener),
            get(concat!($listener, ": no route"), 404, "/", "x-envoy-decorator-operation: mine\n").on($listener),
            get(concat!($listener, ": a route that is not traced"), 200, "/untraced", "").on($listener),
            get(concat!($listener, ": removed by rules"), 200, "/removed", "").on($listener),
            get(concat!($listener, ": set by rules"), 200, "/set", "").on($listener),
            get(concat!($listener, ": a redirect that is followed"), 302, "/followed", "x-do: status=302,header=location:http://parity.test/plain\n").on($listener).logs(2),
            get(concat!($listener, ": followed to another name"), 302, "/followed", "x-do: status=302,header=location:http://parity.test/named\n").on($listener).logs(2),
            get(concat!($listener, ": an upgrade that is refused"), 403, "/named", "connection: upgrade\nupgrade: websocket\n").on($listener),
        )*]
    };
}

/// Two lines of it.
macro_rules! twice {
    ($($listener:literal)*) => {
        [$(
            get(
                concat!($listener, ": told twice"),
                200,
                "/named",
                "x-envoy-decorator-operation: a\nx-envoy-decorator-operation: b\n",
            )
            .on($listener),
        )*]
    };
}

pub fn world() -> World {
    let towards = |name, direction: &str, fields: &str| {
        let towards = format!("    traffic_direction: {direction}\n    filter_chains:");
        listener(name, &format!("{fields}\n{ROUTES}")).replacen("    filter_chains:", &towards, 1)
    };
    let listeners = [
        towards("client", "OUTBOUND", "tracing: {}"),
        towards("server", "INBOUND", "tracing: {}"),
        listener("neither", &format!("tracing: {{}}\n{ROUTES}")),
        towards("sampled", "OUTBOUND", "tracing: {overall_sampling: {value: 0}}"),
        towards("edge", "INBOUND", "use_remote_address: true\ntracing: {}"),
        towards("untraced", "OUTBOUND", ""),
    ];
    World {
        name: "operations",
        yaml: bootstrap(&listeners, &[cluster("a", &["{{a}}"], "")]),
        cases: asked!["client" "server" "neither" "sampled" "edge" "untraced"]
            .into_iter()
            .chain(twice!["client" "server"])
            .collect(),
        stats: &["http.client.downstream_rq", "http.server.downstream_rq"],
    }
}
