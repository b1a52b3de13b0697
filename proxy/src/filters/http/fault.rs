//! `envoy.filters.http.fault`: delays and aborts that are asked for.

mod config;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::per_route::{Setting, setting};
use super::{Filter, FilterContext, Flow, PerRoute, Registration, Stage};
use crate::config::Compiled;
use crate::http::exchange::Exchange;
use crate::http::respond::local_reply;
use crate::http::router;
use crate::route::{Action, RequestView};
use crate::runtime::clock;
use crate::telemetry::flags::ResponseFlags;
use config::{Abort, AbortWith, Delay, DelayBy, Faults};

pub const REGISTRATION: Registration = Registration {
    type_name: TYPE,
    compile,
    per_route: &[PerRoute {
        type_name: TYPE,
        check: |config| Faults::compile(config).map(drop),
    }],
};

const TYPE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

crate::stat_group! {
    /// Under `http.<prefix>.fault.`; what a downstream cluster got is in `dynamic`, behind its name.
    pub struct FaultStats {
        counters: { delays_injected, aborts_injected, faults_overflow }
        gauges: { active_faults }
        histograms: {}
    }
}

struct Fault {
    name: Box<str>,
    faults: Faults,
    stats: Arc<FaultStats>,
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    Ok(Stage::Filter(Arc::new(Fault {
        name: cx.name.into(),
        faults: Faults::compile(config)?,
        stats: cx.build.stats.group(&format!("{}fault.", cx.stat_prefix)),
    })))
}

/// Counts a stream among the active faults until it ends.
struct Active(Arc<FaultStats>);

impl Active {
    fn start(stats: &Arc<FaultStats>) -> Self {
        stats.active_faults.inc();
        Self(stats.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active_faults.dec();
    }
}

impl Filter for Fault {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        match setting(exchange, &self.name, TYPE, Faults::compile) {
            Setting::Own(faults) => self.inject(&faults, exchange),
            Setting::Disabled => Flow::Continue,
            Setting::None | Setting::Broken => self.inject(&self.faults, exchange),
        }
    }
}

impl Fault {
    fn inject(&self, faults: &Faults, exchange: &mut Exchange) -> Flow {
        if faults.is_empty() || !concerns(faults, exchange) {
            return Flow::Continue;
        }
        let delay = faults.delay.as_ref().and_then(|delay| delay.draw(exchange.headers()));
        let abort = faults.abort.as_ref().and_then(|abort| abort.draw(exchange.headers()));
        if delay.is_none() && abort.is_none() {
            return Flow::Continue;
        }
        if faults
            .max_active
            .now()
            .is_some_and(|max| self.stats.active_faults.value() >= max)
        {
            self.stats.faults_overflow.inc();
            return Flow::Continue;
        }
        exchange.guards.push(Box::new(Active::start(&self.stats)));
        if delay.is_some() {
            self.count(faults, exchange, "delays_injected");
            self.stats.delays_injected.inc();
            exchange.flags.set(ResponseFlags::DELAY_INJECTED);
        }
        let then = match (abort, &faults.abort) {
            (Some(with), Some(abort)) => self.abort(faults, exchange, with, &abort.body),
            _ => Flow::Continue,
        };
        match delay {
            Some(delay) => Flow::Wait(Box::pin(async move {
                clock::sleep(delay).await;
                then
            })),
            None => then,
        }
    }

    fn abort(&self, faults: &Faults, exchange: &mut Exchange, with: AbortWith, body: &str) -> Flow {
        self.count(faults, exchange, "aborts_injected");
        self.stats.aborts_injected.inc();
        exchange.flags.set(ResponseFlags::FAULT_INJECTED);
        let (status, grpc) = match with {
            AbortWith::Http(status) => (status, None),
            // Also to clients that do not speak gRPC, as in Envoy.
            AbortWith::Grpc(code) => (StatusCode::OK, Some(code)),
        };
        let response = local_reply(exchange, status, grpc, body, "fault_filter_abort");
        Flow::Respond(Box::new(response))
    }

    /// Counts once more for the downstream cluster that the request names.
    fn count(&self, faults: &Faults, exchange: &Exchange, what: &str) {
        let cluster = exchange.headers().get("x-envoy-downstream-service-cluster");
        if let Some(cluster) = cluster.and_then(|cluster| cluster.to_str().ok())
            && faults.per_cluster_stats
            && !cluster.is_empty()
        {
            self.stats.dynamic.counter(&format!("{cluster}.{what}")).inc();
        }
    }
}

/// Whether the faults are meant for this request.
fn concerns(faults: &Faults, exchange: &Exchange) -> bool {
    if !faults.nodes.is_empty() {
        let node = exchange.headers().get("x-envoy-downstream-service-node");
        let known = |node: &http::HeaderValue| faults.nodes.iter().any(|known| known.as_bytes() == node.as_bytes());
        if !node.is_some_and(known) {
            return false;
        }
    }
    let view = RequestView::of(exchange);
    if !faults.headers.iter().all(|matcher| matcher.matches(&view)) {
        return false;
    }
    faults.cluster.is_empty() || routed_to(exchange).is_some_and(|cluster| *cluster == *faults.cluster)
}

fn routed_to(exchange: &Exchange) -> Option<Arc<str>> {
    match &exchange.route.route.as_ref()?.action {
        Action::Forward(forward) => Some(router::choose(exchange, forward).1?.cluster),
        _ => None,
    }
}

impl Delay {
    /// The delay of this request, if it is among the chosen.
    fn draw(&self, headers: &HeaderMap) -> Option<Duration> {
        let delay = match self.by {
            DelayBy::Fixed(delay) => delay,
            DelayBy::Header => Duration::from_millis(number(headers, "x-envoy-fault-delay-request")?),
        };
        let configured = self.share.default();
        let fraction = self.share.or(match self.by {
            DelayBy::Fixed(_) => configured,
            DelayBy::Header => configured.capped(number(headers, "x-envoy-fault-delay-request-percentage")),
        });
        let delay = || self.millis.now().map_or(delay, Duration::from_millis);
        let drawn = fraction.contains(fastrand::u64(..)).then(delay);
        drawn.filter(|delay| !delay.is_zero())
    }
}

impl Abort {
    fn draw(&self, headers: &HeaderMap) -> Option<AbortWith> {
        let with = match self.with {
            Some(with) => with,
            None => asked(headers)?,
        };
        let configured = self.share.default();
        let fraction = self.share.or(match self.with {
            Some(_) => configured,
            None => configured.capped(number(headers, "x-envoy-fault-abort-request-percentage")),
        });
        let drawn = fraction.contains(fastrand::u64(..));
        drawn.then(|| self.overridden(with))
    }

    /// A runtime key says another status of the same kind. What is no status is not heeded.
    fn overridden(&self, with: AbortWith) -> AbortWith {
        let over = match with {
            AbortWith::Http(_) => {
                let code = self.http.now().and_then(|code| u16::try_from(code).ok());
                code.and_then(|code| StatusCode::from_u16(code).ok())
                    .map(AbortWith::Http)
            }
            AbortWith::Grpc(_) => {
                let code = self.grpc.now().and_then(|code| u32::try_from(code).ok());
                code.map(AbortWith::Grpc)
            }
        };
        over.unwrap_or(with)
    }
}

/// What the request's headers ask to be answered with.
fn asked(headers: &HeaderMap) -> Option<AbortWith> {
    let http = number(headers, "x-envoy-fault-abort-request").and_then(|code| u16::try_from(code).ok());
    if let Some(code) = http.filter(|code| (200..600).contains(code)) {
        return StatusCode::from_u16(code).ok().map(AbortWith::Http);
    }
    let grpc = number(headers, "x-envoy-fault-abort-grpc-request")?;
    u32::try_from(grpc).ok().map(AbortWith::Grpc)
}

fn number(headers: &HeaderMap, name: &'static str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
