//! What holds a stream, or a connection, from outside.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request};
use parking_lot::Mutex;

use super::error::{Error, Reason};
use super::machine::Machine;
use super::stream::{Half, Message, Received, Trailers, register};

/// A connection's state. A worker runs it and all its streams, so that nobody waits for the lock; wakers are called with it held, and run nothing.
pub(super) type Shared = Arc<Mutex<Machine>>;

/// One of a stream's holders. When the last is gone, a stream that goes on is reset.
struct Handle {
    machine: Shared,
    id: u32,
}

impl Handle {
    fn new(machine: &Shared, locked: &mut Machine, id: u32) -> Self {
        if let Some(stream) = locked.streams.get_mut(&id) {
            stream.handles += 1;
        }
        Self {
            machine: machine.clone(),
            id,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.machine.lock().release(self.id);
    }
}

/// So many requests that nobody has taken up have a place that stays.
const KEPT: usize = 4;

/// A request that a client has sent.
pub struct Incoming {
    pub message: Message<Request<()>>,
    pub body: RecvStream,
    pub respond: SendResponse,
}

/// The next request that nobody has taken up.
pub(super) fn accept(machine: &Shared) -> Option<Incoming> {
    let mut locked = machine.lock();
    let id = locked.pending.pop_front()?;
    // A burst leaves no queue behind, and a request now and then does not make one anew.
    if locked.pending.is_empty() && locked.pending.capacity() > KEPT {
        locked.pending = VecDeque::new();
    }
    locked.counts.unseen = locked.counts.unseen.saturating_sub(1);
    let stream = locked.streams.get_mut(&id)?;
    stream.is_pending = false;
    let was_reset = stream.error.is_some_and(Error::is_remote);
    let Some(Received::Request(message)) = stream.head.take() else {
        return None;
    };
    if was_reset {
        locked.counts.pending_resets = locked.counts.pending_resets.saturating_sub(1);
    }
    Some(Incoming {
        message,
        body: RecvStream(Handle::new(machine, &mut locked, id)),
        respond: SendResponse(SendStream(Handle::new(machine, &mut locked, id))),
    })
}

/// A server's way to answer.
pub struct SendResponse(SendStream);

impl SendResponse {
    fn handle(&self) -> &Handle {
        &self.0.0
    }

    /// # Errors
    ///
    /// When the stream is over.
    pub fn send_informational(&mut self, status: StatusCode, fields: &HeaderMap) -> Result<(), Error> {
        self.handle()
            .machine
            .lock()
            .send_interim(self.handle().id, status, fields)
    }

    /// # Errors
    ///
    /// When the stream is over.
    pub fn send_response(&mut self, status: StatusCode, fields: &HeaderMap, end: bool) -> Result<(), Error> {
        self.handle()
            .machine
            .lock()
            .send_response(self.handle().id, status, fields, end)
    }

    /// What comes behind the head.
    pub fn into_stream(self) -> SendStream {
        self.0
    }

    /// See [`SendStream::poll_reset`].
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.poll_reset(cx)
    }

    pub fn send_reset(&mut self, reason: Reason) {
        self.0.send_reset(reason);
    }
}

/// The way out of a body.
pub struct SendStream(Handle);

impl SendStream {
    /// Whether so many bytes leave at once.
    pub fn has_room(&self, length: usize) -> bool {
        self.0.machine.lock().capacity(self.0.id) >= length
    }

    /// Sends `data`, and END_STREAM with the `last` of it. Ready when all of it is on its way; what is not stays in `data`.
    pub fn poll_send(&mut self, data: &mut Bytes, last: bool, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.machine.lock().poll_send(self.0.id, data, last, cx)
    }

    /// # Errors
    ///
    /// When the stream is over.
    pub fn send_trailers(&mut self, fields: &HeaderMap) -> Result<(), Error> {
        self.0.machine.lock().send_trailers(self.0.id, fields)
    }

    /// Ready when the stream has ended otherwise than it should.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.machine.lock().poll_reset(self.0.id, cx)
    }

    pub fn send_reset(&mut self, reason: Reason) {
        self.0.machine.lock().send_reset(self.0.id, reason);
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let mut machine = self.0.machine.lock();
        let Some(stream) = machine.streams.get_mut(&self.0.id) else {
            return;
        };
        stream.writer = None;
        if std::mem::take(&mut stream.has_turn) {
            machine.wake_blocked();
        }
    }
}

/// The way in of a body.
pub struct RecvStream(Handle);

impl RecvStream {
    /// The next data, which reopens the peer's windows; `None`: there is no more.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let id = self.0.id;
        let mut machine = self.0.machine.lock();
        let Some(stream) = machine.streams.get_mut(&id) else {
            return Poll::Ready(None);
        };
        if let Some(data) = stream.read() {
            machine.give_back(data.len());
            machine.give_back_to(id, data.len());
            return Poll::Ready(Some(Ok(data)));
        }
        if stream.recv == Half::Over {
            return Poll::Ready(None);
        }
        if let Some(error) = stream.error {
            return Poll::Ready(Some(Err(error)));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Behind the last data.
    pub fn take_trailers(&mut self) -> Option<Box<Trailers>> {
        self.0.machine.lock().streams.get_mut(&self.0.id)?.trailers.take()
    }

    /// Whether there is nothing more to read.
    pub fn is_end_stream(&self) -> bool {
        let machine = self.0.machine.lock();
        let stream = machine.streams.get(&self.0.id);
        stream.is_none_or(|stream| stream.recv == Half::Over && stream.unread() == 0 && stream.trailers.is_none())
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.0.machine.lock().stop_reading(self.0.id);
    }
}

/// Opens a client's streams. When the last is gone, the connection ends with its last stream.
pub struct SendRequest(Shared);

impl SendRequest {
    pub(super) fn new(machine: &Shared) -> Self {
        machine.lock().senders += 1;
        Self(machine.clone())
    }

    /// # Errors
    ///
    /// When the connection takes no more streams: nothing was sent.
    pub fn send_request(&self, head: &request::Parts, end: bool) -> Result<(ResponseFuture, SendStream), Error> {
        let mut locked = self.0.lock();
        let id = locked.send_request(head, end)?;
        let response = ResponseFuture(Some(RecvStream(Handle::new(&self.0, &mut locked, id))));
        Ok((response, SendStream(Handle::new(&self.0, &mut locked, id))))
    }

    /// Whether the connection takes streams, as far as the peer was heard.
    pub fn takes_streams(&self) -> bool {
        self.0.lock().takes_streams()
    }

    /// Whether the peer has said GOAWAY.
    pub fn was_asked_to_leave(&self) -> bool {
        self.0.lock().peer_leaves.is_some()
    }

    /// How many streams the peer takes at once; `None`: its SETTINGS have not come.
    pub fn max_streams(&self) -> Option<u32> {
        let machine = self.0.lock();
        machine.peer.is_settled.then_some(machine.peer.streams)
    }

    /// Whether the peer takes extended CONNECT (RFC 8441).
    pub fn takes_connect(&self) -> bool {
        self.0.lock().peer.takes_connect
    }
}

impl Clone for SendRequest {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for SendRequest {
    fn drop(&mut self) {
        let mut machine = self.0.lock();
        machine.senders -= 1;
        if machine.senders == 0 {
            machine.call();
        }
    }
}

/// A response that has not begun.
pub struct ResponseFuture(Option<RecvStream>);

impl ResponseFuture {
    /// An interim response that came meanwhile.
    pub fn take_interim(&mut self) -> Option<Box<(StatusCode, HeaderMap)>> {
        let handle = &self.0.as_ref()?.0;
        handle.machine.lock().streams.get_mut(&handle.id)?.interim.take()
    }

    /// Not to be called again when it was ready.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Message<Response<()>>, RecvStream), Error>> {
        let Some(body) = &self.0 else { return Poll::Pending };
        let mut machine = body.0.machine.lock();
        let Some(stream) = machine.streams.get_mut(&body.0.id) else {
            return Poll::Ready(Err(Error::Transport));
        };
        let Some(Received::Response(message)) = stream.head.take() else {
            if let Some(error) = stream.error {
                return Poll::Ready(Err(error));
            }
            register(&mut stream.reader, cx);
            return Poll::Pending;
        };
        drop(machine);
        match self.0.take() {
            Some(body) => Poll::Ready(Ok((message, body))),
            None => Poll::Pending,
        }
    }
}

/// PINGs of ours.
pub struct Ping(pub(super) Shared);

impl Ping {
    /// False: the connection is over.
    pub fn send(&self) -> bool {
        self.0.lock().ping()
    }

    /// Whether the last was answered.
    pub fn is_answered(&self) -> bool {
        !self.0.lock().ping_is_out
    }
}
