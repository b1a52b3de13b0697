//! Rule sets of `remora inject` against those of istio-iptables, as the kernel has them.
//!
//! The recordings in `fixtures/redirect/` are what the real istio-iptables made: `UPDATE=1 PILOT_AGENT=... ` writes them anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::space::{self, Space, finished, remora, resolver_of};

struct Case {
    name: String,
    addresses: Vec<&'static str>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

#[test]
fn rule_sets_are_those_of_istio_iptables() {
    if !space::available() {
        return;
    }
    let lab = std::env::var_os("LAB_BIN").map(|lab| Path::new(&lab).join("pilot-agent").into_os_string());
    let agent = std::env::var_os("PILOT_AGENT").or(lab);
    let update = std::env::var_os("UPDATE").is_some();
    for case in cases() {
        let path = fixtures().join(format!("{}.txt", case.name));
        if let Some(agent) = &agent {
            let made = with_rules(
                &case,
                |command| command.args([agent.to_str().unwrap(), "istio-iptables"]),
                "nft",
            );
            if update {
                std::fs::write(&path, &made).unwrap();
            }
            assert_eq!(
                made,
                std::fs::read_to_string(&path).unwrap(),
                "{}: istio-iptables is not as recorded",
                case.name
            );
        }
        let recorded = std::fs::read_to_string(&path).unwrap();
        for kind in kinds() {
            let made = with_rules(&case, |command| command.args([remora(), "inject"]), kind);
            assert_eq!(made, recorded, "{} by iptables-{kind}", case.name);
        }
    }
}

#[test]
fn it_can_be_run_again_changed_and_undone() {
    if !space::available() {
        return;
    }
    for kind in kinds() {
        let space = Space::alone(&["10.9.0.1/24", "fd09::1/64"]);
        let flags = |extra: &str| {
            let mut flags = vec!["inject".to_owned(), "-u".to_owned(), "1337".to_owned()];
            flags.push(format!("--force-iptables-binary={kind}"));
            flags.extend(extra.split(' ').map(str::to_owned));
            flags
        };
        let inject = |extra: &str| finished(space.command(remora()).args(flags(extra)));
        // Rules of somebody else's, before and after.
        let other = ["-t", "nat", "-A", "OUTPUT", "-d", "10.9.9.9/32", "-j", "ACCEPT"];
        space.must(format!("iptables-{kind}"), other);
        let bare = state(&space, kind);
        assert!(bare.contains("10.9.9.9"), "{bare}");

        let tproxy = "-m TPROXY -i * -b * -k eth7 -c eth8 --dual-stack --redirect-dns --capture-all-dns";
        assert!(inject(tproxy).contains("applied"));
        let first = state(&space, kind);
        let again = inject(tproxy);
        assert_eq!(again.matches("nothing to do").count(), 2, "{again}");
        assert_eq!(state(&space, kind), first);

        // Another option set over the first leaves what it would have made alone.
        inject("-m REDIRECT -i 10.0.0.0/8 -b 80");
        let changed = state(&space, kind);
        let fresh = Space::alone(&["10.9.0.1/24", "fd09::1/64"]);
        fresh.must(format!("iptables-{kind}"), other);
        finished(fresh.command(remora()).args(flags("-m REDIRECT -i 10.0.0.0/8 -b 80")));
        let expected = state(&fresh, kind);
        // Rules outside our chains can only be told by the options that made them.
        let unknown = |text: &str| {
            let foreign = ["eth7", "eth8", "0x539", "0x53a"];
            let lines = text.lines().filter(|line| !line.starts_with('*'));
            let own = lines.filter(|line| !foreign.iter().any(|part| line.contains(part)));
            own.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(unknown(&changed), unknown(&expected));

        inject(tproxy);
        inject(&format!("{tproxy} --clean"));
        assert_eq!(state(&space, kind), bare);
        assert!(inject(&format!("{tproxy} --clean")).contains("nothing to do"));
    }
}

#[test]
fn a_dry_run_prints_and_changes_nothing() {
    if !space::available() {
        return;
    }
    let space = Space::alone(&["10.9.0.1/24", "fd09::1/64"]);
    let flags = [
        "inject",
        "-u",
        "1337",
        "-m",
        "TPROXY",
        "-i",
        "*",
        "-b",
        "*",
        "--dual-stack",
        "--dry-run",
    ];
    let printed = space.must(remora(), flags);
    for expected in [
        "# iptables-restore --noflush\n",
        "# ip6tables-restore --noflush\n",
        "-A PREROUTING -p tcp -j ISTIO_INBOUND\n",
        "# ip rule add fwmark 1337 lookup 133\n",
        "# ip -6 addr add ::6/128 dev lo\n",
    ] {
        assert!(printed.contains(expected), "{expected} is missing:\n{printed}");
    }
    assert!(!state(&space, "nft").contains("ISTIO"));
    // What is printed can be fed to the programs: it is what an actual run applies.
    let restore = printed.split("# ip6tables-restore").next().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), restore).unwrap();
    space.must("iptables-nft-restore", ["--noflush", file.path().to_str().unwrap()]);
    let fed = state(&space, "nft");
    assert!(fed.contains("-A PREROUTING -p tcp -j ISTIO_INBOUND\n"), "{fed}");
    let refused = space
        .command(remora())
        .args(["inject", "-b", "eighty"])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("--istio-inbound-ports: 'eighty' is not a port"),
        "{words}"
    );
}

/// The state of a fresh namespace after a command with the arguments of `case`.
fn with_rules(case: &Case, program: impl Fn(&mut Command) -> &mut Command, kind: &str) -> String {
    let space = Space::alone(&case.addresses);
    let resolver = resolver_of(space.name());
    std::fs::create_dir_all(&resolver).unwrap();
    let servers = "nameserver 10.96.0.10\nnameserver 10.96.0.11\nnameserver fd00::10\n";
    std::fs::write(resolver.join("resolv.conf"), servers).unwrap();
    let mut command = space.command("env");
    command.args(case.environment.iter().map(|(name, value)| format!("{name}={value}")));
    program(&mut command)
        .args(&case.arguments)
        .arg(format!("--force-iptables-binary={kind}"));
    finished(&mut command);
    state(&space, kind)
}

/// Rules, routing rules, routes and loopback addresses: what of them is not the system's own.
fn state(space: &Space, kind: &str) -> String {
    let mut text = String::new();
    for (title, program) in [("# IPv4", "iptables"), ("# IPv6", "ip6tables")] {
        let saved = space.must(format!("{program}-{kind}-save"), []);
        let _ = write!(text, "{title}\n{}", normalised(&saved));
    }
    text.push_str("# routes\n");
    for family in ["-4", "-6"] {
        let rules = space.ip([family, "rule", "show"]);
        for rule in rules.lines().filter(|rule| rule.contains("fwmark")) {
            let (_, rule) = rule.split_once(':').unwrap();
            let _ = writeln!(
                text,
                "{family} rule {}",
                rule.split_whitespace().collect::<Vec<_>>().join(" ")
            );
            let table = rule.split("lookup").nth(1).unwrap().trim();
            for route in space.ip([family, "route", "show", "table", table]).lines() {
                let _ = writeln!(text, "{family} route {}", route.trim());
            }
        }
    }
    let addresses = space.ip(["-6", "-o", "addr", "show", "dev", "lo"]);
    for address in addresses.split_whitespace().filter(|word| *word == "::6/128") {
        let _ = writeln!(text, "-6 addr {address}");
    }
    text
}

/// Without comments, counters, empty tables and the order of chains, which mean nothing.
fn normalised(saved: &str) -> String {
    let mut tables: Vec<(&str, Vec<&str>, Vec<&str>)> = Vec::new();
    for line in saved.lines().map(str::trim_end) {
        if let Some(table) = line.strip_prefix('*') {
            tables.push((table, Vec::new(), Vec::new()));
        } else if let Some((_, chains, rules)) = tables.last_mut() {
            if let Some(chain) = line.strip_prefix(':') {
                chains.extend(chain.split(' ').next().filter(|chain| chain.starts_with("ISTIO_")));
            } else if line.starts_with("-A ") {
                rules.push(line);
            }
        }
    }
    tables.sort();
    let mut text = String::new();
    for (table, mut chains, mut rules) in tables {
        if chains.is_empty() && rules.is_empty() {
            continue;
        }
        chains.sort_unstable();
        // Stable: the order within a chain is what counts.
        rules.sort_by_key(|rule| rule.split(' ').nth(1));
        let _ = writeln!(text, "*{table}");
        chains.iter().for_each(|chain| text.push_str(&format!(":{chain}\n")));
        rules.iter().for_each(|rule| text.push_str(&format!("{rule}\n")));
    }
    text
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(fixtures().join("cases.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let [name, families, arguments] = line.splitn(3, '|').map(str::trim).collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let mut case = Case {
                name: name.to_owned(),
                addresses: Vec::new(),
                environment: Vec::new(),
                arguments: Vec::new(),
            };
            case.addresses.extend(families.contains('4').then_some("10.9.0.1/24"));
            case.addresses.extend(families.contains('6').then_some("fd09::1/64"));
            if !arguments.split(' ').any(|word| word == "-u") {
                case.arguments.extend(["-u".to_owned(), "1337".to_owned()]);
            }
            for word in arguments.split(' ').filter(|word| !word.is_empty()) {
                let word = word.replace("''", "");
                match word.split_once('=').filter(|(name, _)| !name.starts_with('-')) {
                    Some((name, value)) => case.environment.push((name.to_owned(), value.to_owned())),
                    None => case.arguments.push(word),
                }
            }
            case
        })
        .collect()
}

/// The variants of iptables that this machine has and its kernel supports.
fn kinds() -> Vec<&'static str> {
    let works = |kind: &&str| {
        let families = ["iptables", "ip6tables"];
        families.iter().all(|family| {
            let program = format!("{family}-{kind}");
            let listed = Space::alone(&[]).command(program).args(["-t", "nat", "-S"]).output();
            listed.is_ok_and(|output| output.status.success())
        })
    };
    let kinds: Vec<_> = ["nft", "legacy"].into_iter().filter(works).collect();
    assert!(!kinds.is_empty(), "neither iptables-nft nor iptables-legacy works here");
    kinds
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/redirect")
}
