//! PGV (`validate.rules`): the constraints that Envoy checks on every message it is given.
//!
//! In: encoded bytes and a message's full name. Out: findings. This is [`crate::ledger::check`] without a ledger; the walk is there,
//! what single rules mean is here.

mod text;

use crate::ledger::{self, Report};
use crate::schema::{Field, Kind, Rules, ops};
use crate::wire::{self, Value};

/// Checks a message and all it holds, through every known `Any` and `TypedStruct`.
pub fn validate(bytes: &[u8], full_name: &str, report: &mut Report) {
    ledger::walk(bytes, full_name, None, report);
}

/// The first rule that a field's value breaks, in words. Values whose type the rules do not concern pass.
pub(crate) fn broken(rules: Rules, field: Field, value: Value<'_>) -> Option<String> {
    match field.kind() {
        Kind::Message => message_rules(rules, field, value),
        Kind::String | Kind::Bytes => match value {
            Value::Len(bytes) => text_rules(rules, bytes),
            _ => None,
        },
        _ => number_rules(rules, field, number(field.kind(), value)),
    }
}

fn message_rules(rules: Rules, field: Field, value: Value<'_>) -> Option<String> {
    use crate::schema::WellKnown;
    let (Some(message), Value::Len(bytes)) = (field.message(), value) else {
        return None;
    };
    match message.well_known() {
        // Rules of a wrapped scalar are written on the field that holds the wrapper.
        WellKnown::Wrapper => {
            let inner = message.field(1)?;
            broken(
                rules,
                inner,
                last_value(bytes, 1).unwrap_or_else(|| default_value(inner.kind())),
            )
        }
        WellKnown::Duration => {
            let part = |number| wire::varint_field(bytes, number).ok().flatten().unwrap_or_default() as i64;
            let nanos = i128::from(part(1)) * 1_000_000_000 + i128::from(part(2));
            number_rules(rules, field, Number::Nanos(nanos))
        }
        WellKnown::Any => {
            let url = wire::name(bytes).unwrap_or_default().as_bytes();
            text_rules(rules, url)
        }
        _ => None,
    }
}

fn last_value(bytes: &[u8], number: u32) -> Option<Value<'_>> {
    wire::Fields::new(bytes)
        .flatten()
        .filter(|field| field.number == number)
        .last()
        .map(|field| field.value)
}

/// What an unset field of that kind reads as.
pub(crate) fn default_value(kind: Kind) -> Value<'static> {
    match kind.wire_type() {
        0 => Value::Varint(0),
        1 => Value::Fixed64(0),
        2 => Value::Len(&[]),
        _ => Value::Fixed32(0),
    }
}

/// A number with the order of its own kind.
#[derive(Clone, Copy, PartialEq)]
enum Number {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Nanos(i128),
}

impl Number {
    /// A rule's argument, in the kind of this number.
    fn like(self, bits: u64) -> Number {
        match self {
            Number::Signed(_) => Number::Signed(bits as i64),
            Number::Unsigned(_) => Number::Unsigned(bits),
            Number::Float(_) => Number::Float(f64::from_bits(bits)),
            Number::Nanos(_) => Number::Nanos((bits as i64).into()),
        }
    }

    fn compare(self, other: Number) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Number::Signed(left), Number::Signed(right)) => Some(left.cmp(&right)),
            (Number::Unsigned(left), Number::Unsigned(right)) => Some(left.cmp(&right)),
            (Number::Nanos(left), Number::Nanos(right)) => Some(left.cmp(&right)),
            (Number::Float(left), Number::Float(right)) => left.partial_cmp(&right),
            _ => None,
        }
    }

    fn is_zero(self) -> bool {
        self.compare(self.like(0)) == Some(std::cmp::Ordering::Equal)
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Signed(number) => number.fmt(out),
            Number::Unsigned(number) => number.fmt(out),
            Number::Float(number) => number.fmt(out),
            Number::Nanos(nanos) => write!(out, "{}s", *nanos as f64 / 1e9),
        }
    }
}

fn number(kind: Kind, value: Value<'_>) -> Number {
    let zigzag = |bits: u64| (bits >> 1) as i64 ^ -((bits & 1) as i64);
    match (kind, value) {
        (Kind::Double, Value::Fixed64(bits)) => Number::Float(f64::from_bits(bits)),
        (Kind::Float, Value::Fixed32(bits)) => Number::Float(f32::from_bits(bits).into()),
        (Kind::Sfixed64, Value::Fixed64(bits)) => Number::Signed(bits as i64),
        (Kind::Sfixed32, Value::Fixed32(bits)) => Number::Signed((bits as i32).into()),
        (Kind::Sint32 | Kind::Sint64, Value::Varint(bits)) => Number::Signed(zigzag(bits)),
        (Kind::Int32 | Kind::Enum, Value::Varint(bits)) => Number::Signed((bits as i32).into()),
        (Kind::Int64, Value::Varint(bits)) => Number::Signed(bits as i64),
        (Kind::Uint32, Value::Varint(bits)) => Number::Unsigned((bits as u32).into()),
        (Kind::Bool, Value::Varint(bits)) => Number::Unsigned(u64::from(bits != 0)),
        (_, Value::Varint(bits) | Value::Fixed64(bits)) => Number::Unsigned(bits),
        (_, Value::Fixed32(bits)) => Number::Unsigned(bits.into()),
        (_, Value::Len(_)) => Number::Unsigned(0),
    }
}

fn number_rules(rules: Rules, field: Field, number: Number) -> Option<String> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    for rule in rules.iter() {
        let limit = number.like(rule.number());
        let order = number.compare(limit);
        let among = || {
            rule.numbers()
                .any(|one| number.compare(number.like(one)) == Some(Equal))
        };
        let reason = match rule.op() {
            ops::IGNORE_EMPTY if number.is_zero() => return None,
            ops::CONST if order != Some(Equal) => format!("must be {limit}"),
            ops::LT if order != Some(Less) => format!("must be less than {limit}"),
            ops::LTE if !matches!(order, Some(Less | Equal)) => format!("must be at most {limit}"),
            ops::GT if order != Some(Greater) => format!("must be greater than {limit}"),
            ops::GTE if !matches!(order, Some(Greater | Equal)) => format!("must be at least {limit}"),
            ops::IN if !among() => "is not one of the values allowed".to_owned(),
            ops::NOT_IN if among() => "is one of the values forbidden".to_owned(),
            ops::DEFINED_ONLY if !defined(field, number) => "is not a value of the enum".to_owned(),
            _ => continue,
        };
        return Some(format!("{reason} (is {number})"));
    }
    None
}

fn defined(field: Field, number: Number) -> bool {
    let Number::Signed(number) = number else { return true };
    field
        .enumeration()
        .is_none_or(|item| item.values().any(|(known, _)| i64::from(known) == number))
}

fn text_rules(rules: Rules, bytes: &[u8]) -> Option<String> {
    for rule in rules.iter() {
        if rule.op() == ops::IGNORE_EMPTY && bytes.is_empty() {
            return None;
        }
        if let Some(reason) = text::broken(rule, bytes) {
            return Some(reason);
        }
    }
    None
}

#[cfg(test)]
mod tests;
