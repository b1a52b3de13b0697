//! Writing maps, and messages whose JSON is not a map of their fields.

use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::time::{format_duration, format_timestamp};
use super::write::{WriteError, Writer};
use crate::schema::{self, Field, Kind, Message, WellKnown};
use crate::type_url::full_name;
use crate::wire::{self, Fields, Value};

impl<W: Write> Writer<'_, W> {
    pub(super) fn well_known(
        &mut self,
        bytes: &[u8],
        known: WellKnown,
        message: Message,
        secret: bool,
    ) -> Result<(), WriteError> {
        match known {
            WellKnown::Any => self.any(bytes, secret),
            WellKnown::Duration => self.moment(bytes, format_duration),
            WellKnown::Timestamp => self.moment(bytes, format_timestamp),
            WellKnown::Struct | WellKnown::ListValue => self.container(bytes, message, secret),
            WellKnown::Value => self.value(bytes, message, secret),
            WellKnown::Wrapper => self.wrapper(bytes, message, secret),
            WellKnown::None | WellKnown::Empty => Ok(()),
        }
    }

    fn any(&mut self, bytes: &[u8], secret: bool) -> Result<(), WriteError> {
        let url = wire::name(bytes)?;
        let value = wire::bytes_field(bytes, 2)?.unwrap_or_default();
        let mut first = self.open('{')?;
        if url.is_empty() && value.is_empty() {
            return self.close('}', first);
        }
        first = self.key("@type", first)?;
        self.string(url)?;
        match schema::message(full_name(url)) {
            Some(message) if matches!(message.well_known(), WellKnown::None | WellKnown::Empty) => {
                first = self.fields(value, message, secret, first)?;
            }
            Some(message) => {
                first = self.key("value", first)?;
                self.message(value, message, secret)?;
            }
            None if secret => {}
            None => {
                first = self.key("value", first)?;
                self.base64(value)?;
            }
        }
        self.close('}', first)
    }

    fn moment(&mut self, bytes: &[u8], format: fn(i64, i32) -> Option<String>) -> Result<(), WriteError> {
        let seconds = wire::varint_field(bytes, 1)?.unwrap_or_default() as i64;
        let nanos = wire::varint_field(bytes, 2)?.unwrap_or_default() as i32;
        // Out of range has no JSON form; both numbers still tell what was sent.
        let text = format(seconds, nanos).unwrap_or_else(|| format!("out of range: {seconds} s, {nanos} ns"));
        self.string(&text)
    }

    /// `Struct` and `ListValue`: the content of their one field, without its name.
    fn container(&mut self, bytes: &[u8], message: Message, secret: bool) -> Result<(), WriteError> {
        let Some(content) = message.field(1) else { return Ok(()) };
        let mut entries = Vec::new();
        for field in Fields::new(bytes) {
            let field = field?;
            if field.number == 1 {
                entries.push((content, field.value));
            }
        }
        if content.is_map() {
            return self.map(&entries, content, secret);
        }
        let mut first = self.open('[')?;
        for (_, value) in entries {
            let (Value::Len(item), Some(item_type)) = (value, content.message()) else {
                return Err(WriteError::Mismatch(content));
            };
            first = self.separate(first)?;
            self.message(item, item_type, secret)?;
        }
        self.close(']', first)
    }

    fn value(&mut self, bytes: &[u8], message: Message, secret: bool) -> Result<(), WriteError> {
        let mut last = None;
        for field in Fields::new(bytes) {
            let field = field?;
            if let Some(known) = message.field(field.number) {
                last = Some((known, field.value));
            }
        }
        match last {
            None => Ok(self.out.write_all(b"null")?),
            Some((field, Value::Len(content))) if field.kind() == Kind::Message => match field.message() {
                Some(nested) => self.message(content, nested, secret),
                None => Err(WriteError::Mismatch(field)),
            },
            Some((field, _)) if secret && field.kind() != Kind::String => Ok(self.out.write_all(b"null")?),
            Some((field, value)) => self.scalar(field, value, secret),
        }
    }

    fn wrapper(&mut self, bytes: &[u8], message: Message, secret: bool) -> Result<(), WriteError> {
        let Some(field) = message.field(1) else { return Ok(()) };
        let mut value = default_of(field);
        for found in Fields::new(bytes) {
            let found = found?;
            if found.number == 1 {
                value = found.value;
            }
        }
        self.scalar(field, value, secret)
    }

    /// Entries sorted by key; of several with one key the last counts.
    pub(super) fn map(&mut self, entries: &[(Field, Value<'_>)], field: Field, secret: bool) -> Result<(), WriteError> {
        let Some((key_field, value_field)) = field.message().and_then(|entry| entry.field(1).zip(entry.field(2)))
        else {
            return Err(WriteError::Mismatch(field));
        };
        let mut sorted = BTreeMap::new();
        for (_, entry) in entries {
            let Value::Len(bytes) = entry else {
                return Err(WriteError::Mismatch(field));
            };
            let (mut key, mut value) = (default_of(key_field), None);
            for part in Fields::new(bytes) {
                let part = part?;
                match part.number {
                    1 => key = part.value,
                    2 => value = Some(part.value),
                    _ => {}
                }
            }
            sorted.insert(
                key_text(key_field, key)?,
                value.unwrap_or_else(|| default_of(value_field)),
            );
        }
        let mut first = self.open('{')?;
        for (key, value) in sorted {
            first = self.key(&key, first)?;
            match (value_field.message(), value) {
                (Some(message), Value::Len(bytes)) => self.message(bytes, message, secret)?,
                (None, value) => self.scalar(value_field, value, secret)?,
                _ => return Err(WriteError::Mismatch(value_field)),
            }
        }
        self.close('}', first)
    }

    pub(super) fn base64(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        write!(self.out, "\"{}\"", STANDARD.encode(bytes))?;
        Ok(())
    }
}

fn default_of(field: Field) -> Value<'static> {
    match field.kind().wire_type() {
        0 => Value::Varint(0),
        1 => Value::Fixed64(0),
        2 => Value::Len(&[]),
        _ => Value::Fixed32(0),
    }
}

fn key_text(field: Field, key: Value<'_>) -> Result<String, WriteError> {
    Ok(match (field.kind(), key) {
        (Kind::String, Value::Len(text)) => String::from_utf8_lossy(text).into_owned(),
        (Kind::Bool, Value::Varint(number)) => (number != 0).to_string(),
        (Kind::Int32, Value::Varint(number)) => (number as i32).to_string(),
        (Kind::Int64, Value::Varint(number)) => (number as i64).to_string(),
        (Kind::Sint32 | Kind::Sint64, Value::Varint(number)) => super::write::zigzag(number).to_string(),
        (Kind::Uint32 | Kind::Uint64, Value::Varint(number)) => number.to_string(),
        (Kind::Fixed32, Value::Fixed32(bits)) => bits.to_string(),
        (Kind::Sfixed32, Value::Fixed32(bits)) => (bits as i32).to_string(),
        (Kind::Fixed64, Value::Fixed64(bits)) => bits.to_string(),
        (Kind::Sfixed64, Value::Fixed64(bits)) => (bits as i64).to_string(),
        _ => return Err(WriteError::Mismatch(field)),
    })
}
