//! Operators without parameters, in one table.

mod more;

use std::time::Duration;

use super::operator::put;
use super::view::LogView;
use crate::runtime::io::Address;
use crate::tls::PeerInfo;

/// How an operator gets its value.
#[derive(Clone, Copy)]
pub(super) enum Simple {
    Number(fn(&LogView<'_>) -> Option<u64>),
    Text(fn(&LogView<'_>, &mut Vec<u8>) -> bool),
}

/// The operator of that name, if it needs no parameter.
pub(super) fn find(name: &str) -> Option<Simple> {
    TABLE
        .iter()
        .chain(more::TABLE)
        .find(|(known, _)| *known == name)
        .map(|(_, simple)| *simple)
}

impl Simple {
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Number(_))
    }

    pub(super) fn write(self, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Number(of) => of(view).is_some_and(|value| number(out, value)),
            Self::Text(write) => write(view, out),
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
        "RESPONSE_CODE_DETAILS",
        Text(|v, out| underscored(out, Some(v.details).filter(|details| !details.is_empty()))),
    ),
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
    ("RESPONSE_HEADERS_BYTES", Number(|v| Some(v.bytes.response_headers))),
    (
        "DOWNSTREAM_HEADER_BYTES_RECEIVED",
        Number(|v| Some(v.bytes.request_headers)),
    ),
    (
        "DOWNSTREAM_HEADER_BYTES_SENT",
        Number(|v| Some(v.bytes.response_headers)),
    ),
    ("DURATION", Number(|v| Some(millis(v.duration())))),
    ("REQUEST_DURATION", Number(|v| v.timing.request_end.map(millis))),
    ("REQUEST_TX_DURATION", Number(|v| v.timing.last_upstream_tx.map(millis))),
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
    (
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Text(|v, out| without_port(out, remote(v))),
    ),
    ("UPSTREAM_REMOTE_PORT", Number(|v| port(remote(v)))),
    (
        "UPSTREAM_LOCAL_ADDRESS",
        Text(|v, out| address(out, v.upstream.local.as_ref())),
    ),
    (
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Text(|v, out| without_port(out, v.upstream.local.as_ref())),
    ),
    ("UPSTREAM_LOCAL_PORT", Number(|v| port(v.upstream.local.as_ref()))),
    (
        "UPSTREAM_CLUSTER",
        Text(|v, out| put(out, v.cluster.map(str::as_bytes))),
    ),
    (
        "UPSTREAM_CLUSTER_RAW",
        Text(|v, out| put(out, v.cluster.map(str::as_bytes))),
    ),
    ("UPSTREAM_CONNECTION_ID", Number(|v| v.upstream.connection_id)),
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
    (
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Text(|v, out| without_port(out, Some(v.remote))),
    ),
    ("DOWNSTREAM_REMOTE_PORT", Number(|v| port(Some(v.remote)))),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        Text(|v, out| address(out, Some(&v.connection.direct_remote))),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        Text(|v, out| without_port(out, Some(&v.connection.direct_remote))),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_PORT",
        Number(|v| port(Some(&v.connection.direct_remote))),
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS",
        Text(|v, out| address(out, Some(&v.connection.local))),
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Text(|v, out| without_port(out, Some(&v.connection.local))),
    ),
    ("DOWNSTREAM_LOCAL_PORT", Number(|v| port(Some(&v.connection.local)))),
    (
        "REQUESTED_SERVER_NAME",
        Text(|v, out| put(out, v.connection.sni.as_ref().map(|sni| sni.as_bytes()))),
    ),
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
                    .and_then(|x| x.headers().get("x-request-id"))
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
    (
        "DOWNSTREAM_PEER_URI_SAN",
        Text(|v, out| list(out, down(v).map(|tls| tls.uri_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_PEER_DNS_SAN",
        Text(|v, out| list(out, down(v).map(|tls| tls.dns_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_PEER_SUBJECT",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.subject.as_ref()))),
    ),
    (
        "DOWNSTREAM_PEER_ISSUER",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.issuer.as_ref()))),
    ),
    (
        "DOWNSTREAM_PEER_SERIAL",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.serial.as_ref()))),
    ),
    (
        "DOWNSTREAM_PEER_FINGERPRINT_256",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.sha256.as_ref()))),
    ),
    ("DOWNSTREAM_PEER_CERT", Text(peer_cert)),
    (
        "DOWNSTREAM_LOCAL_URI_SAN",
        Text(|v, out| list(out, down(v).map(|tls| tls.local_uri_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_LOCAL_DNS_SAN",
        Text(|v, out| list(out, down(v).map(|tls| tls.local_dns_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_LOCAL_SUBJECT",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.local_subject.as_ref()))),
    ),
    (
        "DOWNSTREAM_TLS_VERSION",
        Text(|v, out| put(out, down(v).map(|tls| tls.version.as_bytes()))),
    ),
    (
        "DOWNSTREAM_TLS_CIPHER",
        Text(|v, out| put(out, down(v).map(|tls| tls.cipher.as_bytes()))),
    ),
    (
        "UPSTREAM_PEER_URI_SAN",
        Text(|v, out| list(out, up(v).map(|tls| tls.uri_sans.as_slice()))),
    ),
    (
        "UPSTREAM_PEER_DNS_SAN",
        Text(|v, out| list(out, up(v).map(|tls| tls.dns_sans.as_slice()))),
    ),
    (
        "UPSTREAM_PEER_SUBJECT",
        Text(|v, out| text(out, up(v).and_then(|tls| tls.subject.as_ref()))),
    ),
    (
        "UPSTREAM_PEER_ISSUER",
        Text(|v, out| text(out, up(v).and_then(|tls| tls.issuer.as_ref()))),
    ),
    (
        "UPSTREAM_LOCAL_URI_SAN",
        Text(|v, out| list(out, up(v).map(|tls| tls.local_uri_sans.as_slice()))),
    ),
    (
        "UPSTREAM_LOCAL_DNS_SAN",
        Text(|v, out| list(out, up(v).map(|tls| tls.local_dns_sans.as_slice()))),
    ),
    (
        "UPSTREAM_LOCAL_SUBJECT",
        Text(|v, out| text(out, up(v).and_then(|tls| tls.local_subject.as_ref()))),
    ),
    (
        "UPSTREAM_TLS_VERSION",
        Text(|v, out| put(out, up(v).map(|tls| tls.version.as_bytes()))),
    ),
    (
        "UPSTREAM_TLS_CIPHER",
        Text(|v, out| put(out, up(v).map(|tls| tls.cipher.as_bytes()))),
    ),
];

/// A moment of a stream, for `COMMON_DURATION`.
#[derive(Clone, Copy)]
pub(super) enum Point {
    DownstreamRxBegin,
    DownstreamRxEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
}

impl Point {
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "DS_RX_BEG" => Self::DownstreamRxBegin,
            "DS_RX_END" => Self::DownstreamRxEnd,
            "US_TX_BEG" => Self::UpstreamTxBegin,
            "US_TX_END" => Self::UpstreamTxEnd,
            "US_RX_BEG" => Self::UpstreamRxBegin,
            "US_RX_END" => Self::UpstreamRxEnd,
            "DS_TX_BEG" => Self::DownstreamTxBegin,
            "DS_TX_END" => Self::DownstreamTxEnd,
            other => return Err(format!("%COMMON_DURATION% does not know the time point {other}")),
        })
    }

    pub(super) fn of(self, view: &LogView<'_>) -> Option<Duration> {
        let timing = &view.timing;
        match self {
            Self::DownstreamRxBegin => Some(Duration::ZERO),
            Self::DownstreamRxEnd => timing.request_end,
            Self::UpstreamTxBegin => timing.first_upstream_tx,
            Self::UpstreamTxEnd => timing.last_upstream_tx,
            Self::UpstreamRxBegin => timing.first_upstream_rx,
            Self::UpstreamRxEnd => timing.last_upstream_rx,
            Self::DownstreamTxBegin => timing.first_downstream_tx,
            Self::DownstreamTxEnd => timing.end,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn down<'a>(view: &LogView<'a>) -> Option<&'a PeerInfo> {
    view.connection.tls.as_deref()
}

fn up<'a>(view: &LogView<'a>) -> Option<&'a PeerInfo> {
    view.upstream.tls.as_deref()
}

fn text(out: &mut Vec<u8>, value: Option<&String>) -> bool {
    put(out, value.map(String::as_bytes))
}

fn list(out: &mut Vec<u8>, values: Option<&[String]>) -> bool {
    put(out, values.map(|values| values.join(",")).as_deref().map(str::as_bytes))
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
    value.is_some_and(|value| write!(out, "{value}").is_ok())
}

fn without_port(out: &mut Vec<u8>, value: Option<&Address>) -> bool {
    use std::io::Write;
    match value {
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

fn peer_cert(view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
    let certificate = down(view).and_then(|tls| tls.certificate.as_ref());
    let pem = certificate.map(|der| crate::http::header_policy::xfcc::url_encoded_pem(der));
    put(out, pem.as_deref().map(str::as_bytes))
}
