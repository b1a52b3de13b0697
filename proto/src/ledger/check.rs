//! The walk.

use std::collections::HashSet;

use super::path::Path;
use super::report::{FindingKind, Report};
use super::verdict::Outcome;
use super::{Ledger, extension};
use crate::schema::{self, Field, Kind, Message, Rules, WellKnown, ops};
use crate::validate;
use crate::wire::{self, Fields, Value};

/// Decoders refuse deeper nesting too.
const DEPTH_LIMIT: usize = 100;

/// Holds an encoded message against the ledger and PGV, through every `Any` and `TypedStruct` it holds.
///
/// A clean report means that decoding cannot fail, and that every set field is honoured or harmless.
pub fn check(bytes: &[u8], full_name: &str, ledger: &Ledger, report: &mut Report) {
    walk(bytes, full_name, Some(ledger), report);
}

/// As [`check`]; without a ledger only PGV and the encoding are checked.
pub fn walk(bytes: &[u8], full_name: &str, ledger: Option<&Ledger>, report: &mut Report) {
    let Some(message) = schema::message(full_name) else {
        report.add(
            FindingKind::Refused,
            String::new,
            format!("no message is named {full_name}"),
        );
        return;
    };
    let held = ledger.is_some();
    let mut walk = Walk { ledger, report };
    walk.message(
        bytes,
        message,
        Scope {
            held,
            rules: true,
            optional: false,
            depth: 0,
        },
        &Path::ROOT,
    );
}

pub(super) struct Walk<'w> {
    pub(super) ledger: Option<&'w Ledger>,
    pub(super) report: &'w mut Report,
}

/// What holds below a point.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// Held against the ledger: not below a field that is tolerated or refused as a whole.
    pub(super) held: bool,
    /// PGV is on: not below `skip`.
    pub(super) rules: bool,
    /// The extension configured here is marked `is_optional`.
    pub(super) optional: bool,
    pub(super) depth: usize,
}

impl Walk<'_> {
    pub(super) fn message(&mut self, bytes: &[u8], message: Message, mut scope: Scope, path: &Path<'_>) {
        if scope.depth >= DEPTH_LIMIT {
            return self
                .report
                .add(FindingKind::Malformed, || path.words(), "nested too deeply");
        }
        scope.depth += 1;
        match message.well_known() {
            WellKnown::Any => return self.any(bytes, scope, path),
            WellKnown::None => {}
            _ => scope.held = false,
        }
        scope.optional = scope.held && extension::is_optional(bytes, message);
        scope.rules &= message.flags() & ops::MESSAGE_UNCHECKED == 0;
        let policy = if scope.held {
            self.chosen_policy(bytes, message, path)
        } else {
            None
        };
        let (mut seen, mut oneofs) = (0u128, 0u64);
        for found in Fields::new(bytes) {
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    return self
                        .report
                        .add(FindingKind::Malformed, || path.words(), error.to_string());
                }
            };
            let Some(field) = message.field(found.number) else {
                let place = || path.text(&format!("#{}", found.number)).words();
                self.report.add(
                    FindingKind::Unknown,
                    place,
                    format!("{} has no field {}", message.name(), found.number),
                );
                continue;
            };
            seen |= 1u128.checked_shl(field.position() as u32).unwrap_or_default();
            if let Some(oneof) = field.oneof() {
                oneofs |= 1u64.checked_shl(oneof as u32).unwrap_or_default();
            }
            if policy.is_some_and(|chosen| field.is_repeated() && chosen != found.range.start) {
                continue;
            }
            self.field(field, found.value, scope, &path.field(field, bytes, found.range.start));
        }
        if scope.rules {
            self.whole(bytes, message, seen, oneofs, path);
        }
    }

    #[inline]
    fn field(&mut self, field: Field, value: Value<'_>, mut scope: Scope, path: &Path<'_>) {
        let kind = field.kind();
        let flags = field.flags();
        let packed = flags & ops::FIELD_REPEATED != 0 && kind.wire_type() != 2 && matches!(value, Value::Len(_));
        if value.wire_type() != kind.wire_type() && !packed {
            return self.report.add(
                FindingKind::Malformed,
                || path.words(),
                "the value is not of the field's type",
            );
        }
        let is_set = flags & (ops::FIELD_REPEATED | ops::FIELD_PRESENCE) != 0 || value != validate::default_value(kind);
        if is_set && flags & (ops::FIELD_DEPRECATED | ops::FIELD_DISALLOWED) != 0 {
            self.deprecated(flags, path);
        }
        if is_set && scope.held {
            self.held(field, value, &mut scope, path);
        }
        let rules = field.rules();
        if flags & ops::FIELD_MAP != 0 {
            if let Value::Len(entry) = value {
                self.entry(field, entry, scope, path);
            }
        } else if packed {
            self.packed(field, value, scope, path);
        } else if flags & ops::FIELD_REPEATED != 0 {
            let items = if rules.is_empty() {
                None
            } else {
                rules.iter().find(|rule| rule.op() == ops::ITEMS)
            };
            self.value(
                field,
                value,
                items.map_or(Rules::NONE, |rule| rule.nested()),
                scope,
                path,
            );
        } else {
            self.value(field, value, rules, scope, path);
        }
    }

    fn deprecated(&mut self, flags: u8, path: &Path<'_>) {
        if flags & ops::FIELD_DISALLOWED != 0 {
            self.report.add(
                FindingKind::Disallowed,
                || path.words(),
                "deprecated, and disallowed by default in Envoy",
            );
        } else {
            self.report.add(FindingKind::Deprecated, || path.words(), "deprecated");
        }
    }

    /// The ledger's verdict on a set field.
    fn held(&mut self, field: Field, value: Value<'_>, scope: &mut Scope, path: &Path<'_>) {
        let Some(ledger) = self.ledger else { return };
        let outcome = match ledger.verdict(field) {
            Some(verdict) => verdict.on(field, value),
            None => Outcome::Refused("not supported by Remora"),
        };
        let (kind, reason) = match outcome {
            Outcome::Honoured => return,
            Outcome::Whole => {
                scope.held = false;
                return;
            }
            Outcome::Tolerated(reason) => (FindingKind::Tolerated, reason),
            Outcome::Refused(reason) => (FindingKind::Refused, reason),
            Outcome::RefusedAlways(reason) => (FindingKind::RefusedAlways, reason),
        };
        scope.held = false;
        self.report.add(kind, || path.words(), reason);
    }

    /// A single value, an item, a map's key or a map's value.
    fn value(&mut self, field: Field, value: Value<'_>, rules: Rules, mut scope: Scope, path: &Path<'_>) {
        if let (Kind::String, Value::Len(bytes)) = (field.kind(), value)
            && std::str::from_utf8(bytes).is_err()
        {
            return self.report.add(FindingKind::Malformed, || path.words(), "not UTF-8");
        }
        if scope.rules
            && !rules.is_empty()
            && let Some(reason) = validate::broken(rules, field, value)
        {
            self.report.add(FindingKind::Invalid, || path.words(), reason);
        }
        if let (Some(message), Value::Len(bytes)) = (field.message(), value) {
            scope.rules &= rules.is_empty() || !rules.has(ops::SKIP);
            self.message(bytes, message, scope, path);
        }
    }

    fn packed(&mut self, field: Field, value: Value<'_>, scope: Scope, path: &Path<'_>) {
        let Value::Len(mut rest) = value else { return };
        let items = field
            .rules()
            .iter()
            .find(|rule| rule.op() == ops::ITEMS)
            .map_or(Rules::NONE, |rule| rule.nested());
        let mut index = 0;
        while !rest.is_empty() {
            match wire::packed_value(rest, field.kind().wire_type()) {
                Ok((item, length)) => {
                    self.value(field, item, items, scope, &path.item(index));
                    rest = rest.get(length..).unwrap_or_default();
                }
                Err(error) => {
                    return self
                        .report
                        .add(FindingKind::Malformed, || path.words(), error.to_string());
                }
            }
            index += 1;
        }
    }

    fn entry(&mut self, field: Field, entry: &[u8], scope: Scope, path: &Path<'_>) {
        let Some(entry_type) = field.message() else { return };
        let nested = |op| {
            field
                .rules()
                .iter()
                .find(|rule| rule.op() == op)
                .map_or(Rules::NONE, |rule| rule.nested())
        };
        let mut seen = [false; 2];
        for part in Fields::new(entry) {
            let part = match part {
                Ok(part) => part,
                Err(error) => {
                    return self
                        .report
                        .add(FindingKind::Malformed, || path.words(), error.to_string());
                }
            };
            let (Some(part_field), Some(slot)) = (entry_type.field(part.number), part.number.checked_sub(1)) else {
                self.report.add(
                    FindingKind::Unknown,
                    || path.words(),
                    format!("a map entry has no field {}", part.number),
                );
                continue;
            };
            if part.value.wire_type() != part_field.kind().wire_type() {
                return self.report.add(
                    FindingKind::Malformed,
                    || path.words(),
                    "the value is not of the field's type",
                );
            }
            if let Some(seen) = seen.get_mut(slot as usize) {
                *seen = true;
            }
            let rules = nested(if part.number == 1 { ops::KEYS } else { ops::VALUES });
            self.value(part_field, part.value, rules, scope, path);
        }
        for (part_field, _) in entry_type.fields().zip(seen).filter(|(_, seen)| !seen) {
            let rules = nested(if part_field.number() == 1 {
                ops::KEYS
            } else {
                ops::VALUES
            });
            self.value(
                part_field,
                validate::default_value(part_field.kind()),
                rules,
                scope,
                path,
            );
        }
    }

    /// Rules about what is missing, and about lists as a whole.
    fn whole(&mut self, bytes: &[u8], message: Message, seen: u128, oneofs: u64, path: &Path<'_>) {
        for (position, field) in message.checked_when_absent() {
            if 1u128.checked_shl(position as u32).is_some_and(|bit| seen & bit != 0) {
                continue;
            }
            let rules = field.rules();
            let reason = if rules.has(ops::REQUIRED) {
                Some("is required".to_owned())
            } else {
                validate::broken(rules, field, validate::default_value(field.kind()))
            };
            if let Some(reason) = reason {
                self.report
                    .add(FindingKind::Invalid, || path.text(field.name()).words(), reason);
            }
        }
        for position in 0..message.oneof_count() {
            let set = 1u64.checked_shl(position as u32).is_some_and(|bit| oneofs & bit != 0);
            if let (false, Some((name, true))) = (set, message.oneof(position)) {
                self.report.add(
                    FindingKind::Invalid,
                    || path.text(name).words(),
                    "one of its fields must be set",
                );
            }
        }
        if message.flags() & ops::MESSAGE_COUNTED != 0 {
            for field in message
                .fields()
                .filter(|field| field.is_repeated() && !field.rules().is_empty())
            {
                if let Some(reason) = list_rules(bytes, field) {
                    self.report
                        .add(FindingKind::Invalid, || path.text(field.name()).words(), reason);
                }
            }
        }
    }
}

fn list_rules(bytes: &[u8], field: Field) -> Option<String> {
    let rules = field.rules();
    let own = || {
        Fields::new(bytes)
            .flatten()
            .filter(|found| found.number == field.number())
    };
    let size = |value| match value {
        Value::Len(packed) if field.kind().wire_type() != 2 => {
            let unpacked = crate::json::unpack(packed, field);
            unpacked.map_or(0, |values| values.len())
        }
        _ => 1,
    };
    let count: usize = own().map(|found| size(found.value)).sum();
    if count == 0 && rules.has(ops::IGNORE_EMPTY) {
        return None;
    }
    let unique = || {
        let mut seen = HashSet::new();
        own().all(|found| match found.value {
            Value::Len(packed) if field.kind().wire_type() != 2 => {
                let values = crate::json::unpack(packed, field).unwrap_or_default();
                values.into_iter().all(|value| seen.insert(key(value)))
            }
            value => seen.insert(key(value)),
        })
    };
    rules.iter().find_map(|rule| match rule.op() {
        ops::MIN_ITEMS if (count as u64) < rule.number() => Some(format!("must have at least {} items", rule.number())),
        ops::MAX_ITEMS if count as u64 > rule.number() => Some(format!("must have at most {} items", rule.number())),
        ops::UNIQUE if !unique() => Some("has an item twice".to_owned()),
        _ => None,
    })
}

fn key(value: Value<'_>) -> (u64, &[u8]) {
    match value {
        Value::Varint(number) | Value::Fixed64(number) => (number, &[]),
        Value::Fixed32(number) => (number.into(), &[]),
        Value::Len(bytes) => (0, bytes),
    }
}
