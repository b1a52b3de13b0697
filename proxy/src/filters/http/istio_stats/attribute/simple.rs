//! Attributes of two names, in one table.

use super::{Subject, bytes, code, shown, text};
use crate::filters::http::grpc_call::GrpcCall;
use crate::listener::Direction;
use crate::runtime::io::Address;
use crate::telemetry::format::{grpc_of_http, grpc_sent};

pub(in super::super) struct Simple {
    pub(super) name: &'static str,
    pub(super) is_text: bool,
    pub(super) of: Of,
}

/// Appends the value; `None`: there is none, and what was appended is not to be used.
type Of = fn(&Subject<'_>, &mut String) -> Option<()>;

/// The attribute of that name.
pub(super) fn find(name: &str) -> Option<&'static Simple> {
    SIMPLE.iter().find(|simple| simple.name == name)
}

fn port(out: &mut String, address: &Address) -> Option<()> {
    shown(out, address.ip()?.port())
}

fn named(subject: &Subject<'_>, name: http::HeaderName, out: &mut String) -> Option<()> {
    bytes(out, subject.view.exchange?.headers().get(name)?.as_bytes())
}

fn grpc_status(subject: &Subject<'_>, out: &mut String) -> Option<()> {
    let exchange = subject.view.exchange?;
    let call = exchange.extensions.get::<GrpcCall>();
    let sent = grpc_sent(&subject.view).or_else(|| call?.status());
    let status = sent.or_else(|| Some(grpc_of_http(exchange.response_code?.as_u16())));
    shown(out, status?)
}

fn first(out: &mut String, names: &[String]) -> Option<()> {
    text(out, names.first()?)
}

const fn string(name: &'static str, of: Of) -> Simple {
    let is_text = true;
    Simple { name, is_text, of }
}

const fn other(name: &'static str, of: Of) -> Simple {
    let is_text = false;
    Simple { name, is_text, of }
}

/// By name. What only an end of TLS has is there, though empty, once TLS is.
const SIMPLE: &[Simple] = &[
    string("request.path", |s, out| text(out, s.request()?.path_and_query()?)),
    string("request.url_path", |s, out| text(out, s.request()?.path()?)),
    string("request.query", |s, out| {
        text(out, s.request()?.query().unwrap_or_default())
    }),
    string("request.host", |s, out| bytes(out, s.request()?.authority?)),
    string("request.scheme", |s, out| text(out, s.request()?.scheme())),
    string("request.method", |s, out| text(out, s.request()?.method.as_str())),
    string("request.referer", |s, out| named(s, http::header::REFERER, out)),
    string("request.useragent", |s, out| named(s, http::header::USER_AGENT, out)),
    string("request.id", |s, out| {
        named(s, crate::http::header_policy::X_REQUEST_ID, out)
    }),
    string("request.protocol", |s, out| {
        text(out, s.view.exchange?.protocol.as_str())
    }),
    other("request.size", |s, out| shown(out, s.view.bytes.received)),
    other("response.code", code),
    string("response.code_details", |s, out| {
        let details = Some(s.view.details).filter(|details| !details.is_empty());
        text(out, &details?.replace(char::is_whitespace, "_"))
    }),
    other("response.flags", |s, out| shown(out, s.view.flags.bits())),
    other("response.grpc_status", grpc_status),
    other("response.size", |s, out| shown(out, s.view.bytes.sent)),
    string("source.address", |s, out| shown(out, s.view.remote)),
    other("source.port", |s, out| port(out, s.view.remote)),
    string("destination.address", |s, out| shown(out, &s.view.connection.local)),
    other("destination.port", |s, out| port(out, &s.view.connection.local)),
    other("connection.id", |s, out| shown(out, s.view.connection.id)),
    other("connection.mtls", |s, out| {
        shown(out, s.down().is_some_and(|tls| tls.certificate.is_some()))
    }),
    string("connection.requested_server_name", |s, out| {
        text(out, s.view.connection.sni.as_deref().unwrap_or_default())
    }),
    string("connection.tls_version", |s, out| text(out, s.down()?.version)),
    string("connection.subject_local_certificate", |s, out| {
        text(out, s.down()?.local_subject.as_deref().unwrap_or_default())
    }),
    string("connection.subject_peer_certificate", |s, out| {
        text(out, s.down()?.subject.as_deref().unwrap_or_default())
    }),
    string("connection.dns_san_local_certificate", |s, out| {
        first(out, &s.down()?.local_dns_sans)
    }),
    string("connection.dns_san_peer_certificate", |s, out| {
        first(out, &s.down()?.dns_sans)
    }),
    string("connection.uri_san_local_certificate", |s, out| {
        first(out, &s.down()?.local_uri_sans)
    }),
    string("connection.uri_san_peer_certificate", |s, out| {
        first(out, &s.down()?.uri_sans)
    }),
    string("connection.sha256_peer_certificate_digest", |s, out| {
        text(out, s.down()?.sha256.as_deref()?)
    }),
    string("connection.transport_failure_reason", |s, out| {
        text(out, s.view.downstream_failure?)
    }),
    string("connection.termination_details", |s, out| {
        text(out, Some(s.view.termination).filter(|details| !details.is_empty())?)
    }),
    string("upstream.address", |s, out| {
        shown(out, &s.view.upstream.host.as_ref()?.address)
    }),
    other("upstream.port", |s, out| {
        port(out, &s.view.upstream.host.as_ref()?.address)
    }),
    string("upstream.local_address", |s, out| {
        shown(out, s.view.upstream.local.as_ref()?)
    }),
    string("upstream.tls_version", |s, out| text(out, s.up()?.version)),
    string("upstream.subject_local_certificate", |s, out| {
        text(out, s.up()?.local_subject.as_deref().unwrap_or_default())
    }),
    string("upstream.subject_peer_certificate", |s, out| {
        text(out, s.up()?.subject.as_deref().unwrap_or_default())
    }),
    string("upstream.dns_san_local_certificate", |s, out| {
        first(out, &s.up()?.local_dns_sans)
    }),
    string("upstream.dns_san_peer_certificate", |s, out| {
        first(out, &s.up()?.dns_sans)
    }),
    string("upstream.uri_san_local_certificate", |s, out| {
        first(out, &s.up()?.local_uri_sans)
    }),
    string("upstream.uri_san_peer_certificate", |s, out| {
        first(out, &s.up()?.uri_sans)
    }),
    string("upstream.sha256_peer_certificate_digest", |s, out| {
        text(out, s.up()?.sha256.as_deref()?)
    }),
    string("upstream.transport_failure_reason", |s, out| {
        s.view.upstream.host.as_ref()?;
        text(out, s.view.upstream.failure_reason.as_deref().unwrap_or_default())
    }),
    other("upstream.request_attempt_count", |s, out| {
        shown(out, s.view.upstream.attempts)
    }),
    string("xds.cluster_name", |s, out| text(out, &s.view.cluster?.name)),
    string("xds.route_name", |s, out| {
        text(out, &s.view.exchange?.route.route.as_ref()?.name)
    }),
    string("xds.virtual_host_name", |s, out| {
        text(out, &s.view.exchange?.route.virtual_host.as_ref()?.settings.name)
    }),
    string("xds.filter_chain_name", |s, out| {
        text(out, &s.view.connection.filter_chain_name)
    }),
    // `envoy.config.core.v3.TrafficDirection`
    other("xds.listener_direction", |s, out| {
        shown(
            out,
            match s.view.connection.direction {
                Direction::Unspecified => 0,
                Direction::Inbound => 1,
                Direction::Outbound => 2,
            },
        )
    }),
];
