//! Listening sockets: made once per listener and worker, never re-made for an update.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::{Keepalive, ListenerSettings, SocketOption, SocketState};
use crate::runtime::io::Address;
use crate::runtime::sys;

/// A socket to listen on, not yet tied to a runtime.
pub enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// One address that a listener could not have.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind listener '{listener}' to {address}: {reason}")]
pub struct BindError {
    pub listener: Arc<str>,
    pub address: Address,
    pub reason: io::Error,
}

impl BindError {
    /// As Envoy tells a control plane; the listener's name goes in front of it.
    pub fn in_envoys_words(&self) -> String {
        let reason = self.reason.to_string();
        // The standard library adds the number.
        let reason = reason.split(" (os error").next().unwrap_or_default();
        format!("cannot bind '{}': {reason}", self.address)
    }
}

/// Makes bound sockets of one address listen; those that do already are left alone.
///
/// # Errors
/// What the system says, with the listener and its address.
pub fn listen(
    sockets: &[Bound],
    listener: &Arc<str>,
    address: &Address,
    settings: &ListenerSettings,
) -> Result<(), BindError> {
    let listen_on = |bound: &Bound| {
        let socket = bound.reference();
        if socket.is_listener()? {
            return Ok(());
        }
        bound.listen(settings.backlog)?;
        set_all(&socket, settings, SocketState::Listening)
    };
    sockets.iter().try_for_each(listen_on).map_err(|reason| BindError {
        listener: listener.clone(),
        address: address.clone(),
        reason,
    })
}

/// At least `count` sockets on one address, not listening yet: one each with `SO_REUSEPORT`, else copies of one. Port 0 becomes one port for all.
/// `inherited` sockets are all used, even if there are more: what waits in one of them would be lost with it.
///
/// # Errors
/// What the system says, with the listener and its address.
pub fn bind(
    listener: &Arc<str>,
    address: &Address,
    settings: &ListenerSettings,
    reuse_port: bool,
    count: usize,
    inherited: Vec<OwnedFd>,
) -> Result<Vec<Bound>, BindError> {
    let sockets = match address {
        _ if !inherited.is_empty() => adopt(address, inherited, settings, reuse_port, count),
        Address::Ip(ip) if reuse_port => bind_each(*ip, settings, count),
        Address::Ip(ip) => bind_one(*ip, settings, false).and_then(|first| copies(first, count)),
        Address::Pipe(path) => bind_pipe(path, settings.pipe_mode).and_then(|first| copies(first, count)),
        Address::Internal(_) => Err(io::ErrorKind::Unsupported.into()),
    };
    sockets.map_err(|reason| BindError {
        listener: listener.clone(),
        address: address.clone(),
        reason,
    })
}

impl Bound {
    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// What the system says: out of descriptors.
    pub fn copy(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }

    /// Waits for connections; the kernel caps the backlog at `net.core.somaxconn`, which is Envoy's default.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(&self, backlog: Option<u32>) -> io::Result<()> {
        let backlog = backlog.map_or(i32::MAX, |backlog| i32::try_from(backlog).unwrap_or(i32::MAX));
        self.reference().listen(backlog)
    }

    fn reference(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
        }
    }

    /// Where it really listens.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

impl From<Bound> for OwnedFd {
    fn from(bound: Bound) -> Self {
        match bound {
            Bound::Tcp(socket) => socket.into(),
            Bound::Unix(socket) => socket.into(),
        }
    }
}

fn adopt(
    address: &Address,
    inherited: Vec<OwnedFd>,
    settings: &ListenerSettings,
    reuse_port: bool,
    count: usize,
) -> io::Result<Vec<Bound>> {
    let bound = |socket: OwnedFd| match address {
        Address::Pipe(_) => Bound::Unix(socket.into()),
        _ => Bound::Tcp(socket.into()),
    };
    let mut sockets: Vec<Bound> = inherited.into_iter().map(bound).collect();
    let Some(first) = sockets.first().map(Bound::copy).transpose()? else {
        return Ok(sockets);
    };
    while sockets.len() < count {
        // The process before may not have set SO_REUSEPORT.
        let own = match first.address().filter(|_| reuse_port) {
            Some(actual) => bind_one(actual, settings, true).ok(),
            None => None,
        };
        sockets.push(own.map_or_else(|| first.copy(), Ok)?);
    }
    Ok(sockets)
}

fn bind_each(address: SocketAddr, settings: &ListenerSettings, count: usize) -> io::Result<Vec<Bound>> {
    let first = bind_one(address, settings, true)?;
    let actual = first.address().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_one(actual, settings, true)?);
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr, settings: &ListenerSettings, reuse_port: bool) -> io::Result<Bound> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(!settings.ipv4_compat)?;
    }
    match address {
        SocketAddr::V4(_) => {
            if settings.freebind {
                socket.set_freebind_v4(true)?;
            }
            if settings.transparent {
                socket.set_ip_transparent_v4(true)?;
            }
        }
        SocketAddr::V6(_) => {
            if settings.freebind {
                socket.set_freebind_v6(true)?;
            }
            if settings.transparent {
                sys::set_socket_option(
                    socket.as_fd(),
                    libc::SOL_IPV6,
                    libc::IPV6_TRANSPARENT,
                    &1_i32.to_ne_bytes(),
                )?;
            }
        }
    }
    set_all(&SockRef::from(&socket), settings, SocketState::PreBind)?;
    socket.bind(&address.into())?;
    set_all(&SockRef::from(&socket), settings, SocketState::Bound)?;
    Ok(Bound::Tcp(socket.into()))
}

fn bind_pipe(path: &str, mode: Option<u32>) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let address = match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}"))?,
        None => {
            // What an earlier process left there would make the bind fail; Envoy unlinks too.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            SockAddr::unix(path)?
        }
    };
    socket.bind(&address)?;
    set_mode(&Address::Pipe(path.into()), mode)?;
    Ok(Bound::Unix(socket.into()))
}

/// Who may connect to a pipe that has a place in the file system.
///
/// # Errors
/// What the system says.
pub fn set_mode(address: &Address, mode: Option<u32>) -> io::Result<()> {
    match (address, mode) {
        (Address::Pipe(path), Some(mode)) if !path.starts_with('@') => {
            std::fs::set_permissions(&**path, std::fs::Permissions::from_mode(mode))
        }
        _ => Ok(()),
    }
}

fn copies(first: Bound, count: usize) -> io::Result<Vec<Bound>> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 1..count {
        sockets.push(first.copy()?);
    }
    sockets.push(first);
    Ok(sockets)
}

fn set_all(socket: &SockRef<'_>, settings: &ListenerSettings, state: SocketState) -> io::Result<()> {
    set_options(socket, &settings.socket_options, state)?;
    match (&settings.keepalive, state) {
        (Some(keepalive), SocketState::PreBind) => set_keepalive(socket, keepalive),
        _ => Ok(()),
    }
}

/// Sets those of `options` that belong to this state.
pub fn set_options(socket: &SockRef<'_>, options: &[SocketOption], state: SocketState) -> io::Result<()> {
    let mut due = options.iter().filter(|option| option.state == state);
    due.try_for_each(|option| sys::set_socket_option(socket.as_fd(), option.level, option.name, &option.value))
}

/// Turns keepalive on; values that are not set are the system's.
pub fn set_keepalive(socket: &SockRef<'_>, keepalive: &Keepalive) -> io::Result<()> {
    let mut wanted = TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        wanted = wanted.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        wanted = wanted.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        wanted = wanted.with_retries(probes);
    }
    socket.set_tcp_keepalive(&wanted)
}
