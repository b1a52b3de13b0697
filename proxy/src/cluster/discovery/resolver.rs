//! Resolvers: the system's name servers (`resolv.conf`, `hosts`), others that the configuration names, or `getaddrinfo`.
//!
//! Several name servers are asked one after the other, as c-ares does it: one that does not answer is not the first to be asked next time.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig as HickoryConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;

use super::{Answer, Resolve, ResolveError, Resolving};
use crate::runtime::clock;

/// What names are resolved by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolverConfig {
    NameServers(NameServers),
    /// The C library's resolver.
    GetAddrInfo {
        /// `num_retries`: what follows an answer that says to try again.
        retries: Option<u32>,
    },
}

/// `CaresDnsResolverConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServers {
    /// In place of the system's; those count when this is empty.
    pub servers: Vec<SocketAddr>,
    /// `use_resolvers_as_fallback`: the system's count where it has any.
    pub only_without_system: bool,
    pub over_tcp: bool,
    /// Whether the system's search domains are tried.
    pub searches: bool,
    /// `rotate_nameservers`: each question begins with the next one.
    pub rotates: bool,
    /// Of one question to one server; Envoy's default is 5 s.
    pub timeout: Duration,
    /// How often each server is asked; Envoy's default is 4.
    pub tries: u32,
    pub edns_payload: Option<u16>,
}

impl Default for NameServers {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            only_without_system: false,
            over_tcp: false,
            searches: true,
            rotates: false,
            timeout: Duration::from_secs(5),
            tries: 4,
            edns_payload: None,
        }
    }
}

/// The resolver that `config` asks for; without one, the system's.
///
/// # Errors
/// It cannot be made.
pub fn build(config: Option<&ResolverConfig>) -> Result<Arc<dyn Resolve>, ResolveError> {
    match config {
        None => Ok(Arc::new(SystemResolver::new()?)),
        Some(ResolverConfig::GetAddrInfo { retries }) => Ok(Arc::new(GetAddrInfo { retries: *retries })),
        Some(ResolverConfig::NameServers(config)) => Ok(Arc::new(InTurn::new(config)?)),
    }
}

/// One resolver per family.
struct Families {
    v4: TokioResolver,
    v6: TokioResolver,
}

impl Families {
    fn new(config: &HickoryConfig, options: &ResolverOpts) -> Result<Self, ResolveError> {
        let resolver = |strategy| {
            let mut builder = TokioResolver::builder_with_config(config.clone(), TokioRuntimeProvider::default());
            *builder.options_mut() = options.clone();
            builder.options_mut().ip_strategy = strategy;
            // The cluster itself asks again in time.
            builder.options_mut().cache_size = 0;
            builder.build().map_err(|error| ResolveError::new(error.to_string()))
        };
        Ok(Self {
            v4: resolver(LookupIpStrategy::Ipv4Only)?,
            v6: resolver(LookupIpStrategy::Ipv6Only)?,
        })
    }

    async fn look_up(&self, name: &str, v6: bool) -> Result<Answer, ResolveError> {
        let resolver = if v6 { &self.v6 } else { &self.v4 };
        match resolver.lookup_ip(name).await {
            Ok(lookup) => Ok(Answer {
                addresses: lookup.iter().collect(),
                ttl: lookup.valid_until().saturating_duration_since(clock::now()),
            }),
            // Also of a name that does not exist: for Envoy both are answers, and the hosts are gone.
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Ok(Answer {
                addresses: Vec::new(),
                ttl: Duration::ZERO,
            }),
            Err(error) => Err(ResolveError::new(error.to_string())),
        }
    }
}

/// The system's configuration. Without a name server Envoy starts too, and asks on this machine.
fn system() -> (HickoryConfig, ResolverOpts) {
    let here = || NameServerConfig::udp_and_tcp(std::net::Ipv4Addr::LOCALHOST.into());
    match read_system_conf() {
        Ok((mut config, options)) => {
            if config.name_servers().is_empty() {
                config.add_name_server(here());
            }
            (config, options)
        }
        Err(_) => (HickoryConfig::from_name_servers(vec![here()]), ResolverOpts::default()),
    }
}

/// RFC 6761 section 6.3: never asked on the network.
fn here(name: &str, v6: bool) -> Option<Answer> {
    let is_here = name.trim_end_matches('.').eq_ignore_ascii_case("localhost");
    is_here.then(|| Answer {
        addresses: vec![match v6 {
            true => std::net::Ipv6Addr::LOCALHOST.into(),
            false => std::net::Ipv4Addr::LOCALHOST.into(),
        }],
        ttl: Duration::from_secs(60),
    })
}

/// The system's resolver (`resolv.conf`, `hosts`).
pub struct SystemResolver(Families);

impl SystemResolver {
    /// # Errors
    /// The system's configuration cannot be used.
    pub fn new() -> Result<Self, ResolveError> {
        let (config, options) = system();
        Families::new(&config, &options).map(Self)
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, v6: bool) -> Resolving<'a> {
        Box::pin(async move {
            match here(name, v6) {
                Some(answer) => Ok(answer),
                None => self.0.look_up(name, v6).await,
            }
        })
    }
}

/// Name servers, asked one after the other.
struct InTurn {
    servers: Vec<Families>,
    /// Whom the next question goes to first.
    first: AtomicUsize,
    rotates: bool,
    tries: u32,
}

impl InTurn {
    fn new(config: &NameServers) -> Result<Self, ResolveError> {
        let from_system = read_system_conf().ok();
        let has_system = from_system
            .as_ref()
            .is_some_and(|(config, _)| !config.name_servers().is_empty());
        let (system, mut options) = system();
        options.timeout = config.timeout;
        // Who is asked again is decided here.
        options.attempts = 0;
        options.num_concurrent_reqs = 1;
        if let Some(size) = config.edns_payload {
            options.edns0 = true;
            options.edns_payload_len = size;
        }
        let are_spare = config.only_without_system && has_system;
        let own = !config.servers.is_empty() && !are_spare;
        let (domain, search, known) = system.into_parts();
        let (domain, search) = match config.searches {
            true => (domain, search),
            false => (None, Vec::new()),
        };
        let servers: Vec<NameServerConfig> = match own {
            true => config.servers.iter().map(|address| at(*address)).collect(),
            false => known,
        };
        let alone = |mut server: NameServerConfig| {
            if config.over_tcp {
                server
                    .connections
                    .retain(|connection| matches!(connection.protocol, hickory_resolver::config::ProtocolConfig::Tcp));
            }
            let config = HickoryConfig::from_parts(domain.clone(), search.clone(), vec![server]);
            Families::new(&config, &options)
        };
        Ok(Self {
            servers: servers.into_iter().map(alone).collect::<Result<_, _>>()?,
            first: AtomicUsize::new(0),
            rotates: config.rotates,
            tries: config.tries,
        })
    }

    async fn ask(&self, name: &str, v6: bool) -> Result<Answer, ResolveError> {
        let count = self.servers.len().max(1);
        let first = match self.rotates {
            true => self.first.fetch_add(1, Ordering::Relaxed),
            false => self.first.load(Ordering::Relaxed),
        };
        let mut failure = ResolveError::new("no name server".to_owned());
        for turn in 0..count * self.tries as usize {
            let index = first.wrapping_add(turn) % count;
            let Some(server) = self.servers.get(index) else {
                break;
            };
            match server.look_up(name, v6).await {
                Err(error) => failure = error,
                answer => {
                    if turn > 0 && !self.rotates {
                        self.first.store(index, Ordering::Relaxed);
                    }
                    return answer;
                }
            }
        }
        Err(failure)
    }
}

impl Resolve for InTurn {
    fn resolve<'a>(&'a self, name: &'a str, v6: bool) -> Resolving<'a> {
        Box::pin(async move {
            match here(name, v6) {
                Some(answer) => Ok(answer),
                None => self.ask(name, v6).await,
            }
        })
    }
}

fn at(address: SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

/// The C library's resolver, on a thread that may block.
struct GetAddrInfo {
    retries: Option<u32>,
}

/// Envoy goes on for ever where nothing is configured; the cluster asks again itself, so that this does.
const RETRIES: u32 = 8;

/// EAI_NONAME and EAI_NODATA have no kind of their own: as glibc and musl put them.
const NO_SUCH_NAME: [&str; 4] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
];

impl Resolve for GetAddrInfo {
    fn resolve<'a>(&'a self, name: &'a str, v6: bool) -> Resolving<'a> {
        Box::pin(async move {
            let mut left = self.retries.unwrap_or(RETRIES);
            loop {
                let asked = name.to_owned();
                let found = tokio::task::spawn_blocking(move || (asked.as_str(), 0).to_socket_addrs()).await;
                let failure = match found {
                    Ok(Ok(addresses)) => {
                        let mut addresses: Vec<IpAddr> = addresses
                            .map(|address| address.ip())
                            .filter(|address| address.is_ipv6() == v6)
                            .collect();
                        addresses.dedup();
                        // The interface tells no time to live: Envoy takes a minute.
                        let ttl = Duration::from_secs(60);
                        return Ok(Answer { addresses, ttl });
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                if NO_SUCH_NAME.iter().any(|text| failure.contains(text)) {
                    let addresses = Vec::new();
                    let ttl = Duration::ZERO;
                    return Ok(Answer { addresses, ttl });
                }
                // EAI_AGAIN has no kind of its own: as glibc and musl put it.
                let is_passing = failure.contains("Temporary failure") || failure.contains("Try again");
                if !is_passing || left == 0 {
                    return Err(ResolveError::new(failure));
                }
                left -= 1;
            }
        })
    }

    fn stats_prefix(&self) -> Option<&'static str> {
        None
    }
}

#[cfg(test)]
mod tests;
