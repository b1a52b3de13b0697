//! The stats tree: handles resolved when a target is built, names only at scrape time.
//!
//! A target (cluster, connection manager, listener) has one struct of counters, declared with [`stat_group!`](crate::stat_group), allocated once
//! and registered under its prefix; a request touches an atomic, never a name. Groups survive configuration changes by prefix.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

pub use super::histogram::Histogram;

/// Only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Back to zero (`/reset_counters`).
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge {
    value: AtomicU64,
    written: AtomicBool,
}

impl Gauge {
    pub fn inc(&self) {
        self.value.fetch_add(1, Ordering::Relaxed);
        self.written.store(true, Ordering::Relaxed);
    }

    /// Takes back one [`inc`](Self::inc).
    pub fn dec(&self) {
        self.value.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.value.store(value, Ordering::Relaxed);
        self.written.store(true, Ordering::Relaxed);
    }

    /// Takes back what was [`added`](Self::add).
    pub fn sub(&self, by: u64) {
        self.value.fetch_sub(by, Ordering::Relaxed);
    }

    /// One of the parts of a sum was `before` and is `now`.
    pub fn replace(&self, before: u64, now: u64) {
        if now > before {
            self.add(now - before);
        } else if now < before {
            self.sub(before - now);
        }
    }

    /// As if something had been counted up and down again.
    pub fn touch(&self) {
        self.written.store(true, Ordering::Relaxed);
    }

    pub fn add(&self, by: u64) {
        self.value.fetch_add(by, Ordering::Relaxed);
        self.written.store(true, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    /// What a scrape sees of it.
    pub fn reading(&self) -> Value<'static> {
        match self.written.load(Ordering::Relaxed) {
            true => Value::Gauge(self.value()),
            false => Value::UnwrittenGauge,
        }
    }
}

/// What a scrape sees of one stat.
pub enum Value<'a> {
    Counter(u64),
    Gauge(u64),
    /// A gauge that nobody has written yet: zero, and not used.
    UnwrittenGauge,
    /// A counter that was counted up by nothing: zero, and used.
    TouchedCounter,
    Histogram(&'a Histogram),
    /// Envoy's text readout.
    Text(String),
}

/// A struct of stats; see [`stat_group!`](crate::stat_group).
pub trait StatGroup: Send + Sync + 'static {
    /// Calls `visit` with each stat's name behind the prefix.
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>));

    /// Sets counters and histograms to zero (`/reset_counters`); gauges stay.
    fn reset(&self) {}

    /// Ends an interval of each histogram (`stats_flush_interval`).
    fn flush(&self) {}
}

/// Declares a struct of stats with Envoy's names:
///
/// ```
/// remora::stat_group! {
///     /// Per listener.
///     pub struct ListenerStats {
///         counters: { downstream_cx_total, downstream_cx_destroy }
///         gauges: { downstream_cx_active }
///         histograms: { downstream_cx_length_ms }
///     }
/// }
/// let stats = ListenerStats::default();
/// stats.downstream_cx_total.inc();
/// ```
#[macro_export]
macro_rules! stat_group {
    ($(#[$meta:meta])* pub struct $name:ident {
        counters: { $($counter:ident),* $(,)? }
        gauges: { $($gauge:ident),* $(,)? }
        histograms: { $($histogram:ident),* $(,)? }
    }) => {
        $(#[$meta])*
        #[derive(Default)]
        pub struct $name {
            $(pub $counter: $crate::telemetry::stats::Counter,)*
            $(pub $gauge: $crate::telemetry::stats::Gauge,)*
            $(pub $histogram: $crate::telemetry::stats::Histogram,)*
            /// Stats whose names are only known at run time (response codes).
            pub dynamic: $crate::telemetry::stats::Dynamic,
        }

        impl $crate::telemetry::stats::StatGroup for $name {
            fn visit(&self, visit: &mut dyn FnMut(&str, $crate::telemetry::stats::Value<'_>)) {
                $(visit(stringify!($counter), $crate::telemetry::stats::Value::Counter(self.$counter.value()));)*
                $(visit(stringify!($gauge), self.$gauge.reading());)*
                $(visit(stringify!($histogram), $crate::telemetry::stats::Value::Histogram(&self.$histogram));)*
                self.dynamic.visit(visit);
            }

            fn reset(&self) {
                $(self.$counter.reset();)*
                $(self.$histogram.reset();)*
                self.dynamic.reset();
            }

            fn flush(&self) {
                $(self.$histogram.flush();)*
            }
        }
    };
}

/// Counters named at run time; created by their first increment. Not for the request path: resolve a handle once.
#[derive(Debug, Default)]
pub struct Dynamic(Mutex<BTreeMap<String, Arc<Counter>>>);

impl Dynamic {
    /// The counter called `name`, created if need be.
    pub fn counter(&self, name: &str) -> Arc<Counter> {
        let mut counters = self.0.lock();
        if let Some(counter) = counters.get(name) {
            return counter.clone();
        }
        counters.entry(name.to_owned()).or_default().clone()
    }

    pub fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        for (name, counter) in self.0.lock().iter() {
            visit(name, Value::Counter(counter.value()));
        }
    }

    pub fn reset(&self) {
        self.0.lock().values().for_each(|counter| counter.reset());
    }
}

/// Every group in the process, by prefix and type. Cloning shares.
#[derive(Clone, Default)]
pub struct Stats(Arc<Mutex<Groups>>);

type Groups = BTreeMap<String, SmallVec<[(TypeId, Arc<dyn AnyGroup>); 1]>>;

trait AnyGroup: StatGroup {
    fn any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync>;
}

impl<T: StatGroup> AnyGroup for T {
    fn any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }
}

impl Stats {
    pub fn new() -> Self {
        Self::default()
    }

    /// The group of this type under `prefix` (`cluster.foo.`, with its final dot), made on first use. Groups of several types may share a prefix,
    /// as long as none has a name of another.
    pub fn group<T: StatGroup + Default>(&self, prefix: &str) -> Arc<T> {
        let wanted = TypeId::of::<T>();
        let mut groups = self.0.lock();
        let known = groups.get(prefix).into_iter().flatten().find(|(of, _)| *of == wanted);
        if let Some((_, group)) = known
            && let Ok(group) = group.clone().any().downcast::<T>()
        {
            return group;
        }
        let group = Arc::new(T::default());
        groups
            .entry(prefix.to_owned())
            .or_default()
            .push((wanted, group.clone()));
        group
    }

    /// Calls `visit` with every stat: prefix, name behind it, value.
    pub fn visit(&self, visit: &mut dyn FnMut(&str, &str, Value<'_>)) {
        for (prefix, group) in self.groups() {
            group.visit(&mut |name, value| visit(&prefix, name, value));
        }
    }

    /// Sets every counter and histogram to zero.
    pub fn reset(&self) {
        self.groups().iter().for_each(|(_, group)| group.reset());
    }

    /// Ends an interval of every histogram.
    pub fn flush(&self) {
        self.groups().iter().for_each(|(_, group)| group.flush());
    }

    /// A copy, so that no lock is held while a scrape formats.
    fn groups(&self) -> Vec<(String, Arc<dyn AnyGroup>)> {
        self.0
            .lock()
            .iter()
            .flat_map(|(prefix, groups)| groups.iter().map(move |(_, group)| (prefix.clone(), group.clone())))
            .collect()
    }
}
