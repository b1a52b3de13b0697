//! PROXY protocol, versions 1 and 2 (the HAProxy specification).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Detection;
use crate::tcp::proxy_header::Tlv;

/// A header at the start of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: Version,
    /// Bytes to take off the stream.
    pub length: usize,
    /// Source and destination; `None` for `LOCAL` and `UNKNOWN`: the socket's own addresses hold.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Types and values, of version 2.
    pub tlvs: Vec<Tlv>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1 = 0,
    V2 = 1,
}

/// The signature of version 1.
pub const V1: &[u8] = b"PROXY ";
/// The longest line, with its end: 107 bytes by the specification, one more in Envoy.
const V1_MAX: usize = 108;
/// A line of version 1 that does not end, as far as is known.
pub const NO_END: &str = "no end of PROXY line";
/// A line of version 1 that is too long.
pub const LATE_END: &str = "PROXY line is too long";
/// What a header of version 2 begins with, whatever it says: signature, version, family, length.
pub const V2_FIXED: usize = 16;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Looks at the start of a stream.
pub fn parse(bytes: &[u8]) -> Detection<Header> {
    if starts(bytes, V2) {
        return if bytes.len() < V2.len() {
            Detection::NeedMore
        } else {
            v2(bytes)
        };
    }
    if starts(bytes, V1) {
        return if bytes.len() < V1.len() {
            Detection::NeedMore
        } else {
            v1(bytes)
        };
    }
    Detection::No
}

/// The version whose signature the bytes begin with, as far as they go; `None`: neither.
pub fn signature(bytes: &[u8]) -> Option<Version> {
    match (starts(bytes, V1), starts(bytes, V2)) {
        (_, true) => Some(Version::V2),
        (true, false) => Some(Version::V1),
        (false, false) => None,
    }
}

/// Whether `bytes` begins with `signature`, as far as either goes.
fn starts(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

fn v1(bytes: &[u8]) -> Detection<Header> {
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = memchr::memmem::find(window, b"\r\n") else {
        return match window.len() == V1_MAX {
            true if memchr::memmem::find(bytes, b"\r\n").is_some() => Detection::Broken(LATE_END),
            true => Detection::Broken(NO_END),
            false => Detection::NeedMore,
        };
    };
    let Ok(line) = std::str::from_utf8(&window[..end]) else {
        return Detection::Broken("PROXY line is not text");
    };
    let header = |addresses| {
        Detection::Found(Header {
            version: Version::V1,
            length: end + 2,
            addresses,
            tlvs: Vec::new(),
        })
    };
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return header(None);
    }
    let words: Vec<&str> = words.collect();
    let [source, destination, source_port, destination_port] = words[..] else {
        return Detection::Broken("malformed PROXY line");
    };
    let address = |ip: &str, port: &str| -> Option<SocketAddr> {
        let ip: IpAddr = ip.parse().ok()?;
        let fits = match family {
            "TCP4" => ip.is_ipv4(),
            "TCP6" => ip.is_ipv6(),
            _ => false,
        };
        // No sign, no leading plus: digits only.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        (fits && digits).then(|| Some(SocketAddr::new(ip, port.parse().ok()?)))?
    };
    match (address(source, source_port), address(destination, destination_port)) {
        (Some(source), Some(destination)) if is_unicast(&source) && is_unicast(&destination) => {
            header(Some((source, destination)))
        }
        _ => Detection::Broken("malformed PROXY address"),
    }
}

/// What a connection can come from and go to.
fn is_unicast(address: &SocketAddr) -> bool {
    let ip = address.ip();
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn v2(bytes: &[u8]) -> Detection<Header> {
    let Some(&[command, family, high, low]) = bytes.get(12..16).and_then(|fixed| <&[u8; 4]>::try_from(fixed).ok())
    else {
        return Detection::NeedMore;
    };
    if command >> 4 != 2 {
        return Detection::Broken("unknown PROXY version");
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let Some(body) = bytes.get(16..16 + length) else {
        return Detection::NeedMore;
    };
    let header = |addresses, size: usize| {
        let Some(tlvs) = body.get(size..).and_then(tlvs) else {
            return Detection::Broken("malformed PROXY TLVs");
        };
        Detection::Found(Header {
            version: Version::V2,
            length: 16 + length,
            addresses,
            tlvs,
        })
    };
    let pair = |size: usize, ip: fn(&[u8]) -> Option<IpAddr>| {
        let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
        let source = SocketAddr::new(ip(body.get(..size)?)?, port(2 * size)?);
        let destination = SocketAddr::new(ip(body.get(size..2 * size)?)?, port(2 * size + 2)?);
        Some((source, destination))
    };
    let of = |pair: Option<(SocketAddr, SocketAddr)>, size: usize| match pair {
        None => Detection::Broken("short PROXY address"),
        Some((source, destination)) if is_unicast(&source) && is_unicast(&destination) => {
            header(Some((source, destination)), size)
        }
        Some(_) => Detection::Broken("no unicast PROXY address"),
    };
    match (command & 0xf, family) {
        (0, _) => header(None, body.len()),
        // Datagrams too: their addresses are as good.
        (1, 0x11 | 0x12) => of(pair(4, v4), 12),
        (1, 0x21 | 0x22) => of(pair(16, v6), 36),
        (1, _) => Detection::Broken("unsupported PROXY family"),
        _ => Detection::Broken("unsupported PROXY command"),
    }
}

/// `None`: one is cut short.
fn tlvs(mut bytes: &[u8]) -> Option<Vec<Tlv>> {
    let mut tlvs = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        let (length, rest) = rest.split_at_checked(2)?;
        let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
        let (value, rest) = rest.split_at_checked(length)?;
        tlvs.push((kind, value.to_vec()));
        bytes = rest;
    }
    Some(tlvs)
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}
