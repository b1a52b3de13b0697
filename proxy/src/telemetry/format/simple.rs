//! Operators without parameters, in one table.

mod close;
mod more;
mod tls;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::operator::put;
use super::view::LogView;
use crate::runtime::io::Address;

/// How an operator gets its value.
#[derive(Clone, Copy)]
pub(super) enum Simple {
    Number(fn(&LogView<'_>) -> Option<u64>),
    Text(fn(&LogView<'_>, &mut Vec<u8>) -> bool),
    /// A number that is counted from the response's headers or trailers.
    OfResponse(fn(&LogView<'_>) -> Option<u64>),
    /// How a connection was closed.
    Closing(fn(&LogView<'_>) -> Option<&'static str>),
    /// A number that [`UpstreamMeter`](crate::http::codec::UpstreamMeter) counts.
    Metered(fn(&LogView<'_>) -> Option<u64>),
}

/// Which address an operator prints.
pub(super) type AddressOf = for<'a> fn(&LogView<'a>) -> Option<&'a Address>;
/// Which moment an operator prints.
pub(super) type MomentOf = fn(&LogView<'_>) -> Option<std::time::SystemTime>;

/// The operator of that name, if it needs no parameter.
pub(super) fn find(name: &str) -> Option<Simple> {
    TABLE
        .iter()
        .chain(close::TABLE)
        .chain(more::TABLE)
        .chain(tls::TABLE)
        .chain(wire::TABLE)
        .find(|(known, _)| *known == name)
        .map(|(_, simple)| *simple)
}

impl Simple {
    pub(super) fn is_number(self) -> bool {
        !matches!(self, Self::Text(_) | Self::Closing(_))
    }

    pub(super) fn needs_response(self) -> bool {
        matches!(self, Self::OfResponse(_))
    }

    pub(super) fn write(self, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Number(of) | Self::OfResponse(of) | Self::Metered(of) => {
                of(view).is_some_and(|value| number(out, value))
            }
            Self::Text(write) => write(view, out),
            Self::Closing(of) => put(out, of(view).map(str::as_bytes)),
        }
    }
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    true
}

use Simple::{Number, Text};

const TABLE: &[(&str, Simple)] = &[
    (
        "PROTOCOL",
        Text(|v, out| put(out, v.exchange.map(|x| x.protocol.as_str().as_bytes()))),
    ),
    (
        "UPSTREAM_PROTOCOL",
        Text(|v, out| put(out, v.upstream.protocol.map(|p| p.as_str().as_bytes()))),
    ),
    ("RESPONSE_CODE", Number(|v| Some(u64::from(v.response_code())))),
    (
        "CONNECTION_TERMINATION_DETAILS",
        Text(|v, out| put(out, Some(v.termination.as_bytes()))),
    ),
    (
        "RESPONSE_FLAGS",
        Text(|v, out| put(out, Some(v.flags.short().as_bytes()))),
    ),
    (
        "RESPONSE_FLAGS_LONG",
        Text(|v, out| put(out, Some(v.flags.long().as_bytes()))),
    ),
    ("BYTES_RECEIVED", Number(|v| Some(v.bytes.received))),
    ("BYTES_SENT", Number(|v| Some(v.bytes.sent))),
    ("DURATION", Number(|v| Some(millis(v.duration())))),
    ("REQUEST_DURATION", Number(|v| v.timing.request_end.map(millis))),
    (
        "REQUEST_TX_DURATION",
        Number(|v| v.timing.last_upstream_tx().map(millis)),
    ),
    ("RESPONSE_DURATION", Number(|v| v.timing.first_upstream_rx.map(millis))),
    (
        "RESPONSE_TX_DURATION",
        Number(|v| Some(millis(v.timing.end?.checked_sub(v.timing.first_upstream_rx?)?))),
    ),
    (
        "ROUTE_NAME",
        Text(|v, out| {
            put(
                out,
                v.exchange.and_then(|x| Some(x.route.route.as_ref()?.name.as_bytes())),
            )
        }),
    ),
    ("VIRTUAL_CLUSTER_NAME", Text(virtual_cluster)),
    (
        "UPSTREAM_HOST",
        Text(|v, out| address(out, v.upstream.host.as_ref().map(|host| &host.address))),
    ),
    ("UPSTREAM_HOST_NAME", Text(|v, out| host_name(v, out, false))),
    (
        "UPSTREAM_HOST_NAME_WITHOUT_PORT",
        Text(|v, out| host_name(v, out, true)),
    ),
    ("UPSTREAM_REMOTE_ADDRESS", Text(|v, out| address(out, remote(v)))),
    ("UPSTREAM_REMOTE_PORT", Number(|v| port(remote(v)))),
    (
        "UPSTREAM_LOCAL_ADDRESS",
        Text(|v, out| address(out, v.upstream.local.as_ref())),
    ),
    ("UPSTREAM_LOCAL_PORT", Number(|v| port(v.upstream.local.as_ref()))),
    (
        "UPSTREAM_CLUSTER",
        Text(|v, out| put(out, v.cluster.map(|cluster| cluster.shown_name.as_bytes()))),
    ),
    (
        "UPSTREAM_CLUSTER_RAW",
        Text(|v, out| put(out, v.cluster.map(|cluster| cluster.name.as_bytes()))),
    ),
    (
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        Text(|v, out| underscored(out, v.upstream.failure_reason.as_deref())),
    ),
    (
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        Text(|v, out| underscored(out, v.downstream_failure)),
    ),
    (
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        Number(|v| Some(u64::from(v.upstream.attempts))),
    ),
    ("DOWNSTREAM_REMOTE_ADDRESS", Text(|v, out| address(out, Some(v.remote)))),
    ("DOWNSTREAM_REMOTE_PORT", Number(|v| port(Some(v.remote)))),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        Text(|v, out| address(out, Some(&v.connection.direct_remote))),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_PORT",
        Number(|v| port(Some(&v.connection.direct_remote))),
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS",
        Text(|v, out| address(out, Some(&v.connection.local))),
    ),
    ("DOWNSTREAM_LOCAL_PORT", Number(|v| port(Some(&v.connection.local)))),
    ("CONNECTION_ID", Number(|v| Some(v.connection.id))),
    (
        "FILTER_CHAIN_NAME",
        Text(|v, out| put(out, Some(v.connection.filter_chain_name.as_bytes()))),
    ),
    (
        "STREAM_ID",
        Text(|v, out| {
            put(
                out,
                v.exchange
                    .and_then(|x| x.headers().get(crate::http::header_policy::X_REQUEST_ID))
                    .map(http::HeaderValue::as_bytes),
            )
        }),
    ),
    (
        "UNIQUE_ID",
        Text(|_, out| {
            put(
                out,
                Some(crate::http::header_policy::request_id::generate(fastrand::u128(..)).as_bytes()),
            )
        }),
    ),
    (
        "ACCESS_LOG_TYPE",
        Text(|v, out| put(out, Some(v.log_type.as_str().as_bytes()))),
    ),
];

/// A moment of a stream, for `COMMON_DURATION`.
#[derive(Clone, Copy)]
pub(super) enum Point {
    DownstreamConnected,
    DownstreamSecured,
    DownstreamRxBegin,
    DownstreamRxEnd,
    UpstreamConnectBegin,
    UpstreamConnectEnd,
    UpstreamSecured,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxBodyBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
    /// What a filter would have to set, and none does; or what is not over when a line is written.
    Unset,
}

impl Point {
    pub(super) fn parse(name: &str) -> Self {
        match name {
            "DS_CX_BEG" => Self::DownstreamConnected,
            "DS_HS_END" => Self::DownstreamSecured,
            // The head of a request is complete when it is known that there is one.
            "DS_RX_BEG" | "DS_RX_HDR_END" => Self::DownstreamRxBegin,
            "DS_RX_END" => Self::DownstreamRxEnd,
            "US_CX_BEG" => Self::UpstreamConnectBegin,
            "US_CX_END" => Self::UpstreamConnectEnd,
            "US_HS_END" => Self::UpstreamSecured,
            "US_TX_BEG" => Self::UpstreamTxBegin,
            "US_TX_END" => Self::UpstreamTxEnd,
            "US_RX_BEG" => Self::UpstreamRxBegin,
            "US_RX_BODY_BEG" => Self::UpstreamRxBodyBegin,
            "US_RX_END" => Self::UpstreamRxEnd,
            "DS_TX_BEG" => Self::DownstreamTxBegin,
            "DS_TX_END" => Self::DownstreamTxEnd,
            _ => Self::Unset,
        }
    }

    /// Whether it is only kept where a log asks for it.
    pub(super) fn needs_upstream_meter(self) -> bool {
        matches!(self, Self::UpstreamRxBodyBegin | Self::UpstreamRxEnd)
    }

    pub(super) fn of(self, view: &LogView<'_>) -> Option<Instant> {
        let timing = &view.timing;
        let upstream = || view.upstream.connected;
        let metered = || Some(view.upstream.meter.as_ref()?.read()).filter(|_| timing.first_upstream_rx.is_some());
        let after = match self {
            Self::DownstreamConnected => return Some(view.connection.accepted_at),
            Self::DownstreamSecured => return view.connection.secured_at,
            Self::UpstreamConnectBegin => return upstream().map(|times| times.begun),
            Self::UpstreamConnectEnd => return upstream().map(|times| times.connected),
            Self::UpstreamSecured => return upstream()?.secured,
            Self::UpstreamRxBodyBegin => return metered()?.body_began,
            Self::UpstreamRxEnd => return metered()?.body_ended,
            Self::Unset => None,
            Self::DownstreamRxBegin => Some(Duration::ZERO),
            Self::DownstreamRxEnd => timing.request_end,
            Self::UpstreamTxBegin => timing.first_upstream_tx,
            Self::UpstreamTxEnd => timing.last_upstream_tx(),
            Self::UpstreamRxBegin => timing.first_upstream_rx,
            Self::DownstreamTxBegin => timing.first_downstream_tx,
            Self::DownstreamTxEnd => timing.end,
        };
        Some(view.started + after?)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reasons are one word in a log: blanks become underscores.
fn underscored(out: &mut Vec<u8>, value: Option<&str>) -> bool {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return false;
    };
    out.extend(
        value
            .bytes()
            .map(|byte| if byte.is_ascii_whitespace() { b'_' } else { byte }),
    );
    true
}

fn address(out: &mut Vec<u8>, value: Option<&Address>) -> bool {
    use std::io::Write;
    match value {
        Some(Address::Ip(SocketAddr::V4(value))) => {
            octets(out, *value.ip());
            out.push(b':');
            number(out, u64::from(value.port()))
        }
        Some(value) => write!(out, "{value}").is_ok(),
        None => false,
    }
}

/// As `Display` writes it, at a fraction of the cost: most lines have several.
fn octets(out: &mut Vec<u8>, address: Ipv4Addr) {
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        number(out, u64::from(octet));
    }
}

fn without_port(out: &mut Vec<u8>, value: Option<&Address>) -> bool {
    use std::io::Write;
    match value {
        Some(Address::Ip(SocketAddr::V4(value))) => {
            octets(out, *value.ip());
            true
        }
        Some(Address::Ip(value)) => write!(out, "{}", value.ip()).is_ok(),
        other => address(out, other),
    }
}

fn port(value: Option<&Address>) -> Option<u64> {
    value?.ip().map(|value| u64::from(value.port()))
}

/// Where the last connection leads, if there was one.
fn remote<'a>(view: &LogView<'a>) -> Option<&'a Address> {
    let host = view.upstream.host.as_ref()?;
    let is_reached =
        |reached: &std::sync::Arc<crate::cluster::Host>| std::sync::Arc::ptr_eq(&reached.state, &host.state);
    view.upstream.reached.iter().any(is_reached).then_some(&host.address)
}

fn host_name(view: &LogView<'_>, out: &mut Vec<u8>, cut_port: bool) -> bool {
    let Some(host) = &view.upstream.host else { return false };
    if host.hostname.is_empty() {
        return if cut_port {
            without_port(out, Some(&host.address))
        } else {
            address(out, Some(&host.address))
        };
    }
    let name = host.hostname.as_bytes();
    let end = crate::route::table::port_start(name)
        .filter(|_| cut_port)
        .unwrap_or(name.len());
    put(out, Some(&name[..end]))
}

fn virtual_cluster(view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
    let kind = view
        .exchange
        .and_then(|exchange| exchange.route.virtual_cluster.as_ref());
    put(
        out,
        kind.filter(|kind| !kind.is_rest()).map(|kind| kind.name.as_bytes()),
    )
}

/// `…_WITHOUT_PORT` operators: addresses that may be masked.
pub(super) fn address_of(name: &str) -> Option<AddressOf> {
    Some(match name {
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => |v| remote(v),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => |v| v.upstream.local.as_ref(),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => |v| Some(v.remote),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => |v| Some(&v.connection.direct_remote),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => |v| Some(&v.connection.local),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT" => |v| Some(v.connection.direct_local()),
        _ => return None,
    })
}

pub(super) use tls::validity_of;

/// An address without its port, or the network it is in.
pub(super) fn masked(out: &mut Vec<u8>, value: Option<&Address>, bits: Option<u8>) -> bool {
    use std::io::Write;
    match (value.and_then(Address::ip), bits) {
        (Some(address), Some(bits)) => {
            let widest = if address.is_ipv4() { 32 } else { 128 };
            let network = ipnet::IpNet::new(address.ip(), bits.min(widest));
            network.is_ok_and(|network| write!(out, "{}", network.trunc()).is_ok())
        }
        _ => without_port(out, value),
    }
}

/// `RESPONSE_CODE_DETAILS`
pub(super) fn details(view: &LogView<'_>, blanks: bool, out: &mut Vec<u8>) -> bool {
    let details = Some(view.details).filter(|details| !details.is_empty());
    match blanks {
        true => put(out, details.map(str::as_bytes)),
        false => underscored(out, details),
    }
}

/// `QUERY_PARAMS`
pub(super) fn queries(view: &LogView<'_>, decoded: bool, out: &mut Vec<u8>) -> bool {
    let request = view.exchange.map(crate::route::RequestView::of);
    let target = request.as_ref().and_then(|request| request.path_and_query());
    let Some((_, query)) = target.and_then(|target| target.split_once('?')) else {
        return false;
    };
    match decoded {
        true => decode(query.as_bytes(), out),
        false => out.extend_from_slice(query.as_bytes()),
    }
    !query.is_empty()
}

/// Envoy's: what would not be visible stays encoded, and what is no encoding loses its `%`.
fn decode(mut text: &[u8], out: &mut Vec<u8>) {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    while let [first, rest @ ..] = text {
        text = rest;
        let (b'%', [high, low, behind @ ..]) = (*first, rest) else {
            out.push(*first);
            continue;
        };
        let Some((high, low)) = digit(*high).zip(digit(*low)) else {
            continue;
        };
        match u8::try_from(high * 16 + low) {
            Ok(byte) if byte.is_ascii_graphic() => {
                out.push(byte);
                text = behind;
            }
            _ => out.push(b'%'),
        }
    }
}
