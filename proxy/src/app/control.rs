//! How a running proxy is steered: drain, quit, state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::Options;
use crate::listener::ListenerManager;
use crate::runtime::clock;
use crate::runtime::spawn::spawn;

/// `envoy.admin.v3.ServerInfo.State`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    Live,
    Draining,
    PreInitializing,
    Initializing,
}

/// Shared by admin, signals and whoever embeds the proxy.
pub struct ProxyControl {
    pub manager: Arc<ListenerManager>,
    pub options: Arc<Options>,
    pub started: Instant,
    state: Mutex<ServerState>,
    health_failed: Mutex<bool>,
    quit: watch::Sender<Quit>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Quit {
    No,
    /// Drained, or drain time over.
    Now,
}

/// How often the end of a drain is looked for.
const DRAIN_POLL: Duration = Duration::from_millis(20);

impl ProxyControl {
    pub(super) fn new(manager: Arc<ListenerManager>, options: Arc<Options>, started: Instant) -> Self {
        Self {
            manager,
            options,
            started,
            state: Mutex::new(ServerState::Initializing),
            health_failed: Mutex::new(false),
            quit: watch::Sender::new(Quit::No),
        }
    }

    /// `Draining` also while health checks are made to fail (`/healthcheck/fail`), as Envoy reports it.
    pub fn state(&self) -> ServerState {
        if *self.health_failed.lock() { ServerState::Draining } else { *self.state.lock() }
    }

    /// Everything that was asked for at start is there, or did not come in time.
    pub fn set_live(&self) {
        let mut state = self.state.lock();
        if *state == ServerState::Initializing {
            *state = ServerState::Live;
            tracing::info!("all dependencies initialized. starting workers");
        }
    }

    /// `/healthcheck/fail` and `/healthcheck/ok`
    pub fn set_health_failed(&self, failed: bool) {
        *self.health_failed.lock() = failed;
    }

    /// `/drain_listeners`: `graceful` asks connections to leave before their listeners stop at the end of the drain time; otherwise listeners
    /// stop accepting at once.
    pub fn drain_listeners(self: &Arc<Self>, inbound_only: bool, graceful: bool, skip_exit: bool) {
        self.manager.drain_connections(inbound_only, true);
        if !graceful {
            self.manager.stop_accepting(inbound_only);
            return;
        }
        if skip_exit {
            return;
        }
        let this = self.clone();
        spawn("graceful drain", async move {
            clock::sleep(this.options.drain_time).await;
            this.manager.stop_accepting(inbound_only);
        });
    }

    /// Ends the process now.
    pub fn quit(&self) {
        self.quit.send_replace(Quit::Now);
    }

    /// Stops accepting, lets connections finish for as long as `--drain-time-s` allows, then quits.
    pub fn drain_and_quit(self: &Arc<Self>) {
        *self.state.lock() = ServerState::Draining;
        self.manager.drain_connections(false, true);
        self.manager.stop_accepting(false);
        let this = self.clone();
        spawn("drain", async move {
            let end = clock::now() + this.options.drain_time;
            while this.manager.connections() > 0 && clock::now() < end {
                clock::sleep(DRAIN_POLL).await;
            }
            this.quit();
        });
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

/// SIGTERM and SIGINT: the first drains, a second ends at once.
pub(super) fn quit_on_signals(control: Arc<ProxyControl>) {
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
                if control.state() == ServerState::Draining && *control.state.lock() == ServerState::Draining {
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
