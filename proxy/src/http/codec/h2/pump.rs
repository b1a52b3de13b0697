//! Sends a body on a stream, as far as the peer's window allows: the next frame is taken when the last one is on its way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body as _;

use super::wire::{Error, Reason, SendStream};
use crate::http::body::{Body, BodyError};
use crate::http::codec::UpstreamMeter;

/// A body on its way out. At most one frame a stream waits here; an end or trailers never wait for a window.
pub(super) struct Pump {
    stream: SendStream,
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
    /// The stream ended before.
    Stream(Error),
}

impl Pump {
    pub(super) fn new(stream: SendStream, body: Body) -> Self {
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
                Poll::Pending => return self.stream.poll_reset(cx).map(|error| Err(PumpError::Stream(error))),
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
                None => return self.poll_end(cx),
                Some(Err(error)) => return Poll::Ready(Err(PumpError::Body(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.last = self.body.is_end_stream();
                        if data.is_empty() && self.last {
                            return self.poll_end(cx);
                        }
                        self.held = data;
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let done = self.stream.send_trailers(&trailers).map_err(PumpError::Stream);
                        self.trailers = self.keep_trailers.then(|| Box::new(trailers));
                        return Poll::Ready(done);
                    }
                },
            }
        }
    }

    /// Sends END_STREAM alone, which waits for nothing.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        let sent = self.stream.poll_send(&mut Bytes::new(), true, cx);
        sent.map_err(PumpError::Stream)
    }

    /// Sends all of the held frame, as the window allows.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        let before = self.held.len();
        let sent = self.stream.poll_send(&mut self.held, self.last, cx);
        self.sent += (before - self.held.len()) as u64;
        if sent.is_pending() {
            self.body.poll_progress(cx);
        }
        sent.map_err(PumpError::Stream)
    }
}
