//! One write for the frames of many streams.
//!
//! The streams of a connection become ready one after the other, as their sockets do. Written at once, each would cost a TLS record, a system call, and
//! a wake-up of the peer, which then answers as piecemeal; the pair falls into step at one request a turn. So a flush first waits for the end of the event
//! loop's turn, and goes on waiting as long as turns bring more, within bounds. A connection with a single stream has nothing to wait for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::runtime::io::Io;
use crate::runtime::wake;

/// So much is never kept back: one TLS record, and what the `h2` crate gathers by itself.
const ENOUGH: usize = 16 * 1024;

/// Turns that a flush waits at most.
const PATIENCE: u8 = 4;

/// What a connection tells its writer.
#[derive(Default)]
pub(super) struct Load {
    /// Streams open on the connection.
    pub(super) streams: AtomicU32,
    /// Whatever is written now must go: nobody will ask again.
    pub(super) hurry: AtomicBool,
}

/// Stands between the `h2` crate and the stream.
pub(super) struct Coalesced {
    io: Io,
    load: Arc<Load>,
    /// Written by the codec, not yet to `io`: from `sent` on.
    held: Vec<u8>,
    sent: usize,
    /// What was held when the flush last began to wait for a turn.
    seen: usize,
    waited: u8,
}

impl Coalesced {
    pub(super) fn new(io: Io, load: Arc<Load>) -> Self {
        Self {
            io,
            load,
            held: Vec::new(),
            sent: 0,
            seen: 0,
            waited: 0,
        }
    }

    /// Whether the next turn may bring more to write.
    fn worth_waiting(&self) -> bool {
        let grown = self.held.len() > self.seen;
        let many = self.load.streams.load(Ordering::Relaxed) > 1 && !self.load.hurry.load(Ordering::Relaxed);
        many && grown && self.sent == 0 && self.held.len() < ENOUGH && self.waited < PATIENCE
    }

    fn poll_write_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        // Given back: an idle connection keeps no buffer, and an allocation a batch is little.
        self.held = Vec::new();
        self.sent = 0;
        self.seen = 0;
        self.waited = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Coalesced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Coalesced {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if this.held.len() + length > ENOUGH {
            ready!(this.poll_write_held(cx))?;
            if length >= ENOUGH {
                return Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
            }
        }
        for buf in bufs {
            this.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.held.is_empty() {
            if this.worth_waiting() {
                this.seen = this.held.len();
                this.waited += 1;
                wake::next_turn(cx);
                return Poll::Pending;
            }
            ready!(this.poll_write_held(cx))?;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_held(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn pair(streams: u32) -> (Coalesced, DuplexStream, Arc<Load>) {
        let (ours, theirs) = tokio::io::duplex(2 * ENOUGH);
        let load = Arc::new(Load::default());
        load.streams.store(streams, Ordering::Relaxed);
        (Coalesced::new(Io::Duplex(ours), load.clone()), theirs, load)
    }

    async fn flushes_at_once(io: &mut Coalesced) -> bool {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_flush(cx).is_ready())).await
    }

    #[tokio::test]
    async fn what_turns_bring_leaves_in_one_write() {
        let (mut io, mut peer, _load) = pair(3);
        let mut read = [0; 64];
        for part in ["one ", "two ", "three"] {
            io.write_all(part.as_bytes()).await.unwrap();
            assert!(!flushes_at_once(&mut io).await);
        }
        // A turn that brought nothing ends the wait.
        assert!(flushes_at_once(&mut io).await);
        let count = peer.read(&mut read).await.unwrap();
        assert_eq!(&read[..count], b"one two three");
    }

    #[tokio::test]
    async fn patience_ends() {
        let (mut io, mut peer, _load) = pair(3);
        for _ in 0..PATIENCE {
            io.write_all(b"more").await.unwrap();
            assert!(!flushes_at_once(&mut io).await);
        }
        io.write_all(b"more").await.unwrap();
        assert!(flushes_at_once(&mut io).await);
        let mut read = [0; 64];
        assert_eq!(peer.read(&mut read).await.unwrap(), 4 * (usize::from(PATIENCE) + 1));
    }

    #[tokio::test]
    async fn a_single_stream_and_a_last_word_wait_for_nothing() {
        let (mut io, _peer, load) = pair(1);
        io.write_all(b"alone").await.unwrap();
        assert!(flushes_at_once(&mut io).await);
        load.streams.store(2, Ordering::Relaxed);
        load.hurry.store(true, Ordering::Relaxed);
        io.write_all(b"last").await.unwrap();
        assert!(flushes_at_once(&mut io).await);
    }

    #[tokio::test]
    async fn a_waiting_flush_is_woken_and_bytes_keep_their_order() {
        let (mut io, mut peer, _load) = pair(2);
        let long = vec![b'x'; ENOUGH];
        let writing = async {
            io.write_all(b"head").await.unwrap();
            io.write_all(&long).await.unwrap();
            io.write_all(b"tail").await.unwrap();
            io.flush().await.unwrap();
            io.shutdown().await.unwrap();
        };
        let mut all = Vec::new();
        let (_, read) = tokio::join!(writing, peer.read_to_end(&mut all));
        assert_eq!(read.unwrap(), ENOUGH + 8);
        assert!(all.starts_with(b"headx") && all.ends_with(b"xtail"));
    }
}
