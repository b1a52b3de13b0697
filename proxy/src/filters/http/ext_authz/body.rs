//! As much of a request's body as an authorization service wants, and the rest behind it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::http::body::{Body, BodyError};
use crate::http::failure::Failure;

/// What was read.
pub(super) struct Read {
    /// At most the limit.
    pub bytes: Bytes,
    /// Bytes that have come so far.
    pub received: usize,
    /// Whether that is the whole body.
    pub complete: bool,
}

/// Reads until the end or until more than `limit` bytes have come, and gives back a body that yields everything again.
pub(super) async fn read(mut body: Body, limit: usize) -> Result<(Read, Body), Failure> {
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    let mut complete = body.is_empty();
    while !complete && bytes.len() <= limit {
        match body.frame().await {
            None => complete = true,
            Some(Err(BodyError::Failed(failure))) => return Err(failure),
            Some(Err(BodyError::Other(_))) => return Err(Failure::LocalReset),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(other) => trailers = other.into_trailers().ok(),
            },
        }
        complete |= trailers.is_some() || body.is_end_stream();
    }
    let all = bytes.freeze();
    let read = Read {
        complete: complete && all.len() <= limit,
        bytes: all.slice(..all.len().min(limit)),
        received: all.len(),
    };
    let again = match (complete, trailers) {
        (true, None) => Body::from(all),
        (true, Some(trailers)) => Body::Trailers(Some(all), Box::new(trailers)),
        (false, trailers) => Body::Boxed(Box::pin(Replayed {
            first: Some(all),
            trailers,
            rest: body,
        })),
    };
    Ok((read, again))
}

/// What was read, then what was not.
struct Replayed {
    first: Option<Bytes>,
    trailers: Option<HeaderMap>,
    rest: Body,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take().filter(|first| !first.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut this.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.trailers.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + first);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint
    }
}
