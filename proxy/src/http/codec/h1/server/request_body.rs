//! The body of the running request, read from the connection that its driver shares with it.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::Conn;
use crate::http::body::BodyError;
use crate::http::codec::Underscores;
use crate::http::codec::h1::decode::{BodyDecoder, Broken, Decoded, TrailerLimits};
use crate::http::codec::h1::parse;
use crate::http::failure::Failure;
use crate::runtime::clock;

/// A request body read from a downstream connection.
pub struct RequestBody {
    pub(super) conn: Arc<Mutex<Conn>>,
    pub(super) limits: TrailerLimits,
    /// `enable_trailers`: without it they are read and dropped.
    pub(super) keep_trailers: bool,
    pub(super) underscores: Underscores,
    pub(super) ended: bool,
}

impl RequestBody {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut conn = self.conn.lock();
        let conn = &mut *conn;
        loop {
            let decoded = conn.body.decode(&mut conn.stream.read, self.limits);
            if conn.body.is_done() && decoded.is_ok() {
                conn.received_all.get_or_insert_with(clock::now);
            }
            match decoded {
                Ok(Decoded::Data(data)) => {
                    conn.received += data.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(mut trailers)) if self.keep_trailers => {
                    if self.underscores.apply(&mut trailers).is_err() {
                        self.ended = true;
                        return Poll::Ready(Some(Err(BodyError::Failed(super::refuse::UNDERSCORE))));
                    }
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::Trailers(_)) => {}
                Ok(Decoded::End) => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(broken) => {
                    self.ended = true;
                    let failure = match broken {
                        Broken::Framing => parse::CODEC_ERROR,
                        Broken::TrailersTooLarge => parse::HEAD_TOO_LARGE,
                        Broken::TooManyTrailers => parse::TOO_MANY_HEADERS,
                    };
                    return Poll::Ready(Some(Err(BodyError::Failed(failure))));
                }
            }
            match std::task::ready!(conn.stream.poll_fill(cx)) {
                Ok(0) if conn.body == BodyDecoder::UntilClose => {
                    conn.body = BodyDecoder::length(0);
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Ok(0) | Err(_) => {
                    self.ended = true;
                    conn.is_gone = true;
                    return Poll::Ready(Some(Err(BodyError::Failed(Failure::DownstreamDisconnect))));
                }
                Ok(_) => conn.stream.last_activity = Some(clock::now()),
            }
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.ended || self.conn.lock().body.is_done()
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.conn.lock().body.remaining() {
            Some(remaining) => SizeHint::with_exact(remaining),
            None => SizeHint::default(),
        }
    }
}
