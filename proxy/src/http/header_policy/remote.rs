//! Who the client is: the peer, or what `x-forwarded-for` or another header says of it (spec C.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName, StatusCode};
use ipnet::IpNet;

use super::{X_FORWARDED_FOR, append_list_tight};
use crate::cli::IpVersion;
use crate::http::exchange::Exchange;
use crate::runtime::io::Address;

/// Where the client's address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteRule {
    /// `use_remote_address`: the edge of the mesh.
    Edge { trusted_hops: u32, skip_append: bool },
    /// Inside the mesh: whoever sent the request has said who the client is.
    Mesh(Vec<Detection>),
}

/// One original-IP detection; the first that finds an address wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detection {
    Xff {
        trusted_hops: u32,
        skip_append: bool,
    },
    TrustedRanges {
        ranges: Vec<IpNet>,
        skip_append: bool,
    },
    Header {
        name: HeaderName,
        may_be_internal: bool,
        reject: Option<StatusCode>,
    },
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// `None`: only the peer is known.
    pub address: Option<Address>,
    /// Whether the address is trusted enough to make the request an internal one.
    pub may_be_internal: bool,
}

impl RemoteRule {
    pub fn is_edge(&self) -> bool {
        matches!(self, Self::Edge { .. })
    }

    pub fn trusted_hops(&self) -> u32 {
        match self {
            Self::Edge { trusted_hops, .. } => *trusted_hops,
            Self::Mesh(_) => 0,
        }
    }

    /// Finds the client and appends the peer to `x-forwarded-for` where the rule says so.
    ///
    /// # Errors
    /// The status to refuse the request with.
    pub fn find(&self, exchange: &mut Exchange) -> Result<Found, StatusCode> {
        match self {
            Self::Edge {
                trusted_hops,
                skip_append,
            } => {
                let headers = exchange.request.headers();
                let forwarded = last_address(headers, trusted_hops.wrapping_sub(1)).filter(|_| *trusted_hops > 0);
                let found = Found {
                    may_be_internal: !headers.contains_key(&X_FORWARDED_FOR),
                    address: Some(forwarded.map_or_else(|| exchange.connection.remote.clone(), |(ip, _)| address(ip))),
                };
                if !skip_append {
                    append_peer(exchange);
                }
                Ok(found)
            }
            Self::Mesh(detections) => {
                for detection in detections {
                    if let Some(found) = detection.find(exchange)? {
                        return Ok(found);
                    }
                }
                Ok(Found::default())
            }
        }
    }
}

impl Detection {
    fn find(&self, exchange: &mut Exchange) -> Result<Option<Found>, StatusCode> {
        let headers = exchange.request.headers();
        let (found, skip_append) = match self {
            Self::Xff {
                trusted_hops,
                skip_append,
            } => {
                let found = last_address(headers, *trusted_hops);
                let found = found.map(|(ip, alone)| Found {
                    address: Some(address(ip)),
                    may_be_internal: alone,
                });
                (found, *skip_append)
            }
            Self::TrustedRanges { ranges, skip_append } => {
                let peer = exchange.connection.remote.ip().map(|peer| peer.ip());
                let found = first_untrusted(headers, peer, ranges);
                (
                    found.map(|(ip, alone)| Found {
                        address: Some(address(ip)),
                        may_be_internal: alone,
                    }),
                    *skip_append,
                )
            }
            Self::Header {
                name,
                may_be_internal,
                reject,
            } => {
                let value = headers
                    .get(name)
                    .and_then(|value| value.to_str().ok()?.trim().parse::<IpAddr>().ok());
                match (value, reject) {
                    (Some(ip), _) => (
                        Some(Found {
                            address: Some(address(ip)),
                            may_be_internal: *may_be_internal,
                        }),
                        true,
                    ),
                    (None, Some(status)) => return Err(*status),
                    (None, None) => (None, true),
                }
            }
        };
        if !skip_append {
            append_peer(exchange);
        }
        Ok(found)
    }
}

fn address(ip: IpAddr) -> Address {
    Address::Ip(SocketAddr::new(ip, 0))
}

/// The address that `skip` others follow, and whether it is the only one.
fn last_address(headers: &HeaderMap, skip: u32) -> Option<(IpAddr, bool)> {
    let forwarded = crate::route::view::joined(headers, &X_FORWARDED_FOR)?;
    let text = std::str::from_utf8(&forwarded).ok()?;
    let entry = text.rsplit(',').nth(usize::try_from(skip).ok()?)?;
    let ip = entry.trim().parse().ok()?;
    Some((ip, skip == 0 && !text.contains(',')))
}

/// The last address that is not trusted, or else the first of all, and whether it is the only one.
fn first_untrusted(headers: &HeaderMap, peer: Option<IpAddr>, ranges: &[IpNet]) -> Option<(IpAddr, bool)> {
    let is_trusted = |ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
    if !peer.is_some_and(|peer| is_trusted(&peer)) {
        return None;
    }
    let forwarded = crate::route::view::joined(headers, &X_FORWARDED_FOR)?;
    let text = std::str::from_utf8(&forwarded).ok()?;
    let mut last = None;
    for entry in text.rsplit(',') {
        let ip: IpAddr = entry.trim().parse().ok()?;
        last = Some(ip);
        if !is_trusted(&ip) {
            break;
        }
    }
    Some((last?, !text.contains(',')))
}

/// A peer on the loopback says nothing of where the request came from: this machine's address stands for it.
fn append_peer(exchange: &mut Exchange) {
    let Some(peer) = exchange.connection.remote.ip() else {
        return;
    };
    let shown = if peer.ip().is_loopback() {
        machine_address()
    } else {
        peer.ip()
    };
    append_list_tight(
        exchange.request.headers_mut(),
        &X_FORWARDED_FOR,
        shown.to_string().as_bytes(),
    );
}

/// Adds this machine to those that a request of its own making came through.
pub(in crate::http) fn append_machine(headers: &mut HeaderMap) {
    append_list_tight(headers, &X_FORWARDED_FOR, machine_address().to_string().as_bytes());
}

/// `--local-address-ip-version`: which of its addresses this machine goes by. One command line, one process.
pub fn prefer_local_ip(version: IpVersion) {
    IPV6.store(version == IpVersion::V6, Ordering::Relaxed);
}

static IPV6: AtomicBool = AtomicBool::new(false);

/// The address that this machine reaches others from, asked for once; no packet is sent. The loopback if it reaches nobody.
fn machine_address() -> IpAddr {
    static ADDRESSES: OnceLock<[IpAddr; 2]> = OnceLock::new();
    // Documentation addresses (RFC 5737, RFC 3849): connecting a UDP socket only looks up the route to them.
    let ask = |any: &str, somewhere: &str| -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind(any)?;
        socket.connect(somewhere)?;
        Ok(socket.local_addr()?.ip())
    };
    let addresses = ADDRESSES.get_or_init(|| {
        [
            ask("0.0.0.0:0", "192.0.2.1:9").unwrap_or(Ipv4Addr::LOCALHOST.into()),
            ask("[::]:0", "[2001:db8::1]:9").unwrap_or(Ipv6Addr::LOCALHOST.into()),
        ]
    });
    addresses[usize::from(IPV6.load(Ordering::Relaxed))]
}
