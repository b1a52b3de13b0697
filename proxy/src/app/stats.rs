//! The xDS client's counters under Envoy's names: `cluster_manager.cds.`, `listener_manager.lds.`, `http.<prefix>.rds.<name>.`,
//! `sds.<name>.`, `control_plane.`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use remora_xds::stats::TypeStats;
use remora_xds::{ResourceType, types};

use crate::cluster::host::HostRegistry;
use crate::cluster::stats::control_plane;
use crate::config::BuildContext;
use crate::telemetry::histogram::Histogram;
use crate::telemetry::stats::{StatGroup, Value};
use crate::tls::SecretStore;

/// Which connection managers have named which route configurations: a subscription's stats are called after both.
#[derive(Default)]
pub struct RouteScopes(Mutex<BTreeMap<String, Scopes>>);

/// The connection managers of one route configuration.
#[derive(Default)]
struct Scopes {
    stat_prefixes: BTreeSet<String>,
    /// Nobody subscribed to it when stats were last read. It may be about to be: a listener names its routes before it asks for them.
    idle: bool,
}

impl RouteScopes {
    pub fn note(&self, stat_prefix: &str, route: &str) {
        let mut routes = self.0.lock();
        let scopes = routes.entry(route.to_owned()).or_default();
        scopes.idle = false;
        if !scopes.stat_prefixes.contains(stat_prefix) {
            scopes.stat_prefixes.insert(stat_prefix.to_owned());
        }
    }

    /// Who has named `route`.
    fn of(&self, route: &str) -> Vec<String> {
        let routes = self.0.lock();
        let scopes = routes.get(route);
        scopes.map_or_else(Vec::new, |scopes| scopes.stat_prefixes.iter().cloned().collect())
    }

    /// Forgets what was not subscribed this time nor the time before.
    fn retain(&self, resources: &[(Arc<str>, Arc<TypeStats>)]) {
        let routes = resources.iter().filter(|(_, stats)| stats.ty == &types::ROUTE);
        let known: BTreeSet<&str> = routes.map(|(name, _)| &**name).collect();
        self.0.lock().retain(|route, scopes| {
            let was_idle = std::mem::replace(&mut scopes.idle, !known.contains(route.as_str()));
            !(was_idle && scopes.idle)
        });
    }
}

/// A group of the stats tree whose names come with their prefixes.
#[derive(Default)]
pub struct XdsStats {
    shown: OnceLock<Shown>,
    durations: Arc<Durations>,
}

/// `update_duration` in milliseconds, by type and (where it is counted so) by resource.
#[derive(Default)]
struct Durations(Mutex<BTreeMap<(&'static str, String), Arc<Histogram>>>);

impl Durations {
    fn of(&self, ty: ResourceType, name: &str) -> Arc<Histogram> {
        self.0.lock().entry((ty.url, name.to_owned())).or_default().clone()
    }

    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Histogram>> {
        self.0.lock().get(&(ty.url, name.to_owned())).cloned()
    }

    /// Forgets resources that nobody subscribes to any more.
    fn retain(&self, resources: &[(Arc<str>, Arc<TypeStats>)]) {
        let names = resources.iter().map(|(name, stats)| (stats.ty.url, &**name));
        let known: BTreeSet<(&str, &str)> = names.collect();
        self.0
            .lock()
            .retain(|(url, name), _| name.is_empty() || known.contains(&(*url, name.as_str())));
    }
}

struct Shown {
    stats: Arc<remora_xds::Stats>,
    routes: Arc<RouteScopes>,
    hosts: Arc<HostRegistry>,
    secrets: Arc<SecretStore>,
    ads: bool,
}

impl XdsStats {
    /// What to show, once there is a client that counts into `context.xds`. `ads`: the bootstrap has an `ads_config`.
    pub fn show(&self, context: &BuildContext, routes: Arc<RouteScopes>, ads: bool) {
        let stats = context.xds.clone();
        let durations = self.durations.clone();
        stats.observe(move |ty, name, took| {
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            durations.of(ty, name.unwrap_or_default()).record(millis);
        });
        // There is one client in a process; a second would be a bug of the caller, and the first counts.
        let _ = self.shown.set(Shown {
            stats,
            routes,
            hosts: context.hosts.clone(),
            secrets: context.secrets.clone(),
            ads,
        });
    }
}

impl StatGroup for XdsStats {
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        let types = self.shown.get().map(|shown| shown.stats.types()).unwrap_or_default();
        let warming = |ty: ResourceType| {
            let found = types.iter().find(|stats| stats.ty == ty);
            found.map_or(0, |stats| stats.warming.value())
        };
        // Those that wait for what they refer to, and those that wait for the first checks of their hosts.
        let checking = self.shown.get().map_or(0, |shown| shown.hosts.warming());
        let clusters = Value::Gauge(warming(&types::CLUSTER) + checking);
        visit("cluster_manager.warming_clusters", clusters);
        let listeners = Value::Gauge(warming(&types::LISTENER));
        visit("listener_manager.total_listeners_warming", listeners);
        let Some(shown) = self.shown.get() else { return };
        if shown.ads {
            control_plane("", &shown.stats.control_plane, visit);
        }
        for stats in &types {
            if stats.ty == &types::CLUSTER {
                self.subscription("cluster_manager.cds.", stats, "", visit);
            } else if stats.ty == &types::LISTENER {
                self.subscription("listener_manager.lds.", stats, "", visit);
            }
        }
        let resources = shown.stats.resources();
        self.durations.retain(&resources);
        shown.routes.retain(&resources);
        let failed = shown.secrets.failed_rotations();
        for (name, stats) in resources {
            if stats.ty == &types::SECRET {
                self.subscription(&format!("sds.{name}."), &stats, &name, visit);
                let failed = failed.get(&name).copied().unwrap_or_default();
                visit(&format!("sds.{name}.key_rotation_failed"), Value::Counter(failed));
            }
            if stats.ty == &types::ROUTE {
                for prefix in shown.routes.of(&name) {
                    self.subscription(&format!("http.{prefix}.rds.{name}."), &stats, &name, visit);
                }
            }
        }
    }

    fn reset(&self) {
        let Some(shown) = self.shown.get() else { return };
        let resources = shown.stats.resources();
        let resources = resources.iter().map(|(_, stats)| stats);
        shown
            .stats
            .types()
            .iter()
            .chain(resources)
            .for_each(|stats| stats.reset());
        shown.stats.control_plane.reset();
        shown.secrets.reset_failed_rotations();
        self.durations.0.lock().clear();
    }
}

impl XdsStats {
    fn subscription(&self, prefix: &str, stats: &TypeStats, resource: &str, visit: &mut dyn FnMut(&str, Value<'_>)) {
        let is_route = stats.ty == &types::ROUTE;
        let reloads = is_route || stats.ty == &types::CLUSTER;
        let counters = [
            ("init_fetch_timeout", &stats.init_fetch_timeout),
            ("update_attempt", &stats.update_attempt),
            ("update_failure", &stats.update_failure),
            ("update_rejected", &stats.update_rejected),
            ("update_success", &stats.update_success),
        ];
        // Envoy knows these only where they mean something.
        let reload = reloads.then_some(("config_reload", &stats.config_reload));
        let empty = is_route.then_some(("update_empty", &stats.update_empty));
        for (name, counter) in counters.into_iter().chain(reload).chain(empty) {
            visit(&format!("{prefix}{name}"), Value::Counter(counter.value()));
        }
        let gauges = [("update_time", &stats.update_time), ("version", &stats.version)];
        let reloaded = ("config_reload_time_ms", &stats.config_reload_time_ms);
        for (name, gauge) in gauges.iter().chain(reloads.then_some(&reloaded)) {
            visit(&format!("{prefix}{name}"), Value::Gauge(gauge.value()));
        }
        let text = Value::Text(stats.version_text().to_string());
        visit(&format!("{prefix}version_text"), text);
        let durations = self.durations.get(stats.ty, resource).unwrap_or_default();
        visit(&format!("{prefix}update_duration"), Value::Histogram(&durations));
        if let Some(own) = stats.control_plane() {
            control_plane(prefix, &own, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_named_routes_is_known_while_they_are_subscribed_and_a_little_longer() {
        let scopes = RouteScopes::default();
        let stats = remora_xds::Stats::default();
        for (prefix, route) in [("in", "a"), ("out", "a"), ("in", "b")] {
            scopes.note(prefix, route);
        }
        // As if nobody had asked for them yet.
        scopes.retain(&stats.resources());
        assert_eq!(
            (scopes.of("a"), scopes.of("b")),
            (vec!["in".to_owned(), "out".to_owned()], vec!["in".to_owned()])
        );
        scopes.note("in", "b");
        scopes.retain(&stats.resources());
        assert_eq!((scopes.of("a"), scopes.of("b")), (Vec::new(), vec!["in".to_owned()]));
    }
}
