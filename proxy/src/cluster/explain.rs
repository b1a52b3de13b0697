//! Why a host gets the load that it gets: what `/clusters` shows.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Cluster;
use super::breaker::{Resource, RoutingPriority};
use super::host::{Health, Host, HostState};
use super::lb::Policy;
use super::lb::zone::Zones;
use super::priority::{Priority, PrioritySet};
use crate::runtime::clock;

/// One host as the balancer sees it now.
pub struct HostExplanation {
    pub host: Arc<Host>,
    pub health: Health,
    /// `healthy`, or `/failed_eds_health/…`.
    pub flags: String,
    /// Percent of the cluster's load that its priority gets through healthy and through degraded hosts.
    pub priority_load: (u32, u32),
    /// Its priority uses all hosts, whatever their health.
    pub panic: bool,
    /// `fail_traffic_on_panic`: then it rather uses none.
    pub fails_in_panic: bool,
    /// Pooled connections to it, and how many it may have (`per_host_thresholds`), where that is limited.
    pub connections: Option<(u32, u32)>,
    /// A locality without a weight may get nothing though it could (`locality_weighted_lb_config`).
    pub passed_over: bool,
    /// Of subsets (`lb_subset_config`): whether a request finds the host in one of them, or without any.
    pub in_subset: Option<bool>,
    /// Of 10,000 requests for its priority so many go to its locality; `None` where zones do not count.
    pub zone_share: Option<u64>,
    /// Milliseconds, where peak EWMA goes by them and there is an answer yet.
    pub round_trip: Option<f64>,
    pub ejected_until: Option<Instant>,
    pub ejections: u32,
    /// Until when it counts as degraded for what it said itself.
    pub degraded_until: Option<Instant>,
    /// Percent, of the last interval of outlier detection.
    pub success_rate: Option<f64>,
    pub local_origin_success_rate: Option<f64>,
    pub counts: HostCounts,
}

/// One circuit breaker of a cluster as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerState {
    /// `default` or `high`.
    pub priority: &'static str,
    /// The field that sets its limit.
    pub name: &'static str,
    pub used: u32,
    pub limit: u32,
}

impl BreakerState {
    pub fn is_open(&self) -> bool {
        self.used >= self.limit
    }
}

/// A host's counters, under the names of `/clusters`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounts {
    pub cx_active: u64,
    pub cx_connect_fail: u64,
    pub cx_total: u64,
    pub rq_active: u64,
    pub rq_error: u64,
    pub rq_pending_active: u64,
    pub rq_success: u64,
    pub rq_timeout: u64,
    pub rq_total: u64,
}

impl Cluster {
    /// All circuit breakers.
    pub fn explain_breakers(&self) -> Vec<BreakerState> {
        let priorities = [("default", RoutingPriority::Default), ("high", RoutingPriority::High)];
        let of = |(name, priority): (&'static str, RoutingPriority)| {
            let retries = match self.breakers.thresholds(priority).retry_budget {
                Some(_) => "retry_budget",
                None => "max_retries",
            };
            let resources = [
                ("max_connections", Resource::Connection),
                ("max_pending_requests", Resource::Pending),
                ("max_requests", Resource::Request),
                (retries, Resource::Retry),
                ("max_connection_pools", Resource::ConnectionPool),
            ];
            resources.map(|(field, resource)| BreakerState {
                priority: name,
                name: field,
                used: self.breakers.in_use(priority, resource),
                limit: self.breakers.limit(priority, resource),
            })
        };
        priorities.into_iter().flat_map(of).collect()
    }

    /// Every host, by priority.
    pub fn explain(&self) -> Vec<HostExplanation> {
        let set = self.hosts.load_full();
        let passed_over = self.passed_over(&set);
        let in_subsets = self.lb.subset.as_ref().zip(set.subsets.as_ref());
        let in_subsets = in_subsets.and_then(|(config, subsets)| subsets.findable(config));
        let explain = |host: Arc<Host>| {
            let index = host.priority as usize;
            let load = |loads: &[u32]| loads.get(index).copied().unwrap_or(0);
            let outlier = &host.state.outlier;
            HostExplanation {
                passed_over: passed_over.contains(&Arc::as_ptr(&host.state)),
                in_subset: in_subsets
                    .as_ref()
                    .map(|hosts| hosts.contains(&Arc::as_ptr(&host.state))),
                health: host.state.health(),
                flags: host.state.flags_text(),
                priority_load: (load(&set.loads.healthy), load(&set.loads.degraded)),
                panic: set.loads.panic.get(index).copied().unwrap_or(false),
                fails_in_panic: self.lb.fail_traffic_on_panic,
                connections: (self.breakers.connections_per_host(RoutingPriority::Default))
                    .map(|limit| (host.state.cx_claimed.load(Ordering::Relaxed), limit)),
                zone_share: match &set.zones {
                    Zones::On(routes) if index == 0 => routes.share_of(&host),
                    _ => None,
                },
                round_trip: match &self.lb.policy {
                    Policy::PeakEwma(policy) => policy.rtt(&host.state.rtt, clock::now()),
                    _ => None,
                },
                ejected_until: outlier.ejected_until(),
                ejections: outlier.ejections(),
                degraded_until: outlier.degraded_until(),
                success_rate: outlier.success_rate(),
                local_origin_success_rate: outlier.local_origin_success_rate(),
                counts: counts(&host),
                host,
            }
        };
        self.all_hosts().into_iter().map(explain).collect()
    }
}

impl Cluster {
    /// Hosts that could be used and that no turn comes to, for the weights of their localities.
    fn passed_over(&self, set: &PrioritySet) -> HashSet<*const HostState> {
        if !self.lb.locality_weighted || self.lb.subset.is_some() {
            return HashSet::new();
        }
        let of = |priority: &Priority| {
            let groups = [
                (Health::Healthy, &priority.healthy),
                (Health::Degraded, &priority.degraded),
            ];
            let left_out = groups.map(|(health, group)| {
                let reached: HashSet<_> = group.reached().map(|host| Arc::as_ptr(&host.state)).collect();
                let hosts = priority.hosts.iter().map(|host| &host.state);
                let usable = hosts.filter(|state| state.health() == health).map(Arc::as_ptr);
                usable.filter(|state| !reached.contains(state)).collect::<Vec<_>>()
            });
            left_out.into_iter().flatten().collect::<Vec<_>>()
        };
        set.priorities.iter().flat_map(of).collect()
    }
}

fn counts(host: &Host) -> HostCounts {
    let state = &host.state;
    HostCounts {
        cx_active: u64::from(state.cx_active.load(Ordering::Relaxed)),
        cx_connect_fail: state.cx_connect_fail.load(Ordering::Relaxed),
        cx_total: state.cx_total.load(Ordering::Relaxed),
        rq_active: u64::from(state.rq_active.load(Ordering::Relaxed)),
        rq_error: state.rq_error.load(Ordering::Relaxed),
        rq_pending_active: u64::from(state.rq_pending_active.load(Ordering::Relaxed)),
        rq_success: state.rq_success.load(Ordering::Relaxed),
        rq_timeout: state.rq_timeout.load(Ordering::Relaxed),
        rq_total: state.rq_total.load(Ordering::Relaxed),
    }
}
