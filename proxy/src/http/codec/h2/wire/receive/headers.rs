//! Header blocks: requests, responses, and what comes behind a body.

use super::super::error::{Broken, Reason, VIOLATION};
use super::super::frame::{self, Head};
use super::super::head::{self, Decoded};
use super::super::machine::{Block, Machine};
use super::super::stream::{Half, Received, Trailers};
use super::BAD;

/// A peer that cuts a block into smaller pieces than this, in bytes, wants no answer.
const SMALLEST_PART: usize = 4096;

/// A block that is whole.
struct Whole {
    stream: u32,
    end_stream: bool,
    is_new: bool,
    is_circular: bool,
}

impl Machine {
    pub(super) fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let id = head.stream;
        let mut fragment = head.unpad(payload).ok_or(BAD)?;
        self.count_empty(head, fragment.is_empty())?;
        // Only clients open streams, with odd numbers.
        if id.is_multiple_of(2) || (!self.is_server && self.is_idle(id)) {
            return Err(BAD);
        }
        let mut is_circular = false;
        if head.has(frame::HAS_PRIORITY) {
            let (depends, rest) = fragment.split_first_chunk::<5>().ok_or(BAD)?;
            let [a, b, c, d, _] = *depends;
            is_circular = frame::number([a, b, c, d]) == id;
            fragment = rest;
        }
        let is_new = self.is_server && id > self.highest;
        if is_new {
            self.highest = id;
            self.counts.opened += 1;
            self.counts.unseen += 1;
        }
        let whole = Whole {
            stream: id,
            end_stream: head.has(frame::END_STREAM),
            is_new,
            is_circular,
        };
        if head.has(frame::END_HEADERS) {
            return self.block(&whole, fragment);
        }
        self.block = Some(Box::new(Block {
            stream: id,
            end_stream: whole.end_stream,
            is_new,
            is_circular,
            bytes: fragment.to_vec(),
            parts: 1,
        }));
        Ok(())
    }

    pub(super) fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        self.count_empty(head, payload.is_empty())?;
        let most = (self.limits.headers.bytes as usize).saturating_mul(2);
        let Some(mut block) = self.block.take() else {
            return Err(BAD);
        };
        block.bytes.extend_from_slice(payload);
        block.parts += 1;
        if block.bytes.len() > most || block.parts > 2 + most / SMALLEST_PART {
            return Err(Broken::Rules(Reason::ENHANCE_YOUR_CALM));
        }
        if !head.has(frame::END_HEADERS) {
            self.block = Some(block);
            return Ok(());
        }
        let whole = Whole {
            stream: block.stream,
            end_stream: block.end_stream,
            is_new: block.is_new,
            is_circular: block.is_circular,
        };
        self.block(&whole, &block.bytes)
    }

    fn block(&mut self, whole: &Whole, bytes: &[u8]) -> Result<(), Broken> {
        self.blocks_ended += 1;
        // Whatever becomes of it: the table changes with each block.
        let mut decoded = head::decode(&mut self.decoder, bytes, self.limits.headers)?;
        if whole.is_circular {
            decoded.fault.get_or_insert(VIOLATION);
        }
        if whole.is_new {
            return self.request(whole, decoded);
        }
        let id = whole.stream;
        let Some(stream) = self.streams.get(&id) else {
            return self.block_of_the_gone(id);
        };
        if stream.error.is_some_and(|error| !error.is_remote()) {
            return Ok(());
        }
        match stream.recv {
            Half::Over => self.reset(id, Reason::STREAM_CLOSED, VIOLATION),
            _ if stream.is_closed() => self.reset(id, Reason::STREAM_CLOSED, VIOLATION),
            Half::Head => self.response(whole, decoded),
            Half::Body => self.trailers(whole, decoded),
        }
    }

    /// What may have been on its way when we reset the stream is no error; otherwise section 5.1 names it.
    fn block_of_the_gone(&self, id: u32) -> Result<(), Broken> {
        if self.is_gone(id) {
            return Ok(());
        }
        Err(Broken::Rules(Reason::STREAM_CLOSED))
    }

    fn request(&mut self, whole: &Whole, decoded: Decoded) -> Result<(), Broken> {
        let id = whole.stream;
        if id > self.allowed {
            self.counts.unseen = self.counts.unseen.saturating_sub(1);
            return Ok(());
        }
        if self.active >= self.limits.streams {
            self.counts.unseen = self.counts.unseen.saturating_sub(1);
            self.say_reset(id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        let length = decoded.content_length;
        let is_short = whole.end_stream && length.is_some_and(|length| length > 0);
        let message = if is_short && decoded.over.is_none() {
            Err(decoded.fault.unwrap_or(VIOLATION))
        } else {
            decoded.into_request(self.limits.allow_connect)
        };
        let message = match message {
            Ok(message) => message,
            Err(details) => {
                self.counts.unseen = self.counts.unseen.saturating_sub(1);
                self.malformed.push(details);
                self.processed = id;
                return self.reset(id, Reason::PROTOCOL_ERROR, details);
            }
        };
        let stream = self.open(id, if whole.end_stream { Half::Over } else { Half::Body });
        stream.length_left = length;
        stream.is_pending = true;
        stream.head = Some(Received::Request(message));
        self.pending.push_back(id);
        Ok(())
    }

    fn response(&mut self, whole: &Whole, decoded: Decoded) -> Result<(), Broken> {
        let id = whole.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let status = decoded.status.map_or(0, |status| status.as_u16());
        // RFC 9110 section 6.4.1: what these have no body, whatever they say of its length.
        let length = match stream.head_only || matches!(status, 204 | 304) {
            true => Some(0),
            false => decoded.content_length,
        };
        let says_more = length.is_some_and(|length| length > 0)
            || (status == 204 && decoded.content_length.is_some_and(|length| length > 0));
        let is_interim = (100..200).contains(&status);
        // Section 8.6: there is no 101; section 8.1: an interim response is no end.
        if (whole.end_stream && (says_more || is_interim)) || status == 101 {
            return self.reset(id, Reason::PROTOCOL_ERROR, decoded.fault.unwrap_or(VIOLATION));
        }
        let message = match decoded.into_response() {
            Ok(message) => message,
            Err(details) => return self.reset(id, Reason::PROTOCOL_ERROR, details),
        };
        stream.wake_reader();
        if is_interim {
            // Nobody wants more than one.
            let (parts, ()) = message.head.into_parts();
            stream
                .interim
                .get_or_insert_with(|| Box::new((parts.status, parts.headers)));
            return Ok(());
        }
        stream.length_left = length;
        stream.recv = if whole.end_stream { Half::Over } else { Half::Body };
        stream.head = Some(Received::Response(message));
        self.settle(id);
        Ok(())
    }

    fn trailers(&mut self, whole: &Whole, decoded: Decoded) -> Result<(), Broken> {
        let id = whole.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let is_whole = whole.end_stream && stream.count_data(0, true);
        if !is_whole || decoded.fault.is_some() || decoded.has_pseudo() {
            return self.reset(id, Reason::PROTOCOL_ERROR, VIOLATION);
        }
        stream.recv = Half::Over;
        if !stream.is_unread {
            stream.trailers = Some(Box::new(Trailers {
                over: decoded.over,
                fields: decoded.fields,
            }));
            stream.wake_reader();
        }
        self.settle(id);
        Ok(())
    }
}
