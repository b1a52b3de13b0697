//! The state of a connection: bytes of the peer go in, bytes for the peer come out, and streams change in between. No socket, no clock.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Waker};

use hashbrown::HashMap;

use super::super::options::{FloodLimits, H2Options, HeaderLimits};
use super::error::{Broken, By, Error, Reason};
use super::frame::{self, DEFAULT_FRAME, DEFAULT_WINDOW};
use super::hpack::{Decoder, Encoder};
use super::output::Output;
use super::stream::{Half, Stream, register};

/// Streams that the peer makes us reset by breaking their rules; one more ends the connection (CVE-2025-8671).
const MOST_ERRORS: u32 = 1024;

/// Both roles of a connection; see the module.
pub struct Machine {
    pub(super) is_server: bool,
    pub(super) limits: Limits,
    /// Bytes of the client's preface that are still to come.
    pub(super) preface_left: usize,
    /// The beginning of a frame.
    pub(super) input: Vec<u8>,
    /// A header block that goes on in CONTINUATIONs.
    pub(super) block: Option<Box<Block>>,
    pub(super) blocks_ended: u64,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) out: Output,
    pub(super) streams: Streams,
    /// Those of them that have not ended.
    pub(super) active: u32,
    /// Requests that nobody has taken up.
    pub(super) pending: VecDeque<u32>,
    /// Streams that wait for the connection's window or for room in `out`, in their order.
    pub(super) blocked: VecDeque<u32>,
    /// Streams that we reset of late: what the peer said of them before it knew is no error.
    pub(super) recent: VecDeque<u32>,
    pub(super) counts: Counts,
    /// Requests that were reset for what their heads were, as response-code details.
    pub(super) malformed: Vec<&'static str>,
    /// The highest stream that a client has opened; of a client, the next that it will open.
    pub(super) highest: u32,
    /// The highest that was taken up.
    pub(super) processed: u32,
    /// Streams above it come too late: the last GOAWAY said so.
    pub(super) allowed: u32,
    pub(super) peer: Peer,
    /// The peer knows our SETTINGS.
    pub(super) is_acknowledged: bool,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    pub(super) unclaimed: u32,
    pub(super) leaving: Leaving,
    /// The peer has said GOAWAY.
    pub(super) peer_leaves: Option<Reason>,
    pub(super) ping_is_out: bool,
    /// Handles that may open streams.
    pub(super) senders: u32,
    /// Nothing more is read; what is in `out` still leaves.
    pub(super) end: Option<Result<(), Error>>,
    pub(super) flood: Option<&'static str>,
    task: Option<Waker>,
    is_called: bool,
}

/// What of the options concerns the codec.
pub(super) struct Limits {
    pub(super) headers: HeaderLimits,
    pub(super) floods: FloodLimits,
    pub(super) streams: u32,
    pub(super) stream_window: u32,
    pub(super) connection_window: u32,
    pub(super) frame: usize,
    pub(super) allow_connect: bool,
    pub(super) recent: usize,
    pub(super) pending_resets: usize,
}

/// What the peer's SETTINGS said.
pub(super) struct Peer {
    /// They have come.
    pub(super) is_settled: bool,
    pub(super) window: u32,
    pub(super) frame: usize,
    pub(super) streams: u32,
    pub(super) takes_connect: bool,
}

/// A header block that is not complete.
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    /// It opens its stream.
    pub(super) is_new: bool,
    /// Its stream depends on itself (RFC 7540 section 5.3.1).
    pub(super) is_circular: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) parts: usize,
}

/// What there may not be too much of.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) opened: u64,
    /// Requests that the client has begun, and of which nobody has been told.
    pub(super) unseen: u32,
    pub(super) empty_in_a_row: u32,
    pub(super) priorities: u64,
    pub(super) window_updates: u64,
    pub(super) data_sent: u64,
    pub(super) errors: u32,
    pub(super) pending_resets: usize,
}

/// A goodbye in two steps (RFC 9113 section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    Announced,
    Said,
}

pub(super) type Streams = HashMap<u32, Box<Stream>, BuildHasherDefault<Spread>>;

/// Stream ids are dense already, and a peer that chooses them cleverly finds as many collisions as it may open streams.
#[derive(Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
    }
}

impl Machine {
    pub fn server(options: &H2Options) -> Self {
        Self::new(options, true)
    }

    pub fn client(options: &H2Options) -> Self {
        Self::new(options, false)
    }

    fn new(options: &H2Options, is_server: bool) -> Self {
        let mut machine = Self {
            is_server,
            limits: Limits::new(options),
            preface_left: if is_server { frame::PREFACE.len() } else { 0 },
            input: Vec::new(),
            block: None,
            blocks_ended: 0,
            decoder: Decoder::new(options.header_table_size as usize),
            encoder: Encoder::new(),
            out: Output::default(),
            streams: Streams::default(),
            active: 0,
            pending: VecDeque::new(),
            blocked: VecDeque::new(),
            recent: VecDeque::new(),
            counts: Counts::default(),
            malformed: Vec::new(),
            highest: u32::from(!is_server),
            processed: 0,
            allowed: u32::MAX,
            peer: Peer {
                is_settled: false,
                window: DEFAULT_WINDOW,
                frame: DEFAULT_FRAME,
                streams: u32::MAX,
                takes_connect: false,
            },
            is_acknowledged: false,
            send_window: i64::from(DEFAULT_WINDOW),
            recv_window: i64::from(DEFAULT_WINDOW),
            unclaimed: 0,
            leaving: Leaving::No,
            peer_leaves: None,
            ping_is_out: false,
            senders: 0,
            end: None,
            flood: None,
            task: None,
            is_called: false,
        };
        machine.introduce(options);
        machine
    }

    /// What each side says first.
    fn introduce(&mut self, options: &H2Options) {
        if !self.is_server {
            self.out.preface();
        }
        let mut settings = vec![(frame::HEADER_TABLE_SIZE, options.header_table_size)];
        if self.is_server {
            settings.push((frame::MAX_CONCURRENT_STREAMS, options.max_concurrent_streams));
        } else {
            settings.push((frame::ENABLE_PUSH, 0));
        }
        settings.extend([
            (frame::INITIAL_WINDOW_SIZE, options.initial_stream_window),
            (frame::MAX_FRAME_SIZE, options.max_frame_size),
            (frame::MAX_HEADER_LIST_SIZE, options.hard_header_limit()),
        ]);
        if self.is_server && options.allow_connect {
            settings.push((frame::ENABLE_CONNECT_PROTOCOL, 1));
        }
        self.out.settings(&settings);
        let more = self.limits.connection_window.saturating_sub(DEFAULT_WINDOW);
        if more > 0 {
            self.recv_window += i64::from(more);
            self.out.window_update(0, more);
        }
    }

    /// The connection's task has its turn: it is woken when there is something to write.
    pub(super) fn attend(&mut self, cx: &Context<'_>) {
        register(&mut self.task, cx);
        self.is_called = false;
    }

    /// Has the connection's task write what a stream has to say.
    pub(super) fn call(&mut self) {
        if !self.is_called
            && let Some(task) = &self.task
        {
            self.is_called = true;
            task.wake_by_ref();
        }
    }

    /// Whether the peer owes the rest of a header block.
    pub(super) fn block_is_open(&self) -> bool {
        let begun = frame::Head::parse(&self.input);
        self.block.is_some() || begun.is_some_and(|head| matches!(head.kind, frame::HEADERS | frame::CONTINUATION))
    }

    /// Ends a stream whose rules the peer broke.
    pub(super) fn reset(&mut self, id: u32, reason: Reason, details: &'static str) -> Result<(), Broken> {
        self.counts.errors += 1;
        if self.counts.errors > MOST_ERRORS {
            return Err(Broken::Rules(Reason::ENHANCE_YOUR_CALM));
        }
        self.say_reset(id, reason);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.fail(Error::Reset(reason, By::Rules(details)));
            self.settle(id);
        }
        Ok(())
    }

    pub(super) fn say_reset(&mut self, id: u32, reason: Reason) {
        self.out.reset(id, reason);
        if self.recent.len() >= self.limits.recent.max(1) {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// Whether we have reset the stream, as far as we know: what was on its way then is no error. A client knows which streams it has opened, and
    /// a server remembers the last that it has reset.
    pub(super) fn is_gone(&self, id: u32) -> bool {
        let may_be_forgotten = !self.is_server || self.recent.len() >= self.limits.recent.max(1);
        self.recent.contains(&id) || (may_be_forgotten && !self.streams.contains_key(&id))
    }

    /// After each change that may have ended a stream: counts it out, and forgets it when nobody refers to it.
    pub(super) fn settle(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.is_closed() {
            return;
        }
        if std::mem::take(&mut stream.is_counted) {
            self.active -= 1;
            if self.active == 0 && self.is_leaving() {
                self.call();
            }
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.handles > 0 || stream.is_pending {
            return;
        }
        let (unread, had_turn) = (stream.unread(), stream.has_turn);
        self.streams.remove(&id);
        if self.streams.is_empty() && self.streams.capacity() > 32 {
            self.streams = Streams::default();
        }
        self.give_back(unread);
        if had_turn {
            self.wake_blocked();
        }
    }

    /// Bytes of the connection's window that are used no more.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.unclaimed += u32::try_from(bytes).unwrap_or(u32::MAX);
        if bytes > 0 && self.unclaimed >= self.limits.connection_window / 2 && self.end.is_none() {
            let more = std::mem::take(&mut self.unclaimed);
            self.recv_window += i64::from(more);
            self.out.window_update(0, more);
            self.call();
        }
    }

    /// The same for a stream's.
    pub(super) fn give_back_to(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.unclaimed += u32::try_from(bytes).unwrap_or(u32::MAX);
        let due = bytes > 0 && stream.unclaimed >= self.limits.stream_window / 2;
        if due && stream.recv != Half::Over && stream.error.is_none() {
            let more = std::mem::take(&mut stream.unclaimed);
            stream.recv_window += i64::from(more);
            self.out.window_update(id, more);
            self.call();
        }
    }

    /// Wakes streams that wait to send, as far as there is room for them.
    pub(super) fn wake_blocked(&mut self) {
        let room = self.out.room().min(usize::try_from(self.send_window).unwrap_or(0));
        let mut turns = room.div_ceil(DEFAULT_FRAME);
        while turns > 0
            && let Some(id) = self.blocked.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.is_queued = false;
            if std::mem::take(&mut stream.is_waiting) {
                stream.has_turn = true;
                stream.wake_writer();
                turns -= 1;
            }
        }
        if self.blocked.is_empty() {
            self.blocked = VecDeque::new();
        }
    }

    /// Bytes left `out`.
    pub(super) fn wrote(&mut self, count: usize) {
        self.out.wrote(count);
        if !self.blocked.is_empty() && self.out.has_much_room() {
            self.wake_blocked();
        }
    }

    /// Envoy's limits on what waits for a peer that does not read.
    pub(super) fn check_output(&mut self) {
        let floods = &self.limits.floods;
        let details = if self.out.controls() > floods.outbound_control_frames {
            "codec_error:Too_many_control_frames_in_the_outbound_queue."
        } else if self.out.frames() > floods.outbound_frames {
            "codec_error:Too_many_frames_in_the_outbound_queue."
        } else {
            return;
        };
        if self.end.is_none() {
            self.break_off(Broken::Flood(details));
        }
    }

    /// What waits to be written.
    pub fn output(&self) -> &[u8] {
        self.out.bytes()
    }

    /// What holds after each step, whatever the peer sends.
    ///
    /// # Panics
    ///
    /// When it does not: for tests and fuzzing.
    pub fn check(&self) {
        let open = self.streams.values().filter(|stream| !stream.is_closed()).count();
        assert_eq!(self.active as usize, open, "open streams");
        let unread: usize = self.streams.values().map(|stream| stream.unread()).sum();
        let window = self.recv_window + i64::from(self.unclaimed) + unread as i64;
        assert_eq!(window, i64::from(self.limits.connection_window), "bytes of the window");
        assert!((0..=frame::MAX_WINDOW).contains(&self.send_window) || self.end.is_some());
        let is_good = |stream: &Stream| stream.send_window <= frame::MAX_WINDOW || stream.is_closed();
        assert!(self.streams.values().all(|stream| is_good(stream)) || self.end.is_some());
        let queued = self.streams.values().filter(|stream| stream.is_queued).count();
        assert!(queued <= self.blocked.len(), "who waits is in the queue");
        assert!(self.recent.len() <= self.limits.recent.max(1));
        assert!(self.input.len() <= frame::HEAD + self.limits.frame);
    }
}

impl Limits {
    fn new(options: &H2Options) -> Self {
        Self {
            headers: options.header_limits(),
            floods: options.floods,
            streams: options.max_concurrent_streams,
            stream_window: options.initial_stream_window,
            connection_window: options.initial_connection_window.max(DEFAULT_WINDOW),
            frame: options.max_frame_size as usize,
            allow_connect: options.allow_connect,
            recent: options.max_concurrent_reset_streams,
            pending_resets: options.max_pending_accept_reset_streams,
        }
    }
}
