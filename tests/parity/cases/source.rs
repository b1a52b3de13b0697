//! Where connections upstream come from: `original_src`. The client says in a PROXY header who it is; all of 127.0.0.0/8 is this machine, so
//! answers to a foreign address need no routes of their own. Binding to it needs root.

use super::{bootstrap, cluster};
use crate::harness::{Case, Wire, World};
use crate::tcp::Step::{self, End, Send};

const HEADER: &[u8] = b"PROXY TCP4 127.0.0.77 127.0.0.1 1000 443\r\n";

pub fn world() -> World {
    let kept = "{name: src, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc}}";
    let marked = kept.replace("OriginalSrc}", "OriginalSrc, mark: 77}");
    let bound = "upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}}";
    World {
        name: "source",
        yaml: bootstrap(
            &[
                listener("own", "", "peer"),
                listener("kept", kept, "peer"),
                listener("marked", &marked, "peer"),
                listener("own bound", "", "bound"),
                listener("kept bound", kept, "bound"),
            ],
            &[
                cluster("peer", &["{{peer}}"], ""),
                cluster("bound", &["{{peer}}"], bound),
            ],
        ),
        cases: vec![
            case("the proxy's own", "own", 9, TOLD),
            case("the client's", "kept", 10, TOLD),
            case("the client's, with a mark", "marked", 10, TOLD),
            case("the client's, without a header", "kept", 9, &[Send(b"hello"), End]),
            case("a configured one", "own bound", 9, TOLD),
            case("the client's before a configured one", "kept bound", 10, TOLD),
        ],
        stats: &["cluster.peer.upstream_cx_total", "cluster.bound.upstream_cx_total"],
    }
}

/// Not half a close at once: Envoy may take that for the client's leave while it still looks for the header.
const TOLD: &[Step] = &[Send(HEADER), End];

/// The status is the length of the address that the backend saw.
fn case(name: &'static str, listener: &'static str, status: u16, steps: &'static [Step]) -> Case {
    Case {
        name,
        listener,
        wire: Wire::Tcp(steps),
        status,
        logs: 0,
        seen: 0,
    }
}

fn listener(name: &str, filter: &str, cluster: &str) -> String {
    format!(
        r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    listener_filters:
    - name: pp
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol
        allow_requests_without_proxy_protocol: true
{}    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: source, cluster: {cluster}}}
"#,
        match filter {
            "" => String::new(),
            filter => format!("    - {filter}\n"),
        }
    )
}
