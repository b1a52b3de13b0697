//! Which fields are honoured, harmless or refused (D8), and the check that holds every resource against that before it is decoded.
//!
//! In: encoded bytes and the full name of their message. Out: nothing to say, warnings, or every problem by path. The tables are one file
//! per family of resources; `docs/compatibility.md` is written from them. A field that is not in a table is refused.

/// One message: its honoured fields, then the others with their verdicts.
macro_rules! message {
    ($name:literal: $($honoured:ident)* $(; $($field:ident = $verdict:expr),* $(,)?)?) => {
        ($name, &[
            $((stringify!($honoured), remora_proto::ledger::Verdict::Honoured),)*
            $($((stringify!($field), $verdict),)*)?
        ])
    };
}

mod bootstrap;
mod cluster;
mod common;
#[cfg(test)]
mod document;
mod filters;
mod http;
mod listener;
mod route;
mod tls;

use std::fmt;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use remora_proto::ledger::{self, FindingKind, Ledger, MessageEntry, Report};
use remora_proto::schema;

use super::{Problem, Problems};
use crate::cli::Unsupported;

/// The tables, with what each family is called.
const FAMILIES: &[(&str, &[MessageEntry])] = &[
    ("Bootstrap and control planes", bootstrap::ENTRIES),
    ("Listeners", listener::ENTRIES),
    ("HTTP", http::ENTRIES),
    ("Filters", filters::ENTRIES),
    ("Routes", route::ENTRIES),
    ("Clusters and endpoints", cluster::ENTRIES),
    ("TLS and secrets", tls::ENTRIES),
    ("Common types and access logs", common::ENTRIES),
];

/// Something that is accepted without doing what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub path: String,
    pub reason: String,
    /// Refused unless the operator asks for warnings.
    pub is_unsupported: bool,
    /// Newer than this program.
    pub is_unknown: bool,
    /// Envoy warns of it too, unless told not to.
    pub is_deprecated: bool,
}

/// How strictly resources are held against the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strictness {
    pub unsupported: Unsupported,
    /// `--reject-unknown-dynamic-fields`
    pub reject_unknown: bool,
    /// Tell of deprecated fields too; off with `--skip-deprecated-logs`.
    pub tell_deprecated: bool,
}

impl From<Unsupported> for Strictness {
    fn from(unsupported: Unsupported) -> Self {
        Self {
            unsupported,
            ..Self::default()
        }
    }
}

impl Warning {
    pub fn new(path: &str, reason: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            reason: reason.into(),
            is_unsupported: false,
            is_unknown: false,
            is_deprecated: false,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// The resolved tables. A millisecond at the first call.
pub fn ledger() -> Arc<Ledger> {
    LEDGER.load_full()
}

static LEDGER: LazyLock<ArcSwap<Ledger>> = LazyLock::new(|| {
    let entries: Vec<MessageEntry> = FAMILIES.iter().flat_map(|(_, entries)| *entries).copied().collect();
    ArcSwap::from_pointee(Ledger::new(&entries).expect("a test resolves the same constant tables"))
});

/// Lists the configuration of a user's extension: its fields are the extension's own to judge. Nothing happens to a type that is listed
/// already, or that is not among the messages that this program knows.
pub fn admit(type_name: &'static str) {
    let Some(message) = schema::message(type_name).filter(|message| !ledger().lists(*message)) else {
        return;
    };
    let fields = message.fields().map(|field| (field.name(), ledger::Verdict::Honoured));
    // As long-lived as the registration that it belongs to.
    let fields: &'static [_] = Vec::leak(fields.collect());
    LEDGER.rcu(|ledger| {
        let mut entries: Vec<MessageEntry> = ledger.entries().copied().collect();
        entries.push((type_name, fields));
        Ledger::new(&entries).map_or_else(|_| ledger.clone(), Arc::new)
    });
}

/// Takes extensions away by the types of their configuration (`--disable-extensions`). To be called once, before configuration is loaded.
pub fn forbid(type_names: &[&str]) {
    let messages: Vec<_> = type_names.iter().filter_map(|name| schema::message(name)).collect();
    LEDGER.rcu(|ledger| {
        let mut forbidding = Ledger::clone(ledger);
        messages.iter().for_each(|message| forbidding.forbid(*message));
        forbidding
    });
}

/// Holds an encoded message against the tables and PGV, through everything it holds. What passes can be decoded, and no field of it is
/// ignored in silence.
///
/// # Errors
/// Whatever is malformed, invalid or refused, by path. [`Unsupported::Warn`] turns refusals into warnings, but for those that would weaken
/// access control, TLS or routing.
pub fn check(full_name: &str, bytes: &[u8], strictness: impl Into<Strictness>) -> Result<Vec<Warning>, Problems> {
    let strictness = strictness.into();
    let mut report = match strictness.tell_deprecated {
        true => Report::with_deprecated(),
        false => Report::new(),
    };
    ledger::check(bytes, full_name, &ledger(), &mut report);
    let mut problems: Vec<Problem> = Vec::new();
    if report.dropped > 0 {
        // What there was no room for may have been a refusal.
        problems.push(Problem {
            path: String::new(),
            reason: format!(
                "{} findings more than the {} that are kept",
                report.dropped,
                Report::LIMIT
            ),
        });
    }
    let mut warnings = Vec::new();
    for finding in report.findings {
        let (path, reason) = (finding.path, finding.reason);
        let is_warning = match finding.kind {
            FindingKind::Unknown => !strictness.reject_unknown,
            FindingKind::Tolerated | FindingKind::Deprecated | FindingKind::Disallowed | FindingKind::PassedOver => {
                true
            }
            FindingKind::Refused => strictness.unsupported == Unsupported::Warn,
            FindingKind::RefusedAlways | FindingKind::Invalid | FindingKind::Malformed => false,
        };
        if is_warning {
            warnings.push(Warning {
                path,
                reason,
                is_unsupported: finding.kind == FindingKind::Refused,
                is_unknown: finding.kind == FindingKind::Unknown,
                is_deprecated: matches!(finding.kind, FindingKind::Deprecated | FindingKind::Disallowed),
            });
        } else {
            problems.push(Problem { path, reason });
        }
    }
    if problems.is_empty() {
        Ok(warnings)
    } else {
        Err(Problems(problems))
    }
}

/// As [`check`], with what is tolerated instead of what is unknown: for reports to people.
pub fn tolerated(full_name: &str, bytes: &[u8]) -> Vec<Warning> {
    let mut report = Report::detailed();
    ledger::check(bytes, full_name, &ledger(), &mut report);
    let tolerated = report
        .findings
        .into_iter()
        .filter(|finding| finding.kind == FindingKind::Tolerated);
    tolerated
        .map(|finding| Warning::new(&finding.path, finding.reason))
        .collect()
}

#[cfg(test)]
mod tests;
