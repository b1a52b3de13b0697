//! Hosts that are slow, flap, swallow requests, have too much to do, leave and come, through balancing, outlier detection, breakers and retries.
//! `SEED=n` replays one seed. Bugs planted in the real code (`bugs.rs`) show that the invariants (`world.rs`) see something.

use super::figures::peak_ewma;
use super::simulation::{SEEDS, seeds, with_bug};
use super::world::{Fault, Ill, Member, Plan, SERVICE, World, labels, port};
use super::*;
use crate::cluster::bugs::Bug;
use crate::cluster::lb::LocalCluster;
use crate::route::RetryPolicy;
use crate::route::retry::{HostPredicate, RetryOn};

const RATE: f64 = 120.0;
const LASTS: f64 = 12.0;
const HOSTS: u16 = 6;

/// What, besides their policy, decides between hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    Nothing,
    /// Two priorities.
    Priorities,
    /// Zone-aware routing, half of the sidecars here.
    Zones,
    /// Localities of weight 1, 3 and none.
    Localities,
    /// Two versions, one of which each request asks for.
    Subsets,
}

impl Split {
    fn member(self, index: u16, rng: &mut fastrand::Rng) -> Member {
        let mut member = Member::from(index + 1);
        let half = (index % 2) as u8;
        match self {
            Self::Nothing => {}
            Self::Priorities => member.at.priority = rng.u32(0..2),
            Self::Zones => member.zone = half,
            Self::Localities => {
                member.zone = (index % 3) as u8;
                member.zone_weight = [Some(1), Some(3), None][usize::from(member.zone)];
            }
            Self::Subsets => member.version = Some(half),
        }
        member
    }
}

/// Where the hosts are and what they have, drawn from `rng`.
struct Scene {
    split: Split,
    policy: i32,
    is_ewma: bool,
}

impl Scene {
    fn new(rng: &mut fastrand::Rng) -> Self {
        use Split::{Localities, Nothing, Priorities, Subsets, Zones};
        let policies = [0, 1, 2, 3, 5];
        let split = [Nothing, Priorities, Zones, Localities, Subsets][rng.usize(..5)];
        let is_ewma = split == Nothing && rng.bool();
        let policy = match split {
            // Where its hash goes is all that counts for a hash.
            Zones => [0, 1, 3][rng.usize(..3)],
            _ => policies[rng.usize(..5)],
        };
        Self { split, policy, is_ewma }
    }

    fn cluster(&self, rng: &mut fastrand::Rng) -> Arc<Cluster> {
        let mut config = eds();
        let seconds = |seconds| Some(remora_proto::pb::google::protobuf::Duration { seconds, nanos: 0 });
        config.lb_policy = self.policy;
        if self.policy == pb::cluster::LbPolicy::Maglev as i32 {
            let size = pb::cluster::MaglevLbConfig {
                table_size: Some(remora_proto::pb::google::protobuf::UInt64Value { value: 251 }),
            };
            config.lb_config = Some(pb::cluster::LbConfig::MaglevLbConfig(size));
        }
        config.outlier_detection = Some(pb::OutlierDetection {
            interval: seconds(1),
            base_ejection_time: seconds(2),
            max_ejection_time: seconds(6),
            max_ejection_percent: Some(number([20, 50, 100][rng.usize(..3)])),
            ..Default::default()
        });
        let budget = pb::circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(remora_proto::pb::envoy::r#type::v3::Percent { value: 30.0 }),
            min_retry_concurrency: Some(number(2)),
            ..Default::default()
        };
        config.circuit_breakers = Some(pb::CircuitBreakers {
            thresholds: vec![pb::circuit_breakers::Thresholds {
                max_requests: Some(number([8, 30, 1024][rng.usize(..3)])),
                max_retries: Some(number([1, 3, 50][rng.usize(..3)])),
                retry_budget: rng.bool().then_some(budget),
                ..Default::default()
            }],
            ..Default::default()
        });
        let mut common = pb::cluster::CommonLbConfig::default();
        let cx = BuildContext::default();
        match self.split {
            Split::Nothing | Split::Priorities => {}
            Split::Zones => {
                let zone = pb::cluster::common_lb_config::ZoneAwareLbConfig {
                    min_cluster_size: Some(remora_proto::pb::google::protobuf::UInt64Value { value: 1 }),
                    ..Default::default()
                };
                let zone = pb::cluster::common_lb_config::LocalityConfigSpecifier::ZoneAwareLbConfig(zone);
                common.locality_config_specifier = Some(zone);
                sidecars_in_two_zones(&cx);
            }
            Split::Localities => {
                let weighted = pb::cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    Default::default(),
                );
                common.locality_config_specifier = Some(weighted);
            }
            Split::Subsets => {
                config.lb_subset_config = Some(pb::cluster::LbSubsetConfig {
                    subset_selectors: vec![pb::cluster::lb_subset_config::LbSubsetSelector {
                        keys: vec!["version".to_owned()],
                        ..Default::default()
                    }],
                    ..Default::default()
                });
            }
        }
        if self.split == Split::Subsets || rng.bool() {
            common.healthy_panic_threshold = Some(remora_proto::pb::envoy::r#type::v3::Percent { value: 0.0 });
        }
        config.common_lb_config = Some(common);
        if self.is_ewma {
            config.lb_policy = 0;
            config.load_balancing_policy = Some(peak_ewma());
        }
        let cluster = Arc::new(build(&config, &cx));
        cx.hosts.enroll(&cluster);
        cluster
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let cluster = self.cluster(&mut rng);
        let members: Vec<Member> = (0..HOSTS).map(|index| self.split.member(index, &mut rng)).collect();
        let is_calm = rng.u8(..4) == 0;
        let (ills, told) = match is_calm {
            // One slow host, and nothing else.
            true => {
                let slow = Ill {
                    port: 1,
                    from: 1.0,
                    until: 9.0,
                    fault: Fault::Slow(20.0),
                };
                (vec![slow], vec![(0.0, members)])
            }
            false => (ills(&mut rng), moves(members, &mut rng)),
        };
        Plan {
            cluster,
            retries: Some(RetryPolicy {
                retry_on: RetryOn::parse("5xx,reset,connect-failure,refused-stream"),
                num_retries: rng.u32(1..4),
                host_predicates: vec![HostPredicate::PreviousHosts],
                host_selection_attempts: 50,
                ..RetryPolicy::default()
            }),
            patience: 0.4,
            rate: RATE,
            lasts: LASTS,
            ills,
            told,
            versions: if self.split == Split::Subsets {
                vec![0, 1]
            } else {
                Vec::new()
            },
        }
    }
}

/// The local cluster: four sidecars, two of them in the own zone.
fn sidecars_in_two_zones(cx: &BuildContext) {
    let own = crate::cluster::host::Locality {
        zone: "z0".to_owned(),
        ..Default::default()
    };
    cx.hosts.set_local(LocalCluster::new(Arc::from("local"), Some(own)));
    let mut config = eds();
    config.name = "local".to_owned();
    let local = build(&config, cx);
    let sidecars: Vec<Member> = (0..4)
        .map(|index| Split::Zones.member(index, &mut fastrand::Rng::with_seed(0)))
        .collect();
    let sent = local.update_endpoints(&super::world::assignment_of(&sidecars).encode_to_vec());
    sent.expect("a good assignment");
}

/// Three faults at hosts and times of their own, all over two seconds before the end.
fn ills(rng: &mut fastrand::Rng) -> Vec<Ill> {
    let faults = [
        Fault::Failing,
        Fault::Flapping,
        Fault::Slow(60.0),
        Fault::BlackHole,
        Fault::Overloaded,
        Fault::Gone,
    ];
    let mut ill = |_| {
        let from = 6.0 * rng.f64();
        Ill {
            port: rng.u16(1..HOSTS + 1),
            from,
            until: from + 1.0 + 3.0 * rng.f64(),
            fault: faults[rng.usize(..faults.len())],
        }
    };
    (0..3).map(&mut ill).collect()
}

/// One host comes later, one drains, leaves and comes back.
fn moves(members: Vec<Member>, rng: &mut fastrand::Rng) -> Vec<(f64, Vec<Member>)> {
    let (joiner, leaver) = (rng.usize(..2), rng.usize(2..usize::from(HOSTS)));
    let without = |gone: &[usize]| -> Vec<Member> {
        let stays = |(index, _): &(usize, &Member)| !gone.contains(index);
        members
            .iter()
            .enumerate()
            .filter(stays)
            .map(|(_, member)| *member)
            .collect()
    };
    let mut draining = members.clone();
    draining[leaver].at.health = core::HealthStatus::Draining;
    vec![
        (0.0, without(&[joiner])),
        (2.0, members.clone()),
        (3.0, draining),
        (4.5, without(&[leaver])),
        (7.5, members),
    ]
}

/// Once all are well, and no ejection is left, everybody who should gets requests, and as many as it should.
fn everybody_has_work(world: &mut World, split: Split) -> Result<(), String> {
    for _ in 0..60 {
        world.now += 1.0;
        world.tick();
    }
    if world.ejected() > 0 {
        return Err("an ejection never ended".to_owned());
    }
    const PICKS: usize = 1_200;
    let mut counts: HashMap<u16, usize> = HashMap::new();
    for _ in 0..PICKS {
        // Who was slow is forgiven as time goes by.
        world.now += 0.1;
        let wants = world.plan.versions.get(world.rng.usize(..2)).copied().map(labels);
        let context = PickContext {
            hash: Some(world.rng.u64(..)),
            metadata_match: wants.as_ref(),
            now: Some(world.instant()),
            ..PickContext::default()
        };
        let rng = &mut world.rng;
        let picked = world.plan.cluster.pick_with(&context, &mut || rng.u64(..));
        let host = picked.map_err(|_| "no host, although all are well")?;
        let took = Duration::from_secs_f64(SERVICE);
        world.plan.cluster.observe_time(&host, took, world.instant());
        *counts.entry(port(&host)).or_default() += 1;
    }
    let first = world.members.iter().map(|member| member.at.priority).min();
    for member in &world.members {
        let has_turns = match split {
            Split::Nothing | Split::Subsets => true,
            Split::Priorities => Some(member.at.priority) == first,
            Split::Zones => member.zone == 0,
            Split::Localities => member.zone_weight.is_some(),
        };
        let count = counts.get(&member.at.port).copied().unwrap_or(0);
        if has_turns != (count > 0) {
            return Err(format!("{count} requests for {member:?}, although all are well"));
        }
    }
    Ok(())
}

/// Who counts requests, or their time, gives a slow host fewer of them.
fn slow_hosts_get_less(world: &World) -> Result<(), String> {
    let lb = &world.plan.cluster.lb;
    let counts = &world.beside_slow;
    let [ill] = &world.plan.ills[..] else {
        return Ok(());
    };
    let (total, slow) = (
        counts.values().sum::<usize>(),
        counts.get(&ill.port).copied().unwrap_or(0),
    );
    let minds = matches!(lb.policy, Policy::LeastRequest(_) | Policy::PeakEwma(_)) && !lb.locality_weighted;
    // Of at least three hosts, and long enough to tell.
    if !minds || counts.len() < 3 || total < 300 {
        return Ok(());
    }
    let others = (total - slow) as f64 / (counts.len() - 1) as f64;
    // The one that knows how long answers take hardly asks it at all.
    let most = if matches!(lb.policy, Policy::PeakEwma(_)) {
        0.15
    } else {
        0.75
    };
    match (slow as f64) < most * others {
        true => Ok(()),
        false => Err(format!(
            "the slow host got {slow} requests of {total}, the others {others:.0} each"
        )),
    }
}

fn run(seed: u64, bug: Option<Bug>) -> Result<(), String> {
    with_bug(bug, || {
        // Where rotations start is drawn from the thread's own generator.
        fastrand::seed(seed);
        let scene = Scene::new(&mut fastrand::Rng::with_seed(seed));
        let mut world = World::new(scene.plan(seed), seed);
        world.run()?;
        slow_hosts_get_less(&world)?;
        everybody_has_work(&mut world, scene.split)
    })
}

#[test]
fn whatever_hosts_have_requests_go_where_they_should() {
    for seed in seeds() {
        if let Err(broken) = run(seed, None) {
            panic!("SEED={seed}: {broken}");
        }
    }
}

#[test]
fn planted_bugs_are_found_among_ailing_hosts() {
    for bug in [
        Bug::TimeoutForgiven,
        Bug::TimeoutNotRetried,
        Bug::RetriesUnlimited,
        Bug::SubsetIgnored,
        Bug::ZonesIgnored,
        Bug::LocalityWeightsIgnored,
        Bug::ActiveIgnored,
        Bug::TimeIgnored,
        Bug::JoinerLeftOut,
        Bug::EjectionNotPublished,
        Bug::EjectsEverybody,
        Bug::DrainingHostPicked,
        Bug::RetryStays,
        Bug::PermitLeaks,
        Bug::ActiveLeaks,
        Bug::Starves,
    ] {
        let found = (0..SEEDS).any(|seed| run(seed, Some(bug)).is_err());
        assert!(found, "{bug:?} went unnoticed");
    }
}
