//! The PROXY header that a cluster's transport socket sends first (`envoy.transport_sockets.upstream_proxy_protocol`).

use std::net::{IpAddr, SocketAddr};

use remora_proto::pb::envoy::config::core::v3 as core;

use crate::config::route::{each, refuse};
use crate::config::{Compiled, Problems};

/// A compiled `ProxyProtocolConfig`.
#[derive(Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    version: Version,
    pass: Pass,
    /// `added_tlvs`: they win over those passed through.
    added: Vec<Tlv>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Which TLVs go on, of a PROXY header or to one (`ProxyProtocolPassThroughTLVs`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    #[default]
    None,
    All,
    Types(Vec<u8>),
}

/// A type and its value.
pub type Tlv = (u8, Vec<u8>);

/// The TLVs of a downstream PROXY header that the listener filter lets pass; there, if there was one; in a connection's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassedTlvs(pub Vec<Tlv>);

/// Whom a connection is made for.
#[derive(Clone, Copy, Debug)]
pub struct Proxied<'a> {
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
    pub tlvs: &'a [Tlv],
}

impl Pass {
    /// # Errors
    /// Types that are no byte.
    pub fn compile(config: Option<&core::ProxyProtocolPassThroughTlVs>) -> Compiled<Self> {
        let Some(config) = config else { return Ok(Self::None) };
        // 0 is INCLUDE_ALL.
        if config.match_type == 0 {
            return Ok(Self::All);
        }
        each("tlv_type", &config.tlv_type, |kind| tlv_type(*kind)).map(Self::Types)
    }

    pub fn passes(&self, kind: u8) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Types(types) => types.contains(&kind),
        }
    }
}

impl ProxyHeader {
    /// # Errors
    /// What is wrong or not supported, by path.
    pub fn compile(config: &core::ProxyProtocolConfig) -> Compiled<Self> {
        let pass = Pass::compile(config.pass_through_tlvs.as_ref()).map_err(|p| p.under("pass_through_tlvs"))?;
        Ok(Self {
            // 0 is V1.
            version: if config.version == 0 { Version::V1 } else { Version::V2 },
            pass,
            added: each("added_tlvs", &config.added_tlvs, |entry| {
                const FIXED: &str =
                    "only proxy_protocol_tlvs of a TCP proxy are formatted, not those of a transport socket";
                refuse("format_string", entry.format_string.is_some(), FIXED)?;
                Ok((tlv_type(entry.r#type)?, entry.value.clone()))
            })?,
        })
    }

    /// The header's bytes; `own`: both ends of the connection itself, for when it is made for nobody in particular.
    pub fn encode(&self, proxied: Option<&Proxied<'_>>, own: (Option<SocketAddr>, Option<SocketAddr>)) -> Vec<u8> {
        match self.version {
            Version::V1 => {
                let (source, destination) = proxied.map_or(own, |proxied| (proxied.source, proxied.destination));
                v1(source.zip(destination))
            }
            Version::V2 => match proxied {
                None => v2(0, None, &[]),
                Some(proxied) => v2(1, proxied.source.zip(proxied.destination), &self.tlvs(proxied)),
            },
        }
    }

    fn tlvs(&self, proxied: &Proxied<'_>) -> Vec<u8> {
        let is_added = |kind: u8| self.added.iter().any(|(added, _)| *added == kind);
        let passed = proxied.tlvs.iter();
        let passed = passed.filter(|(kind, _)| self.pass.passes(*kind) && !is_added(*kind));
        let mut bytes = Vec::new();
        for (kind, value) in self.added.iter().chain(passed) {
            // A value that fits no length cannot have come from a header, and is not configured.
            let Ok(length) = u16::try_from(value.len()) else {
                continue;
            };
            bytes.push(*kind);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }
}

/// # Errors
/// What is no byte.
pub fn tlv_type(kind: u32) -> Compiled<u8> {
    u8::try_from(kind).map_err(|_| Problems::one("type", "must be less than 256"))
}

fn v1(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((source, destination)) = ends.map(same_family) else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!(
        "PROXY {family} {from} {to} {} {}\r\n",
        source.port(),
        destination.port()
    )
    .into_bytes()
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, ends: Option<(SocketAddr, SocketAddr)>, tlvs: &[u8]) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let mut family = 0;
    if let Some((source, destination)) = ends.map(same_family) {
        family = if source.is_ipv4() { 0x11 } else { 0x21 };
        for end in [source, destination] {
            match end.ip() {
                IpAddr::V4(ip) => addresses.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => addresses.extend_from_slice(&ip.octets()),
            }
        }
        addresses.extend_from_slice(&source.port().to_be_bytes());
        addresses.extend_from_slice(&destination.port().to_be_bytes());
    }
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[0x20 | command, family]);
    // Addresses take 36 bytes at most; TLVs that do not fit beside them are left out as a whole.
    let tlvs = if addresses.len() + tlvs.len() > usize::from(u16::MAX) {
        &[]
    } else {
        tlvs
    };
    let length = u16::try_from(addresses.len() + tlvs.len()).unwrap_or_default();
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(&addresses);
    header.extend_from_slice(tlvs);
    header
}

/// An IPv4 address beside an IPv6 one is written as IPv6 too.
fn same_family((source, destination): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        IpAddr::V6(_) => address,
    };
    match source.is_ipv4() == destination.is_ipv4() {
        true => (source, destination),
        false => (mapped(source), mapped(destination)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::detect::Detection;
    use crate::listener::detect::proxy_protocol::parse;

    fn header(version: i32, added: &[(u32, &[u8])], pass: &[u32]) -> ProxyHeader {
        let config = core::ProxyProtocolConfig {
            version,
            pass_through_tlvs: Some(core::ProxyProtocolPassThroughTlVs {
                match_type: 1,
                tlv_type: pass.to_vec(),
            }),
            added_tlvs: added
                .iter()
                .map(|(kind, value)| core::TlvEntry {
                    r#type: *kind,
                    value: value.to_vec(),
                    ..Default::default()
                })
                .collect(),
        };
        ProxyHeader::compile(&config).expect("compiles")
    }

    #[test]
    fn what_is_written_is_what_our_own_filter_reads() {
        let (v4, v6) = ("10.1.2.3:4", "[2001:db8::1]:5");
        let tlvs = vec![(1, b"h2".to_vec()), (2, b"passed".to_vec()), (3, b"kept back".to_vec())];
        for (source, destination) in [(v4, v4), (v6, v6), (v4, v6)] {
            let ends: (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
            let proxied = Proxied {
                source: Some(ends.0),
                destination: Some(ends.1),
                tlvs: &tlvs,
            };
            for version in [0, 1] {
                let bytes = header(version, &[(1, b"mine")], &[1, 2]).encode(Some(&proxied), (None, None));
                let Detection::Found(found) = parse(&bytes) else {
                    panic!("{bytes:?}")
                };
                assert_eq!((found.length, found.addresses), (bytes.len(), Some(same_family(ends))));
                let expected: Vec<Tlv> = match version {
                    0 => Vec::new(),
                    _ => vec![(1, b"mine".to_vec()), (2, b"passed".to_vec())],
                };
                assert_eq!(found.tlvs, expected);
            }
        }
    }

    #[test]
    fn for_nobody_it_tells_its_own_ends_or_says_so() {
        let own = (
            Some("127.0.0.1:1".parse().unwrap()),
            Some("127.0.0.1:2".parse().unwrap()),
        );
        assert_eq!(
            header(0, &[], &[]).encode(None, own),
            b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"
        );
        assert_eq!(header(0, &[], &[]).encode(None, (None, None)), b"PROXY UNKNOWN\r\n");
        let local = header(1, &[(1, b"x")], &[]).encode(None, own);
        assert_eq!(&local[12..], [0x20, 0, 0, 0]);
    }
}
