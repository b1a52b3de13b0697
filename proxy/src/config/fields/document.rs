//! `docs/compatibility.md`, written from the tables.

use std::fmt::Write as _;

use remora_proto::ledger::{Allowed, MessageEntry, Verdict};

/// The whole page.
pub(super) fn page(families: &[(&str, &[MessageEntry])]) -> String {
    let mut out = String::from(HEAD);
    for (family, entries) in families {
        let _ = write!(out, "\n## {family}\n");
        for (message, fields) in *entries {
            let _ = write!(out, "\n### `{message}`\n\n");
            section(&mut out, fields);
        }
    }
    out
}

const HEAD: &str = "\
# What of Envoy's configuration does what

Written from the tables in `proxy/src/config/fields/` (`UPDATE=1 cargo test -p remora fields::` writes it anew); do not edit.

- **honoured**: does what Envoy does with it.
- **harmless**: accepted without effect, for the reason given.
- **refused**: the resource is refused with the field's path and the reason. `--unsupported=warn` (or `REMORA_UNSUPPORTED=warn`) makes it a
  logged, counted warning instead.
- **always refused**: `--unsupported=warn` does not help: without the field access control, TLS or routing would be weaker than configured.

A field or message that is not on this page is refused. `remora --mode validate --config-dump FILE` tells what of a running Envoy's
configuration falls under what.
";

fn section(out: &mut String, fields: &[(&str, Verdict)]) {
    let names = |wanted: Verdict| {
        let of = fields.iter().filter(|(_, verdict)| *verdict == wanted);
        of.map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    if fields.is_empty() {
        out.push_str("Honoured; it has no fields.\n");
        return;
    }
    for (title, verdict) in [
        ("honoured", Verdict::Honoured),
        ("honoured whatever is in it", Verdict::Whole),
    ] {
        let names = names(verdict);
        if !names.is_empty() {
            let _ = writeln!(out, "- {title}: {names}");
        }
    }
    for (name, verdict) in fields {
        if let Some(text) = words(*verdict) {
            let _ = writeln!(out, "- `{name}`: {text}");
        }
    }
}

fn words(verdict: Verdict) -> Option<String> {
    Some(match verdict {
        Verdict::Honoured | Verdict::Whole => return None,
        Verdict::Harmless(reason) => format!("harmless ({reason})"),
        Verdict::Refused(reason) => format!("refused ({reason})"),
        Verdict::RefusedAlways(reason) => format!("always refused ({reason})"),
        Verdict::OnlyDefault(reason) => format!("refused unless it is the default ({reason})"),
        Verdict::OnlyDefaultAlways(reason) => format!("always refused unless it is the default ({reason})"),
        Verdict::NotValues(accepted, reason) => format!("honoured but for {} ({reason})", values(accepted)),
        Verdict::OnlyValues(allowed, reason) => format!("refused unless {} ({reason})", values(allowed)),
        Verdict::OnlyValuesAlways(allowed, reason) => format!("always refused unless {} ({reason})", values(allowed)),
    })
}

fn values(allowed: &[Allowed]) -> String {
    let one = |value: &Allowed| match value {
        Allowed::Number(number) => number.to_string(),
        Allowed::Name(name) => (*name).to_owned(),
    };
    allowed.iter().map(one).collect::<Vec<_>>().join(" or ")
}
