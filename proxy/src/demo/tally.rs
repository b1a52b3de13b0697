//! What became of every request: the demo's own account, kept apart from the proxies' statistics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::replica::NAMES;
use crate::runtime::clock;

/// An answer that takes longer is counted as late.
const LATE: Duration = Duration::from_secs(1);
/// Failures kept in words.
const KEPT: usize = 20;

/// How a request travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    Grpc,
    Tcp,
    /// HTTP/1, with a connection and a handshake between the sidecars for each request: a cluster with ejections of its own.
    Fresh,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Http, Self::Grpc, Self::Tcp, Self::Fresh];

    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP/1",
            Self::Grpc => "gRPC",
            Self::Tcp => "TCP",
            Self::Fresh => "HTTP/1, handshake each",
        }
    }
}

/// Filled by the load, read by scenes and screen.
#[derive(Default)]
pub struct Tally {
    answered: [[AtomicU64; NAMES.len()]; Kind::ALL.len()],
    failed: AtomicU64,
    late: AtomicU64,
    /// Connections of the app that the proxy ended, by kind.
    lost: [AtomicU64; Kind::ALL.len()],
    failures: Mutex<Vec<String>>,
    /// Answers by a `(header, value)` worth watching.
    seen: Mutex<BTreeMap<(&'static str, String), u64>>,
}

/// A copy of the numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By kind, then replica.
    pub answered: [[u64; NAMES.len()]; Kind::ALL.len()],
    pub failed: u64,
    pub late: u64,
    pub lost: [u64; Kind::ALL.len()],
}

/// A good answer: which replica gave it, and watched headers.
pub struct Answer {
    pub replica: usize,
    pub headers: Vec<(&'static str, String)>,
}

impl Tally {
    /// Counts the outcome of a request that was started at `started`.
    pub fn record(&self, kind: Kind, started: Instant, outcome: Result<Answer, String>) {
        if clock::now().saturating_duration_since(started) > LATE {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        match outcome {
            Ok(answer) => {
                if !answer.headers.is_empty() {
                    let mut seen = self.seen.lock();
                    answer
                        .headers
                        .into_iter()
                        .for_each(|header| *seen.entry(header).or_default() += 1);
                }
                if let Some(counter) = self.answered[kind as usize].get(answer.replica) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(reason) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut failures = self.failures.lock();
                if failures.len() < KEPT {
                    failures.push(format!("{}: {reason}", kind.name()));
                }
            }
        }
    }

    /// A connection ended between two requests.
    pub fn lost_connection(&self, kind: Kind) {
        self.lost[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers that carried this header so far.
    pub fn seen(&self, header: &'static str, value: &str) -> u64 {
        self.seen
            .lock()
            .get(&(header, value.to_owned()))
            .copied()
            .unwrap_or_default()
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            answered: std::array::from_fn(|kind| std::array::from_fn(|replica| read(&self.answered[kind][replica]))),
            failed: read(&self.failed),
            late: read(&self.late),
            lost: std::array::from_fn(|kind| read(&self.lost[kind])),
        }
    }
}

impl Counts {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            answered: std::array::from_fn(|kind| {
                std::array::from_fn(|replica| self.answered[kind][replica] - before.answered[kind][replica])
            }),
            failed: self.failed - before.failed,
            late: self.late - before.late,
            lost: std::array::from_fn(|kind| self.lost[kind] - before.lost[kind]),
        }
    }

    /// Good answers of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.answered[kind as usize].iter().sum()
    }

    /// Good answers of all kinds.
    pub fn all(&self) -> u64 {
        Kind::ALL.iter().map(|kind| self.of(*kind)).sum()
    }

    /// Requests that ended, well or not.
    pub fn requests(&self) -> u64 {
        self.all() + self.failed
    }

    /// HTTP and gRPC answers of each replica.
    pub fn balanced(&self) -> [u64; NAMES.len()] {
        std::array::from_fn(|replica| {
            self.answered[Kind::Http as usize][replica] + self.answered[Kind::Grpc as usize][replica]
        })
    }

    pub fn lost_of(&self, kind: Kind) -> u64 {
        self.lost[kind as usize]
    }
}

/// `a 12, b 13`
pub fn by_replica(counts: &[u64; NAMES.len()]) -> String {
    let parts: Vec<String> = NAMES
        .iter()
        .zip(counts)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_failures_and_headers_are_counted_apart() {
        let tally = Tally::default();
        let started = clock::now();
        let answer = |replica| {
            Ok(Answer {
                replica,
                headers: vec![("x", "1".to_owned())],
            })
        };
        tally.record(Kind::Http, started, answer(0));
        let before = tally.counts();
        tally.record(Kind::Grpc, started, answer(0));
        tally.record(Kind::Tcp, started, answer(3));
        tally.record(Kind::Tcp, started, Err("cut".to_owned()));
        let counts = tally.counts().since(&before);
        assert_eq!((counts.requests(), counts.all(), counts.failed), (3, 2, 1));
        assert_eq!(by_replica(&counts.balanced()), "a 1, b 0, c 0, d 0");
        assert_eq!((tally.seen("x", "1"), tally.seen("x", "2")), (3, 0));
        assert_eq!(tally.failures(), ["TCP: cut"]);
    }
}
