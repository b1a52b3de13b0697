//! One gRPC stream: raw bytes out, raw bytes in.
//!
//! The codec hands messages on undecoded, so that a response of tens of megabytes is held once and freed as a whole.

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Status, Streaming};

/// What a stream tells its driver.
#[derive(Debug)]
pub enum StreamEvent {
    /// Response headers are here.
    Accepted,
    Message(Bytes),
    /// The last event: the server's status, OK included, or why there is no stream.
    Closed(Status),
}

/// The events of a stream, ending with `Closed`.
pub type Events = BoxStream<'static, StreamEvent>;

/// Requests on their way to the server; dropping the sender half-closes the stream.
pub type Outgoing = mpsc::Receiver<Bytes>;

/// Turns the pending call of a stream into its events.
pub(crate) fn events<F>(call: F) -> Events
where
    F: Future<Output = Result<Streaming<Bytes>, Status>> + Send + 'static,
{
    stream::once(call)
        .flat_map(|opened| match opened {
            Ok(messages) => stream::once(async { StreamEvent::Accepted })
                .chain(messages_of(messages))
                .left_stream(),
            Err(status) => stream::once(async { StreamEvent::Closed(status) }).right_stream(),
        })
        .boxed()
}

fn messages_of(messages: Streaming<Bytes>) -> impl futures_util::Stream<Item = StreamEvent> + Send {
    stream::unfold(Some(messages), |messages| async {
        let mut messages = messages?;
        match messages.message().await {
            Ok(Some(message)) => Some((StreamEvent::Message(message), Some(messages))),
            Ok(None) => Some((StreamEvent::Closed(Status::ok("")), None)),
            Err(status) => Some((StreamEvent::Closed(status), None)),
        }
    })
}

pub(crate) fn requests(outgoing: Outgoing) -> ReceiverStream<Bytes> {
    ReceiverStream::new(outgoing)
}

/// gRPC framing around bytes that somebody else encodes and decodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.len());
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = message.remaining();
        Ok(Some(message.copy_to_bytes(length)))
    }
}
