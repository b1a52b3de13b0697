//! Bytes both ways between two streams, in one task.
//!
//! A connection at rest holds no buffer: each worker has one scratch buffer that every copy reads into and writes from at once. Only what
//! the other side does not take at once is put aside, in a buffer of its own, until it does; nothing more is read meanwhile.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::runtime::clock;
use crate::runtime::io::Io;

/// How much one read takes at most. Bulk transfers fill it, so that they cost few system calls.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Which side an end or an error came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Downstream,
    Upstream,
}

/// Why a copy is over.
#[derive(Debug)]
pub enum Ended {
    /// Both sides have sent their end, and it was passed on; this one's came last.
    Both(Side),
    /// A side failed: reset, or could not be written to.
    Error(Side, io::Error),
    /// No byte in either direction for the idle timeout.
    Idle,
    /// [`Meter::leaves`], and the client has all that was there for it.
    Left,
}

/// Hears of bytes as they pass; called at most once per direction and wake-up.
pub trait Meter {
    /// `from` sent `bytes` that the other side has taken.
    fn passed(&self, from: Side, bytes: u64);

    /// Asked when bytes have passed: whether that shall have been all.
    fn leaves(&self) -> bool {
        false
    }
}

/// What a copy may hold and how long it may rest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// No byte in either direction for so long ends it.
    pub idle: Option<Duration>,
    /// Bytes per direction that were read and not yet taken by the other side (`per_connection_buffer_limit_bytes`).
    pub buffer: usize,
}

/// Copies until it is [`Ended`]. A half-closed side stays open the other way.
///
/// # Cancel safety
/// Dropping the future leaves bytes that were read and not yet written behind; the connection is to be closed then.
pub async fn both_ways(downstream: &mut Io, upstream: &mut Io, limits: Limits, meter: &impl Meter) -> Ended {
    let mut copy = Copy {
        request: Direction::default(),
        response: Direction::default(),
        at_once: limits.buffer.clamp(1, SCRATCH),
        moved: false,
        last: Side::Upstream,
    };
    let Some(idle) = limits.idle else {
        return poll_fn(|cx| copy.poll(cx, downstream, upstream, meter)).await;
    };
    let mut active = clock::now();
    let mut timer = std::pin::pin!(clock::sleep(idle));
    poll_fn(|cx| {
        if let Poll::Ready(ended) = copy.poll(cx, downstream, upstream, meter) {
            return Poll::Ready(ended);
        }
        if std::mem::take(&mut copy.moved) {
            active = clock::now();
        }
        // The timer is set again only when it fires: an active connection pays for one clock reading, not for a timer.
        while timer.as_mut().poll(cx).is_ready() {
            let quiet = clock::now().saturating_duration_since(active);
            if quiet >= idle {
                return Poll::Ready(Ended::Idle);
            }
            timer.set(clock::sleep(idle - quiet));
        }
        Poll::Pending
    })
    .await
}

struct Copy {
    request: Direction,
    response: Direction,
    /// Bytes of one read: what the other side does not take of them is all that is held.
    at_once: usize,
    /// Something has passed since this was last cleared.
    moved: bool,
    /// Whose end is still to come, once one has.
    last: Side,
}

impl Copy {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut Io,
        upstream: &mut Io,
        meter: &impl Meter,
    ) -> Poll<Ended> {
        let request = self.request.poll(cx, downstream, upstream, self.at_once);
        let asked = self.account(Side::Downstream, meter);
        let response = self.response.poll(cx, upstream, downstream, self.at_once);
        let answered = self.account(Side::Upstream, meter);
        match (request, response) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(error.from(Side::Downstream)),
            (_, Poll::Ready(Err(error))) => Poll::Ready(error.from(Side::Upstream)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Both(self.last)),
            _ if (asked || answered) && self.response.is_delivered() && meter.leaves() => Poll::Ready(Ended::Left),
            (Poll::Pending, Poll::Ready(Ok(()))) => {
                self.last = Side::Downstream;
                Poll::Pending
            }
            _ => Poll::Pending,
        }
    }

    /// Whether any have passed.
    fn account(&mut self, from: Side, meter: &impl Meter) -> bool {
        let direction = match from {
            Side::Downstream => &mut self.request,
            Side::Upstream => &mut self.response,
        };
        let bytes = std::mem::take(&mut direction.passed);
        if bytes > 0 {
            meter.passed(from, bytes);
            self.moved = true;
        }
        bytes > 0
    }
}

/// One way.
#[derive(Default)]
struct Direction {
    /// Read and not yet written; empty and without memory while the writer keeps up.
    aside: Vec<u8>,
    /// How much of `aside` is written.
    written: usize,
    /// Bytes passed since the last account.
    passed: u64,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Written bytes may sit in the writer (TLS).
    Unflushed,
    /// The reader has ended.
    Ending,
    Done,
}

/// An error with the end of the direction that it came from.
enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Fault {
    /// `reader` is where this direction reads.
    fn from(self, reader: Side) -> Ended {
        let writer = match reader {
            Side::Downstream => Side::Upstream,
            Side::Upstream => Side::Downstream,
        };
        match self {
            Self::Read(error) => Ended::Error(reader, error),
            Self::Write(error) => Ended::Error(writer, error),
        }
    }
}

impl Direction {
    /// All that was read is written, and none of it sits in the writer.
    fn is_delivered(&self) -> bool {
        self.aside.is_empty() && self.state != State::Unflushed
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Io,
        writer: &mut Io,
        at_once: usize,
    ) -> Poll<Result<(), Fault>> {
        loop {
            if self.state == State::Done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_aside(cx, writer))?;
            if self.state == State::Ending {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Fault::Write)?;
                self.state = State::Done;
                continue;
            }
            match BUFFER.with_borrow_mut(|scratch| self.poll_through(cx, reader, writer, &mut scratch[..at_once])) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => {
                    if self.state == State::Unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Fault::Write)?;
                        self.state = State::Open;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what was put aside. Ready: nothing is left of it.
    fn poll_aside(&mut self, cx: &mut Context<'_>, writer: &mut Io) -> Poll<Result<(), Fault>> {
        while self.written < self.aside.len() {
            let rest = &self.aside[self.written..];
            let count = ready!(Pin::new(&mut *writer).poll_write(cx, rest)).map_err(Fault::Write)?;
            if count == 0 {
                return Poll::Ready(Err(Fault::Write(io::ErrorKind::WriteZero.into())));
            }
            self.written += count;
            self.passed += count as u64;
        }
        if !self.aside.is_empty() {
            self.aside = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// One read, and the write of what it brought. Pending: there is nothing to read.
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Io,
        writer: &mut Io,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Fault>> {
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(&mut *reader).poll_read(cx, &mut buffer)) {
            Ok(()) => {}
            // A TLS peer that leaves without close_notify: an end like any other, as for Envoy.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Poll::Ready(Err(Fault::Read(error))),
        }
        let mut rest = buffer.filled();
        if rest.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        self.state = State::Unflushed;
        while !rest.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Fault::Write(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(count)) => {
                    self.passed += count as u64;
                    rest = &rest[count..];
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Write(error))),
                Poll::Pending => {
                    self.aside = rest.to_vec();
                    self.written = 0;
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
