//! Where hosts come from: static lists, DNS, EDS, original destination.
//!
//! DNS: one task per cluster on the main runtime asks for its names, each by its own clock, and hands the complete host list to the cluster
//! after each answer. The resolver is behind [`Resolve`], so that tests give the answers.

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::Cluster;
use super::priority::AssignmentPolicy;
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
    pub family: LookupFamily,
    pub respect_ttl: bool,
    /// Envoy's default: 5 s.
    pub refresh_rate: Duration,
    /// Floor of the TTL; Envoy has none by default.
    pub min_refresh_rate: Duration,
    pub jitter: Duration,
    pub failure_base: Duration,
    pub failure_max: Duration,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            is_logical: false,
            templates: Vec::new(),
            policy: AssignmentPolicy::default(),
            family: LookupFamily::Auto,
            respect_ttl: false,
            refresh_rate: Duration::from_secs(5),
            min_refresh_rate: Duration::ZERO,
            jitter: Duration::ZERO,
            failure_base: Duration::from_secs(5),
            failure_max: Duration::from_secs(50),
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
    /// Empty when the name exists without addresses.
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// The name could not be resolved; the hosts stay as they are.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResolveError(pub String);

/// A future that a resolver gives.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Answer, ResolveError>> + Send + 'a>>;

/// Resolves one name in one family ([`LookupFamily::V4Only`] or [`LookupFamily::V6Only`]).
pub trait Resolve: Send + Sync + 'static {
    fn resolve<'a>(&'a self, name: &'a str, v6: bool) -> Resolving<'a>;
}

/// Keeps a DNS cluster's hosts up to date for as long as it lives.
pub async fn run(cluster: Weak<Cluster>, resolver: Arc<dyn Resolve>) {
    let names = match cluster.upgrade().as_deref().map(|cluster| &cluster.discovery) {
        Some(Discovery::Dns(config)) => config.templates.len(),
        _ => return,
    };
    let lists = Mutex::new(vec![None; names]);
    // Each name has its own clock: one that nobody answers for holds up no other.
    let each = (0..names).map(|index| follow(&cluster, index, &lists, &*resolver));
    join_all(each).await;
}

/// The addresses of each host of one name, if it was ever resolved; the first is what the host is known by.
type Answered = Option<Vec<Vec<Address>>>;

/// Keeps what one of the names resolves to up to date.
async fn follow(cluster: &Weak<Cluster>, index: usize, lists: &Mutex<Vec<Answered>>, resolver: &dyn Resolve) {
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
                take(&strong, config, &mut lists.lock(), index, hosts);
                Some(ttl)
            }
            Err(error) => {
                tracing::debug!(cluster = %strong.name, %error, "dns resolution failed");
                strong.stats.update_failure.inc();
                None
            }
        };
        let delay = delay(config, ttl, failures, fastrand::u64(..));
        drop(strong);
        clock::sleep(delay).await;
    }
}

/// What a name resolves to now; the cluster gets the hosts of all names.
fn take(cluster: &Cluster, config: &DnsConfig, lists: &mut [Answered], index: usize, hosts: Vec<Vec<Address>>) {
    let Some(known) = lists.get_mut(index) else {
        return;
    };
    if known.as_ref() == Some(&hosts) {
        cluster.stats.update_no_rebuild.inc();
        return;
    }
    *known = Some(hosts);
    cluster.set_endpoints(merge(config, lists), clock::now());
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
    let at = |ip: IpAddr| Address::Ip((ip, port).into());
    let addresses: Vec<Address> = answer.addresses.into_iter().map(at).collect();
    let hosts = match config.is_logical {
        // One host: where its first address does not answer, the others are tried.
        true => vec![addresses],
        false => addresses.into_iter().map(|address| vec![address]).collect(),
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
        (Ok(answer), Err(_)) | (Err(_), Ok(answer)) => Ok(answer),
        (Err(error), Err(_)) => Err(error),
    }
}

/// The system's resolver (`resolv.conf`, `hosts`): one per family.
pub struct SystemResolver {
    v4: hickory_resolver::TokioResolver,
    v6: hickory_resolver::TokioResolver,
}

impl SystemResolver {
    /// # Errors
    /// The system's configuration cannot be read.
    pub fn new() -> Result<Self, ResolveError> {
        use hickory_resolver::config::LookupIpStrategy;
        let resolver = |strategy| {
            let wrap = |error: hickory_resolver::net::NetError| ResolveError(error.to_string());
            // Without a name server Envoy starts too, and asks on this machine.
            let mut builder = match hickory_resolver::TokioResolver::builder_tokio() {
                Ok(builder) => builder,
                Err(_) => on_this_machine(),
            };
            builder.options_mut().ip_strategy = strategy;
            // The cluster itself asks again in time.
            builder.options_mut().cache_size = 0;
            builder.build().map_err(wrap)
        };
        Ok(Self {
            v4: resolver(LookupIpStrategy::Ipv4Only)?,
            v6: resolver(LookupIpStrategy::Ipv6Only)?,
        })
    }
}

fn on_this_machine() -> hickory_resolver::ResolverBuilder<TokioRuntimeProvider> {
    let server = NameServerConfig::udp_and_tcp(std::net::Ipv4Addr::LOCALHOST.into());
    let config = ResolverConfig::from_name_servers(vec![server]);
    hickory_resolver::TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, v6: bool) -> Resolving<'a> {
        Box::pin(async move {
            // RFC 6761 section 6.3: never asked on the network.
            if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
                let address: IpAddr = match v6 {
                    true => std::net::Ipv6Addr::LOCALHOST.into(),
                    false => std::net::Ipv4Addr::LOCALHOST.into(),
                };
                return Ok(Answer {
                    addresses: vec![address],
                    ttl: Duration::from_secs(60),
                });
            }
            let resolver = if v6 { &self.v6 } else { &self.v4 };
            match resolver.lookup_ip(name).await {
                Ok(lookup) => Ok(Answer {
                    addresses: lookup.iter().collect(),
                    ttl: lookup.valid_until().saturating_duration_since(clock::now()),
                }),
                Err(error) if error.is_no_records_found() && !error.is_nx_domain() => Ok(Answer {
                    addresses: Vec::new(),
                    ttl: Duration::ZERO,
                }),
                Err(error) => Err(ResolveError(error.to_string())),
            }
        })
    }
}

#[cfg(test)]
mod tests;
