//! One write for the frames of many streams.
//!
//! The streams of a connection become ready one after the other, as their sockets do. Written at once, each would cost a TLS record, a system call, and
//! a wake-up of the peer, which then answers as piecemeal; the pair falls into step at one request a turn. So a flush first waits for the end of the event
//! loop's turn, and goes on waiting as long as turns bring more, within bounds. A connection with a single stream has nothing to wait for.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::bell::Bell;
use super::watch::{Flood, Watch};
use crate::runtime::io::Io;
use crate::runtime::{clock, wake};

/// So much is never kept back: one TLS record, and what the `h2` crate gathers by itself.
const ENOUGH: usize = 16 * 1024;

/// So much is read of what comes behind the end.
const ENOUGH_READ: usize = 256 * 1024;

/// Turns that a flush waits at most.
const PATIENCE: u8 = 4;

/// What a connection tells its writer.
#[derive(Default)]
pub(super) struct Load {
    /// Streams open on the connection.
    pub(super) streams: AtomicU32,
    /// Whatever is written now must go: nobody will ask again.
    pub(super) hurry: AtomicBool,
    /// Who polls wants to know what has come; what is held to be written waits for the task.
    pub(super) only_reads: AtomicBool,
    /// The peer sends frames that it may not send so many of: nothing more is read.
    pub(super) flood: OnceLock<Flood>,
    /// The peer owes the rest of a header block, since then.
    pub(super) block_since: Mutex<Option<Instant>>,
    /// The highest stream that was taken up.
    pub(super) accepted: AtomicU32,
    /// Requests that the client has begun.
    pub(super) begun: AtomicU64,
    /// Requests that were refused before they were taken up.
    pub(super) refused: AtomicU64,
    /// Streams that were reset before they were taken up, for what their heads were; and whether there are any.
    pub(super) malformed: Mutex<Vec<u32>>,
    pub(super) any_malformed: AtomicBool,
    /// What is left when the codec is done: the peer has not closed it.
    left: Mutex<Option<Io>>,
}

impl Load {
    /// Says that no more will come, and reads what the peer still sends, for a while: closing over unread bytes would reset the connection, and
    /// take back what the peer has not read yet. Returns whether the peer had not closed by the end of it.
    pub(super) async fn linger(&self, limit: Option<Duration>) -> bool {
        let left = self.left.lock().take();
        let (Some(mut io), Some(limit)) = (left, limit) else {
            return false;
        };
        let rest = async {
            let _ = io.shutdown().await;
            let mut nobody = vec![0; 4096];
            let mut room = ENOUGH_READ;
            while room > 0 {
                match io.read(&mut nobody).await {
                    Ok(count) if count > 0 => room = room.saturating_sub(count),
                    _ => return,
                }
            }
            // It sends on and on: it is not read any more, and has until then to read what we have said.
            std::future::pending().await
        };
        tokio::select! {
            () = rest => false,
            () = clock::sleep(limit) => true,
        }
    }
}

/// Closes what is left of a connection, at the latest when it is dropped.
pub(super) struct Closes(pub(super) Arc<Load>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.left.lock().take();
    }
}

/// Stands between the `h2` crate and the stream.
pub(super) struct Coalesced {
    /// `None` when it is dropped.
    io: Option<Io>,
    load: Arc<Load>,
    bell: Option<Bell>,
    watch: Watch,
    /// The peer has closed, or the connection broke.
    ended: bool,
    /// Written by the codec, not yet to `io`: from `sent` on.
    held: Vec<u8>,
    sent: usize,
    /// What was held when the flush last began to wait for a turn.
    seen: usize,
    waited: u8,
}

impl Coalesced {
    pub(super) fn new(io: Io, load: Arc<Load>, watch: Watch) -> Self {
        Self {
            io: Some(io),
            load,
            bell: None,
            watch,
            ended: false,
            held: Vec::new(),
            sent: 0,
            seen: 0,
            waited: 0,
        }
    }

    /// Has `bell` rung for what comes.
    pub(super) fn ringing(mut self, bell: Bell) -> Self {
        self.bell = Some(bell);
        self
    }

    /// Whether the next turn may bring more to write.
    fn worth_waiting(&self) -> bool {
        let grown = self.held.len() > self.seen;
        let many = self.load.streams.load(Ordering::Relaxed) > 1 && !self.load.hurry.load(Ordering::Relaxed);
        many && grown && self.sent == 0 && self.held.len() < ENOUGH && self.waited < PATIENCE
    }

    fn poll_write_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let written = ready!(Pin::new(io).poll_write(cx, rest))?;
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

    fn io(&mut self) -> io::Result<Pin<&mut Io>> {
        self.io.as_mut().map(Pin::new).ok_or(io::ErrorKind::NotConnected.into())
    }

    /// Looks at what was read.
    fn watch_received(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (was_open, ended) = (self.watch.block_is_open(), self.watch.blocks_ended());
        let received = self.watch.received(bytes);
        self.load.begun.store(self.watch.opened(), Ordering::Relaxed);
        let is_open = self.watch.block_is_open();
        if was_open || is_open {
            let mut since = self.load.block_since.lock();
            // One block may end and the next begin in what was read.
            let goes_on = since.filter(|_| self.watch.blocks_ended() == ended);
            *since = is_open.then(|| goes_on.unwrap_or_else(clock::now));
        }
        received.map_err(|flood| {
            let _ = self.load.flood.set(flood);
            io::Error::new(io::ErrorKind::InvalidData, flood)
        })
    }

    fn watch_sent(&mut self, bytes: &[u8]) {
        let load = &self.load;
        self.watch.sent(bytes, |stream, broke_rules| {
            if stream <= load.accepted.load(Ordering::Relaxed) {
                return;
            }
            if broke_rules {
                load.malformed.lock().push(stream);
                load.any_malformed.store(true, Ordering::Relaxed);
            } else {
                load.refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

impl Drop for Coalesced {
    fn drop(&mut self) {
        if !self.ended && self.watch.is_server() {
            *self.load.left.lock() = self.io.take();
        }
    }
}

impl AsyncRead for Coalesced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let io = this.io.as_mut().map(Pin::new).ok_or(io::ErrorKind::NotConnected)?;
        let read = ready!(match &this.bell {
            Some(bell) => bell.listen(cx, |cx| io.poll_read(cx, buf)),
            None => io.poll_read(cx, buf),
        });
        let fresh = buf.filled().get(before..).unwrap_or_default();
        this.ended |= fresh.is_empty() || read.is_err();
        read?;
        Poll::Ready(this.watch_received(fresh))
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
                let written = ready!(this.io()?.poll_write_vectored(cx, bufs))?;
                let mut rest = written;
                for buf in bufs {
                    let part = buf.get(..rest.min(buf.len())).unwrap_or_default();
                    this.watch_sent(part);
                    rest -= part.len();
                }
                return Poll::Ready(Ok(written));
            }
        }
        for buf in bufs {
            this.watch_sent(buf);
            this.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(Io::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.held.is_empty() {
            if this.load.only_reads.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            if this.worth_waiting() {
                this.seen = this.held.len();
                this.waited += 1;
                wake::next_turn(cx);
                return Poll::Pending;
            }
            ready!(this.poll_write_held(cx))?;
        }
        this.io()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_held(cx))?;
        this.io()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::http::codec::h2::FloodLimits;

    fn pair(streams: u32) -> (Coalesced, DuplexStream, Arc<Load>) {
        let (ours, theirs) = tokio::io::duplex(2 * ENOUGH);
        let load = Arc::new(Load::default());
        load.streams.store(streams, Ordering::Relaxed);
        let watch = Watch::server(FloodLimits::default());
        (Coalesced::new(Io::Duplex(ours), load.clone(), watch), theirs, load)
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
