//! Header policy: what Envoy's connection manager does to heads before routing and after the response.
//!
//! In: a request as the codec read it, and the rules of its connection manager. Out: a request that may be routed, with the client's
//! address, internal or external, its id; on the way back a response that may be sent. Everything that does not depend on the request is compiled.

pub mod compile;
pub mod decorator;
mod layer;
pub mod mutations;
pub mod path;
pub mod remote;
pub mod request_id;
pub mod route;
mod untrusted;
pub mod xfcc;

use std::borrow::Cow;

use http::header::{CONNECTION, DATE, HOST, REFERER, SERVER, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

pub use layer::{HeaderPolicyLayer, Policed};
pub use route::{auto_host, finalize_request, finalize_response};
pub(in crate::http) use untrusted::remove_envoy;

use super::exchange::Exchange;
use crate::config::live::Switch;
use crate::http::codec::h1::{parse::is_hop_by_hop, server::RefusedHead};
use crate::runtime::io::Address;
use remote::{Found, RemoteRule};
use request_id::TraceReason;

/// What a connection manager says about heads; see [`compile`](HeaderPolicy::compile).
pub struct HeaderPolicy {
    pub(in crate::http) remote: RemoteRule,
    pub(in crate::http) path: path::PathPolicy,
    pub(in crate::http) reject_fragments: Switch,
    pub(in crate::http) host: HostPolicy,
    pub(in crate::http) request_id: request_id::RequestIdPolicy,
    /// `tracing`; `None`: ids are not marked.
    pub(in crate::http) sampling: Option<request_id::Sampling>,
    /// `tracing` again; `None`: nobody is told what operations are called.
    pub(in crate::http) operations: Option<decorator::Side>,
    pub(in crate::http) xfcc: xfcc::Xfcc,
    pub(in crate::http) internal_ranges: Vec<ipnet::IpNet>,
    pub(in crate::http) internal_unix_sockets: bool,
    pub(in crate::http) append_forwarded_port: bool,
    /// `add_user_agent`: service cluster and node id.
    pub(in crate::http) user_agent: Option<(HeaderValue, Option<HeaderValue>)>,
    pub(in crate::http) via: Option<HeaderValue>,
    pub(in crate::http) server: (ServerHeader, HeaderValue),
    /// Whether 100 and other informational responses are forwarded instead of answered here.
    pub proxy_100_continue: bool,
}

/// What is taken off the authority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostPolicy {
    pub strip_trailing_dot: bool,
    pub strip_port: StripPort,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    #[default]
    Never,
    /// Only the listener's own port.
    Matching,
    Any,
}

/// `server_header_transformation`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHeader {
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

/// What the policy says of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    /// Answer with an empty body.
    Reject {
        status: StatusCode,
        details: &'static str,
    },
    /// 307 to this path.
    Redirect {
        location: String,
        details: &'static str,
    },
}

const DETECTION_REJECTED: &str = "rejecting_because_detection_failed";
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

impl HeaderPolicy {
    fn target(&self, exchange: &mut Exchange) -> Verdict {
        match self.fragment(exchange) {
            Verdict::Continue => self.path.apply(exchange),
            verdict => verdict,
        }
    }

    /// Applies to a request before it is routed, in Envoy's order (spec C.4).
    pub fn request(&self, exchange: &mut Exchange) -> Verdict {
        if exchange.redirected.is_some() {
            // The client's own request went through it; what an internal redirect made of it is ours.
            self.host.apply(exchange);
            return self.target(exchange);
        }
        let is_upgrade = exchange.upgrade.is_some();
        let headers = exchange.request.headers_mut();
        // Most requests carry none of these: one pass over what there is beats a dozen look-ups.
        if headers.keys().any(is_sanitized) {
            remove_hop_by_hop(headers, is_upgrade);
            sanitize_referer(headers);
        }
        self.host.apply(exchange);
        let verdict = self.target(exchange);
        if verdict != Verdict::Continue {
            return verdict;
        }
        let found = match self.remote.find(exchange) {
            Ok(found) => found,
            Err(status) => {
                return Verdict::Reject {
                    status,
                    details: DETECTION_REJECTED,
                };
            }
        };
        self.trust(exchange, found);
        Verdict::Continue
    }

    /// Marks the request's id with why it would be traced, and says so; `by_route`: its route's own fractions.
    pub fn mark(&self, headers: &mut HeaderMap, by_route: Option<request_id::Sampling>) -> TraceReason {
        match self.sampling {
            Some(of_manager) => self.request_id.mark(headers, by_route.unwrap_or(of_manager)),
            None => TraceReason::NotTraced,
        }
    }

    /// What the request says of its operation, once its route is known.
    pub fn name_operation(&self, exchange: &mut Exchange) {
        if let Some(side) = self.operations {
            side.request(exchange);
        }
    }

    /// Everything that depends on who the client is.
    fn trust(&self, exchange: &mut Exchange, found: Found) {
        let edge = self.remote.is_edge();
        let first_hop = edge && self.remote.trusted_hops() == 0;
        let scheme = HeaderValue::from_static(if exchange.connection.tls.is_some() {
            "https"
        } else {
            "http"
        });
        let local_port = exchange.connection.local.ip().map(|local| local.port());
        let headers = exchange.request.headers_mut();
        if first_hop || !headers.contains_key(&X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, scheme);
        } else {
            merge(headers, &X_FORWARDED_PROTO);
        }
        if let Some(port) = local_port
            && self.append_forwarded_port
            && (first_hop || !headers.contains_key(&X_FORWARDED_PORT))
        {
            headers.insert(X_FORWARDED_PORT, HeaderValue::from(port));
        }
        let internal = found.may_be_internal && self.is_internal(found.address.as_ref());
        let remote = found.address.unwrap_or_else(|| exchange.connection.remote.clone());
        exchange.internal = internal;
        let headers = exchange.request.headers_mut();
        if internal {
            headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
        } else {
            untrusted::remove(headers, edge);
        }
        if let Some((cluster, node)) = &self.user_agent {
            headers.insert("x-envoy-downstream-service-cluster", cluster.clone());
            if headers.get(USER_AGENT).is_none_or(HeaderValue::is_empty) {
                headers.insert(USER_AGENT, cluster.clone());
            }
            if let Some(node) = node {
                headers.insert("x-envoy-downstream-service-node", node.clone());
            }
        }
        if let Some(via) = &self.via {
            append_list(headers, &VIA, via.as_bytes());
        }
        if let Some(address) = remote.ip().filter(|_| edge && !internal)
            && let Ok(address) = HeaderValue::try_from(address.ip().to_string())
        {
            headers.insert("x-envoy-external-address", address);
        }
        // What is no request has no id.
        if exchange.extensions.get::<RefusedHead>().is_none() {
            self.request_id
                .request(exchange.request.headers_mut(), edge && !internal);
        }
        self.xfcc.apply(exchange);
        exchange.remote = Some(remote);
    }

    fn is_internal(&self, address: Option<&Address>) -> bool {
        match address {
            Some(Address::Ip(address)) => self.internal_ranges.iter().any(|range| range.contains(&address.ip())),
            Some(Address::Pipe(_)) => self.internal_unix_sockets,
            _ => false,
        }
    }

    /// Applies to a response before it is sent: upstream's and our own. `date`: the current one, cached by the caller.
    pub fn response(&self, exchange: &Exchange, status: StatusCode, headers: &mut HeaderMap, date: &HeaderValue) {
        let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS && exchange.upgrade.is_some();
        if headers.keys().any(is_hop_by_hop) {
            if !is_upgrade {
                headers.remove(CONNECTION);
                headers.remove(UPGRADE);
            }
            headers.remove(TRANSFER_ENCODING);
            headers.remove(KEEP_ALIVE);
            headers.remove(PROXY_CONNECTION);
        }
        self.request_id.response(exchange.request.headers(), headers);
        if let Some(via) = &self.via {
            append_list(headers, &VIA, via.as_bytes());
        }
        match self.server.0 {
            ServerHeader::Overwrite => {
                headers.insert(SERVER, self.server.1.clone());
            }
            ServerHeader::AppendIfAbsent => {
                headers.entry(SERVER).or_insert_with(|| self.server.1.clone());
            }
            ServerHeader::PassThrough => {}
        }
        headers.entry(DATE).or_insert_with(|| date.clone());
        if let Some(side) = self.operations {
            side.response(exchange, headers);
        }
    }
}

/// What [`remove_hop_by_hop`] and [`sanitize_referer`] act on.
fn is_sanitized(name: &HeaderName) -> bool {
    matches!(name.as_str(), "te" | "referer" | "x-envoy-internal") || is_hop_by_hop(name)
}

fn remove_hop_by_hop(headers: &mut HeaderMap, is_upgrade: bool) {
    if !is_upgrade {
        remove_nominated(headers);
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
        sanitize_te(headers);
    }
    headers.remove(X_ENVOY_INTERNAL);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
}

/// Removes the headers that `connection` names as meant for this hop alone (RFC 9110, 7.6.1). `te` has rules of its own, and what tells who
/// the client is may not be taken away by it.
fn remove_nominated(headers: &mut HeaderMap) {
    const KEPT: [&str; 6] = [
        "te",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "host",
        "cookie",
    ];
    let is_plain = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    if headers.get_all(CONNECTION).iter().all(is_plain) {
        return;
    }
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    let tokens = values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    for name in tokens.filter(|token| !KEPT.iter().any(|kept| token.eq_ignore_ascii_case(kept))) {
        headers.remove(name);
    }
}

/// `te` keeps nothing but `trailers`.
fn sanitize_te(headers: &mut HeaderMap) {
    let Some(te) = crate::route::view::joined(headers, &TE) else {
        return;
    };
    if *te == *b"trailers" {
        return;
    }
    let token = |part: &[u8]| {
        part.split(|byte| *byte == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii()
            .to_ascii_lowercase()
    };
    let wants_trailers = te.split(|byte| *byte == b',').any(|part| token(part) == b"trailers");
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// A referer that is no absolute URL, or has user info or a fragment, says too much or nothing.
fn sanitize_referer(headers: &mut HeaderMap) {
    let mut values = headers.get_all(REFERER).iter();
    let Some(first) = values.next() else { return };
    let is_fine = values.next().is_none()
        && std::str::from_utf8(first.as_bytes()).is_ok_and(|url| {
            let authority = url
                .split_once("://")
                .map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or(rest));
            authority.is_some_and(|authority| !authority.is_empty() && !authority.contains('@')) && !url.contains('#')
        });
    if !is_fine {
        headers.remove(REFERER);
    }
}

impl HostPolicy {
    fn apply(self, exchange: &mut Exchange) {
        if exchange.authority.is_none() {
            exchange.authority = received_authority(exchange);
        }
        let Some(authority) = &exchange.authority else { return };
        let mut host = Cow::Borrowed(authority.as_bytes());
        if self.strip_trailing_dot {
            host = without_trailing_dot(host);
        }
        if let Some(start) = crate::route::table::port_start(&host).filter(|_| self.strip_port != StripPort::Never) {
            let port = std::str::from_utf8(&host[start + 1..])
                .ok()
                .and_then(|port| port.parse::<u16>().ok());
            let own = exchange.connection.local.ip().map(|local| local.port());
            if port.is_some() && (self.strip_port == StripPort::Any || port == own) {
                host = Cow::Owned(host[..start].to_vec());
            }
        }
        if let Cow::Owned(host) = host
            && let Ok(host) = HeaderValue::from_bytes(&host)
        {
            set_authority(exchange, host);
        }
    }
}

fn received_authority(exchange: &Exchange) -> Option<HeaderValue> {
    match exchange.request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => exchange.request.headers().get(HOST).cloned(),
    }
}

fn without_trailing_dot(host: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let end = crate::route::table::port_start(&host).unwrap_or(host.len());
    if end == 0 || host[end - 1] != b'.' {
        return host;
    }
    Cow::Owned([&host[..end - 1], &host[end..]].concat())
}

/// Changes what the request is routed by and what the upstream sees. A CONNECT's own target stays in its URI.
pub fn set_authority(exchange: &mut Exchange, authority: HeaderValue) {
    if exchange.request.method() != Method::CONNECT {
        exchange.request.headers_mut().insert(HOST, authority.clone());
    }
    exchange.authority = Some(authority);
}

/// Appends to a comma-separated list.
pub(in crate::http) fn append_list(headers: &mut HeaderMap, name: &HeaderName, value: &[u8]) {
    let joined = match headers.get(name).filter(|present| !present.is_empty()) {
        Some(_) => {
            let mut joined = crate::route::view::joined(headers, name)
                .unwrap_or_default()
                .into_owned();
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value);
            joined
        }
        None => value.to_vec(),
    };
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(name, joined);
    }
}

/// Makes several lines one, as Envoy does where only one has a meaning: nobody is to choose among them.
fn merge(headers: &mut HeaderMap, name: &HeaderName) {
    if let Some(Cow::Owned(all)) = crate::route::view::joined(headers, name)
        && let Ok(all) = HeaderValue::from_maybe_shared(bytes::Bytes::from(all))
    {
        headers.insert(name, all);
    }
}

/// As [`append_list`], without a blank behind the comma.
fn append_list_tight(headers: &mut HeaderMap, name: &HeaderName, value: &[u8]) {
    let mut joined = crate::route::view::joined(headers, name)
        .unwrap_or_default()
        .into_owned();
    if !joined.is_empty() {
        joined.push(b',');
    }
    joined.extend_from_slice(value);
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(name, joined);
    }
}

#[cfg(test)]
mod tests;
