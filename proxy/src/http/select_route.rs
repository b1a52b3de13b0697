//! The route-selection stage: fills the route cell, from one table for the whole stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tower::Layer;

use super::exchange::Exchange;
use super::failure::Failure;
use super::header_policy::HeaderPolicy;
use super::pipeline::{HcmStats, RouterStats, Settings};
use super::service::{Response, TryService};
use super::upgrade::UpgradeKind;
use crate::config::sources::ResourceKey;
use crate::route::{Action, RequestView, RouteTable};
use crate::runtime::{clock, wake};
use crate::snapshot::SnapshotCell;
use crate::snapshot::last_routes::LastTable;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::format::LogType;

/// `route_specifier`
#[derive(Clone)]
pub enum RouteSource {
    /// `route_config`
    Inline(Arc<RouteTable>),
    /// `rds`: whatever the newest snapshot has, else the last that one had.
    Rds(ResourceKey, LastTable),
}

pub struct SelectRouteLayer {
    routes: RouteSource,
    snapshot: Arc<SnapshotCell>,
    stats: Arc<HcmStats>,
    router_stats: Arc<RouterStats>,
    upgrades: Vec<String>,
    header_policy: Arc<HeaderPolicy>,
    start_logs: Arc<[AccessLog]>,
}

impl SelectRouteLayer {
    pub fn new(settings: &Settings) -> Self {
        Self {
            routes: settings.routes.clone(),
            snapshot: settings.snapshot.clone(),
            stats: settings.stats.clone(),
            router_stats: settings.router_stats.clone(),
            upgrades: settings.upgrades.clone(),
            header_policy: settings.header_policy.clone(),
            start_logs: match settings.log_options.on_new_request {
                true => settings.access_logs.clone(),
                false => Arc::default(),
            },
        }
    }
}

impl<S> Layer<S> for SelectRouteLayer {
    type Service = SelectRoute<S>;

    fn layer(&self, inner: S) -> SelectRoute<S> {
        SelectRoute {
            routes: self.routes.clone(),
            snapshot: self.snapshot.clone(),
            stats: self.stats.clone(),
            router_stats: self.router_stats.clone(),
            upgrades: self.upgrades.clone(),
            header_policy: self.header_policy.clone(),
            start_logs: self.start_logs.clone(),
            inner,
        }
    }
}

/// See the module.
pub struct SelectRoute<S> {
    routes: RouteSource,
    snapshot: Arc<SnapshotCell>,
    stats: Arc<HcmStats>,
    router_stats: Arc<RouterStats>,
    upgrades: Vec<String>,
    header_policy: Arc<HeaderPolicy>,
    /// Logs that get a line when a request begins, too.
    start_logs: Arc<[AccessLog]>,
    inner: S,
}

impl<S: TryService> TryService for SelectRoute<S> {
    async fn try_call(&self, exchange: &mut Exchange) -> Result<Response, Failure> {
        let table = match &self.routes {
            RouteSource::Inline(table) => Some(table.clone()),
            RouteSource::Rds(key, last) => {
                let newest = self.snapshot.load().routes.get(key).cloned();
                newest.or_else(|| last.load_full())
            }
        };
        let Some(table) = table else {
            self.router_stats.no_route.inc();
            return Err(Failure::RouteNotFound);
        };
        if !exchange.internal {
            for name in &table.settings().internal_only_headers {
                exchange.request.headers_mut().remove(name);
            }
        }
        select(exchange, &table);
        let tracing = exchange.route.route.as_ref().and_then(|route| route.tracing.as_ref());
        let by_route = tracing.map(|tracing| tracing.sampling);
        exchange.trace_reason = self.header_policy.mark(exchange.request.headers_mut(), by_route);
        exchange.route.table = Some(table);
        self.log_start(exchange);
        self.admit_upgrade(exchange)?;
        self.header_policy.name_operation(exchange);
        self.inner.try_call(exchange).await
    }

    fn finish(&self, exchange: &mut Exchange) {
        self.inner.finish(exchange);
    }
}

impl<S> SelectRoute<S> {
    /// Where the request is to go is known by now; that it goes there is the router's to say.
    fn log_start(&self, exchange: &mut Exchange) {
        if self.start_logs.is_empty() {
            return;
        }
        exchange.route.cluster = super::router::routed(&self.snapshot, exchange);
        for log in self.start_logs.iter() {
            log.log_as(LogType::DownstreamStart, exchange);
        }
        exchange.route.cluster = None;
    }

    /// An upgrade that neither the route nor the connection manager allows is refused (`upgrade_failed`).
    fn admit_upgrade(&self, exchange: &mut Exchange) -> Result<(), Failure> {
        let Some(upgrade) = &exchange.upgrade else {
            return Ok(());
        };
        if *upgrade == UpgradeKind::Connect && exchange.route.route.is_none() {
            // What follows may be the tunnel's payload: it must not be read as a request.
            exchange.close_downstream = true;
            self.router_stats.no_route.inc();
            return Err(Failure::RouteNotFound);
        }
        let kind = match upgrade {
            UpgradeKind::Upgrade(token) => token.as_str(),
            UpgradeKind::Connect => "connect",
        };
        let by_route = match exchange.route.route.as_ref().map(|route| &route.action) {
            Some(Action::Forward(forward)) => forward.upgrades.iter().find(|upgrade| upgrade.kind == kind),
            _ => None,
        };
        let allowed = match by_route {
            Some(upgrade) => upgrade.enabled,
            None => self.upgrades.iter().any(|allowed| allowed == kind),
        };
        if !allowed {
            self.stats.downstream_rq_ws_on_non_ws_route.inc();
            return Err(Failure::UpgradeFailed);
        }
        self.stats.downstream_cx_upgrades_total.inc();
        self.stats.downstream_cx_upgrades_active.inc();
        exchange.guards.push(Box::new(ActiveUpgrade(self.stats.clone())));
        Ok(())
    }
}

/// An upgraded stream, until it ends.
struct ActiveUpgrade(Arc<HcmStats>);

impl Drop for ActiveUpgrade {
    fn drop(&mut self) {
        self.0.downstream_cx_upgrades_active.dec();
    }
}

/// Selects again, from the stream's own table, if a filter has changed what routes match on. Whoever comes next in the chain must find the new
/// route: what it configures for that filter may be what denies the request.
pub fn select_again(exchange: &mut Exchange) {
    if std::mem::take(&mut exchange.route.is_stale)
        && let Some(table) = exchange.route.table.clone()
    {
        select(exchange, &table);
    }
}

/// Some log wants to know how long the selection of routes takes.
static TIMED: AtomicBool = AtomicBool::new(false);

/// Has every selection timed from now on: a format that prints it was compiled.
pub fn time_selections() {
    TIMED.store(true, Ordering::Relaxed);
}

/// Finds the route of a request in `table`.
pub fn select(exchange: &mut Exchange, table: &Arc<RouteTable>) {
    let began = TIMED.load(Ordering::Relaxed).then(clock::now);
    let (virtual_host, route) = table.select(&RequestView::of(exchange));
    exchange.route.selections += 1;
    if let Some(began) = began {
        let spent = clock::now().saturating_duration_since(began);
        *exchange.route.resolution.get_or_insert_default() += spent;
    }
    if let Some(patience) = route.as_ref().and_then(|route| route.forward()?.idle_timeout) {
        exchange.stream_idle = Some(patience);
        wake::be_patient(patience);
    }
    exchange.route.virtual_host = virtual_host;
    exchange.route.route = route;
}
