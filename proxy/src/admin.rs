//! The admin server: Envoy's endpoints, in Envoy's names and shapes.
//!
//! In: an HTTP request from an operator, a probe or an agent. Out: a page formatted on the spot from what other rooms hold; nothing is
//! kept here. What changes the process (drain, quit, fail health checks) goes out through [`Control`], which `app` implements.
//!
//! One table ([`endpoints`]) says which endpoints there are; dispatch, `/help` and `/` all read it. Pages that may be large are streamed
//! (`/config_dump`) or formatted on a blocking thread (`/stats`, `/clusters`), so that the xDS streams of the main runtime do not wait.
//!
//! Reading never builds a cluster (D5). `/clusters` and `/config_dump` show an unused cluster from its encoded bytes: its thresholds and the
//! endpoints that the control plane named, with counters at zero, which is what they are.

mod bootstrap_view;
mod certs;
mod clusters;
mod config_dump;
mod counted;
pub mod endpoints;
mod listeners;
mod log;
mod logging;
mod notes;
mod process;
mod query;
mod reply;
mod runtime;
mod server;
mod stats;
mod xds;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

pub use notes::{Notes, Publication};
pub use server::{Bound, router, serve, write_address_path};

use crate::bootstrap::{Buckets, StatsMatcher};
use crate::cli::Options;
use crate::config::live::Values;
use crate::route::strings::StringMatcher;
use crate::runtime::io::Address;
use crate::snapshot::SnapshotCell;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::logging::Logging;
use crate::telemetry::server::ServerState;
use crate::telemetry::stats::Stats;
use crate::telemetry::tags::TagRules;
use crate::tls::SecretStore;

/// Everything that the pages read. Built once, when the process starts.
pub struct AdminState {
    pub stats: Stats,
    /// For the labels of `/stats/prometheus`.
    pub tags: Arc<TagRules>,
    /// Which stats there are for a reader.
    pub stats_matcher: StatsMatcher,
    /// Upper bounds of histograms that have their own.
    pub buckets: Buckets,
    /// `stats_flush_on_admin`: whoever reads stats ends the intervals of histograms.
    pub flush_stats: bool,
    /// `/stats/recentlookups/enable` was called.
    pub records_lookups: AtomicBool,
    /// `admin.access_log`
    pub access_logs: Arc<[AccessLog]>,
    /// `admin.allow_paths`: all when empty.
    pub allow_paths: Vec<StringMatcher>,
    pub logging: Logging,
    pub runtime: Arc<Values>,
    pub snapshot: Arc<SnapshotCell>,
    pub secrets: Arc<SecretStore>,
    pub options: Arc<Options>,
    /// The encoded `Bootstrap`, its node filled in. Static resources are read from it.
    pub bootstrap: Bytes,
    pub started: Instant,
    /// `last_updated` of everything static.
    pub started_at: SystemTime,
    /// Since when the first epoch of hot restarts runs. `None`: hot restart is off.
    pub first_started_at: Option<SystemTime>,
    /// `None` when everything is static.
    pub xds: Option<remora_xds::ClientHandle>,
    pub notes: Arc<Notes>,
    pub control: Arc<dyn Control>,
}

/// What the admin server may ask of the process. No method blocks.
pub trait Control: Send + Sync + 'static {
    /// The state that `/ready` shows; draining while health checks are failed on purpose.
    fn state(&self) -> ServerState;

    /// The listeners that accept now and where they really listen, in the order of `/listeners`.
    fn listeners(&self) -> Vec<(Arc<str>, Vec<Address>)>;

    /// What the control plane's listeners were made of that drain, the first to drain first.
    fn draining_listeners(&self) -> Vec<Arc<remora_xds::Resource>>;

    /// `/drain_listeners`: starts what `how` says and returns.
    fn drain_listeners(&self, how: DrainListeners);

    /// `/healthcheck/fail` (true) and `/healthcheck/ok` (false).
    fn set_health_failed(&self, failed: bool);

    /// `/reopen_logs`: access logs and the log file are opened anew, for rotation.
    ///
    /// # Errors
    /// The log file cannot be opened; the old one stays in use. Access logs tell their own troubles.
    fn reopen_logs(&self) -> std::io::Result<()>;

    /// `/quitquitquit`: the process ends soon, without a drain.
    fn quit(&self);
}

/// The query of `/drain_listeners`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainListeners {
    /// `inboundonly`: only listeners whose `traffic_direction` is `INBOUND`.
    pub inbound_only: bool,
    /// `graceful`: connections are asked to leave for the drain time, then listeners close. Without it listeners close at once.
    pub graceful: bool,
    /// `skip_exit`: connections are asked to leave, listeners stay open.
    pub skip_exit: bool,
}

#[cfg(test)]
mod tests;
