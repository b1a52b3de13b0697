//! One stream: what both ends have said of it (RFC 9113 section 5.1), and what waits for whoever reads it.

use std::task::{Context, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

use super::error::Error;

/// One direction of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// The head is still to come.
    Head,
    Body,
    /// END_STREAM has passed.
    Over,
}

/// A head as it was received.
pub struct Message<T> {
    pub head: T,
    /// Bytes of names and values, pseudo headers excepted.
    pub size: usize,
    /// Which limit the block breaks, as response-code details; it is not whole then.
    pub over: Option<&'static str>,
}

pub struct Trailers {
    pub fields: HeaderMap,
    pub over: Option<&'static str>,
}

pub(super) enum Received {
    Request(Message<Request<()>>),
    Response(Message<Response<()>>),
}

pub(super) struct Stream {
    pub(super) recv: Half,
    pub(super) send: Half,
    /// It ended otherwise than by two END_STREAMs.
    pub(super) error: Option<Error>,
    /// Handles that refer to it.
    pub(super) handles: u8,
    /// Nobody has taken it up yet.
    pub(super) is_pending: bool,
    /// It counts among the open streams.
    pub(super) is_counted: bool,
    /// In the queue of those that wait for the connection's window or for room.
    pub(super) is_queued: bool,
    /// It could not send when it last tried. Who is in the queue may have sent since.
    pub(super) is_waiting: bool,
    /// Woken to send, and has not tried yet.
    pub(super) has_turn: bool,
    /// Nobody will read what comes.
    pub(super) is_unread: bool,
    /// The answer to HEAD: `content-length` is not that of a body.
    pub(super) head_only: bool,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    /// Bytes that were read and not given back to the peer's window yet.
    pub(super) unclaimed: u32,
    /// What `content-length` says is still to come.
    pub(super) length_left: Option<u64>,
    pub(super) head: Option<Received>,
    pub(super) interim: Option<Box<(StatusCode, HeaderMap)>>,
    /// Data that is handed on in parts.
    pub(super) front: Bytes,
    /// Data that came behind it, and that nobody has read yet. Small frames that come before anybody reads cost no more than their bytes.
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<Box<Trailers>>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Stream {
    pub(super) fn new(recv: Half, send: Half, send_window: i64, recv_window: i64) -> Self {
        Self {
            recv,
            send,
            error: None,
            handles: 0,
            is_pending: false,
            is_counted: true,
            is_queued: false,
            is_waiting: false,
            has_turn: false,
            is_unread: false,
            head_only: false,
            send_window,
            recv_window,
            unclaimed: 0,
            length_left: None,
            head: None,
            interim: None,
            front: Bytes::new(),
            body: Vec::new(),
            trailers: None,
            reader: None,
            writer: None,
        }
    }

    /// Bytes that nobody has read.
    pub(super) fn unread(&self) -> usize {
        self.front.len() + self.body.len()
    }

    /// The next of them; they go on in parts, so that what a slow reader holds is one part.
    pub(super) fn read(&mut self) -> Option<Bytes> {
        /// Bytes of one part: four frames of the usual size.
        const PART: usize = 64 * 1024;
        if self.front.is_empty() {
            self.front = Bytes::from(std::mem::take(&mut self.body));
        }
        let part = self.front.len().min(PART);
        (part > 0).then(|| self.front.split_to(part))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.error.is_some() || (self.recv == Half::Over && self.send == Half::Over)
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Ends it, unless it has ended.
    pub(super) fn fail(&mut self, error: Error) {
        if !self.is_closed() {
            self.error = Some(error);
            self.wake_reader();
            self.wake_writer();
        }
    }

    /// Counts data against `content-length`; false: it is more, or less and the last.
    pub(super) fn count_data(&mut self, length: usize, last: bool) -> bool {
        let Some(left) = &mut self.length_left else { return true };
        match left.checked_sub(length as u64) {
            Some(rest) => {
                *left = rest;
                rest == 0 || !last
            }
            None => false,
        }
    }
}

/// Has `slot` wake this task.
pub(super) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}
