//! `lb_policy`, `load_balancing_policy` and `common_lb_config`.

use std::sync::Arc;
use std::time::Duration;

use pb::cluster::common_lb_config::LocalityConfigSpecifier;
use pb::cluster::{LbConfig as PbLbConfig, LbPolicy};
use policies::common::v3::locality_lb_config::LocalityConfigSpecifier as Locality;
use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3::RuntimeDouble;
use remora_proto::pb::envoy::extensions::load_balancing_policies as policies;
use remora_proto::pb::envoy::r#type::v3::Percent;
use remora_proto::pb::google::protobuf::{Any, UInt64Value};

use super::subset;
use crate::cluster::lb::hash::{ConsistentHash, HashFunction, Maglev, RingHash};
use crate::cluster::lb::{LbConfig, LeastRequest, OriginalDst, PeakEwma, Policy, ZoneAware};
use crate::cluster::slow_start::SlowStart;
use crate::config::live;
use crate::config::route::{Under, duration, header_name, optional, refuse};
use crate::config::{Compiled, Problems};

/// Envoy's largest ring.
const MAX_RING: u64 = 8 << 20;
/// Envoy's largest Maglev table.
const MAX_TABLE: u64 = 5_000_011;

pub(super) fn compile(config: &pb::Cluster) -> Compiled<LbConfig> {
    let mut lb = LbConfig::default();
    if let Some(value) = &config.common_lb_config {
        common(value, &mut lb).under("common_lb_config")?;
    }
    let hashing = config
        .common_lb_config
        .as_ref()
        .and_then(|common| common.consistent_hashing_lb_config.as_ref());
    let hashing = hashing.map(|value| ConsistentHash {
        use_hostname_for_hashing: value.use_hostname_for_hashing,
        hash_balance_factor: value.hash_balance_factor.as_ref().map(|factor| factor.value),
    });
    divided(config, &mut lb)?;
    if let Some(list) = &config.load_balancing_policy {
        let is_mixed = config.common_lb_config.as_ref().is_some_and(|common| {
            common.locality_config_specifier.is_some() || common.consistent_hashing_lb_config.is_some()
        });
        refuse(
            "load_balancing_policy",
            is_mixed,
            "cannot be combined with zone_aware_lb_config, locality_weighted_lb_config and consistent_hashing_lb_config of \
             common_lb_config",
        )?;
        listed(list, &mut lb).under("load_balancing_policy")?;
        return Ok(lb);
    }
    match LbPolicy::try_from(config.lb_policy) {
        Ok(LbPolicy::RoundRobin) => {
            if let Some(PbLbConfig::RoundRobinLbConfig(value)) = &config.lb_config {
                lb.slow_start = optional(
                    "round_robin_lb_config.slow_start_config",
                    value.slow_start_config.as_ref(),
                    slow,
                )?;
            }
        }
        Ok(LbPolicy::LeastRequest) => {
            let mut policy = LeastRequest::default();
            if let Some(PbLbConfig::LeastRequestLbConfig(value)) = &config.lb_config {
                policy.choice_count = value.choice_count.as_ref().map_or(2, |count| count.value);
                policy.active_request_bias = bias(value.active_request_bias.as_ref());
                lb.slow_start = optional(
                    "least_request_lb_config.slow_start_config",
                    value.slow_start_config.as_ref(),
                    slow,
                )?;
            }
            lb.policy = Policy::LeastRequest(checked(policy).under("least_request_lb_config")?);
        }
        Ok(LbPolicy::Random) => lb.policy = Policy::Random,
        Ok(LbPolicy::RingHash) => {
            let mut sizes = (None, None);
            let mut function = HashFunction::XxHash;
            if let Some(PbLbConfig::RingHashLbConfig(value)) = &config.lb_config {
                function = hash_function(value.hash_function == 1);
                sizes = (value.minimum_ring_size, value.maximum_ring_size);
            }
            let ring = ring(sizes.0, sizes.1, function, hashing.unwrap_or_default()).under("ring_hash_lb_config")?;
            lb.policy = Policy::RingHash(ring);
        }
        Ok(LbPolicy::Maglev) => {
            let size = match &config.lb_config {
                Some(PbLbConfig::MaglevLbConfig(value)) => value.table_size,
                _ => None,
            };
            let maglev = maglev(size, hashing.unwrap_or_default()).under("maglev_lb_config")?;
            lb.policy = Policy::Maglev(maglev);
        }
        Ok(LbPolicy::ClusterProvided) => lb.policy = Policy::OriginalDst(original_dst(config)?),
        Ok(LbPolicy::LoadBalancingPolicyConfig) => {
            return Err(Problems::one("load_balancing_policy", "required by lb_policy"));
        }
        Err(_) => return Err(Problems::one("lb_policy", "unknown value")),
    }
    Ok(lb)
}

/// `lb_subset_config`
fn divided(config: &pb::Cluster, lb: &mut LbConfig) -> Compiled<()> {
    let Some(value) = &config.lb_subset_config else {
        return Ok(());
    };
    let has_list = config.load_balancing_policy.is_some();
    refuse(
        "lb_subset_config",
        has_list,
        "goes with lb_policy, not with load_balancing_policy",
    )?;
    let is_destination = config.lb_policy == LbPolicy::ClusterProvided as i32;
    refuse("lb_subset_config", is_destination, "does not go with CLUSTER_PROVIDED")?;
    // Without a selector there is nothing to divide by.
    let subset = subset::compile(value).under("lb_subset_config")?;
    lb.subset = (!subset.selectors.is_empty()).then(|| Arc::new(subset));
    Ok(())
}

fn common(value: &pb::cluster::CommonLbConfig, lb: &mut LbConfig) -> Compiled<()> {
    let threshold = percent("healthy_panic_threshold", value.healthy_panic_threshold.as_ref())?;
    lb.panic_threshold = threshold.map_or(50, whole_percent);
    lb.ignore_new_hosts_until_first_hc = value.ignore_new_hosts_until_first_hc;
    lb.close_connections_on_host_set_change = value.close_connections_on_host_set_change;
    match &value.locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => lb.locality_weighted = true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
            lb.fail_traffic_on_panic = zone.fail_traffic_on_panic;
            lb.zone = zone_aware(zone.routing_enabled.as_ref(), zone.min_cluster_size.as_ref())
                .under("zone_aware_lb_config")?;
        }
        None => {}
    }
    Ok(())
}

/// The first policy of the list that we have.
fn listed(list: &pb::LoadBalancingPolicy, lb: &mut LbConfig) -> Compiled<()> {
    for (index, entry) in list.policies.iter().enumerate() {
        let config = entry
            .typed_extension_config
            .as_ref()
            .and_then(|config| config.typed_config.as_ref());
        let Some(any) = config else {
            continue;
        };
        let path = format!("policies[{index}].typed_extension_config.typed_config");
        if extension(any, lb).under(&path)? {
            return Ok(());
        }
    }
    Err(Problems::one("policies", "none of them is supported"))
}

/// False when the policy is unknown.
#[allow(deprecated)]
fn extension(any: &Any, lb: &mut LbConfig) -> Compiled<bool> {
    let name = any
        .type_url
        .strip_prefix("type.googleapis.com/envoy.extensions.load_balancing_policies.");
    match name {
        Some("round_robin.v3.RoundRobin") => {
            let value: policies::round_robin::v3::RoundRobin = decode(any)?;
            lb.policy = Policy::RoundRobin;
            lb.slow_start = optional("slow_start_config", value.slow_start_config.as_ref(), slow_extension)?;
            locality(value.locality_lb_config.as_ref(), lb)?;
        }
        Some("least_request.v3.LeastRequest") => {
            let value: policies::least_request::v3::LeastRequest = decode(any)?;
            let scans = value.enable_full_scan.as_ref().is_some_and(|scan| scan.value);
            lb.policy = Policy::LeastRequest(checked(LeastRequest {
                choice_count: value.choice_count.as_ref().map_or(2, |count| count.value),
                active_request_bias: bias(value.active_request_bias.as_ref()),
                full_scan: scans || value.selection_method == 1,
            })?);
            lb.slow_start = optional("slow_start_config", value.slow_start_config.as_ref(), slow_extension)?;
            locality(value.locality_lb_config.as_ref(), lb)?;
        }
        Some("random.v3.Random") => {
            let value: policies::random::v3::Random = decode(any)?;
            lb.policy = Policy::Random;
            locality(value.locality_lb_config.as_ref(), lb)?;
        }
        Some("peak_ewma.v3alpha.PeakEwma") => {
            let value: remora_proto::contrib::PeakEwma = decode(any)?;
            lb.policy = Policy::PeakEwma(peak_ewma(&value)?);
        }
        Some("ring_hash.v3.RingHash") => {
            let value: policies::ring_hash::v3::RingHash = decode(any)?;
            let function = hash_function(value.hash_function == 2);
            let (by_name, factor) = (value.use_hostname_for_hashing, value.hash_balance_factor);
            let hashing = hashing(
                value.consistent_hashing_lb_config.as_ref(),
                by_name,
                factor.map(|value| value.value),
            );
            let ring = ring(value.minimum_ring_size, value.maximum_ring_size, function, hashing)?;
            lb.policy = Policy::RingHash(ring);
            lb.locality_weighted |= value.locality_weighted_lb_config.is_some();
        }
        Some("maglev.v3.Maglev") => {
            let value: policies::maglev::v3::Maglev = decode(any)?;
            let hashing = hashing(value.consistent_hashing_lb_config.as_ref(), false, None);
            lb.policy = Policy::Maglev(maglev(value.table_size, hashing)?);
            lb.locality_weighted |= value.locality_weighted_lb_config.is_some();
        }
        Some("wrr_locality.v3.WrrLocality") => {
            let value: policies::wrr_locality::v3::WrrLocality = decode(any)?;
            let Some(inner) = &value.endpoint_picking_policy else {
                return Err(Problems::one("endpoint_picking_policy", "required"));
            };
            listed(inner, lb).under("endpoint_picking_policy")?;
            lb.locality_weighted = true;
        }
        Some("subset.v3.Subset") => {
            let value: policies::subset::v3::Subset = decode(any)?;
            let Some(inner) = &value.subset_lb_policy else {
                return Err(Problems::one("subset_lb_policy", "required"));
            };
            listed(inner, lb).under("subset_lb_policy")?;
            let is_destination = matches!(lb.policy, Policy::OriginalDst(_)) || lb.subset.is_some();
            refuse("subset_lb_policy", is_destination, "cannot be divided into subsets")?;
            lb.subset = Some(Arc::new(subset::compile_extension(&value)?));
        }
        Some("cluster_provided.v3.ClusterProvided") => lb.policy = Policy::OriginalDst(OriginalDst::default()),
        _ => return Ok(false),
    }
    Ok(true)
}

fn decode<M: Message + Default>(any: &Any) -> Compiled<M> {
    M::decode(any.value.as_slice()).map_err(|error| Problems::one("", error.to_string()))
}

#[allow(deprecated)]
fn locality(config: Option<&policies::common::v3::LocalityLbConfig>, lb: &mut LbConfig) -> Compiled<()> {
    match config.and_then(|config| config.locality_config_specifier.as_ref()) {
        Some(Locality::LocalityWeightedLbConfig(_)) => lb.locality_weighted = true,
        Some(Locality::ZoneAwareLbConfig(zone)) => {
            lb.fail_traffic_on_panic = zone.fail_traffic_on_panic;
            let forced = match (&zone.force_local_zone, zone.force_locality_direct_routing) {
                (Some(forced), _) => Some(forced.min_size.map_or(1, |size| size.value)),
                (None, true) => Some(1),
                (None, false) => None,
            };
            lb.zone = ZoneAware {
                force_local: forced,
                by_weight: zone.locality_basis == 1,
                ..zone_aware(zone.routing_enabled.as_ref(), zone.min_cluster_size.as_ref())
                    .under("locality_lb_config.zone_aware_lb_config")?
            };
        }
        None => {}
    }
    Ok(())
}

fn zone_aware(routing: Option<&Percent>, smallest: Option<&UInt64Value>) -> Compiled<ZoneAware> {
    let defaults = ZoneAware::default();
    Ok(ZoneAware {
        routing_enabled: percent("routing_enabled", routing)?.map_or(defaults.routing_enabled, whole_percent),
        min_cluster_size: smallest.map_or(defaults.min_cluster_size, |size| size.value),
        ..defaults
    })
}

fn peak_ewma(value: &remora_proto::contrib::PeakEwma) -> Compiled<PeakEwma> {
    let decay = duration("decay_time", value.decay_time.as_ref())?.unwrap_or(Duration::from_secs(10));
    refuse("decay_time", decay.is_zero(), "must be greater than 0")?;
    let default_rtt = duration("default_rtt", value.default_rtt.as_ref())?.unwrap_or(Duration::from_millis(10));
    let penalty = value.penalty_value.as_ref().map_or(1e6, |penalty| penalty.value);
    refuse(
        "penalty_value",
        penalty.is_nan() || penalty < 0.0,
        "must not be negative",
    )?;
    Ok(PeakEwma {
        decay,
        default_rtt,
        penalty,
    })
}

fn hashing(
    config: Option<&policies::common::v3::ConsistentHashingLbConfig>,
    by_name: bool,
    factor: Option<u32>,
) -> ConsistentHash {
    let nested = config
        .and_then(|config| config.hash_balance_factor.as_ref())
        .map(|value| value.value);
    ConsistentHash {
        use_hostname_for_hashing: by_name || config.is_some_and(|config| config.use_hostname_for_hashing),
        hash_balance_factor: nested.or(factor),
    }
}

fn hash_function(is_murmur: bool) -> HashFunction {
    match is_murmur {
        true => HashFunction::Murmur2,
        false => HashFunction::XxHash,
    }
}

fn ring(
    minimum: Option<UInt64Value>,
    maximum: Option<UInt64Value>,
    function: HashFunction,
    common: ConsistentHash,
) -> Compiled<RingHash> {
    let minimum_ring_size = minimum.map_or(1024, |value| value.value);
    let maximum_ring_size = maximum.map_or(MAX_RING, |value| value.value);
    refuse(
        "minimum_ring_size",
        minimum_ring_size == 0 || minimum_ring_size > MAX_RING,
        "must be in 1..=8388608",
    )?;
    refuse(
        "maximum_ring_size",
        maximum_ring_size > MAX_RING,
        "must be at most 8388608",
    )?;
    refuse(
        "minimum_ring_size",
        minimum_ring_size > maximum_ring_size,
        "must not exceed maximum_ring_size",
    )?;
    Ok(RingHash {
        function,
        minimum_ring_size,
        maximum_ring_size,
        common,
    })
}

fn maglev(size: Option<UInt64Value>, common: ConsistentHash) -> Compiled<Maglev> {
    let table_size = size.map_or(65537, |value| value.value);
    refuse("table_size", table_size > MAX_TABLE, "must be at most 5000011")?;
    refuse("table_size", !is_prime(table_size), "must be a prime number")?;
    Ok(Maglev { table_size, common })
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

fn checked(policy: LeastRequest) -> Compiled<LeastRequest> {
    refuse("choice_count", policy.choice_count < 2, "must be at least 2")?;
    refuse(
        "active_request_bias",
        policy.active_request_bias < 0.0 || policy.active_request_bias.is_nan(),
        "must not be negative",
    )?;
    Ok(policy)
}

fn bias(value: Option<&RuntimeDouble>) -> f64 {
    value.map_or(1.0, |value| live::double(value, |set| set >= 0.0))
}

/// Envoy's `convertPercent`, its rounding errors included: 29 % are 28.
fn whole_percent(value: f64) -> u32 {
    (100.0 * (value / 100.0)) as u32
}

fn percent(field: &str, value: Option<&Percent>) -> Compiled<Option<f64>> {
    let Some(value) = value else {
        return Ok(None);
    };
    refuse(field, !(0.0..=100.0).contains(&value.value), "must be in 0..=100")?;
    Ok(Some(value.value))
}

fn slow(value: &pb::cluster::SlowStartConfig) -> Compiled<SlowStart> {
    slow_start(
        value.slow_start_window.as_ref(),
        value.aggression.as_ref(),
        value.min_weight_percent.as_ref(),
    )
}

fn slow_extension(value: &policies::common::v3::SlowStartConfig) -> Compiled<SlowStart> {
    slow_start(
        value.slow_start_window.as_ref(),
        value.aggression.as_ref(),
        value.min_weight_percent.as_ref(),
    )
}

fn slow_start(
    window: Option<&remora_proto::pb::google::protobuf::Duration>,
    aggression: Option<&RuntimeDouble>,
    min_weight: Option<&Percent>,
) -> Compiled<SlowStart> {
    let window = duration("slow_start_window", window)?.unwrap_or_default();
    refuse("slow_start_window", window.is_zero(), "required")?;
    let aggression = aggression.map_or(1.0, |value| live::double(value, |set| set > 0.0));
    refuse(
        "aggression",
        aggression <= 0.0 || aggression.is_nan(),
        "must be greater than 0",
    )?;
    Ok(SlowStart {
        window,
        aggression,
        min_weight: percent("min_weight_percent", min_weight)?.unwrap_or(10.0) / 100.0,
    })
}

fn original_dst(config: &pb::Cluster) -> Compiled<OriginalDst> {
    let mut compiled = OriginalDst::default();
    if let Some(interval) = duration("cleanup_interval", config.cleanup_interval.as_ref())? {
        compiled.cleanup_interval = interval.max(Duration::from_millis(1));
    }
    let Some(PbLbConfig::OriginalDstLbConfig(value)) = &config.lb_config else {
        return Ok(compiled);
    };
    if value.use_http_header {
        let name = match value.http_header_name.as_str() {
            "" => "x-envoy-original-dst-host",
            name => name,
        };
        compiled.http_header = Some(header_name("original_dst_lb_config.http_header_name", name)?);
    }
    if let Some(port) = &value.upstream_port_override {
        let port = u16::try_from(port.value)
            .map_err(|_| Problems::one("original_dst_lb_config.upstream_port_override", "must be at most 65535"))?;
        compiled.port_override = Some(port);
    }
    compiled.metadata_key = value.metadata_key.as_ref().map(|key| {
        use remora_proto::pb::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
        let name = |segment: &remora_proto::pb::envoy::r#type::metadata::v3::metadata_key::PathSegment| {
            let Some(Segment::Key(key)) = &segment.segment else {
                return String::new();
            };
            key.clone()
        };
        (key.key.clone(), key.path.iter().map(name).collect())
    });
    Ok(compiled)
}
