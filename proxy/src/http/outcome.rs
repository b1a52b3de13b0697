//! What came of a request, as its host is judged by it: a gRPC answer by its status, whatever HTTP says of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::body::{Body, BodyError};
use super::service::Response;
use crate::cluster::HostState;
use crate::cluster::outlier::ErrorMatcher;
use crate::route::view::is_grpc;

/// What the head of a response tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The HTTP status, or what the gRPC status in the head stands for, or what the cluster takes the answer for.
    pub status: u16,
    /// `None`: only the trailers will tell.
    pub success: Option<bool>,
}

impl Outcome {
    pub fn of(request: &HeaderMap, response: &Response, errors: Option<&ErrorMatcher>) -> Self {
        let status = response.status().as_u16();
        let counted = errors.map_or(status, |errors| errors.status(response.status(), response.headers()));
        if !is_grpc(request) {
            return Self {
                status: counted,
                ..Self::from(status)
            };
        }
        let mapped = http_status(response.headers());
        let success = match (status >= 500, response.body().is_empty()) {
            (true, _) => Some(false),
            (false, true) => Some(mapped.is_some_and(|status| status < 500)),
            (false, false) => None,
        };
        Self {
            status: mapped.unwrap_or(counted),
            success,
        }
    }
}

impl From<u16> for Outcome {
    /// Of an answer that is no gRPC.
    fn from(status: u16) -> Self {
        Self {
            status,
            success: Some(status < 500),
        }
    }
}

/// Whether a gRPC answer that ends with these trailers, or without any, is a success.
pub fn is_success(trailers: Option<&HeaderMap>) -> bool {
    trailers.and_then(http_status).is_some_and(|status| status < 500)
}

/// The HTTP status that `grpc-status` stands for; what is no status of gRPC's counts as an internal error.
fn http_status(headers: &HeaderMap) -> Option<u16> {
    let value = headers.get("grpc-status").filter(|value| !value.is_empty())?;
    let status = value.to_str().ok().and_then(|text| text.parse::<u32>().ok());
    Some(match status {
        Some(0) => 200,
        Some(1) => 499,
        Some(3 | 9 | 11) => 400,
        Some(4) => 504,
        Some(5) => 404,
        Some(6 | 10) => 409,
        Some(7) => 403,
        Some(8) => 429,
        Some(12) => 501,
        Some(14) => 503,
        Some(16) => 401,
        _ => 500,
    })
}

/// The body of a gRPC answer; its end counts for the host. One that nobody reads to its end counts as nothing.
struct Judged {
    inner: Body,
    host: Option<Arc<HostState>>,
}

/// The same response; its host's `rq_success` or `rq_error` goes up when it ends.
pub fn judge(response: &mut Response, host: Arc<HostState>) {
    let inner = response.body_mut().take();
    let host = Some(host);
    *response.body_mut() = Body::Boxed(Box::pin(Judged { inner, host }));
}

impl Judged {
    fn ended(&mut self, success: bool) {
        if let Some(host) = self.host.take() {
            host.count_outcome(success);
        }
    }
}

impl http_body::Body for Judged {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.ended(is_success(Some(trailers)));
                } else if this.inner.is_end_stream() {
                    this.ended(false);
                }
            }
            Some(Err(_)) | None => this.ended(false),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use http::{HeaderName, HeaderValue};
    use http_body_util::BodyExt;

    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |&(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(header).collect()
    }

    fn outcome(request: &[(&'static str, &'static str)], code: u16, grpc: Option<&'static str>, body: Body) -> Outcome {
        let mut response = Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(code).expect("a status");
        if let Some(grpc) = grpc {
            *response.headers_mut() = map(&[("grpc-status", grpc)]);
        }
        Outcome::of(&map(request), &response, None)
    }

    #[test]
    fn the_head_of_a_grpc_answer_speaks_for_its_status() {
        let grpc = [("content-type", "application/grpc")];
        for (code, status, mapped, success) in [
            (200, Some("0"), 200, true),
            (200, Some("4"), 504, false),
            (200, Some("5"), 404, true),
            (200, Some("13"), 500, false),
            (200, Some("14"), 503, false),
            (200, Some("99"), 500, false),
            (200, Some("x"), 500, false),
            (200, None, 200, false),
            (503, Some("0"), 200, false),
            (502, None, 502, false),
        ] {
            let expected = Outcome {
                status: mapped,
                success: Some(success),
            };
            assert_eq!(outcome(&grpc, code, status, Body::Empty), expected, "{code} {status:?}");
        }
        // With a body, the trailers tell; of what is no gRPC, the code does.
        assert_eq!(outcome(&grpc, 200, None, Body::from("x")).success, None);
        let plain = outcome(&[], 200, Some("14"), Body::Empty);
        assert_eq!((plain.status, plain.success), (200, Some(true)));
    }

    #[tokio::test]
    async fn the_end_of_a_grpc_answer_counts_for_its_host() {
        let trailers = |status| {
            Body::Trailers(
                Some(Bytes::from_static(b"x")),
                Box::new(map(&[("grpc-status", status)])),
            )
        };
        for (body, success, error) in [(trailers("0"), 1, 0), (trailers("14"), 0, 1), (Body::from("x"), 0, 1)] {
            let host = Arc::new(HostState::new());
            let mut response = Response::new(body);
            judge(&mut response, host.clone());
            response.into_body().collect().await.expect("a whole body");
            let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            assert_eq!((count(&host.rq_success), count(&host.rq_error)), (success, error));
        }
    }
}
