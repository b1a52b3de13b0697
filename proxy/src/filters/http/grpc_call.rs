//! What is known of a gRPC call while its messages pass: their number, and the status at the end.
//!
//! Filters that want to know begin watching with the request; bodies of other requests are not touched.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};

use crate::http::body::{Body, BodyError};
use crate::http::exchange::Exchange;
use crate::route::view::is_grpc;

/// One call. Lives in the exchange's extensions.
#[derive(Clone)]
pub struct GrpcCall(Arc<Shared>);

struct Shared {
    requests: AtomicU64,
    responses: AtomicU64,
    status: AtomicU32,
    watches_response: AtomicBool,
}

/// No status was seen.
const NONE: u32 = u32::MAX;

impl GrpcCall {
    /// Watches the request, if it is a gRPC call; once, however many filters ask.
    pub fn watch_request(exchange: &mut Exchange) -> Option<Self> {
        if let Some(call) = exchange.extensions.get::<Self>() {
            return Some(call.clone());
        }
        if !is_grpc(exchange.headers()) {
            return None;
        }
        let call = Self(Arc::new(Shared {
            requests: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            status: AtomicU32::new(NONE),
            watches_response: AtomicBool::new(false),
        }));
        let inner = exchange.request.body_mut().take();
        *exchange.request.body_mut() = call.watch(inner, Side::Request);
        exchange.extensions.insert(call.clone());
        Some(call)
    }

    /// Watches the response of a call whose request is watched.
    pub fn watch_response(exchange: &Exchange, response: &mut Response<Body>) {
        let Some(call) = exchange.extensions.get::<Self>() else {
            return;
        };
        if call.0.watches_response.swap(true, Ordering::Relaxed) {
            return;
        }
        call.read_status(response.headers());
        let inner = response.body_mut().take();
        *response.body_mut() = call.watch(inner, Side::Response);
    }

    /// Messages of the request so far.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Messages of the response so far.
    pub fn responses(&self) -> u64 {
        self.0.responses.load(Ordering::Relaxed)
    }

    /// Whether the response has begun.
    pub fn is_answered(&self) -> bool {
        self.0.watches_response.load(Ordering::Relaxed)
    }

    /// `grpc-status`, if the upstream sent one.
    pub fn status(&self) -> Option<u32> {
        Some(self.0.status.load(Ordering::Relaxed)).filter(|status| *status != NONE)
    }

    fn read_status(&self, headers: &HeaderMap) {
        let status = headers
            .get("grpc-status")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(status) = status {
            self.0.status.store(status, Ordering::Relaxed);
        }
    }

    fn watch(&self, inner: Body, side: Side) -> Body {
        if inner.is_empty() {
            return inner;
        }
        Body::Boxed(Box::pin(Watched {
            inner,
            side,
            call: self.clone(),
            messages: Messages::default(),
        }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

struct Watched {
    inner: Body,
    side: Side,
    call: GrpcCall,
    messages: Messages,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                let counter = match this.side {
                    Side::Request => &this.call.0.requests,
                    Side::Response => &this.call.0.responses,
                };
                counter.fetch_add(this.messages.count(data), Ordering::Relaxed);
            }
            if let Some(trailers) = frame.trailers_ref().filter(|_| this.side == Side::Response) {
                this.call.read_status(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Finds the beginnings of messages: one byte of flags, four of length, then so many bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
#[derive(Default)]
struct Messages {
    prefix: [u8; 5],
    have: usize,
    left: u64,
}

impl Messages {
    /// How many messages begin in `data`: those whose prefix is complete.
    fn count(&mut self, mut data: &[u8]) -> u64 {
        let mut found = 0;
        while !data.is_empty() {
            if self.left > 0 {
                let skip = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
                self.left -= skip as u64;
                data = &data[skip..];
                continue;
            }
            self.prefix[self.have] = data[0];
            self.have += 1;
            data = &data[1..];
            if self.have == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.left = u64::from(u32::from_be_bytes(length));
                self.have = 0;
                found += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let bytes: Vec<u8> = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[1, 0, 0, 0, 1], b"x"].concat();
        for cut in 0..bytes.len() {
            let mut messages = Messages::default();
            let (left, right) = bytes.split_at(cut);
            assert_eq!(messages.count(left) + messages.count(right), 3, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_calls_status_is_in_its_trailers() {
        let mut exchange = crate::testing::exchange("POST", "/s/M", &[("content-type", "application/grpc")]);
        let call = GrpcCall::watch_request(&mut exchange).expect("a call");
        let trailers =
            HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from(5))]);
        let data = Bytes::from_static(&[0, 0, 0, 0, 0]);
        let mut response = Response::new(Body::Trailers(Some(data), Box::new(trailers)));
        GrpcCall::watch_response(&exchange, &mut response);
        GrpcCall::watch_response(&exchange, &mut response);
        assert_eq!(call.status(), None);
        response.into_body().collect().await.expect("a body");
        assert_eq!((call.status(), call.responses()), (Some(5), 1));
    }

    #[test]
    fn other_requests_are_left_alone() {
        let mut exchange = crate::testing::exchange("POST", "/", &[("content-type", "application/json")]);
        assert!(GrpcCall::watch_request(&mut exchange).is_none());
    }
}
