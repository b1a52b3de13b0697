//! Joining two encoded messages, as `--config-yaml` joins the configuration file.

use std::collections::BTreeMap;

use crate::schema::{self, Message};
use crate::wire::{Fields, Value, WireError, begin_len, end_len};

/// Protobuf's `MergeFrom`: scalars of `second` replace those of `first`, repeated fields are appended, messages are merged field by field.
///
/// The result has each singular field once, so that a walk over its bytes sees what a decoder would see.
///
/// # Errors
/// When the bytes are malformed. An unknown `full_name` merges no deeper than the top.
pub fn merge(first: &[u8], second: &[u8], full_name: &str) -> Result<Vec<u8>, WireError> {
    let mut joined = Vec::with_capacity(first.len() + second.len());
    joined.extend_from_slice(first);
    joined.extend_from_slice(second);
    let mut out = Vec::with_capacity(joined.len());
    if let Some(message) = schema::message(full_name) {
        single_out(&joined, message, &mut out)?;
        return Ok(out);
    }
    Ok(joined)
}

pub(super) fn single_out(bytes: &[u8], message: Message, out: &mut Vec<u8>) -> Result<(), WireError> {
    // Per singular field or oneof: where its last value stands; a message collects all its parts.
    let mut last: BTreeMap<(bool, usize), (u32, usize, Vec<u8>)> = BTreeMap::new();
    for field in Fields::new(bytes) {
        let field = field?;
        let Some(known) = message.field(field.number).filter(|known| !known.is_repeated()) else {
            out.extend_from_slice(bytes.get(field.range).unwrap_or_default());
            continue;
        };
        let slot = known.oneof().map_or((false, known.position()), |oneof| (true, oneof));
        let entry = last.entry(slot).or_insert((field.number, 0, Vec::new()));
        match field.value {
            Value::Len(value) if known.message().is_some() => {
                if entry.0 != field.number {
                    entry.2.clear();
                }
                entry.2.extend_from_slice(value);
            }
            _ => entry.2 = bytes.get(field.range).unwrap_or_default().to_vec(),
        }
        entry.0 = field.number;
        entry.1 += 1;
    }
    for (number, _, content) in last.into_values() {
        match message.field(number).and_then(|field| field.message()) {
            Some(nested) => {
                let start = begin_len(out, number);
                single_out(&content, nested, out)?;
                end_len(out, start);
            }
            None => out.extend_from_slice(&content),
        }
    }
    Ok(())
}
