//! The respond stage: a failure becomes a response, by the failure table and `local_reply_config`.

mod rewrite;

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::task::Poll;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use tower::Layer;

pub use rewrite::{BodyFormat, LocalReply};

use super::body::Body;
use super::codec::h1::server::RefusedHead;
use super::cut;
use super::exchange::{Exchange, Reset};
use super::failure::Failure;
use super::service::{Response, Service, TryService};
use crate::route::view::is_grpc;
use crate::telemetry::format::grpc_of_http;

#[derive(Default)]
pub struct RespondLayer;

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Respond<S> {
        Respond { inner }
    }
}

/// See the module.
pub struct Respond<S> {
    inner: S,
}

impl<S: TryService> Service for Respond<S> {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        if let Some(RefusedHead(failure)) = exchange.extensions.remove::<RefusedHead>() {
            return respond(exchange, &failure);
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
            Err(Failure::InternalRedirect(status)) => {
                exchange.details = Failure::InternalRedirect(status).details().into();
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = status;
                response
            }
            Err(failure) => respond(exchange, &failure),
        }
    }

    fn finish(&self, exchange: &mut Exchange) {
        self.inner.finish(exchange);
    }
}

/// The response to a failure; records its flags and details.
pub fn respond(exchange: &mut Exchange, failure: &Failure) -> Response {
    let row = failure.row();
    exchange.flags.set(row.flags);
    exchange.details = failure.full_details();
    exchange.close_downstream |= row.close_downstream;
    exchange.request_abandoned = true;
    if matches!(failure, Failure::DownstreamDisconnect | Failure::DownstreamReset) {
        exchange.reset = Some(Reset::ByClient);
    }
    let status = failure.status(exchange.timeout_is_no_content);
    let mut body = failure.body_text(exchange.upstream.attempts);
    if status == StatusCode::NO_CONTENT {
        body = "".into();
    }
    let mut headers = HeaderMap::new();
    let is_overload = matches!(
        failure,
        Failure::Overflow | Failure::QueueOverflow | Failure::MaintenanceMode
    );
    if is_overload && !exchange.suppress_envoy_headers {
        headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    }
    if let Failure::DropOverload { all } = failure {
        let name = match all {
            true => "x-envoy-unconditional-drop-overload",
            false => "x-envoy-drop-overload",
        };
        headers.insert(name, HeaderValue::from_static("true"));
    }
    let reply = Reply {
        status,
        grpc: row.grpc,
        body: body.as_bytes(),
        headers,
        content_type: None,
    };
    reply.into_response(exchange)
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
    let reply = Reply {
        status,
        grpc,
        body: body.as_bytes(),
        headers: HeaderMap::new(),
        content_type: None,
    };
    reply.into_response(exchange)
}

/// What is answered in the upstream's place, before `local_reply_config` had its say.
pub(super) struct Reply<'a> {
    pub status: StatusCode,
    /// For gRPC clients; `None`: what the HTTP status means.
    pub grpc: Option<u32>,
    pub body: &'a [u8],
    /// Beside those of the body.
    pub headers: HeaderMap,
    /// `None`: plain text.
    pub content_type: Option<HeaderValue>,
}

/// In a response's extensions: it is an answer of ours, and its content type gives way to one that the route adds.
#[derive(Clone, Debug)]
pub(super) struct Local(pub HeaderValue);

impl Reply<'_> {
    pub fn into_response(self, exchange: &mut Exchange) -> Response {
        let Self {
            mut status,
            grpc,
            body,
            mut headers,
            content_type,
        } = self;
        let mut body = Cow::Borrowed(body);
        let mut content_type = content_type.unwrap_or(TEXT);
        if let Some(config) = exchange.local_reply.clone() {
            let kind_before = headers.get(CONTENT_TYPE).cloned();
            let of_format = config.rewrite(exchange, &mut status, &mut body, &mut headers);
            content_type = of_format.unwrap_or(content_type);
            // A mapper's own content type stays.
            if headers.get(CONTENT_TYPE) != kind_before.as_ref()
                && let Some(own) = headers.get(CONTENT_TYPE)
            {
                content_type = own.clone();
            }
        }
        // What routes add to an answer of ours does not know its code yet, as in Envoy.
        exchange.response_code = None;
        let is_head = *exchange.request.method() == Method::HEAD;
        if is_grpc(exchange.headers()) {
            let grpc = grpc.unwrap_or_else(|| grpc_of_http(status.as_u16()));
            let message = body.strip_suffix(b"\n").unwrap_or(&body);
            return grpc_reply(grpc, if is_head { b"" } else { message }, headers);
        }
        if body.is_empty() {
            headers.remove(CONTENT_TYPE);
        } else {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        let mut response = Response::new(if is_head {
            Body::Empty
        } else {
            Body::from(bytes::Bytes::from(body.into_owned()))
        });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.extensions_mut().insert(Local(content_type));
        response
    }
}

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// A gRPC client gets a trailers-only answer: HTTP 200 and a gRPC status.
fn grpc_reply(grpc: u32, message: &[u8], headers: HeaderMap) -> Response {
    let mut response = Response::new(Body::Empty);
    response
        .extensions_mut()
        .insert(Local(HeaderValue::from_static("application/grpc")));
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.entry("grpc-status").or_insert_with(|| HeaderValue::from(grpc));
    // The message is percent-encoded (gRPC over HTTP/2, "Responses").
    let encoded = percent_encoding::percent_encode(message, GRPC_MESSAGE).to_string();
    if let Ok(message) = HeaderValue::try_from(encoded)
        && !message.is_empty()
    {
        headers.insert("grpc-message", message);
    }
    response
}

const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
