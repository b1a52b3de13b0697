//! gRPC framing by hand, so that a script can cut a message in half, dribble it out or put rubbish between two frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

/// Length-prefixed message header: one flag byte and four of length.
const PREFIX: usize = 5;

/// gRPC status codes used here.
pub mod code {
    /// Success.
    pub const OK: i32 = 0;
    /// The client sent something that makes no sense.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// No such method.
    pub const UNIMPLEMENTED: i32 = 12;
    /// The server goes away.
    pub const UNAVAILABLE: i32 = 14;
}

/// One piece of a response body.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of one DATA frame.
    Data(Bytes),
    /// The end, with trailers.
    Trailers(HeaderMap),
    /// The end, with RST_STREAM.
    Reset,
}

/// A response body fed through a channel.
#[derive(Debug)]
pub struct ReplyBody {
    pieces: Option<mpsc::Receiver<Piece>>,
}

impl ReplyBody {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self { pieces: None }
    }

    /// A body that carries what is sent into the channel; it ends with the trailers, a reset, or when the sender is dropped.
    pub fn channel(pieces: mpsc::Receiver<Piece>) -> Self {
        Self { pieces: Some(pieces) }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(pieces) = self.pieces.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = match ready!(pieces.poll_recv(cx)) {
            Some(Piece::Data(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Piece::Reset) => Some(Err(io::Error::other("scripted reset"))),
            None => None,
        };
        self.pieces = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Trailers with a gRPC status.
pub fn status_trailers(code: i32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(text) = HeaderValue::from_str(message) {
        trailers.insert("grpc-message", text);
    }
    trailers
}

/// Response head of a gRPC stream that is going to have messages.
pub fn streaming(body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A whole gRPC answer that is a status and nothing else ("trailers-only").
pub fn status_only(code: i32, message: &str) -> Response<ReplyBody> {
    let mut response = streaming(ReplyBody::empty());
    response.headers_mut().extend(status_trailers(code, message));
    response
}

/// Frames one message.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// Messages coming in on one stream.
pub struct Requests {
    body: Incoming,
    buffer: BytesMut,
}

impl Requests {
    /// Reads messages out of a request body.
    pub fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
        }
    }

    /// The next message, or `None` when the client has finished.
    ///
    /// # Errors
    /// A broken stream, or a compressed message (never announced as accepted).
    ///
    /// # Cancel safety
    /// Bytes already read stay buffered; nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Bytes>> {
        let Some((head, _)) = self.buffer.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [flag, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if flag != 0 {
            return Err(io::Error::other("compressed gRPC message"));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}
