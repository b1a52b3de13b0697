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
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::UdpSocket;

    use super::*;
    use crate::runtime::spawn::spawn;

    /// A name server that answers every question for an IPv4 address by `answer`, or never.
    async fn name_server(answer: Option<Ipv4Addr>, asked: Arc<AtomicUsize>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        spawn("name server", async move {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                asked.fetch_add(1, Ordering::Relaxed);
                let Some(answer) = answer else { continue };
                let name = question[12..length].iter().position(|byte| *byte == 0).unwrap();
                let mut reply = question[..12 + name + 5].to_vec();
                // A response, recursion available; one question, one answer, nothing else.
                reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
                reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
                reply.extend(answer.octets());
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        address
    }

    fn of(servers: Vec<SocketAddr>) -> NameServers {
        NameServers {
            servers,
            timeout: Duration::from_millis(300),
            tries: 2,
            ..NameServers::default()
        }
    }

    async fn resolved(resolver: &dyn Resolve) -> Vec<IpAddr> {
        resolver.resolve("svc.test", false).await.unwrap().addresses
    }

    #[tokio::test]
    async fn the_servers_of_the_configuration_are_asked_in_their_order() {
        let asked: [Arc<AtomicUsize>; 2] = Default::default();
        let [one, two] = [Ipv4Addr::new(10, 1, 1, 1), Ipv4Addr::new(10, 2, 2, 2)];
        let servers = vec![
            name_server(Some(one), asked[0].clone()).await,
            name_server(Some(two), asked[1].clone()).await,
        ];
        let in_order = build(Some(&ResolverConfig::NameServers(of(servers.clone())))).unwrap();
        let answer = in_order.resolve("svc.test", false).await.unwrap();
        assert_eq!(answer.addresses, [IpAddr::from(one)]);
        assert!(answer.ttl > Duration::from_secs(28) && answer.ttl <= Duration::from_secs(30));
        assert_eq!(resolved(&*in_order).await, [IpAddr::from(one)]);
        assert_eq!(asked[1].load(Ordering::Relaxed), 0);
        let turns = NameServers {
            rotates: true,
            ..of(servers)
        };
        let in_turn = build(Some(&ResolverConfig::NameServers(turns))).unwrap();
        let answers = [
            resolved(&*in_turn).await,
            resolved(&*in_turn).await,
            resolved(&*in_turn).await,
        ];
        assert_eq!(answers, [[one], [two], [one]].map(|address| address.map(IpAddr::from)));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_not_asked_first_again() {
        let asked: [Arc<AtomicUsize>; 2] = Default::default();
        let good = Ipv4Addr::new(10, 2, 2, 2);
        let servers = vec![
            name_server(None, asked[0].clone()).await,
            name_server(Some(good), asked[1].clone()).await,
        ];
        let resolver = build(Some(&ResolverConfig::NameServers(of(servers)))).unwrap();
        assert_eq!(resolved(&*resolver).await, [IpAddr::from(good)]);
        let silent = asked[0].load(Ordering::Relaxed);
        assert!(silent >= 1);
        assert_eq!(resolved(&*resolver).await, [IpAddr::from(good)]);
        assert_eq!(asked[0].load(Ordering::Relaxed), silent);
    }

    #[tokio::test]
    async fn nobody_answers_and_that_ends() {
        let asked: Arc<AtomicUsize> = Arc::default();
        let silent = name_server(None, asked.clone()).await;
        let resolver = build(Some(&ResolverConfig::NameServers(of(vec![silent])))).unwrap();
        let started = clock::now();
        assert!(resolver.resolve("svc.test", false).await.is_err());
        let took = clock::now() - started;
        assert!(took >= Duration::from_millis(550), "two tries of 300 ms, not {took:?}");
    }

    #[tokio::test]
    async fn the_c_library_knows_this_machine() {
        let resolver = build(Some(&ResolverConfig::GetAddrInfo { retries: Some(0) })).unwrap();
        let answer = resolver.resolve("localhost", false).await.unwrap();
        assert_eq!(answer.addresses, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert_eq!(answer.ttl, Duration::from_secs(60));
        assert!(resolver.resolve("a\0b", false).await.is_err());
    }
}
