//! What can be wrong with a text, with the place where it is wrong.

use std::fmt;

/// A syntax error, with its place (lines and columns from 1; 0 when unknown).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct JsonError {
    pub reason: String,
    pub line: usize,
    pub column: usize,
}

impl JsonError {
    pub(crate) fn new(reason: impl Into<String>, line: usize, column: usize) -> Self {
        Self {
            reason: reason.into(),
            line,
            column,
        }
    }
}

/// Classes of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Not JSON or YAML.
    Syntax,
    /// A field that the message does not have.
    Unknown,
    /// An `@type` or `type_url` that is not known.
    UnknownType,
    /// A value of the wrong type or out of range.
    Value,
    /// A key that stands twice.
    Duplicate,
    /// Two members of one oneof.
    Oneof,
    /// Nested too deeply.
    Depth,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// For example `static_resources.listeners[0].name`; empty for the document itself.
    pub path: String,
    pub reason: String,
    /// From 1; 0 when unknown.
    pub line: usize,
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, path: String, reason: String) -> Self {
        Self {
            kind,
            path,
            reason,
            line: 0,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 && self.kind != ProblemKind::Syntax {
            write!(out, "line {}: ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.reason)
    }
}

/// All problems of a text, in its order, at most [`Problems::LIMIT`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// More are not collected: nobody reads on.
    pub const LIMIT: usize = 100;
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.0.iter().enumerate() {
            if position > 0 {
                out.write_str("\n")?;
            }
            problem.fmt(out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<JsonError> for Problems {
    fn from(error: JsonError) -> Self {
        let line = error.line;
        Problems(vec![Problem {
            kind: ProblemKind::Syntax,
            path: String::new(),
            reason: error.to_string(),
            line,
        }])
    }
}
