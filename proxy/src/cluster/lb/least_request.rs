//! `LEAST_REQUEST`: of a few random hosts the one with the fewest active requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cluster::host::Host;

/// `LeastRequest`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastRequest {
    /// Hosts drawn per pick, with replacement; Envoy's default is 2.
    pub choice_count: u32,
    /// How much active requests count against a weight; Envoy's default is 1.
    pub active_request_bias: f64,
    /// `FULL_SCAN`: look at every host, ties broken at random.
    pub full_scan: bool,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self {
            choice_count: 2,
            active_request_bias: 1.0,
            full_scan: false,
        }
    }
}

impl LeastRequest {
    /// Equal weights. Ties keep the host drawn first.
    pub fn pick(&self, hosts: &[Arc<Host>], random: &mut dyn FnMut() -> u64) -> usize {
        if self.full_scan {
            return scan(hosts, random);
        }
        let mut draw = || (random() % hosts.len() as u64) as usize;
        let mut best = draw();
        for _ in 1..self.choice_count {
            let candidate = draw();
            if active(&hosts[candidate]) < active(&hosts[best]) {
                best = candidate;
            }
        }
        best
    }

    /// Unequal weights: two turns of the weighted order, chosen between with odds of `1/(active+1)^bias`, which is how Envoy discounts a
    /// weight. Idle hosts and a bias of 0 give the plain weighted order.
    pub fn pick_weighted(
        &self,
        hosts: &[Arc<Host>],
        mut next: impl FnMut() -> usize,
        random: &mut dyn FnMut() -> u64,
    ) -> usize {
        let first = next();
        if self.active_request_bias == 0.0 {
            return first;
        }
        let cost = |index: usize| f64::from(hosts.get(index).map_or(0, active) + 1).powf(self.active_request_bias);
        let mine = cost(first);
        if mine == 1.0 {
            return first;
        }
        let second = next();
        let theirs = cost(second);
        let draw = (random() >> 11) as f64 / (1u64 << 53) as f64;
        match draw < theirs / (mine + theirs) {
            true => first,
            false => second,
        }
    }
}

fn active(host: &Arc<Host>) -> u32 {
    host.state.rq_active.load(Ordering::Relaxed)
}

fn scan(hosts: &[Arc<Host>], random: &mut dyn FnMut() -> u64) -> usize {
    let (mut best, mut ties) = (0, 1);
    for index in 1..hosts.len() {
        let (candidate, current) = (active(&hosts[index]), active(&hosts[best]));
        if candidate < current {
            (best, ties) = (index, 1);
        } else if candidate == current {
            ties += 1;
            if random() % ties == 0 {
                best = index;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::io::Address;

    fn hosts(active: &[u32]) -> Vec<Arc<Host>> {
        let host = |(index, active): (usize, &u32)| {
            let host = Host::new(Address::Ip(([10, 0, 0, index as u8], 80).into()));
            host.state.rq_active.store(*active, Ordering::Relaxed);
            Arc::new(host)
        };
        active.iter().enumerate().map(host).collect()
    }

    #[test]
    fn the_less_loaded_of_the_drawn_wins_and_ties_keep_the_first() {
        let hosts = hosts(&[5, 1, 1]);
        let pick = |draws: [u64; 2]| {
            let mut draws = draws.into_iter();
            LeastRequest::default().pick(&hosts, &mut || draws.next().expect("two draws"))
        };
        assert_eq!(pick([0, 1]), 1);
        assert_eq!(pick([2, 1]), 2);
        assert_eq!(pick([0, 0]), 0);
    }

    #[test]
    fn a_full_scan_finds_the_least_loaded() {
        let config = LeastRequest {
            full_scan: true,
            ..LeastRequest::default()
        };
        assert_eq!(config.pick(&hosts(&[3, 0, 2]), &mut || 0), 1);
        let tied = hosts(&[1, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut seen = [0; 3];
        for _ in 0..300 {
            seen[config.pick(&tied, &mut || rng.u64(..))] += 1;
        }
        assert!(seen.iter().all(|count| *count > 60), "{seen:?}");
    }

    #[test]
    fn load_discounts_a_weight() {
        let hosts = hosts(&[9, 0]);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut turn = 0;
        let mut seen = [0; 2];
        for _ in 0..10_000 {
            let next = || {
                turn += 1;
                turn % 2
            };
            seen[LeastRequest::default().pick_weighted(&hosts, next, &mut || rng.u64(..))] += 1;
        }
        assert!(seen[0] < 1500, "{seen:?}");
    }
}
