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

        // Another option set over the first leaves nothing of it.
        inject("-m REDIRECT -i 10.0.0.0/8 -b 80");
        let changed = state(&space, kind);
        let fresh = Space::alone(&["10.9.0.1/24", "fd09::1/64"]);
        fresh.must(format!("iptables-{kind}"), other);
        finished(fresh.command(remora()).args(flags("-m REDIRECT -i 10.0.0.0/8 -b 80")));
        let expected = state(&fresh, kind);
        assert_eq!(changed, expected);

        inject(tproxy);
        let printed = inject("--clean --dry-run");
        for expected in [
            "-X ISTIO_TPROXY\n",
            "-D OUTPUT -o eth8 -j RETURN\n",
            "# ip rule del fwmark 1337 lookup 133\n",
        ] {
            assert!(printed.contains(expected), "{expected} is missing:\n{printed}");
        }
        assert_eq!(state(&space, kind), first);
        // Whatever the options were, none are needed.
        inject("--clean");
        assert_eq!(state(&space, kind), bare);
        assert!(inject("--clean").contains("nothing to do"));
    }
}

#[test]
fn what_any_option_set_has_made_is_removed_without_it() {
    if !space::available() {
        return;
    }
    let agent = std::env::var_os("LAB_BIN").map(|lab| Path::new(&lab).join("pilot-agent").into_os_string());
    let agent = std::env::var_os("PILOT_AGENT").or(agent);
    for case in cases() {
        for kind in kinds() {
            let mut makers = vec![vec![remora().to_owned(), "inject".to_owned()]];
            // Rules that Istio itself has made go too.
            makers.extend(agent.as_ref().map(|agent| {
                let agent = agent.to_string_lossy().into_owned();
                vec![agent, "istio-iptables".to_owned()]
            }));
            for maker in makers {
                let space = Space::alone(&case.addresses);
                let bare = state(&space, kind);
                make(&space, &case, |command| command.args(&maker), kind);
                for _ in 0..2 {
                    // Not even which iptables it was is told.
                    finished(space.command(remora()).args(["inject", "--clean"]));
                    assert_eq!(state(&space, kind), bare, "{} by iptables-{kind}, {maker:?}", case.name);
                }
                assert!(!any_rules(&space), "{} by iptables-{kind}, {maker:?}", case.name);
            }
        }
    }
}

/// Whether a routing rule by mark is left, of whatever table.
fn any_rules(space: &Space) -> bool {
    ["-4", "-6"]
        .iter()
        .any(|family| space.ip([*family, "rule", "show"]).contains("fwmark"))
}

#[test]
fn whether_rules_are_in_force_is_tried() {
    if !space::available() {
        return;
    }
    let space = Space::alone(&["10.9.0.1/24"]);
    // As the proxy's user: whoever else goes to the loopback interface is left alone.
    let user = ["--reuid=1337", "--regid=1337", "--clear-groups"];
    let validate = || {
        let mut command = space.command("setpriv");
        command
            .args(user)
            .args([remora(), "inject", "--skip-rule-apply", "--run-validation"]);
        command.args(["--probe-timeout", "1s500ms"]).output().unwrap()
    };
    let before = validate();
    let words = String::from_utf8_lossy(&before.stderr).into_owned();
    assert_eq!(before.status.code(), Some(126), "{words}");
    assert!(
        words.contains("no redirected connection arrived within 1.5s"),
        "{words}"
    );
    assert!(
        !state(&space, "nft").contains("ISTIO"),
        "--skip-rule-apply makes no rules"
    );
    let made = finished(
        space
            .command(remora())
            .args(["inject", "-u", "1337", "-i", "*", "-b", "*"]),
    );
    assert!(made.contains("applied"), "{made}");
    let after = validate();
    let words = String::from_utf8_lossy(&after.stdout).into_owned();
    assert_eq!(
        after.status.code(),
        Some(0),
        "{words}{}",
        String::from_utf8_lossy(&after.stderr)
    );
    assert!(words.contains("validation passed"), "{words}");
}

#[test]
fn flags_of_istio_iptables_are_honoured_or_refused() {
    if !space::available() {
        return;
    }
    let space = Space::alone(&["10.9.0.1/24"]);
    let inject = |flags: &[&str]| {
        space
            .command(remora())
            .args(["inject", "-u", "1337"])
            .args(flags)
            .output()
            .unwrap()
    };
    for flag in ["--native-nftables", "--cni-mode"] {
        let refused = inject(&[flag]);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && words.contains(&format!("{flag}: not supported:")),
            "{words}"
        );
    }
    assert!(
        !state(&space, "nft").contains("ISTIO"),
        "what is refused has changed nothing"
    );
    let out = |flags: &[&str]| String::from_utf8_lossy(&inject(flags).stdout).into_owned();
    assert!(out(&[]).contains("applied"));
    let made = state(&space, "nft");
    assert!(out(&["--reconcile"]).contains("nothing to do"));
    assert!(out(&["--force-apply"]).contains("applied"));
    assert!(out(&["--reconcile=false"]).contains("is replaced always"));
    assert_eq!(state(&space, "nft"), made);
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
    make(&space, case, program, kind);
    state(&space, kind)
}

/// Runs a command with the arguments of `case`.
fn make(space: &Space, case: &Case, program: impl Fn(&mut Command) -> &mut Command, kind: &str) {
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
