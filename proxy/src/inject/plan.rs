//! Settings to rules: which packets go to the proxy. No I/O.
//!
//! The graph of chains, their names and the order of their rules are Istio's, so that whatever knows Istio's pods (people, `istioctl`, a CNI
//! plugin that cleans up) knows these. Rules are written the way `iptables-save` prints them: what is in place is recognised by its text.

use std::net::IpAddr;

use ipnet::IpNet;

use super::rules::{RuleSet, Table};
use super::settings::{Dns, Groups, Ports, Ranges, Settings};

/// An address family: each has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// What the proxy binds to when it connects to the application: such connections are never redirected again.
    const fn passthrough_source(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.6/32",
            Self::V6 => "::6/128",
        }
    }
}

/// All rules of one family.
pub fn plan(settings: &Settings, family: Family) -> RuleSet {
    let mut plan = Plan {
        loopback: match family {
            Family::V4 => settings.loopback.to_string(),
            Family::V6 => "::1/128".to_owned(),
        },
        mark: format!("{:#x}", settings.mark),
        rules: RuleSet::default(),
        settings,
        family,
    };
    plan.interfaces();
    plan.targets();
    if settings.tproxy {
        plan.guard_tproxy();
    }
    plan.inbound();
    plan.outbound_exemptions();
    plan.proxy_traffic();
    plan.groups();
    plan.dns();
    plan.outbound();
    if settings.tproxy {
        plan.keep_marks();
    }
    plan.rules
}

struct Plan<'a> {
    settings: &'a Settings,
    family: Family,
    /// What the application reaches itself by without the proxy.
    loopback: String,
    mark: String,
    rules: RuleSet,
}

impl Plan<'_> {
    fn nat(&mut self, chain: &str, rule: impl Into<String>) {
        self.rules.append(Table::Nat, chain, rule);
    }

    fn mangle(&mut self, chain: &str, rule: impl Into<String>) {
        self.rules.append(Table::Mangle, chain, rule);
    }

    fn raw(&mut self, chain: &str, rule: impl Into<String>) {
        self.rules.append(Table::Raw, chain, rule);
    }

    /// Interfaces that are left alone, and those of virtual machines, whose packets count as outbound.
    fn interfaces(&mut self) {
        let settings = self.settings;
        for interface in &settings.exclude_interfaces {
            self.nat(PREROUTING, format!("-i {interface} -j RETURN"));
            self.nat(OUTPUT, format!("-o {interface} -j RETURN"));
        }
        for interface in settings.exclude_interfaces.iter().filter(|_| settings.tproxy) {
            self.mangle(PREROUTING, format!("-i {interface} -j RETURN"));
            self.mangle(OUTPUT, format!("-o {interface} -j RETURN"));
        }
        for interface in &settings.virtual_interfaces {
            self.rules
                .put_first(Table::Nat, PREROUTING, format!("-i {interface} -j RETURN"));
        }
        if settings.drop_invalid {
            self.mangle(PREROUTING, format!("-m conntrack --ctstate INVALID -j {DROP_INVALID}"));
            self.mangle(DROP_INVALID, "-j DROP");
        }
    }

    /// The chains that end at the proxy.
    fn targets(&mut self) {
        let settings = self.settings;
        self.nat(
            INBOUND,
            format!("-p tcp -m tcp --dport {} -j RETURN", settings.tunnel_port),
        );
        self.nat(
            REDIRECT,
            format!("-p tcp -j REDIRECT --to-ports {}", settings.outbound_port),
        );
        self.nat(
            IN_REDIRECT,
            format!("-p tcp -j REDIRECT --to-ports {}", settings.inbound_port),
        );
        if settings.needs_route() {
            let (loopback, mark) = (self.loopback.clone(), self.mark.clone());
            self.mangle(DIVERT, format!("-j MARK --set-xmark {mark}/{ALL_BITS}"));
            self.mangle(DIVERT, "-j ACCEPT");
            let nowhere = if self.family == Family::V4 { "0.0.0.0" } else { "::" };
            let port = settings.inbound_port;
            self.mangle(
                TPROXY,
                format!("! -d {loopback} -p tcp -j TPROXY --on-port {port} --on-ip {nowhere} --tproxy-mark {mark}/{ALL_BITS}"),
            );
        }
    }

    /// What must not be taken in with TPROXY: packets that the proxy has marked, the proxy's own to the application, and the application's to
    /// itself.
    fn guard_tproxy(&mut self) {
        let (mark, source) = (self.mark.clone(), self.family.passthrough_source());
        self.mangle(INBOUND, format!("-p tcp -m mark --mark {mark} -j RETURN"));
        self.mangle(INBOUND, format!("-s {source} -i lo -p tcp -j RETURN"));
        self.mangle(
            INBOUND,
            format!("-i lo -p tcp -m mark ! --mark {OUTBOUND_MARK} -j RETURN"),
        );
    }

    fn inbound(&mut self) {
        let settings = self.settings;
        if settings.inbound == Ports::Only(Vec::new()) {
            return;
        }
        let table = if settings.tproxy { Table::Mangle } else { Table::Nat };
        self.rules.append(table, PREROUTING, format!("-p tcp -j {INBOUND}"));
        let filters: Vec<String> = match &settings.inbound {
            Ports::All => {
                for port in &settings.inbound_exclude {
                    let rule = format!("-p tcp -m tcp --dport {port} -j RETURN");
                    self.rules.append(table, INBOUND, rule);
                }
                vec!["-p tcp".to_owned()]
            }
            Ports::Only(ports) => {
                let filter = |port| format!("-p tcp -m tcp --dport {port}");
                ports.iter().map(filter).collect()
            }
        };
        for filter in filters {
            if settings.tproxy {
                self.mangle(
                    INBOUND,
                    format!("{filter} -m conntrack --ctstate RELATED,ESTABLISHED -j {DIVERT}"),
                );
                self.mangle(INBOUND, format!("{filter} -j {TPROXY}"));
            } else {
                self.nat(INBOUND, format!("{filter} -j {IN_REDIRECT}"));
            }
        }
    }

    /// What never goes to the proxy, whoever sends it.
    fn outbound_exemptions(&mut self) {
        self.nat(OUTPUT, format!("-j {OUT}"));
        for port in &self.settings.outbound_ports_exclude {
            self.nat(OUT, format!("-p tcp -m tcp --dport {port} -j RETURN"));
            self.nat(OUT, format!("-p udp -m udp --dport {port} -j RETURN"));
        }
        let source = self.family.passthrough_source();
        self.nat(OUT, format!("-s {source} -o lo -j RETURN"));
    }

    /// Packets of the proxy itself, by user and by group: to the application by its service address they come in again, all others go out.
    fn proxy_traffic(&mut self) {
        let settings = self.settings;
        let dns = settings.dns != Dns::None;
        let uids = settings.uids.iter().map(|uid| ("--uid-owner", uid, dns));
        // Istio keeps DNS over TCP away from the inbound port by user alone.
        let gids = settings.gids.iter().map(|gid| ("--gid-owner", gid, false));
        for (kind, id, dns_by_itself) in uids.chain(gids) {
            let (loopback, tunnel) = (&self.loopback, settings.tunnel_port);
            let ports = if dns_by_itself {
                format!("-m multiport ! --dports 53,{tunnel}")
            } else {
                format!("-m tcp ! --dport {tunnel}")
            };
            let rule = format!("! -d {loopback} -o lo -p tcp {ports} -m owner {kind} {id} -j {IN_REDIRECT}");
            self.nat(OUT, rule);
            if !settings.outbound.name_loopback() {
                let but_dns = if dns { "-p tcp -m tcp ! --dport 53 " } else { "" };
                self.nat(OUT, format!("-o lo {but_dns}-m owner ! {kind} {id} -j RETURN"));
            }
            self.nat(OUT, format!("-m owner {kind} {id} -j RETURN"));
        }
    }

    fn groups(&mut self) {
        match &self.settings.groups {
            Groups::Except(groups) => {
                for group in groups {
                    self.nat(OUT, format!("-m owner --gid-owner {group} -j RETURN"));
                }
            }
            Groups::Only(groups) => {
                let none_of: String = groups
                    .iter()
                    .map(|group| format!("-m owner ! --gid-owner {group} "))
                    .collect();
                self.nat(OUT, format!("{none_of}-j RETURN"));
            }
        }
    }

    /// Queries go to the agent. Those of applications and those of the agent are kept apart by connection-tracking zone: both have the
    /// same addresses once redirected.
    fn dns(&mut self) {
        let family = self.family;
        // What a packet must have of the server, going there and coming back.
        let servers: Vec<(String, String)> = match &self.settings.dns {
            Dns::None => return,
            Dns::All => vec![(String::new(), String::new())],
            Dns::Servers(servers) => {
                let own = servers.iter().filter(|server| family.is_of(**server));
                let filters = own.map(|server| {
                    let server = IpNet::from(*server);
                    (format!("-d {server} "), format!("-s {server} "))
                });
                filters.collect()
            }
        };
        self.raw(OUTPUT, format!("-j {OUT_DNS}"));
        if !servers.is_empty() {
            self.nat(OUT, format!("-j {OUT_DNS}"));
        }
        for protocol in ["tcp", "udp"] {
            for (to, _) in &servers {
                let rule = format!("{to}-p {protocol} -m {protocol} --dport 53 -j REDIRECT --to-ports {DNS_PORT}");
                self.nat(OUT_DNS, rule);
            }
        }
        let settings = self.settings;
        let uids = settings.uids.iter().map(|uid| ("--uid-owner", uid));
        let gids = settings.gids.iter().map(|gid| ("--gid-owner", gid));
        for (kind, id) in uids.chain(gids) {
            let owner = format!("-m owner {kind} {id} -j CT --zone");
            self.raw(OUT_DNS, format!("-p udp -m udp --dport 53 {owner} 1"));
            self.raw(OUT_DNS, format!("-p udp -m udp --sport {DNS_PORT} {owner} 2"));
        }
        if !servers.is_empty() {
            self.raw(PREROUTING, format!("-j {INBOUND}"));
        }
        for (to, from) in &servers {
            self.raw(OUT_DNS, format!("{to}-p udp -m udp --dport 53 -j CT --zone 2"));
            self.raw(INBOUND, format!("{from}-p udp -m udp --sport 53 -j CT --zone 1"));
        }
    }

    fn outbound(&mut self) {
        let settings = self.settings;
        let of_family = |ranges: &[IpNet]| -> Vec<IpNet> {
            let own = ranges.iter().filter(|range| self.family.is_of(range.addr()));
            own.copied().collect()
        };
        let excluded = of_family(&settings.outbound_exclude);
        self.nat(OUT, format!("-d {} -j RETURN", self.loopback));
        for range in excluded {
            self.nat(OUT, format!("{}-j RETURN", destination(range)));
        }
        for port in &settings.outbound_ports {
            self.nat(OUT, format!("-p tcp -m tcp --dport {port} -j {REDIRECT}"));
        }
        let filters: Vec<String> = match &settings.outbound {
            Ranges::All => vec![String::new()],
            Ranges::Only(ranges) => {
                let own = ranges.iter().filter(|range| self.family.is_of(range.addr()));
                own.map(|range| destination(*range)).collect()
            }
        };
        for filter in filters {
            for interface in &settings.virtual_interfaces {
                // `-d` stands before `-i` in print.
                let rule = format!("{filter}-i {interface} -j {REDIRECT}");
                self.rules.put_first(Table::Nat, PREROUTING, rule);
            }
            self.nat(OUT, format!("{filter}-j {REDIRECT}"));
        }
    }

    /// With TPROXY the proxy connects to the application from the client's address, and the answers must find back: its packets carry the mark,
    /// the connection keeps it, and the application's packets get it again.
    fn keep_marks(&mut self) {
        let settings = self.settings;
        let (mark, loopback) = (self.mark.clone(), self.loopback.clone());
        let bits = format!("--nfmask {ALL_BITS} --ctmask {ALL_BITS}");
        self.mangle(
            PREROUTING,
            format!("-p tcp -m mark --mark {mark} -j CONNMARK --save-mark {bits}"),
        );
        self.mangle(OUTPUT, format!("-o lo -p tcp -m mark --mark {mark} -j RETURN"));
        let uids = settings.uids.iter().map(|uid| ("--uid-owner", uid));
        let gids = settings.gids.iter().map(|gid| ("--gid-owner", gid));
        for (kind, id) in uids.chain(gids) {
            let set = format!("-j MARK --set-xmark {OUTBOUND_MARK}/{ALL_BITS}");
            self.mangle(
                OUTPUT,
                format!("! -d {loopback} -o lo -p tcp -m owner {kind} {id} {set}"),
            );
        }
        self.mangle(
            OUTPUT,
            format!("-p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark {bits}"),
        );
    }
}

/// `/0` matches everything, and is not printed.
fn destination(range: IpNet) -> String {
    if range.prefix_len() == 0 {
        String::new()
    } else {
        format!("-d {range} ")
    }
}

const PREROUTING: &str = "PREROUTING";
const OUTPUT: &str = "OUTPUT";
const INBOUND: &str = "ISTIO_INBOUND";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
const REDIRECT: &str = "ISTIO_REDIRECT";
const OUT: &str = "ISTIO_OUTPUT";
const OUT_DNS: &str = "ISTIO_OUTPUT_DNS";
const DIVERT: &str = "ISTIO_DIVERT";
const TPROXY: &str = "ISTIO_TPROXY";
const DROP_INVALID: &str = "ISTIO_DROP";
/// Where istio-agent answers DNS.
const DNS_PORT: u16 = 15053;
/// Packets of the proxy to its own application by the pod's address: 1338.
const OUTBOUND_MARK: &str = "0x53a";
const ALL_BITS: &str = "0xffffffff";

#[cfg(test)]
mod tests;
