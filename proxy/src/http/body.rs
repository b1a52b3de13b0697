//! One body type for every codec: an enum, so that a frame costs no allocation and no indirect call.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::codec::{h1, h2};
use super::failure::Failure;

/// A message body. Frames are data, then at most one trailers frame.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    Full(Bytes),
    /// Known bytes, then trailers.
    Trailers(Option<Bytes>, Box<HeaderMap>),
    /// A request body, read from a downstream HTTP/1 connection.
    H1Request(h1::RequestBody),
    /// A response body, read from a leased upstream HTTP/1 connection; gives the connection back at its end.
    H1Response(Box<h1::ResponseBody>),
    /// Either direction over HTTP/2.
    H2(Box<h2::RecvBody>),
    /// Anything else: filters, tower layers, users.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>),
}

/// A body that ended before its end.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// The peer closed, reset, or broke the protocol; the failure says what to record and answer.
    #[error("{}", .0.details())]
    Failed(Failure),
    #[error("{0}")]
    Other(String),
}

impl Body {
    /// Whether it is known to hold nothing, without polling.
    pub fn is_empty(&self) -> bool {
        http_body::Body::is_end_stream(self)
    }

    /// Drives whatever must go on although nobody takes frames now: the request side of a response.
    pub fn poll_progress(&mut self, cx: &mut Context<'_>) {
        if let Self::H1Response(body) = self {
            body.poll_progress(cx);
        }
    }

    pub fn take(&mut self) -> Body {
        std::mem::take(self)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::from(Bytes::from_static(text.as_bytes()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(bytes)
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::from(Bytes::from(text))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Trailers(data, trailers) => {
                if let Some(data) = data.take() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                let trailers = std::mem::take(trailers.as_mut());
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Self::H1Request(body) => body.poll_frame(cx),
            Self::H1Response(body) => body.poll_frame(cx),
            Self::H2(body) => body.poll_frame(cx),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) | Self::Trailers(..) => false,
            Self::H1Request(body) => body.is_end_stream(),
            Self::H1Response(body) => body.is_end_stream(),
            Self::H2(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Trailers(..) => SizeHint::default(),
            Self::H1Request(body) => body.size_hint(),
            Self::H1Response(body) => body.size_hint(),
            Self::H2(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({:?})", http_body::Body::size_hint(self))
    }
}
