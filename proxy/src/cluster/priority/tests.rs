use super::*;

fn level(healthy: u64, degraded: u64, hosts: u64) -> Availability {
    Availability {
        hosts,
        excluded: 0,
        healthy,
        degraded,
        weights: [hosts, healthy, degraded],
    }
}

fn loads(levels: &[(u64, u64, u64)]) -> Loads {
    let levels: Vec<_> = levels.iter().map(|(h, d, n)| level(*h, *d, *n)).collect();
    Loads::compute(&levels, OVERPROVISIONING_FACTOR, false, 50)
}

/// Worked examples of Envoy's documentation and source, two priorities each.
#[test]
fn load_spills_as_in_envoys_tables() {
    let table = [
        ([72, 100], [100, 100], [100, 0], [false, false]),
        ([71, 100], [100, 100], [99, 1], [false, false]),
        ([50, 100], [100, 100], [70, 30], [false, false]),
        ([25, 100], [100, 100], [35, 65], [false, false]),
        ([25, 25], [100, 100], [50, 50], [true, true]),
        ([6, 1], [10, 10], [86, 14], [false, true]),
        ([4, 2], [10, 10], [50, 50], [true, true]),
        ([0, 5], [10, 10], [0, 100], [true, false]),
        ([0, 0], [10, 30], [25, 75], [true, true]),
        ([0, 0], [0, 0], [100, 0], [true, true]),
    ];
    for (healthy, hosts, expected, panic) in table {
        let got = loads(&[(healthy[0], 0, hosts[0]), (healthy[1], 0, hosts[1])]);
        assert_eq!(
            (got.healthy.to_vec(), got.panic.to_vec()),
            (expected.to_vec(), panic.to_vec()),
            "{healthy:?} of {hosts:?}"
        );
    }
}

#[test]
fn degraded_hosts_come_after_all_healthy_ones() {
    let spread = Loads::spread(&[10, 20, 10], &[20, 10, 0], 70);
    // 100 * 10 / 70 = 14, and so on; the 2 % that rounding leaves go to the first priority.
    assert_eq!(spread.healthy.as_slice(), [16, 28, 14]);
    assert_eq!(spread.degraded.as_slice(), [28, 14, 0]);
    let got = loads(&[(0, 100, 100), (100, 0, 100)]);
    assert_eq!(
        (got.healthy.to_vec(), got.degraded.to_vec()),
        (vec![0, 100], vec![0, 0])
    );
    let got = loads(&[(50, 50, 100), (0, 0, 100)]);
    assert_eq!(
        (got.healthy.to_vec(), got.degraded.to_vec()),
        (vec![70, 0], vec![30, 0])
    );
}

#[test]
fn no_panic_threshold_means_that_traffic_fails() {
    let got = Loads::compute(&[level(0, 0, 4), level(0, 0, 4)], 140, false, 0);
    assert_eq!(
        (got.healthy.to_vec(), got.panic.to_vec()),
        (vec![100, 0], vec![false, false])
    );
}

#[test]
fn weights_count_only_where_asked_for() {
    let heavy_is_down = Availability {
        weights: [100, 10, 0],
        ..level(9, 0, 10)
    };
    let backup = level(10, 0, 10);
    assert_eq!(
        Loads::compute(&[heavy_is_down, backup], 140, false, 50)
            .healthy
            .as_slice(),
        [100, 0]
    );
    assert_eq!(
        Loads::compute(&[heavy_is_down, backup], 140, true, 50)
            .healthy
            .as_slice(),
        [14, 86]
    );
}

#[test]
fn every_draw_falls_on_the_share_it_belongs_to() {
    let loads = Loads::spread(&[10, 20, 10], &[20, 10, 0], 70);
    let mut counts = [[0; 3]; 2];
    for draw in 0..100 {
        let (index, degraded) = loads.choose(draw);
        counts[usize::from(degraded)][index] += 1;
    }
    assert_eq!(counts, [[16, 28, 14], [28, 14, 0]]);
}

proptest::proptest! {
    #[test]
    fn loads_are_always_exactly_one_hundred(levels in proptest::collection::vec((0u64..50, 0u64..50, 0u64..50, 0u64..20), 1..6), threshold in 0u32..=100) {
        let levels: Vec<_> = levels
            .into_iter()
            .map(|(healthy, degraded, failed, excluded)| Availability {
                hosts: healthy + degraded + failed + excluded,
                excluded,
                healthy,
                degraded,
                weights: [healthy + degraded + failed, healthy, degraded],
            })
            .collect();
        let loads = Loads::compute(&levels, 140, false, threshold);
        let sum: u32 = loads.healthy.iter().sum::<u32>() + loads.degraded.iter().sum::<u32>();
        proptest::prop_assert_eq!(sum, 100);
    }
}
