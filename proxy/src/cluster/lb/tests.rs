use super::*;
use crate::cluster::host::Locality;
use crate::runtime::io::Address;

fn host(index: u8, weight: u32, zone: &str) -> Arc<Host> {
    let mut host = Host::new(Address::Ip(([10, 0, 0, index], 80).into()));
    host.weight = weight;
    host.locality = Arc::new(Locality {
        zone: zone.to_owned(),
        ..Locality::default()
    });
    Arc::new(host)
}

fn sequence(group: &Group, picks: usize) -> Vec<u32> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut pick = || group.pick(Turn::default(), &mut || rng.u64(..)).expect("a host").weight;
    (0..picks).map(|_| pick()).collect()
}

fn build(hosts: &[Arc<Host>], policy: &AssignmentPolicy, lb: &LbConfig) -> Group {
    Group::build(hosts.to_vec(), hosts, policy, lb, Some(0))
}

#[test]
fn weighted_round_robin_follows_the_deadlines() {
    let hosts = [host(1, 3, ""), host(2, 1, "")];
    let group = build(&hosts, &AssignmentPolicy::default(), &LbConfig::default());
    assert_eq!(sequence(&group, 8), [3, 3, 1, 3, 3, 3, 1, 3]);
    assert_eq!(group.position(), 8);
}

#[test]
fn localities_take_their_weighted_turns() {
    let hosts = [host(1, 1, "a"), host(2, 2, "b"), host(3, 3, "unweighted")];
    let policy = AssignmentPolicy {
        locality_weights: [(0, 1), (1, 2)]
            .map(|(index, weight): (usize, u32)| ((0, hosts[index].locality.clone()), weight))
            .into(),
        ..AssignmentPolicy::default()
    };
    let lb = LbConfig {
        locality_weighted: true,
        ..LbConfig::default()
    };
    assert_eq!(sequence(&build(&hosts, &policy, &lb), 6), [2, 1, 2, 2, 1, 2]);
    let shares = edf::locality_shares(
        &hosts[..2],
        &[hosts.to_vec(), vec![host(9, 1, "b")]].concat(),
        &policy,
        &lb,
    );
    // One of two hosts of `b` is up: 2 × min(1, 1.4 × 1/2).
    assert_eq!(shares.iter().map(|share| share.weight).collect::<Vec<_>>(), [1.0, 1.4]);
}

#[test]
fn localities_without_a_weight_are_one_pool() {
    let hosts = [host(1, 1, "a"), host(2, 1, "b"), host(3, 1, "c")];
    let weights = |of: [u32; 3]| AssignmentPolicy {
        locality_weights: hosts
            .iter()
            .zip(of)
            .map(|(host, weight)| ((0, host.locality.clone()), weight))
            .collect(),
        ..AssignmentPolicy::default()
    };
    let lb = LbConfig {
        locality_weighted: true,
        ..LbConfig::default()
    };
    let counts = |usable: &[Arc<Host>], policy: &AssignmentPolicy| {
        let group = Group::build(usable.to_vec(), &hosts, policy, &lb, Some(0));
        let mut counts = [0; 3];
        for _ in 0..60 {
            let picked = group.pick(Turn::default(), &mut || 0).expect("a host");
            counts[hosts
                .iter()
                .position(|host| Arc::ptr_eq(host, picked))
                .expect("one of them")] += 1;
        }
        counts
    };
    assert_eq!(counts(&hosts, &weights([0, 0, 0])), [20, 20, 20]);
    // The one that has a weight is down.
    assert_eq!(counts(&hosts[..2], &weights([0, 0, 5])), [30, 30, 0]);
    assert_eq!(counts(&hosts, &weights([0, 0, 5])), [0, 0, 60]);
}

#[test]
fn an_empty_group_has_no_host() {
    let group = build(&[], &AssignmentPolicy::default(), &LbConfig::default());
    assert!(group.pick(Turn::default(), &mut || 0).is_none());
    assert!(Group::default().pick(Turn::default(), &mut || 0).is_none() && group.is_empty());
}
