//! A received body of either side, with its flow control.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Frame, SizeHint};

use super::client::{Outcome, UpstreamStream};
use super::wire::{By, Error, Reason, RecvStream, Trailers};
use crate::http::body::BodyError;
use crate::http::failure::Failure;
use crate::runtime::clock;

/// A received body. Each frame that is handed out reopens the sender's window by its size: who does not poll, pushes back.
pub struct RecvBody {
    stream: RecvStream,
    is_done: bool,
    /// From `content-length`: bytes still to come. The codec checks that it is kept.
    remaining: Option<u64>,
    side: Side,
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
    pub(super) fn downstream(stream: RecvStream, length: Option<u64>, meter: Arc<Meter>) -> Self {
        Self::new(stream, length, Side::Downstream(meter))
    }

    pub(super) fn upstream(stream: RecvStream, length: Option<u64>, upstream: UpstreamStream) -> Self {
        Self::new(stream, length, Side::Upstream { held: upstream })
    }

    fn new(stream: RecvStream, remaining: Option<u64>, side: Side) -> Self {
        Self {
            stream,
            is_done: false,
            remaining,
            side,
        }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => Some(Ok(self.take(data))),
            Some(Err(error)) => self.fail(error),
            None => match self.stream.take_trailers() {
                Some(trailers) => Some(self.take_trailers(*trailers)),
                None => {
                    self.end();
                    None
                }
            },
        })
    }

    pub fn is_end_stream(&self) -> bool {
        self.is_done || self.stream.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.remaining {
            _ if self.is_done => SizeHint::with_exact(0),
            Some(remaining) => SizeHint::with_exact(remaining),
            None => SizeHint::default(),
        }
    }

    fn take(&mut self, data: Bytes) -> Frame<Bytes> {
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

    fn take_trailers(&mut self, trailers: Trailers) -> Result<Frame<Bytes>, BodyError> {
        let Some(details) = trailers.over else {
            self.end();
            return Ok(Frame::trailers(trailers.fields));
        };
        let failure = match &self.side {
            Side::Upstream { .. } => Failure::ProtocolError(details),
            Side::Downstream(_) | Side::Over => bad_request(details),
        };
        self.over();
        Err(BodyError::Failed(failure))
    }

    fn end(&mut self) {
        self.is_done = true;
        match &mut self.side {
            Side::Downstream(meter) => meter.end(),
            Side::Upstream { held } => held.ends(Outcome::Complete),
            Side::Over => {}
        }
        self.side = Side::Over;
    }

    fn fail(&mut self, error: Error) -> Option<Result<Frame<Bytes>, BodyError>> {
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
        self.is_done = true;
        self.side = Side::Over;
    }
}

/// What an error on an upstream stream means. A GOAWAY's error only reaches streams that the peer never looked at.
pub(super) fn upstream_failure(error: Error) -> Failure {
    match error {
        Error::Transport => Failure::ConnectionTermination,
        Error::GoAway(_, By::Peer) | Error::Reset(Reason::REFUSED_STREAM, By::Peer) => Failure::RemoteRefused,
        Error::Reset(_, By::Peer) => Failure::RemoteReset,
        Error::Reset(_, By::Rules(details)) | Error::GoAway(_, By::Rules(details)) => Failure::ProtocolError(details),
        Error::Reset(_, By::Us) | Error::GoAway(_, By::Us) => Failure::LocalReset,
    }
}

/// What an error on a downstream stream means.
pub(super) fn downstream_failure(error: Error) -> Failure {
    match error {
        Error::Reset(_, By::Rules(details)) | Error::GoAway(_, By::Rules(details)) => bad_request(details),
        Error::Reset(..) => Failure::DownstreamReset,
        Error::GoAway(..) | Error::Transport => Failure::DownstreamDisconnect,
    }
}

fn bad_request(details: &'static str) -> Failure {
    Failure::BadRequest {
        details,
        status: StatusCode::BAD_REQUEST,
    }
}
