//! The ledger: for every field we read, whether it is honoured, harmless or refused; and the walk that holds a message against it.
//!
//! In: a table of verdicts by name, and encoded bytes. Out: findings with paths. The table becomes one byte a field at start-up; the walk reads
//! the bytes once, checks PGV on the way, and allocates nothing while all is fine.
//!
//! A set field that is not in the table is refused. Well-known types (wrappers, durations, structs) need no entries.

mod check;
mod extension;
mod path;
mod report;
mod verdict;

use std::collections::HashMap;

pub use check::{check, walk};
pub use report::{Finding, FindingKind, Report};
pub use verdict::{Allowed, Verdict};

use crate::schema::{self, Field, Message};

/// The verdicts on one message's fields, by proto field name.
pub type MessageEntry = (&'static str, &'static [(&'static str, Verdict)]);

/// A name in the table that the schema does not have, or a value that the field's enum lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("no message is named {0}")]
    Message(&'static str),
    #[error("{0} has no field named {1}")]
    Field(&'static str, &'static str),
    #[error("{0}.{1} has no value named {2}")]
    Value(&'static str, &'static str, &'static str),
    #[error("{0}.{1} stands twice")]
    Twice(&'static str, &'static str),
}

/// A resolved table.
#[derive(Clone, Debug)]
pub struct Ledger {
    entries: Vec<MessageEntry>,
    /// Per field of the schema: 0 for "not listed", else position in `verdicts` + 1.
    fields: Vec<u16>,
    verdicts: Vec<Verdict>,
    /// Per message of the schema: whether it is listed.
    listed: Vec<bool>,
    /// Extensions that the operator took away, by the message of their configuration.
    forbidden: Vec<usize>,
}

impl Ledger {
    /// Resolves the names.
    ///
    /// # Errors
    /// Every name that does not exist, and every field that stands twice.
    pub fn new(entries: &[MessageEntry]) -> Result<Self, Vec<LedgerError>> {
        let mut ledger = Self {
            entries: entries.to_vec(),
            fields: vec![0; schema::field_count()],
            verdicts: Vec::new(),
            listed: vec![false; schema::messages().count()],
            forbidden: Vec::new(),
        };
        let mut errors = Vec::new();
        let mut known = HashMap::new();
        for (message_name, fields) in entries {
            let Some(message) = schema::message(message_name) else {
                errors.push(LedgerError::Message(message_name));
                continue;
            };
            ledger.listed[message.index()] = true;
            for (field_name, verdict) in *fields {
                let Some(field) = message.fields().find(|field| field.name() == *field_name) else {
                    errors.push(LedgerError::Field(message_name, field_name));
                    continue;
                };
                if let Some(missing) = verdict.unknown_value(field) {
                    errors.push(LedgerError::Value(message_name, field_name, missing));
                }
                if ledger.fields[field.index()] != 0 {
                    errors.push(LedgerError::Twice(message_name, field_name));
                }
                let code = *known.entry(*verdict).or_insert_with(|| {
                    ledger.verdicts.push(*verdict);
                    ledger.verdicts.len() as u16
                });
                ledger.fields[field.index()] = code;
            }
        }
        if errors.is_empty() { Ok(ledger) } else { Err(errors) }
    }

    /// What the table says; none when it does not list the field.
    #[inline]
    pub fn verdict(&self, field: Field) -> Option<Verdict> {
        let code = self.fields.get(field.index()).copied().unwrap_or_default();
        self.verdicts.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Whether the message is listed; an extension's configuration is supported only then.
    #[inline]
    pub fn lists(&self, message: Message) -> bool {
        self.listed.get(message.index()).copied().unwrap_or_default()
    }

    /// From now on the extension that is configured by `message` counts as one that does not exist.
    pub fn forbid(&mut self, message: Message) {
        self.forbidden.push(message.index());
    }

    /// Whether the extension that is configured by `message` was taken away.
    #[inline]
    pub fn forbids(&self, message: Message) -> bool {
        self.forbidden.contains(&message.index())
    }

    /// The table as it was handed in, for documentation. Fields and messages that are not in it are refused.
    pub fn entries(&self) -> impl Iterator<Item = &MessageEntry> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests;
