//! `CircuitBreakers`.

use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3::RoutingPriority;

use crate::cluster::breaker::{RetryBudget, Thresholds};
use crate::config::route::{Under, duration, refuse_all};

/// Thresholds of both priorities, and connections per host.
#[derive(Default)]
pub(super) struct Compiled {
    pub default: Thresholds,
    pub high: Thresholds,
    pub per_host: [Option<u32>; 2],
}

pub(super) fn compile(config: Option<&pb::CircuitBreakers>) -> crate::config::Compiled<Compiled> {
    let Some(config) = config else {
        return Ok(Compiled::default());
    };
    let of = |priority: RoutingPriority| {
        // The first of a priority wins, as in Envoy.
        let found = config
            .thresholds
            .iter()
            .position(|entry| entry.priority == priority as i32);
        let Some(index) = found else {
            return Ok(Thresholds::default());
        };
        thresholds(&config.thresholds[index]).under(&format!("thresholds[{index}]"))
    };
    for (index, entry) in config.per_host_thresholds.iter().enumerate() {
        only_connections(entry).under(&format!("per_host_thresholds[{index}]"))?;
    }
    let per_host = |priority: RoutingPriority| {
        let mut entries = config.per_host_thresholds.iter();
        let entry = entries.find(|entry| entry.priority == priority as i32)?;
        entry.max_connections.as_ref().map(|value| value.value)
    };
    Ok(Compiled {
        default: of(RoutingPriority::Default)?,
        high: of(RoutingPriority::High)?,
        per_host: [per_host(RoutingPriority::Default), per_host(RoutingPriority::High)],
    })
}

/// What Envoy takes for a host: a priority and connections (`track_remaining` too, to no effect).
fn only_connections(config: &pb::circuit_breakers::Thresholds) -> crate::config::Compiled<()> {
    const REASON: &str = "not supported for a host, nor by Envoy";
    refuse_all(&[
        ("max_pending_requests", config.max_pending_requests.is_some(), REASON),
        ("max_requests", config.max_requests.is_some(), REASON),
        ("max_retries", config.max_retries.is_some(), REASON),
        ("max_connection_pools", config.max_connection_pools.is_some(), REASON),
        ("retry_budget", config.retry_budget.is_some(), REASON),
    ])
}

fn thresholds(config: &pb::circuit_breakers::Thresholds) -> crate::config::Compiled<Thresholds> {
    let defaults = Thresholds::default();
    let or = |value: &Option<remora_proto::pb::google::protobuf::UInt32Value>, default: u32| {
        value.as_ref().map_or(default, |value| value.value)
    };
    Ok(Thresholds {
        max_connections: or(&config.max_connections, defaults.max_connections),
        max_pending_requests: or(&config.max_pending_requests, defaults.max_pending_requests),
        max_requests: or(&config.max_requests, defaults.max_requests),
        max_retries: or(&config.max_retries, defaults.max_retries),
        max_connection_pools: or(&config.max_connection_pools, defaults.max_connection_pools),
        retry_budget: config
            .retry_budget
            .as_ref()
            .map(retry_budget)
            .transpose()
            .under("retry_budget")?,
        track_remaining: config.track_remaining,
    })
}

fn retry_budget(config: &pb::circuit_breakers::thresholds::RetryBudget) -> crate::config::Compiled<RetryBudget> {
    let interval = duration("budget_interval", config.budget_interval.as_ref())?;
    Ok(RetryBudget {
        percent: config.budget_percent.as_ref().map_or(20.0, |percent| percent.value),
        min_retry_concurrency: config.min_retry_concurrency.as_ref().map_or(3, |value| value.value),
        interval: interval.filter(|interval| !interval.is_zero()),
    })
}

#[cfg(test)]
mod tests {
    use remora_proto::pb::google::protobuf::UInt32Value;

    use super::*;

    #[test]
    fn a_host_has_a_threshold_for_connections_only() {
        let five = Some(UInt32Value { value: 5 });
        let connections = pb::circuit_breakers::Thresholds {
            max_connections: five,
            priority: RoutingPriority::High as i32,
            ..Default::default()
        };
        let of = |entry: pb::circuit_breakers::Thresholds| pb::CircuitBreakers {
            per_host_thresholds: vec![connections, entry],
            ..Default::default()
        };
        let good = compile(Some(&of(connections)));
        assert_eq!(
            good.unwrap_or_else(|problems| panic!("{problems}")).per_host,
            [None, Some(5)]
        );
        let more = pb::circuit_breakers::Thresholds {
            max_requests: five,
            max_retries: five,
            ..connections
        };
        let Err(problems) = compile(Some(&of(more))) else {
            panic!("fields without effect are taken");
        };
        let text = problems.to_string();
        for field in [
            "per_host_thresholds[1].max_requests",
            "per_host_thresholds[1].max_retries",
        ] {
            assert!(text.contains(field), "{text}");
        }
    }
}
