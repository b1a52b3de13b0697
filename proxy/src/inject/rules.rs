//! Rule sets as text in the form of `iptables-save`: what is wanted, what is there, and the one transaction from here to there.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Tables that rules go to, and those that none of ours goes to, in which others may have left some. A table is changed in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    Mangle,
    Nat,
    Raw,
    Filter,
    Security,
}

impl Table {
    pub const ALL: [Self; 5] = [Self::Mangle, Self::Nat, Self::Raw, Self::Filter, Self::Security];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Security => "security",
        }
    }
}

/// A rule in one of the kernel's own chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRule {
    pub chain: String,
    /// All that stands behind the name of the chain.
    pub rule: String,
    /// At the top of its chain, not at its end.
    pub first: bool,
}

/// The rules of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Chains of our own; empty ones too.
    pub chains: BTreeMap<String, Vec<String>>,
    pub base: Vec<BaseRule>,
}

impl Rules {
    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.base.is_empty()
    }
}

/// The rules of one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet(BTreeMap<Table, Rules>);

impl RuleSet {
    /// Appends `rule` to `chain`; chains of our own come into being by that, or by a jump.
    pub fn append(&mut self, table: Table, chain: &str, rule: impl Into<String>) {
        self.add(table, chain, rule.into(), false);
    }

    /// Puts `rule` at the top of one of the kernel's chains.
    pub fn put_first(&mut self, table: Table, chain: &str, rule: impl Into<String>) {
        self.add(table, chain, rule.into(), true);
    }

    fn add(&mut self, table: Table, chain: &str, rule: String, first: bool) {
        let rules = self.0.entry(table).or_default();
        if let Some(target) = chain_of_ours(&rule) {
            rules.chains.entry(target.to_owned()).or_default();
        }
        if is_ours(chain) {
            rules.chains.entry(chain.to_owned()).or_default().push(rule);
        } else {
            rules.base.push(BaseRule {
                chain: chain.to_owned(),
                rule,
                first,
            });
        }
    }

    /// What `iptables-save` prints, as far as we care: our chains, and every rule of the kernel's chains in the tables we use.
    pub fn parse(saved: &str) -> Self {
        let mut found = Self::default();
        let mut table = None;
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.name() == name.trim());
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                if is_ours(chain) {
                    found
                        .0
                        .entry(table)
                        .or_default()
                        .chains
                        .entry(chain.to_owned())
                        .or_default();
                }
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
                found.append(table, chain, rule.trim_end());
            }
        }
        found
    }

    /// Its rules in one table.
    pub fn table(&self, table: Table) -> Rules {
        self.0.get(&table).cloned().unwrap_or_default()
    }

    /// Rules in the kernel's chains that do not lead to a chain of ours.
    pub fn anonymous(&self) -> impl Iterator<Item = (Table, &BaseRule)> {
        let all = self
            .0
            .iter()
            .flat_map(|(table, rules)| rules.base.iter().map(|rule| (*table, rule)));
        all.filter(|(_, rule)| chain_of_ours(&rule.rule).is_none())
    }

    /// Whether what is `there` is what is wanted: our chains are the same, rule by rule, the kernel's chains lead there by the same rules in
    /// the same order, whatever else they hold, and of the rules that some set-up has `made` there are no others.
    pub fn is_in_place(&self, there: &Self, made: &[(Table, BaseRule)]) -> bool {
        let is_wanted = |(table, rule): &(Table, BaseRule)| {
            let same =
                |(of, known): (Table, &BaseRule)| of == *table && known.chain == rule.chain && known.rule == rule.rule;
            self.anonymous().any(same)
        };
        if made.len() > self.anonymous().count() || !made.iter().all(is_wanted) {
            return false;
        }
        Table::ALL.into_iter().all(|table| {
            let (wanted, there) = (self.table(table), there.table(table));
            let jumps = |rules: &Rules| {
                rules
                    .base
                    .iter()
                    .filter(|rule| chain_of_ours(&rule.rule).is_some())
                    .count()
            };
            wanted.chains == there.chains && jumps(&wanted) == jumps(&there) && base_in_order(&wanted, &there)
        })
    }

    /// Input for `iptables-restore --noflush` that makes of what is `there` what is wanted, table by table in one step each: nobody's traffic
    /// meets half a rule set. `stale` are rules of [`anonymous`](Self::anonymous) kind that exist and must go. Empty: nothing to do.
    pub fn transaction(&self, there: &Self, stale: &[(Table, BaseRule)]) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            let (wanted, there) = (self.table(table), there.table(table));
            let jumps = there.base.iter().filter(|rule| chain_of_ours(&rule.rule).is_some());
            let stale = stale.iter().filter(|(of, _)| *of == table).map(|(_, rule)| rule);
            let gone: Vec<&BaseRule> = jumps.chain(stale).collect();
            if wanted.is_empty() && there.chains.is_empty() && gone.is_empty() {
                continue;
            }
            // Writing to a string cannot fail.
            let _ = write_table(&mut text, table, &wanted, &there, &gone);
        }
        text
    }
}

fn write_table(text: &mut String, table: Table, wanted: &Rules, there: &Rules, gone: &[&BaseRule]) -> std::fmt::Result {
    writeln!(text, "*{}", table.name())?;
    let old = there.chains.keys().filter(|chain| !wanted.chains.contains_key(*chain));
    // Naming a chain makes it, or empties it.
    for chain in wanted.chains.keys().chain(old.clone()) {
        writeln!(text, ":{chain} - [0:0]")?;
    }
    for BaseRule { chain, rule, .. } in gone {
        writeln!(text, "-D {chain} {rule}")?;
    }
    for chain in old {
        writeln!(text, "-X {chain}")?;
    }
    for (chain, rules) in &wanted.chains {
        for rule in rules {
            writeln!(text, "-A {chain} {rule}")?;
        }
    }
    for BaseRule { chain, rule, first } in &wanted.base {
        let (verb, place) = if *first { ("-I", " 1") } else { ("-A", "") };
        writeln!(text, "{verb} {chain}{place} {rule}")?;
    }
    writeln!(text, "COMMIT")
}

/// Whether the kernel's chains in `there` have the rules of `wanted` in the order in which they take effect.
fn base_in_order(wanted: &Rules, there: &Rules) -> bool {
    let mut chains: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for BaseRule { chain, rule, first } in &wanted.base {
        let rules = chains.entry(chain).or_default();
        rules.insert(if *first { 0 } else { rules.len() }, rule);
    }
    chains.into_iter().all(|(chain, rules)| {
        let mut there = there.base.iter().filter(|rule| rule.chain == chain);
        rules.into_iter().all(|rule| there.any(|other| other.rule == rule))
    })
}

/// The chain of ours that a rule jumps or goes to.
pub fn chain_of_ours(rule: &str) -> Option<&str> {
    let (_, target) = rule.rsplit_once("-j ").or_else(|| rule.rsplit_once("-g "))?;
    let target = target.split(' ').next()?;
    is_ours(target).then_some(target)
}

/// Istio's prefix is ours too: a pod has either's rules, never both.
fn is_ours(chain: &str) -> bool {
    chain.starts_with("ISTIO_")
}
