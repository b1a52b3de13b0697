//! The rarer operators without parameters: hosts of every attempt, and what only other builds of Envoy fill.

use super::{LogView, Simple, address, put, without_port};
use Simple::{Number, Text};

use crate::cluster::Host;

pub(super) const TABLE: &[(&str, Simple)] = &[
    ("LOCAL_REPLY_BODY", Text(local_reply)),
    ("REQUEST_HEADERS_BYTES", Number(request_headers_bytes)),
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
        Text(|v, out| attempted(v, out, |host, out| named(host, out, false))),
    ),
    (
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
        Text(|v, out| attempted(v, out, |host, out| named(host, out, true))),
    ),
    // QUIC alone can tell.
    ("BYTES_RETRANSMITTED", Number(|_| Some(0))),
    ("PACKETS_RETRANSMITTED", Number(|_| Some(0))),
    // A connection whose handshake failed has no streams, and nothing is traced.
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", Text(|_, _| false)),
    ("TRACE_ID", Text(|_, _| false)),
    ("SPAN_ID", Text(|_, _| false)),
    // What filters of other builds set.
    ("CUSTOM_FLAGS", Text(|_, _| true)),
];

/// An answer without a body prints as nothing, not as missing.
fn local_reply(view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(view.local_reply);
    true
}

/// One entry per host that a connection was there for, in the order of attempts.
fn attempted(view: &LogView<'_>, out: &mut Vec<u8>, print: fn(&Host, &mut Vec<u8>) -> bool) -> bool {
    let start = out.len();
    for host in &view.upstream.reached {
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

/// A host without a name goes by its address.
fn named(host: &Host, out: &mut Vec<u8>, cut_port: bool) -> bool {
    match (host.hostname.is_empty(), cut_port) {
        (true, false) => address(out, Some(&host.address)),
        (true, true) => without_port(out, Some(&host.address)),
        (false, false) => put(out, Some(host.hostname.as_bytes())),
        (false, true) => put(out, Some(name_alone(&host.hostname).as_bytes())),
    }
}

fn name_alone(hostname: &str) -> &str {
    let end = crate::route::table::port_start(hostname.as_bytes()).unwrap_or(hostname.len());
    &hostname[..end]
}

/// Names and values as they stand when the line is written, not what they took on the wire.
fn request_headers_bytes(view: &LogView<'_>) -> Option<u64> {
    let Some(exchange) = view.exchange else { return Some(0) };
    let request = crate::route::RequestView::of(exchange);
    let pseudo = [
        (":authority", exchange.authority.as_ref().map(http::HeaderValue::len)),
        (":method", Some(request.method.as_str().len())),
        (":path", request.path_and_query().map(str::len)),
        (":scheme", Some(request.scheme().len())),
    ];
    let pseudo = pseudo.into_iter().filter_map(|(name, value)| Some(name.len() + value?));
    let headers = exchange
        .headers()
        .iter()
        .filter(|(name, _)| *name != http::header::HOST);
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
    Some(pseudo.chain(headers).sum::<usize>() as u64)
}
