//! Where hosts come from: static lists, DNS, EDS, original destination.
//!
//! DNS: one task per cluster on the main runtime asks for its names and hands the complete host list to the cluster. The resolver is behind
//! [`Resolve`], so that tests give the answers.

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;

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
    /// Floor of the TTL.
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
            min_refresh_rate: Duration::from_secs(5),
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
    let mut lists: Vec<Vec<Endpoint>> = Vec::new();
    let mut failures: u32 = 0;
    let mut known = None;
    loop {
        let Some(strong) = cluster.upgrade() else {
            return;
        };
        let Discovery::Dns(config) = &strong.discovery else {
            return;
        };
        strong.stats.update_attempt.inc();
        let answers = join_all(
            config
                .templates
                .iter()
                .map(|template| hosts_of(template, config, &*resolver)),
        )
        .await;
        lists.resize_with(answers.len(), Vec::new);
        let mut ttl = None;
        let mut failed = false;
        for ((answer, list), template) in answers.into_iter().zip(&mut lists).zip(&config.templates) {
            match answer {
                Ok((addresses, lifetime)) => {
                    *list = addresses.into_iter().map(|address| template.at(address)).collect();
                    ttl = Some(ttl.map_or(lifetime, |ttl: Duration| ttl.min(lifetime)));
                }
                Err(error) => {
                    tracing::debug!(cluster = %strong.name, %error, "dns resolution failed");
                    failed = true;
                }
            }
        }
        failures = if failed { failures + 1 } else { 0 };
        match failed {
            true => strong.stats.update_failure.inc(),
            false => strong.stats.update_success.inc(),
        }
        let unchanged = known.as_ref() == Some(&addresses(&lists));
        if unchanged && !failed {
            strong.stats.update_no_rebuild.inc();
        }
        known = Some(addresses(&lists));
        strong.set_endpoints(merge(config, &lists), clock::now());
        let delay = delay(config, ttl, failures, fastrand::u64(..));
        drop(strong);
        clock::sleep(delay).await;
    }
}

fn addresses(lists: &[Vec<Endpoint>]) -> Vec<Address> {
    let all = lists.iter().flatten();
    all.map(|endpoint| endpoint.host.address.clone()).collect()
}

/// All lists as one; the templates are in the order of the configuration.
fn merge(config: &DnsConfig, lists: &[Vec<Endpoint>]) -> Endpoints {
    let again = |(template, list): (&Template, &Vec<Endpoint>)| -> Vec<Endpoint> {
        list.iter()
            .map(|endpoint| template.at(endpoint.host.address.clone()))
            .collect()
    };
    Endpoints {
        hosts: config.templates.iter().zip(lists).flat_map(again).collect(),
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

/// The addresses behind one endpoint, and how long they may be believed.
async fn hosts_of(
    template: &Template,
    config: &DnsConfig,
    resolver: &dyn Resolve,
) -> Result<(Vec<Address>, Duration), ResolveError> {
    let (name, port) = match &template.location {
        Location::Address(address) => return Ok((vec![address.clone()], config.refresh_rate)),
        Location::Name(name, port) => (name, *port),
    };
    let mut answer = look_up(name, config.family, resolver).await?;
    if config.is_logical {
        answer.addresses.truncate(1);
    }
    let at = |ip: IpAddr| Address::Ip((ip, port).into());
    Ok((answer.addresses.into_iter().map(at).collect(), answer.ttl))
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
