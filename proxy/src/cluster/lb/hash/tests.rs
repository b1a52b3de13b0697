use super::*;
use crate::runtime::io::Address;

fn hosts(count: u8) -> Vec<Arc<Host>> {
    let host = |index: u8| Arc::new(Host::new(Address::Ip(([127, 0, 0, 1], 90 + u16::from(index)).into())));
    (0..count).map(host).collect()
}

fn ring_of(hosts: &[Arc<Host>], minimum: u64) -> Vec<(u64, u32)> {
    let config = RingHash {
        function: HashFunction::XxHash,
        minimum_ring_size: minimum,
        maximum_ring_size: 8 << 20,
        common: ConsistentHash::default(),
    };
    ring(&config, hosts, &normalised(&vec![1.0; hosts.len()]))
}

/// Where Envoy 1.40 sent requests with the header values `k0` to `k39` under a header hash policy: the last digit of the port, 90 to 95.
const ENVOYS_RING: &str = "5015355315534531515444314454050245154455";
/// The same with `hash_function: MURMUR_HASH_2`.
const ENVOYS_MURMUR_RING: &str = "5525452025514252522434203123555235254455";
const ENVOYS_MAGLEV: &str = "1412500510225254332420145543314124031041";

fn choices(table: &Table, hosts: &[Arc<Host>]) -> String {
    let choice = |key: u32| {
        let hash = xxh64(format!("k{key}").as_bytes(), 0);
        table
            .pick(hash, 0, hosts, 0)
            .map_or("-".to_owned(), |index| index.to_string())
    };
    (0..40).map(choice).collect()
}

#[test]
fn keys_go_where_envoy_sends_them() {
    let hosts = hosts(6);
    let mut ring = RingHash {
        function: HashFunction::XxHash,
        minimum_ring_size: 12,
        maximum_ring_size: 8 << 20,
        common: ConsistentHash::default(),
    };
    assert_eq!(choices(&Table::ring(&ring, &hosts, &[1.0; 6]), &hosts), ENVOYS_RING);
    ring.function = HashFunction::Murmur2;
    assert_eq!(
        choices(&Table::ring(&ring, &hosts, &[1.0; 6]), &hosts),
        ENVOYS_MURMUR_RING
    );
    let maglev = Maglev {
        table_size: 251,
        common: ConsistentHash::default(),
    };
    assert_eq!(
        choices(&Table::maglev(&maglev, &hosts, &[1.0; 6]), &hosts),
        ENVOYS_MAGLEV
    );
}

#[test]
fn murmur_is_the_standard_librarys() {
    // As `std::hash<std::string_view>` of libstdc++ gives them.
    for (text, hash) in [
        ("", 0x553e_9390_1e46_2a6e),
        ("a", 0x454d_dee4_88c1_ed6b),
        ("10.0.0.1:80_12", 0xc662_2157_0349_3416),
    ] {
        assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
    }
}

#[test]
fn rings_have_envoys_sizes() {
    for (count, size) in [(1, 1024), (3, 1026), (7, 1029)] {
        assert_eq!(ring_of(&hosts(count), 1024).len(), size);
    }
}

#[test]
fn a_maglev_table_is_full_and_even() {
    let hosts = hosts(5);
    let config = Maglev {
        table_size: 65537,
        common: ConsistentHash::default(),
    };
    let table = maglev(&config, &hosts, &normalised(&[1.0; 5]));
    let mut counts = [0; 5];
    for host in &table {
        counts[*host as usize] += 1;
    }
    assert_eq!(table.len(), 65537);
    assert!(counts.iter().all(|count| (13107..=13108).contains(count)), "{counts:?}");
}

#[test]
fn few_keys_move_when_a_host_leaves() {
    let all = hosts(10);
    let config = Maglev {
        table_size: 65537,
        common: ConsistentHash::default(),
    };
    let before = Table::maglev(&config, &all, &[1.0; 10]);
    let after = Table::maglev(&config, &all[..9], &[1.0; 9]);
    let mut rng = fastrand::Rng::with_seed(3);
    let moved = (0..10_000)
        .filter(|_| {
            let hash = rng.u64(..);
            let old = before.pick(hash, 0, &all, 0);
            old != Some(9) && old != after.pick(hash, 0, &all[..9], 0)
        })
        .count();
    assert!(moved < 1000, "{moved}");
}

#[test]
fn a_bound_sends_on_what_is_over_it() {
    let hosts = hosts(4);
    let config = RingHash {
        function: HashFunction::XxHash,
        minimum_ring_size: 1024,
        maximum_ring_size: 8 << 20,
        common: ConsistentHash {
            use_hostname_for_hashing: false,
            hash_balance_factor: Some(125),
        },
    };
    let table = Table::ring(&config, &hosts, &[1.0; 4]);
    for total in 0..400 {
        let index = table.pick(42, 0, &hosts, total).expect("there are hosts");
        hosts[index].state.rq_active.fetch_add(1, Ordering::Relaxed);
    }
    // One key only, yet nobody holds more than 1.25 times the average, rounded up, and the one that came when he was at it.
    assert!(
        hosts.iter().all(|host| active(host) <= 127),
        "{:?}",
        hosts.iter().map(active).collect::<Vec<_>>()
    );
}

#[test]
fn a_bound_is_a_share_of_what_the_whole_cluster_has_to_do() {
    let hosts = hosts(2);
    let table = Table {
        slots: Slots::Maglev(vec![0]),
        shares: vec![0.5, 0.5],
        balance_factor: 100,
    };
    // Four of its own; of the ten that run, six are at hosts of another priority.
    hosts[0].state.rq_active.store(4, Ordering::Relaxed);
    assert_eq!(table.pick(0, 0, &hosts, 10), Some(0));
    assert_eq!(table.pick(0, 0, &hosts, 4), Some(1));
}

#[test]
fn the_twister_is_the_standards() {
    // 26.6.5 of the C++ standard: the 10,000th word of the default seed.
    let mut random = Twister::new(5489);
    assert_eq!(random.next(), 3_499_211_612);
    for _ in 0..9_998 {
        random.next();
    }
    assert_eq!(random.next(), 4_123_659_995);
    let mut seen = [0; 3];
    for _ in 0..3_000 {
        seen[random.below(3) as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count > 900), "{seen:?}");
}

#[test]
fn bounds_are_envoys() {
    let hosts = hosts(2);
    let table = Table {
        slots: Slots::Maglev(vec![0]),
        shares: vec![0.25, 0.75],
        balance_factor: 150,
    };
    // Ten requests: (11 × 150 + 99) / 100 = 17 slots, of which ceil(4.25) = 5 and ceil(12.75) = 13.
    let overload = |index: usize, own: u32| {
        hosts[index].state.rq_active.store(own, Ordering::Relaxed);
        table.overload(index, 10, &hosts)
    };
    assert_eq!((overload(0, 5), overload(0, 6)), (1.0, 1.2));
    assert_eq!((overload(1, 13), overload(1, 26)), (1.0, 2.0));
}
