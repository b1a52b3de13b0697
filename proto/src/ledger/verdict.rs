//! What the ledger can say about a field.

use crate::schema::{Field, Kind, WellKnown};
use crate::wire::{self, Value};

/// The verdict on a field that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Does what Envoy does with it. A message's own fields are looked up in turn.
    Honoured,
    /// Honoured, with everything inside it whatever it is (`Any` included).
    Whole,
    /// Accepted without effect, because Envoy shows none either; the reason says how that is known.
    Harmless(&'static str),
    /// Refused, unless the operator asked for warnings instead.
    Refused(&'static str),
    /// Refused in any case: without it access control, TLS or routing would be weaker than configured.
    RefusedAlways(&'static str),
    /// Only the default may be written out; else [`Verdict::Refused`].
    OnlyDefault(&'static str),
    /// Only the default may be written out; else [`Verdict::RefusedAlways`].
    OnlyDefaultAlways(&'static str),
    /// These values are accepted, and something else than they say is done; all others are honoured.
    NotValues(&'static [Allowed], &'static str),
    /// Only these values are honoured; else [`Verdict::Refused`].
    OnlyValues(&'static [Allowed], &'static str),
    /// Only these values are honoured; else [`Verdict::RefusedAlways`].
    OnlyValuesAlways(&'static [Allowed], &'static str),
}

/// A value in [`Verdict::OnlyValues`] or [`Verdict::NotValues`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Allowed {
    /// A number, a boolean as 0 or 1, or an enum's number.
    Number(i64),
    /// An enum value's name, or a string.
    Name(&'static str),
}

/// A verdict, held against a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Honoured,
    Whole,
    Tolerated(&'static str),
    Refused(&'static str),
    RefusedAlways(&'static str),
}

impl Verdict {
    #[inline]
    pub(super) fn on(self, field: Field, value: Value<'_>) -> Outcome {
        match self {
            Verdict::Honoured => Outcome::Honoured,
            Verdict::Whole => Outcome::Whole,
            Verdict::Harmless(reason) => Outcome::Tolerated(reason),
            Verdict::Refused(reason) => Outcome::Refused(reason),
            Verdict::RefusedAlways(reason) => Outcome::RefusedAlways(reason),
            Verdict::NotValues(values, reason) if allows(values, field, value) => Outcome::Tolerated(reason),
            Verdict::NotValues(..) => Outcome::Honoured,
            Verdict::OnlyDefault(_) | Verdict::OnlyDefaultAlways(_) if is_default(field, value) => Outcome::Honoured,
            Verdict::OnlyValues(allowed, _) | Verdict::OnlyValuesAlways(allowed, _)
                if allows(allowed, field, value) =>
            {
                Outcome::Honoured
            }
            Verdict::OnlyDefault(reason) | Verdict::OnlyValues(_, reason) => Outcome::Refused(reason),
            Verdict::OnlyDefaultAlways(reason) | Verdict::OnlyValuesAlways(_, reason) => Outcome::RefusedAlways(reason),
        }
    }

    /// A name among the values that the field's enum does not have.
    pub(super) fn unknown_value(self, field: Field) -> Option<&'static str> {
        let (Verdict::NotValues(allowed, _) | Verdict::OnlyValues(allowed, _) | Verdict::OnlyValuesAlways(allowed, _)) =
            self
        else {
            return None;
        };
        let item = field.enumeration()?;
        allowed.iter().find_map(|value| match value {
            Allowed::Name(name) if item.number(name).is_none() => Some(*name),
            _ => None,
        })
    }

    /// The reason, for those that have one.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Verdict::Honoured | Verdict::Whole => None,
            Verdict::Harmless(reason)
            | Verdict::Refused(reason)
            | Verdict::RefusedAlways(reason)
            | Verdict::OnlyDefault(reason)
            | Verdict::OnlyDefaultAlways(reason)
            | Verdict::NotValues(_, reason)
            | Verdict::OnlyValues(_, reason)
            | Verdict::OnlyValuesAlways(_, reason) => Some(reason),
        }
    }
}

/// A wrapper around a default counts as the default: `use_original_dst: false` is what leaving it out means.
fn is_default(field: Field, value: Value<'_>) -> bool {
    match value {
        Value::Varint(number) | Value::Fixed64(number) => number == 0,
        Value::Fixed32(number) => number == 0,
        Value::Len(bytes) => match field.message().map(|message| (message, message.well_known())) {
            Some((message, WellKnown::Wrapper | WellKnown::Duration)) => {
                let mut fields = wire::Fields::new(bytes).flatten();
                fields.all(|part| {
                    message
                        .field(part.number)
                        .is_some_and(|inner| is_default(inner, part.value))
                })
            }
            _ => bytes.is_empty(),
        },
    }
}

fn allows(allowed: &[Allowed], field: Field, value: Value<'_>) -> bool {
    match (field.kind(), value) {
        (Kind::Message, Value::Len(bytes)) => {
            let Some(inner) = field
                .message()
                .filter(|message| message.well_known() == WellKnown::Wrapper)
            else {
                return false;
            };
            let Some(inner) = inner.field(1) else { return false };
            let last = wire::Fields::new(bytes).flatten().last().map(|part| part.value);
            allows(
                allowed,
                inner,
                last.unwrap_or_else(|| crate::validate::default_value(inner.kind())),
            )
        }
        // Packed numbers.
        (kind, Value::Len(bytes)) if kind.wire_type() != 2 => {
            let mut rest = bytes;
            while !rest.is_empty() {
                let Ok((one, length)) = wire::packed_value(rest, kind.wire_type()) else {
                    return false;
                };
                if !allows(allowed, field, one) {
                    return false;
                }
                rest = rest.get(length..).unwrap_or_default();
            }
            true
        }
        (_, Value::Len(bytes)) => allowed
            .iter()
            .any(|one| matches!(one, Allowed::Name(name) if name.as_bytes() == bytes)),
        (kind, value) => {
            let number = match (kind, value) {
                (Kind::Enum | Kind::Int32, Value::Varint(bits)) => i64::from(bits as i32),
                (_, Value::Varint(bits) | Value::Fixed64(bits)) => bits as i64,
                (_, Value::Fixed32(bits)) => bits.into(),
                (_, Value::Len(_)) => return false,
            };
            allowed.iter().any(|one| match one {
                Allowed::Number(own) => *own == number,
                Allowed::Name(name) => field
                    .enumeration()
                    .and_then(|item| item.number(name))
                    .is_some_and(|own| i64::from(own) == number),
            })
        }
    }
}
