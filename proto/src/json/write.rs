//! Encoded bytes to JSON text: proto field names, defaults left out, every known `Any` opened.

use std::io::{self, Write};

use crate::schema::{self, Field, Kind, Message};
use crate::wire::{Fields, Value, WireError};

/// How JSON is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Lines and one space of indentation a level, as Envoy's admin endpoints do.
    pub pretty: bool,
    /// lowerCamelCase names instead of the names in the `.proto` files.
    pub json_names: bool,
    /// Secrets become `[redacted]`, as in Envoy's `/config_dump`.
    pub redact: bool,
}

/// Why bytes could not be written as JSON.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("no message is named {0}")]
    UnknownType(String),
    #[error(transparent)]
    Malformed(#[from] WireError),
    #[error("{0:?} has a value of the wrong wire type")]
    Mismatch(Field),
    #[error("nested too deeply")]
    Depth,
    #[error(transparent)]
    Sink(#[from] io::Error),
}

/// Writes the JSON of an encoded message. Memory does not grow with the message beyond one level's list of fields.
///
/// # Errors
/// An unknown name, malformed bytes, or the sink's own error; what was written until then stays written.
pub fn write_json(bytes: &[u8], full_name: &str, sink: &mut impl Write, style: Style) -> Result<(), WriteError> {
    let message = schema::message(full_name).ok_or_else(|| WriteError::UnknownType(full_name.to_owned()))?;
    Writer {
        out: sink,
        style,
        depth: 0,
        level: 0,
    }
    .message(bytes, message, false)
}

/// The JSON tree of an encoded message, with proto field names.
///
/// # Errors
/// As [`write_json`].
pub fn to_json(bytes: &[u8], full_name: &str) -> Result<serde_json::Value, WriteError> {
    let mut text = Vec::new();
    write_json(bytes, full_name, &mut text, Style::default())?;
    serde_json::from_slice(&text).map_err(|error| WriteError::Sink(error.into()))
}

pub(super) struct Writer<'w, W: Write> {
    pub(super) out: &'w mut W,
    style: Style,
    depth: usize,
    /// Open braces and brackets.
    level: usize,
}

/// One value of a field; a message may stand in several parts that a decoder would merge.
type Entry<'a> = (Field, Value<'a>);

impl<W: Write> Writer<'_, W> {
    /// A message's value in its JSON form. `secret` marks what is below a sensitive field.
    pub(super) fn message(&mut self, bytes: &[u8], message: Message, secret: bool) -> Result<(), WriteError> {
        if self.depth > super::source::DEPTH_LIMIT {
            return Err(WriteError::Depth);
        }
        self.depth += 1;
        let done = match message.well_known() {
            schema::WellKnown::None | schema::WellKnown::Empty => {
                let first = self.open('{')?;
                let first = self.fields(bytes, message, secret, first)?;
                self.close('}', first)
            }
            known => self.well_known(bytes, known, message, secret),
        };
        self.depth -= 1;
        done
    }

    /// The fields as members of an open object; returns whether it is still empty.
    pub(super) fn fields(
        &mut self,
        bytes: &[u8],
        message: Message,
        secret: bool,
        mut first: bool,
    ) -> Result<bool, WriteError> {
        let entries = collect(bytes, message)?;
        let mut rest = entries.as_slice();
        while let Some((field, _)) = rest.first() {
            let count = rest.iter().take_while(|(other, _)| other == field).count();
            let (group, after) = rest.split_at(count);
            rest = after;
            if field
                .oneof()
                .is_some_and(|oneof| overruled(bytes, message, *field, oneof))
            {
                continue;
            }
            first = self.group(*field, group, secret, first)?;
        }
        Ok(first)
    }

    fn group(&mut self, field: Field, group: &[Entry<'_>], secret: bool, first: bool) -> Result<bool, WriteError> {
        let secret = secret || (self.style.redact && field.is_sensitive());
        let shown = !secret || matches!(field.kind(), Kind::Message | Kind::String | Kind::Bytes);
        if !shown {
            return Ok(first);
        }
        if field.is_map() {
            self.name(field, first)?;
            self.map(group, field, secret)?;
            return Ok(false);
        }
        if field.is_repeated() {
            self.name(field, first)?;
            self.list(group, field, secret)?;
            return Ok(false);
        }
        let Some((_, last)) = group.last() else {
            return Ok(first);
        };
        if let Some(message) = field.message() {
            self.name(field, first)?;
            match group {
                [(_, Value::Len(only))] => self.message(only, message, secret)?,
                _ => self.message(&joined(field, group)?, message, secret)?,
            }
            return Ok(false);
        }
        if !field.has_presence() && is_default(*last) {
            return Ok(first);
        }
        self.name(field, first)?;
        self.scalar(field, *last, secret)?;
        Ok(false)
    }

    fn list(&mut self, group: &[Entry<'_>], field: Field, secret: bool) -> Result<(), WriteError> {
        let mut first = self.open('[')?;
        for (_, value) in group {
            match (*value, field.message()) {
                (Value::Len(bytes), Some(message)) => {
                    first = self.separate(first)?;
                    self.message(bytes, message, secret)?;
                }
                (Value::Len(bytes), None) if field.kind().wire_type() != 2 => {
                    for item in unpack(bytes, field)? {
                        first = self.separate(first)?;
                        self.scalar(field, item, secret)?;
                    }
                }
                (value, _) => {
                    first = self.separate(first)?;
                    self.scalar(field, value, secret)?;
                }
            }
        }
        self.close(']', first)
    }

    /// A scalar's value.
    pub(super) fn scalar(&mut self, field: Field, value: Value<'_>, secret: bool) -> Result<(), WriteError> {
        if value.wire_type() != field.kind().wire_type() {
            return Err(WriteError::Mismatch(field));
        }
        match (field.kind(), value) {
            (Kind::String, Value::Len(_)) if secret => self.string("[redacted]")?,
            (Kind::String, Value::Len(bytes)) => self.string(&String::from_utf8_lossy(bytes))?,
            (_, Value::Len(_)) if secret => self.base64(b"[redacted]")?,
            (_, Value::Len(bytes)) => self.base64(bytes)?,
            (Kind::Bool, Value::Varint(number)) => write!(self.out, "{}", number != 0)?,
            (Kind::Enum, Value::Varint(number)) => self.enumerated(field, number as i32)?,
            (Kind::Int32, Value::Varint(number)) => write!(self.out, "{}", number as i32)?,
            (Kind::Uint32, Value::Varint(number)) => write!(self.out, "{}", number as u32)?,
            (Kind::Sint32, Value::Varint(number)) => write!(self.out, "{}", zigzag(number) as i32)?,
            (Kind::Sint64, Value::Varint(number)) => write!(self.out, "\"{}\"", zigzag(number))?,
            (Kind::Int64, Value::Varint(number)) => write!(self.out, "\"{}\"", number as i64)?,
            (_, Value::Varint(number)) => write!(self.out, "\"{number}\"")?,
            (Kind::Float, Value::Fixed32(bits)) => {
                let number = f32::from_bits(bits);
                if number.is_finite() {
                    write!(self.out, "{number}")?
                } else {
                    self.number(number.into())?
                }
            }
            (Kind::Sfixed32, Value::Fixed32(bits)) => write!(self.out, "{}", bits as i32)?,
            (_, Value::Fixed32(bits)) => write!(self.out, "{bits}")?,
            (Kind::Double, Value::Fixed64(bits)) => self.number(f64::from_bits(bits))?,
            (Kind::Sfixed64, Value::Fixed64(bits)) => write!(self.out, "\"{}\"", bits as i64)?,
            (_, Value::Fixed64(bits)) => write!(self.out, "\"{bits}\"")?,
        }
        Ok(())
    }

    fn enumerated(&mut self, field: Field, number: i32) -> Result<(), WriteError> {
        let item = field.enumeration();
        match item.and_then(|item| item.value_name(number)) {
            Some("NULL_VALUE") => self.out.write_all(b"null")?,
            Some(name) => write!(self.out, "\"{name}\"")?,
            None => write!(self.out, "{number}")?,
        }
        Ok(())
    }

    pub(super) fn number(&mut self, number: f64) -> Result<(), WriteError> {
        if number.is_finite() {
            write!(self.out, "{number}")?;
        } else if number.is_nan() {
            self.out.write_all(b"\"NaN\"")?;
        } else {
            self.out.write_all(if number > 0.0 {
                b"\"Infinity\""
            } else {
                b"\"-Infinity\""
            })?;
        }
        Ok(())
    }

    pub(super) fn string(&mut self, text: &str) -> Result<(), WriteError> {
        serde_json::to_writer(&mut self.out, text).map_err(|error| WriteError::Sink(error.into()))
    }

    fn name(&mut self, field: Field, first: bool) -> Result<(), WriteError> {
        self.key(
            if self.style.json_names {
                field.json_name()
            } else {
                field.name()
            },
            first,
        )?;
        Ok(())
    }

    /// A member's name; returns false, for "not empty any more".
    pub(super) fn key(&mut self, name: &str, first: bool) -> Result<bool, WriteError> {
        self.separate(first)?;
        self.string(name)?;
        self.out.write_all(if self.style.pretty { b": " } else { b":" })?;
        Ok(false)
    }

    pub(super) fn open(&mut self, bracket: char) -> Result<bool, WriteError> {
        write!(self.out, "{bracket}")?;
        self.level += 1;
        Ok(true)
    }

    pub(super) fn close(&mut self, bracket: char, empty: bool) -> Result<(), WriteError> {
        self.level -= 1;
        if !empty {
            self.line()?;
        }
        write!(self.out, "{bracket}")?;
        Ok(())
    }

    pub(super) fn separate(&mut self, first: bool) -> Result<bool, WriteError> {
        if !first {
            self.out.write_all(b",")?;
        }
        self.line()?;
        Ok(false)
    }

    fn line(&mut self) -> Result<(), WriteError> {
        if self.style.pretty {
            write!(self.out, "\n{:width$}", "", width = self.level)?;
        }
        Ok(())
    }
}

/// All known fields, sorted by number; values of one field keep their order.
fn collect(bytes: &[u8], message: Message) -> Result<Vec<Entry<'_>>, WriteError> {
    let mut entries = Vec::new();
    for field in Fields::new(bytes) {
        let field = field?;
        if let Some(known) = message.field(field.number) {
            entries.push((known, field.value));
        }
    }
    entries.sort_by_key(|(field, _)| field.index());
    Ok(entries)
}

/// Whether another member of the oneof stands later on the wire.
fn overruled(bytes: &[u8], message: Message, field: Field, oneof: usize) -> bool {
    let members = Fields::new(bytes)
        .flatten()
        .filter_map(|found| message.field(found.number));
    members
        .filter(|other| other.oneof() == Some(oneof))
        .last()
        .is_some_and(|last| last != field)
}

fn joined(field: Field, group: &[Entry<'_>]) -> Result<Vec<u8>, WriteError> {
    let mut joined = Vec::new();
    for (_, value) in group {
        let Value::Len(part) = value else {
            return Err(WriteError::Mismatch(field));
        };
        joined.extend_from_slice(part);
    }
    Ok(joined)
}

fn is_default(value: Value<'_>) -> bool {
    match value {
        Value::Varint(number) | Value::Fixed64(number) => number == 0,
        Value::Fixed32(number) => number == 0,
        Value::Len(bytes) => bytes.is_empty(),
    }
}

/// The values of a packed field.
pub(crate) fn unpack(mut bytes: &[u8], field: Field) -> Result<Vec<Value<'_>>, WireError> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (value, length) = crate::wire::packed_value(bytes, field.kind().wire_type())?;
        values.push(value);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(values)
}

pub(super) fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
