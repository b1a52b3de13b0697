//! The rarer operators without parameters: hosts of every attempt, and what only other builds of Envoy fill.

use super::{LogView, Simple, address, put, without_port};
use Simple::{Number, Text};

use crate::cluster::Host;

pub(super) const TABLE: &[(&str, Simple)] = &[
    ("LOCAL_REPLY_BODY", Text(local_reply)),
    (
        "UPSTREAM_HOSTS_ATTEMPTED",
        Text(|v, out| attempted(v, out, |host, out| address(out, Some(&host.address)))),
    ),
    (
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
        Text(|v, out| attempted(v, out, |host, out| without_port(out, Some(&host.address)))),
    ),
    (
        "UPSTREAM_HOST_NAMES_ATTEMPTED",
        Text(|v, out| attempted(v, out, |host, out| put(out, Some(host.hostname.as_bytes())))),
    ),
    (
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
        Text(|v, out| attempted(v, out, |host, out| put(out, Some(name_alone(&host.hostname).as_bytes())))),
    ),
    // QUIC alone can tell.
    ("BYTES_RETRANSMITTED", Number(|_| Some(0))),
    ("PACKETS_RETRANSMITTED", Number(|_| Some(0))),
    // A connection whose handshake failed has no streams, and nothing is traced.
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", Text(|_, _| false)),
    ("TRACE_ID", Text(|_, _| false)),
    ("SPAN_ID", Text(|_, _| false)),
    // What filters of other builds set.
    ("CUSTOM_FLAGS", Text(|_, _| false)),
];

/// An answer without a body prints as nothing, not as missing.
fn local_reply(view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(view.local_reply);
    true
}

/// One entry per attempt, in their order.
fn attempted(view: &LogView<'_>, out: &mut Vec<u8>, print: fn(&Host, &mut Vec<u8>) -> bool) -> bool {
    // Attempts that may be followed by another are remembered; a lone one is just the host.
    let earlier = &view.upstream.attempted;
    let hosts = if earlier.is_empty() {
        view.upstream.host.as_slice()
    } else {
        earlier.as_slice()
    };
    let start = out.len();
    for host in hosts {
        let before = out.len();
        if before > start {
            out.push(b',');
        }
        if !print(host, out) {
            out.truncate(before);
        }
    }
    out.len() > start
}

fn name_alone(hostname: &str) -> &str {
    let end = crate::route::table::port_start(hostname.as_bytes()).unwrap_or(hostname.len());
    &hostname[..end]
}
