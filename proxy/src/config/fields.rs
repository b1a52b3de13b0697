//! The field tables (D8): for each message we read, what becomes of each field; the walk over them; the compatibility page made from them.

use remora_proto::ledger::Report;

use super::{Compiled, Problem, Problems};
use crate::cli::Unsupported;

/// A set field that is let pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub path: String,
    pub reason: String,
}

/// Walks one encoded resource.
pub fn check(message: &str, bytes: &[u8], _mode: Unsupported) -> Compiled<Vec<Warning>> {
    let mut report = Report::new();
    remora_proto::validate::validate(bytes, message, &mut report);
    if report.is_clean() {
        return Ok(Vec::new());
    }
    let problem = |finding: &remora_proto::ledger::Finding| Problem { path: finding.path.clone(), reason: finding.reason.to_string() };
    Err(Problems(report.findings.iter().map(problem).collect()))
}
