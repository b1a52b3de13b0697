//! What a walk found.

use std::fmt;

/// Classes of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// A field number that the schema lacks.
    Unknown,
    /// Not supported; a warning where the operator asked for that.
    Refused,
    /// Not supported, and never to be passed over.
    RefusedAlways,
    /// Accepted without effect. Kept only with [`Report::detailed`].
    Tolerated,
    /// Breaks a PGV rule.
    Invalid,
    /// Not protobuf, or not of its field's type.
    Malformed,
    /// Deprecated in Envoy, and disallowed unless a runtime key allows it.
    Disallowed,
    /// Deprecated in Envoy. Kept only with [`Report::detailed`].
    Deprecated,
    /// An alternative that neither Envoy nor we have; the next one is taken.
    PassedOver,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: FindingKind,
    /// For example `filter_chains[0].filters[1].typed_config.stat_prefix`; empty for the message itself.
    pub path: String,
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.reason)
    }
}

/// The findings of one or more walks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the walk, at most [`Report::LIMIT`]; the counters go on.
    pub findings: Vec<Finding>,
    /// Fields with numbers that the schema lacks.
    pub unknown: u64,
    /// Set fields that are accepted without effect.
    pub tolerated: u64,
    /// Set fields that Envoy deprecates.
    pub deprecated: u64,
    /// Extensions marked `is_optional` that are not supported and were passed over.
    pub skipped: u64,
    /// Findings that [`Report::findings`] had no room for.
    pub dropped: u64,
    detailed: bool,
    tells_deprecated: bool,
}

impl Report {
    /// Findings kept per report.
    pub const LIMIT: usize = 100;

    /// Keeps refusals, unknown fields and errors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps tolerated and deprecated fields as findings too.
    pub fn detailed() -> Self {
        Self {
            detailed: true,
            ..Self::default()
        }
    }

    /// Keeps deprecated fields as findings too.
    pub fn with_deprecated() -> Self {
        Self {
            tells_deprecated: true,
            ..Self::default()
        }
    }

    /// Nothing but unknown, tolerated or deprecated fields, and alternatives that were passed over.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| {
            matches!(
                finding.kind,
                FindingKind::Unknown | FindingKind::Tolerated | FindingKind::Deprecated | FindingKind::PassedOver
            )
        })
    }

    /// Findings of one kind.
    pub fn of(&self, kind: FindingKind) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.kind == kind)
    }

    pub(super) fn wants(&self, kind: FindingKind) -> bool {
        match kind {
            FindingKind::Tolerated => self.detailed,
            FindingKind::Deprecated => self.detailed || self.tells_deprecated,
            _ => true,
        }
    }

    pub(super) fn add(&mut self, kind: FindingKind, path: impl FnOnce() -> String, reason: impl Into<String>) {
        match kind {
            FindingKind::Unknown => self.unknown += 1,
            FindingKind::Tolerated => self.tolerated += 1,
            FindingKind::Deprecated | FindingKind::Disallowed => self.deprecated += 1,
            _ => {}
        }
        if !self.wants(kind) {
            return;
        }
        if self.findings.len() < Self::LIMIT {
            self.findings.push(Finding {
                kind,
                path: path(),
                reason: reason.into(),
            });
        } else {
            self.dropped += 1;
        }
    }
}
