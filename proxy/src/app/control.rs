//! How a running proxy is steered: drain, quit, state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{Control, DrainListeners};
use crate::cli::Options;
use crate::config::BuildContext;
use crate::listener::ListenerManager;
use crate::runtime::clock;
use crate::runtime::io::Address;
use crate::runtime::spawn::spawn;
use crate::runtime::sys;
use crate::telemetry::access_log::Sinks;
use crate::telemetry::logging::Logging;
use crate::telemetry::server::{ServerState, ServerStats};

/// Shared by admin, signals and whoever embeds the proxy.
pub struct ProxyControl {
    pub manager: Arc<ListenerManager>,
    pub options: Arc<Options>,
    pub started: Instant,
    access_logs: Arc<Sinks>,
    stats: Arc<ServerStats>,
    /// What the state is but for failed health checks.
    state: Mutex<ServerState>,
    health_failed: AtomicBool,
    quit: watch::Sender<Quit>,
    live: watch::Sender<bool>,
    /// Changes with the configuration.
    configured: watch::Sender<()>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Quit {
    No,
    /// Drained, or drain time over.
    Now,
}

/// How long after a change of configuration what only the change needs has run, and the threads it ran on have ended.
const SETTLED: Duration = Duration::from_secs(1);

/// How often the end of a drain is looked for.
const DRAIN_POLL: Duration = Duration::from_millis(20);

impl ProxyControl {
    pub(super) fn new(
        manager: Arc<ListenerManager>,
        options: Arc<Options>,
        context: &BuildContext,
        started: Instant,
    ) -> Self {
        let stats: Arc<ServerStats> = context.stats.group("server.");
        stats.start(started);
        stats.concurrency.set(options.concurrency as u64);
        if options.restart_epoch > 0 {
            stats.hot_restart_epoch.set(options.restart_epoch.into());
        }
        let control = Self {
            manager,
            options,
            started,
            access_logs: context.access_logs.clone(),
            stats,
            state: Mutex::new(ServerState::Initializing),
            health_failed: AtomicBool::new(false),
            quit: watch::Sender::new(Quit::No),
            live: watch::Sender::new(false),
            configured: watch::Sender::new(()),
        };
        control.stats.set_state(ServerState::Initializing);
        control
    }

    /// `Draining` also while health checks are made to fail (`/healthcheck/fail`), as Envoy reports it.
    pub fn state(&self) -> ServerState {
        if self.health_failed.load(Ordering::Relaxed) {
            ServerState::Draining
        } else {
            *self.state.lock()
        }
    }

    fn show_state(&self) {
        self.stats.set_state(self.state());
    }

    fn is_draining(&self) -> bool {
        *self.state.lock() == ServerState::Draining
    }

    /// Everything that was asked for at start is there, or did not come in time.
    pub fn set_live(&self) {
        {
            let mut state = self.state.lock();
            if *state != ServerState::Initializing {
                return;
            }
            *state = ServerState::Live;
        }
        self.live.send_replace(true);
        tracing::info!("all dependencies initialized. starting workers");
        self.show_state();
        drop(spawn("tidy", tidy(self.configured.subscribe())));
    }

    /// The configuration has changed: what that took is given back when it is over.
    pub(super) fn note_change(&self) {
        self.configured.send_replace(());
    }

    /// Opens access logs and the log file anew, for rotation.
    ///
    /// # Errors
    /// The log file cannot be opened; the old one stays in use.
    pub fn reopen_logs(&self) -> std::io::Result<()> {
        self.access_logs.reopen();
        Logging::current().reopen()
    }

    /// Ends the process now.
    pub fn quit(&self) {
        self.quit.send_replace(Quit::Now);
    }

    /// Stops accepting, lets connections finish for as long as `--drain-time-s` allows, then quits.
    pub fn drain_and_quit(self: &Arc<Self>) {
        *self.state.lock() = ServerState::Draining;
        self.show_state();
        self.manager.hurry_connections(false);
        self.manager.stop_accepting(false);
        let this = self.clone();
        spawn("drain", async move {
            let end = clock::now() + this.options.drain_time;
            while this.manager.is_busy() && clock::now() < end {
                clock::sleep(DRAIN_POLL).await;
            }
            this.quit();
        });
    }

    /// Stops accepting, as the next epoch does that now, and quits when no connection is left; whoever took over says when to end at the latest.
    pub(super) fn drain_for_next(self: &Arc<Self>) {
        *self.state.lock() = ServerState::Draining;
        self.show_state();
        self.manager.stop_accepting(false);
        self.manager.drain_connections(false);
        let this = self.clone();
        spawn("drain", async move {
            while this.manager.is_busy() {
                clock::sleep(DRAIN_POLL).await;
            }
            this.quit();
        });
    }

    /// Completes once everything is there that was asked for at start. Cancel safe.
    pub(super) async fn live(&self) {
        let mut live = self.live.subscribe();
        // The sender lives as long as `self`.
        let _ = live.wait_for(|live| *live).await;
    }

    /// Completes once the proxy is to end. Cancel safe.
    pub async fn finished(&self) {
        let mut quit = self.quit.subscribe();
        // The sender lives as long as `self`.
        let _ = quit.wait_for(|quit| *quit == Quit::Now).await;
    }

    /// Cuts everything.
    pub(super) fn close(&self) {
        self.manager.stop_accepting(false);
        self.manager.close_connections();
        self.quit();
    }
}

/// What admin asks of a proxy; the control hands itself out in this form.
pub(super) struct AdminControl(pub Arc<ProxyControl>);

impl Control for AdminControl {
    fn state(&self) -> ServerState {
        self.0.state()
    }

    fn listeners(&self) -> Vec<(Arc<str>, Vec<Address>)> {
        let listeners = self.0.manager.listeners();
        listeners
            .iter()
            .map(|listener| (listener.name.clone(), listener.addresses.clone()))
            .collect()
    }

    fn draining_listeners(&self) -> Vec<Arc<remora_xds::Resource>> {
        self.0.manager.draining()
    }

    fn drain_listeners(&self, how: DrainListeners) {
        let manager = &self.0.manager;
        if !how.graceful && !how.skip_exit {
            manager.hurry_connections(how.inbound_only);
            manager.stop_accepting(how.inbound_only);
            return;
        }
        manager.drain_connections(how.inbound_only);
        if how.skip_exit {
            return;
        }
        let control = self.0.clone();
        spawn("graceful drain", async move {
            clock::sleep(control.options.drain_time).await;
            control.manager.stop_accepting(how.inbound_only);
        });
    }

    fn set_health_failed(&self, failed: bool) {
        self.0.health_failed.store(failed, Ordering::Relaxed);
        self.0.manager.set_unhealthy(failed);
        self.0.show_state();
    }

    fn reopen_logs(&self) -> std::io::Result<()> {
        self.0.reopen_logs()
    }

    fn quit(&self) {
        self.0.quit();
    }
}

/// SIGTERM and SIGINT drain, then quit; SIGUSR1 reopens logs; SIGHUP does nothing, as in Envoy.
pub(super) fn follow_signals(control: &Arc<ProxyControl>) {
    quit_on_signals(control.clone());
    let on = |kind, name: &'static str, work: fn(&ProxyControl)| {
        let control = control.clone();
        let mut signals = match signal(kind) {
            Ok(signals) => signals,
            Err(error) => return tracing::error!(%error, name, "cannot listen for a signal"),
        };
        drop(spawn("signals", async move {
            while signals.recv().await.is_some() {
                work(&control);
            }
        }));
    };
    on(SignalKind::hangup(), "SIGHUP", |_| {
        tracing::warn!("caught and eating SIGHUP: a new epoch is started with --restart-epoch");
    });
    on(SignalKind::user_defined1(), "SIGUSR1", |control| {
        tracing::info!("caught SIGUSR1: reopening access logs");
        if let Err(error) = control.reopen_logs() {
            tracing::error!(%error, "the log file could not be opened again");
        }
    });
}

/// The first drains, a second ends at once.
fn quit_on_signals(control: Arc<ProxyControl>) {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let control = control.clone();
        let mut signals = match signal(kind) {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "cannot listen for signals");
                return;
            }
        };
        spawn("signals", async move {
            while signals.recv().await.is_some() {
                if control.is_draining() {
                    tracing::warn!("second signal: quitting at once");
                    control.quit();
                    return;
                }
                tracing::warn!(drain_time = ?control.options.drain_time, "signal: draining");
                control.drain_and_quit();
            }
        });
    }
}

/// Gives memory back that only the start, or a change of configuration, has needed. Ends with the proxy.
async fn tidy(mut configured: watch::Receiver<()>) {
    clock::sleep(SETTLED).await;
    match sys::release_program_pages() {
        Ok(bytes) => tracing::debug!(bytes, "pages of the program that the start has touched are released"),
        Err(error) => tracing::debug!(%error, "pages of the program are not released"),
    }
    sys::release_unused_memory();
    while configured.changed().await.is_ok() {
        clock::sleep(SETTLED).await;
        configured.mark_unchanged();
        sys::release_unused_memory();
    }
}
