//! A connection's socket: what comes goes to the machine, and what the machine says leaves in as few writes as can be.
//!
//! The streams of a connection become ready one after the other, as their sockets do. Written at once, each would cost a TLS record, a system call, and
//! a wake-up of the peer, which then answers as piecemeal; the pair falls into step at one request a turn. So a write first waits for the end of the event
//! loop's turn, and goes on waiting as long as turns bring more, within bounds. A connection with a single stream has nothing to wait for.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::bell::Bell;
use super::super::options::H2Options;
use super::error::{Error, Reason};
use super::handles::{self, Incoming, Ping, SendRequest, Shared};
use super::machine::Machine;
use crate::runtime::io::Io;
use crate::runtime::{clock, wake};

/// So much is never kept back: one TLS record.
const ENOUGH: usize = 16 * 1024;

/// Turns that a write waits at most.
const PATIENCE: u8 = 4;

/// Bytes of one read, and how many reads follow one another before others have their turn.
const READ: usize = 32 * 1024;
const READS: u8 = 16;

thread_local! {
    /// Where all connections of a worker read to: an idle one has no buffer.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection of either role.
pub struct Connection {
    io: Io,
    machine: Alive,
    bell: Option<Bell>,
    /// Something was written, and may be held by a layer below.
    needs_flush: bool,
    /// A write took a part.
    is_partial: bool,
    /// What there was to write when the write last began to wait for a turn.
    seen: usize,
    waited: u8,
    reads: u8,
    /// The peer has closed, or the connection broke.
    is_closed: bool,
    is_shut: bool,
    /// Somebody was told of the end.
    is_told: bool,
    /// Whether somebody asks for [`Self::block_since`].
    times_blocks: bool,
    block_since: Option<Instant>,
}

/// The machine of a connection that is there. Without it the streams end.
struct Alive(Shared);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.lock().transport_failed();
    }
}

impl Connection {
    /// A server's; see [`Self::poll_accept`].
    pub fn server(io: Io, options: &H2Options) -> Self {
        let mut connection = Self::new(io, Machine::server(options), None);
        connection.times_blocks = options.request_headers.is_some();
        connection
    }

    /// A client's; see [`Self::poll`]. `bell` is rung when the peer has said something.
    pub(in crate::http::codec::h2) fn client(io: Io, options: &H2Options, bell: Bell) -> (SendRequest, Self) {
        let connection = Self::new(io, Machine::client(options), Some(bell));
        (SendRequest::new(&connection.machine.0), connection)
    }

    fn new(io: Io, machine: Machine, bell: Option<Bell>) -> Self {
        Self {
            io,
            machine: Alive(Arc::new(Mutex::new(machine))),
            bell,
            needs_flush: false,
            is_partial: false,
            seen: 0,
            waited: 0,
            reads: 0,
            is_closed: false,
            is_shut: false,
            is_told: false,
            times_blocks: false,
            block_since: None,
        }
    }

    /// Ready when the client's preface is there; false: it is none, or the connection is over.
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let turn = self.poll_turn(cx);
        let machine = self.machine.0.lock();
        let (is_over, is_there) = (machine.end.is_some(), machine.preface_left == 0);
        drop(machine);
        if is_over {
            // Once, for the GOAWAY.
            let _ = self.poll_end(cx);
            return Poll::Ready(false);
        }
        if is_there || turn.is_ready() {
            Poll::Ready(true)
        } else {
            Poll::Pending
        }
    }

    /// Moves a server's frames. Ready with the next request, with the error that ended the connection, or with nothing when all is written that is to be
    /// written after the end.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Incoming, Error>>> {
        while !self.is_told {
            if let Some(incoming) = handles::accept(&self.machine.0) {
                return Poll::Ready(Some(Ok(incoming)));
            }
            ready!(self.poll_turn(cx));
            let end = self.machine.0.lock().end;
            self.is_told = end.is_some();
            if let Some(Err(error)) = end {
                return Poll::Ready(Some(Err(error)));
            }
        }
        self.poll_end(cx).map(|()| None)
    }

    /// Moves a client's frames. Ready at the end, which waits for nobody.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_turn(cx));
        let _ = self.poll_end(cx);
        Poll::Ready(self.machine.0.lock().end.unwrap_or(Ok(())))
    }

    /// Only reads. Ready when the connection is over.
    pub fn hear(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read(cx)
    }

    /// Ready when what was to be written is written, and the peer told that no more will come.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A peer that has closed may not read either: nobody waits for it.
        if self.poll_write(cx, false).is_pending() && !self.is_closed {
            return Poll::Pending;
        }
        if !self.is_shut {
            let shut = Pin::new(&mut self.io).poll_shutdown(cx);
            if shut.is_pending() && !self.is_closed {
                return Poll::Pending;
            }
            self.is_shut = true;
        }
        Poll::Ready(())
    }

    /// The socket, if the peer has not closed it.
    pub fn into_io(self) -> Option<Io> {
        (!self.is_closed).then_some(self.io)
    }

    /// A goodbye that streams which are on their way survive.
    pub fn graceful_shutdown(&mut self) {
        self.machine.0.lock().leave();
    }

    /// Ends the connection with all its streams.
    pub fn abrupt_shutdown(&mut self, reason: Reason) {
        self.machine.0.lock().shut(reason);
    }

    pub fn ping(&self) -> Ping {
        Ping(self.machine.0.clone())
    }

    /// Why there were too many frames of a kind, as response-code details, if there were.
    pub fn flood(&self) -> Option<&'static str> {
        self.machine.0.lock().flood
    }

    /// Requests that the client has begun and nobody has seen.
    pub fn unseen(&self) -> u32 {
        self.machine.0.lock().counts.unseen
    }

    /// Requests that were reset for what their heads were, since somebody last asked: response-code details.
    pub fn take_malformed(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.machine.0.lock().malformed)
    }

    /// Since when the peer owes the rest of a header block.
    pub fn block_since(&self) -> Option<Instant> {
        self.block_since
    }

    /// Whether the peer's SETTINGS have come.
    pub fn is_settled(&self) -> bool {
        self.machine.0.lock().peer.is_settled
    }

    /// Ready when there is a request, or the end.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.machine.0.lock().attend(cx);
        if self.poll_read(cx).is_ready() {
            return Poll::Ready(());
        }
        self.machine.0.lock().end_if_over();
        if let Poll::Ready(Err(error)) = self.poll_write(cx, true) {
            tracing::debug!(%error, "http2 write failed");
            self.is_closed = true;
            self.machine.0.lock().transport_failed();
        }
        if self.machine.0.lock().end.is_some() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Reads until there is nothing more, or something to look at: ready.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let machine = self.machine.0.lock();
            let (is_over, has_requests) = (machine.end.is_some(), !machine.pending.is_empty());
            drop(machine);
            if is_over || has_requests {
                return Poll::Ready(());
            }
            if self.reads == READS {
                self.reads = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.reads += 1;
            if self.read_once(cx).is_pending() {
                self.reads = 0;
                return Poll::Pending;
            }
        }
    }

    fn read_once(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = BUFFER.take();
        buffer.resize(READ, 0);
        let mut space = ReadBuf::new(&mut buffer);
        let io = Pin::new(&mut self.io);
        let read = match &self.bell {
            Some(bell) => bell.listen(cx, |cx| io.poll_read(cx, &mut space)),
            None => io.poll_read(cx, &mut space),
        };
        let result = read.map(|read| match read {
            Ok(()) if !space.filled().is_empty() => self.received(space.filled()),
            Ok(()) => {
                self.is_closed = true;
                self.machine.0.lock().closed_by_peer();
            }
            Err(error) => {
                tracing::debug!(%error, "http2 read failed");
                self.is_closed = true;
                self.machine.0.lock().transport_failed();
            }
        });
        BUFFER.set(buffer);
        result
    }

    fn received(&mut self, bytes: &[u8]) {
        let mut machine = self.machine.0.lock();
        let (was_open, ended) = (self.block_since.is_some(), machine.blocks_ended);
        machine.receive(bytes);
        machine.check_output();
        if !self.times_blocks {
            return;
        }
        let is_open = machine.block_is_open();
        if was_open || is_open {
            // One block may end and the next begin in what was read.
            let goes_on = self.block_since.filter(|_| machine.blocks_ended == ended);
            self.block_since = is_open.then(|| goes_on.unwrap_or_else(clock::now));
        }
    }

    /// Whether the next turn may bring more to write.
    fn is_worth_waiting(&self, machine: &Machine) -> bool {
        let waiting = machine.out.bytes().len();
        let has_grown = waiting > self.seen && !self.is_partial;
        machine.streams.len() > 1 && has_grown && waiting < ENOUGH && self.waited < PATIENCE
    }

    /// Ready when all is written, and has left the layers below.
    fn poll_write(&mut self, cx: &mut Context<'_>, is_patient: bool) -> Poll<io::Result<()>> {
        loop {
            let mut machine = self.machine.0.lock();
            let waiting = machine.out.bytes();
            if waiting.is_empty() {
                break;
            }
            if is_patient && machine.end.is_none() && self.is_worth_waiting(&machine) {
                self.seen = waiting.len();
                self.waited += 1;
                drop(machine);
                wake::next_turn(cx);
                return Poll::Pending;
            }
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.needs_flush = true;
            self.is_partial = written < waiting.len();
            machine.wrote(written);
        }
        self.is_partial = false;
        self.seen = 0;
        self.waited = 0;
        if self.needs_flush {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }
}
