//! Random hosts against balancing, outlier detection and breakers. `SEED=n` replays one seed. Bugs planted in the real code (`bugs.rs`) show
//! that the invariants see something.

use remora_proto::pb::envoy::config::core::v3 as core;

use super::*;
use crate::cluster::breaker::{Permit, Resource, RoutingPriority};
use crate::cluster::bugs::{self, Bug};
use crate::cluster::host::HealthFlag;

pub(super) const SEEDS: u64 = 256;
const STEPS: usize = 150;
const MAX_REQUESTS: u32 = 6;
const MAX_EJECTION_PERCENT: u32 = 40;

struct World {
    rng: fastrand::Rng,
    cluster: Arc<Cluster>,
    now: Instant,
    endpoints: Vec<At>,
    running: Vec<(Arc<Host>, ActiveRequest, Permit)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Where rotations start is drawn from the thread's own generator.
        fastrand::seed(seed);
        let mut config = eds();
        config.lb_policy = *rng.choice([0, 1, 2, 3, 5].iter()).expect("not empty");
        if config.lb_policy == 5 {
            let size = pb::cluster::MaglevLbConfig {
                table_size: Some(remora_proto::pb::google::protobuf::UInt64Value { value: 251 }),
            };
            config.lb_config = Some(pb::cluster::LbConfig::MaglevLbConfig(size));
        }
        config.outlier_detection = Some(pb::OutlierDetection {
            max_ejection_percent: Some(number(MAX_EJECTION_PERCENT)),
            consecutive_5xx: Some(number(3)),
            ..Default::default()
        });
        config.circuit_breakers = Some(pb::CircuitBreakers {
            thresholds: vec![pb::circuit_breakers::Thresholds {
                max_requests: Some(number(MAX_REQUESTS)),
                ..Default::default()
            }],
            ..Default::default()
        });
        Self {
            cluster: Arc::new(build(&config, &BuildContext::default())),
            now: clock::now(),
            rng,
            endpoints: Vec::new(),
            running: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        self.change_endpoints();
        for _ in 0..STEPS {
            match self.rng.u32(0..10) {
                0 => self.change_endpoints(),
                1 => self.pass(),
                2 => self.check_turns()?,
                3..=5 => self.start()?,
                _ => self.finish()?,
            }
            self.check()?;
        }
        while !self.running.is_empty() {
            self.finish()?;
        }
        if self
            .cluster
            .breakers
            .in_use(RoutingPriority::Default, Resource::Request)
            != 0
        {
            return Err("a permit was never given back".to_owned());
        }
        if let Some(host) = self.cluster.all_hosts().iter().find(|host| active(host) != 0) {
            return Err(format!("{} still has {} requests", host.address, active(host)));
        }
        self.check_disruption()?;
        // Longer than any ejection: everybody comes back.
        for _ in 0..40 {
            self.now += Duration::from_secs(10);
            self.tick();
        }
        match self
            .cluster
            .all_hosts()
            .iter()
            .any(|host| host.state.has(HealthFlag::FailedOutlierCheck))
        {
            true => Err("an ejection never ended".to_owned()),
            false => Ok(()),
        }
    }

    fn change_endpoints(&mut self) {
        use core::HealthStatus as Status;
        let count = self.rng.u16(1..9);
        let first = self.rng.u16(0..4);
        let rng = &mut self.rng;
        let mut endpoint = |port| At {
            port: first + port,
            priority: rng.u32(0..2),
            weight: rng.u32(1..5),
            health: *rng
                .choice(
                    [
                        Status::Unknown,
                        Status::Healthy,
                        Status::Unhealthy,
                        Status::Degraded,
                        Status::Draining,
                    ]
                    .iter(),
                )
                .expect("not empty"),
        };
        self.endpoints = (0..count).map(&mut endpoint).collect();
        self.send_endpoints();
    }

    fn send_endpoints(&self) {
        self.cluster
            .update_endpoints(&assignment(&self.endpoints).encode_to_vec())
            .expect("a good assignment");
    }

    /// Round robin: in two rounds each host of a priority that gets everything has a turn.
    fn check_turns(&mut self) -> Result<(), String> {
        let set = self.cluster.hosts.load_full();
        if self.cluster.lb.policy != Policy::RoundRobin || set.loads.healthy.first() != Some(&100) {
            return Ok(());
        }
        let Some(first) = set.priorities.first() else {
            return Ok(());
        };
        let mut waiting: Vec<u64> = first.healthy.hosts().map(|host| host.state.id).collect();
        let turns: u32 = first.healthy.hosts().map(|host| 2 * host.weight).sum();
        for _ in 0..turns {
            let host = self
                .cluster
                .pick(&PickContext::default())
                .map_err(|_| "no host in a round")?;
            waiting.retain(|id| *id != host.state.id);
        }
        match waiting.len() {
            0 => Ok(()),
            count => Err(format!("{count} hosts had no turn in {turns}")),
        }
    }

    /// Consistent hashing: one host more moves the keys that go to it, and few others. (Envoy's rings and tables are cut anew for the number
    /// of hosts, so it is not none.)
    fn check_disruption(&mut self) -> Result<(), String> {
        if !matches!(self.cluster.lb.policy, Policy::RingHash(_) | Policy::Maglev(_)) {
            return Ok(());
        }
        let fine = |port| At { weight: 1, ..at(port) };
        self.endpoints = (20..26).map(fine).collect();
        self.send_endpoints();
        let before = self.homes()?;
        self.endpoints.push(fine(26));
        self.send_endpoints();
        let after = self.homes()?;
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after && **after != 26)
            .count();
        if moved * 5 >= before.len() {
            return Err(format!(
                "{moved} of {} keys moved between hosts that stayed",
                before.len()
            ));
        }
        // One host less: its keys move, and few others.
        self.endpoints.remove(0);
        self.send_endpoints();
        let without = self.homes()?;
        let moved = after
            .iter()
            .zip(&without)
            .filter(|(before, after)| before != after && **before != 20)
            .count();
        match moved * 5 < after.len() {
            true => Ok(()),
            false => Err(format!(
                "{moved} of {} keys moved away from hosts that stayed",
                after.len()
            )),
        }
    }

    /// Where each of many keys goes, by port.
    fn homes(&self) -> Result<Vec<u16>, String> {
        let home = |key: u64| {
            let hash = Some(xxhash_rust::xxh64::xxh64(&key.to_le_bytes(), 0));
            let context = PickContext {
                hash,
                ..PickContext::default()
            };
            let host = self.cluster.pick(&context).map_err(|_| "no host for a key")?;
            Ok(host.address.ip().map_or(0, |address| address.port()))
        };
        (0..200).map(home).collect()
    }

    fn pass(&mut self) {
        self.now += Duration::from_millis(self.rng.u64(0..15_000));
        self.tick();
    }

    fn tick(&mut self) {
        let rng = &mut self.rng;
        self.cluster.tick(self.now, &mut || rng.u64(..));
    }

    fn start(&mut self) -> Result<(), String> {
        let Some(permit) = self.cluster.breakers.try_request(RoutingPriority::Default) else {
            match self.running.len() >= MAX_REQUESTS as usize {
                true => return Ok(()),
                false => return Err("refused below the limit".to_owned()),
            }
        };
        let hash = self.rng.u64(..);
        let context = PickContext {
            hash: Some(hash),
            ..PickContext::default()
        };
        let rng = &mut self.rng;
        let Ok(host) = self.cluster.pick_with(&context, &mut || rng.u64(..)) else {
            return Err("no host although there are some, and panic allows them".to_owned());
        };
        self.check_picked(&host)?;
        self.check_retry(&host, hash)?;
        let request = ActiveRequest::start(&self.cluster, &host);
        self.running.push((host, request, permit));
        Ok(())
    }

    /// A retry that avoids `first` gets another host wherever its group has one. The other may be light and busy, one draw of 25 for Envoy, so
    /// it takes many to be sure.
    fn check_retry(&mut self, first: &Arc<Host>, hash: u64) -> Result<(), String> {
        let attempted = [first.clone()];
        let retry = RetryPick {
            attempted: &attempted,
            refuses: &|host| Arc::ptr_eq(&host.state, &first.state),
            selections: 2_000,
            update_frequency: None,
        };
        let context = PickContext {
            hash: Some(hash),
            retry: Some(retry),
            ..PickContext::default()
        };
        let rng = &mut self.rng;
        let second = self.cluster.pick_with(&context, &mut || rng.u64(..));
        let second = second.map_err(|_| "no host for a retry although there was one before")?;
        self.check_picked(&second)?;
        let set = self.cluster.hosts.load();
        let groups = set
            .priorities
            .iter()
            .flat_map(|level| [&level.healthy, &level.degraded]);
        let with_others = |group: &crate::cluster::lb::Group| {
            let has = |state: &Arc<HostState>| group.hosts().any(|host| Arc::ptr_eq(&host.state, state));
            has(&first.state) && group.hosts().count() > 1
        };
        let is_alone = !groups.into_iter().any(with_others);
        match Arc::ptr_eq(&first.state, &second.state) && !is_alone {
            true => Err(format!("a retry stays at {}", first.address)),
            false => Ok(()),
        }
    }

    fn check_picked(&self, host: &Arc<Host>) -> Result<(), String> {
        if !host.state.is_member() {
            return Err(format!("picked {}, which has left", host.address));
        }
        let set = self.cluster.hosts.load();
        let panic = set.loads.panic.get(host.priority as usize).copied().unwrap_or(false);
        let port = host.address.ip().map_or(0, |address| address.port());
        let told = self.endpoints.iter().find(|endpoint| endpoint.port == port);
        use core::HealthStatus as Status;
        let is_told = told.is_some_and(|told| matches!(told.health, Status::Unhealthy | Status::Draining));
        let unhealthy = is_told || host.state.health() == Health::Unhealthy;
        let is_degraded = told.is_some_and(|told| told.health == Status::Degraded);
        let takes_degraded = set
            .loads
            .degraded
            .get(host.priority as usize)
            .is_some_and(|load| *load > 0);
        if is_degraded && !takes_degraded && !panic {
            return Err(format!("picked {}, which is degraded, for others' load", host.address));
        }
        match unhealthy && !panic {
            true => Err(format!("picked {}, which is {}", host.address, host.state.flags_text())),
            false => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        if self.running.is_empty() {
            return Ok(());
        }
        let ejected_before = self.ejected();
        let index = self.rng.usize(0..self.running.len());
        let (host, request, permit) = self.running.swap_remove(index);
        drop((request, permit));
        // Odd ports fail most of the time.
        let port = host.address.ip().map_or(0, |address| address.port());
        let fails = self.rng.u32(0..10) < if port % 2 == 1 { 9 } else { 1 };
        let status = if fails { 503 } else { 200 };
        let rng = &mut self.rng;
        self.cluster
            .observe_response_with(&host, status.into(), self.now, &mut || rng.u64(..));
        let (ejected, hosts) = (self.ejected(), self.endpoints.len());
        match ejected > ejected_before && 100 * ejected > MAX_EJECTION_PERCENT as usize * hosts {
            true => Err(format!("{ejected} of {hosts} are ejected")),
            false => Ok(()),
        }
    }

    fn ejected(&self) -> usize {
        let is_ejected = |host: &&Arc<Host>| host.state.has(HealthFlag::FailedOutlierCheck);
        self.cluster.all_hosts().iter().filter(is_ejected).count()
    }

    fn check(&self) -> Result<(), String> {
        let set = self.cluster.hosts.load();
        let sum: u32 = set.loads.healthy.iter().sum::<u32>() + set.loads.degraded.iter().sum::<u32>();
        if sum != 100 {
            return Err(format!("loads are {:?}", set.loads));
        }
        let hosts = self.cluster.all_hosts();
        if hosts.len() != self.endpoints.len() {
            return Err(format!("{} hosts of {}", hosts.len(), self.endpoints.len()));
        }
        if self.ejected() as u64 != self.cluster.stats.outlier().ejections_active.value() {
            return Err("the gauge of ejections is wrong".to_owned());
        }
        let active: u32 = self.running.len() as u32;
        match self
            .cluster
            .breakers
            .in_use(RoutingPriority::Default, Resource::Request)
            == active
        {
            true => Ok(()),
            false => Err("permits and requests differ in number".to_owned()),
        }
    }
}

fn active(host: &Host) -> u32 {
    host.state.rq_active.load(Ordering::Relaxed)
}

pub(super) fn seeds() -> std::ops::Range<u64> {
    match std::env::var("SEED").ok().and_then(|seed| seed.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    }
}

/// Runs a world with `bug` in it.
fn run(seed: u64, bug: Option<Bug>) -> Result<(), String> {
    with_bug(bug, || World::new(seed).run())
}

/// Runs `world` with `bug` in the code.
pub(super) fn with_bug<T>(bug: Option<Bug>, world: impl FnOnce() -> T) -> T {
    /// Whatever happens, the next test on this thread has none.
    struct Planted;
    impl Drop for Planted {
        fn drop(&mut self) {
            bugs::plant(None);
        }
    }
    bugs::plant(bug);
    let _planted = Planted;
    world()
}

#[test]
fn nobody_unfit_is_picked_and_all_counts_return_to_zero() {
    for seed in seeds() {
        if let Err(broken) = run(seed, None) {
            panic!("SEED={seed}: {broken}");
        }
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::EjectionNotPublished,
        Bug::PermitLeaks,
        Bug::RemovedHostStays,
        Bug::NeverUnejected,
        Bug::EjectsEverybody,
        Bug::RetryStays,
        Bug::ActiveLeaks,
        Bug::DrainingHostPicked,
        Bug::Starves,
        Bug::Reshuffles,
        Bug::LoadIsLost,
        Bug::DegradedIsHealthy,
    ] {
        let found = (0..SEEDS).any(|seed| run(seed, Some(bug)).is_err());
        assert!(found, "{bug:?} went unnoticed");
    }
}
