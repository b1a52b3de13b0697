//! `envoy.config.cluster.v3.Cluster` → [`Cluster`].
//!
//! In: encoded bytes. Out: a cluster with its static endpoints, or every problem by path. [`needs`] runs the same validation without
//! touching any long-lived object, so that what was acknowledged builds later.

mod breakers;
mod discovery;
mod health;
mod http;
mod lb;
mod outlier;
mod socket;
mod subset;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::type_url::full_name;

use super::identity::Identity;
use super::live::{MAINTENANCE_MODE, Share};
use super::route::{Fraction, Under, duration, each, refuse};
use super::source::ConfigSource;
use super::tls::{SecretRef, secret_refs};
use super::{BuildContext, Compiled, Problems, endpoint, gather};
use crate::cluster::breaker::Breakers;
use crate::cluster::discovery::Discovery;
use crate::cluster::health_check::CheckKind;
use crate::cluster::lb::{LbConfig, Policy};
use crate::cluster::options::{HttpOptions, SocketOptions, UpstreamProtocol};
use crate::cluster::outlier::events::EventLog;
use crate::cluster::outlier::{Detector, OutlierConfig};
use crate::cluster::{Cluster, ClusterStats};
use crate::filters::network::metadata_exchange::{self, MetadataExchange};
use crate::pool::Preconnect;
use crate::tls::{TransportMatch, UpstreamSocket, UpstreamTransport};

/// What a cluster depends on, known without building it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterNeeds {
    pub name: String,
    pub kind: DiscoveryKind,
    /// Name and source of the endpoint assignment, for EDS clusters.
    pub eds: Option<(String, ConfigSource)>,
    pub secrets: Vec<SecretRef>,
    /// Has a life of its own (DNS, active health checks): build it at once.
    pub eager: bool,
}

/// `Cluster.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscoveryKind {
    Static,
    StrictDns,
    LogicalDns,
    Eds,
    OriginalDst,
}

/// Everything but transport sockets, validated.
struct Plan {
    discovery: Discovery,
    connect_timeout: Duration,
    http: HttpOptions,
    socket: SocketOptions,
    lb: LbConfig,
    thresholds: breakers::Compiled,
    preconnect: Option<Preconnect>,
    outlier: Option<OutlierConfig>,
    health_checks: Vec<crate::cluster::health_check::HealthCheck>,
}

/// A cluster from its encoded configuration, with its inline endpoints.
///
/// # Errors
/// What is wrong or not supported, by path; nothing that [`needs`] let pass.
pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Cluster> {
    let config = decode(bytes)?;
    build(&config, bytes, cx)
}

/// Validates an encoded cluster and tells what it depends on.
///
/// # Errors
/// What is wrong or not supported, by path.
pub fn needs(bytes: &[u8]) -> Compiled<ClusterNeeds> {
    static SCRATCH: LazyLock<BuildContext> = LazyLock::new(BuildContext::default);
    let config = decode(bytes)?;
    // Objects of its own for what a build registers itself with.
    let scratch = BuildContext {
        secrets: Arc::default(),
        ..SCRATCH.clone()
    };
    validate(&config, &scratch)?;
    let mut secrets = Vec::new();
    for socket in sockets(&config) {
        secrets.extend(secret_refs(socket).under("transport_socket")?);
    }
    secrets.sort_by(|a, b| a.name.cmp(&b.name));
    secrets.dedup_by(|a, b| a.is_same(b));
    let kind = discovery::kind(&config)?;
    let eds = match (&config.eds_cluster_config, kind) {
        (Some(eds), DiscoveryKind::Eds) => {
            let name = if eds.service_name.is_empty() {
                &config.name
            } else {
                &eds.service_name
            };
            let Some(source) = &eds.eds_config else {
                return Err(Problems::one("eds_cluster_config.eds_config", "required"));
            };
            Some((
                name.clone(),
                ConfigSource::compile(source).under("eds_cluster_config.eds_config")?,
            ))
        }
        _ => None,
    };
    Ok(ClusterNeeds {
        name: config.name.clone(),
        kind,
        eds,
        secrets,
        eager: matches!(kind, DiscoveryKind::StrictDns | DiscoveryKind::LogicalDns) || !config.health_checks.is_empty(),
    })
}

fn decode(bytes: &[u8]) -> Compiled<pb::Cluster> {
    pb::Cluster::decode(bytes).map_err(|error| Problems::one("", error.to_string()))
}

fn sockets(config: &pb::Cluster) -> impl Iterator<Item = &core::TransportSocket> {
    let matched = config
        .transport_socket_matches
        .iter()
        .filter_map(|entry| entry.transport_socket.as_ref());
    config.transport_socket.iter().chain(matched)
}

fn build(config: &pb::Cluster, bytes: &[u8], cx: &BuildContext) -> Compiled<Cluster> {
    let (transport, plan, inline) = validate(config, cx)?;
    let metadata_exchange = metadata_exchange(config, cx)?;
    let name: Arc<str> = Arc::from(config.name.as_str());
    let stats = cx.stats.group::<ClusterStats>(&stats_prefix(config));
    transport.count_into(&cx.stats, &stats_prefix(config));
    let limits = plan.thresholds;
    let identity = Identity::of(bytes);
    // What nobody checks, or casts out, has no stats of it.
    if !plan.health_checks.is_empty() {
        stats.health_check();
    }
    if plan.outlier.is_some() {
        stats.outlier();
    }
    let cluster = Cluster {
        shown_name: Arc::from(shown_name(config)),
        id: identity.id(),
        _identity: identity,
        connect_timeout: plan.connect_timeout,
        http: plan.http,
        socket: plan.socket,
        preconnect: plan.preconnect,
        pool_per_downstream_connection: config.connection_pool_per_downstream_connection,
        breakers: Breakers::new(limits.default, limits.high, limits.per_host, &stats),
        hosts: Default::default(),
        lb: LbConfig {
            local: (cx.hosts.local())
                .filter(|local| plan.lb.policy.is_zone_aware() && local.name() != config.name)
                .cloned(),
            ..plan.lb
        },
        outlier: plan.outlier.map(|outlier| {
            let events = cx.outlier_events.clone().map(|sink| EventLog {
                sink,
                cluster: name.clone(),
            });
            Detector::new(outlier, stats.clone()).logging(events)
        }),
        discovery: plan.discovery,
        health_checks: plan.health_checks,
        istio: crate::cluster::istio::ClusterFacts::of(config.metadata.as_ref()),
        metadata: config.metadata.clone().map(Arc::new),
        metadata_exchange,
        ignore_health_on_host_removal: config.ignore_health_on_host_removal,
        closes_on_host_failure: config.close_connections_on_host_health_failure,
        maintenance: maintenance(&name),
        registry: cx.hosts.clone(),
        enrolled: Default::default(),
        follows: Default::default(),
        retired: Default::default(),
        members: Default::default(),
        names: Default::default(),
        warmth: Default::default(),
        destinations: Default::default(),
        transport,
        stats,
        name,
    };
    let now = crate::runtime::clock::now();
    cluster.start(now);
    if let Some(endpoints) = inline {
        cluster.set_endpoints(endpoints, now);
    }
    cluster.show_warmth();
    Ok(cluster)
}

/// None, where no layer of the runtime says otherwise.
fn maintenance(cluster: &str) -> Share {
    let none = Fraction {
        numerator: 0,
        denominator: 100,
    };
    Share::new(none, &format!("{MAINTENANCE_MODE}{cluster}"))
}

/// All that can fail; touches nothing but the secrets of `cx`.
fn validate(
    config: &pb::Cluster,
    cx: &BuildContext,
) -> Compiled<(UpstreamTransport, Plan, Option<endpoint::Endpoints>)> {
    let transport = transport(config, cx);
    // What is wrong elsewhere is told next to what is wrong with a transport socket.
    let substitute = UpstreamTransport::default();
    let sockets = transport.as_ref().unwrap_or(&substitute);
    let rest = metadata_exchange(config, cx);
    let plan = plan(config, sockets, cx);
    let inline = inline_endpoints(config, sockets);
    gather! {
        let transport = transport;
        let _rest = rest;
        let plan = plan;
        let inline = inline;
    }
    protocols(config, &transport, &plan)?;
    Ok((transport, plan, inline))
}

/// What must speak a protocol can.
fn protocols(config: &pb::Cluster, transport: &UpstreamTransport, plan: &Plan) -> Compiled<()> {
    let matched = transport.matches.iter().map(|entry| &entry.socket);
    let has_plain = (std::iter::once(&transport.default).chain(matched)).any(|socket| !socket.has_alpn());
    let is_auto = plan.http.protocol == UpstreamProtocol::Auto;
    let options = config.typed_extension_protocol_options.keys().next();
    gather! {
        let _alpn = refuse(
            &format!("typed_extension_protocol_options[{:?}].auto_config", options.map_or("", String::as_str)),
            is_auto && has_plain,
            "needs ALPN, which a transport socket of the cluster does not have",
        );
        let _checks = each("health_checks", &plan.health_checks, |check| {
            let is_grpc = matches!(check.kind, CheckKind::Grpc(_));
            refuse("grpc_health_check", is_grpc && !plan.http.has_http2, "the cluster must support HTTP/2")
        });
    }
    Ok(())
}

/// `filters`, as far as there are any for upstream connections.
fn metadata_exchange(config: &pb::Cluster, cx: &BuildContext) -> Compiled<Option<MetadataExchange>> {
    let filters = each("filters", &config.filters, |filter| {
        let Some(any) = &filter.typed_config else {
            return Err(Problems::one("typed_config", "required"));
        };
        let (name, value) = super::listener::content(any).under("typed_config")?;
        if full_name(metadata_exchange::TYPE_URL) != name {
            let reason = format!("{name} is not supported as an upstream filter");
            return Err(Problems::one("typed_config", reason));
        }
        MetadataExchange::compile(&value, cx).under("typed_config")
    });
    let mut filters = filters?;
    refuse("filters", filters.len() > 1, "only one metadata exchange is supported")?;
    Ok(filters.pop())
}

/// What stats and access logs call it.
fn shown_name(config: &pb::Cluster) -> &str {
    match config.alt_stat_name.as_str() {
        "" => &config.name,
        other => other,
    }
}

fn stats_prefix(config: &pb::Cluster) -> String {
    format!("cluster.{}.", shown_name(config).replace(':', "_"))
}

fn plan(config: &pb::Cluster, transport: &UpstreamTransport, cx: &BuildContext) -> Compiled<Plan> {
    gather! {
        let _name = refuse("name", config.name.is_empty(), "required");
        let _supported = unsupported(config);
        let connect_timeout = connect_timeout(config);
        let discovery = discovery::compile(config, transport);
        let lb = lb::compile(config);
        let http = http::compile(config);
        let socket = socket::compile(config);
        let thresholds = breakers::compile(config.circuit_breakers.as_ref()).under("circuit_breakers");
        let outlier = super::route::optional("outlier_detection", config.outlier_detection.as_ref(), outlier::compile);
        let preconnect = super::route::optional("preconnect_policy", config.preconnect_policy.as_ref(), preconnect);
        let _one = refuse("health_checks", config.health_checks.len() > 1, "only one is supported");
        let health_checks = each("health_checks", &config.health_checks, |check| {
            health::compile(check, transport, cx)
        });
    }
    let is_original_dst = matches!(discovery, Discovery::OriginalDst);
    if is_original_dst != matches!(lb.policy, Policy::OriginalDst(_)) {
        return Err(Problems::one(
            "lb_policy",
            "CLUSTER_PROVIDED goes with type ORIGINAL_DST, and only with it",
        ));
    }
    Ok(Plan {
        discovery,
        connect_timeout,
        http,
        socket,
        lb,
        preconnect,
        thresholds,
        outlier,
        health_checks,
    })
}

fn connect_timeout(config: &pb::Cluster) -> Compiled<Duration> {
    let timeout = duration("connect_timeout", config.connect_timeout.as_ref())?;
    refuse(
        "connect_timeout",
        timeout.is_some_and(|timeout| timeout.is_zero()),
        "must be greater than 0",
    )?;
    Ok(timeout.unwrap_or(Duration::from_secs(5)))
}

fn preconnect(config: &pb::cluster::PreconnectPolicy) -> Compiled<Preconnect> {
    let ratio = |field: &str, value: Option<f64>, unset: f64| {
        let value = value.unwrap_or(unset);
        refuse(
            field,
            value != unset && !(1.0..=3.0).contains(&value),
            "must be in 1..=3",
        )
        .map(|()| value)
    };
    let per_upstream = config.per_upstream_preconnect_ratio.as_ref().map(|ratio| ratio.value);
    let predictive = config.predictive_preconnect_ratio.as_ref().map(|ratio| ratio.value);
    gather! {
        let per_upstream = ratio("per_upstream_preconnect_ratio", per_upstream, 1.0);
        let predictive = ratio("predictive_preconnect_ratio", predictive, 0.0);
    }
    Ok(Preconnect {
        per_upstream,
        predictive,
    })
}

/// Fields whose meaning would be lost. Those that only bound memory or enrich statistics are the ledger's business.
fn unsupported(config: &pb::Cluster) -> Compiled<()> {
    let is_set = [
        ("transport_socket_matcher", config.transport_socket_matcher.is_some()),
        ("upstream_config", config.upstream_config.is_some()),
        ("queuing_policies", config.queuing_policies.is_some()),
        ("stats_matcher", config.stats_matcher.is_some()),
    ];
    let found = is_set.iter().filter(|(_, is_set)| *is_set);
    let problems: Vec<_> = found
        .flat_map(|(path, _)| Problems::one(*path, "not supported").0)
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Problems(problems))
    }
}

fn transport(config: &pb::Cluster, cx: &BuildContext) -> Compiled<UpstreamTransport> {
    let socket = |socket: &core::TransportSocket| -> Compiled<UpstreamSocket> {
        let compiled = super::tls::upstream(socket, cx)?;
        let is_plain = compiled.tls.is_none() && compiled.header.is_none() && !compiled.unusable;
        Ok(UpstreamSocket {
            identity: (!is_plain).then(|| Identity::of(&socket.encode_to_vec())),
            ..compiled
        })
    };
    let socket = |value: Option<&core::TransportSocket>| super::route::optional("transport_socket", value, socket);
    gather! {
        let default = socket(config.transport_socket.as_ref());
        let matches = each("transport_socket_matches", &config.transport_socket_matches, |entry| {
            let socket = socket(entry.transport_socket.as_ref())?;
            let labels = entry.r#match.clone().unwrap_or_default().fields.into_iter().collect();
            Ok(TransportMatch {
                name: entry.name.clone(),
                labels,
                socket: socket.unwrap_or_default(),
            })
        });
    }
    Ok(UpstreamTransport {
        default: default.unwrap_or_default(),
        matches,
    })
}

fn inline_endpoints(config: &pb::Cluster, transport: &UpstreamTransport) -> Compiled<Option<endpoint::Endpoints>> {
    // What is wrong with the type is told by the plan.
    let Ok(kind) = discovery::kind(config) else {
        return Ok(None);
    };
    match (kind, &config.load_assignment) {
        (DiscoveryKind::Static, Some(assignment)) => endpoint::compile(assignment, transport)
            .map(Some)
            .under("load_assignment"),
        (DiscoveryKind::Static, None) => Ok(Some(endpoint::Endpoints::default())),
        (DiscoveryKind::Eds | DiscoveryKind::OriginalDst, Some(_)) => Err(Problems::one(
            "load_assignment",
            "goes with types STATIC, STRICT_DNS and LOGICAL_DNS",
        )),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tolerated;
