//! The codec seam (D14): server connections yield heads, bodies and responders, client connections take them.
//!
//! In: an [`Io`](crate::runtime::io::Io). Out: [`Exchange`](super::exchange::Exchange)s answered by the connection manager's pipeline; every protocol error is a
//! [`Failure`]. Above this seam nobody knows which codec runs.

pub mod h1;
pub mod h2;

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, StatusCode, Uri};
use parking_lot::Mutex;

use super::body::Body;
use super::failure::Failure;
use crate::runtime::clock;

/// A request head as a client connection reads it: the exchange keeps it, for retries and logs.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub method: &'a Method,
    /// Only its path is sent; the authority is the `host` header.
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// Takes interim responses; `None`: they stay on their hop.
    pub interim: Option<&'a Interim>,
    /// How the client spelled the names, where that is to be kept.
    pub names: Option<&'a h1::OriginalNames>,
    /// Counts what the connection carries for the request, if anybody asks.
    pub meter: Option<&'a Arc<UpstreamMeter>>,
}

/// Stands in an exchange for bytes that are no request: nothing of the head counts as understood, so that logs show `-` for method, authority and path.
fn unread_request() -> http::Request<Body> {
    let mut request = http::Request::new(Body::Empty);
    if let Ok(method) = Method::from_bytes(b"-") {
        *request.method_mut() = method;
    }
    *request.uri_mut() = Uri::from_static("-");
    request
}

/// `headers_with_underscores_action`: what becomes of request headers whose name has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    #[default]
    Allow,
    Reject,
    Drop,
}

impl Underscores {
    /// Takes such headers out, if they are to be dropped, and says how many; the error is that the request is to be refused.
    pub(in crate::http) fn apply(self, headers: &mut HeaderMap) -> Result<u64, ()> {
        if self == Self::Allow {
            return Ok(0);
        }
        let has_one = |name: &&http::HeaderName| name.as_str().contains('_');
        let names: Vec<_> = headers.keys().filter(has_one).cloned().collect();
        if self == Self::Reject && !names.is_empty() {
            return Err(());
        }
        let mut dropped = 0;
        for name in names {
            dropped += headers.get_all(&name).iter().count() as u64;
            headers.remove(&name);
        }
        Ok(dropped)
    }
}

/// Bytes that upstream connections carried for one request, all its attempts together; read when the stream has ended.
#[derive(Debug, Default)]
pub struct UpstreamMeter(Mutex<Metered>);

/// See [`UpstreamMeter`]. `wire_…` counts HTTP/1 alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metered {
    pub header_sent: u64,
    pub header_received: u64,
    pub wire_sent: u64,
    pub wire_received: u64,
    /// When the first byte of the response's body went on to the client, and when its end did.
    pub body_began: Option<Instant>,
    pub body_ended: Option<Instant>,
}

impl UpstreamMeter {
    pub fn read(&self) -> Metered {
        *self.0.lock()
    }

    pub(crate) fn note(&self, count: impl FnOnce(&mut Metered)) {
        count(&mut self.0.lock());
    }

    /// A piece of the response's body goes on to the client.
    pub(in crate::http) fn body_moves(&self) {
        self.note(|counts| _ = counts.body_began.get_or_insert_with(clock::now));
    }

    /// Its end does.
    pub(in crate::http) fn body_ends(&self) {
        self.note(|counts| _ = counts.body_ended.get_or_insert_with(clock::now));
    }
}

/// Bytes of names and values.
pub fn header_bytes(headers: &HeaderMap) -> u64 {
    let sizes = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    sizes.sum::<usize>() as u64
}

/// The interim response (1xx but 101) that waits for the client's side to send it. Envoy sends one at most, the first.
#[derive(Debug, Default)]
pub struct Interim(Mutex<Slot>);

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Waiting(Box<(StatusCode, HeaderMap)>),
    Sent,
}

impl Interim {
    /// Keeps the first.
    fn put(&self, status: StatusCode, headers: HeaderMap) {
        let mut slot = self.0.lock();
        if matches!(*slot, Slot::Empty) {
            *slot = Slot::Waiting(Box::new((status, headers)));
        }
    }

    fn take(&self) -> Option<(StatusCode, HeaderMap)> {
        let mut slot = self.0.lock();
        if !matches!(*slot, Slot::Waiting(_)) {
            return None;
        }
        match std::mem::replace(&mut *slot, Slot::Sent) {
            Slot::Waiting(head) => Some(*head),
            Slot::Empty | Slot::Sent => None,
        }
    }
}

/// In a response's extensions: the status of the first interim response before it, for the cluster's stats.
#[derive(Clone, Copy, Debug)]
pub struct InterimStatus(pub StatusCode);

/// A request that got no response.
#[derive(Debug)]
pub struct SendError {
    pub failure: Failure,
    /// The request's body, if nothing of it is lost: the request can be sent again.
    pub body: Option<Body>,
}

impl Head<'_> {
    /// A request of its own, for a codec that must own what it sends.
    pub fn to_request(&self, body: Body) -> http::Request<Body> {
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Whether it asks to leave HTTP on its connection (RFC 9110 section 7.8).
    pub fn is_upgrade(&self) -> bool {
        self.headers.contains_key(http::header::UPGRADE) && self.headers.contains_key(http::header::CONNECTION)
    }
}
