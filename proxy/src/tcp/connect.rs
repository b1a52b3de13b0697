//! New connections to hosts: socket options, source address, connect timeout, TLS.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, UnixStream};

use crate::cluster::options::Eyeballs;
use crate::cluster::{Cluster, Host, SocketOptions};
use crate::filters::network::metadata_exchange::{MetadataExchange, Workload};
use crate::http::failure::Failure;
use crate::listener::SocketState;
use crate::listener::bind::{set_keepalive, set_options};
use crate::runtime::io::{Address, Io};
use crate::runtime::{clock, internal, sys};
use crate::tcp::proxy_header::{Proxied, ProxyHeader};
use crate::telemetry::stats::Counter;
use crate::tls::{PeerInfo, UpstreamTls};

/// What one connection wants otherwise than its cluster says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides<'a> {
    pub alpn: Option<&'a [Vec<u8>]>,
    pub sni: Option<&'a str>,
    /// `auto_san_validation`: the certificate must name this host.
    pub san: Option<&'a str>,
    /// The client's own address is the source (`original_src`).
    pub source: Option<OriginalSource>,
    /// Whom a PROXY header names.
    pub proxied: Option<&'a Proxied<'a>>,
    /// Counts source addresses that cannot be bound.
    pub bind_errors: Option<&'a Counter>,
}

/// The address that upstream connections of a downstream connection come from, and their `SO_MARK`; in the connection's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalSource {
    /// Port 0: any.
    pub address: SocketAddr,
    pub mark: u32,
}

/// Where a connection goes, and how.
pub struct Target<'a> {
    pub address: &'a Address,
    /// `additional_addresses`: tried when the first does not answer (happy eyeballs).
    pub others: &'a [Address],
    pub header: Option<&'a ProxyHeader>,
    pub tls: Option<&'a UpstreamTls>,
    /// The SNI where the context says `auto_host_sni`.
    pub hostname: &'a str,
}

/// A connection, ready for its first byte.
pub struct Connected {
    pub io: Io,
    pub peer: Option<Arc<PeerInfo>>,
    pub local: Option<Address>,
    /// Who the host said it is (`istio.metadata_exchange`).
    pub workload: Option<Workload>,
    pub times: ConnectTimes,
}

/// When a connection was made.
#[derive(Clone, Copy, Debug)]
pub struct ConnectTimes {
    pub begun: Instant,
    pub connected: Instant,
    /// The end of its TLS handshake.
    pub secured: Option<Instant>,
}

impl Connected {
    /// What ALPN agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.peer.as_ref()?.alpn.as_deref()
    }
}

/// Connects to `host` as its cluster says, TLS included, within the cluster's connect timeout.
///
/// # Errors
/// [`Failure::ConnectTimeout`], [`Failure::BindFailure`], or [`Failure::ConnectFailure`] with the transport's reason. Counts nothing.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect_with(cluster: &Cluster, host: &Host, overrides: Overrides<'_>) -> Result<Connected, Failure> {
    if host.unusable {
        let reason = "the host's transport socket is not supported";
        return Err(Failure::ConnectFailure(Some(reason.to_owned())));
    }
    let target = Target {
        address: &host.address,
        others: &host.additional_addresses,
        header: host.proxy_header.as_deref(),
        tls: host.tls.as_deref(),
        hostname: &host.hostname,
    };
    let overrides = Overrides {
        bind_errors: Some(&cluster.stats.bind_errors),
        ..overrides
    };
    reach(cluster, &target, cluster.connect_timeout, overrides).await
}

/// Connects to an address on a cluster's behalf: its socket options, its source addresses, its filters.
///
/// # Errors
/// As [`connect_with`].
pub async fn reach(
    cluster: &Cluster,
    target: &Target<'_>,
    timeout: Duration,
    overrides: Overrides<'_>,
) -> Result<Connected, Failure> {
    let connected = open(target, &cluster.socket, timeout, overrides).await?;
    match &cluster.metadata_exchange {
        Some(exchange) if connected.peer.is_some() => Box::pin(introduce(exchange, connected)).await,
        _ => Ok(connected),
    }
}

/// Both ends tell each other who they are, where ALPN agreed on it.
async fn introduce(exchange: &MetadataExchange, connected: Connected) -> Result<Connected, Failure> {
    let Connected {
        io, peer, local, times, ..
    } = connected;
    let alpn = peer.as_ref().and_then(|peer| peer.alpn.as_deref());
    let (io, workload) = exchange
        .exchange(io, alpn)
        .await
        .map_err(|error| Failure::ConnectFailure(Some(error.to_string())))?;
    Ok(Connected {
        io,
        peer,
        local,
        workload,
        times,
    })
}

/// Connects to an address: the part that needs no cluster.
pub async fn open(
    target: &Target<'_>,
    options: &SocketOptions,
    timeout: Duration,
    overrides: Overrides<'_>,
) -> Result<Connected, Failure> {
    let connecting = async {
        let failed = |error: std::io::Error| match error.get_ref().and_then(|inner| inner.downcast_ref::<Unbound>()) {
            Some(unbound) => Failure::BindFailure(unbound.to_string()),
            None => Failure::ConnectFailure(Some(reason(&error))),
        };
        let begun = clock::now();
        let mut io = match target.others {
            [] => transport(target.address, options, overrides).await,
            others => race(target.address, others, options, overrides).await,
        }
        .map_err(failed)?;
        let mut times = ConnectTimes {
            begun,
            connected: clock::now(),
            secured: None,
        };
        let local = io.local_address();
        if let Some(header) = target.header {
            let own = io
                .as_tcp()
                .map(|stream| (stream.local_addr().ok(), stream.peer_addr().ok()));
            let bytes = header.encode(overrides.proxied, own.unwrap_or_default());
            io.write_all(&bytes).await.map_err(failed)?;
        }
        let Some(tls) = target.tls else {
            return Ok(Connected {
                io,
                peer: None,
                local,
                workload: None,
                times,
            });
        };
        let host_sni = if tls.auto_host_sni() && !target.hostname.is_empty() {
            Some(target.hostname)
        } else {
            None
        };
        let handshake = Box::pin(tls.connect(io, overrides.alpn, overrides.sni.or(host_sni)));
        let done = handshake.await.and_then(|done| match overrides.san {
            Some(name) => tls.check_name(done, name),
            None => Ok(done),
        });
        tls.record(&done);
        let done = done.map_err(|error| Failure::ConnectFailure(Some(error.to_string())))?;
        times.secured = Some(clock::now());
        Ok(Connected {
            io: done.io,
            peer: Some(done.peer),
            local,
            workload: None,
            times,
        })
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(result) => result,
        Err(_) => Err(Failure::ConnectTimeout),
    }
}

/// How long an address has to answer before the next one is tried beside it (RFC 8305, and Envoy's constant).
const HEAD_START: Duration = Duration::from_millis(300);

/// The first address that answers, families taking turns, each with a head start on the next.
async fn race(
    first: &Address,
    others: &[Address],
    options: &SocketOptions,
    overrides: Overrides<'_>,
) -> std::io::Result<Io> {
    let mut waiting = in_turns(first, others, options.eyeballs).into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => running.push(transport(address, options, overrides)),
            None if running.is_empty() => return Err(failure),
            None => {}
        }
        let has_next = waiting.len() > 0;
        tokio::select! {
            biased;
            Some(ended) = running.next() => match ended {
                Ok(io) => return Ok(io),
                Err(error) => failure = error,
            },
            () = clock::sleep(HEAD_START), if has_next => {}
        }
    }
}

/// The families of the addresses in turns, beginning with the one that is wanted first; within a family the order stays.
fn in_turns<'a>(first: &'a Address, others: &'a [Address], eyeballs: Eyeballs) -> Vec<&'a Address> {
    let is_v6 = |address: &&Address| address.ip().is_some_and(|address| address.is_ipv6());
    let all = std::iter::once(first).chain(others);
    let (v6, rest): (Vec<_>, Vec<_>) = all.partition(is_v6);
    let (mut ours, mut theirs) = match eyeballs.v6_first.unwrap_or(is_v6(&first)) {
        true => (v6.into_iter(), rest.into_iter()),
        false => (rest.into_iter(), v6.into_iter()),
    };
    let mut turns = Vec::with_capacity(1 + others.len());
    while turns.len() <= others.len() {
        turns.extend(ours.by_ref().take(eyeballs.count));
        turns.extend(theirs.next());
    }
    turns
}

async fn transport(address: &Address, options: &SocketOptions, overrides: Overrides<'_>) -> std::io::Result<Io> {
    let connected = connect(address, options, overrides).await;
    connected.map_err(|error| match (address, error.raw_os_error()) {
        // The system says so at once, and Envoy that it did.
        (Address::Pipe(_), Some(_)) | (_, Some(libc::ENETUNREACH)) => {
            let text = format!("immediate connect error: {}|remote address:{address}", words(&error));
            std::io::Error::new(error.kind(), text)
        }
        _ => error,
    })
}

async fn connect(address: &Address, options: &SocketOptions, overrides: Overrides<'_>) -> std::io::Result<Io> {
    match address {
        Address::Ip(address) => {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            prepare(&socket, *address, options, overrides)?;
            let stream = socket.connect(*address).await?;
            stream.set_nodelay(true)?;
            Ok(Io::Tcp(stream))
        }
        Address::Pipe(path) => match path.strip_prefix('@') {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
                stream.set_nonblocking(true)?;
                Ok(Io::Unix(UnixStream::from_std(stream)?))
            }
            None => Ok(Io::Unix(UnixStream::connect(&**path).await?)),
        },
        Address::Internal(internal) => internal::connect(&internal.listener).map(Io::Duplex),
    }
}

fn prepare(
    socket: &TcpSocket,
    address: SocketAddr,
    options: &SocketOptions,
    overrides: Overrides<'_>,
) -> std::io::Result<()> {
    let bind = |source: SocketAddr| {
        bind(socket, source).map_err(|error| {
            overrides.bind_errors.into_iter().for_each(Counter::inc);
            std::io::Error::other(Unbound { address: source, error })
        })
    };
    let reference = SockRef::from(socket);
    if options.freebind {
        match address {
            SocketAddr::V4(_) => reference.set_freebind_v4(true)?,
            SocketAddr::V6(_) => reference.set_freebind_v6(true)?,
        }
    }
    if let Some(keepalive) = &options.keepalive {
        set_keepalive(&reference, keepalive)?;
    }
    let source = options.source_for(address);
    let own = source.and_then(|source| source.options.as_ref());
    let wanted = own.unwrap_or(&options.options);
    set_options(&reference, wanted, SocketState::PreBind)?;
    // A client of the other family cannot be the source.
    if let Some(original) = overrides
        .source
        .filter(|original| original.address.is_ipv4() == address.is_ipv4())
    {
        if original.mark != 0 {
            reference.set_mark(original.mark)?;
        }
        set_transparent(socket, original.address)?;
        bind(original.address)?;
    } else if let Some(source) = source {
        bind(source.address)?;
    }
    set_options(&reference, wanted, SocketState::Bound)
}

/// A source address that cannot be bound; in Envoy's words.
#[derive(Debug, thiserror::Error)]
#[error("failed to bind to {address}: {}", words(.error))]
struct Unbound {
    address: SocketAddr,
    error: std::io::Error,
}

fn bind(socket: &TcpSocket, source: SocketAddr) -> std::io::Result<()> {
    if source.port() == 0 {
        sys::bind_address_no_port(socket.as_fd())?;
    }
    socket.bind(source)
}

/// `IP_TRANSPARENT`: an address that is not ours may be bound.
fn set_transparent(socket: &TcpSocket, address: SocketAddr) -> std::io::Result<()> {
    match address {
        SocketAddr::V4(_) => SockRef::from(socket).set_ip_transparent_v4(true),
        SocketAddr::V6(_) => sys::set_socket_option(
            socket.as_fd(),
            libc::SOL_IPV6,
            libc::IPV6_TRANSPARENT,
            &1_i32.to_ne_bytes(),
        ),
    }
}

/// Envoy's words for what a connect says.
fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => format!("delayed connect error: {}", words(error)),
        None => error.to_string(),
    }
}

/// What the system calls the error, without its number.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(address: &Address) -> Target<'_> {
        Target {
            address,
            others: &[],
            header: None,
            tls: None,
            hostname: "",
        }
    }

    /// Bound and closed again: nobody listens there.
    fn nobody() -> SocketAddr {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_refused_connect_says_so() {
        let (address, options) = (Address::Ip(nobody()), SocketOptions::default());
        let result = open(&to(&address), &options, PATIENCE, Overrides::default()).await;
        let failure = result.err();
        let expected = Failure::ConnectFailure(Some("delayed connect error: Connection refused".to_owned()));
        assert_eq!(failure, Some(expected));
        let address = Address::Pipe("@nobody-is-here".into());
        let failure = open(&to(&address), &options, PATIENCE, Overrides::default())
            .await
            .err();
        let expected = "immediate connect error: Connection refused|remote address:@nobody-is-here";
        assert_eq!(failure, Some(Failure::ConnectFailure(Some(expected.to_owned()))));
    }

    #[tokio::test]
    async fn the_source_address_is_the_configured_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = SocketOptions {
            bind: ["127.0.0.6:0", "[::6]:0"]
                .map(|address| address.parse::<SocketAddr>().unwrap().into())
                .into(),
            ..SocketOptions::default()
        };
        let address = Address::Ip(listener.local_addr().unwrap());
        let target = to(&address);
        let connecting = open(&target, &options, PATIENCE, Overrides::default());
        let (connected, accepted) = tokio::join!(connecting, listener.accept());
        assert!(connected.is_ok());
        assert_eq!(accepted.unwrap().1.ip().to_string(), "127.0.0.6");
    }

    #[tokio::test]
    async fn a_source_of_another_family_cannot_be_bound() {
        let options = SocketOptions {
            bind: vec!["[::1]:0".parse::<SocketAddr>().unwrap().into()],
            ..SocketOptions::default()
        };
        let address = Address::Ip(nobody());
        let result = open(&to(&address), &options, PATIENCE, Overrides::default()).await;
        let words = "failed to bind to [::1]:0: Address family not supported by protocol";
        let failure = Failure::BindFailure(words.to_owned());
        assert_eq!(result.err(), Some(failure.clone()));
        let details = "upstream_reset_before_response_started{local_connection_failure|failed_to_bind_to_[::1]:0:_Address_family_not_supported_by_protocol}";
        assert_eq!(failure.full_details(), details);
    }

    #[tokio::test]
    async fn an_additional_address_is_connected_to_when_the_first_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (dead, alive) = (Address::Ip(nobody()), Address::Ip(listener.local_addr().unwrap()));
        let options = SocketOptions::default();
        let others = [Address::Ip(nobody()), alive];
        let target = Target {
            others: &others,
            ..to(&dead)
        };
        let connected = open(&target, &options, PATIENCE, Overrides::default()).await;
        let peer = connected
            .ok()
            .and_then(|connected| connected.io.as_tcp()?.peer_addr().ok());
        assert_eq!(peer, listener.local_addr().ok());
        let target = Target {
            others: &others[..1],
            ..to(&dead)
        };
        assert!(open(&target, &options, PATIENCE, Overrides::default()).await.is_err());
    }

    #[test]
    fn families_take_turns() {
        let turns = |addresses: &[&str], v6_first: Option<bool>, count: usize| {
            let addresses: Vec<Address> = addresses
                .iter()
                .map(|text| Address::Ip(text.parse().unwrap()))
                .collect();
            let (first, others) = addresses.split_first().unwrap();
            let turns = in_turns(first, others, Eyeballs { v6_first, count });
            turns.iter().map(|address| address.to_string()).collect::<Vec<_>>()
        };
        let mixed = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1", "3.3.3.3:1"];
        assert_eq!(
            turns(&mixed, None, 1),
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1", "3.3.3.3:1"]
        );
        assert_eq!(
            turns(&mixed, None, 2),
            ["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1", "3.3.3.3:1"]
        );
        assert_eq!(
            turns(&mixed, Some(false), 3),
            ["1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1", "[::1]:1", "[::2]:1", "[::3]:1"]
        );
        assert_eq!(
            turns(&["1.1.1.1:1", "2.2.2.2:1"], Some(true), 2),
            ["1.1.1.1:1", "2.2.2.2:1"]
        );
    }
}
