//! Arguments, checked and typed: what no rule could be made of is refused here, before anything changes.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::validation::Probe;
use crate::cli::{InjectArgs, InterceptionMode};

/// What is wrong with the arguments or with the place they are used in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("--{flag}: '{value}' is not {wanted}")]
    Value {
        flag: &'static str,
        value: String,
        wanted: &'static str,
    },
    #[error("--{flag}: not supported: {reason}")]
    Unsupported { flag: &'static str, reason: &'static str },
    #[error("{path}: {reason}")]
    File { path: &'static str, reason: String },
}

/// What is to be redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub outbound_port: u16,
    pub inbound_port: u16,
    pub tunnel_port: u16,
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    pub tproxy: bool,
    pub mark: u32,
    pub route_table: u32,
    pub inbound: Ports,
    pub inbound_exclude: Vec<PortRange>,
    pub outbound: Ranges,
    pub outbound_exclude: Vec<IpNet>,
    pub outbound_ports: Vec<PortRange>,
    pub outbound_ports_exclude: Vec<PortRange>,
    pub exclude_interfaces: Vec<String>,
    pub virtual_interfaces: Vec<String>,
    pub groups: Groups,
    pub dns: Dns,
    pub drop_invalid: bool,
    pub loopback: Ipv4Net,
}

/// A port, or a range `first:last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange(pub u16, pub u16);

impl std::fmt::Display for PortRange {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(first, last) if first == last => write!(out, "{first}"),
            Self(first, last) => write!(out, "{first}:{last}"),
        }
    }
}

/// Ports that are redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    All,
    /// None, if empty.
    Only(Vec<PortRange>),
}

/// Addresses that are redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    All,
    /// None, if empty.
    Only(Vec<IpNet>),
}

impl Ranges {
    /// Whether traffic to the loopback interface is asked for by name.
    pub fn name_loopback(&self) -> bool {
        matches!(self, Self::Only(ranges) if ranges.iter().any(|range| range.addr().is_loopback()))
    }
}

/// Owners of processes whose traffic is redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    Except(Vec<u32>),
    Only(Vec<u32>),
}

/// Which DNS queries go to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dns {
    None,
    All,
    /// Those to these servers.
    Servers(Vec<IpAddr>),
}

impl Settings {
    /// # Errors
    /// The first argument that does not say what it should.
    pub fn new(args: &InjectArgs) -> Result<Self, SettingsError> {
        let refused = [
            (
                args.native_nftables,
                "native-nftables",
                "the rules are made by iptables (iptables-nft makes them within nftables); without the flag they are the same in effect",
            ),
            (
                args.cni_mode,
                "cni-mode",
                "it is how Istio's CNI plugin, which has this code within itself, works on a node; in a pod's namespace use --network-namespace",
            ),
        ];
        if let Some((_, flag, reason)) = refused.into_iter().find(|(given, ..)| *given) {
            return Err(SettingsError::Unsupported { flag, reason });
        }
        let uids = match args.proxy_uid.as_str() {
            "" => vec![proxy_user()],
            list => ids("proxy-uid", list)?,
        };
        let gids = match args.proxy_gid.as_str() {
            "" => uids.clone(),
            list => ids("proxy-gid", list)?,
        };
        Ok(Self {
            outbound_port: args.envoy_port,
            inbound_port: args.inbound_capture_port,
            tunnel_port: args.inbound_tunnel_port,
            uids,
            gids,
            tproxy: args.istio_inbound_interception_mode == InterceptionMode::Tproxy,
            mark: args.istio_inbound_tproxy_mark,
            route_table: args.istio_inbound_tproxy_route_table,
            inbound: match args.istio_inbound_ports.as_str() {
                "*" => Ports::All,
                list => Ports::Only(ports("istio-inbound-ports", list)?),
            },
            inbound_exclude: ports("istio-local-exclude-ports", &args.istio_local_exclude_ports)?,
            outbound: match args.istio_service_cidr.as_str() {
                "*" => Ranges::All,
                list => Ranges::Only(ranges("istio-service-cidr", list)?),
            },
            outbound_exclude: ranges("istio-service-exclude-cidr", &args.istio_service_exclude_cidr)?,
            outbound_ports: ports("istio-outbound-ports", &args.istio_outbound_ports)?,
            outbound_ports_exclude: ports(
                "istio-local-outbound-ports-exclude",
                &args.istio_local_outbound_ports_exclude,
            )?,
            exclude_interfaces: interfaces("istio-exclude-interfaces", &args.istio_exclude_interfaces)?,
            virtual_interfaces: interfaces("kube-virt-interfaces", &args.kube_virt_interfaces)?,
            groups: groups(args)?,
            dns: dns(args)?,
            drop_invalid: args.drop_invalid,
            loopback: loopback(&args.istio_outbound_ipv4_loopback_cidr)?,
        })
    }

    /// What `--run-validation` tries.
    pub fn probe(&self, args: &InjectArgs, v6: bool) -> Probe {
        Probe {
            ports: [self.outbound_port, self.inbound_port],
            port: args.iptables_probe_port,
            timeout: args.probe_timeout,
            v6,
        }
    }

    /// Whether inbound packets need the policy route to the loopback interface.
    pub fn needs_route(&self) -> bool {
        self.tproxy && self.inbound != Ports::Only(Vec::new())
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn parsed<T>(
    flag: &'static str,
    text: &str,
    wanted: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, SettingsError> {
    let one = |part: &str| {
        parse(part).ok_or_else(|| SettingsError::Value {
            flag,
            value: part.to_owned(),
            wanted,
        })
    };
    list(text).map(one).collect()
}

fn ports(flag: &'static str, text: &str) -> Result<Vec<PortRange>, SettingsError> {
    parsed(flag, text, "a port or a range first:last", |part| {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        let range = PortRange(first.parse().ok()?, last.parse().ok()?);
        (range.0 <= range.1).then_some(range)
    })
}

fn ranges(flag: &'static str, text: &str) -> Result<Vec<IpNet>, SettingsError> {
    parsed(flag, text, "an address range in CIDR form", |part| {
        part.parse().ok().map(|range: IpNet| range.trunc())
    })
}

fn ids(flag: &'static str, text: &str) -> Result<Vec<u32>, SettingsError> {
    parsed(flag, text, "a numeric id", |part| part.parse().ok())
}

/// Names as the kernel allows them, or a prefix with `+`.
fn interfaces(flag: &'static str, text: &str) -> Result<Vec<String>, SettingsError> {
    parsed(flag, text, "the name of a network interface", |part| {
        let odd = |char: char| char.is_whitespace() || char.is_control() || matches!(char, '/' | '"' | '\'' | '!');
        (part.len() < 16 && !part.starts_with('-') && !part.contains(odd)).then(|| part.to_owned())
    })
}

fn groups(args: &InjectArgs) -> Result<Groups, SettingsError> {
    let wanted = "a group of this system";
    let group = |name: &str| {
        name.parse()
            .ok()
            .or_else(|| id_of(&std::fs::read_to_string("/etc/group").ok()?, name))
    };
    if args.istio_outbound_owner_groups == "*" {
        let text = &args.istio_outbound_owner_groups_exclude;
        return parsed("istio-outbound-owner-groups-exclude", text, wanted, group).map(Groups::Except);
    }
    let only = parsed(
        "istio-outbound-owner-groups",
        &args.istio_outbound_owner_groups,
        wanted,
        group,
    )?;
    if only.len() > MAX_GROUPS {
        return Err(SettingsError::Value {
            flag: "istio-outbound-owner-groups",
            value: args.istio_outbound_owner_groups.clone(),
            wanted: "a list of at most 64 groups",
        });
    }
    Ok(Groups::Only(only))
}

fn dns(args: &InjectArgs) -> Result<Dns, SettingsError> {
    if !args.redirect_dns {
        return Ok(Dns::None);
    }
    if args.capture_all_dns {
        return Ok(Dns::All);
    }
    let text = std::fs::read_to_string(RESOLV_CONF).map_err(|error| SettingsError::File {
        path: RESOLV_CONF,
        reason: error.to_string(),
    })?;
    match name_servers(&text) {
        servers if servers.is_empty() => Err(SettingsError::File {
            path: RESOLV_CONF,
            reason: "no name server to redirect queries from (--capture-all-dns needs none)".to_owned(),
        }),
        servers => Ok(Dns::Servers(servers)),
    }
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // A zone (`fe80::1%eth0`) is no part of a rule.
    lines
        .filter_map(|server| server.split('%').next().and_then(|address| address.parse().ok()))
        .collect()
}

fn loopback(text: &str) -> Result<Ipv4Net, SettingsError> {
    let range: Option<Ipv4Net> = text.parse().ok();
    let fitting = range.filter(|range| range.addr().is_loopback() && range.prefix_len() >= 8);
    let trunc = |range: Ipv4Net| range.trunc();
    fitting.map(trunc).ok_or_else(|| SettingsError::Value {
        flag: "istio-outbound-ipv4-loopback-cidr",
        value: text.to_owned(),
        wanted: "a range within 127.0.0.0/8",
    })
}

/// The user that the proxy runs as where nothing says so.
fn proxy_user() -> u32 {
    let name = std::env::var("ENVOY_USER").unwrap_or_else(|_| "istio-proxy".to_owned());
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    id_of(&users, &name).unwrap_or(PROXY_ID)
}

/// The third field of the line of `name`, in the format of `/etc/passwd` and `/etc/group`.
fn id_of(text: &str, name: &str) -> Option<u32> {
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Istio's user for the proxy.
const PROXY_ID: u32 = 1337;
/// What istio-iptables allows: all of them are matches of one rule.
const MAX_GROUPS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_name() {
        let text = "root:x:0:0:root:/root:/bin/sh\nistio-proxy:x:1400:1400::/:\n";
        assert_eq!(id_of(text, "istio-proxy"), Some(1400));
        assert_eq!(id_of(text, "istio"), None);
    }

    #[test]
    fn name_servers_of_both_families() {
        let text =
            "search a.b\nnameserver 10.96.0.10\n# nameserver 1.1.1.1\nnameserver fe80::1%eth0\noptions ndots:5\n";
        let expected: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }

    #[test]
    fn ports_and_interfaces_that_no_rule_can_have_are_refused() {
        assert_eq!(
            ports("f", "80, 8000:9000,").unwrap(),
            [PortRange(80, 80), PortRange(8000, 9000)]
        );
        for wrong in ["x", "70000", "9:8", "80 -j ACCEPT"] {
            assert!(ports("f", wrong).is_err(), "{wrong}");
        }
        assert_eq!(interfaces("f", "eth0,veth+").unwrap(), ["eth0", "veth+"]);
        for wrong in ["eth0 -j", "-j", "a-very-long-interface-name", "!lo"] {
            assert!(interfaces("f", wrong).is_err(), "{wrong}");
        }
        assert!(loopback("10.0.0.0/8").is_err());
        assert_eq!(loopback("127.0.0.1/8").unwrap().to_string(), "127.0.0.0/8");
    }
}
