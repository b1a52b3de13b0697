//! `--run-validation`: whether the rules are in force, tried as Istio's validation container tries it. A connection to 127.0.0.6 (or ::6) that only
//! the rules can lead anywhere must arrive at one of the proxy's ports, with its own port as the original destination.
//!
//! To be run before the proxy, as its user: connections of anybody else to the loopback interface are left alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::select_all;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::runtime::clock;

/// The exit status that the pod's repair controller looks for.
pub const EXIT_CODE: u8 = 126;
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);
const BACKLOG: u32 = 128;

/// Why the rules are taken not to be in force.
#[derive(Debug, thiserror::Error)]
pub enum ValidationError {
    #[error("no listener available: {}", .0.join("; "))]
    NoListener(Vec<String>),
    #[error("no redirected connection arrived within {0:?}: the rules are not in force")]
    Timeout(Duration),
    #[error("{0}")]
    System(#[from] io::Error),
}

/// What to try.
pub struct Probe {
    /// The proxy's.
    pub ports: [u16; 2],
    /// `--iptables-probe-port`
    pub port: u16,
    /// `--probe-timeout`
    pub timeout: Duration,
    pub v6: bool,
}

impl Probe {
    /// Waits for a redirected connection.
    ///
    /// # Errors
    /// None came in time, or neither of the ports can be had.
    pub fn run(&self) -> Result<(), ValidationError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.attempt())
    }

    async fn attempt(&self) -> Result<(), ValidationError> {
        let (mut listeners, mut reasons) = (Vec::new(), Vec::new());
        for port in self.ports {
            let address = SocketAddr::new(self.loopback(), port);
            match listen(address) {
                Ok(listener) => listeners.push(Box::pin(arrival(listener, self.port))),
                Err(error) => reasons.push(format!("{address}: {error}")),
            }
        }
        if listeners.is_empty() {
            return Err(ValidationError::NoListener(reasons));
        }
        let arrived = async {
            tokio::select! {
                _ = select_all(listeners) => {}
                () = self.knock() => {}
            }
        };
        let arrived = tokio::time::timeout(self.timeout, arrived).await;
        arrived.map_err(|_| ValidationError::Timeout(self.timeout))
    }

    /// Connects again and again, never to an end.
    async fn knock(&self) {
        let target = match self.v6 {
            false => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
            true => IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
        };
        loop {
            let connected = socket(target).and_then(|socket| {
                socket.bind(SocketAddr::new(self.loopback(), 0))?;
                Ok(socket)
            });
            // Refused is what it is without rules.
            if let Ok(socket) = connected {
                drop(socket.connect(SocketAddr::new(target, self.port)).await);
            }
            clock::sleep(PAUSE).await;
        }
    }

    fn loopback(&self) -> IpAddr {
        match self.v6 {
            false => Ipv4Addr::LOCALHOST.into(),
            true => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

/// Completes when a connection comes whose original destination has this port.
async fn arrival(listener: TcpListener, port: u16) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            continue;
        };
        let Some(original) = original_port(&stream) else {
            continue;
        };
        // For whoever looks at it by hand; the peer may be gone.
        let _ = stream.write_all(original.to_string().as_bytes()).await;
        if original == port {
            return;
        }
    }
}

fn original_port(stream: &TcpStream) -> Option<u16> {
    let socket = SockRef::from(stream);
    let original = match stream.local_addr().ok()? {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    Some(original.ok()?.as_socket()?.port())
}

fn socket(address: IpAddr) -> io::Result<TcpSocket> {
    match address {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address.ip())?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
