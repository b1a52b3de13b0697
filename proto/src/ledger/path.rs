//! Where the walk is, as a list on the stack. It is only put into words for a finding.

use std::fmt::Write as _;

use crate::schema::Field;
use crate::wire::{Fields, Value};

/// One step, and the steps before it.
#[derive(Clone, Copy)]
pub(super) struct Path<'p> {
    before: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    /// A field, at an offset of its message's bytes: the index or key is read from there when it is asked for.
    Field {
        field: Field,
        message: &'p [u8],
        at: usize,
    },
    /// An item of a packed list.
    Item(usize),
    /// A piece of path that is known as text.
    Text(&'p str),
}

impl<'p> Path<'p> {
    pub(super) const ROOT: Path<'static> = Path {
        before: None,
        step: Step::Root,
    };

    pub(super) fn field(&'p self, field: Field, message: &'p [u8], at: usize) -> Path<'p> {
        Path {
            before: Some(self),
            step: Step::Field { field, message, at },
        }
    }

    pub(super) fn item(&'p self, index: usize) -> Path<'p> {
        Path {
            before: Some(self),
            step: Step::Item(index),
        }
    }

    pub(super) fn text(&'p self, text: &'p str) -> Path<'p> {
        Path {
            before: Some(self),
            step: Step::Text(text),
        }
    }

    pub(super) fn words(&self) -> String {
        let mut text = self.before.map(Path::words).unwrap_or_default();
        let dot = if text.is_empty() { "" } else { "." };
        let _ = match self.step {
            Step::Root => Ok(()),
            Step::Item(index) => write!(text, "[{index}]"),
            Step::Text(name) => write!(text, "{dot}{name}"),
            Step::Field { field, message, at } => {
                let _ = write!(text, "{dot}{}", field.name());
                if field.is_map() {
                    write!(text, "[{:?}]", key(message, at))
                } else if field.is_repeated() && (field.kind().wire_type() == 2 || !field.is_packed()) {
                    write!(text, "[{}]", index(field, message, at))
                } else {
                    Ok(())
                }
            }
        };
        text
    }
}

/// How many values of the field stand before this one.
fn index(field: Field, message: &[u8], at: usize) -> usize {
    let earlier = Fields::new(message)
        .flatten()
        .take_while(|other| other.range.start < at);
    earlier.filter(|other| other.number == field.number()).count()
}

fn key(message: &[u8], at: usize) -> String {
    let entry = Fields::new(message.get(at..).unwrap_or_default()).next();
    let Some(Ok(crate::wire::Field {
        value: Value::Len(entry),
        ..
    })) = entry
    else {
        return String::new();
    };
    match Fields::new(entry)
        .flatten()
        .filter(|part| part.number == 1)
        .last()
        .map(|part| part.value)
    {
        Some(Value::Len(text)) => String::from_utf8_lossy(text).into_owned(),
        Some(Value::Varint(number) | Value::Fixed64(number)) => number.to_string(),
        Some(Value::Fixed32(number)) => number.to_string(),
        None => String::new(),
    }
}
