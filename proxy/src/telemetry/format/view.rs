//! What a format reads from: a stream, or a plain connection, by reference.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use crate::cluster::Cluster;
use crate::filters::network::metadata_exchange::Workload;
use crate::http::exchange::{ByteCounts, Exchange, Timing, Upstream};
use crate::listener::ConnectionInfo;
use crate::runtime::io::Address;
use crate::telemetry::flags::ResponseFlags;

/// A stream or connection as formats and access-log filters see it.
#[derive(Clone, Copy)]
pub struct LogView<'a> {
    /// `None`: a connection without HTTP.
    pub exchange: Option<&'a Exchange>,
    pub connection: &'a ConnectionInfo,
    pub upstream: &'a Upstream,
    pub flags: ResponseFlags,
    pub bytes: ByteCounts,
    pub timing: Timing,
    pub started: Instant,
    pub start_time: SystemTime,
    pub cluster: Option<&'a Cluster>,
    /// Why the connection ended; only for connections without HTTP.
    pub termination: &'a str,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: &'a str,
    /// Why the handshake with the client failed; only for connections without HTTP.
    pub downstream_failure: Option<&'a str>,
    pub close: Close,
    pub remote: &'a Address,
    pub response: Option<&'a HeaderMap>,
    pub trailers: Option<&'a HeaderMap>,
    pub log_type: LogType,
    /// `%LOCAL_REPLY_BODY%`: of an answer that is being put together.
    pub local_reply: &'a [u8],
    /// What a proxied connection has in place of what filters left; only for connections without HTTP.
    pub replaced: Option<&'a http::Extensions>,
}

/// `envoy.data.accesslog.v3.AccessLogType`, as far as we log; the numbers are the protobuf's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogType {
    NotSet = 0,
    TcpUpstreamConnected = 1,
    TcpPeriodic = 2,
    TcpConnectionEnd = 3,
    DownstreamStart = 4,
    DownstreamPeriodic = 5,
    DownstreamEnd = 6,
    DownstreamTunnelSuccessfullyEstablished = 13,
    TcpConnectionStart = 14,
}

impl LogType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSet => "NotSet",
            Self::TcpUpstreamConnected => "TcpUpstreamConnected",
            Self::TcpPeriodic => "TcpPeriodic",
            Self::TcpConnectionEnd => "TcpConnectionEnd",
            Self::DownstreamStart => "DownstreamStart",
            Self::DownstreamPeriodic => "DownstreamPeriodic",
            Self::DownstreamEnd => "DownstreamEnd",
            Self::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
            Self::TcpConnectionStart => "TcpConnectionStart",
        }
    }
}

/// How the ends of a connection were closed, and why by us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Close {
    pub downstream: CloseType,
    pub upstream: CloseType,
    /// Empty: it was not us, or there was no reason but the other end's.
    pub downstream_reason: &'static str,
    pub upstream_reason: &'static str,
}

/// `%DOWNSTREAM_DETECTED_CLOSE_TYPE%`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloseType {
    #[default]
    Normal,
    LocalReset,
    RemoteReset,
}

impl CloseType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::LocalReset => "LocalReset",
            Self::RemoteReset => "RemoteReset",
        }
    }
}

/// What a proxied connection without HTTP leaves for its log.
pub struct TcpRecord {
    pub connection: Arc<ConnectionInfo>,
    pub upstream: Upstream,
    pub flags: ResponseFlags,
    pub bytes: ByteCounts,
    pub timing: Timing,
    pub start_time: SystemTime,
    pub cluster: Option<Arc<Cluster>>,
    /// Who the host said it is (`istio.metadata_exchange`).
    pub workload: Option<Workload>,
    /// A copy of the connection's, once something is added that only the record has.
    pub extensions: Option<Box<http::Extensions>>,
    /// `%CONNECTION_TERMINATION_DETAILS%`
    pub termination: Cow<'static, str>,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: &'static str,
    /// `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`
    pub downstream_failure: Option<String>,
    pub close: Close,
    /// Of the line at its end.
    pub log_type: LogType,
}

impl TcpRecord {
    /// To add to what filters left.
    pub fn extensions_mut(&mut self) -> &mut http::Extensions {
        let own = || Box::new(self.connection.extensions.clone());
        self.extensions.get_or_insert_with(own)
    }
}

impl<'a> LogView<'a> {
    pub fn of(exchange: &'a Exchange) -> Self {
        Self {
            exchange: Some(exchange),
            connection: &exchange.connection,
            upstream: &exchange.upstream,
            flags: exchange.flags,
            bytes: exchange.bytes,
            timing: exchange.timing,
            started: exchange.started,
            start_time: exchange.start_time(),
            cluster: exchange.route.cluster.as_deref(),
            termination: "",
            details: &exchange.details,
            downstream_failure: None,
            close: Close::default(),
            remote: exchange.remote.as_ref().unwrap_or(&exchange.connection.remote),
            response: exchange.logged_response.as_deref(),
            trailers: exchange.logged_trailers.as_deref(),
            log_type: LogType::DownstreamEnd,
            local_reply: b"",
            replaced: None,
        }
    }

    /// A connection of which nothing is known but itself.
    pub fn of_connection(connection: &'a ConnectionInfo, upstream: &'a Upstream) -> Self {
        Self {
            exchange: None,
            connection,
            upstream,
            flags: ResponseFlags::default(),
            bytes: ByteCounts::default(),
            timing: Timing::default(),
            started: connection.accepted_at,
            start_time: crate::runtime::clock::wall_of(connection.accepted_at),
            cluster: None,
            termination: "",
            details: "",
            downstream_failure: None,
            close: Close::default(),
            remote: &connection.remote,
            response: None,
            trailers: None,
            log_type: LogType::TcpConnectionStart,
            local_reply: b"",
            replaced: None,
        }
    }

    pub fn of_tcp(record: &'a TcpRecord) -> Self {
        Self {
            exchange: None,
            connection: &record.connection,
            upstream: &record.upstream,
            flags: record.flags,
            bytes: record.bytes,
            timing: record.timing,
            started: record.connection.accepted_at,
            start_time: record.start_time,
            cluster: record.cluster.as_deref(),
            termination: &record.termination,
            details: record.details,
            downstream_failure: record.downstream_failure.as_deref(),
            close: record.close,
            remote: &record.connection.remote,
            response: None,
            trailers: None,
            log_type: record.log_type,
            local_reply: b"",
            replaced: record.extensions.as_deref(),
        }
    }

    /// What filters keep: the stream's, else the connection's.
    pub fn extensions(&self) -> &'a http::Extensions {
        let own = self.replaced.unwrap_or(&self.connection.extensions);
        self.exchange.map_or(own, |exchange| &exchange.extensions)
    }

    /// With the response's headers at hand.
    pub fn with_response(self, headers: &'a HeaderMap) -> Self {
        Self {
            response: Some(headers),
            ..self
        }
    }

    /// Until its end, or until now if it still runs.
    pub fn duration(&self) -> Duration {
        let elapsed = || crate::runtime::clock::now().saturating_duration_since(self.started);
        self.timing.end.unwrap_or_else(elapsed)
    }

    /// 0 when nothing was answered.
    pub fn response_code(&self) -> u16 {
        let code = self.exchange.and_then(|exchange| exchange.response_code);
        code.map_or(0, |code| code.as_u16())
    }
}
