//! `envoy.filters.http.grpc_stats`: counts gRPC calls by cluster, and by method where configured.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::http::grpc_stats::v3 as pb;

use super::grpc_call::GrpcCall;
use super::{Filter, FilterContext, Flow, Registration, Stage};
use crate::config::route::refuse;
use crate::config::{Compiled, Problems};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::telemetry::stats::{Counter, Stats};

pub const REGISTRATION: Registration = Registration {
    type_name: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    compile,
    per_route: &[],
};

/// The codes that gRPC defines.
const CODES: usize = 17;

crate::stat_group! {
    /// Under `cluster.<name>.grpc.`; all names hold a status or a method, so all are made at run time.
    pub struct GrpcStats {
        counters: {}
        gauges: {}
        histograms: {}
    }
}

struct GrpcStatsFilter {
    name: Box<str>,
    methods: Methods,
    replace_dots: bool,
    stats: Stats,
    known: ArcSwap<HashMap<Key, Arc<Counters>>>,
}

/// Which methods have counters of their own.
enum Methods {
    None,
    All,
    /// By service, then method.
    Listed(HashMap<String, Vec<String>>),
}

/// A cluster by its id, and a method (`/service/method`) if it has counters of its own.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    cluster: u64,
    path: Option<Box<str>>,
}

/// Where one key's calls are counted.
struct Counters {
    group: Arc<GrpcStats>,
    prefix: String,
    success: Lazy,
    failure: Lazy,
    total: Lazy,
    requests: Lazy,
    responses: Lazy,
    by_code: [Lazy; CODES],
}

/// Made by its first increment, as in Envoy.
type Lazy = OnceLock<Arc<Counter>>;

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    use pb::filter_config::PerMethodStatSpecifier as Specifier;
    let config = pb::FilterConfig::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    refuse(
        "enable_upstream_stats",
        config.enable_upstream_stats,
        "is not supported",
    )?;
    let methods = match config.per_method_stat_specifier {
        None => Methods::None,
        Some(Specifier::StatsForAllMethods(all)) if all.value => Methods::All,
        Some(Specifier::StatsForAllMethods(_)) => Methods::None,
        Some(Specifier::IndividualMethodStatsAllowlist(list)) => Methods::Listed(
            list.services
                .into_iter()
                .map(|one| (one.name, one.method_names))
                .collect(),
        ),
    };
    Ok(Stage::Filter(Arc::new(GrpcStatsFilter {
        name: cx.name.into(),
        methods,
        replace_dots: config.replace_dots_in_grpc_service_name,
        stats: cx.build.stats.clone(),
        known: ArcSwap::default(),
    })))
}

impl Filter for GrpcStatsFilter {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        GrpcCall::watch_request(exchange);
        Flow::Continue
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut http::Response<Body>) -> Flow {
        GrpcCall::watch_response(exchange, response);
        Flow::Continue
    }

    fn log(&self, exchange: &mut Exchange) {
        let Some(call) = exchange.extensions.get::<GrpcCall>() else {
            return;
        };
        let Some(cluster) = &exchange.route.cluster else {
            return;
        };
        let path = exchange
            .original_path
            .as_ref()
            .map_or(exchange.request.uri().path(), |path| path.path());
        // As Envoy: whoever asks for something else than a method makes no call.
        if split(path).is_none() {
            return;
        }
        let key = Key {
            cluster: cluster.id,
            path: self.counts(path).then(|| path.into()),
        };
        let known = self.known.load();
        let counters = match known.get(&key) {
            Some(counters) => counters.clone(),
            None => self.learn(key, &cluster.name),
        };
        counters.count(call);
    }
}

impl GrpcStatsFilter {
    fn counts(&self, path: &str) -> bool {
        let Some((service, method)) = split(path) else {
            return false;
        };
        match &self.methods {
            Methods::None => false,
            Methods::All => true,
            Methods::Listed(services) => {
                let listed = services.get(service);
                listed.is_some_and(|methods| methods.iter().any(|listed| listed == method))
            }
        }
    }

    fn learn(&self, key: Key, cluster: &str) -> Arc<Counters> {
        let group = self
            .stats
            .group::<GrpcStats>(&format!("cluster.{}.grpc.", cluster.replace(':', "_")));
        let prefix = match key.path.as_deref().and_then(split) {
            Some((service, method)) if self.replace_dots => format!("{}.{method}.", service.replace('.', "_")),
            Some((service, method)) => format!("{service}.{method}."),
            None => String::new(),
        };
        let counters = Arc::new(Counters::new(group, prefix));
        self.known.rcu(|known| {
            let mut more = HashMap::clone(known);
            more.insert(key.clone(), counters.clone());
            more
        });
        counters
    }
}

/// `/service/method`
fn split(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

impl Counters {
    fn new(group: Arc<GrpcStats>, prefix: String) -> Self {
        Self {
            success: Lazy::new(),
            failure: Lazy::new(),
            total: Lazy::new(),
            requests: Lazy::new(),
            responses: Lazy::new(),
            by_code: Default::default(),
            group,
            prefix,
        }
    }

    fn count(&self, call: &GrpcCall) {
        self.add(&self.requests, &"request_message_count", call.requests());
        self.add(&self.responses, &"response_message_count", call.responses());
        let Some(status) = call.status() else { return };
        match status {
            0 => self.add(&self.success, &"success", 1),
            _ => self.add(&self.failure, &"failure", 1),
        }
        self.add(&self.total, &"total", 1);
        if let Some(by_code) = self.by_code.get(status as usize) {
            self.add(by_code, &status, 1);
        }
    }

    fn add(&self, counter: &Lazy, name: &dyn std::fmt::Display, count: u64) {
        if count > 0 {
            let make = || self.group.dynamic.counter(&format!("{}{name}", self.prefix));
            counter.get_or_init(make).add(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildContext;
    use crate::filters::http::tests;
    use remora_proto::pb::google::protobuf::BoolValue;

    fn call(filter: &Arc<dyn Filter>, cluster: &Arc<crate::cluster::Cluster>, status: i32) {
        let mut exchange = crate::testing::exchange("POST", "/a.Svc/Get", &[("content-type", "application/grpc")]);
        filter.request_headers(&mut exchange);
        let mut response = http::Response::new(Body::Empty);
        response
            .headers_mut()
            .insert("grpc-status", http::HeaderValue::from(status));
        exchange.route.cluster = Some(cluster.clone());
        filter.response_headers(&mut exchange, &mut response);
        filter.log(&mut exchange);
    }

    #[test]
    fn calls_are_counted_by_cluster_and_where_configured_by_method() {
        let cluster = Arc::new(tests::cluster("backend", None));
        for (all, prefix) in [(false, ""), (true, "a.Svc.Get.")] {
            let build = BuildContext::default();
            let config = pb::FilterConfig {
                emit_filter_state: true,
                per_method_stat_specifier: Some(pb::filter_config::PerMethodStatSpecifier::StatsForAllMethods(
                    BoolValue { value: all },
                )),
                ..Default::default()
            };
            let filter = tests::compile(REGISTRATION, &config, &build).expect("compiles");
            [0, 0, 14]
                .into_iter()
                .for_each(|status| call(&filter, &cluster, status));
            let group = build.stats.group::<GrpcStats>("cluster.backend.grpc.");
            let count = |name: &str| group.dynamic.counter(&format!("{prefix}{name}")).value();
            assert_eq!(
                (count("success"), count("failure"), count("total"), count("14")),
                (2, 1, 3, 1)
            );
        }
    }

    #[test]
    fn only_whole_methods_have_names() {
        assert_eq!(split("/a.Svc/Get"), Some(("a.Svc", "Get")));
        assert_eq!([split("/a"), split("//x"), split("/a/b/c")], [None, None, None]);
    }
}
