//! A received body of either side, with its flow control.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};

use super::client::{Outcome, UpstreamStream};
use super::headers;
use super::options::HeaderLimits;
use crate::http::body::BodyError;
use crate::http::failure::Failure;
use crate::runtime::clock;

/// A received body. Each frame that is handed out reopens the sender's window by its size: who does not poll, pushes back.
pub struct RecvBody {
    stream: RecvStream,
    state: State,
    /// From `content-length`: bytes still to come. The `h2` crate checks that it is kept.
    remaining: Option<u64>,
    /// The trailers'.
    limits: HeaderLimits,
    side: Side,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Done,
}

/// Whose body it is: how errors read, and what must live as long as it.
enum Side {
    Downstream(Arc<Meter>),
    Upstream {
        held: UpstreamStream,
    },
    /// The end was reached and all that hung on it is given back.
    Over,
}

/// What the stream task wants to know of a request body that travels elsewhere.
pub(super) struct Meter {
    started: Instant,
    bytes: AtomicU64,
    /// Nanoseconds since `started` at the last of them.
    moved: AtomicU64,
    /// Nanoseconds since `started`, plus one; 0: not ended.
    ended: AtomicU64,
}

impl Meter {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: clock::now(),
            bytes: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn ended(&self) -> Option<Duration> {
        let mark = self.ended.load(Ordering::Relaxed);
        mark.checked_sub(1).map(Duration::from_nanos)
    }

    /// When data last came, or the stream began.
    pub(super) fn last_moved(&self) -> Instant {
        self.started + Duration::from_nanos(self.moved.load(Ordering::Relaxed))
    }

    fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.moved.store(self.elapsed(), Ordering::Relaxed);
    }

    fn end(&self) {
        self.ended.store(self.elapsed().saturating_add(1), Ordering::Relaxed);
    }

    fn elapsed(&self) -> u64 {
        let elapsed = clock::now().saturating_duration_since(self.started).as_nanos();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }
}

impl RecvBody {
    pub(super) fn downstream(stream: RecvStream, length: Option<u64>, limits: HeaderLimits, meter: Arc<Meter>) -> Self {
        Self::new(stream, length, limits, Side::Downstream(meter))
    }

    pub(super) fn upstream(
        stream: RecvStream,
        length: Option<u64>,
        limits: HeaderLimits,
        upstream: UpstreamStream,
    ) -> Self {
        Self::new(stream, length, limits, Side::Upstream { held: upstream })
    }

    fn new(stream: RecvStream, remaining: Option<u64>, limits: HeaderLimits, side: Side) -> Self {
        Self {
            stream,
            state: State::Data,
            remaining,
            limits,
            side,
        }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while self.state == State::Data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Poll::Ready(Some(Ok(self.take(data)))),
                Some(Err(error)) => return Poll::Ready(self.fail(&error)),
                None => self.state = State::Trailers,
            }
        }
        if self.state == State::Done {
            return Poll::Ready(None);
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(self.take_trailers(trailers))),
            Ok(None) => {
                self.end();
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(self.fail(&error)),
        }
    }

    pub fn is_end_stream(&self) -> bool {
        match self.state {
            State::Done => true,
            State::Data | State::Trailers => self.stream.is_end_stream(),
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match (self.state, self.remaining) {
            (State::Done, _) => SizeHint::with_exact(0),
            (_, Some(remaining)) => SizeHint::with_exact(remaining),
            _ => SizeHint::default(),
        }
    }

    fn take(&mut self, data: Bytes) -> Frame<Bytes> {
        // An error means that the stream is over, and then nobody waits for the window.
        let _ = self.stream.flow_control().release_capacity(data.len());
        let length = data.len() as u64;
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.saturating_sub(length);
        }
        if let Side::Downstream(meter) = &self.side {
            meter.count(length);
        }
        if self.stream.is_end_stream() {
            self.end();
        }
        Frame::data(data)
    }

    fn take_trailers(&mut self, trailers: HeaderMap) -> Result<Frame<Bytes>, BodyError> {
        let Err(details) = headers::check_limits(&trailers, self.limits) else {
            self.end();
            return Ok(Frame::trailers(trailers));
        };
        let failure = match &self.side {
            Side::Upstream { .. } => Failure::ProtocolError(details),
            Side::Downstream(_) | Side::Over => Failure::BadRequest {
                details,
                status: StatusCode::BAD_REQUEST,
            },
        };
        self.over();
        Err(BodyError::Failed(failure))
    }

    fn end(&mut self) {
        self.state = State::Done;
        match &mut self.side {
            Side::Downstream(meter) => meter.end(),
            Side::Upstream { held } => held.ends(Outcome::Complete),
            Side::Over => {}
        }
        self.side = Side::Over;
    }

    fn fail(&mut self, error: &h2::Error) -> Option<Result<Frame<Bytes>, BodyError>> {
        // RFC 9113 8.1: a server that has answered in full may ask with NO_ERROR that the rest of the request is not sent.
        let upstream = matches!(self.side, Side::Upstream { .. });
        let complete = self.remaining.is_none_or(|remaining| remaining == 0);
        if upstream && complete && error.is_remote() && error.is_reset() && error.reason() == Some(Reason::NO_ERROR) {
            self.end();
            return None;
        }
        let failure = match &self.side {
            Side::Upstream { .. } => upstream_failure(error),
            Side::Downstream(_) | Side::Over => downstream_failure(error),
        };
        if let Side::Upstream { held } = &mut self.side {
            held.ends(Outcome::of(error, &failure));
        }
        self.over();
        Some(Err(BodyError::Failed(failure)))
    }

    /// An end that is no completion: the meter is not told.
    fn over(&mut self) {
        self.state = State::Done;
        self.side = Side::Over;
    }
}

/// What an error on an upstream stream means. A GOAWAY's error only reaches streams that the peer never looked at.
pub(super) fn upstream_failure(error: &h2::Error) -> Failure {
    let remote = error.is_remote();
    if error.is_io() {
        return Failure::ConnectionTermination;
    }
    if error.is_go_away() && remote {
        return Failure::RemoteRefused;
    }
    if error.is_reset() && remote {
        return match error.reason() {
            Some(Reason::REFUSED_STREAM) => Failure::RemoteRefused,
            _ => Failure::RemoteReset,
        };
    }
    if error.is_library() {
        return Failure::ProtocolError("http2.violation.of.messaging.rule");
    }
    Failure::LocalReset
}

/// What an error on a downstream stream means.
pub(super) fn downstream_failure(error: &h2::Error) -> Failure {
    if error.is_library() {
        return Failure::BadRequest {
            details: "http2.violation.of.messaging.rule",
            status: StatusCode::BAD_REQUEST,
        };
    }
    if error.is_reset() {
        return Failure::DownstreamReset;
    }
    Failure::DownstreamDisconnect
}
