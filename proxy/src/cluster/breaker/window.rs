//! How many requests began within the last while (`RetryBudget.budget_interval`).

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Parts that the interval is counted in, as many as Envoy's.
const SLOTS: usize = 10;

/// Counts what happens, and forgets it after the interval, give or take a tenth.
pub(super) struct Window {
    slot: Duration,
    counts: Mutex<Counts>,
}

struct Counts {
    /// Since `began`.
    current: u64,
    began: Instant,
    /// What was before, in a ring; `next` is the oldest.
    slots: [u64; SLOTS],
    next: usize,
}

impl Window {
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            slot: interval / SLOTS as u32,
            counts: Mutex::new(Counts {
                current: 0,
                began: now,
                slots: [0; SLOTS],
                next: 0,
            }),
        }
    }

    pub fn note(&self, now: Instant) {
        let mut counts = self.counts.lock();
        counts.advance(now, self.slot);
        counts.current += 1;
    }

    pub fn sum(&self, now: Instant) -> u64 {
        let mut counts = self.counts.lock();
        counts.advance(now, self.slot);
        counts.current + counts.slots.iter().sum::<u64>()
    }
}

impl Counts {
    fn advance(&mut self, now: Instant, slot: Duration) {
        let mut elapsed = now.saturating_duration_since(self.began);
        if elapsed < slot {
            return;
        }
        self.began = now;
        let ended = std::mem::take(&mut self.current);
        self.push(ended);
        // Nothing happened in those between.
        for _ in 0..SLOTS {
            if elapsed <= slot {
                break;
            }
            self.push(0);
            elapsed -= slot;
        }
    }

    fn push(&mut self, count: u64) {
        self.slots[self.next] = count;
        self.next = (self.next + 1) % SLOTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    #[test]
    fn what_is_older_than_the_interval_is_forgotten() {
        let start = clock::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let window = Window::new(Duration::from_millis(100), start);
        for millis in [0, 1, 2, 55] {
            window.note(at(millis));
        }
        assert_eq!(window.sum(at(60)), 4);
        assert_eq!(window.sum(at(95)), 4);
        assert_eq!(window.sum(at(130)), 1);
        assert_eq!(window.sum(at(180)), 0);
        window.note(at(5_000));
        assert_eq!(window.sum(at(5_000)), 1);
        assert_eq!(window.sum(at(9_000)), 0);
    }
}
