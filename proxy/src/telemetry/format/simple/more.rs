//! The rarer operators without parameters: hosts of every attempt, and what only other builds of Envoy fill.

use super::{LogView, Simple, address, millis, number, port, put, remote, without_port};
use Simple::{Number, Text};

use crate::cluster::Host;

pub(super) const TABLE: &[(&str, Simple)] = &[
    ("LOCAL_REPLY_BODY", Text(local_reply)),
    (
        "LISTENER_NAME",
        Text(|v, out| put(out, Some(v.connection.listener_name.as_bytes()))),
    ),
    (
        "ROUTE_RESOLUTION_COUNT",
        Number(|v| Some(u64::from(v.exchange.map_or(0, |exchange| exchange.route.selections)))),
    ),
    ("ROUTE_RESOLUTION_TIME_US", Number(resolution)),
    (
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
        Text(|v, out| address(out, Some(v.connection.direct_local()))),
    ),
    (
        "DOWNSTREAM_DIRECT_LOCAL_PORT",
        Number(|v| port(Some(v.connection.direct_local()))),
    ),
    // Addresses of internal listeners have no endpoint id here; others have none anywhere, and print as nothing.
    ("DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID", Text(|_, _| true)),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID", Text(|_, _| true)),
    ("UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID", Text(|v, _| remote(v).is_some())),
    (
        "UPSTREAM_CONNECTION_ID",
        Number(|v| Some(v.upstream.connection_ids.last().copied().unwrap_or(0))),
    ),
    ("UPSTREAM_CONNECTION_IDS_ATTEMPTED", Text(connection_ids)),
    (
        "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        Number(|v| v.timing.pool_ready.map(millis)),
    ),
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
    ("ROUNDTRIP_DURATION", Number(|_| None)),
    // Nothing is traced.
    ("TRACE_ID", Text(|_, _| false)),
    ("SPAN_ID", Text(|_, _| false)),
    // What filters of other builds set.
    ("CUSTOM_FLAGS", Text(|_, _| true)),
];

/// Microseconds; none where no route was looked for.
fn resolution(view: &LogView<'_>) -> Option<u64> {
    let spent = view.exchange?.route.resolution?;
    Some(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX))
}

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

fn connection_ids(view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for id in &view.upstream.connection_ids {
        if out.len() > start {
            out.push(b',');
        }
        number(out, *id);
    }
    out.len() > start
}
