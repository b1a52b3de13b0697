//! `remora inject`: takes over a pod's traffic, or gives it back.
//!
//! In: flags and environment variables of istio-iptables. Out: redirect rules, and with TPROXY a route, equal in effect to Istio's. Pure up to
//! `plan`; then what is there is compared with what is wanted and the difference made in one transaction per table. What is in
//! place is left alone, so it can be run again at any time. Runs before the proxy, as root, in the pod's network namespace, and ends.

mod leftovers;
mod netlink;
mod plan;
mod rules;
mod settings;
mod tables;
mod validation;

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
use validation::ValidationError;

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
    #[error("validation failed: {0}")]
    Validation(#[from] ValidationError),
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
            match error {
                InjectError::Validation(_) => ExitCode::from(validation::EXIT_CODE),
                _ => ExitCode::FAILURE,
            }
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
    let mut report = String::new();
    if args.reconcile == Some(false) {
        report.push_str("--reconcile=false changes nothing: what another set-up has left is replaced always\n");
    }
    if args.skip_rule_apply {
        report.push_str("no rules are made: --skip-rule-apply\n");
    } else {
        let own = Injection {
            settings: &settings,
            kernel: &kernel,
            args,
            v6: wants_v6(&addresses, args.dual_stack),
        };
        own.run(&mut report)?;
    }
    if args.run_validation {
        // By the pod's first address, as Istio does.
        let v6 = wants_v6(&addresses, false).ok_or(InjectError::NoAddress)?;
        settings.probe(args, v6).run()?;
        report.push_str("validation passed: the rules are in force\n");
    }
    Ok(report)
}

struct Injection<'a> {
    settings: &'a Settings,
    kernel: &'a Netlink,
    args: &'a InjectArgs,
    /// Whether there are rules for IPv6; `None`: the pod has no address.
    v6: Option<bool>,
}

impl Injection<'_> {
    fn run(&self, report: &mut String) -> Result<(), InjectError> {
        if self.args.cleanup_only {
            return self.clean(report);
        }
        let v6 = self.v6.ok_or(InjectError::NoAddress)?;
        if self.args.dry_run {
            report.push_str(&describe(self.settings, v6));
            return Ok(());
        }
        for family in [Family::V4, Family::V6] {
            let wanted = family == Family::V4 || v6;
            match Tables::find(family, self.args.force_iptables_binary) {
                Ok(tables) if wanted => self.change(report, &tables, &plan(self.settings, family))?,
                // What an earlier run left for a family that the pod no longer has.
                Ok(tables) => self.change(report, &tables, &RuleSet::default())?,
                Err(error) if wanted => return Err(error.into()),
                Err(_) => {}
            }
        }
        self.routes(report, Some(v6))
    }

    /// Removes what any set-up can have made, whatever its options were.
    fn clean(&self, report: &mut String) -> Result<(), InjectError> {
        for family in [Family::V4, Family::V6] {
            // A family that has no program has no rules to remove.
            for tables in Tables::all(family, self.args.force_iptables_binary) {
                self.change(report, &tables, &RuleSet::default())?;
            }
        }
        self.routes(report, None)
    }

    /// Makes the rules of one family `wanted`.
    fn change(&self, report: &mut String, tables: &Tables, wanted: &RuleSet) -> Result<(), TablesError> {
        let there = tables.current()?;
        let made = leftovers::of(&there);
        let name = tables.name();
        let forced = self.args.force_apply && !self.args.cleanup_only;
        // Writing to a string cannot fail.
        if wanted.is_in_place(&there, &made) && !forced {
            let _ = writeln!(report, "{name}: nothing to do");
            return Ok(());
        }
        let transaction = wanted.transaction(&there, &made);
        if self.args.dry_run {
            let _ = write!(report, "# {name}-restore --noflush\n{transaction}");
            return Ok(());
        }
        tables.apply(&transaction)?;
        let _ = write!(report, "{name}: applied\n{transaction}");
        Ok(())
    }

    /// The policy route of TPROXY, and the address that the proxy connects from in IPv6. `v6`: with or without; `None`: remove it all.
    fn routes(&self, report: &mut String, v6: Option<bool>) -> Result<(), InjectError> {
        let own = (self.settings.mark, self.settings.route_table);
        for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ip -6")] {
            let wanted = self.settings.needs_route() && v6.is_some_and(|v6| v6 || family == Family::V4);
            let found = self.kernel.tproxy_rules(family);
            let mut stale = found.map_err(in_kernel("routing rules"))?;
            if self.args.dry_run {
                for (mark, table) in stale {
                    let _ = writeln!(report, "# {ip} rule del fwmark {mark} lookup {table}");
                    let _ = writeln!(report, "# {ip} route del local default dev lo table {table}");
                }
                continue;
            }
            if !wanted && !stale.contains(&own) {
                stale.push(own);
            }
            stale.retain(|pair| !wanted || *pair != own);
            for pair in stale {
                // A table that is ours still keeps its route.
                self.policy(Change::Remove, family, pair, !wanted || pair.1 != own.1)?;
            }
            if wanted {
                self.policy(Change::Add, family, own, true)?;
            }
        }
        if self.args.dry_run {
            return Ok(());
        }
        let change = if v6 == Some(true) { Change::Add } else { Change::Remove };
        let address = self.kernel.passthrough_address(change);
        address.map_err(in_kernel("address ::6 of the loopback interface"))
    }

    fn policy(
        &self,
        change: Change,
        family: Family,
        (mark, table): (u32, u32),
        route: bool,
    ) -> Result<(), InjectError> {
        let rule = self.kernel.mark_rule(change, family, mark, table);
        rule.map_err(in_kernel("routing rule of the mark"))?;
        if route {
            let route = self.kernel.local_route(change, family, table);
            route.map_err(in_kernel("route of marked packets"))?;
        }
        Ok(())
    }
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
