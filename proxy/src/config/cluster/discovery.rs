//! `type`, and how DNS clusters resolve.

use std::time::Duration;

use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::extensions::clusters::dns::v3::DnsCluster;

use super::DiscoveryKind;
use crate::cluster::discovery::resolver::{NameServers, ResolverConfig};
use crate::cluster::discovery::{Discovery, DnsConfig, LookupFamily};
use crate::config::endpoint::{self, Template};
use crate::config::route::{Under, duration, refuse};
use crate::config::{Compiled, Problems, gather, resolver};
use crate::tls::UpstreamTransport;

const DNS_CLUSTER: &str = "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster";

pub(super) fn kind(config: &pb::Cluster) -> Compiled<DiscoveryKind> {
    match &config.cluster_discovery_type {
        None => Ok(DiscoveryKind::Static),
        Some(ClusterDiscoveryType::Type(kind)) => match DiscoveryType::try_from(*kind) {
            Ok(DiscoveryType::Static) => Ok(DiscoveryKind::Static),
            Ok(DiscoveryType::StrictDns) => Ok(DiscoveryKind::StrictDns),
            Ok(DiscoveryType::LogicalDns) => Ok(DiscoveryKind::LogicalDns),
            Ok(DiscoveryType::Eds) => Ok(DiscoveryKind::Eds),
            Ok(DiscoveryType::OriginalDst) => Ok(DiscoveryKind::OriginalDst),
            Err(_) => Err(Problems::one("type", "unknown value")),
        },
        Some(ClusterDiscoveryType::ClusterType(custom)) => match dns_cluster(custom)? {
            Some(dns) if dns.all_addresses_in_single_endpoint => Ok(DiscoveryKind::LogicalDns),
            Some(_) => Ok(DiscoveryKind::StrictDns),
            None => Err(Problems::one(
                "cluster_type",
                format!("{} is not supported", custom.name),
            )),
        },
    }
}

fn dns_cluster(custom: &pb::cluster::CustomClusterType) -> Compiled<Option<DnsCluster>> {
    match &custom.typed_config {
        Some(any) if any.type_url == DNS_CLUSTER => DnsCluster::decode(any.value.as_slice())
            .map(Some)
            .map_err(|error| Problems::one("cluster_type.typed_config", error.to_string())),
        _ => Ok(None),
    }
}

pub(super) fn compile(config: &pb::Cluster, transport: &UpstreamTransport) -> Compiled<Discovery> {
    let kind = kind(config)?;
    match kind {
        DiscoveryKind::Static => Ok(Discovery::Static),
        DiscoveryKind::OriginalDst => Ok(Discovery::OriginalDst),
        DiscoveryKind::Eds => {
            refuse("eds_cluster_config", config.eds_cluster_config.is_none(), "required")?;
            Ok(Discovery::Eds)
        }
        DiscoveryKind::StrictDns | DiscoveryKind::LogicalDns => {
            let Some(assignment) = &config.load_assignment else {
                return Err(Problems::one("load_assignment", "required"));
            };
            gather! {
                let assigned = endpoint::templates(assignment, transport).under("load_assignment");
                let dns = match &config.cluster_discovery_type {
                    Some(ClusterDiscoveryType::ClusterType(custom)) => {
                        let value = dns_cluster(custom)?.unwrap_or_default();
                        extension(&value).under("cluster_type.typed_config")
                    }
                    _ => fields(config),
                };
            }
            let ((mut templates, policy), mut dns) = (assigned, dns);
            templates.iter_mut().for_each(Template::call_by_address);
            let is_logical = kind == DiscoveryKind::LogicalDns;
            refuse(
                "load_assignment",
                is_logical && templates.len() != 1,
                "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint",
            )?;
            (dns.is_logical, dns.templates, dns.policy) = (is_logical, templates, policy);
            dns.waits_for_names = config.wait_for_warm_on_init.is_none_or(|waits| waits.value);
            Ok(Discovery::Dns(dns))
        }
    }
}

/// The fields of the cluster itself.
#[allow(deprecated)]
fn fields(config: &pb::Cluster) -> Compiled<DnsConfig> {
    let failure = config.dns_failure_refresh_rate.as_ref();
    let (base, most) = failure.map_or((None, None), |rate| (rate.base_interval, rate.max_interval));
    gather! {
        let refresh_rate = duration("dns_refresh_rate", config.dns_refresh_rate.as_ref());
        let jitter = duration("dns_jitter", config.dns_jitter.as_ref());
        let family = family(config.dns_lookup_family).under("dns_lookup_family");
        let resolver = own_resolver(config);
    }
    let mut dns = rates(refresh_rate, base, most).under("dns_failure_refresh_rate")?;
    dns.respect_ttl = config.respect_dns_ttl;
    dns.jitter = jitter.unwrap_or_default();
    dns.family = family;
    dns.resolver = resolver;
    Ok(dns)
}

/// Envoy's order: the newest field counts.
#[allow(deprecated)]
fn own_resolver(config: &pb::Cluster) -> Compiled<Option<ResolverConfig>> {
    if config.typed_dns_resolver_config.is_some() {
        return resolver::typed(config.typed_dns_resolver_config.as_ref());
    }
    if let Some(older) = &config.dns_resolution_config {
        return resolver::resolution(older).under("dns_resolution_config").map(Some);
    }
    if config.dns_resolvers.is_empty() {
        return Ok(None);
    }
    Ok(Some(ResolverConfig::NameServers(NameServers {
        servers: resolver::servers("dns_resolvers", &config.dns_resolvers)?,
        over_tcp: config.use_tcp_for_dns_lookups,
        ..NameServers::default()
    })))
}

fn extension(config: &DnsCluster) -> Compiled<DnsConfig> {
    let failure = config.dns_failure_refresh_rate.as_ref();
    let (base, most) = failure.map_or((None, None), |rate| (rate.base_interval, rate.max_interval));
    gather! {
        let refresh_rate = duration("dns_refresh_rate", config.dns_refresh_rate.as_ref());
        let jitter = duration("dns_jitter", config.dns_jitter.as_ref());
        let min_refresh_rate = duration("dns_min_refresh_rate", config.dns_min_refresh_rate.as_ref());
    }
    let mut dns = rates(refresh_rate, base, most).under("dns_failure_refresh_rate")?;
    dns.respect_ttl = config.respect_dns_ttl;
    dns.jitter = jitter.unwrap_or_default();
    dns.min_refresh_rate = min_refresh_rate.unwrap_or_default();
    use remora_proto::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as Family;
    dns.family = match Family::try_from(config.dns_lookup_family) {
        Ok(Family::Unspecified | Family::Auto) => LookupFamily::Auto,
        Ok(Family::V4Only) => LookupFamily::V4Only,
        Ok(Family::V6Only) => LookupFamily::V6Only,
        Ok(Family::V4Preferred) => LookupFamily::V4Preferred,
        Ok(Family::All) => LookupFamily::All,
        Err(_) => return Err(Problems::one("dns_lookup_family", "unknown value")),
    };
    dns.resolver = resolver::typed(config.typed_dns_resolver_config.as_ref())?;
    Ok(dns)
}

fn family(value: i32) -> Compiled<LookupFamily> {
    use pb::cluster::DnsLookupFamily as Family;
    match Family::try_from(value) {
        Ok(Family::Auto) => Ok(LookupFamily::Auto),
        Ok(Family::V4Only) => Ok(LookupFamily::V4Only),
        Ok(Family::V6Only) => Ok(LookupFamily::V6Only),
        Ok(Family::V4Preferred) => Ok(LookupFamily::V4Preferred),
        Ok(Family::All) => Ok(LookupFamily::All),
        Err(_) => Err(Problems::one("", "unknown value")),
    }
}

type PbDuration = remora_proto::pb::google::protobuf::Duration;

/// Refresh 5 s; after a failure from the base (by default the refresh rate) up to ten times the base.
fn rates(refresh: Option<Duration>, base: Option<PbDuration>, most: Option<PbDuration>) -> Compiled<DnsConfig> {
    let mut dns = DnsConfig::default();
    dns.refresh_rate = refresh.unwrap_or(dns.refresh_rate).max(Duration::from_millis(1));
    let base = duration("base_interval", base.as_ref())?.unwrap_or(dns.refresh_rate);
    let most = duration("max_interval", most.as_ref())?.unwrap_or(base * 10);
    refuse("max_interval", most < base, "must not be less than base_interval")?;
    (dns.failure_base, dns.failure_max) = (base.max(Duration::from_millis(1)), most);
    Ok(dns)
}
