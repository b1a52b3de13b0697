//! One downstream connection in the books of its connection manager.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use super::HcmStats;
use crate::listener::ConnectionInfo;
use crate::runtime::clock;
use crate::runtime::io::Account;
use crate::telemetry::stats::Gauge;

/// Counts a connection for as long as it lives, the bytes that pass, and who ended it.
pub struct OpenConnection {
    stats: Arc<HcmStats>,
    /// Counts the requests under way.
    info: Option<Arc<ConnectionInfo>>,
    since: Instant,
    /// [`UNKNOWN`], [`HTTP1`] or [`HTTP2`].
    codec: AtomicU8,
    /// [`OPEN`], [`BY_PEER`] or [`BY_US`]: who was first.
    end: AtomicU8,
    /// Bytes of the last read: Envoy's gauge of what is buffered holds them until the next.
    last_read: AtomicU64,
}

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

const OPEN: u8 = 0;
const BY_PEER: u8 = 1;
const BY_US: u8 = 2;

impl OpenConnection {
    pub(super) fn start(stats: Arc<HcmStats>, info: Option<Arc<ConnectionInfo>>) -> Arc<Self> {
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        let open = Self {
            stats,
            info,
            since: clock::now(),
            codec: AtomicU8::new(UNKNOWN),
            end: AtomicU8::new(OPEN),
            last_read: AtomicU64::new(0),
        };
        if open.is_tls() {
            open.stats.downstream_cx_ssl_total.inc();
            open.stats.downstream_cx_ssl_active.inc();
        }
        Arc::new(open)
    }

    fn is_tls(&self) -> bool {
        // Also where the handshake has failed.
        let speaks_tls = |info: &Arc<ConnectionInfo>| info.tls.is_some() || info.transport_protocol == "tls";
        self.info.as_ref().is_some_and(speaks_tls)
    }

    /// It turned out to speak HTTP/1.
    pub fn speaks_http1(&self) {
        self.stats.downstream_cx_http1_total.inc();
        self.stats.downstream_cx_http1_active.inc();
        self.codec.store(HTTP1, Ordering::Relaxed);
    }

    /// It turned out to speak HTTP/2.
    pub fn speaks_http2(&self) {
        self.stats.downstream_cx_http2_total.inc();
        self.stats.downstream_cx_http2_active.inc();
        self.codec.store(HTTP2, Ordering::Relaxed);
    }

    fn ended(&self, by: u8) {
        let ended = self
            .end
            .compare_exchange(OPEN, by, Ordering::Relaxed, Ordering::Relaxed);
        let requests = self.info.as_ref().map(|info| info.requests.load(Ordering::Relaxed));
        if ended.is_err() || requests.unwrap_or(0) == 0 {
            return;
        }
        self.stats.downstream_cx_destroy_active_rq.inc();
        match by {
            BY_PEER => self.stats.downstream_cx_destroy_remote_active_rq.inc(),
            _ => self.stats.downstream_cx_destroy_local_active_rq.inc(),
        }
    }

    fn codec_gauge(&self) -> Option<&Gauge> {
        match self.codec.load(Ordering::Relaxed) {
            HTTP1 => Some(&self.stats.downstream_cx_http1_active),
            HTTP2 => Some(&self.stats.downstream_cx_http2_active),
            _ => None,
        }
    }
}

impl Account for OpenConnection {
    fn received(&self, bytes: u64) {
        self.stats.downstream_cx_rx_bytes_total.add(bytes);
        let before = self.last_read.swap(bytes, Ordering::Relaxed);
        self.stats.downstream_cx_rx_bytes_buffered.replace(before, bytes);
    }

    fn sent(&self, bytes: u64) {
        self.stats.downstream_cx_tx_bytes_total.add(bytes);
    }

    fn unsent(&self, before: u64, now: u64) {
        self.stats.downstream_cx_tx_bytes_buffered.replace(before, now);
    }

    fn ended_by_peer(&self) {
        self.ended(BY_PEER);
    }

    fn ended_by_us(&self) {
        self.ended(BY_US);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let stats = &self.stats;
        stats.downstream_cx_active.dec();
        if self.is_tls() {
            stats.downstream_cx_ssl_active.dec();
        }
        if let Some(gauge) = self.codec_gauge() {
            gauge.dec();
        }
        stats
            .downstream_cx_rx_bytes_buffered
            .sub(self.last_read.load(Ordering::Relaxed));
        stats.downstream_cx_destroy.inc();
        match self.end.load(Ordering::Relaxed) {
            BY_PEER => stats.downstream_cx_destroy_remote.inc(),
            _ => stats.downstream_cx_destroy_local.inc(),
        }
        let lived = clock::now().saturating_duration_since(self.since);
        stats
            .downstream_cx_length_ms
            .record(u64::try_from(lived.as_millis()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::io::Io;
    use crate::tls::PeerInfo;

    #[tokio::test]
    async fn bytes_and_the_first_to_end_a_connection_are_counted() {
        for by_peer in [true, false] {
            let stats = Arc::<HcmStats>::default();
            let info = Arc::new(crate::testing::connection(Some(PeerInfo::default())));
            let open = stats.open_connection(Some(&info));
            info.requests.store(1, Ordering::Relaxed);
            open.speaks_http2();
            let (ours, mut peer) = tokio::io::duplex(64);
            let mut io = Io::Duplex(ours).metered(open.clone());
            peer.write_all(b"request").await.unwrap();
            let mut buffer = [0; 7];
            io.read_exact(&mut buffer).await.unwrap();
            io.write_all(b"answer").await.unwrap();
            if by_peer {
                drop(peer);
                peer_is_gone(&mut io).await;
            }
            io.shutdown().await.unwrap_or_default();
            let gauges = |stats: &HcmStats| {
                [
                    stats.downstream_cx_active.value(),
                    stats.downstream_cx_ssl_active.value(),
                    stats.downstream_cx_http2_active.value(),
                ]
            };
            assert_eq!(gauges(&stats), [1; 3]);
            assert_eq!(stats.downstream_cx_rx_bytes_buffered.value(), 7);
            drop((io, open));
            assert_eq!(gauges(&stats), [0; 3]);
            assert_eq!(stats.downstream_cx_rx_bytes_buffered.value(), 0);
            let counted = [
                &stats.downstream_cx_rx_bytes_total,
                &stats.downstream_cx_tx_bytes_total,
                &stats.downstream_cx_destroy,
                &stats.downstream_cx_destroy_remote,
                &stats.downstream_cx_destroy_local,
                &stats.downstream_cx_destroy_active_rq,
                &stats.downstream_cx_destroy_remote_active_rq,
                &stats.downstream_cx_destroy_local_active_rq,
            ];
            let (remote, local) = (u64::from(by_peer), u64::from(!by_peer));
            assert_eq!(
                counted.map(|counter| counter.value()),
                [7, 6, 1, remote, local, 1, remote, local]
            );
        }
    }

    async fn peer_is_gone(io: &mut Io) {
        assert_eq!(io.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}
