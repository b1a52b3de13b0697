//! The plan against what the real istio-iptables made of the same options (`tests/fixtures/redirect/`).

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::cli::{self, Command};
use crate::inject::leftovers;

/// Servers of the `resolv.conf` that the recordings were made with.
const SERVERS: [&str; 3] = ["10.96.0.10", "10.96.0.11", "fd00::10"];

#[test]
fn rules_are_those_of_istio_iptables() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/redirect");
    let cases = std::fs::read_to_string(directory.join("cases.txt")).unwrap();
    let mut compared = 0;
    for line in cases.lines().filter(|line| !line.starts_with('#')) {
        let [name, families, arguments] = line.splitn(3, '|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let recorded = std::fs::read_to_string(directory.join(format!("{name}.txt"))).unwrap();
        let settings = settings(arguments);
        let v6 = families == "6" || (families == "46" && arguments.contains("--dual-stack"));
        let (v4_text, rest) = recorded.split_once("# IPv6\n").unwrap();
        let v6_text = rest.split_once("# routes\n").unwrap().0;
        let expected = RuleSet::parse(v4_text);
        assert_eq!(effect(&plan(&settings, Family::V4)), effect(&expected), "{name}, IPv4");
        let planned = if v6 {
            plan(&settings, Family::V6)
        } else {
            RuleSet::default()
        };
        assert_eq!(effect(&planned), effect(&RuleSet::parse(v6_text)), "{name}, IPv6");
        compared += 1;
    }
    assert!(compared >= 30, "{compared}");
}

/// Arguments as `cases.txt` writes them. Environment variables become the flags that they stand for, as the process has one environment.
fn settings(arguments: &str) -> Settings {
    let mut words = vec!["remora".to_owned(), "inject".to_owned()];
    if !arguments.split(' ').any(|word| word == "-u") {
        words.extend(["-u".to_owned(), "1337".to_owned()]);
    }
    for word in arguments.split(' ').filter(|word| !word.is_empty()) {
        let word = word.replace("''", "");
        let variable = word.split_once('=').filter(|(name, _)| !name.starts_with('-'));
        match variable {
            Some((name, value)) => words.push(format!("--{}={value}", name.to_lowercase().replace('_', "-"))),
            None => words.push(word),
        }
    }
    // The servers come from the recording's `resolv.conf`, not from this machine's.
    let by_servers = arguments.contains("--redirect-dns") && !arguments.contains("--capture-all-dns");
    words.retain(|word| !by_servers || word != "--redirect-dns");
    let Ok(Command::Inject(args)) = cli::parse(&words) else {
        panic!("{:?}", cli::parse(&words));
    };
    let mut settings = Settings::new(&args).unwrap();
    if by_servers {
        settings.dns = Dns::Servers(SERVERS.iter().map(|server| server.parse().unwrap()).collect());
    }
    settings
}

/// Chains by table and name, each as the kernel walks it.
fn effect(rules: &RuleSet) -> BTreeMap<(Table, String), Vec<String>> {
    let mut chains = BTreeMap::new();
    for table in Table::ALL {
        let rules = rules.table(table);
        for (chain, list) in rules.chains {
            chains.insert((table, chain), list);
        }
        for rule in rules.base {
            let list: &mut Vec<String> = chains.entry((table, rule.chain)).or_default();
            list.insert(if rule.first { 0 } else { list.len() }, rule.rule);
        }
    }
    chains
}

#[test]
fn what_any_set_up_has_made_is_known_without_its_options() {
    let options = [
        "-m TPROXY -i * -b * -t 7 -r 99 -u 1,2 -g 3 -c eth1,eth2 -k veth0",
        "-m REDIRECT -i 10.0.0.0/8,fd00::/8 -b 80 -k veth0,veth1 -c eth1",
        "-m TPROXY -i '' -b '' --drop-invalid",
    ];
    for family in [Family::V4, Family::V6] {
        for options in options {
            let made = plan(&settings(options), family);
            let there = RuleSet::parse(&saved(
                &made,
                "-A PREROUTING -i docker0 -j RETURN\n-A OUTPUT -j DOCKER\n",
            ));
            let all: Vec<_> = there
                .anonymous()
                .map(|(table, rule)| (table, rule.rule.clone()))
                .collect();
            let known: Vec<_> = leftovers::of(&there)
                .into_iter()
                .map(|(table, rule)| (table, rule.rule))
                .collect();
            let unknown: Vec<_> = all
                .iter()
                .filter(|rule| !known.contains(rule))
                .map(|(_, rule)| rule.as_str())
                .collect();
            let foreign = |rule: &&str| rule.contains("docker0") || rule.contains("DOCKER");
            assert!(unknown.iter().all(foreign), "{options}: {unknown:?} stay");
            // Interfaces whose traffic is not redirected anywhere else have no second rule to be known by.
            assert!(known.len() >= made.anonymous().count(), "{options}");
        }
    }
}

#[test]
fn a_second_run_has_nothing_to_do_and_cleaning_leaves_nothing() {
    let settings = settings("-m TPROXY -i * -b * -k veth0 -c eth1 --redirect-dns --capture-all-dns");
    let wanted = plan(&settings, Family::V4);
    let first = wanted.transaction(&RuleSet::default(), &[]);
    // What `iptables-save` would print: inserted rules at the top.
    let there = RuleSet::parse(&saved(&wanted, ""));
    let other = RuleSet::parse(&saved(&wanted, "-A PREROUTING -j DOCKER\n"));
    let in_place = |wanted: &RuleSet, there: &RuleSet| wanted.is_in_place(there, &leftovers::of(there));
    assert!(!in_place(&wanted, &RuleSet::default()));
    assert!(in_place(&wanted, &there) && in_place(&wanted, &other));
    let nothing = RuleSet::default();
    assert!(in_place(&nothing, &nothing) && !in_place(&nothing, &there));
    assert_eq!(nothing.transaction(&nothing, &[]), "");
    let clean = nothing.transaction(&there, &leftovers::of(&there));
    assert!(!clean.contains("-A "), "{clean}");
    for line in first
        .lines()
        .filter(|line| line.starts_with("-A PREROUTING") || line.starts_with("-A OUTPUT"))
    {
        assert!(clean.contains(&line.replace("-A ", "-D ")), "{line} stays:\n{clean}");
    }
    for chain in [INBOUND, IN_REDIRECT, REDIRECT, OUT, OUT_DNS, DIVERT, TPROXY] {
        assert!(clean.contains(&format!("-X {chain}\n")), "{chain} stays:\n{clean}");
    }
}

/// As `iptables-save` would print it, with rules of somebody else's.
fn saved(rules: &RuleSet, foreign: &str) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        text.push_str(&format!("*{}\n{foreign}", table.name()));
        for ((_, chain), list) in effect(rules).into_iter().filter(|((of, _), _)| *of == table) {
            if chain.starts_with("ISTIO_") {
                text.push_str(&format!(":{chain} - [0:0]\n"));
            }
            for rule in list {
                text.push_str(&format!("-A {chain} {rule}\n"));
            }
        }
    }
    text
}

#[test]
fn a_changed_rule_set_replaces_the_old_one_in_one_step() {
    let old = plan(&settings("-m TPROXY -i * -b *"), Family::V4);
    let new = plan(&settings("-m REDIRECT -i 10.0.0.0/8 -b 80"), Family::V4);
    assert!(!new.is_in_place(&old, &[]));
    let text = new.transaction(&old, &[]);
    let nat = text.split_once("*nat\n").unwrap().1;
    for expected in [
        ":ISTIO_OUTPUT - [0:0]\n",
        "-D OUTPUT -j ISTIO_OUTPUT\n",
        "-A OUTPUT -j ISTIO_OUTPUT\n",
        "-A ISTIO_OUTPUT -d 10.0.0.0/8 -j ISTIO_REDIRECT\n",
    ] {
        assert!(nat.contains(expected), "{expected} is missing:\n{text}");
    }
    assert!(
        text.starts_with("*mangle\n") && text.contains("-X ISTIO_TPROXY\n"),
        "{text}"
    );
    assert_eq!(text.matches("COMMIT\n").count(), 2);
}
