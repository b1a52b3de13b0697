//! Frames of the peer, and what they change.

use super::error::{Broken, By, Error, Reason, VIOLATION};
use super::frame::{self, DEFAULT_FRAME, DEFAULT_WINDOW, Head, MAX_WINDOW};
use super::machine::{Block, Machine};
use super::stream::{Half, Stream};

mod headers;

// Of RFC 9113 section 7.
const BAD: Broken = Broken::Rules(Reason::PROTOCOL_ERROR);
const BAD_SIZE: Broken = Broken::Rules(Reason::FRAME_SIZE_ERROR);
const TOO_MUCH: Broken = Broken::Rules(Reason::FLOW_CONTROL_ERROR);

// Envoy's response-code details.
const EMPTY_FRAMES: Broken = Broken::Flood("http2.inbound_empty_frames_flood");
const PRIORITIES: Broken = Broken::Flood("codec_error:Too_many_PRIORITY_frames");
const WINDOW_UPDATES: Broken = Broken::Flood("codec_error:Too_many_WINDOW_UPDATE_frames");

impl Machine {
    /// Takes what the peer has sent, in pieces of any size.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        while self.end.is_none() && !bytes.is_empty() {
            if let Err(broken) = self.step(&mut bytes) {
                self.break_off(broken);
            }
        }
    }

    /// Uses up bytes: all of them, or as many as one frame has.
    fn step(&mut self, bytes: &mut &[u8]) -> Result<(), Broken> {
        if self.preface_left > 0 {
            return self.take_preface(bytes);
        }
        if self.input.is_empty() {
            let Some(head) = Head::parse(bytes) else {
                return self.keep(bytes);
            };
            self.check_size(head)?;
            let Some((frame, rest)) = bytes.split_at_checked(frame::HEAD + head.length) else {
                return self.keep(bytes);
            };
            *bytes = rest;
            return self.frame(head, frame.get(frame::HEAD..).unwrap_or_default());
        }
        self.gather(frame::HEAD, bytes);
        let Some(head) = Head::parse(&self.input) else {
            return Ok(());
        };
        self.check_size(head)?;
        if self.gather(frame::HEAD + head.length, bytes) {
            let input = std::mem::take(&mut self.input);
            self.frame(head, input.get(frame::HEAD..).unwrap_or_default())?;
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &mut &[u8]) -> Result<(), Broken> {
        self.input.extend_from_slice(bytes);
        *bytes = &[];
        Ok(())
    }

    /// Takes bytes until there are `want`; false: there are not.
    fn gather(&mut self, want: usize, bytes: &mut &[u8]) -> bool {
        let missing = want.saturating_sub(self.input.len()).min(bytes.len());
        let (now, rest) = bytes.split_at(missing);
        self.input.extend_from_slice(now);
        *bytes = rest;
        self.input.len() >= want
    }

    fn take_preface(&mut self, bytes: &mut &[u8]) -> Result<(), Broken> {
        let expected = frame::PREFACE.len() - self.preface_left;
        let expected = frame::PREFACE.get(expected..).unwrap_or_default();
        let length = expected.len().min(bytes.len());
        let (now, rest) = bytes.split_at(length);
        if Some(now) != expected.get(..length) {
            return Err(BAD);
        }
        self.preface_left -= length;
        *bytes = rest;
        Ok(())
    }

    fn check_size(&self, head: Head) -> Result<(), Broken> {
        if head.length > self.limits.frame {
            Err(BAD_SIZE)
        } else {
            Ok(())
        }
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        // Section 3.4: SETTINGS come first.
        if !self.peer.is_settled && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(BAD);
        }
        let is_rest = |block: &Block| head.kind == frame::CONTINUATION && head.stream == block.stream;
        if self.block.as_ref().is_some_and(|block| !is_rest(block)) {
            return Err(BAD);
        }
        match head.kind {
            frame::DATA => self.data(head, payload),
            frame::HEADERS => self.headers(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            frame::PRIORITY => self.priority(head, payload),
            frame::RST_STREAM => self.rst_stream(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PING => self.pinged(head, payload),
            frame::GOAWAY => self.goaway(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            // We switch it off, and a client never may.
            frame::PUSH_PROMISE => Err(BAD),
            // Section 4.1: what nobody knows is passed over.
            _ => Ok(()),
        }
    }

    /// Whether nobody has opened the stream; only clients open any.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        if id.is_multiple_of(2) {
            return true;
        }
        if self.is_server {
            id > self.highest
        } else {
            id >= self.highest
        }
    }

    /// Envoy's limit on frames that say nothing.
    fn count_empty(&mut self, head: Head, is_empty: bool) -> Result<(), Broken> {
        if !is_empty || (head.kind != frame::CONTINUATION && head.has(frame::END_STREAM)) {
            self.counts.empty_in_a_row = 0;
            return Ok(());
        }
        self.counts.empty_in_a_row += 1;
        within(
            u64::from(self.counts.empty_in_a_row),
            u64::from(self.limits.floods.empty_in_a_row),
            EMPTY_FRAMES,
        )
    }

    fn data(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let id = head.stream;
        let data = head.unpad(payload).ok_or(BAD)?;
        self.count_empty(head, data.is_empty())?;
        // Of a stream that our GOAWAY has turned away.
        let is_late = self.is_server && id > self.allowed;
        if self.is_idle(id) {
            return Err(BAD);
        }
        let (length, last) = (payload.len(), head.has(frame::END_STREAM));
        if self.recv_window < length as i64 {
            return Err(TOO_MUCH);
        }
        self.recv_window -= length as i64;
        let result = self.stream_data(id, data, length, last);
        match result {
            Ok(()) => {
                let padding = length - data.len();
                if padding > 0 {
                    self.give_back(padding);
                    self.give_back_to(id, padding);
                }
                Ok(())
            }
            Err(unwanted) => {
                self.give_back(length);
                match unwanted {
                    Unwanted::Ignored => Ok(()),
                    Unwanted::Wrong(_) if is_late || self.is_gone(id) => Ok(()),
                    Unwanted::Wrong(reason) => self.reset(id, reason, VIOLATION),
                }
            }
        }
    }

    /// Data of a stream, with the `length` that counts for windows.
    fn stream_data(&mut self, id: u32, data: &[u8], length: usize, last: bool) -> Result<(), Unwanted> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(Unwanted::Wrong(Reason::STREAM_CLOSED));
        };
        if stream.error.is_some() {
            return Err(match stream.error {
                Some(Error::Reset(_, By::Peer)) => Unwanted::Wrong(Reason::STREAM_CLOSED),
                _ => Unwanted::Ignored,
            });
        }
        match stream.recv {
            Half::Body => {}
            Half::Head => return Err(Unwanted::Wrong(Reason::PROTOCOL_ERROR)),
            Half::Over => return Err(Unwanted::Wrong(Reason::STREAM_CLOSED)),
        }
        if stream.recv_window < length as i64 {
            return Err(Unwanted::Wrong(Reason::FLOW_CONTROL_ERROR));
        }
        if !stream.count_data(data.len(), last) {
            return Err(Unwanted::Wrong(Reason::PROTOCOL_ERROR));
        }
        stream.recv_window -= length as i64;
        if last {
            stream.recv = Half::Over;
        }
        let is_unread = stream.is_unread;
        if !is_unread {
            if stream.body.is_empty() {
                // As large as it is: then handing it on costs no other allocation.
                stream.body = data.to_vec();
            } else {
                stream.body.extend_from_slice(data);
            }
            stream.wake_reader();
        }
        if last {
            self.settle(id);
        }
        if is_unread { Err(Unwanted::Ignored) } else { Ok(()) }
    }

    fn priority(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let id = head.stream;
        if id == 0 {
            return Err(BAD);
        }
        self.counts.priorities += 1;
        let allowed = u64::from(self.limits.floods.priorities_per_stream).saturating_mul(1 + self.counts.opened);
        within(self.counts.priorities, allowed, PRIORITIES)?;
        let Ok([a, b, c, d, _]) = <[u8; 5]>::try_from(payload) else {
            return self.stream_error(id, Reason::FRAME_SIZE_ERROR);
        };
        if frame::number([a, b, c, d]) == id {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        }
        Ok(())
    }

    /// A stream that nobody has opened cannot be reset.
    fn stream_error(&mut self, id: u32, reason: Reason) -> Result<(), Broken> {
        if self.is_idle(id) {
            return Err(Broken::Rules(reason));
        }
        self.reset(id, reason, VIOLATION)
    }

    fn rst_stream(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let id = head.stream;
        let reason = Reason(u32::from_be_bytes(payload.try_into().map_err(|_| BAD_SIZE)?));
        if self.is_idle(id) {
            return Err(BAD);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if stream.is_pending && !stream.is_closed() {
            self.counts.pending_resets += 1;
            if self.counts.pending_resets > self.limits.pending_resets {
                return Err(Broken::Rules(Reason::ENHANCE_YOUR_CALM));
            }
        }
        stream.fail(Error::Reset(reason, By::Peer));
        self.settle(id);
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        if head.stream != 0 {
            return Err(BAD);
        }
        if head.has(frame::ACK) {
            return if payload.is_empty() {
                self.acknowledged()
            } else {
                Err(BAD_SIZE)
            };
        }
        let (settings, []) = payload.as_chunks::<6>() else {
            return Err(BAD_SIZE);
        };
        let mut window = None;
        for [i0, i1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            match u16::from_be_bytes([*i0, *i1]) {
                frame::INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => return Err(TOO_MUCH),
                // All streams are visited for it: once, however often it is said.
                frame::INITIAL_WINDOW_SIZE => window = Some(value),
                id => self.setting(id, value)?,
            }
        }
        if let Some(window) = window {
            self.peers_window(window)?;
        }
        self.peer.is_settled = true;
        self.out.settings_ack();
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), Broken> {
        match id {
            frame::HEADER_TABLE_SIZE => self.encoder.set_max_table_size(value as usize),
            frame::ENABLE_PUSH if value > u32::from(self.is_server) => return Err(BAD),
            frame::MAX_CONCURRENT_STREAMS => self.peer.streams = value,
            frame::MAX_FRAME_SIZE => {
                if !(DEFAULT_FRAME..1 << 24).contains(&(value as usize)) {
                    return Err(BAD);
                }
                self.peer.frame = value as usize;
            }
            frame::ENABLE_CONNECT_PROTOCOL => {
                // RFC 8441 section 3: what was allowed once stays so.
                if value > 1 || (value == 0 && self.peer.takes_connect) {
                    return Err(BAD);
                }
                self.peer.takes_connect = value == 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Section 6.9.2: windows of open streams change with it, and may become negative.
    fn peers_window(&mut self, value: u32) -> Result<(), Broken> {
        let more = i64::from(value) - i64::from(self.peer.window);
        self.peer.window = value;
        for stream in self.streams.values_mut().filter(|stream| !stream.is_closed()) {
            stream.send_window += more;
            if stream.send_window > MAX_WINDOW {
                return Err(TOO_MUCH);
            }
            if more > 0 && stream.send_window > 0 {
                stream.wake_writer();
            }
        }
        Ok(())
    }

    /// The peer has applied our SETTINGS, of which streams only feel the window.
    fn acknowledged(&mut self) -> Result<(), Broken> {
        if !std::mem::replace(&mut self.is_acknowledged, true) {
            let more = i64::from(self.limits.stream_window) - i64::from(DEFAULT_WINDOW);
            for stream in self.streams.values_mut() {
                stream.recv_window += more;
            }
        }
        Ok(())
    }

    /// What the peer may send on a stream that begins now.
    pub(super) fn first_recv_window(&self) -> i64 {
        i64::from(if self.is_acknowledged {
            self.limits.stream_window
        } else {
            DEFAULT_WINDOW
        })
    }

    fn pinged(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let payload = <[u8; 8]>::try_from(payload).map_err(|_| BAD_SIZE)?;
        if head.stream != 0 {
            return Err(BAD);
        }
        if head.has(frame::ACK) {
            self.pong(payload);
        } else {
            self.out.ping(frame::ACK, payload);
        }
        Ok(())
    }

    fn goaway(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let Some(([l0, l1, l2, l3, r0, r1, r2, r3], _)) = payload.split_first_chunk::<8>() else {
            return Err(BAD_SIZE);
        };
        if head.stream != 0 {
            return Err(BAD);
        }
        let reason = Reason(u32::from_be_bytes([*r0, *r1, *r2, *r3]));
        self.peer_leaves = Some(reason);
        if !self.is_server {
            self.fail_above(frame::number([*l0, *l1, *l2, *l3]), reason);
        }
        Ok(())
    }

    fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let id = head.stream;
        let increment = frame::number(payload.try_into().map_err(|_| BAD_SIZE)?);
        if id != 0 && self.is_idle(id) {
            return Err(BAD);
        }
        self.counts.window_updates += 1;
        let answers = u64::from(self.limits.floods.window_updates_per_data_frame).saturating_mul(self.counts.data_sent);
        let allowed = self
            .counts
            .opened
            .saturating_add(answers)
            .saturating_mul(2)
            .saturating_add(5);
        within(self.counts.window_updates, allowed, WINDOW_UPDATES)?;
        if id == 0 {
            if increment == 0 {
                return Err(BAD);
            }
            self.send_window += i64::from(increment);
            if self.send_window > MAX_WINDOW {
                return Err(TOO_MUCH);
            }
            self.wake_blocked();
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closed()) else {
            return Ok(());
        };
        stream.send_window += i64::from(increment);
        if increment == 0 {
            return self.reset(id, Reason::PROTOCOL_ERROR, VIOLATION);
        }
        if stream.send_window > MAX_WINDOW {
            return self.reset(id, Reason::FLOW_CONTROL_ERROR, VIOLATION);
        }
        // Who waits in line for the connection's window or for room has its turn.
        if !stream.is_waiting {
            stream.wake_writer();
        }
        Ok(())
    }

    /// A stream of the peer.
    fn open(&mut self, id: u32, recv: Half) -> &mut Stream {
        let windows = (i64::from(self.peer.window), self.first_recv_window());
        self.active += 1;
        self.processed = id;
        self.streams
            .entry(id)
            .or_insert_with(|| Box::new(Stream::new(recv, Half::Head, windows.0, windows.1)))
    }
}

/// Data that goes to nobody.
enum Unwanted {
    Ignored,
    Wrong(Reason),
}

fn within(count: u64, allowed: u64, flood: Broken) -> Result<(), Broken> {
    if count > allowed { Err(flood) } else { Ok(()) }
}
