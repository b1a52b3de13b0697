//! Looks at frames as they pass, for what the `h2` crate tells nobody: which frames flood a connection (Envoy's limits), since when a header block is
//! incomplete, and which requests were reset before anybody saw them.

use super::options::FloodLimits;

/// Which frames there are too many of, as response-code details.
pub(super) type Flood = &'static str;

const EMPTY_FRAMES: Flood = "http2.inbound_empty_frames_flood";
const PRIORITIES: Flood = "codec_error:Too_many_PRIORITY_frames";
const WINDOW_UPDATES: Flood = "codec_error:Too_many_WINDOW_UPDATE_frames";

/// RFC 9113 section 3.4, in bytes.
const PREFACE: usize = 24;

// Of RFC 9113 section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PROTOCOL_ERROR: u32 = 1;

/// Both directions of one connection.
pub(super) struct Watch {
    limits: FloodLimits,
    inbound: Scanner,
    outbound: Scanner,
    /// Whose streams they are.
    is_server: bool,
    highest_stream: u32,
    opened: u64,
    empty_in_a_row: u32,
    priorities: u64,
    window_updates: u64,
    data_sent: u64,
    block_is_open: bool,
    blocks_ended: u64,
}

impl Watch {
    pub(super) fn server(limits: FloodLimits) -> Self {
        Self::new(limits, true)
    }

    pub(super) fn client(limits: FloodLimits) -> Self {
        Self::new(limits, false)
    }

    fn new(limits: FloodLimits, is_server: bool) -> Self {
        Self {
            limits,
            inbound: Scanner::behind(if is_server { PREFACE } else { 0 }),
            outbound: Scanner::behind(if is_server { 0 } else { PREFACE }),
            is_server,
            highest_stream: 0,
            opened: 0,
            empty_in_a_row: 0,
            priorities: 0,
            window_updates: 0,
            data_sent: 0,
            block_is_open: false,
            blocks_ended: 0,
        }
    }

    pub(super) fn is_server(&self) -> bool {
        self.is_server
    }

    /// Whether the peer owes the rest of a header block.
    pub(super) fn block_is_open(&self) -> bool {
        self.block_is_open
    }

    /// Streams that were opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn blocks_ended(&self) -> u64 {
        self.blocks_ended
    }

    /// Bytes of the peer.
    ///
    /// # Errors
    ///
    /// They are a flood.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while let Some(step) = self.inbound.step(&mut bytes) {
            match step {
                Step::Begun(frame) => self.count_received(frame)?,
                Step::Ended(frame) if matches!(frame.kind, HEADERS | CONTINUATION) && frame.has(END_HEADERS) => {
                    self.block_is_open = false;
                    self.blocks_ended += 1;
                }
                Step::Ended(_) => {}
            }
        }
        Ok(())
    }

    /// Bytes of ours; `reset` hears of streams that are reset, and whether for a protocol error.
    pub(super) fn sent(&mut self, mut bytes: &[u8], mut reset: impl FnMut(u32, bool)) {
        while let Some(step) = self.outbound.step(&mut bytes) {
            let Step::Begun(frame) = step else { continue };
            match frame.kind {
                DATA => self.data_sent += 1,
                HEADERS if !self.is_server => self.open(frame.stream),
                // Those of an upstream connection are counted with their streams.
                RST_STREAM if self.is_server => reset(frame.stream, frame.extra == PROTOCOL_ERROR),
                _ => {}
            }
        }
    }

    fn open(&mut self, stream: u32) {
        if stream > self.highest_stream {
            self.highest_stream = stream;
            self.opened += 1;
        }
    }

    /// Envoy's rules (`ProtocolConstraints`), with the streams opened so far.
    fn count_received(&mut self, frame: Frame) -> Result<(), Flood> {
        match frame.kind {
            DATA | HEADERS | CONTINUATION => {
                if frame.kind != DATA {
                    self.block_is_open = true;
                }
                if frame.kind == HEADERS && self.is_server {
                    self.open(frame.stream);
                }
                if frame.is_empty() && !frame.has(END_STREAM) {
                    self.empty_in_a_row += 1;
                } else {
                    self.empty_in_a_row = 0;
                }
                within(
                    u64::from(self.empty_in_a_row),
                    u64::from(self.limits.empty_in_a_row),
                    EMPTY_FRAMES,
                )
            }
            PRIORITY => {
                self.priorities += 1;
                let allowed = u64::from(self.limits.priorities_per_stream).saturating_mul(1 + self.opened);
                within(self.priorities, allowed, PRIORITIES)
            }
            WINDOW_UPDATE => {
                self.window_updates += 1;
                let answers = u64::from(self.limits.window_updates_per_data_frame).saturating_mul(self.data_sent);
                let allowed = self.opened.saturating_add(answers).saturating_mul(2).saturating_add(5);
                within(self.window_updates, allowed, WINDOW_UPDATES)
            }
            _ => Ok(()),
        }
    }
}

fn within(count: u64, allowed: u64, flood: Flood) -> Result<(), Flood> {
    if count > allowed { Err(flood) } else { Ok(()) }
}

/// A frame's head.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: u32,
    /// Of a padded frame the length of its padding, of a RST_STREAM its code.
    extra: u32,
}

impl Frame {
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes behind the head that are looked at, too.
    fn extra_length(self) -> usize {
        let wanted = match self.kind {
            RST_STREAM => 4,
            DATA | HEADERS if self.has(PADDED) => 1,
            _ => 0,
        };
        wanted.min(self.length as usize)
    }

    /// Nothing in it but padding.
    fn is_empty(self) -> bool {
        let padding = if self.extra_length() == 1 { 1 + self.extra } else { 0 };
        self.length <= padding
    }
}

enum Step {
    Begun(Frame),
    /// Its last byte has passed.
    Ended(Frame),
}

/// Finds frames in one direction's bytes, however they are cut.
struct Scanner {
    /// Bytes to pass over: the preface, or the rest of a payload.
    skip: usize,
    head: [u8; HEAD + 4],
    have: usize,
    frame: Option<Frame>,
}

const HEAD: usize = 9;

impl Scanner {
    fn behind(preface: usize) -> Self {
        Self {
            skip: preface,
            head: [0; HEAD + 4],
            have: 0,
            frame: None,
        }
    }

    /// The next event in `bytes`, which are used up to it; none: all are used up.
    fn step(&mut self, bytes: &mut &[u8]) -> Option<Step> {
        let passed = self.skip.min(bytes.len());
        *bytes = bytes.get(passed..).unwrap_or_default();
        self.skip -= passed;
        if self.skip > 0 {
            return None;
        }
        if let Some(frame) = self.frame.take() {
            return Some(Step::Ended(frame));
        }
        if self.have < HEAD && !self.gather(HEAD, bytes) {
            return None;
        }
        let mut frame = self.parse();
        let extra = frame.extra_length();
        if !self.gather(HEAD + extra, bytes) {
            return None;
        }
        let more = self.head.get(HEAD..HEAD + extra).unwrap_or_default();
        frame.extra = more.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
        self.have = 0;
        self.skip = frame.length as usize - extra;
        self.frame = Some(frame);
        Some(Step::Begun(frame))
    }

    /// Takes bytes until there are `want` of the head; false: there are not.
    fn gather(&mut self, want: usize, bytes: &mut &[u8]) -> bool {
        let taken = want.saturating_sub(self.have).min(bytes.len());
        let (now, rest) = bytes.split_at(taken);
        if let Some(room) = self.head.get_mut(self.have..self.have + taken) {
            room.copy_from_slice(now);
        }
        self.have += taken;
        *bytes = rest;
        self.have >= want
    }

    fn parse(&self) -> Frame {
        let [a, b, c, kind, flags, s0, s1, s2, s3, ..] = self.head;
        Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            length: u32::from_be_bytes([0, a, b, c]),
            extra: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn server(frames: &[Vec<u8>]) -> (Watch, Result<(), Flood>) {
        let mut watch = Watch::server(FloodLimits::default());
        watch.received(&[b'p'; PREFACE]).unwrap();
        let result = watch.received(&frames.concat());
        (watch, result)
    }

    #[test]
    fn two_empty_frames_in_a_row_are_a_flood() {
        let head = frame(HEADERS, END_HEADERS, 1, b"h");
        let empty = frame(DATA, 0, 1, b"");
        let padded = frame(DATA, PADDED, 1, &[2, 0, 0]);
        let full = frame(DATA, 0, 1, b"x");
        let end = frame(DATA, END_STREAM, 1, b"");
        assert!(
            server(&[head.clone(), empty.clone(), full.clone(), padded.clone(), end])
                .1
                .is_ok()
        );
        assert_eq!(server(&[head.clone(), empty, padded]).1, Err(EMPTY_FRAMES));
        let rest = frame(CONTINUATION, 0, 1, b"");
        let open = frame(HEADERS, 0, 1, b"h");
        assert_eq!(server(&[open, rest.clone(), rest]).1, Err(EMPTY_FRAMES));
    }

    #[test]
    fn priorities_and_window_updates_are_measured_by_streams_and_data() {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"h");
        let priority = frame(PRIORITY, 0, 1, &[0; 5]);
        let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
        let (mut watch, result) = server(&[vec![head.clone()], vec![priority.clone(); 200]].concat());
        assert!(result.is_ok());
        assert_eq!(watch.received(&priority), Err(PRIORITIES));
        let (mut watch, result) = server(&[vec![head], vec![update.clone(); 7]].concat());
        assert!(result.is_ok());
        watch.sent(&frame(DATA, 0, 1, b"x"), |_, _| {});
        assert!(watch.received(&vec![update.clone(); 20].concat()).is_ok());
        assert_eq!(watch.received(&update), Err(WINDOW_UPDATES));
    }

    #[test]
    fn a_header_block_is_open_until_its_last_byte() {
        let block = frame(HEADERS, END_HEADERS, 1, b"headers");
        let (mut watch, _) = server(&[block[..block.len() - 1].to_vec()]);
        assert!(watch.block_is_open());
        watch.received(b"s").unwrap();
        assert!(!watch.block_is_open());
        watch.received(&frame(HEADERS, 0, 3, b"x")).unwrap();
        assert!(watch.block_is_open());
        watch.received(&frame(CONTINUATION, END_HEADERS, 3, b"x")).unwrap();
        assert!(!watch.block_is_open());
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut(cuts in proptest::collection::vec(1usize..40, 1..40)) {
            let bytes = [
                frame(4, 0, 0, &[0; 6]),
                frame(RST_STREAM, 0, 3, &[0, 0, 0, 1]),
                frame(DATA, PADDED, 1, &[1, 7, 0]),
                frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]),
                frame(DATA, 0, 1, &[9; 50]),
                frame(RST_STREAM, 0, 7, &[0, 0, 0, 1]),
            ]
            .concat();
            let mut watch = Watch::server(FloodLimits::default());
            let mut reset = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                watch.sent(now, |stream, broke| reset.push((stream, broke)));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(reset, vec![(3, true), (5, false), (7, true)]);
            prop_assert_eq!(watch.data_sent, 2);
        }
    }
}
