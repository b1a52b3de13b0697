//! Circuit breakers per priority, counted across workers, released by guards.
//!
//! A [`Permit`] belongs to what it counts (a connection, a stream, a wait, a retry) and lives exactly as long (D11). Counts are checked
//! and taken in one atomic step: a limit is never overshot, and nobody is refused below it. Gauges are made of the counts when they are read.

mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::bugs::{Bug, planted};
use super::stats::ClusterStats;
use crate::runtime::clock;
use crate::telemetry::stats::Value;
use window::Window;

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
    /// Requests that began within it count, instead of those that run.
    pub interval: Option<Duration>,
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

/// In a count: one has been taken at least once. Envoy writes its gauges then, and not before.
const TOUCHED: u32 = 1 << 31;

/// Thresholds and counts of one priority.
#[derive(Default)]
pub struct Limits {
    thresholds: Thresholds,
    used: [AtomicU32; RESOURCES],
    /// Of a retry budget with an interval.
    window: Option<Window>,
}

impl Breakers {
    /// The cluster's stats show these from now on.
    pub fn new(default: Thresholds, high: Thresholds, per_host: [Option<u32>; 2], stats: &ClusterStats) -> Self {
        let priorities = [default, high].map(|thresholds| {
            let interval = thresholds.retry_budget.and_then(|budget| budget.interval);
            Arc::new(Limits {
                window: interval.map(|interval| Window::new(interval, clock::now())),
                thresholds,
                used: Default::default(),
            })
        });
        for (shown, limits) in stats.breakers.iter().zip(&priorities) {
            shown.store(Some(limits.clone()));
        }
        Self { priorities, per_host }
    }

    /// Admits a stream; `None` is an overflow (`upstream_rq_active_overflow`, 503 `UO`).
    pub fn try_request(&self, priority: RoutingPriority) -> Option<Permit> {
        Permit::take(self.limits(priority), Resource::Request)
    }

    /// As [`Self::try_request`], for who keeps no permit but calls [`Self::end_request`]: whether the stream has its place.
    pub fn begin_request(&self, priority: RoutingPriority) -> bool {
        self.limits(priority).take(Resource::Request)
    }

    /// Gives back what [`Self::begin_request`] took.
    pub fn end_request(&self, priority: RoutingPriority) {
        self.limits(priority).give_back(Resource::Request);
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

    /// Admits a retry, under `max_retries` or the retry budget; `None` is `upstream_rq_retry_overflow`. `is_over`: the attempt that is to be retried
    /// has given its place back, but it counts among the requests of the budget.
    pub fn try_retry(&self, priority: RoutingPriority, is_over: bool) -> Option<Permit> {
        let limits = self.limits(priority);
        let limit = limits.retries(u64::from(is_over));
        Permit::of(limits, Resource::Retry, limits.take_below(Resource::Retry, limit))
    }

    /// How many of `resource` are in use.
    pub fn in_use(&self, priority: RoutingPriority, resource: Resource) -> u32 {
        self.limits(priority).used(resource)
    }

    /// How many of `resource` may be in use now.
    pub fn limit(&self, priority: RoutingPriority, resource: Resource) -> u32 {
        self.limits(priority).limit(resource)
    }

    /// Whether nothing more of `resource` is admitted now.
    pub fn is_full(&self, priority: RoutingPriority, resource: Resource) -> bool {
        self.in_use(priority, resource) >= self.limit(priority, resource)
    }

    pub fn thresholds(&self, priority: RoutingPriority) -> &Thresholds {
        &self.limits(priority).thresholds
    }

    fn limits(&self, priority: RoutingPriority) -> &Arc<Limits> {
        &self.priorities[priority as usize]
    }
}

impl Limits {
    fn take(&self, resource: Resource) -> bool {
        self.take_below(resource, self.limit(resource))
    }

    fn take_below(&self, resource: Resource, limit: u32) -> bool {
        let limit = match planted(Bug::RetriesUnlimited) && resource == Resource::Retry {
            true => u32::MAX,
            false => limit,
        };
        // Nobody comes near so many: limits are what operators call many.
        let limit = limit.min(TOUCHED - 1);
        let more = |used: u32| (used & !TOUCHED < limit).then(|| (used + 1) | TOUCHED);
        let used = self.used[resource as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if let (Ok(_), Resource::Request, Some(window)) = (used, resource, &self.window) {
            window.note(clock::now());
        }
        used.is_ok()
    }

    fn give_back(&self, resource: Resource) {
        self.used[resource as usize].fetch_sub(1, Ordering::Relaxed);
    }

    fn used(&self, resource: Resource) -> u32 {
        self.used[resource as usize].load(Ordering::Relaxed) & !TOUCHED
    }

    fn limit(&self, resource: Resource) -> u32 {
        match resource {
            Resource::Connection => self.thresholds.max_connections,
            Resource::Pending => self.thresholds.max_pending_requests,
            Resource::Request => self.thresholds.max_requests,
            Resource::ConnectionPool => self.thresholds.max_connection_pools,
            Resource::Retry => self.retries(0),
        }
    }

    /// `more`: requests that count for a budget, beside those that have a place.
    fn retries(&self, more: u64) -> u32 {
        let Some(budget) = self.thresholds.retry_budget else {
            return self.thresholds.max_retries;
        };
        let used = |resource: Resource| u64::from(self.used(resource));
        let requests = match &self.window {
            Some(window) => window.sum(clock::now()),
            None => used(Resource::Request) + used(Resource::Pending) + more,
        };
        let share = budget.percent / 100.0 * requests as f64;
        (share as u32).max(budget.min_retry_concurrency)
    }

    /// A budget has no number of its own to count down from, and no limit is the largest number that there is, as in Envoy.
    fn remaining(&self, resource: Resource, limit: u32, used: u32) -> u64 {
        match resource {
            Resource::Retry if self.thresholds.retry_budget.is_some() => 0,
            Resource::ConnectionPool if limit == u32::MAX => u64::MAX - u64::from(used),
            _ => u64::from(limit.saturating_sub(used)),
        }
    }

    /// The gauges under `circuit_breakers.<priority>.`; what remains is told with `track_remaining` alone: a zero would mean that nothing does.
    pub fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        let gauges = [
            (Resource::Connection, "cx_open", "remaining_cx"),
            (Resource::ConnectionPool, "cx_pool_open", "remaining_cx_pools"),
            (Resource::Pending, "rq_pending_open", "remaining_pending"),
            (Resource::Request, "rq_open", "remaining_rq"),
            (Resource::Retry, "rq_retry_open", "remaining_retries"),
        ];
        for (resource, open, remaining) in gauges {
            let touched = self.used[resource as usize].load(Ordering::Relaxed) & TOUCHED != 0;
            let (used, limit) = (self.used(resource), self.limit(resource));
            visit(
                open,
                match touched {
                    true => Value::Gauge(u64::from(used >= limit)),
                    false => Value::UnwrittenGauge,
                },
            );
            if self.thresholds.track_remaining {
                visit(remaining, Value::Gauge(self.remaining(resource, limit, used)));
            }
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
        Self::of(limits, resource, limits.take(resource))
    }

    fn of(limits: &Arc<Limits>, resource: Resource, is_taken: bool) -> Option<Self> {
        is_taken.then(|| Self {
            limits: limits.clone(),
            resource,
        })
    }

    fn force(limits: &Arc<Limits>, resource: Resource) -> Self {
        let count = &limits.used[resource as usize];
        count.fetch_add(1, Ordering::Relaxed);
        count.fetch_or(TOUCHED, Ordering::Relaxed);
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
        self.limits.give_back(self.resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::StatGroup;

    /// A gauge under `circuit_breakers.default.`, if it is shown.
    fn gauge(stats: &ClusterStats, wanted: &str) -> Option<u64> {
        let mut found = None;
        stats.visit(&mut |name, value| {
            if let (Some(rest), Value::Gauge(value)) = (name.strip_prefix("circuit_breakers.default."), value)
                && rest == wanted
            {
                found = Some(value);
            }
        });
        found
    }

    fn requests(stats: &ClusterStats) -> (Option<u64>, Option<u64>) {
        (gauge(stats, "rq_open"), gauge(stats, "remaining_rq"))
    }

    #[test]
    fn a_limit_holds_and_a_permit_gives_back() {
        let stats = ClusterStats::default();
        let thresholds = Thresholds {
            max_requests: 2,
            track_remaining: true,
            ..Thresholds::default()
        };
        let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], &stats);
        assert_eq!(requests(&stats), (None, Some(2)));
        let first = breakers.try_request(RoutingPriority::Default);
        let second = breakers.try_request(RoutingPriority::Default);
        assert!(first.is_some() && second.is_some());
        assert_eq!(requests(&stats), (Some(1), Some(0)));
        assert!(breakers.try_request(RoutingPriority::Default).is_none());
        assert!(breakers.try_request(RoutingPriority::High).is_some());
        drop(first);
        assert_eq!(requests(&stats), (Some(0), Some(1)));
        assert!(breakers.try_request(RoutingPriority::Default).is_some());
        drop(second);
        assert_eq!(breakers.in_use(RoutingPriority::Default, Resource::Request), 0);
    }

    #[test]
    fn a_limit_of_zero_is_open_once_something_was_taken() {
        let stats = ClusterStats::default();
        let thresholds = Thresholds {
            max_connections: 0,
            ..Thresholds::default()
        };
        let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], &stats);
        assert_eq!(gauge(&stats, "remaining_cx"), None);
        assert!(breakers.try_connection(RoutingPriority::Default).is_none());
        assert_eq!(gauge(&stats, "cx_open"), None);
        let forced = breakers.force_connection(RoutingPriority::Default);
        assert_eq!(gauge(&stats, "cx_open"), Some(1));
        assert_eq!(breakers.in_use(RoutingPriority::Default, Resource::Connection), 1);
        drop(forced);
        assert_eq!(breakers.in_use(RoutingPriority::Default, Resource::Connection), 0);
    }

    #[test]
    fn a_retry_budget_may_remember_requests_that_are_over() {
        let budget = |interval: Option<Duration>| {
            let thresholds = Thresholds {
                retry_budget: Some(RetryBudget {
                    percent: 20.0,
                    min_retry_concurrency: 0,
                    interval,
                }),
                ..Thresholds::default()
            };
            let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], &ClusterStats::default());
            for _ in 0..10 {
                drop(breakers.try_request(RoutingPriority::Default));
            }
            breakers.limit(RoutingPriority::Default, Resource::Retry)
        };
        assert_eq!(budget(Some(Duration::from_secs(3600))), 2);
        assert_eq!(budget(None), 0);
    }

    #[test]
    fn a_retry_budget_follows_the_requests() {
        let thresholds = Thresholds {
            retry_budget: Some(RetryBudget {
                percent: 20.0,
                min_retry_concurrency: 1,
                interval: None,
            }),
            ..Thresholds::default()
        };
        let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], &ClusterStats::default());
        let retry = || breakers.try_retry(RoutingPriority::Default, false);
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

    #[test]
    fn who_asks_for_a_retry_is_among_the_requests_of_the_budget() {
        let thresholds = Thresholds {
            retry_budget: Some(RetryBudget {
                percent: 100.0,
                min_retry_concurrency: 0,
                interval: None,
            }),
            ..Thresholds::default()
        };
        let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], &ClusterStats::default());
        let retry = |is_over| breakers.try_retry(RoutingPriority::Default, is_over);
        assert!(retry(false).is_none() && retry(true).is_some());
        let _place = breakers.try_request(RoutingPriority::Default);
        assert!(retry(false).is_some());
    }

    #[test]
    fn two_that_want_the_last_unit_are_not_both_refused() {
        let stats = ClusterStats::default();
        let thresholds = Thresholds {
            max_requests: 1,
            track_remaining: true,
            ..Thresholds::default()
        };
        let breakers = Breakers::new(thresholds, Thresholds::default(), [None; 2], &stats);
        let take = || breakers.try_request(RoutingPriority::Default);
        let (begun, ended, had) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    begun.fetch_add(1, Ordering::SeqCst);
                    let permit = take();
                    let granted = u32::from(permit.is_some());
                    had.fetch_add(granted, Ordering::SeqCst);
                    drop(permit);
                    // Once more, so that it moves until the unit is free again.
                    had.fetch_add(granted, Ordering::SeqCst);
                    ended.fetch_add(1, Ordering::SeqCst);
                }
            });
            let mut refused_both = 0;
            for _ in 0..100_000 {
                let had_before = had.load(Ordering::SeqCst);
                if take().is_some() {
                    continue;
                }
                // The other one's attempts that were under way are over.
                let under_way = begun.load(Ordering::SeqCst);
                while ended.load(Ordering::SeqCst) < under_way {
                    std::hint::spin_loop();
                }
                refused_both += u32::from(had.load(Ordering::SeqCst) == had_before);
            }
            over.store(true, Ordering::SeqCst);
            assert_eq!(refused_both, 0);
        });
        assert_eq!(requests(&stats), (Some(0), Some(1)));
    }
}
