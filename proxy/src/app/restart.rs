//! A running proxy in a chain of hot restarts: takes over from the epoch before, and gives way to the next.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Proxy, ProxyControl, StartError};
use crate::admin;
use crate::bootstrap::Bootstrap;
use crate::restart::{self, Handover, Restart};
use crate::runtime::clock;
use crate::runtime::drain::{Drain, DrainPhase};
use crate::runtime::spawn::spawn;

/// How often the admin address is tried while the epoch before still has it.
const ADMIN_POLL: Duration = Duration::from_millis(10);

/// Binds the admin address, which the epoch before gives up for us.
pub(super) async fn bind_admin(
    bootstrap: &Bootstrap,
    restart: Option<&Restart>,
) -> Result<Option<admin::Bound>, StartError> {
    let Some(admin) = &bootstrap.admin else { return Ok(None) };
    let mut patience = admin_patience(restart);
    loop {
        match admin::Bound::bind(&admin.address) {
            Ok(bound) => return Ok(Some(bound)),
            // The epoch before closes it as soon as it comes to it.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && patience > 0 => {
                patience -= 1;
                clock::sleep(ADMIN_POLL).await;
            }
            Err(error) => {
                let address = admin.address.to_string();
                return Err(StartError::Admin { address, error });
            }
        }
    }
}

/// How many times the admin address is tried. Has the epoch before close its admin server, if there is one.
fn admin_patience(restart: Option<&Restart>) -> u32 {
    match restart.and_then(Restart::parent) {
        Some(parent) => {
            parent.stop_admin();
            500
        }
        None => 0,
    }
}

/// Has the epoch before drain once everything is there that was asked for at start, and end `--parent-shutdown-time-s` later; and does the same
/// for the next epoch from now on.
pub(super) fn join(restart: &mut Restart, proxy: &Proxy) {
    let control = proxy.control.clone();
    if let Some(parent) = restart.parent().cloned() {
        let control = control.clone();
        // Ends with the process.
        drop(spawn("hot restart", async move {
            control.live().await;
            parent.drain();
            clock::sleep(control.options.parent_shutdown_time).await;
            parent.terminate();
        }));
    }
    let Some(socket) = restart.take_socket() else { return };
    let epoch = Epoch {
        first_started_at: restart.first_started_at().unwrap_or_else(clock::system_now),
        control,
        stop_admin: proxy.stop_admin.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let serving = std::thread::Builder::new().name("hot_restart".to_owned());
    if let Err(error) = serving.spawn(move || restart::serve(&socket, &epoch)) {
        tracing::error!(%error, "no hot restart from here");
    }
}

struct Epoch {
    first_started_at: SystemTime,
    control: Arc<ProxyControl>,
    stop_admin: Arc<Drain>,
    runtime: tokio::runtime::Handle,
}

impl Handover for Epoch {
    fn first_started_at(&self) -> SystemTime {
        self.first_started_at
    }

    fn stop_admin(&self) {
        self.stop_admin.advance(DrainPhase::Draining);
    }

    fn sockets(&self, listener: &str, address: &str) -> Vec<OwnedFd> {
        self.control.manager.hand_over(listener, address)
    }

    fn drain(&self) {
        let _entered = self.runtime.enter();
        self.control.drain_for_next();
    }

    fn end(&self, asked: bool, drained: bool) {
        let _entered = self.runtime.enter();
        if asked {
            tracing::warn!("the next epoch has taken over: quitting");
            self.control.quit();
        } else if drained {
            // Nobody will say when to end: as on a signal.
            self.control.drain_and_quit();
        }
    }
}
