//! Sends a body on a stream, as far as the peer's window allows: the next frame is taken when the last one is on its way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;

use crate::http::body::{Body, BodyError};
use crate::http::codec::UpstreamMeter;

/// A body on its way out. At most one frame a stream waits here; an end or trailers never wait for a window.
pub(super) struct Pump {
    stream: SendStream<Bytes>,
    body: Body,
    /// What of the current frame is not sent yet.
    held: Bytes,
    /// Whether the held frame is the last.
    last: bool,
    sent: u64,
    /// Trailers that were sent, where a log may ask for them.
    pub(super) trailers: Option<Box<http::HeaderMap>>,
    keep_trailers: bool,
    meter: Option<Arc<UpstreamMeter>>,
}

/// Why a body was not sent in full.
pub(super) enum PumpError {
    /// The body failed; the stream has not been told yet.
    Body(BodyError),
    /// The peer reset the stream.
    Reset(Reason),
    Connection(h2::Error),
}

impl Pump {
    pub(super) fn new(stream: SendStream<Bytes>, body: Body) -> Self {
        Self {
            stream,
            body,
            held: Bytes::new(),
            last: false,
            sent: 0,
            trailers: None,
            keep_trailers: false,
            meter: None,
        }
    }

    /// Leaves the trailers in [`Self::trailers`].
    pub(super) fn keeping_trailers(mut self, keep: bool) -> Self {
        self.keep_trailers = keep;
        self
    }

    /// Tells `meter` when the body moves and ends.
    pub(super) fn metering(mut self, meter: Option<&Arc<UpstreamMeter>>) -> Self {
        self.meter = meter.cloned();
        self
    }

    /// Body bytes handed over so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Ready when the last frame, with END_STREAM, is handed over. Wakes for the body, the window, and a reset.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        loop {
            if !self.held.is_empty() {
                ready!(self.poll_held(cx))?;
                if self.last {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return self.poll_reset(cx),
            };
            if let Some(meter) = &self.meter {
                match &frame {
                    Some(Ok(frame)) if frame.is_data() => {
                        meter.body_moves();
                        if self.body.is_end_stream() {
                            meter.body_ends();
                        }
                    }
                    Some(Ok(_)) | None => meter.body_ends(),
                    Some(Err(_)) => {}
                }
            }
            match frame {
                None => return Poll::Ready(self.send(Bytes::new(), true)),
                Some(Err(error)) => return Poll::Ready(Err(PumpError::Body(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.last = self.body.is_end_stream();
                        if data.is_empty() && self.last {
                            return Poll::Ready(self.send(data, true));
                        }
                        self.held = data;
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.trailers = self.keep_trailers.then(|| Box::new(trailers.clone()));
                        let done = self.stream.send_trailers(trailers).map_err(PumpError::Connection);
                        return Poll::Ready(done);
                    }
                },
            }
        }
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), PumpError> {
        self.sent += data.len() as u64;
        self.stream.send_data(data, last).map_err(PumpError::Connection)
    }

    /// Sends all of the held frame, as the window allows.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        while !self.held.is_empty() {
            self.stream.reserve_capacity(self.held.len());
            let window = self.stream.capacity();
            if window == 0 {
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(PumpError::Connection(error))),
                    // The stream is closed: the reset says why.
                    Poll::Ready(None) => {
                        ready!(self.poll_reset(cx))?;
                        return Poll::Ready(Err(PumpError::Reset(Reason::CANCEL)));
                    }
                    Poll::Pending => {
                        self.body.poll_progress(cx);
                        return self.poll_reset(cx);
                    }
                }
            }
            let part = self.held.split_to(window.min(self.held.len()));
            let last = self.last && self.held.is_empty();
            self.send(part, last)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Never ready without an error.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        let error = match ready!(self.stream.poll_reset(cx)) {
            Ok(reason) => PumpError::Reset(reason),
            Err(error) => PumpError::Connection(error),
        };
        Poll::Ready(Err(error))
    }
}
