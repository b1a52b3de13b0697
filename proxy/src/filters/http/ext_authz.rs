//! `envoy.filters.http.ext_authz`: a service outside decides about each request.
//!
//! In: a request, with its body as far as the service wants it. Out: the request with what the service changed; or its refusal. No decision
//! is a refusal, unless `failure_mode_allow` says otherwise.

mod body;
mod check;
mod config;
mod decision;
mod grpc;
mod http_service;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::per_route::{Setting, setting};
use super::{Filter, FilterContext, Flow, PerRoute, Registration, Stage};
use crate::config::Compiled;
use crate::http::body::Body;
use crate::http::exchange::{DynamicMetadata, Exchange};
use crate::http::failure::Failure;
use crate::http::respond::{local_reply, respond};
use crate::http::router;
use crate::snapshot::SnapshotCell;
use crate::telemetry::flags::ResponseFlags;
use check::Question;
use config::{Buffering, ExtAuthz, RouteRule, Service};
use decision::{Change, Denial, Grant, HeaderChange};

pub(crate) use check::{Telling, connection_attributes};
pub(crate) use decision::Decision;
pub(crate) use grpc::GrpcService;

pub const REGISTRATION: Registration = Registration {
    type_name: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    compile,
    per_route: &[PerRoute {
        type_name: PER_ROUTE,
        check: |config| RouteRule::compile(config).map(drop),
    }],
};

const PER_ROUTE: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
/// The namespace of what the service tells.
const METADATA: &str = "envoy.filters.http.ext_authz";
const MODE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

crate::stat_group! {
    /// Under `http.<prefix>.ext_authz.<stat_prefix>`, and the first four under `cluster.<name>.ext_authz.` too.
    pub struct AuthzStats {
        counters: { ok, denied, error, failure_mode_allowed, disabled, invalid }
        gauges: {}
        histograms: {}
    }
}

struct Authorizer {
    name: Box<str>,
    config: Arc<Shared>,
}

/// What a check takes with it while it waits.
struct Shared {
    config: ExtAuthz,
    snapshot: Arc<SnapshotCell>,
    stats: Arc<AuthzStats>,
}

/// Headers for the client that granted requests carry to their response.
#[derive(Clone, Default)]
struct ForClient(Vec<HeaderChange>);

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    let config = ExtAuthz::compile(config, cx)?;
    let prefix = match config.stat_prefix.as_str() {
        "" => format!("{}ext_authz.", cx.stat_prefix),
        own => format!("{}ext_authz.{own}.", cx.stat_prefix),
    };
    Ok(Stage::Filter(Arc::new(Authorizer {
        name: cx.name.into(),
        config: Arc::new(Shared {
            stats: cx.build.stats.group(&prefix),
            snapshot: cx.build.snapshot.clone(),
            config,
        }),
    })))
}

impl Filter for Authorizer {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        let route = match setting(exchange, &self.name, PER_ROUTE, RouteRule::compile) {
            Setting::None => None,
            Setting::Disabled => return Flow::Continue,
            Setting::Own(rule) => Some(rule),
            Setting::Broken => {
                return self
                    .config
                    .undecided(exchange, "its route's configuration is another filter's");
            }
        };
        if route.as_ref().is_some_and(|rule| rule.disabled) {
            return Flow::Continue;
        }
        if !self.config.config.is_enabled(exchange) {
            self.config.stats.disabled.inc();
            return match self.config.config.deny_at_disable.is_on() {
                true => self
                    .config
                    .deny(exchange, Denial::plain(self.config.config.status_on_error)),
                false => Flow::Continue,
            };
        }
        let buffering = match &route {
            Some(rule) if rule.unbuffered => None,
            Some(rule) if rule.buffering.is_some() => rule.buffering,
            _ => self.config.config.buffering,
        };
        let extensions = route.as_ref().map(|rule| rule.context_extensions.clone());
        let question = Question::of(&self.config.config, exchange, extensions.unwrap_or_default());
        ask(self.config.clone(), question, buffering, exchange)
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut http::Response<Body>) -> Flow {
        if let Some(ForClient(changes)) = exchange.extensions.remove::<ForClient>() {
            for change in &changes {
                change.apply(response.headers_mut());
            }
        }
        Flow::Continue
    }
}

/// Reads as much of the body as is wanted, asks, and acts on the answer.
fn ask(shared: Arc<Shared>, mut question: Question, buffering: Option<Buffering>, exchange: &mut Exchange) -> Flow {
    // A tunnel has no body to look at.
    let buffering =
        buffering.filter(|_| exchange.upgrade.is_none() && *exchange.request.method() != http::Method::CONNECT);
    let body = exchange.request.body_mut().take();
    Flow::Wait(Box::pin(async move {
        let mut body = body;
        if let Some(buffering) = buffering.filter(|_| !body.is_empty()) {
            let (read, rest) = match body::read(body, buffering.limit).await {
                Ok(read) => read,
                Err(failure) => return Flow::Then(Box::new(move |exchange| broken(exchange, failure))),
            };
            body = rest;
            if !read.complete && !buffering.partial {
                return Flow::Then(Box::new(too_large));
            }
            question.with_body(read, buffering.as_bytes);
        }
        let decision = match &shared.config.service {
            Service::Grpc(service) => service.check(question).await,
            Service::Http(service) => service.check(question).await,
        };
        Flow::Then(Box::new(move |exchange| {
            *exchange.request.body_mut() = body;
            shared.act(exchange, decision)
        }))
    }))
}

/// The request's own body broke before it was whole.
fn broken(exchange: &mut Exchange, failure: Failure) -> Flow {
    let status = StatusCode::BAD_REQUEST;
    exchange.close_downstream = true;
    let response = local_reply(exchange, status, None, "", failure.full_details());
    Flow::Respond(Box::new(response))
}

fn too_large(exchange: &mut Exchange) -> Flow {
    exchange.close_downstream = true;
    let response = respond(exchange, &Failure::PayloadTooLarge);
    Flow::Respond(Box::new(response))
}

impl Shared {
    fn act(&self, exchange: &mut Exchange, decision: Decision) -> Flow {
        match decision {
            Decision::Granted(grant) => {
                if self.config.validate && grant.invalid {
                    return self.invalid(exchange);
                }
                self.count(exchange, "ok", &self.stats.ok);
                self.grant(exchange, grant);
                Flow::Continue
            }
            Decision::Denied(denial) => {
                if self.config.validate && denial.invalid {
                    return self.invalid(exchange);
                }
                self.deny(exchange, denial)
            }
            Decision::None(reason) => self.undecided(exchange, &reason),
        }
    }

    fn grant(&self, exchange: &mut Exchange, grant: Grant) {
        let changes = !grant.request.is_empty() || !grant.remove.is_empty() || grant.query.is_some();
        for change in &grant.request {
            change.apply(exchange.request.headers_mut());
        }
        for name in &grant.remove {
            exchange.request.headers_mut().remove(name);
        }
        if let Some(query) = &grant.query {
            query.apply(exchange);
        }
        if changes && self.config.clear_route_cache {
            exchange.route.clear();
        }
        tell(exchange, grant.metadata);
        if !grant.client.is_empty() {
            let waiting = exchange.extensions.get_or_insert_default::<ForClient>();
            waiting.0.extend(grant.client);
        }
    }

    fn deny(&self, exchange: &mut Exchange, denial: Denial) -> Flow {
        self.count(exchange, "denied", &self.stats.denied);
        tell(exchange, denial.metadata);
        exchange.flags.set(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
        if self.config.charge_cluster
            && let Some(cluster) = self.cluster(exchange)
        {
            cluster.stats.count_response(denial.status.as_u16(), true, false);
        }
        let mut response = local_reply(exchange, denial.status, None, &denial.body, "ext_authz_denied");
        // What is to be appended goes onto what is there before the others are set.
        let (appended, set): (Vec<_>, Vec<_>) = denial
            .headers
            .iter()
            .partition(|change| change.change == Change::AppendToPresent);
        for change in appended.into_iter().chain(set) {
            change.apply(response.headers_mut());
        }
        Flow::Respond(Box::new(response))
    }

    /// There is no decision: access is refused, unless the configuration prefers it granted.
    fn undecided(&self, exchange: &mut Exchange, reason: &str) -> Flow {
        tracing::debug!(target: "ext_authz", reason, "no decision");
        self.count(exchange, "error", &self.stats.error);
        if self.config.failure_mode_allow {
            self.count(exchange, "failure_mode_allowed", &self.stats.failure_mode_allowed);
            if self.config.failure_mode_header {
                let headers = exchange.request.headers_mut();
                headers.insert(MODE_ALLOWED, HeaderValue::from_static("true"));
            }
            return Flow::Continue;
        }
        exchange.flags.set(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
        let response = local_reply(exchange, self.config.status_on_error, None, "", "ext_authz_error");
        Flow::Respond(Box::new(response))
    }

    fn invalid(&self, exchange: &mut Exchange) -> Flow {
        self.stats.invalid.inc();
        exchange.flags.set(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Flow::Respond(Box::new(local_reply(exchange, status, None, "", "ext_authz_invalid")))
    }

    /// The cluster that the request is meant for.
    fn cluster(&self, exchange: &Exchange) -> Option<Arc<crate::cluster::Cluster>> {
        let forward = exchange.route.route.as_ref()?.forward()?;
        let chosen = router::choose(exchange, forward).1?;
        self.snapshot.load().cluster(&chosen.cluster)
    }

    fn count(&self, exchange: &Exchange, name: &str, counter: &crate::telemetry::stats::Counter) {
        counter.inc();
        if let Some(cluster) = self.cluster(exchange) {
            let name = match self.config.stat_prefix.as_str() {
                "" => format!("ext_authz.{name}"),
                own => format!("ext_authz.{own}.{name}"),
            };
            cluster.stats.dynamic.counter(&name).inc();
        }
    }
}

fn tell(exchange: &mut Exchange, metadata: Option<remora_proto::pb::google::protobuf::Struct>) {
    let Some(metadata) = metadata.filter(|metadata| !metadata.fields.is_empty()) else {
        return;
    };
    let all = exchange.extensions.get_or_insert_default::<DynamicMetadata>();
    all.fields_mut(METADATA).fields.extend(metadata.fields);
}
