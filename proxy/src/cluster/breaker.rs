//! Circuit breakers per priority, counted across workers, released by guards.
//!
//! A [`Permit`] belongs to what it counts (a connection, a stream, a wait, a retry) and lives exactly as long (D11). Counts are checked
//! and taken in one atomic step, so that a limit is never overshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::bugs::{Bug, planted};
use super::stats::{BreakerStats, ClusterStats};

/// `envoy.config.core.v3.RoutingPriority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RoutingPriority {
    #[default]
    Default,
    High,
}

/// `CircuitBreakers.Thresholds`.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    pub max_connection_pools: u32,
    pub retry_budget: Option<RetryBudget>,
    pub track_remaining: bool,
}

impl Default for Thresholds {
    /// Envoy's: 1024 connections, 1024 pending, 1024 requests, 3 retries, any number of pools.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            max_connection_pools: u32::MAX,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// `RetryBudget`: concurrent retries as a share of the concurrent requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Envoy's default: 20.
    pub percent: f64,
    /// Envoy's default: 3.
    pub min_retry_concurrency: u32,
}

/// A cluster's thresholds and counts. Cloning shares.
#[derive(Clone, Default)]
pub struct Breakers {
    priorities: [Arc<Limits>; 2],
    /// `per_host_thresholds`: connections to one host, by priority.
    per_host: [Option<u32>; 2],
}

/// What a permit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Resource {
    Connection,
    Pending,
    Request,
    Retry,
    ConnectionPool,
}

const RESOURCES: usize = 5;

struct Limits {
    thresholds: Thresholds,
    used: [AtomicU32; RESOURCES],
    stats: Arc<ClusterStats>,
    high: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(Thresholds::default(), Arc::default(), false)
    }
}

impl Breakers {
    pub fn new(default: Thresholds, high: Thresholds, per_host: [Option<u32>; 2], stats: Arc<ClusterStats>) -> Self {
        Self {
            priorities: [
                Arc::new(Limits::new(default, stats.clone(), false)),
                Arc::new(Limits::new(high, stats, true)),
            ],
            per_host,
        }
    }

    /// Admits a stream; `None` is an overflow (`upstream_rq_active_overflow`, 503 `UO`).
    pub fn try_request(&self, priority: RoutingPriority) -> Option<Permit> {
        Permit::take(self.limits(priority), Resource::Request)
    }

    /// Admits a stream to the queue for a connection.
    pub fn try_pending(&self, priority: RoutingPriority) -> Option<Permit> {
        Permit::take(self.limits(priority), Resource::Pending)
    }

    /// Admits a new connection. A pool without any connection uses [`Breakers::force_connection`] when this says no.
    pub fn try_connection(&self, priority: RoutingPriority) -> Option<Permit> {
        Permit::take(self.limits(priority), Resource::Connection)
    }

    /// How many connections one host may have.
    pub fn connections_per_host(&self, priority: RoutingPriority) -> Option<u32> {
        self.per_host[priority as usize]
    }

    /// Counts a connection that may exist whatever the limit says.
    pub fn force_connection(&self, priority: RoutingPriority) -> Permit {
        Permit::force(self.limits(priority), Resource::Connection)
    }

    /// Admits a new pool.
    pub fn try_pool(&self, priority: RoutingPriority) -> Option<Permit> {
        Permit::take(self.limits(priority), Resource::ConnectionPool)
    }

    /// Admits a retry, under `max_retries` or the retry budget; `None` is `upstream_rq_retry_overflow`.
    pub fn try_retry(&self, priority: RoutingPriority) -> Option<Permit> {
        Permit::take(self.limits(priority), Resource::Retry)
    }

    /// How many of `resource` are in use.
    pub fn in_use(&self, priority: RoutingPriority, resource: Resource) -> u32 {
        self.limits(priority).used[resource as usize].load(Ordering::Relaxed)
    }

    /// How many of `resource` may be in use now.
    pub fn limit(&self, priority: RoutingPriority, resource: Resource) -> u32 {
        self.limits(priority).limit(resource)
    }

    pub fn thresholds(&self, priority: RoutingPriority) -> &Thresholds {
        &self.limits(priority).thresholds
    }

    fn limits(&self, priority: RoutingPriority) -> &Arc<Limits> {
        &self.priorities[priority as usize]
    }
}

impl Limits {
    fn new(thresholds: Thresholds, stats: Arc<ClusterStats>, high: bool) -> Self {
        let limits = Self {
            thresholds,
            used: Default::default(),
            stats,
            high,
        };
        for resource in [
            Resource::Connection,
            Resource::Pending,
            Resource::Request,
            Resource::Retry,
            Resource::ConnectionPool,
        ] {
            limits.publish(resource, 0);
        }
        limits
    }

    fn limit(&self, resource: Resource) -> u32 {
        match resource {
            Resource::Connection => self.thresholds.max_connections,
            Resource::Pending => self.thresholds.max_pending_requests,
            Resource::Request => self.thresholds.max_requests,
            Resource::ConnectionPool => self.thresholds.max_connection_pools,
            Resource::Retry => match self.thresholds.retry_budget {
                None => self.thresholds.max_retries,
                Some(budget) => {
                    let used = |resource: Resource| self.used[resource as usize].load(Ordering::Relaxed);
                    let requests = used(Resource::Request) + used(Resource::Pending);
                    let share = budget.percent / 100.0 * f64::from(requests);
                    (share as u32).max(budget.min_retry_concurrency)
                }
            },
        }
    }

    /// Brings the gauges of `resource` up to date.
    fn publish(&self, resource: Resource, used: u32) {
        let stats: &BreakerStats = match self.high {
            true => &self.stats.breakers_high,
            false => &self.stats.breakers_default,
        };
        let limit = self.limit(resource);
        let (open, remaining) = match resource {
            Resource::Connection => (&stats.cx_open, &stats.remaining_cx),
            Resource::Pending => (&stats.rq_pending_open, &stats.remaining_pending),
            Resource::Request => (&stats.rq_open, &stats.remaining_rq),
            Resource::Retry => (&stats.rq_retry_open, &stats.remaining_retries),
            Resource::ConnectionPool => (&stats.cx_pool_open, &stats.remaining_cx_pools),
        };
        let full = u64::from(used >= limit);
        // A store that changes nothing would still take the cache line from the other workers.
        if open.value() != full {
            open.set(full);
        }
        if self.thresholds.track_remaining {
            remaining.set(u64::from(limit.saturating_sub(used)));
        }
    }
}

/// One unit of a [`Resource`], given back on drop.
pub struct Permit {
    limits: Arc<Limits>,
    resource: Resource,
}

impl Permit {
    fn take(limits: &Arc<Limits>, resource: Resource) -> Option<Self> {
        let limit = limits.limit(resource);
        let used = &limits.used[resource as usize];
        let before = used.fetch_add(1, Ordering::Relaxed);
        if before >= limit {
            used.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        limits.publish(resource, before + 1);
        Some(Self {
            limits: limits.clone(),
            resource,
        })
    }

    fn force(limits: &Arc<Limits>, resource: Resource) -> Self {
        let before = limits.used[resource as usize].fetch_add(1, Ordering::Relaxed);
        limits.publish(resource, before + 1);
        Self {
            limits: limits.clone(),
            resource,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if planted(Bug::PermitLeaks) {
            return;
        }
        let before = self.limits.used[self.resource as usize].fetch_sub(1, Ordering::Relaxed);
        self.limits.publish(self.resource, before - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_and_a_permit_gives_back() {
        let stats = Arc::new(ClusterStats::default());
        let thresholds = Thresholds {
            max_requests: 2,
            track_remaining: true,
            ..Thresholds::default()
        };
        let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], stats.clone());
        let gauges = &stats.breakers_default;
        assert_eq!((gauges.rq_open.value(), gauges.remaining_rq.value()), (0, 2));
        let first = breakers.try_request(RoutingPriority::Default);
        let second = breakers.try_request(RoutingPriority::Default);
        assert!(first.is_some() && second.is_some());
        assert_eq!((gauges.rq_open.value(), gauges.remaining_rq.value()), (1, 0));
        assert!(breakers.try_request(RoutingPriority::Default).is_none());
        assert!(breakers.try_request(RoutingPriority::High).is_some());
        drop(first);
        assert_eq!((gauges.rq_open.value(), gauges.remaining_rq.value()), (0, 1));
        assert!(breakers.try_request(RoutingPriority::Default).is_some());
        drop(second);
        assert_eq!(breakers.in_use(RoutingPriority::Default, Resource::Request), 0);
    }

    #[test]
    fn a_limit_of_zero_is_open_from_the_start() {
        let stats = Arc::new(ClusterStats::default());
        let thresholds = Thresholds {
            max_connections: 0,
            ..Thresholds::default()
        };
        let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], stats.clone());
        assert_eq!(stats.breakers_default.cx_open.value(), 1);
        assert!(breakers.try_connection(RoutingPriority::Default).is_none());
        let forced = breakers.force_connection(RoutingPriority::Default);
        assert_eq!(breakers.in_use(RoutingPriority::Default, Resource::Connection), 1);
        drop(forced);
        assert_eq!(breakers.in_use(RoutingPriority::Default, Resource::Connection), 0);
    }

    #[test]
    fn a_retry_budget_follows_the_requests() {
        let thresholds = Thresholds {
            retry_budget: Some(RetryBudget {
                percent: 20.0,
                min_retry_concurrency: 1,
            }),
            ..Thresholds::default()
        };
        let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], Arc::default());
        let retry = || breakers.try_retry(RoutingPriority::Default);
        let held = retry();
        assert!(held.is_some() && retry().is_none());
        let requests: Vec<_> = (0..10)
            .map(|_| breakers.try_request(RoutingPriority::Default))
            .collect();
        let second = retry();
        assert!(second.is_some() && retry().is_none());
        drop(requests);
        assert!(retry().is_none());
    }
}
