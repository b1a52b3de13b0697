//! What of HTTP/2 is configured, with Envoy's defaults (`Http2ProtocolOptions`, `HttpProtocolOptions`).

use std::time::Duration;

use crate::http::codec::Underscores;

/// Settings of a connection; the same for both sides, each reads what concerns it.
#[derive(Clone, Debug, PartialEq)]
pub struct H2Options {
    /// Streams the peer may open (server), or that we open at most (client). Envoy: 1024.
    pub max_concurrent_streams: u32,
    /// Bytes the peer may send on a stream before we read them. Envoy: 16 MiB.
    pub initial_stream_window: u32,
    /// Bytes the peer may send on the connection before we read them. Envoy: 24 MiB.
    pub initial_connection_window: u32,
    /// Largest frame payload we take, in bytes. RFC 9113 6.5.2: 16,384.
    pub max_frame_size: u32,
    /// `hpack_table_size`, in bytes: 4096.
    pub header_table_size: u32,
    /// `max_request_headers_kb`, in bytes: names and values of one header or trailer block. Envoy: 60 KiB.
    pub max_header_list_size: u32,
    /// `common_http_protocol_options.headers_with_underscores_action`
    pub underscores: Underscores,
    /// `max_headers_count`; each cookie crumb counts. Envoy: 100.
    pub max_headers_count: usize,
    /// `allow_connect`: extended CONNECT (RFC 8441). Envoy: off.
    pub allow_connect: bool,
    /// Without streams for so long, a connection is drained. Envoy: 1 h.
    pub idle_timeout: Option<Duration>,
    /// Without a byte in either direction for so long, a stream ends. Envoy: 5 min.
    pub stream_idle: Option<Duration>,
    /// `request_timeout`: from the beginning of a request to its last byte. Envoy: off.
    pub request_timeout: Option<Duration>,
    /// `request_headers_timeout`: from the first byte of a header block to its last. Envoy: off.
    pub request_headers: Option<Duration>,
    /// `drain_timeout`: how long a connection that leaves waits for its client to say that it knows. Envoy: 5 s.
    pub drain_timeout: Duration,
    /// `delayed_close_timeout`: how long the client may take to close when we have. Envoy: 1 s.
    pub delayed_close: Option<Duration>,
    /// `connection_keepalive`. Envoy: off.
    pub keepalive: Option<KeepaliveOptions>,
    /// `max_requests_per_connection`: drained after so many.
    pub max_requests_per_connection: Option<u32>,
    /// `max_connection_duration`: drained when so old.
    pub max_connection_duration: Option<Duration>,
    /// Streams that we reset and of which frames may still arrive.
    pub max_concurrent_reset_streams: usize,
    /// Streams that the peer reset before we took them up; more closes the connection (CVE-2023-44487).
    pub max_pending_accept_reset_streams: usize,
    /// `stream_reset_burst`: resets by the peer that are free at once. Envoy: 1000.
    pub stream_reset_burst: u32,
    /// `stream_reset_rate`: resets that become free again each second. Envoy: 33.
    pub stream_reset_rate: u32,
    /// Frames that cost their sender little and us much.
    pub floods: FloodLimits,
}

/// How many frames are too many: the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// `max_consecutive_inbound_frames_with_empty_payload`
    pub empty_in_a_row: u32,
    /// `max_inbound_priority_frames_per_stream`
    pub priorities_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`
    pub window_updates_per_data_frame: u32,
    /// `max_outbound_frames`: frames of any kind that wait for a peer that does not read.
    pub outbound_frames: u32,
    /// `max_outbound_control_frames`: SETTINGS, PING and RST_STREAM among them.
    pub outbound_control_frames: u32,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            empty_in_a_row: 1,
            priorities_per_stream: 100,
            window_updates_per_data_frame: 10,
            outbound_frames: 10_000,
            outbound_control_frames: 1000,
        }
    }
}

/// `max_headers_count` and `max_request_headers_kb`, for the blocks that are read after their head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderLimits {
    pub(super) count: usize,
    /// Of names and values.
    pub(super) bytes: u32,
}

/// PINGs that show whether the peer still answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveOptions {
    pub interval: Duration,
    /// Without an answer for so long, the connection is closed.
    pub timeout: Duration,
}

impl Default for H2Options {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            initial_stream_window: 16 << 20,
            initial_connection_window: 24 << 20,
            max_frame_size: 16_384,
            header_table_size: 4096,
            max_header_list_size: 60 << 10,
            underscores: Underscores::Allow,
            max_headers_count: 100,
            allow_connect: false,
            idle_timeout: Some(Duration::from_secs(3600)),
            stream_idle: Some(Duration::from_secs(300)),
            request_timeout: None,
            request_headers: None,
            drain_timeout: Duration::from_secs(5),
            delayed_close: Some(Duration::from_secs(1)),
            keepalive: None,
            max_requests_per_connection: None,
            max_connection_duration: None,
            max_concurrent_reset_streams: 64,
            max_pending_accept_reset_streams: 256,
            stream_reset_burst: 1000,
            stream_reset_rate: 33,
            floods: FloodLimits::default(),
        }
    }
}

impl H2Options {
    /// What we say that we take, in the terms of RFC 9113 section 6.5.2, which counts more than Envoy does: twice as much.
    pub(super) fn hard_header_limit(&self) -> u32 {
        self.max_header_list_size.saturating_mul(2)
    }

    /// What one header or trailer block may hold.
    pub(super) fn header_limits(&self) -> HeaderLimits {
        HeaderLimits {
            count: self.max_headers_count,
            bytes: self.max_header_list_size,
        }
    }
}
