//! Where hosts come from: static lists, DNS, EDS, original destination.
//!
//! DNS: one task per cluster on the main runtime asks for its names, each by its own clock, and hands the complete host list to the cluster
//! after each answer. The resolver is behind [`Resolve`], so that tests give the answers.

pub mod counted;
pub mod resolver;

use std::collections::HashSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::host::{Health, HealthFlag};
use super::priority::AssignmentPolicy;
use super::{Cluster, Host};
use crate::config::endpoint::{Endpoint, Endpoints, Location, Template};
use crate::runtime::clock;
use crate::runtime::io::Address;

/// A cluster's `type`.
pub enum Discovery {
    /// Endpoints inline in the cluster.
    Static,
    /// Endpoints by [`Cluster::update_endpoints`].
    Eds,
    OriginalDst,
    Dns(DnsConfig),
}

impl Discovery {
    pub fn is_dns(&self) -> bool {
        matches!(self, Self::Dns(_))
    }
}

/// How names are resolved, and which.
#[derive(Clone)]
pub struct DnsConfig {
    /// LOGICAL_DNS: one host, whatever the number of addresses.
    pub is_logical: bool,
    pub templates: Vec<Template>,
    pub policy: AssignmentPolicy,
    /// `wait_for_warm_on_init`: the configuration before goes on until the names were asked for.
    pub waits_for_names: bool,
    pub family: LookupFamily,
    pub respect_ttl: bool,
    /// Envoy's default: 5 s.
    pub refresh_rate: Duration,
    /// Floor of the TTL; Envoy has none by default.
    pub min_refresh_rate: Duration,
    pub jitter: Duration,
    pub failure_base: Duration,
    pub failure_max: Duration,
    /// Who is asked, where that is not the process's own resolver.
    pub resolver: Option<resolver::ResolverConfig>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            is_logical: false,
            templates: Vec::new(),
            policy: AssignmentPolicy::default(),
            waits_for_names: true,
            family: LookupFamily::Auto,
            respect_ttl: false,
            refresh_rate: Duration::from_secs(5),
            min_refresh_rate: Duration::ZERO,
            jitter: Duration::ZERO,
            failure_base: Duration::from_secs(5),
            failure_max: Duration::from_secs(50),
            resolver: None,
        }
    }
}

/// `DnsLookupFamily`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFamily {
    /// IPv6, or IPv4 if there is none.
    Auto,
    V4Only,
    V6Only,
    /// IPv4, or IPv6 if there is none.
    V4Preferred,
    /// Both.
    All,
}

/// What a name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Empty when the name has none, or when there is no such name: to c-ares, and so to Envoy, that is an answer too.
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// Nobody said what the name resolves to; the hosts stay as they are.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResolveError(String);

impl ResolveError {
    /// No answer, or none that can be used.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

/// A future that a resolver gives.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Answer, ResolveError>> + Send + 'a>>;

/// Resolves one name in one family ([`LookupFamily::V4Only`] or [`LookupFamily::V6Only`]).
pub trait Resolve: Send + Sync + 'static {
    fn resolve<'a>(&'a self, name: &'a str, v6: bool) -> Resolving<'a>;

    /// Where its questions are counted; Envoy counts none of the C library's.
    fn stats_prefix(&self) -> Option<&'static str> {
        Some("dns.cares.")
    }
}

/// Keeps a DNS cluster's hosts up to date for as long as it lives.
pub async fn run(cluster: Weak<Cluster>, resolver: Arc<dyn Resolve>) {
    let names = match cluster.upgrade().as_deref().map(|cluster| &cluster.discovery) {
        Some(Discovery::Dns(config)) => config.templates.len(),
        _ => return,
    };
    // Each name has its own clock: one that nobody answers for holds up no other.
    let each = (0..names).map(|index| follow(&cluster, index, &*resolver));
    join_all(each).await;
}

/// Keeps what one of the names resolves to up to date.
async fn follow(cluster: &Weak<Cluster>, index: usize, resolver: &dyn Resolve) {
    let mut failures: u32 = 0;
    loop {
        let Some(strong) = cluster.upgrade() else {
            return;
        };
        let Discovery::Dns(config) = &strong.discovery else {
            return;
        };
        let Some(template) = config.templates.get(index) else {
            return;
        };
        strong.stats.update_attempt.inc();
        let answer = hosts_of(template, config, resolver).await;
        failures = match &answer {
            Ok(_) => 0,
            Err(_) => failures.saturating_add(1),
        };
        let ttl = match answer {
            Ok((hosts, ttl)) => {
                strong.stats.update_success.inc();
                strong.take_answer(config, index, Some(hosts));
                Some(ttl)
            }
            Err(error) => {
                tracing::debug!(cluster = %strong.name, %error, "dns resolution failed");
                strong.stats.update_failure.inc();
                strong.take_answer(config, index, None);
                None
            }
        };
        let delay = delay(config, ttl, failures, fastrand::u64(..));
        drop(strong);
        clock::sleep(delay).await;
    }
}

/// The addresses of each host of one name, if it was ever resolved; the first is what the host is known by.
type Answered = Option<Vec<Vec<Address>>>;

/// What the names of a DNS cluster resolve to.
#[derive(Default)]
pub(crate) struct Names {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// In the order of the configuration; empty until one was asked for.
    lists: Vec<Answered>,
    /// Which of them were asked for, answered or not.
    asked: Vec<bool>,
    /// The hosts are those of the configuration before this one, until every name was asked for.
    inherited: bool,
}

impl Cluster {
    /// Takes the hosts of the configuration that this one replaces, until its own names were asked for: the one goes on until the other is warm.
    pub(crate) fn inherit(&self, old: &Cluster) {
        let (Discovery::Dns(config), Discovery::Dns(_)) = (&self.discovery, &old.discovery) else {
            return;
        };
        let mut known = self.names.known.lock();
        if !config.waits_for_names || !known.asked.is_empty() {
            return;
        }
        known.inherited = true;
        let hosts = old.all_hosts();
        let endpoints = Endpoints {
            hosts: hosts.iter().map(|host| again(host)).collect(),
            policy: config.policy.clone(),
        };
        self.set_endpoints(endpoints, clock::now());
    }

    /// Whether the cluster is not to be used before its names were asked for, and they were not.
    pub(crate) fn waits_for_names(&self) -> bool {
        let Discovery::Dns(config) = &self.discovery else {
            return false;
        };
        let known = self.names.known.lock();
        config.waits_for_names && (known.asked.len() < config.templates.len() || known.asked.contains(&false))
    }

    /// What a name resolves to now, `None` where it could not be resolved; the cluster gets the hosts of all names.
    fn take_answer(&self, config: &DnsConfig, index: usize, hosts: Answered) {
        self.note_answer(config, index, hosts);
        self.is_warm();
    }

    fn note_answer(&self, config: &DnsConfig, index: usize, hosts: Answered) {
        let mut known = self.names.known.lock();
        known.lists.resize(config.templates.len(), None);
        known.asked.resize(config.templates.len(), false);
        if let Some(asked) = known.asked.get_mut(index) {
            *asked = true;
        }
        let all_asked = known.asked.iter().all(|asked| *asked);
        let Some(list) = known.lists.get_mut(index) else {
            return;
        };
        // A first answer without hosts changes nothing either.
        let is_news = hosts.is_some() && list.clone().unwrap_or_default() != hosts.clone().unwrap_or_default();
        if is_news {
            *list = hosts;
        } else if hosts.is_some() {
            self.stats.update_no_rebuild.inc();
            *list = hosts;
            if !config.is_logical && self.stats.max_host_weight.value() == 0 {
                self.stats.max_host_weight.set(1);
            }
        }
        if known.inherited {
            // Its own hosts take over at once, when all are known.
            if !all_asked {
                return;
            }
            known.inherited = false;
        } else if !is_news {
            return;
        }
        self.set_endpoints(merge(config, &known.lists), clock::now());
    }
}

/// The same endpoint for another configuration; its state comes from the registry.
fn again(host: &Host) -> Endpoint {
    let has = |flag| host.state.has(flag);
    Endpoint {
        health: match (has(HealthFlag::FailedEdsHealth), has(HealthFlag::DegradedEdsHealth)) {
            (true, _) => Health::Unhealthy,
            (false, true) => Health::Degraded,
            (false, false) => Health::Healthy,
        },
        draining: has(HealthFlag::EdsStatusDraining),
        host: Host {
            address: host.address.clone(),
            additional_addresses: host.additional_addresses.clone(),
            hostname: host.hostname.clone(),
            locality: host.locality.clone(),
            metadata: host.metadata.clone(),
            tls: host.tls.clone(),
            proxy_header: host.proxy_header.clone(),
            socket_identity: host.socket_identity.clone(),
            health_check: host.health_check.clone(),
            state: host.state.clone(),
            ..*host
        },
    }
}

/// All lists as one, in the order of the configuration.
fn merge(config: &DnsConfig, lists: &[Answered]) -> Endpoints {
    let hosts = |(template, list): (&Template, &Answered)| -> Vec<Endpoint> {
        let list = list.iter().flatten();
        list.filter_map(|addresses| template.at_first(addresses)).collect()
    };
    Endpoints {
        hosts: config.templates.iter().zip(lists).flat_map(hosts).collect(),
        policy: config.policy.clone(),
    }
}

/// Time to the next question. `failures` in a row: full jitter over a doubling interval.
fn delay(config: &DnsConfig, ttl: Option<Duration>, failures: u32, random: u64) -> Duration {
    if failures > 0 {
        let longest = config.failure_max.as_millis() as u64;
        let base = config.failure_base.as_millis() as u64;
        let interval = base.saturating_mul(1 << (failures - 1).min(20)).min(longest).max(1);
        return Duration::from_millis(base.min(interval).max(random % interval));
    }
    let rate = match (config.respect_ttl, ttl) {
        (true, Some(ttl)) if !ttl.is_zero() => ttl.max(config.min_refresh_rate),
        _ => config.refresh_rate,
    };
    let jitter = match config.jitter.as_millis() as u64 {
        0 => 0,
        most => random % (most + 1),
    };
    rate + Duration::from_millis(jitter)
}

/// The hosts behind one endpoint, each with its addresses, and how long they may be believed.
async fn hosts_of(
    template: &Template,
    config: &DnsConfig,
    resolver: &dyn Resolve,
) -> Result<(Vec<Vec<Address>>, Duration), ResolveError> {
    let (name, port) = match &template.location {
        Location::Address(address) => return Ok((vec![vec![address.clone()]], config.refresh_rate)),
        Location::Name(name, port) => (name, *port),
    };
    let answer = look_up(name, config.family, resolver).await?;
    if config.is_logical && answer.addresses.is_empty() {
        // The one host stays where it was; as in Envoy this is no answer.
        return Err(ResolveError::new(format!("{name} has no addresses")));
    }
    let at = |ip: IpAddr| Address::Ip((ip, port).into());
    let addresses: Vec<Address> = answer.addresses.into_iter().map(at).collect();
    let hosts = match config.is_logical {
        // One host: where its first address does not answer, the others are tried.
        true => vec![addresses],
        false => {
            let mut known = HashSet::with_capacity(addresses.len());
            let mut addresses = addresses;
            addresses.retain(|address| known.insert(address.clone()));
            addresses.into_iter().map(|address| vec![address]).collect()
        }
    };
    Ok((hosts, answer.ttl))
}

async fn look_up(name: &str, family: LookupFamily, resolver: &dyn Resolve) -> Result<Answer, ResolveError> {
    let (v6_first, falls_back) = match family {
        LookupFamily::V4Only => (false, false),
        LookupFamily::V6Only => (true, false),
        LookupFamily::Auto => (true, true),
        LookupFamily::V4Preferred => (false, true),
        LookupFamily::All => return both(name, resolver).await,
    };
    let first = resolver.resolve(name, v6_first).await;
    match (&first, falls_back) {
        (Ok(answer), _) if !answer.addresses.is_empty() => first,
        (_, true) => resolver.resolve(name, !v6_first).await,
        (_, false) => first,
    }
}

async fn both(name: &str, resolver: &dyn Resolve) -> Result<Answer, ResolveError> {
    let (v4, v6) = futures_util::future::join(resolver.resolve(name, false), resolver.resolve(name, true)).await;
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.ttl = match (v4.addresses.is_empty(), v6.addresses.is_empty()) {
                (false, false) => v4.ttl.min(v6.ttl),
                (true, _) => v6.ttl,
                (_, true) => v4.ttl,
            };
            v4.addresses.extend(v6.addresses);
            Ok(v4)
        }
        (Ok(answer), Err(_)) | (Err(_), Ok(answer)) if !answer.addresses.is_empty() => Ok(answer),
        // One family has none, and of the other nothing is known.
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests;
