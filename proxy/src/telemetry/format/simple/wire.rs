//! Operators that count bytes: of headers as they stand, and of what connections carried.
//!
//! HTTP/1 is counted as it is on the wire. HTTP/2's codec keeps to itself what its header compression makes of a block: there, headers
//! count uncompressed and frames without their heads.

use http::{HeaderMap, StatusCode};

use super::{LogView, Simple};
use Simple::{Metered, Number, OfResponse};

use crate::http::exchange::{Exchange, Protocol};

pub(super) const TABLE: &[(&str, Simple)] = &[
    ("REQUEST_HEADERS_BYTES", Number(request_headers_bytes)),
    (
        "RESPONSE_HEADERS_BYTES",
        OfResponse(|v| Some(response_headers_bytes(v))),
    ),
    (
        "RESPONSE_TRAILERS_BYTES",
        OfResponse(|v| Some(v.trailers.map_or(0, size))),
    ),
    (
        "DOWNSTREAM_HEADER_BYTES_RECEIVED",
        Number(|v| Some(v.bytes.request_lines)),
    ),
    (
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
        Number(|v| Some(v.bytes.request_lines)),
    ),
    (
        "DOWNSTREAM_HEADER_BYTES_SENT",
        OfResponse(|v| Some(header_bytes_sent(v))),
    ),
    (
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
        OfResponse(|v| Some(header_bytes_sent(v))),
    ),
    (
        "DOWNSTREAM_WIRE_BYTES_RECEIVED",
        Number(|v| {
            Some(match protocol(v) {
                None => v.bytes.received,
                Some(Protocol::Http2) => v.bytes.request_lines + v.bytes.received,
                Some(_) => v.bytes.wire_received,
            })
        }),
    ),
    (
        "DOWNSTREAM_WIRE_BYTES_SENT",
        OfResponse(|v| {
            Some(match protocol(v) {
                None => v.bytes.sent,
                Some(Protocol::Http2) => header_bytes_sent(v) + v.bytes.sent,
                Some(_) => v.bytes.wire_sent,
            })
        }),
    ),
    (
        "UPSTREAM_HEADER_BYTES_SENT",
        Metered(|v| upstream(v, |meter| meter.header_sent)),
    ),
    (
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
        Metered(|v| upstream(v, |meter| meter.header_sent)),
    ),
    (
        "UPSTREAM_HEADER_BYTES_RECEIVED",
        Metered(|v| upstream(v, |meter| meter.header_received)),
    ),
    (
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
        Metered(|v| upstream(v, |meter| meter.header_received)),
    ),
    (
        "UPSTREAM_WIRE_BYTES_SENT",
        Metered(|v| match protocol(v) {
            None => Some(v.bytes.received),
            Some(_) => upstream(v, |meter| match v.upstream.protocol {
                Some(Protocol::Http2) => meter.header_sent + v.bytes.received,
                _ => meter.wire_sent,
            }),
        }),
    ),
    (
        "UPSTREAM_WIRE_BYTES_RECEIVED",
        Metered(|v| match protocol(v) {
            None => Some(v.bytes.sent),
            Some(_) => upstream(v, |meter| match v.upstream.protocol {
                Some(Protocol::Http2) => meter.header_received + v.bytes.sent,
                _ => meter.wire_received,
            }),
        }),
    ),
];

fn upstream(view: &LogView<'_>, of: impl Fn(crate::http::codec::Metered) -> u64) -> Option<u64> {
    Some(view.upstream.meter.as_ref().map_or(0, |meter| of(meter.read())))
}

/// `None`: a connection without HTTP, whose bytes on the wire are those that a TCP proxy takes and gives, as Envoy counts them: TLS is none of
/// them.
fn protocol(view: &LogView<'_>) -> Option<Protocol> {
    view.exchange.map(|exchange| exchange.protocol)
}

/// Names and values alone.
fn size(headers: &HeaderMap) -> u64 {
    crate::http::codec::header_bytes(headers)
}

/// With `:status`, if there was a response.
fn response_headers_bytes(view: &LogView<'_>) -> u64 {
    let status = view.exchange.and_then(|exchange| exchange.response_code);
    let status = status.map_or(0, |_| ":status".len() as u64 + 3);
    status + view.response.map_or(0, size)
}

/// The lines of the response's head, of HTTP/1 without the first and the last.
fn header_bytes_sent(view: &LogView<'_>) -> u64 {
    let status = view.exchange.and_then(|exchange: &Exchange| exchange.response_code);
    let Some(status) = status else { return 0 };
    if protocol(view) == Some(Protocol::Http2) {
        return response_headers_bytes(view);
    }
    view.bytes.response_headers.saturating_sub(first_line(status) + 2)
}

/// `HTTP/1.1 200 OK` and its end.
fn first_line(status: StatusCode) -> u64 {
    let reason = status.canonical_reason().unwrap_or_default();
    "HTTP/1.1 200 ".len() as u64 + reason.len() as u64 + 2
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
