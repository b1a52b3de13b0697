//! `listener.<address>.` and `listener_manager.` stats.

use std::sync::{Arc, OnceLock};

use super::chain_match::ChainTable;
use crate::runtime::io::Address;
use crate::telemetry::stats::Stats;
use crate::tls::stats::{Expirations, ServerSocketStats, SslStats};

crate::stat_group! {
    /// Under `listener.<address>.`.
    pub struct ListenerStats {
        counters: {
            downstream_cx_total, downstream_cx_destroy, downstream_cx_transport_socket_connect_timeout,
            downstream_cx_overflow, downstream_global_cx_overflow, downstream_pre_cx_timeout, downstream_listener_filter_remote_close,
            no_filter_chain_match
        }
        gauges: { downstream_cx_active, downstream_pre_cx_active }
        histograms: { downstream_cx_length_ms, connections_accepted_per_socket_event }
    }
}

crate::stat_group! {
    /// Under `listener.<address>.worker_<N>.`.
    pub struct WorkerStats {
        counters: { downstream_cx_total }
        gauges: { downstream_cx_active }
        histograms: {}
    }
}

crate::stat_group! {
    /// Under `listener_manager.`; how many listeners warm, the xDS client knows.
    pub struct ManagerStats {
        counters: {
            listener_added, listener_modified, listener_removed, listener_stopped, listener_create_success,
            listener_create_failure, listener_in_place_updated
        }
        gauges: {
            total_listeners_active, total_listeners_draining,
            total_filter_chains_draining, workers_started
        }
        histograms: {}
    }
}

crate::stat_group! {
    /// Under `tls_inspector.`, for the whole process.
    pub struct TlsInspectorStats {
        counters: {
            client_hello_too_large, tls_found, tls_not_found, alpn_found, alpn_not_found, sni_found, sni_not_found
        }
        gauges: {}
        histograms: { bytes_processed }
    }
}

crate::stat_group! {
    /// Under `http_inspector.`, for the whole process.
    pub struct HttpInspectorStats {
        counters: { read_error, http10_found, http11_found, http2_found, http_not_found }
        gauges: {}
        histograms: {}
    }
}

/// All that one listener counts into, resolved when it is made.
pub struct Scope {
    pub listener: Arc<ListenerStats>,
    pub workers: Vec<Arc<WorkerStats>>,
    tls: OnceLock<TlsScope>,
    stats: Stats,
    prefix: String,
}

/// What TLS counts of a listener that has it.
pub struct TlsScope {
    pub ssl: Arc<SslStats>,
    pub socket: Arc<ServerSocketStats>,
    expirations: Arc<Expirations>,
}

/// `listener.<address>.`
pub fn prefix(stat_prefix: Option<&str>, address: Option<&Address>) -> String {
    let name = match (stat_prefix, address) {
        (Some(prefix), _) => prefix.to_owned(),
        (None, Some(address)) => address.to_string().replace(':', "_"),
        (None, None) => String::new(),
    };
    format!("listener.{name}.")
}

/// The listener filters' own.
pub struct InspectorStats {
    pub tls: Arc<TlsInspectorStats>,
    pub http: Arc<HttpInspectorStats>,
}

impl Scope {
    /// `stat_prefix` stands in for the address if it is set.
    pub fn new(stats: &Stats, stat_prefix: Option<&str>, address: Option<&Address>, workers: usize) -> Self {
        let prefix = prefix(stat_prefix, address);
        Self {
            listener: stats.group(&prefix),
            workers: (0..workers)
                .map(|index| stats.group(&format!("{prefix}worker_{index}.")))
                .collect(),
            tls: OnceLock::new(),
            stats: stats.clone(),
            prefix,
        }
    }
}

impl Scope {
    /// Counts what happens to the secrets of these chains, and shows their certificates.
    pub fn count(&self, chains: &ChainTable) {
        for tls in chains.all().filter_map(|chain| chain.tls.as_ref()) {
            let scope = self.tls();
            tls.count_into(&scope.socket, &scope.expirations);
        }
    }

    /// There from the first chain with TLS on.
    pub fn tls(&self) -> &TlsScope {
        self.tls.get_or_init(|| {
            let (stats, prefix) = (&self.stats, &self.prefix);
            TlsScope {
                ssl: stats.group(&format!("{prefix}ssl.")),
                socket: stats.group(&format!("{prefix}server_ssl_socket_factory.")),
                expirations: stats.group(&format!("{prefix}ssl.certificate.")),
            }
        })
    }
}

impl InspectorStats {
    pub fn new(stats: &Stats) -> Self {
        Self {
            tls: stats.group("tls_inspector."),
            http: stats.group("http_inspector."),
        }
    }
}
