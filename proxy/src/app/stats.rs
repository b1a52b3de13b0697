//! The xDS client's counters under Envoy's names: `cluster_manager.cds.`, `listener_manager.lds.`, `http.<prefix>.rds.<name>.`,
//! `sds.<name>.`, `control_plane.`.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use remora_xds::stats::{ControlPlaneStats, TypeStats};
use remora_xds::types;

use crate::telemetry::stats::{StatGroup, Value};

/// Which connection managers have named which route configurations: a subscription's stats are called after both.
#[derive(Default)]
pub struct RouteScopes(Mutex<BTreeSet<(String, String)>>);

impl RouteScopes {
    pub fn note(&self, stat_prefix: &str, route: &str) {
        let scope = (stat_prefix.to_owned(), route.to_owned());
        self.0.lock().insert(scope);
    }
}

/// A group of the stats tree whose names come with their prefixes.
#[derive(Default)]
pub struct XdsStats(OnceLock<Shown>);

struct Shown {
    stats: Arc<remora_xds::Stats>,
    routes: Arc<RouteScopes>,
    ads: bool,
}

impl XdsStats {
    /// What to show, once there is a client. `ads`: the bootstrap has an `ads_config`.
    pub fn show(&self, stats: Arc<remora_xds::Stats>, routes: Arc<RouteScopes>, ads: bool) {
        // There is one client in a process; a second would be a bug of the caller, and the first counts.
        let _ = self.0.set(Shown { stats, routes, ads });
    }
}

impl StatGroup for XdsStats {
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        let Some(shown) = self.0.get() else { return };
        if shown.ads {
            control_plane("", &shown.stats.control_plane, visit);
        }
        for stats in shown.stats.types() {
            if stats.ty == &types::CLUSTER {
                subscription("cluster_manager.cds.", &stats, visit);
                visit("cluster_manager.warming_clusters", Value::Gauge(stats.warming.value()));
            } else if stats.ty == &types::LISTENER {
                subscription("listener_manager.lds.", &stats, visit);
            }
        }
        let scopes = shown.routes.0.lock().clone();
        for (name, stats) in shown.stats.resources() {
            if stats.ty == &types::SECRET {
                subscription(&format!("sds.{name}."), &stats, visit);
            }
            let managers = scopes
                .iter()
                .filter(|(_, route)| stats.ty == &types::ROUTE && **route == *name);
            for (prefix, route) in managers {
                subscription(&format!("http.{prefix}.rds.{route}."), &stats, visit);
            }
        }
    }

    fn reset(&self) {
        let Some(shown) = self.0.get() else { return };
        let resources = shown.stats.resources();
        let resources = resources.iter().map(|(_, stats)| stats);
        shown
            .stats
            .types()
            .iter()
            .chain(resources)
            .for_each(|stats| stats.reset());
        shown.stats.control_plane.reset();
    }
}

fn subscription(prefix: &str, stats: &TypeStats, visit: &mut dyn FnMut(&str, Value<'_>)) {
    let counters = [
        ("config_reload", &stats.config_reload),
        ("init_fetch_timeout", &stats.init_fetch_timeout),
        ("update_attempt", &stats.update_attempt),
        ("update_empty", &stats.update_empty),
        ("update_failure", &stats.update_failure),
        ("update_rejected", &stats.update_rejected),
        ("update_success", &stats.update_success),
    ];
    // Envoy knows the two only where they mean something.
    let (is_route, is_root) = (stats.ty == &types::ROUTE, stats.ty.full_state);
    for (name, counter) in counters {
        let known = match name {
            "config_reload" => is_route,
            "update_empty" => is_route && !is_root,
            _ => true,
        };
        if known {
            visit(&format!("{prefix}{name}"), Value::Counter(counter.value()));
        }
    }
    for (name, gauge) in [("update_time", &stats.update_time), ("version", &stats.version)] {
        visit(&format!("{prefix}{name}"), Value::Gauge(gauge.value()));
    }
    visit(
        &format!("{prefix}version_text"),
        Value::Text(stats.version_text().to_string()),
    );
    if let Some(own) = stats.control_plane() {
        control_plane(prefix, &own, visit);
    }
}

fn control_plane(prefix: &str, stats: &ControlPlaneStats, visit: &mut dyn FnMut(&str, Value<'_>)) {
    let name = |name: &str| format!("{prefix}control_plane.{name}");
    visit(&name("connected_state"), Value::Gauge(stats.connected_state.value()));
    visit(&name("pending_requests"), Value::Gauge(stats.pending_requests.value()));
    let enforced = Value::Counter(stats.rate_limit_enforced.value());
    visit(&name("rate_limit_enforced"), enforced);
    visit(&name("identifier"), Value::Text(stats.identifier()));
}
