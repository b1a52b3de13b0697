//! What streams say: heads, data and ends, as far as the peer's windows and the room that there is allow it.

use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderMap, StatusCode, request};

use super::error::{By, Error, Reason};
use super::frame::{DEFAULT_FRAME, MAX_WINDOW};
use super::head;
use super::machine::Machine;
use super::stream::{Half, Stream, register};

/// The end of a stream that nobody knows any more.
const GONE: Error = Error::Reset(Reason::CANCEL, By::Us);

impl Machine {
    /// The stream, if it can still say something.
    fn sending(&mut self, id: u32) -> Result<&mut Stream, Error> {
        let stream = self.streams.get_mut(&id).ok_or(GONE)?;
        match stream.error {
            Some(error) => Err(error),
            None if stream.send == Half::Over => Err(GONE),
            None => Ok(stream),
        }
    }

    pub(super) fn send_interim(&mut self, id: u32, status: StatusCode, fields: &HeaderMap) -> Result<(), Error> {
        if self.sending(id)?.send != Half::Head {
            return Err(GONE);
        }
        let encoder = &mut self.encoder;
        let encode = |out: &mut _| head::encode_response(encoder, status, fields, out);
        self.out.headers(id, false, self.peer.frame.min(DEFAULT_FRAME), encode);
        self.call();
        Ok(())
    }

    pub(super) fn send_response(
        &mut self,
        id: u32,
        status: StatusCode,
        fields: &HeaderMap,
        end: bool,
    ) -> Result<(), Error> {
        let stream = self.sending(id)?;
        if stream.send != Half::Head {
            return Err(GONE);
        }
        stream.send = if end { Half::Over } else { Half::Body };
        let encoder = &mut self.encoder;
        let encode = |out: &mut _| head::encode_response(encoder, status, fields, out);
        self.out.headers(id, end, self.peer.frame.min(DEFAULT_FRAME), encode);
        self.sent(id);
        Ok(())
    }

    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// When the connection takes no more: nothing was sent.
    pub(super) fn send_request(&mut self, head: &request::Parts, end: bool) -> Result<u32, Error> {
        let id = self.highest;
        if !self.takes_streams() || self.active >= self.peer.streams {
            return Err(Error::GoAway(Reason::REFUSED_STREAM, By::Peer));
        }
        // Ids that are used up end it for new streams (RFC 9113 section 5.1.1).
        self.highest += 2;
        self.counts.opened += 1;
        self.active += 1;
        let send = if end { Half::Over } else { Half::Body };
        let recv_window = self.first_recv_window();
        let mut stream = Box::new(Stream::new(Half::Head, send, i64::from(self.peer.window), recv_window));
        stream.head_only = head.method == http::Method::HEAD;
        self.streams.insert(id, stream);
        let encoder = &mut self.encoder;
        let encode = |out: &mut _| head::encode_request(encoder, head, out);
        self.out.headers(id, end, self.peer.frame.min(DEFAULT_FRAME), encode);
        self.call();
        Ok(id)
    }

    /// Whether a client may open streams.
    pub(super) fn takes_streams(&self) -> bool {
        self.end.is_none() && self.peer_leaves.is_none() && i64::from(self.highest) <= MAX_WINDOW
    }

    /// How much of a body would leave at once.
    pub(super) fn capacity(&self, id: u32) -> usize {
        let window = self.streams.get(&id).map_or(0, |stream| stream.send_window);
        let window = usize::try_from(window.min(self.send_window)).unwrap_or(0);
        window.min(self.out.room())
    }

    /// Sends `data`, and END_STREAM with the `last` of it. Ready when all of it is on its way; what is not stays in `data`.
    pub(super) fn poll_send(
        &mut self,
        id: u32,
        data: &mut Bytes,
        last: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let had_turn = match self.sending(id) {
            Ok(stream) => {
                stream.is_waiting = false;
                std::mem::take(&mut stream.has_turn)
            }
            Err(error) => return Poll::Ready(Err(error)),
        };
        let mut is_full = false;
        while !data.is_empty() || last {
            let part = self.capacity(id).min(data.len());
            if part == 0 && !data.is_empty() {
                is_full = true;
                break;
            }
            let part = part.min(self.peer.frame.min(DEFAULT_FRAME));
            let end = last && part == data.len();
            self.out.data(id, data.get(..part).unwrap_or_default(), end);
            data.advance(part);
            self.counts.data_sent += 1;
            self.send_window -= part as i64;
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.send_window -= part as i64;
                if end {
                    stream.send = Half::Over;
                }
            }
            if end {
                break;
            }
        }
        if is_full {
            self.wait(id, cx);
        }
        if had_turn && !self.blocked.is_empty() {
            // What this stream could not use is for the next.
            self.wake_blocked();
        }
        self.sent(id);
        if is_full { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Wakes the stream when it can send.
    fn wait(&mut self, id: u32, cx: &Context<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        register(&mut stream.writer, cx);
        // Without a window of its own it waits for that, and is in nobody's way.
        if stream.send_window > 0 {
            stream.is_waiting = true;
            if !std::mem::replace(&mut stream.is_queued, true) {
                self.blocked.push_back(id);
            }
        }
    }

    pub(super) fn send_trailers(&mut self, id: u32, fields: &HeaderMap) -> Result<(), Error> {
        self.sending(id)?.send = Half::Over;
        let encoder = &mut self.encoder;
        let encode = |out: &mut _| head::encode_trailers(encoder, fields, out);
        self.out.headers(id, true, self.peer.frame.min(DEFAULT_FRAME), encode);
        self.sent(id);
        Ok(())
    }

    fn sent(&mut self, id: u32) {
        self.settle(id);
        if !self.out.bytes().is_empty() {
            self.call();
        }
    }

    /// Ready when the stream has ended otherwise than it should.
    pub(super) fn poll_reset(&mut self, id: u32, cx: &Context<'_>) -> Poll<Error> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(GONE);
        };
        if let Some(error) = stream.error {
            return Poll::Ready(error);
        }
        register(&mut stream.writer, cx);
        if std::mem::take(&mut stream.has_turn) {
            // It has nothing to send.
            self.wake_blocked();
        }
        Poll::Pending
    }

    /// Ends a stream that has not ended.
    pub(super) fn send_reset(&mut self, id: u32, reason: Reason) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closed()) else {
            return;
        };
        stream.fail(Error::Reset(reason, By::Us));
        self.say_reset(id, reason);
        self.settle(id);
        self.call();
    }

    /// One handle fewer. A stream that nobody holds is given up, where it goes on.
    pub(super) fn release(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.handles = stream.handles.saturating_sub(1);
        if stream.handles > 0 {
            return;
        }
        // A server that has answered in full does not want the rest (RFC 9113 section 8.1).
        let is_answered = self.is_server && stream.send == Half::Over;
        let reason = if is_answered { Reason::NO_ERROR } else { Reason::CANCEL };
        if stream.is_closed() {
            self.settle(id);
        } else {
            self.send_reset(id, reason);
        }
    }

    /// Nobody reads the stream any more: what it holds and what comes goes back to the connection's window.
    pub(super) fn stop_reading(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.is_unread = true;
        stream.reader = None;
        stream.trailers = None;
        let unread = stream.unread();
        stream.front = Bytes::new();
        stream.body = Vec::new();
        self.give_back(unread);
    }
}
