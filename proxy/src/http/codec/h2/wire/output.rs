//! What waits to be written.

use std::cell::Cell;

use bytes::{Buf, BufMut, BytesMut};

use super::error::Reason;
use super::frame::{self, Head};

/// Bodies are taken while less than this waits, in bytes: four frames of the usual size.
const ROOM: usize = 64 * 1024;

thread_local! {
    /// The last buffer that was drained: connections that have nothing to say hold none.
    static SPARE: Cell<BytesMut> = Cell::default();
}

/// Frames on their way to the socket, and how many they are.
#[derive(Default)]
pub(super) struct Output {
    bytes: BytesMut,
    /// Bytes in front that belong to a frame of which some went out, or to no frame.
    rest: usize,
    frames: u32,
    controls: u32,
}

impl Output {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How much of a body may be added.
    pub(super) fn room(&self) -> usize {
        ROOM.saturating_sub(self.bytes.len())
    }

    /// Whether it is worth waking who waits for room.
    pub(super) fn has_much_room(&self) -> bool {
        self.bytes.len() <= ROOM / 2
    }

    /// Frames that wait.
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// Those among them that Envoy counts as control frames: SETTINGS, PING and RST_STREAM.
    pub(super) fn controls(&self) -> u32 {
        self.controls
    }

    /// The first `count` bytes went out.
    pub(super) fn wrote(&mut self, count: usize) {
        if count >= self.bytes.len() {
            return self.discard();
        }
        let mut at = self.rest;
        while at < count {
            let Some(head) = self.bytes.get(at..).and_then(Head::parse) else {
                break;
            };
            self.frames = self.frames.saturating_sub(1);
            self.controls = self.controls.saturating_sub(u32::from(is_control(head.kind)));
            at += frame::HEAD + head.length;
        }
        self.rest = at.saturating_sub(count);
        self.bytes.advance(count);
    }

    pub(super) fn discard(&mut self) {
        let mut bytes = std::mem::take(self).bytes;
        if bytes.capacity() <= 2 * ROOM {
            bytes.clear();
            SPARE.set(bytes);
        }
    }

    pub(super) fn preface(&mut self) {
        self.bytes.extend_from_slice(frame::PREFACE);
        self.rest = self.bytes.len();
    }

    fn head(&mut self, length: usize, kind: u8, flags: u8, stream: u32) {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        self.frames += 1;
        self.controls += u32::from(is_control(kind));
        let head = Head {
            length,
            kind,
            flags,
            stream,
        };
        self.bytes.reserve(frame::HEAD + length);
        self.bytes.put_slice(&head.bytes());
    }

    pub(super) fn data(&mut self, stream: u32, payload: &[u8], end: bool) {
        let flags = if end { frame::END_STREAM } else { 0 };
        self.head(payload.len(), frame::DATA, flags, stream);
        self.bytes.put_slice(payload);
    }

    /// A header block, which `encode` writes, in frames of at most `max` bytes.
    pub(super) fn headers(&mut self, stream: u32, end: bool, max: usize, encode: impl FnOnce(&mut BytesMut)) {
        let flags = if end { frame::END_STREAM } else { 0 };
        let start = self.bytes.len();
        self.head(0, frame::HEADERS, flags | frame::END_HEADERS, stream);
        encode(&mut self.bytes);
        let length = self.bytes.len() - start - frame::HEAD;
        if length > max {
            return self.split(stream, flags, start, max);
        }
        let head = Head {
            length,
            kind: frame::HEADERS,
            flags: flags | frame::END_HEADERS,
            stream,
        };
        if let Some(place) = self.bytes.get_mut(start..start + frame::HEAD) {
            place.copy_from_slice(&head.bytes());
        }
    }

    /// Cuts the block that was written behind the head at `start`.
    fn split(&mut self, stream: u32, flags: u8, start: usize, max: usize) {
        let block = self.bytes.split_off(start + frame::HEAD);
        self.bytes.truncate(start);
        self.frames -= 1;
        let mut parts = block.chunks(max.max(1)).peekable();
        let mut kind = frame::HEADERS;
        let mut flags = flags;
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { frame::END_HEADERS } else { 0 };
            self.head(part.len(), kind, flags | last, stream);
            self.bytes.put_slice(part);
            (kind, flags) = (frame::CONTINUATION, 0);
        }
    }

    pub(super) fn reset(&mut self, stream: u32, reason: Reason) {
        self.head(4, frame::RST_STREAM, 0, stream);
        self.bytes.put_u32(reason.0);
    }

    pub(super) fn settings(&mut self, values: &[(u16, u32)]) {
        self.head(6 * values.len(), frame::SETTINGS, 0, 0);
        for (id, value) in values {
            self.bytes.put_u16(*id);
            self.bytes.put_u32(*value);
        }
    }

    pub(super) fn settings_ack(&mut self) {
        self.head(0, frame::SETTINGS, frame::ACK, 0);
    }

    pub(super) fn ping(&mut self, flags: u8, payload: [u8; 8]) {
        self.head(payload.len(), frame::PING, flags, 0);
        self.bytes.put_slice(&payload);
    }

    pub(super) fn goaway(&mut self, last: u32, reason: Reason) {
        self.head(8, frame::GOAWAY, 0, 0);
        self.bytes.put_u32(last);
        self.bytes.put_u32(reason.0);
    }

    pub(super) fn window_update(&mut self, stream: u32, increment: u32) {
        self.head(4, frame::WINDOW_UPDATE, 0, stream);
        self.bytes.put_u32(increment);
    }
}

fn is_control(kind: u8) -> bool {
    matches!(kind, frame::SETTINGS | frame::PING | frame::RST_STREAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_until_they_begin_to_leave() {
        let mut out = Output::default();
        out.preface();
        out.settings(&[(1, 2)]);
        out.ping(0, [7; 8]);
        out.data(1, b"hello", true);
        assert_eq!((out.frames(), out.controls()), (3, 2));
        out.wrote(24);
        assert_eq!((out.frames(), out.controls()), (3, 2));
        out.wrote(1);
        assert_eq!((out.frames(), out.controls()), (2, 1));
        out.wrote(14);
        assert_eq!((out.frames(), out.controls()), (2, 1));
        out.wrote(18);
        assert_eq!((out.frames(), out.controls()), (0, 0));
        assert_eq!(out.bytes(), &b"\0\0\x05\0\x01\0\0\0\x01hello"[1..]);
        out.wrote(13);
        assert!(out.bytes().is_empty());
    }

    #[test]
    fn a_long_block_goes_on_in_continuations() {
        let mut out = Output::default();
        out.headers(3, true, 4, |block| block.extend_from_slice(b"abcdefghij"));
        let mut rest = out.bytes();
        let mut seen = Vec::new();
        while let Some(head) = Head::parse(rest) {
            seen.push((head.kind, head.flags, rest[9..9 + head.length].to_vec()));
            rest = &rest[9 + head.length..];
        }
        assert_eq!(
            seen,
            [
                (frame::HEADERS, frame::END_STREAM, b"abcd".to_vec()),
                (frame::CONTINUATION, 0, b"efgh".to_vec()),
                (frame::CONTINUATION, frame::END_HEADERS, b"ij".to_vec()),
            ]
        );
        assert_eq!(out.frames(), 3);
    }
}
