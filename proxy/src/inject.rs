//! `remora inject`: takes over a pod's traffic, or gives it back.
//!
//! In: flags and environment variables of istio-iptables. Out: redirect rules, and with TPROXY a route, equal in effect to Istio's. Pure up to
//! [`plan`](plan::plan); then what is there is compared with what is wanted and the difference made in one transaction per table. What is in
//! place is left alone, so it can be run again at any time. Runs before the proxy, as root, in the pod's network namespace, and ends.

mod netlink;
mod plan;
mod rules;
mod settings;
mod tables;

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use netlink::{Change, Netlink};
use plan::{Family, plan};
use rules::RuleSet;
use settings::{Settings, SettingsError};
use tables::{Tables, TablesError};

use crate::cli::InjectArgs;

/// Why the rules are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error("network namespace {path}: {error}")]
    Namespace { path: String, error: io::Error },
    #[error("{what}: {error}")]
    Kernel { what: &'static str, error: io::Error },
    #[error("no valid local IP address found")]
    NoAddress,
}

/// Does what `args` say and prints what it did.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a command says what it did")]
pub fn run(args: &InjectArgs) -> ExitCode {
    match inject(args) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("remora inject: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what `args` say; what it did, line by line.
///
/// # Errors
/// What is wrong with the arguments, before anything changes; or what a program or the kernel says.
pub fn inject(args: &InjectArgs) -> Result<String, InjectError> {
    let settings = Settings::new(args)?;
    if let Some(path) = &args.network_namespace {
        enter(path)?;
    }
    let kernel = Netlink::open().map_err(in_kernel("netlink"))?;
    let addresses = kernel.addresses().map_err(in_kernel("local addresses"))?;
    let v6 = wants_v6(&addresses, args.dual_stack);
    if args.dry_run {
        return Ok(describe(&settings, v6.ok_or(InjectError::NoAddress)?));
    }
    let mut report = String::new();
    if args.cleanup_only {
        for family in [Family::V4, Family::V6] {
            // A family that has no program has no rules to remove.
            if let Ok(tables) = Tables::find(family, args.force_iptables_binary) {
                change(&mut report, &tables, &RuleSet::default(), &plan(&settings, family))?;
            }
        }
        routes(&kernel, &settings, None)?;
        return Ok(report);
    }
    let v6 = v6.ok_or(InjectError::NoAddress)?;
    for family in [Family::V4, Family::V6] {
        let planned = plan(&settings, family);
        let wanted = family == Family::V4 || v6;
        match Tables::find(family, args.force_iptables_binary) {
            Ok(tables) if wanted => change(&mut report, &tables, &planned, &planned)?,
            // What an earlier run left for a family that the pod no longer has.
            Ok(tables) => change(&mut report, &tables, &RuleSet::default(), &planned)?,
            Err(error) if wanted => return Err(error.into()),
            Err(_) => {}
        }
    }
    routes(&kernel, &settings, Some(v6))?;
    Ok(report)
}

/// Makes the rules of one family `wanted`. `own` are the rules that are ours by the settings: nothing else tells which rules outside our
/// chains are.
fn change(report: &mut String, tables: &Tables, wanted: &RuleSet, own: &RuleSet) -> Result<(), TablesError> {
    let there = tables.current()?;
    let name = tables.name();
    let in_place = wanted.is_in_place(&there);
    let stale: Vec<_> = if in_place && wanted == own {
        Vec::new()
    } else {
        let found = own.anonymous().filter(|(table, rule)| tables.has(*table, rule));
        found.map(|(table, rule)| (table, rule.clone())).collect()
    };
    // Writing to a string cannot fail.
    if in_place && stale.is_empty() {
        let _ = writeln!(report, "{name}: nothing to do");
        return Ok(());
    }
    let transaction = wanted.transaction(&there, &stale);
    tables.apply(&transaction)?;
    let _ = write!(report, "{name}: applied\n{transaction}");
    Ok(())
}

/// The policy route of TPROXY, and the address that the proxy connects from in IPv6. `v6`: with or without; `None`: remove it all.
fn routes(kernel: &Netlink, settings: &Settings, v6: Option<bool>) -> Result<(), InjectError> {
    let (mark, table) = (settings.mark, settings.route_table);
    for family in [Family::V4, Family::V6] {
        let wanted = settings.needs_route() && v6.is_some_and(|v6| v6 || family == Family::V4);
        let change = if wanted { Change::Add } else { Change::Remove };
        let rule = kernel.mark_rule(change, family, mark, table);
        rule.map_err(in_kernel("routing rule of the mark"))?;
        let route = kernel.local_route(change, family, table);
        route.map_err(in_kernel("route of marked packets"))?;
    }
    let change = if v6 == Some(true) { Change::Add } else { Change::Remove };
    let address = kernel.passthrough_address(change);
    address.map_err(in_kernel("address ::6 of the loopback interface"))
}

/// What would be done in a pod without any rule.
fn describe(settings: &Settings, v6: bool) -> String {
    let mut text = String::new();
    let families = [(Family::V4, "iptables", "ip"), (Family::V6, "ip6tables", "ip -6")];
    let families = families.into_iter().filter(|(family, ..)| *family == Family::V4 || v6);
    for (family, program, ip) in families {
        let rules = plan(settings, family).transaction(&RuleSet::default(), &[]);
        let (mark, table) = (settings.mark, settings.route_table);
        // Writing to a string cannot fail.
        let _ = write!(text, "# {program}-restore --noflush\n{rules}");
        if family == Family::V6 {
            let _ = writeln!(text, "# ip -6 addr add ::6/128 dev lo");
        }
        if settings.needs_route() {
            let _ = writeln!(text, "# {ip} rule add fwmark {mark} lookup {table}");
            let _ = writeln!(text, "# {ip} route add local default dev lo table {table}");
        }
    }
    text
}

/// Whether the pod's addresses call for IPv6 rules: Istio goes by the first one, and IPv4 comes first. `None`: it has none.
fn wants_v6(addresses: &[IpAddr], dual_stack: bool) -> Option<bool> {
    let usable = addresses
        .iter()
        .map(IpAddr::to_canonical)
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => {
                !address.is_loopback() && !address.is_unicast_link_local() && address.segments() != PASSTHROUGH
            }
        });
    let usable: Vec<IpAddr> = usable.collect();
    let (v4, v6) = (usable.iter().any(IpAddr::is_ipv4), usable.iter().any(IpAddr::is_ipv6));
    (v4 || v6).then_some(v6 && (dual_stack || !v4))
}

/// `::6`, which an earlier run has added, is not the pod's.
const PASSTHROUGH: [u16; 8] = [0, 0, 0, 0, 0, 0, 0, 6];

/// Moves this thread, and what it starts, to another network namespace.
fn enter(path: &Path) -> Result<(), InjectError> {
    let entered = std::fs::File::open(path).and_then(|file| {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        Ok(rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))?)
    });
    entered.map_err(|error| InjectError::Namespace {
        path: path.display().to_string(),
        error,
    })
}

fn in_kernel(what: &'static str) -> impl Fn(io::Error) -> InjectError {
    move |error| InjectError::Kernel { what, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_redirected_where_the_pod_has_it() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let local = ["127.0.0.1", "::1", "fe80::1", "169.254.1.1", "::6"];
        assert_eq!(wants_v6(&addresses(&local), true), None);
        let mut v4 = local.to_vec();
        v4.push("10.0.0.1");
        assert_eq!(wants_v6(&addresses(&v4), true), Some(false));
        let mut v6 = local.to_vec();
        v6.push("2001:db8::1");
        assert_eq!(wants_v6(&addresses(&v6), false), Some(true));
        v6.push("10.0.0.1");
        assert_eq!(wants_v6(&addresses(&v6), false), Some(false));
        assert_eq!(wants_v6(&addresses(&v6), true), Some(true));
    }
}
