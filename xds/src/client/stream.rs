//! One gRPC stream: raw bytes out, raw bytes in.
//!
//! Messages are handed on undecoded, each in an allocation of its own: a response of tens of megabytes is held once, and gone when it is applied.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

/// What a stream tells its driver.
#[derive(Debug)]
pub enum StreamEvent {
    /// There is a connection, and the stream on it. A server that has nothing to say may not even send headers before it has.
    Accepted,
    Message(Bytes),
    /// The last event: the server's status, OK included, or why there is no stream.
    Closed(Status),
}

/// The events of a stream, ending with `Closed`.
pub type Events = BoxStream<'static, StreamEvent>;

/// Requests on their way to the server; dropping the sender half-closes the stream.
pub type Outgoing = mpsc::Receiver<Bytes>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Turns the pending call of a stream into its events; `begun` is that of its [`Requests`].
pub(crate) fn events<F, B>(call: F, begun: oneshot::Receiver<()>) -> Events
where
    F: Future<Output = Result<http::Response<B>, Status>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let begun = stream::once(begun).filter_map(async |begun| begun.is_ok().then_some(StreamEvent::Accepted));
    let said = stream::once(call).flat_map(|opened| match opened.and_then(accepted) {
        Ok(body) => messages_of(Incoming::new(body)).left_stream(),
        Err(status) => stream::once(async { StreamEvent::Closed(status) }).right_stream(),
    });
    stream::select(begun, said).boxed()
}

/// The body of a response that promises messages.
fn accepted<B>(response: http::Response<B>) -> Result<B, Status> {
    match (status_of(response.headers()), response.status()) {
        (Some(status), _) => Err(status),
        (None, StatusCode::OK) => Ok(response.into_body()),
        (None, other) => Err(Status::new(code_of(other), format!("HTTP status {other}"))),
    }
}

/// What HTTP statuses mean to gRPC (grpc/doc/http-grpc-status-mapping.md).
fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// The status in headers or trailers. Its details are nobody's business, and need not be readable.
fn status_of(headers: &HeaderMap) -> Option<Status> {
    const STATUS: &str = "grpc-status";
    const MESSAGE: &str = "grpc-message";
    let mut known = HeaderMap::new();
    for name in [STATUS, MESSAGE] {
        if let Some(value) = headers.get(name) {
            known.insert(name, value.clone());
        }
    }
    Status::from_header_map(&known)
}

fn messages_of<B>(incoming: Incoming<B>) -> impl futures_util::Stream<Item = StreamEvent> + Send
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    stream::unfold(Some(incoming), |incoming| async {
        let mut incoming = incoming?;
        match incoming.message().await {
            Ok(message) => Some((StreamEvent::Message(message), Some(incoming))),
            Err(status) => Some((StreamEvent::Closed(status), None)),
        }
    })
}

/// The server's half of a stream.
struct Incoming<B> {
    body: Pin<Box<B>>,
    /// Of a frame that may hold more than one message.
    rest: Bytes,
    deframer: Deframer,
}

impl<B> Incoming<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn new(body: B) -> Self {
        Self {
            body: Box::pin(body),
            rest: Bytes::new(),
            deframer: Deframer::default(),
        }
    }

    /// The next message, or how the stream ended.
    async fn message(&mut self) -> Result<Bytes, Status> {
        loop {
            if let Some(message) = self.deframer.feed(&mut self.rest)? {
                return Ok(message);
            }
            let body = &mut self.body;
            let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => {
                    if let Some(status) = other.into_trailers().ok().and_then(|trailers| status_of(&trailers)) {
                        return Err(status);
                    }
                }
                Some(Err(error)) => return Err(Status::from_error(error.into())),
                None => return Err(Status::internal("the stream ended without a status")),
            }
        }
    }
}

/// Flag and length before each message.
const HEAD: usize = 5;

/// What is reserved for a message at most before any of it is there.
const TRUSTED: usize = 16 << 20;

/// Takes messages out of gRPC's framing.
#[derive(Default)]
struct Deframer {
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    known: usize,
    message: Vec<u8>,
    /// Bytes of the message that are not there yet.
    missing: usize,
}

impl Deframer {
    /// Takes from `data` what belongs to the next message, and returns it when it is complete.
    fn feed(&mut self, data: &mut Bytes) -> Result<Option<Bytes>, Status> {
        if self.known < HEAD {
            let part = data.split_to(data.len().min(HEAD - self.known));
            self.head[self.known..self.known + part.len()].copy_from_slice(&part);
            self.known += part.len();
            if self.known < HEAD {
                return Ok(None);
            }
            let [flag, length @ ..] = self.head;
            if flag != 0 {
                return Err(Status::internal("a compressed message, which was not offered"));
            }
            self.missing = u32::from_be_bytes(length) as usize;
            self.message = Vec::with_capacity(self.missing.min(TRUSTED));
        }
        let part = data.split_to(data.len().min(self.missing));
        self.message.extend_from_slice(&part);
        self.missing -= part.len();
        if self.missing > 0 {
            return Ok(None);
        }
        self.known = 0;
        Ok(Some(std::mem::take(&mut self.message).into()))
    }
}

/// Requests in gRPC's framing: the body of the call.
pub(crate) struct Requests {
    outgoing: Outgoing,
    begun: Option<oneshot::Sender<()>>,
}

impl Requests {
    /// And what tells that somebody has begun to send them.
    pub(crate) fn new(outgoing: Outgoing) -> (Self, oneshot::Receiver<()>) {
        let (begun, told) = oneshot::channel();
        let begun = Some(begun);
        (Self { outgoing, begun }, told)
    }
}

impl Body for Requests {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(begun) = self.begun.take() {
            // Nobody listens to a stream that was given up.
            let _ = begun.send(());
        }
        self.outgoing.poll_recv(cx).map(|message| message.map(framed))
    }
}

fn framed(message: Bytes) -> Result<Frame<Bytes>, Status> {
    let length = u32::try_from(message.len()).map_err(|_| Status::internal("a request of more than 4 GiB"))?;
    let mut frame = BytesMut::with_capacity(HEAD + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(&message);
    Ok(Frame::data(frame.freeze()))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn wire(messages: &[Vec<u8>]) -> Bytes {
        let frames = messages.iter().map(|message| framed(message.clone().into()).unwrap());
        let bytes: Vec<u8> = frames.flat_map(|frame| frame.into_data().unwrap()).collect();
        bytes.into()
    }

    #[tokio::test]
    async fn a_stream_is_there_when_its_requests_go_out_whatever_the_server_says() {
        let (_sender, outgoing) = mpsc::channel(1);
        let (mut requests, begun) = Requests::new(outgoing);
        let silent = std::future::pending::<Result<http::Response<tonic::body::Body>, Status>>();
        let mut events = events(silent, begun);
        assert!(events.next().now_or_never().is_none(), "no connection");
        let polled = std::future::poll_fn(|cx| Pin::new(&mut requests).poll_frame(cx)).now_or_never();
        assert!(polled.is_none(), "nothing to send");
        assert!(matches!(events.next().await, Some(StreamEvent::Accepted)));
    }

    proptest! {
        #[test]
        fn messages_are_the_same_however_they_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            cuts in prop::collection::vec(1_usize..20, 1..8),
        ) {
            let mut rest = wire(&messages);
            let (mut deframer, mut got) = (Deframer::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let mut piece = rest.split_to(rest.len().min(*cut));
                while let Some(message) = deframer.feed(&mut piece).unwrap() {
                    got.push(message.to_vec());
                }
                prop_assert!(piece.is_empty());
            }
            prop_assert_eq!(got, messages);
        }
    }

    #[test]
    fn a_length_is_not_trusted_and_compression_is_refused() {
        let mut deframer = Deframer::default();
        let head = [0, 0xff, 0xff, 0xff, 0xff, 1];
        assert!(deframer.feed(&mut Bytes::copy_from_slice(&head)).unwrap().is_none());
        assert!(deframer.message.capacity() <= TRUSTED);
        let mut deframer = Deframer::default();
        assert!(deframer.feed(&mut Bytes::from_static(&[1, 0, 0, 0, 0])).is_err());
    }

    #[test]
    fn a_status_may_have_details_that_nobody_can_read() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "8".parse().unwrap());
        trailers.insert("grpc-message", "too%20much".parse().unwrap());
        trailers.insert("grpc-status-details-bin", "!".parse().unwrap());
        let status = status_of(&trailers).unwrap();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too much"));
        assert!(status_of(&HeaderMap::new()).is_none());
    }
}
