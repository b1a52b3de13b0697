//! A byte stream with its read buffer. An idle one holds no buffer: reads go through a scratch area of the thread first.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::MAX_READ;
use crate::runtime::clock;
use crate::runtime::io::Io;

/// From this size of a read on, the next goes straight into the buffer: bulk is not copied twice.
const BULK: usize = 16 * 1024;

pub(super) struct Stream {
    io: Io,
    pub read: BytesMut,
    bulk: bool,
    /// When bytes last arrived, kept only while a body is in flight.
    pub last_activity: Option<Instant>,
    /// Bytes read and written so far.
    pub received: u64,
    pub sent: u64,
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_READ].into_boxed_slice());
}

impl Stream {
    pub fn new(io: Io) -> Self {
        Self {
            io,
            read: BytesMut::new(),
            bulk: false,
            last_activity: None,
            received: 0,
            sent: 0,
        }
    }

    /// Reads once. `Ok(0)` is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.bulk {
            return self.poll_fill_bulk(cx);
        }
        let count = SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            self.read.extend_from_slice(buffer.filled());
            Poll::Ready(Ok::<_, std::io::Error>(buffer.filled().len()))
        });
        let count = std::task::ready!(count)?;
        self.bulk = count >= BULK;
        self.received += count as u64;
        Poll::Ready(Ok(count))
    }

    /// Bytes of the connection that were read and taken.
    pub fn consumed(&self) -> u64 {
        self.received - self.read.len() as u64
    }

    fn poll_fill_bulk(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.read.reserve(MAX_READ);
        let poll = pin!(self.io.read_buf(&mut self.read)).poll(cx);
        match poll {
            Poll::Pending => {
                self.bulk = false;
                if self.read.is_empty() {
                    self.read = BytesMut::new();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(count)) => {
                self.bulk = count >= BULK;
                self.received += count as u64;
                self.last_activity = Some(clock::now());
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Writes all of `out` from `written` on, and flushes.
    pub fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        out: &[u8],
        written: &mut usize,
    ) -> Poll<std::io::Result<()>> {
        while *written < out.len() {
            match std::task::ready!(Pin::new(&mut self.io).poll_write(cx, &out[*written..]))? {
                0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                count => {
                    *written += count;
                    self.sent += count as u64;
                }
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends the write side; errors do not matter any more.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.io).poll_shutdown(cx).map(|_| ())
    }

    pub fn io(&self) -> &Io {
        &self.io
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer for a head and what fits behind it: one that another message used before, if there is one.
pub(super) fn take_buffer() -> Vec<u8> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(BUFFER))
}

/// Gives a buffer to the next message, unless it has grown or there are enough.
pub(super) fn give_buffer(mut buffer: Vec<u8>) {
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if buffer.capacity() >= BUFFER && buffer.capacity() <= MAX_READ && spare.len() < 64 {
            spare.push(buffer);
        }
    });
}

/// Bytes that a head rarely exceeds.
const BUFFER: usize = 2048;
