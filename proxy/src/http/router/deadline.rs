//! Time limits of a request: the route's timeout over all attempts, and one attempt's own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::request_stream::RequestStream;
use crate::cluster::Cluster;
use crate::http::body::{Body, BodyError};
use crate::http::failure::Failure;
use crate::runtime::{clock, wake};

/// The route's timeout. It runs from the end of the request, so for a streaming request its start is not known at first.
pub(super) struct RouteTimeout {
    pub limit: Option<Duration>,
    pub request_ended: Option<Instant>,
    pub stream: Option<RequestStream>,
    /// `max_stream_duration`: when the stream must be over, whatever has come of it.
    pub stream_end: Option<Instant>,
    /// The stream has no time at all: whatever has to be waited for comes too late.
    pub is_over: bool,
}

impl RouteTimeout {
    /// What runs out first, and what that is; `None`: nothing runs (yet).
    pub fn deadline(&mut self) -> Option<(Instant, Failure)> {
        if self.request_ended.is_none() {
            self.request_ended = self.stream.as_ref().and_then(RequestStream::ended_at);
        }
        let request_complete = self.request_ended.is_some();
        let route = match (self.limit, self.request_ended) {
            (Some(limit), Some(ended)) => ended.checked_add(limit),
            _ => None,
        };
        match (route, self.stream_end) {
            (Some(route), Some(stream)) if stream < route => {
                Some((stream, Failure::StreamDuration { request_complete }))
            }
            (Some(route), _) => Some((route, Failure::ResponseTimeout)),
            (None, stream) => stream.map(|stream| (stream, Failure::StreamDuration { request_complete })),
        }
    }
}

/// Polls `future` under two deadlines, which may begin to run while it is polled: the route's, and the attempt's own, which is told when the
/// request ended. The timer is set up only when the future has to wait.
pub(super) async fn bounded<F: Future>(
    mut future: Pin<&mut F>,
    route: &mut RouteTimeout,
    mut attempt: impl FnMut(Option<Instant>) -> Option<(Instant, Failure)>,
) -> Result<F::Output, Failure> {
    let mut timer: Option<Pin<Box<tokio::time::Sleep>>> = None;
    let mut waited = false;
    std::future::poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() && !(waited && route.is_over) {
            return polled.map(Ok);
        }
        let route_end = route.deadline();
        let attempt_end = attempt(route.request_ended);
        let (deadline, failure) = match (route_end, attempt_end) {
            (Some((route, _)), Some(attempt)) if attempt.0 < route => attempt,
            (Some(route), _) => route,
            (None, Some(attempt)) => attempt,
            (None, None) => return Poll::Pending,
        };
        // The first wait cannot be over yet: no look at the clock.
        if std::mem::replace(&mut waited, true) && clock::now() >= deadline {
            return Poll::Ready(Err(failure));
        }
        if wake::at(deadline) {
            return Poll::Pending;
        }
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        if timer.deadline() != deadline.into() {
            timer.as_mut().reset(deadline.into());
        }
        timer.as_mut().poll(cx).map(|()| Err(failure))
    })
    .await
}

/// A response body that must end before the route's timeout.
pub(super) struct TimedBody {
    pub inner: Body,
    pub timer: Pin<Box<tokio::time::Sleep>>,
    pub failure: Failure,
    pub cluster: Arc<Cluster>,
}

impl http_body::Body for TimedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        std::task::ready!(this.timer.as_mut().poll(cx));
        if this.failure == Failure::ResponseTimeout {
            this.cluster.stats.upstream_rq_timeout.inc();
        }
        // Once: who asks again is not told again.
        this.inner = Body::Empty;
        Poll::Ready(Some(Err(BodyError::Failed(this.failure.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body whose frames may not be further apart than `limit` (`per_try_idle_timeout`).
pub(super) struct IdleBody {
    pub inner: Body,
    pub limit: Duration,
    pub timer: Pin<Box<tokio::time::Sleep>>,
}

impl IdleBody {
    pub fn new(inner: Body, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            timer: Box::pin(tokio::time::sleep(limit)),
        }
    }
}

impl http_body::Body for IdleBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            let deadline = clock::now() + this.limit;
            this.timer.as_mut().reset(deadline.into());
            return Poll::Ready(frame);
        }
        std::task::ready!(this.timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Failed(Failure::PerTryIdleTimeout))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
