//! The tunnel after the answer: bytes both ways until both sides have ended, or nothing moved for too long.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, WriteHalf};

use crate::http::body::{Body, BodyError};
use crate::http::failure::Failure;
use crate::runtime::clock;
use crate::runtime::io::Io;

/// Bytes a direction holds: what it read and could not write yet.
const BUFFER: usize = 16 * 1024;

/// How a tunnel ended, and what went through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// From downstream to upstream.
    pub received: u64,
    /// From upstream to downstream.
    pub sent: u64,
    pub reason: TunnelReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelReason {
    /// Both sides closed.
    Finished,
    DownstreamError,
    UpstreamError,
    IdleTimeout,
}

/// Copies both ways, passing each side's end on as a half-close, until both have ended. `idle`: with no byte moved for so long it ends; `None` waits for ever.
///
/// # Cancel safety
///
/// Not cancel safe: bytes in the buffers are lost; drop it to cut the tunnel.
pub async fn tunnel<D, U>(mut downstream: D, mut upstream: U, idle: Option<Duration>) -> TunnelEnd
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::default();
    let mut down = Direction::default();
    let mut last_move = clock::now();
    let mut timer = idle.map(|idle| Box::pin(tokio::time::sleep(idle)));
    let reason = poll_fn(|cx| {
        let before = up.moved + down.moved;
        let up_done = up.poll(cx, &mut downstream, &mut upstream);
        let down_done = down.poll(cx, &mut upstream, &mut downstream);
        for (done, read, write) in [
            (&up_done, TunnelReason::DownstreamError, TunnelReason::UpstreamError),
            (&down_done, TunnelReason::UpstreamError, TunnelReason::DownstreamError),
        ] {
            match done {
                Poll::Ready(Err(Side::Read)) => return Poll::Ready(read),
                Poll::Ready(Err(Side::Write)) => return Poll::Ready(write),
                _ => {}
            }
        }
        if up_done.is_ready() && down_done.is_ready() {
            return Poll::Ready(TunnelReason::Finished);
        }
        let (Some(timer), Some(idle)) = (&mut timer, idle) else {
            return Poll::Pending;
        };
        if up.moved + down.moved != before {
            last_move = clock::now();
        }
        // The timer is not touched for each byte: when it fires it looks whether there is something left to wait.
        while timer.as_mut().poll(cx).is_ready() {
            let due = last_move + idle;
            if due <= clock::now() {
                return Poll::Ready(TunnelReason::IdleTimeout);
            }
            timer.as_mut().reset(tokio::time::Instant::from_std(due));
        }
        Poll::Pending
    })
    .await;
    TunnelEnd {
        received: up.moved,
        sent: down.moved,
        reason,
    }
}

/// Which side of a direction failed.
enum Side {
    Read,
    Write,
}

/// One direction of a tunnel. Its buffer exists while it holds bytes.
#[derive(Default)]
struct Direction {
    buffer: BytesMut,
    moved: u64,
    ended: bool,
    closed: bool,
    dirty: bool,
}

impl Direction {
    /// Ready when the reader has ended and the writer is shut down behind it.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<Result<(), Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.buffer.is_empty() {
                match ready!(Pin::new(&mut *writer).poll_write(cx, &self.buffer)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Side::Write)),
                    Ok(written) => {
                        let _ = self.buffer.split_to(written);
                        self.moved += written as u64;
                        self.dirty = true;
                    }
                }
            }
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                let shut = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                self.closed = true;
                return Poll::Ready(shut.map_err(|_| Side::Write));
            }
            match poll_read(cx, reader, &mut self.buffer) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Side::Read)),
                Poll::Pending => {
                    if self.dirty && ready!(Pin::new(&mut *writer).poll_flush(cx)).is_err() {
                        return Poll::Ready(Err(Side::Write));
                    }
                    self.dirty = false;
                    self.buffer = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Reads up to [`BUFFER`] bytes into an empty buffer.
fn poll_read<R: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    reader: &mut R,
    buffer: &mut BytesMut,
) -> Poll<std::io::Result<usize>> {
    buffer.resize(BUFFER, 0);
    let mut read = ReadBuf::new(buffer);
    let result = Pin::new(reader).poll_read(cx, &mut read);
    let filled = read.filled().len();
    buffer.truncate(filled);
    ready!(result)?;
    Poll::Ready(Ok(filled))
}

/// An upgraded connection as two bodies, for a tunnel whose other side is an HTTP/2 stream: what the peer sends, and where its bytes go.
pub fn split_tunnel(io: Io) -> (Body, TunnelWriter) {
    let (reader, writer) = tokio::io::split(io);
    (reader_body(reader), TunnelWriter(writer))
}

/// A body of whatever can be read.
pub fn reader_body<R: AsyncRead + Unpin + Send + 'static>(reader: R) -> Body {
    Body::Boxed(Box::pin(IoBody {
        reader,
        buffer: BytesMut::new(),
        ended: false,
    }))
}

struct IoBody<R> {
    reader: R,
    buffer: BytesMut,
    ended: bool,
}

impl<R: AsyncRead + Unpin> http_body::Body for IoBody<R> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let result = poll_read(cx, &mut this.reader, &mut this.buffer);
        if result.is_pending() {
            this.buffer = BytesMut::new();
        }
        match ready!(result) {
            Ok(0) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Ok(_) => Poll::Ready(Some(Ok(Frame::data(this.buffer.split().freeze())))),
            Err(_) => {
                this.ended = true;
                Poll::Ready(Some(Err(BodyError::Failed(Failure::ConnectionTermination))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// The writing half of [`split_tunnel`].
pub struct TunnelWriter(WriteHalf<Io>);

impl TunnelWriter {
    /// Writes the body's bytes, then closes the writing side. Trailers have no place in a tunnel and go nowhere.
    ///
    /// # Errors
    ///
    /// When the body fails, or the connection does.
    pub async fn write(mut self, mut body: Body) -> Result<u64, BodyError> {
        let mut written = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let Ok(data) = frame?.into_data() else { continue };
            self.0.write_all(&data).await.map_err(gone)?;
            self.0.flush().await.map_err(gone)?;
            written += data.len() as u64;
        }
        self.0.shutdown().await.map_err(gone)?;
        Ok(written)
    }
}

fn gone(_: std::io::Error) -> BodyError {
    BodyError::Failed(Failure::ConnectionTermination)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn half_closes_pass_on() {
        let (mut client, downstream) = duplex(64);
        let (upstream, mut server) = duplex(64);
        let run = tunnel(downstream, upstream, None);
        let asks = async {
            client.write_all(b"ping").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let answers = async {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            server.write_all(&[7; 1000]).await.unwrap();
            server.shutdown().await.unwrap();
            heard
        };
        let (end, heard, asked) = tokio::join!(run, asks, answers);
        assert_eq!((heard.len(), asked.as_slice()), (1000, b"ping".as_slice()));
        let reason = TunnelReason::Finished;
        assert_eq!(
            end,
            TunnelEnd {
                received: 4,
                sent: 1000,
                reason
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn idles_out() {
        let (mut client, downstream) = duplex(64);
        let (upstream, mut server) = duplex(64);
        let idle = Duration::from_secs(10);
        let started = clock::now();
        let run = tunnel(downstream, upstream, Some(idle));
        let talk = async {
            clock::sleep(Duration::from_secs(6)).await;
            client.write_all(b"x").await.unwrap();
            server.read_u8().await.unwrap();
        };
        let (end, ()) = tokio::join!(run, talk);
        assert_eq!(end.reason, TunnelReason::IdleTimeout);
        assert_eq!((end.received, end.sent), (1, 0));
        assert_eq!((clock::now() - started).as_secs(), 16);
    }
}
