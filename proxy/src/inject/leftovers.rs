//! Rules in the kernel's chains that some set-up has made and that lead to no chain of ours: told by their shape, as the options that they
//! were made with are gone.

use super::rules::{BaseRule, RuleSet, Table, chain_of_ours};

/// Table, chain, and the words of the rule; `*` is any one word.
type Shape = (Table, &'static str, &'static str);

/// What TPROXY needs beside its chains. Nobody else marks packets with 1338 (`0x53a`), or saves and restores marks so.
const TPROXY: &[Shape] = &[
    (
        Table::Mangle,
        "PREROUTING",
        "-p tcp -m mark --mark * -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    ),
    (Table::Mangle, "OUTPUT", "-o lo -p tcp -m mark --mark * -j RETURN"),
    (
        Table::Mangle,
        "OUTPUT",
        "! -d * -o lo -p tcp -m owner * * -j MARK --set-xmark 0x53a/0xffffffff",
    ),
    (
        Table::Mangle,
        "OUTPUT",
        "-p tcp -m connmark --mark * -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    ),
];

/// All such rules of what is `there`, as they are printed.
pub fn of(there: &RuleSet) -> Vec<(Table, BaseRule)> {
    let anonymous: Vec<(Table, &BaseRule)> = there.anonymous().collect();
    let is_made = |(table, rule): &&(Table, &BaseRule)| {
        let tproxy = TPROXY
            .iter()
            .any(|(of, chain, words)| of == table && *chain == rule.chain && has_shape(&rule.rule, words));
        tproxy || is_of_interface(there, *table, rule)
    };
    let made = anonymous.iter().filter(is_made);
    made.map(|(table, rule)| (*table, (*rule).clone())).collect()
}

fn has_shape(rule: &str, shape: &str) -> bool {
    let (mut words, mut wanted) = (rule.split(' '), shape.split(' '));
    loop {
        match (words.next(), wanted.next()) {
            (None, None) => return true,
            (Some(word), Some(wanted)) if wanted == "*" || wanted == word => {}
            _ => return false,
        }
    }
}

/// Whether a rule leaves an interface alone for us (`-c`, `-k`): others have such rules too, but not in both directions, nor together with a jump
/// of that interface into a chain of ours.
fn is_of_interface(there: &RuleSet, table: Table, rule: &BaseRule) -> bool {
    let (here, other) = match rule.chain.as_str() {
        "PREROUTING" => ("-i", ("OUTPUT", "-o")),
        "OUTPUT" => ("-o", ("PREROUTING", "-i")),
        _ => return false,
    };
    let name = rule
        .rule
        .strip_prefix(here)
        .and_then(|rest| rest.strip_suffix(" -j RETURN"));
    let Some(name) = name
        .and_then(|name| name.strip_prefix(' '))
        .filter(|name| !name.contains(' '))
    else {
        return false;
    };
    let (chain, direction) = other;
    let twin = format!("{direction} {name} -j RETURN");
    let from = format!("-i {name} ");
    let rules = there.table(table).base;
    rules.iter().any(|known| {
        let is_twin = known.chain == chain && known.rule == twin;
        let leads_to_us =
            known.chain == "PREROUTING" && known.rule.contains(&from) && chain_of_ours(&known.rule).is_some();
        is_twin || leads_to_us
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_others_that_look_alike_stay() {
        let there = RuleSet::parse(
            "*mangle\n\
             -A PREROUTING -p tcp -m mark --mark 0x7 -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff\n\
             -A OUTPUT -o eth9 -j RETURN\n\
             -A OUTPUT -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x1/0xffffffff\n\
             *nat\n\
             -A PREROUTING -i docker0 -j RETURN\n\
             -A PREROUTING -p tcp -j ISTIO_INBOUND\n\
             -A OUTPUT -d 10.9.9.9/32 -j ACCEPT\n",
        );
        assert_eq!(of(&there), []);
    }

    #[test]
    fn interfaces_are_known_by_their_other_rule() {
        let there = RuleSet::parse(
            "*nat\n-A PREROUTING -i eth7 -d 10.0.0.0/8 -j ISTIO_REDIRECT\n-A PREROUTING -i eth7 -j RETURN\n\
             -A PREROUTING -i eth8 -j RETURN\n-A PREROUTING -i eth77 -j RETURN\n-A OUTPUT -o eth8 -j RETURN\n",
        );
        let found: Vec<String> = of(&there).into_iter().map(|(_, rule)| rule.rule).collect();
        assert_eq!(found, ["-i eth7 -j RETURN", "-i eth8 -j RETURN", "-o eth8 -j RETURN"]);
    }
}
