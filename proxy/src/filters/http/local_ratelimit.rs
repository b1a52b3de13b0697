//! `envoy.filters.http.local_ratelimit`: a token bucket per filter or route.

mod bucket;

use std::sync::Arc;

use http::StatusCode;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as Config;

use super::per_route::{Setting, setting};
use super::{Filter, FilterContext, Flow, PerRoute, Registration, Stage};
use crate::config::live::Share;
use crate::config::route::{duration, optional, refuse};
use crate::config::{Compiled, Problems};
use crate::http::exchange::Exchange;
use crate::http::header_policy::mutations::Mutations;
use crate::http::respond::local_reply;
use crate::runtime::clock;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stats::Stats;
use bucket::Bucket;

pub const REGISTRATION: Registration = Registration {
    type_name: TYPE,
    compile,
    per_route: &[PerRoute {
        type_name: TYPE,
        check: |config| Limit::compile(config, &Stats::new(), true).map(drop),
    }],
};

const TYPE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// gRPC's RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u32 = 8;

crate::stat_group! {
    /// Under `<stat_prefix>.http_local_rate_limit.`.
    pub struct LimitStats {
        counters: { enabled, enforced, rate_limited, ok }
        gauges: {}
        histograms: {}
    }
}

struct LocalRateLimit {
    name: Box<str>,
    limit: Limit,
    stats: Stats,
}

struct Limit {
    /// `None`: nothing is limited here.
    bucket: Option<Bucket>,
    status: StatusCode,
    grpc: Option<u32>,
    enabled: Option<Share>,
    enforced: Option<Share>,
    response_headers: Mutations,
    request_headers: Mutations,
    stats: Arc<LimitStats>,
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    Ok(Stage::Filter(Arc::new(LocalRateLimit {
        name: cx.name.into(),
        limit: Limit::compile(config, &cx.build.stats, false)?,
        stats: cx.build.stats.clone(),
    })))
}

impl Limit {
    fn compile(config: &[u8], stats: &Stats, is_route: bool) -> Compiled<Self> {
        let config = Config::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
        unsupported(&config)?;
        refuse("stat_prefix", config.stat_prefix.is_empty(), "is required")?;
        refuse(
            "token_bucket",
            is_route && config.token_bucket.is_none(),
            "is required in a route",
        )?;
        let code = config.status.as_ref().map_or(0, |status| status.code);
        // Envoy takes 429 for whatever is no error.
        let status = u16::try_from(code).ok().filter(|code| *code >= 400);
        let status = status.and_then(|code| StatusCode::from_u16(code).ok());
        let names = |field| (field, "");
        Ok(Self {
            bucket: optional("token_bucket", config.token_bucket.as_ref(), |bucket| {
                let interval = duration("fill_interval", bucket.fill_interval.as_ref())?.unwrap_or_default();
                refuse("fill_interval", interval.as_millis() < 50, "must be at least 50 ms")?;
                refuse("max_tokens", bucket.max_tokens == 0, "must be greater than 0")?;
                let per_fill = bucket.tokens_per_fill.as_ref().map_or(1, |tokens| tokens.value);
                refuse("tokens_per_fill", per_fill == 0, "must be greater than 0")?;
                Ok(Bucket::new(bucket.max_tokens, per_fill, interval, clock::now()))
            })?,
            status: status.unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            grpc: config.rate_limited_as_resource_exhausted.then_some(RESOURCE_EXHAUSTED),
            enabled: optional("filter_enabled", config.filter_enabled.as_ref(), Share::compile)?,
            enforced: optional("filter_enforced", config.filter_enforced.as_ref(), Share::compile)?,
            response_headers: Mutations::compile(
                names("response_headers_to_add"),
                &config.response_headers_to_add,
                &[],
            )?,
            request_headers: Mutations::compile(
                names("request_headers_to_add_when_not_enforced"),
                &config.request_headers_to_add_when_not_enforced,
                &[],
            )?,
            stats: stats.group(&format!("{}.http_local_rate_limit.", config.stat_prefix)),
        })
    }

    fn apply(&self, exchange: &mut Exchange) -> Flow {
        let among = |share: &Option<Share>| share.as_ref().is_some_and(|share| share.contains(exchange.random));
        if !among(&self.enabled) {
            return Flow::Continue;
        }
        self.stats.enabled.inc();
        if self.bucket.as_ref().is_none_or(|bucket| bucket.take(clock::now())) {
            self.stats.ok.inc();
            return Flow::Continue;
        }
        self.stats.rate_limited.inc();
        if !among(&self.enforced) {
            self.request_headers.apply_request(exchange);
            return Flow::Continue;
        }
        self.stats.enforced.inc();
        exchange.flags.set(ResponseFlags::RATE_LIMITED);
        let text = "local_rate_limited";
        let mut response = local_reply(exchange, self.status, self.grpc, text, text);
        self.response_headers.apply_response(exchange, response.headers_mut());
        Flow::Respond(Box::new(response))
    }
}

fn unsupported(config: &Config) -> Compiled<()> {
    const NO: &str = "is not supported";
    refuse("descriptors", !config.descriptors.is_empty(), NO)?;
    refuse("rate_limits", !config.rate_limits.is_empty(), NO)?;
    refuse("stage", config.stage != 0, NO)?;
    refuse(
        "local_rate_limit_per_downstream_connection",
        config.local_rate_limit_per_downstream_connection,
        NO,
    )?;
    refuse(
        "local_cluster_rate_limit",
        config.local_cluster_rate_limit.is_some(),
        NO,
    )?;
    refuse("enable_x_ratelimit_headers", config.enable_x_ratelimit_headers != 0, NO)
}

impl Filter for LocalRateLimit {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        let compile = |config: &[u8]| Limit::compile(config, &self.stats, true);
        match setting(exchange, &self.name, TYPE, compile) {
            Setting::Own(limit) => limit.apply(exchange),
            Setting::Disabled => Flow::Continue,
            Setting::None | Setting::Broken => self.limit.apply(exchange),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildContext;
    use crate::filters::http::tests;
    use crate::testing::exchange;
    use remora_proto::pb::envoy::config::core::v3::RuntimeFractionalPercent;
    use remora_proto::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket};

    fn always() -> Option<RuntimeFractionalPercent> {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 100,
                denominator: 0,
            }),
            ..Default::default()
        })
    }

    fn config(max_tokens: u32) -> Config {
        Config {
            stat_prefix: "limiter".into(),
            token_bucket: Some(TokenBucket {
                max_tokens,
                fill_interval: Some(remora_proto::pb::google::protobuf::Duration {
                    seconds: 3600,
                    nanos: 0,
                }),
                ..Default::default()
            }),
            filter_enabled: always(),
            filter_enforced: always(),
            ..Default::default()
        }
    }

    #[test]
    fn the_bucket_is_enforced_and_counted() {
        let build = BuildContext::default();
        let filter = tests::compile(REGISTRATION, &config(1), &build).expect("compiles");
        let mut first = exchange("GET", "/", &[]);
        assert!(matches!(filter.request_headers(&mut first), Flow::Continue));
        let mut second = exchange("GET", "/", &[]);
        let Flow::Respond(response) = filter.request_headers(&mut second) else {
            panic!("an answer");
        };
        assert_eq!(response.status(), 429);
        assert_eq!(
            (second.flags.short().as_str(), &*second.details),
            ("RL", "local_rate_limited")
        );
        let stats = build.stats.group::<LimitStats>("limiter.http_local_rate_limit.");
        assert_eq!(
            (stats.enabled.value(), stats.ok.value(), stats.enforced.value()),
            (2, 1, 1)
        );
    }

    #[test]
    fn a_routes_bucket_is_its_own() {
        let build = BuildContext::default();
        let filter = tests::compile(REGISTRATION, &config(1), &build).expect("compiles");
        let route = tests::route_with(TYPE, &config(2)).expect("compiles");
        let passed = (0..4).filter(|_| {
            let mut exchange = exchange("GET", "/", &[]);
            exchange.route = route.clone();
            matches!(filter.request_headers(&mut exchange), Flow::Continue)
        });
        assert_eq!(passed.count(), 2);
        let mut elsewhere = exchange("GET", "/", &[]);
        assert!(matches!(filter.request_headers(&mut elsewhere), Flow::Continue));
    }

    #[test]
    fn what_would_not_limit_is_refused() {
        let build = BuildContext::default();
        let shared = Config {
            descriptors: vec![Default::default()],
            ..config(1)
        };
        let problems = tests::compile(REGISTRATION, &shared, &build).err().expect("refused");
        assert_eq!(problems.0[0].path, "descriptors");
        assert!(tests::compile(REGISTRATION, &config(0), &build).is_err());
    }
}
