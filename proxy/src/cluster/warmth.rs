//! Whether a cluster is ready for requests: its names were asked for, and each of its hosts has had a first check.
//!
//! As in Envoy: until then the configuration before goes on under the cluster's name, and a start waits. What the questions and the checks
//! found does not matter, and hosts that come later are waited for no more.

use std::sync::atomic::{AtomicBool, Ordering};

use super::discovery::Discovery;
use super::lb::Policy;
use super::{Cluster, Host};

/// See the page.
#[derive(Default)]
pub(crate) struct Warmth {
    is_warm: AtomicBool,
    /// Of an EDS cluster: it has had an assignment.
    has_endpoints: AtomicBool,
    changed: tokio::sync::Notify,
}

impl Cluster {
    /// Whether nothing is waited for. Once true, always true, but for the hosts that EDS names first; whoever finds it out lets those know who
    /// wait.
    pub(crate) fn is_warm(&self) -> bool {
        if self.warmth.is_warm.load(Ordering::Acquire) {
            return true;
        }
        if self.waits_for_names() || self.waits_for_checks() {
            return false;
        }
        if matches!(self.discovery, Discovery::Eds) && !self.warmth.has_endpoints.load(Ordering::Acquire) {
            return true;
        }
        if !self.warmth.is_warm.swap(true, Ordering::AcqRel) {
            self.stats.warming_state.set(0);
            self.warmth.changed.notify_waiters();
            self.registry.note_warm();
        }
        true
    }

    /// Says in the stats whether something is waited for; called once when the cluster is built.
    pub(crate) fn show_warmth(&self) {
        let is_cold = self.waits_for_names() || self.waits_for_checks();
        self.stats.warming_state.set(u64::from(is_cold));
    }

    /// An assignment has come; what was waited for may be gone with it.
    pub(super) fn note_endpoints(&self) {
        self.warmth.has_endpoints.store(true, Ordering::Release);
        self.is_warm();
    }

    /// Completes when nothing is waited for. Cancel safe.
    pub(crate) async fn warm(&self) {
        loop {
            let changed = self.warmth.changed.notified();
            tokio::pin!(changed);
            // From here on no news is missed.
            changed.as_mut().enable();
            if self.is_warm() {
                return;
            }
            changed.await;
        }
    }

    fn waits_for_checks(&self) -> bool {
        let may_start_cold = match &self.discovery {
            // `wait_for_warm_on_init: false`: there are no hosts yet that could be waited for.
            Discovery::Dns(config) => !config.waits_for_names,
            _ => matches!(self.lb.policy, Policy::OriginalDst(_)),
        };
        if self.health_checks.is_empty() || may_start_cold {
            return false;
        }
        let is_unknown = |host: &Host| !host.refuses_checks() && !host.state.is_checked();
        self.hosts.load().hosts().any(|host| is_unknown(host))
    }
}
