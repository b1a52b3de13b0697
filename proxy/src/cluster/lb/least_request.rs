//! `LEAST_REQUEST`: of a few random hosts the one with the fewest active requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cluster::bugs::{Bug, planted};
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

    /// Unequal weights: a host's share is `weight/(active+1)^bias`, as Envoy's is. A turn of the weighted order is taken with odds of
    /// `1/(active+1)^bias`; when several in a row are not, the host is drawn by the shares themselves. Idle hosts and a bias of 0 give the
    /// plain weighted order.
    pub fn pick_weighted(
        &self,
        hosts: &[Arc<Host>],
        weights: &[f64],
        mut next: impl FnMut() -> usize,
        random: &mut dyn FnMut() -> u64,
    ) -> usize {
        let cost = |index: usize| f64::from(hosts.get(index).map_or(0, active) + 1).powf(self.active_request_bias);
        let mut chance = || (random() >> 11) as f64 / (1u64 << 53) as f64;
        let mut turn = next();
        if self.active_request_bias == 0.0 {
            return turn;
        }
        for _ in 0..TURNS {
            let cost = cost(turn);
            if cost <= 1.0 || chance() * cost < 1.0 {
                return turn;
            }
            turn = next();
        }
        let shares = || weights.iter().enumerate().map(|(index, weight)| weight / cost(index));
        let mut left = chance() * shares().sum::<f64>();
        let drawn = shares().position(|share| {
            left -= share;
            left < 0.0
        });
        drawn.unwrap_or(turn)
    }
}

/// Turns of the weighted order that are tried before all hosts are looked at.
const TURNS: usize = 8;

fn active(host: &Arc<Host>) -> u32 {
    if planted(Bug::ActiveIgnored) {
        return 0;
    }
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
            if random().is_multiple_of(ties) {
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
            seen[LeastRequest::default().pick_weighted(&hosts, &[1.0, 1.0], next, &mut || rng.u64(..))] += 1;
        }
        // A tenth against one.
        assert!((800..1000).contains(&seen[0]), "{seen:?}");
    }

    #[test]
    fn a_heavy_host_gets_what_its_load_leaves_of_its_weight() {
        let weights = [100.0, 1.0, 1.0];
        let order = crate::cluster::lb::edf::Order::new(&weights);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut turn = 0;
        for (load, expected) in [(0, 9804), (49, 5000), (99, 3333)] {
            let hosts = hosts(&[load, 0, 0]);
            let mut heavy = 0;
            for _ in 0..10_000 {
                let next = || {
                    turn += 1;
                    order.at(turn).expect("a turn")
                };
                let picked = LeastRequest::default().pick_weighted(&hosts, &weights, next, &mut || rng.u64(..));
                heavy += i32::from(picked == 0);
            }
            assert!((heavy - expected).abs() < 300, "{load}: {heavy}");
        }
    }
}
