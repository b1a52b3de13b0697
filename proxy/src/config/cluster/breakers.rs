//! `CircuitBreakers`.

use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3::RoutingPriority;

use crate::cluster::breaker::{RetryBudget, Thresholds};
use crate::config::route::{Under, refuse};

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
    refuse("budget_interval", config.budget_interval.is_some(), "not supported")?;
    Ok(RetryBudget {
        percent: config.budget_percent.as_ref().map_or(20.0, |percent| percent.value),
        min_retry_concurrency: config.min_retry_concurrency.as_ref().map_or(3, |value| value.value),
    })
}
