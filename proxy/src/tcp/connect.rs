//! New connections to hosts: socket options, source address, connect timeout, TLS.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, UnixStream};

use crate::cluster::{Cluster, Host, SocketOptions};
use crate::filters::http::peer_metadata::Peer;
use crate::filters::network::metadata_exchange::MetadataExchange;
use crate::http::failure::Failure;
use crate::listener::bind::set_keepalive;
use crate::runtime::io::{Address, Io};
use crate::runtime::{internal, sys};
use crate::tls::{PeerInfo, UpstreamTls};

/// What one connection wants otherwise than its cluster says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides<'a> {
    pub alpn: Option<&'a [Vec<u8>]>,
    pub sni: Option<&'a str>,
    /// `auto_san_validation`: the certificate must name this host.
    pub san: Option<&'a str>,
}

/// A connection, ready for its first byte.
pub struct Connected {
    pub io: Io,
    pub peer: Option<Arc<PeerInfo>>,
    pub local: Option<Address>,
    /// Who the host said it is (`istio.metadata_exchange`).
    pub workload: Option<Arc<Peer>>,
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
/// [`Failure::ConnectTimeout`], or [`Failure::ConnectFailure`] with the transport's reason. Counts nothing.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect(cluster: &Cluster, host: &Host) -> Result<Connected, Failure> {
    connect_with(cluster, host, Overrides::default()).await
}

/// As [`connect`], with what this connection wants otherwise.
pub async fn connect_with(cluster: &Cluster, host: &Host, overrides: Overrides<'_>) -> Result<Connected, Failure> {
    let connected = open(
        &host.address,
        &cluster.socket,
        cluster.connect_timeout,
        host.tls.as_deref(),
        &host.hostname,
        overrides,
    )
    .await?;
    match &cluster.metadata_exchange {
        Some(exchange) if connected.peer.is_some() => Box::pin(introduce(exchange, connected)).await,
        _ => Ok(connected),
    }
}

/// Both ends tell each other who they are, where ALPN agreed on it.
async fn introduce(exchange: &MetadataExchange, connected: Connected) -> Result<Connected, Failure> {
    let Connected { io, peer, local, .. } = connected;
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
    })
}

/// Connects to an address: the part that needs no cluster. `hostname` is the SNI where the context says `auto_host_sni`.
pub async fn open(
    address: &Address,
    options: &SocketOptions,
    timeout: Duration,
    tls: Option<&UpstreamTls>,
    hostname: &str,
    overrides: Overrides<'_>,
) -> Result<Connected, Failure> {
    let connecting = async {
        let io = transport(address, options)
            .await
            .map_err(|error| Failure::ConnectFailure(Some(reason(&error))))?;
        let local = io.local_address();
        let Some(tls) = tls else {
            return Ok(Connected {
                io,
                peer: None,
                local,
                workload: None,
            });
        };
        let host_sni = if tls.auto_host_sni() && !hostname.is_empty() {
            Some(hostname)
        } else {
            None
        };
        let handshake = Box::pin(tls.connect(io, overrides.alpn, overrides.sni.or(host_sni)));
        let done = handshake.await.and_then(|done| match overrides.san {
            Some(name) => done.names(name),
            None => Ok(done),
        });
        let done = done.map_err(|error| Failure::ConnectFailure(Some(error.to_string())))?;
        Ok(Connected {
            io: done.io,
            peer: Some(done.peer),
            local,
            workload: None,
        })
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(result) => result,
        Err(_) => Err(Failure::ConnectTimeout),
    }
}

async fn transport(address: &Address, options: &SocketOptions) -> std::io::Result<Io> {
    match address {
        Address::Ip(address) => {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            prepare(&socket, *address, options)?;
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
        Address::Internal(name) => internal::connect(name).map(Io::Duplex),
    }
}

fn prepare(socket: &TcpSocket, address: SocketAddr, options: &SocketOptions) -> std::io::Result<()> {
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
    if let Some(source) = options.bind.iter().find(|source| source.is_ipv4() == address.is_ipv4()) {
        if source.port() == 0 {
            sys::bind_address_no_port(socket.as_fd())?;
        }
        socket.bind(*source)?;
    }
    Ok(())
}

/// Envoy's words for what a connect says.
fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("delayed connect error: {}", {
            let text = error.to_string();
            text.split(" (os error")
                .next()
                .map_or_else(|| code.to_string(), str::to_owned)
        }),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connect_says_so() {
        // Bound and closed again: nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let (address, options) = (Address::Ip(free), SocketOptions::default());
        let result = open(
            &address,
            &options,
            Duration::from_secs(5),
            None,
            "",
            Overrides::default(),
        )
        .await;
        let failure = result.err();
        let expected = Failure::ConnectFailure(Some("delayed connect error: Connection refused".to_owned()));
        assert_eq!(failure, Some(expected));
    }

    #[tokio::test]
    async fn the_source_address_is_the_configured_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = SocketOptions {
            bind: vec!["127.0.0.6:0".parse().unwrap(), "[::6]:0".parse().unwrap()],
            ..SocketOptions::default()
        };
        let address = Address::Ip(listener.local_addr().unwrap());
        let connecting = open(
            &address,
            &options,
            Duration::from_secs(5),
            None,
            "",
            Overrides::default(),
        );
        let (connected, accepted) = tokio::join!(connecting, listener.accept());
        assert!(connected.is_ok());
        assert_eq!(accepted.unwrap().1.ip().to_string(), "127.0.0.6");
    }
}
