//! The compiled `HttpConnectionManager`: settings, the pipeline made from them, codec detection.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::access_log::LogOptions;
use super::codec::{h1, h2};
use super::header_policy::HeaderPolicy;
use super::pipeline::{CodecStats, HcmStats, ListenerHttpStats, Pipeline, RouterStats, TracingStats, pipeline};
use super::respond::LocalReply;
use super::router::Router;
use super::select_route::RouteSource;
use crate::filters::http::FilterList;
use crate::listener::ConnectionInfo;
use crate::runtime::clock;
use crate::runtime::io::Io;
use crate::snapshot::SnapshotCell;
use crate::telemetry::access_log::AccessLog;

/// `codec_type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecType {
    /// ALPN decides, else the first bytes.
    Auto,
    Http1,
    Http2,
}

/// What an `HttpConnectionManager` says, compiled.
pub struct Settings {
    pub codec: CodecType,
    pub h1: h1::H1Options,
    pub h2: h2::H2Options,
    pub timeouts: h1::server::Timeouts,
    /// `max_connection_duration_jitter`, percent: so much older a connection may become, by chance.
    pub age_jitter: f64,
    pub stats: Arc<HcmStats>,
    pub router_stats: Arc<RouterStats>,
    /// Of the mirrors that its router sends.
    pub mirror_stats: Arc<RouterStats>,
    pub tracing_stats: Arc<TracingStats>,
    pub codec_stats: CodecStats,
    pub listener_stats: Arc<ListenerHttpStats>,
    pub routes: RouteSource,
    pub snapshot: Arc<SnapshotCell>,
    pub filters: Arc<FilterList>,
    pub header_policy: Arc<HeaderPolicy>,
    /// `local_reply_config`
    pub local_reply: Option<Arc<LocalReply>>,
    pub access_logs: Arc<[AccessLog]>,
    pub log_options: LogOptions,
    /// `upgrade_configs` that are on: lower-case upgrade types, `connect` among them.
    pub upgrades: Vec<String>,
    pub suppress_envoy_headers: bool,
    /// `common_http_protocol_options.max_stream_duration`
    pub max_stream_duration: Option<Duration>,
}

impl Settings {
    /// How old a connection may become, for a random number in `0.0..1.0`.
    pub fn max_age(&self, random: f64) -> Option<Duration> {
        let age = self.timeouts.max_age?;
        Some(age.mul_f64(1.0 + random * self.age_jitter / 100.0))
    }
}

/// A connection manager in use; shared by the connections of its filter chain.
pub struct ConnectionManager {
    pub settings: Settings,
    pub(super) pipeline: Pipeline,
}

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl ConnectionManager {
    pub fn new(settings: Settings) -> Arc<Self> {
        let router = Router {
            snapshot: settings.snapshot.clone(),
            stats: settings.router_stats.clone(),
            mirror_stats: settings.mirror_stats.clone(),
            suppress_envoy_headers: settings.suppress_envoy_headers,
            max_stream_duration: settings.max_stream_duration,
        };
        let pipeline = pipeline(&settings, router);
        Arc::new(Self { settings, pipeline })
    }

    /// Which codec, and the stream with what was read to find out. `None`: the connection ended before it was clear.
    pub(super) async fn detect(&self, mut io: Io, connection: &ConnectionInfo) -> Option<(CodecType, Io)> {
        if self.settings.codec != CodecType::Auto {
            return Some((self.settings.codec, io));
        }
        match connection.alpn.as_deref() {
            Some(b"h2") => return Some((CodecType::Http2, io)),
            Some(b"http/1.1" | b"http/1.0") => return Some((CodecType::Http1, io)),
            _ => {}
        }
        let expiry = self
            .settings
            .max_age(fastrand::f64())
            .map(|age| connection.accepted_at + age);
        let mut read = BytesMut::new();
        loop {
            if !PREFACE.starts_with(&read[..read.len().min(PREFACE.len())]) {
                return Some((CodecType::Http1, Io::prefixed(read.freeze(), io)));
            }
            if read.len() >= PREFACE.len() {
                return Some((CodecType::Http2, Io::prefixed(read.freeze(), io)));
            }
            let life = expiry.map(|expiry| expiry.saturating_duration_since(clock::now()));
            let more = async { io.read_buf(&mut read).await.unwrap_or(0) };
            let count = tokio::select! {
                count = more => count,
                () = after(self.settings.timeouts.idle) => {
                    self.settings.stats.downstream_cx_idle_timeout.inc();
                    0
                }
                () = after(life) => {
                    self.settings.stats.downstream_cx_max_duration_reached.inc();
                    0
                }
            };
            if count == 0 {
                return None;
            }
        }
    }
}

/// Never, without a limit.
async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => clock::sleep(limit).await,
        None => std::future::pending().await,
    }
}
