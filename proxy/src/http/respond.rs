//! The respond stage: a failure becomes a response, by the failure table.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use tower::Layer;

use super::body::Body;
use super::codec::h1::server::RefusedHead;
use super::cut;
use super::exchange::{Exchange, Reset};
use super::failure::Failure;
use super::service::{Response, Service, TryService};
use crate::telemetry::format::grpc_of_http;

/// `local_reply_config`: what of it is supported so far is Envoy's default, plain text.
#[derive(Debug, Default)]
pub struct LocalReply;

pub struct RespondLayer {
    local_reply: Arc<LocalReply>,
}

impl RespondLayer {
    pub fn new(local_reply: &Arc<LocalReply>) -> Self {
        Self {
            local_reply: local_reply.clone(),
        }
    }
}

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Respond<S> {
        Respond {
            local_reply: self.local_reply.clone(),
            inner,
        }
    }
}

/// See the module.
pub struct Respond<S> {
    local_reply: Arc<LocalReply>,
    inner: S,
}

impl<S: TryService> Service for Respond<S> {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        if let Some(RefusedHead(failure)) = exchange.extensions.remove::<RefusedHead>() {
            return self.local_reply.respond(exchange, &failure);
        }
        let result = {
            let mut call = std::pin::pin!(self.inner.try_call(exchange));
            poll_fn(|cx| match call.as_mut().poll(cx) {
                Poll::Pending => cut::take().map_or(Poll::Pending, |failure| Poll::Ready(Err(failure))),
                ready => ready,
            })
            .await
        };
        match result {
            Ok(response) => response,
            Err(failure) => self.local_reply.respond(exchange, &failure),
        }
    }

    fn finish(&self, exchange: &mut Exchange) {
        self.inner.finish(exchange);
    }
}

impl LocalReply {
    /// The response to a failure; records its flags and details.
    pub fn respond(&self, exchange: &mut Exchange, failure: &Failure) -> Response {
        let row = failure.row();
        exchange.flags.set(row.flags);
        exchange.details = failure.full_details();
        exchange.close_downstream |= row.close_downstream;
        if matches!(failure, Failure::DownstreamDisconnect | Failure::DownstreamReset) {
            exchange.reset = Some(Reset::ByClient);
        }
        let body = failure.body_text(exchange.upstream.attempts);
        let mut response = plain_or_grpc(exchange, row.status, None, &body);
        if *failure == Failure::Overflow || *failure == Failure::MaintenanceMode {
            response
                .headers_mut()
                .insert("x-envoy-overloaded", HeaderValue::from_static("true"));
        }
        if let Failure::DropOverload { all } = failure {
            let name = match all {
                true => "x-envoy-unconditional-drop-overload",
                false => "x-envoy-drop-overload",
            };
            response.headers_mut().insert(name, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A filter's own answer (Envoy's `sendLocalReply`): records the details; a gRPC client gets `grpc`, or what the HTTP status means.
pub fn local_reply(
    exchange: &mut Exchange,
    status: StatusCode,
    grpc: Option<u32>,
    body: &str,
    details: impl Into<Cow<'static, str>>,
) -> Response {
    exchange.details = details.into();
    plain_or_grpc(exchange, status, grpc, body)
}

fn plain_or_grpc(exchange: &Exchange, status: StatusCode, grpc: Option<u32>, body: &str) -> Response {
    if is_grpc(exchange) {
        return grpc_reply(grpc.unwrap_or_else(|| grpc_of_http(status.as_u16())), body);
    }
    let mut response = Response::new(if *exchange.request.method() == Method::HEAD {
        Body::Empty
    } else {
        Body::from(bytes::Bytes::copy_from_slice(body.as_bytes()))
    });
    *response.status_mut() = status;
    describe_text(&mut response, body.len());
    response
}

/// The headers of a plain text of ours: its length goes out over HTTP/2 and in answers to HEAD too.
pub(super) fn describe_text(response: &mut Response, length: usize) {
    if length > 0 {
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
}

/// A gRPC client gets a trailers-only answer: HTTP 200 and a gRPC status.
pub(super) fn grpc_reply(grpc: u32, message: &str) -> Response {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(grpc));
    // The message is percent-encoded (gRPC over HTTP/2, "Responses").
    let encoded = percent_encoding::utf8_percent_encode(message, GRPC_MESSAGE).to_string();
    if let Ok(message) = HeaderValue::try_from(encoded)
        && !message.is_empty()
    {
        headers.insert("grpc-message", message);
    }
    response
}

const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

pub(super) fn is_grpc(exchange: &Exchange) -> bool {
    let Some(kind) = exchange.headers().get(CONTENT_TYPE) else {
        return false;
    };
    let kind = kind.as_bytes();
    kind.starts_with(b"application/grpc") && matches!(kind.get(16), None | Some(b'+' | b';'))
}
