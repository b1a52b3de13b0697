//! Zone-aware routing: requests stay in the sidecar's own locality as far as that does not overload it.
//!
//! In: where the sidecars of this service run (the hosts of `cluster_manager.local_cluster_name`), and a cluster's hosts of priority 0 by
//! locality. Out: the locality that a request goes to. The arithmetic is Envoy's: shares of 10,000, integer division included.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Group, LbConfig};
use crate::cluster::Cluster;
use crate::cluster::host::{Health, Host, Locality};
use crate::cluster::priority::{AssignmentPolicy, Availability, PrioritySet, in_panic};
use crate::cluster::stats::ClusterStats;

/// A share of everything.
const WHOLE: u64 = 10_000;

/// `zone_aware_lb_config`; what it says by default holds for every cluster once there is a local cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneAware {
    /// Whole percent of the requests.
    pub routing_enabled: u32,
    /// With fewer healthy hosts than these, localities do not count.
    pub min_cluster_size: u64,
    /// `force_local_zone`: with so many healthy hosts in the own locality, all requests stay there.
    pub force_local: Option<u32>,
    /// `HEALTHY_HOSTS_WEIGHT`: shares are of weight, not of hosts.
    pub by_weight: bool,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self {
            routing_enabled: 100,
            min_cluster_size: 6,
            force_local: None,
            by_weight: false,
        }
    }
}

/// The local cluster: who else sends requests as this sidecar does. One per process.
#[derive(Clone)]
pub struct LocalCluster(Arc<Local>);

struct Local {
    name: Arc<str>,
    /// `node.locality`
    own: Option<Locality>,
    peers: ArcSwap<Peers>,
    /// Clusters that have to know when `peers` change.
    followers: Mutex<Vec<Weak<Cluster>>>,
}

/// The hosts of the local cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
struct Peers {
    availability: Availability,
    localities: Vec<Share>,
}

/// A locality with its healthy hosts.
#[derive(Clone, Debug, PartialEq)]
struct Share {
    locality: Arc<Locality>,
    hosts: u64,
    weight: u64,
}

impl LocalCluster {
    pub fn new(name: Arc<str>, own: Option<Locality>) -> Self {
        Self(Arc::new(Local {
            name,
            own,
            peers: ArcSwap::default(),
            followers: Mutex::default(),
        }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// `cluster` is told about changes from now on.
    pub(crate) fn follow(&self, cluster: &Arc<Cluster>, now: Instant) {
        let mut followers = self.0.followers.lock();
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(Arc::downgrade(cluster));
        drop(followers);
        // What changed between its first hosts and now went unnoticed.
        cluster.refresh(now);
    }

    /// The hosts of the local cluster are these, and priority 0 alone counts.
    pub(crate) fn publish(&self, set: &PrioritySet, now: Instant) {
        let Some(level) = set.priorities.first() else {
            return;
        };
        let mut peers = Peers {
            availability: level.availability,
            localities: Vec::new(),
        };
        for (locality, hosts) in by_locality(&level.hosts, None) {
            peers.localities.push(share(locality, &hosts));
        }
        if **self.0.peers.load() == peers {
            return;
        }
        self.0.peers.store(Arc::new(peers));
        let followers: Vec<_> = self.0.followers.lock().iter().filter_map(Weak::upgrade).collect();
        followers.iter().for_each(|cluster| cluster.refresh(now));
    }
}

impl fmt::Debug for LocalCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalCluster").field(&self.0.name).finish()
    }
}

impl PartialEq for LocalCluster {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Whether localities count for a cluster, and how.
#[derive(Default)]
pub enum Zones {
    /// No local cluster, or no choice between localities.
    #[default]
    Off,
    /// The local cluster has nobody in the own locality.
    LocalNotOk,
    /// Fewer hosts than `min_cluster_size`.
    TooSmall,
    On(Box<Routes>),
}

/// The localities of priority 0, the own first, and how requests are divided among them.
pub struct Routes {
    healthy: Vec<Group>,
    degraded: Vec<Group>,
    division: Division,
    routing_enabled: u32,
    /// Too few of the local cluster's hosts are healthy to tell anything from them.
    local_panic: bool,
}

#[derive(Debug, PartialEq)]
enum Division {
    /// All stay in the first locality.
    Direct,
    /// `own` of 10,000 stay in the first locality. The others go where there is room: `room` sums up, locality by locality.
    Residual { own: u64, room: Vec<u64> },
}

impl Zones {
    /// `hosts` are those of priority 0.
    pub(in crate::cluster) fn build(
        hosts: &[Arc<Host>],
        policy: &AssignmentPolicy,
        lb: &LbConfig,
        previous: &Self,
    ) -> Self {
        let Some(local) = &lb.local else {
            return Self::Off;
        };
        if lb.locality_weighted && !policy.locality_weights.is_empty() {
            return Self::Off;
        }
        let own = local.0.own.as_ref();
        let localities = by_locality(hosts, own);
        let shares: Vec<Share> = localities
            .iter()
            .map(|(locality, hosts)| share(locality.clone(), hosts))
            .collect();
        let peers = local.0.peers.load();
        let division = match divide(&shares, &peers, own, &lb.zone) {
            Ok(division) => division,
            Err(verdict) => return verdict,
        };
        let group = |hosts: &[Arc<Host>], health: Health, before: Option<&Group>| {
            let wanted = |host: &&Arc<Host>| host.state.health() == health;
            let chosen = hosts.iter().filter(wanted).cloned().collect();
            Group::build(chosen, hosts, policy, lb, before.map(Group::position))
        };
        let before = match previous {
            Self::On(routes) => Some(routes),
            _ => None,
        };
        let groups = |health: Health, before: Option<&Vec<Group>>| {
            let of = |(index, (_, hosts)): (usize, &(_, Vec<Arc<Host>>))| {
                group(hosts, health, before.and_then(|groups| groups.get(index)))
            };
            localities.iter().enumerate().map(of).collect()
        };
        Self::On(Box::new(Routes {
            healthy: groups(Health::Healthy, before.map(|routes| &routes.healthy)),
            degraded: groups(Health::Degraded, before.map(|routes| &routes.degraded)),
            division,
            routing_enabled: lb.zone.routing_enabled,
            local_panic: in_panic(&peers.availability, lb.panic_threshold),
        }))
    }

    /// Counts that the division was made anew, and what came of it.
    pub(in crate::cluster) fn count(&self, lb: &LbConfig, stats: &ClusterStats) {
        if lb.local.is_none() {
            return;
        }
        stats.lb_recalculate_zone_structures.inc();
        match self {
            Self::LocalNotOk => stats.lb_local_cluster_not_ok.inc(),
            Self::TooSmall => stats.lb_zone_cluster_too_small.inc(),
            Self::Off | Self::On(_) => {}
        }
    }
}

impl Routes {
    /// The hosts for one request that goes to priority 0; `everybody` where localities do not count for it.
    pub(in crate::cluster) fn group<'a>(
        &'a self,
        everybody: &'a Group,
        degraded: bool,
        lb: &LbConfig,
        stats: &ClusterStats,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<&'a Group> {
        if self.routing_enabled < 100 && random() % 100 >= u64::from(self.routing_enabled) {
            return Some(everybody);
        }
        if self.local_panic {
            stats.lb_local_cluster_not_ok.inc();
            return (!lb.fail_traffic_on_panic).then_some(everybody);
        }
        let index = self.division.choose(self.healthy.len(), stats, random);
        match degraded {
            true => self.degraded.get(index),
            false => self.healthy.get(index),
        }
    }

    /// What share of its priority's requests the locality of `host` gets, of 10,000.
    pub(in crate::cluster) fn share_of(&self, host: &Host) -> Option<u64> {
        let is_home = |group: &Group| group.hosts().any(|other| Arc::ptr_eq(&other.state, &host.state));
        let index = self.healthy.iter().position(is_home)?;
        Some(self.division.share(index))
    }
}

impl Division {
    fn choose(&self, localities: usize, stats: &ClusterStats, random: &mut dyn FnMut() -> u64) -> usize {
        let Self::Residual { own, room } = self else {
            stats.lb_zone_routing_all_directly.inc();
            return 0;
        };
        if random() % WHOLE < *own {
            stats.lb_zone_routing_sampled.inc();
            return 0;
        }
        stats.lb_zone_routing_cross_zone.inc();
        let total = room.last().copied().unwrap_or(0);
        if total == 0 {
            stats.lb_zone_no_capacity_left.inc();
            return (random() % localities.max(1) as u64) as usize;
        }
        let draw = random() % total;
        room.partition_point(|sum| *sum <= draw)
    }

    fn share(&self, index: usize) -> u64 {
        let Self::Residual { own, room } = self else {
            return if index == 0 { WHOLE } else { 0 };
        };
        let stays = if index == 0 { *own } else { 0 };
        let before = index.checked_sub(1).and_then(|before| room.get(before)).copied();
        let mine = room.get(index).copied().unwrap_or(0) - before.unwrap_or(0);
        let others = WHOLE.saturating_sub(*own);
        match room.last().copied().unwrap_or(0) {
            0 => stays + others / room.len().max(1) as u64,
            total => stays + others * mine / total,
        }
    }
}

/// Envoy's `regenerateLocalityRoutingStructures`: `upstream` has the own locality first, if it has hosts there.
fn divide(upstream: &[Share], peers: &Peers, own: Option<&Locality>, config: &ZoneAware) -> Result<Division, Zones> {
    if upstream.len() < 2 {
        return Err(Zones::Off);
    }
    if peers.localities.len() < 2 && config.force_local.is_none() {
        return Err(Zones::Off);
    }
    let is_own = |share: &Share| Some(&*share.locality) == own;
    if !peers.localities.iter().any(is_own) {
        return Err(Zones::LocalNotOk);
    }
    let healthy: u64 = upstream.iter().map(|share| share.hosts).sum();
    if healthy < config.min_cluster_size {
        return Err(Zones::TooSmall);
    }
    let size = |share: &Share| if config.by_weight { share.weight } else { share.hosts };
    let part = |size: u64, total: u64| (WHOLE * size).checked_div(total).unwrap_or(0);
    let total_here: u64 = peers.localities.iter().map(size).sum();
    let total_there: u64 = upstream.iter().map(size).sum();
    let parts: Vec<(u64, u64)> = upstream
        .iter()
        .map(|share| match share.hosts {
            // Its locality does not matter then.
            0 => (0, 0),
            _ => {
                let same = peers.localities.iter().find(|peer| peer.locality == share.locality);
                (part(same.map_or(0, size), total_here), part(size(share), total_there))
            }
        })
        .collect();
    let has_own = is_own(&upstream[0]);
    let (here, there) = parts[0];
    let is_forced = config
        .force_local
        .is_some_and(|least| upstream[0].hosts >= u64::from(least));
    if has_own && ((there > 0 && there >= here) || is_forced) {
        return Ok(Division::Direct);
    }
    let mut sum = 0;
    let room = parts.iter().enumerate().map(|(index, (here, there))| {
        if !(index == 0 && has_own) {
            sum += there.saturating_sub(*here);
        }
        sum
    });
    Ok(Division::Residual {
        room: room.collect(),
        own: match has_own {
            true => (there * WHOLE).checked_div(here).unwrap_or(0),
            false => 0,
        },
    })
}

fn share(locality: Arc<Locality>, hosts: &[Arc<Host>]) -> Share {
    let healthy = || hosts.iter().filter(|host| host.state.health() == Health::Healthy);
    Share {
        locality,
        hosts: healthy().count() as u64,
        weight: healthy().map(|host| u64::from(host.weight)).sum(),
    }
}

/// Hosts by locality: the own one first, then by name.
fn by_locality(hosts: &[Arc<Host>], own: Option<&Locality>) -> Vec<(Arc<Locality>, Vec<Arc<Host>>)> {
    let mut found: Vec<(Arc<Locality>, Vec<Arc<Host>>)> = Vec::new();
    for host in hosts {
        match found.iter_mut().find(|(locality, _)| *locality == host.locality) {
            Some((_, hosts)) => hosts.push(host.clone()),
            None => found.push((host.locality.clone(), vec![host.clone()])),
        }
    }
    found.sort_by(|(a, _), (b, _)| {
        let rank = |locality: &Locality| Some(locality) != own;
        (rank(a), &a.region, &a.zone, &a.sub_zone).cmp(&(rank(b), &b.region, &b.zone, &b.sub_zone))
    });
    found
}

#[cfg(test)]
mod tests;
