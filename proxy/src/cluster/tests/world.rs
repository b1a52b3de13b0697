//! Hosts that fall ill, leave and come, under an open-loop load in simulated time.
//!
//! Balancing, outlier detection, breakers and the decisions about retries (whether, after how long, where) are the proxy's own; hosts, network
//! and the loop that asks for those decisions are simulated. Whatever happens, what has to hold is looked at on the way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use http::{HeaderMap, StatusCode};
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::google::protobuf::value::Kind;
use remora_proto::pb::google::protobuf::{Struct, Value};

use super::*;
use crate::cluster::breaker::{Permit, Resource, RoutingPriority};
use crate::cluster::host::HealthFlag;
use crate::http::router::refuses_host;
use crate::route::RetryPolicy;

/// Requests that a host works on at once; more wait.
pub(super) const WORKERS: usize = 4;
/// Seconds that a request takes, half as much more or less.
pub(super) const SERVICE: f64 = 0.010;
/// `consecutive_5xx`, as it is by default.
const IN_A_ROW: u32 = 5;

/// What a host has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// Answers 503 at once.
    Failing,
    /// The same, two seconds in every five.
    Flapping,
    /// Takes so many times as long.
    Slow(f64),
    /// Nothing comes back.
    BlackHole,
    /// Works on one request at a time, four times as slow.
    Overloaded,
    /// Refuses connections.
    Gone,
}

/// A host's fault, and its seconds.
#[derive(Clone, Debug)]
pub(super) struct Ill {
    pub port: u16,
    pub from: f64,
    pub until: f64,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Member {
    pub at: At,
    /// Of the locality `z<zone>`, with its weight.
    pub zone: u8,
    pub zone_weight: Option<u32>,
    /// `version` in `envoy.lb`.
    pub version: Option<u8>,
}

impl From<u16> for Member {
    fn from(port: u16) -> Self {
        Self {
            at: at(port),
            zone: 0,
            zone_weight: None,
            version: None,
        }
    }
}

/// `{envoy.lb: {version: v<version>}}`
pub(super) fn labels(version: u8) -> Metadata {
    let value = Value {
        kind: Some(Kind::StringValue(format!("v{version}"))),
    };
    let fields = [("version".to_owned(), value)].into_iter().collect();
    Metadata {
        filter_metadata: [("envoy.lb".to_owned(), Struct { fields })].into_iter().collect(),
        ..Default::default()
    }
}

/// An assignment, each locality of each priority once.
pub(super) fn assignment_of(members: &[Member]) -> epb::ClusterLoadAssignment {
    let mut whole = assignment(&members.iter().map(|member| member.at).collect::<Vec<_>>());
    let mut localities: Vec<epb::LocalityLbEndpoints> = Vec::new();
    for (mut locality, member) in whole.endpoints.drain(..).zip(members) {
        locality.locality = Some(core::Locality {
            zone: format!("z{}", member.zone),
            ..Default::default()
        });
        locality.load_balancing_weight = member.zone_weight.map(number);
        locality.lb_endpoints[0].metadata = member.version.map(labels);
        let same = |other: &&mut epb::LocalityLbEndpoints| {
            other.locality == locality.locality && other.priority == locality.priority
        };
        match localities.iter_mut().find(same) {
            Some(other) => other.lb_endpoints.append(&mut locality.lb_endpoints),
            None => localities.push(locality),
        }
    }
    whole.endpoints = localities;
    whole
}

/// What is played.
pub(super) struct Plan {
    pub cluster: Arc<Cluster>,
    pub retries: Option<RetryPolicy>,
    /// Seconds for one try.
    pub patience: f64,
    /// Requests per second, and how long they come.
    pub rate: f64,
    pub lasts: f64,
    pub ills: Vec<Ill>,
    /// What discovery says when, in order; the first at once.
    pub told: Vec<(f64, Vec<Member>)>,
    /// Requests ask for one of these `version`s, if there are any.
    pub versions: Vec<u8>,
}

struct Request {
    began: f64,
    hash: u64,
    wants: Option<u8>,
    attempted: Vec<Arc<Host>>,
    sent: f64,
    /// Of the try that is under way.
    active: Option<ActiveRequest>,
    _permit: Permit,
    retry: Option<Permit>,
}

enum Event {
    Arrives,
    /// Another try of a request.
    Retries(usize),
    /// A host has an answer (status) for a try of a request, counted from 1; 0: connection refused.
    Answers(usize, usize, u16),
    /// A try has taken too long.
    GivesUp(usize, usize),
    Told(usize),
}

pub(super) struct World {
    pub plan: Plan,
    pub rng: fastrand::Rng,
    start: Instant,
    pub now: f64,
    /// By time, then by order of insertion.
    queue: BinaryHeap<Reverse<(u64, usize)>>,
    events: Vec<Option<Event>>,
    requests: Vec<Option<Request>>,
    /// When each worker of each host is free again, by port.
    workers: HashMap<u16, [f64; WORKERS]>,
    pub members: Vec<Member>,
    /// Every host that was ever asked.
    asked: HashMap<u64, Arc<Host>>,
    /// Failures in a row, and whether it is ejected, by host.
    in_a_row: HashMap<u64, (u32, bool)>,
    /// Requests under way, and those of them that are in a retry.
    live: u32,
    retrying: u32,
    /// Seconds that each request took, and whether it was answered well.
    pub done: Vec<(f64, bool)>,
    /// Where first tries went while one host was slow, if that is all that is ever wrong, by port.
    pub beside_slow: HashMap<u16, usize>,
}

/// What has to hold does not.
pub(super) type Broken = String;

impl World {
    pub(super) fn new(plan: Plan, seed: u64) -> Self {
        Self {
            plan,
            rng: fastrand::Rng::with_seed(seed),
            start: clock::now(),
            now: 0.0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            requests: Vec::new(),
            workers: HashMap::new(),
            members: Vec::new(),
            asked: HashMap::new(),
            in_a_row: HashMap::new(),
            live: 0,
            retrying: 0,
            done: Vec::new(),
            beside_slow: HashMap::new(),
        }
    }

    pub(super) fn run(&mut self) -> Result<(), Broken> {
        for index in 0..self.plan.told.len() {
            self.at(self.plan.told[index].0, Event::Told(index));
        }
        self.at(0.0, Event::Arrives);
        while let Some(Reverse((time, index))) = self.queue.pop() {
            self.now = time as f64 / 1e9;
            self.tick();
            match self.events[index].take() {
                Some(Event::Arrives) => self.arrive()?,
                Some(Event::Retries(id)) => self.try_host(id)?,
                Some(Event::Answers(id, attempt, status)) => self.answer(id, attempt, status)?,
                Some(Event::GivesUp(id, attempt)) => self.give_up(id, attempt)?,
                Some(Event::Told(index)) => self.tell(index),
                None => {}
            }
            self.check_counts()?;
        }
        self.check_end()
    }

    pub(super) fn instant(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.now)
    }

    /// What is due by now.
    pub(super) fn tick(&mut self) {
        let now = self.instant();
        while self.plan.cluster.next_tick().is_some_and(|due| due <= now) {
            let rng = &mut self.rng;
            self.plan.cluster.tick(now, &mut || rng.u64(..));
        }
        // Who comes back starts over.
        for (id, (failures, ejected)) in &mut self.in_a_row {
            let is_ejected = self.asked.get(id).is_some_and(|host| is_ejected(host));
            if *ejected && !is_ejected {
                *failures = 0;
            }
            *ejected = is_ejected;
        }
    }

    fn at(&mut self, time: f64, event: Event) {
        self.queue.push(Reverse(((time * 1e9) as u64, self.events.len())));
        self.events.push(Some(event));
    }

    fn tell(&mut self, index: usize) {
        self.members.clone_from(&self.plan.told[index].1);
        let assignment = assignment_of(&self.members).encode_to_vec();
        let endpoints = crate::config::endpoint::decode(&assignment).expect("a good assignment");
        let endpoints = crate::config::endpoint::compile(&endpoints, &self.plan.cluster.transport);
        let now = self.instant();
        self.plan
            .cluster
            .set_endpoints_of(endpoints.expect("a good assignment"), now, now);
    }

    fn arrive(&mut self) -> Result<(), Broken> {
        let next = self.now - self.rng.f64().max(1e-12).ln() / self.plan.rate;
        if next < self.plan.lasts {
            self.at(next, Event::Arrives);
        }
        let Some(permit) = self.plan.cluster.breakers.try_request(RoutingPriority::Default) else {
            let limit = self
                .plan
                .cluster
                .breakers
                .thresholds(RoutingPriority::Default)
                .max_requests;
            self.done.push((0.0, false));
            return match self.live < limit {
                true => Err(format!("refused with {} of {limit} requests", self.live)),
                false => Ok(()),
            };
        };
        self.live += 1;
        let wants =
            (!self.plan.versions.is_empty()).then(|| self.plan.versions[self.rng.usize(..self.plan.versions.len())]);
        self.requests.push(Some(Request {
            began: self.now,
            hash: self.rng.u64(..),
            wants,
            attempted: Vec::new(),
            sent: self.now,
            active: None,
            _permit: permit,
            retry: None,
        }));
        self.try_host(self.requests.len() - 1)
    }

    fn try_host(&mut self, id: usize) -> Result<(), Broken> {
        let now = self.instant();
        let Some(request) = &self.requests[id] else {
            return Ok(());
        };
        let (attempted, wants, hash) = (request.attempted.clone(), request.wants, request.hash);
        let picked = {
            let refuses = |host: &Host| {
                let policy = self.plan.retries.as_ref();
                policy.is_some_and(|policy| refuses_host(policy, &attempted, host))
            };
            let retry = self.plan.retries.as_ref().filter(|_| !attempted.is_empty());
            let labels = wants.map(labels);
            let context = PickContext {
                hash: Some(hash),
                metadata_match: labels.as_ref(),
                now: Some(now),
                retry: retry.map(|policy| RetryPick {
                    attempted: &attempted,
                    refuses: &refuses,
                    selections: policy.host_selection_attempts,
                    update_frequency: policy.previous_priorities,
                }),
                ..PickContext::default()
            };
            let rng = &mut self.rng;
            self.plan.cluster.pick_with(&context, &mut || rng.u64(..))
        };
        let Ok(host) = picked else {
            self.check_nobody(wants)?;
            return self.finish(id, false);
        };
        self.check_picked(&host, &attempted, wants)?;
        if attempted.is_empty() {
            self.note_beside_slow(&host);
        }
        self.asked.insert(host.state.id, host.clone());
        let answer = self.serve(&host);
        let active = ActiveRequest::start(&self.plan.cluster, &host);
        let (now, attempt) = (self.now, attempted.len() + 1);
        if let Some(request) = &mut self.requests[id] {
            request.attempted.push(host);
            request.sent = now;
            request.active = Some(active);
        }
        self.at(now + self.plan.patience, Event::GivesUp(id, attempt));
        if let Some((time, status)) = answer {
            self.at(time, Event::Answers(id, attempt, status));
        }
        Ok(())
    }

    fn ill(&self, port: u16) -> Option<Fault> {
        let is_now = |ill: &&Ill| ill.port == port && (ill.from..ill.until).contains(&self.now);
        self.plan.ills.iter().find(is_now).map(|ill| ill.fault)
    }

    /// When the host answers a request that reaches it now, and with what.
    fn serve(&mut self, host: &Host) -> Option<(f64, u16)> {
        let port = port(host);
        let mut workers = WORKERS;
        let mut service = SERVICE * (0.5 + self.rng.f64());
        match self.ill(port) {
            Some(Fault::BlackHole) => return None,
            Some(Fault::Failing) => return Some((self.now + 0.001, 503)),
            Some(Fault::Flapping) if self.now % 5.0 < 2.0 => return Some((self.now + 0.001, 503)),
            Some(Fault::Gone) => return Some((self.now + 0.001, 0)),
            Some(Fault::Slow(factor)) => service *= factor,
            Some(Fault::Overloaded) => {
                workers = 1;
                service *= 4.0;
            }
            Some(Fault::Flapping) | None => {}
        }
        let free = self.workers.entry(port).or_insert([0.0; WORKERS])[..workers].iter_mut();
        let free = free.min_by(|a, b| a.total_cmp(b))?;
        *free = free.max(self.now) + service;
        Some((*free, 200))
    }

    /// The try that is under way, if it is this one: its host, what counts it, and when it was sent.
    fn current(&mut self, id: usize, attempt: usize) -> Option<(Arc<Host>, ActiveRequest, f64)> {
        let request = self.requests[id]
            .as_mut()
            .filter(|request| request.attempted.len() == attempt)?;
        let active = request.active.take()?;
        Some((request.attempted[attempt - 1].clone(), active, request.sent))
    }

    fn answer(&mut self, id: usize, attempt: usize, status: u16) -> Result<(), Broken> {
        let Some((host, active, sent)) = self.current(id, attempt) else {
            return Ok(());
        };
        let (now, before) = (self.instant(), self.ejected());
        if status == 0 {
            drop(active);
            let failure = Failure::ConnectFailure(None);
            self.plan.cluster.observe_failure(&host, &failure, now);
            self.note(&host, true, before)?;
            return self.judge(id, Err(failure));
        }
        let took = Duration::from_secs_f64(self.now - sent);
        self.plan.cluster.observe_time(&host, took, now);
        drop(active.answered(&host, status.into(), now));
        self.note(&host, status >= 500, before)?;
        self.judge(id, Ok(status))
    }

    fn give_up(&mut self, id: usize, attempt: usize) -> Result<(), Broken> {
        let Some((host, active, sent)) = self.current(id, attempt) else {
            return Ok(());
        };
        drop(active);
        let (now, before) = (self.instant(), self.ejected());
        let took = Duration::from_secs_f64(self.now - sent);
        self.plan.cluster.observe_time(&host, took, now);
        self.plan.cluster.observe_failure(&host, &Failure::PerTryTimeout, now);
        self.note(&host, true, before)?;
        self.judge(id, Err(Failure::PerTryTimeout))
    }

    /// Another try, or none.
    fn judge(&mut self, id: usize, outcome: Result<u16, Failure>) -> Result<(), Broken> {
        let Some(request) = &mut self.requests[id] else {
            return Ok(());
        };
        if request.retry.take().is_some() {
            self.retrying -= 1;
        }
        let fine = outcome == Ok(200);
        let tried = request.attempted.len() as u32;
        let Some(policy) = self.plan.retries.clone() else {
            return self.finish(id, fine);
        };
        let wants = match &outcome {
            Ok(status) => {
                let status = StatusCode::from_u16(*status).map_err(|error| error.to_string())?;
                policy.retry_on_response(status, &HeaderMap::new())
            }
            Err(failure) => policy.retry_on_failure(failure, true),
        };
        if wants == fine {
            return Err(format!("a retry after {outcome:?}: {wants}"));
        }
        if fine || tried > policy.num_retries {
            return self.finish(id, fine);
        }
        let limit = self.retry_limit();
        let permit = self.plan.cluster.breakers.try_retry(RoutingPriority::Default, false);
        if permit.is_some() != (self.retrying < limit) {
            let admitted = permit.is_some();
            return Err(format!("a retry beside {} of {limit}: {admitted}", self.retrying));
        }
        let Some(permit) = permit else {
            return self.finish(id, false);
        };
        self.retrying += 1;
        if let Some(request) = &mut self.requests[id] {
            request.retry = Some(permit);
        }
        let pause = policy.backoff(tried, &mut self.rng).as_secs_f64();
        self.at(self.now + pause, Event::Retries(id));
        Ok(())
    }

    /// `max_retries`, or what the retry budget makes of the requests under way.
    fn retry_limit(&self) -> u32 {
        let thresholds = self.plan.cluster.breakers.thresholds(RoutingPriority::Default);
        match thresholds.retry_budget {
            None => thresholds.max_retries,
            Some(budget) => ((f64::from(self.live) * budget.percent / 100.0) as u32).max(budget.min_retry_concurrency),
        }
    }

    fn finish(&mut self, id: usize, fine: bool) -> Result<(), Broken> {
        let Some(request) = self.requests[id].take() else {
            return Ok(());
        };
        self.live -= 1;
        self.retrying -= u32::from(request.retry.is_some());
        let took = self.now - request.began;
        self.done.push((took, fine));
        let retries = self.plan.retries.as_ref().map_or(0, |policy| policy.num_retries);
        let longest = f64::from(retries + 1) * self.plan.patience + f64::from(retries) * 0.25 + 0.001;
        match took <= longest {
            true => Ok(()),
            false => Err(format!("a request took {took} s")),
        }
    }

    fn note_beside_slow(&mut self, host: &Host) {
        let only = match &self.plan.ills[..] {
            [ill] if (ill.from..ill.until).contains(&self.now) => ill.fault,
            _ => return,
        };
        if matches!(only, Fault::Slow(_)) && self.ejected() == 0 {
            *self.beside_slow.entry(port(host)).or_default() += 1;
        }
    }

    pub(super) fn ejected(&self) -> usize {
        let hosts = self.plan.cluster.all_hosts();
        hosts.iter().filter(|host| is_ejected(host)).count()
    }

    /// What was seen of a host, which had failed so and so often in a row: five are enough, if not too many are ejected.
    fn note(&mut self, host: &Arc<Host>, failed: bool, ejected_before: usize) -> Result<(), Broken> {
        let Some(detector) = &self.plan.cluster.outlier else {
            return Ok(());
        };
        let (failures, was_ejected) = self.in_a_row.entry(host.state.id).or_insert((0, false));
        let (was, now) = (std::mem::replace(was_ejected, is_ejected(host)), *was_ejected);
        *failures = if failed { *failures + 1 } else { 0 };
        if *failures < IN_A_ROW {
            return Ok(());
        }
        *failures = 0;
        let most = detector.config.max_ejection_percent as usize * self.members.len();
        let fits = 100 * (ejected_before + 1) <= most;
        match (was, now || is_ejected(host)) {
            (false, false) if fits && host.state.is_member() => {
                Err(format!("{} goes on after {IN_A_ROW} failures in a row", host.address))
            }
            (false, true) if !fits && ejected_before > 0 => Err(format!(
                "{} is ejected beside {ejected_before} of {}",
                host.address,
                self.members.len()
            )),
            _ => Ok(()),
        }
    }
}

pub(super) fn port(host: &Host) -> u16 {
    host.address.ip().map_or(0, |address| address.port())
}

fn is_ejected(host: &Host) -> bool {
    host.state.has(HealthFlag::FailedOutlierCheck)
}

/// What has to hold.
impl World {
    fn member(&self, host: &Host) -> Option<&Member> {
        self.members.iter().find(|member| member.at.port == port(host))
    }

    /// Whether discovery and outlier detection let the host have requests.
    fn is_usable(&self, host: &Host) -> bool {
        use core::HealthStatus as Status;
        let told = self.member(host).map(|member| member.at.health);
        let is_told = matches!(told, Some(Status::Unhealthy | Status::Draining | Status::Timeout));
        told.is_some() && !is_told && !is_ejected(host)
    }

    fn check_nobody(&self, wants: Option<u8>) -> Result<(), Broken> {
        let fits = |host: &Host| wants.is_none() || self.member(host).and_then(|member| member.version) == wants;
        let hosts = self.plan.cluster.all_hosts();
        match hosts.iter().find(|host| fits(host) && self.is_usable(host)) {
            Some(host) => Err(format!("no host, although there is {}", host.address)),
            None if self.plan.cluster.lb.panic_threshold > 0 && wants.is_none() && !hosts.is_empty() => {
                Err("no host, although panic allows all".to_owned())
            }
            None => Ok(()),
        }
    }

    fn check_picked(&self, host: &Arc<Host>, attempted: &[Arc<Host>], wants: Option<u8>) -> Result<(), Broken> {
        let cluster = &self.plan.cluster;
        let Some(member) = self.member(host).filter(|_| host.state.is_member()) else {
            return Err(format!("picked {}, which has left", host.address));
        };
        if wants.is_some() && member.version != wants {
            return Err(format!("picked {} for v{}", host.address, wants.unwrap_or(0)));
        }
        let set = cluster.hosts.load();
        let is_panic = set.loads.panic.get(host.priority as usize) == Some(&true) && cluster.lb.panic_threshold > 0;
        if !self.is_usable(host) {
            return match is_panic {
                true => Ok(()),
                false => Err(format!("picked {}, which is {}", host.address, host.state.flags_text())),
            };
        }
        if is_panic {
            return Ok(());
        }
        let all = cluster.all_hosts();
        let peers: Vec<_> = (all.iter())
            .filter(|other| self.is_usable(other) && other.priority == host.priority)
            .filter(|other| other.state.health() == host.state.health())
            .collect();
        let zone = |host: &Host| self.member(host).map_or(0, |member| member.zone);
        let weight = |host: &Host| self.member(host).and_then(|member| member.zone_weight);
        if cluster.lb.locality_weighted && weight(host).is_none() && peers.iter().any(|other| weight(other).is_some()) {
            return Err(format!("picked {}, whose locality has no weight", host.address));
        }
        if cluster.lb.local.is_some() {
            // Half of all sidecars are in the own zone: as long as half of the hosts are, requests stay.
            let here = peers.iter().filter(|other| zone(other) == 0).count();
            let stays = here > 0 && 2 * here >= peers.len();
            if zone(host) != 0 && stays {
                return Err(format!(
                    "picked {}, which is elsewhere, beside {here} here",
                    host.address
                ));
            }
        }
        let before = |other: &Host| attempted.iter().any(|before| Arc::ptr_eq(&before.state, &other.state));
        let divided = cluster.lb.locality_weighted || cluster.lb.local.is_some();
        let is_beside = |other: &&&Arc<Host>| {
            (!divided || zone(other) == zone(host))
                && self.member(other).and_then(|other| other.version) == member.version
        };
        if before(host) && peers.iter().filter(is_beside).any(|other| !before(other)) {
            return Err(format!("a retry stays at {}", host.address));
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), Broken> {
        let in_use = |resource| self.plan.cluster.breakers.in_use(RoutingPriority::Default, resource);
        let counted = (in_use(Resource::Request), in_use(Resource::Retry));
        match counted == (self.live, self.retrying) {
            true => Ok(()),
            false => Err(format!(
                "{counted:?} for {} requests, {} retries",
                self.live, self.retrying
            )),
        }
    }

    fn check_end(&self) -> Result<(), Broken> {
        let active = |host: &&Arc<Host>| host.state.rq_active.load(Ordering::Relaxed) != 0;
        if let Some(host) = self.asked.values().find(active) {
            return Err(format!("{} still has requests", host.address));
        }
        match (self.live, self.plan.cluster.stats.upstream_rq_active.value()) {
            (0, 0) => Ok(()),
            counts => Err(format!("requests at the end: {counts:?}")),
        }
    }
}
