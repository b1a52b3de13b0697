//! Encoded protobuf without decoding it: fields by number, zero-copy, in the order they stand.
//!
//! In: bytes from outside. Out: slices of them, or an error; never a panic.

use std::ops::Range;

/// The bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the bytes end in the middle of a field")]
    Truncated,
    #[error("a varint is longer than ten bytes")]
    Varint,
    #[error("a field has number zero or one that is too large")]
    Tag,
    #[error("wire type {0} is not supported")]
    WireType(u8),
}

/// A field's value as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Len(&'a [u8]),
    Fixed32(u32),
}

impl Value<'_> {
    /// The wire type: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
    pub fn wire_type(self) -> u8 {
        match self {
            Value::Varint(_) => 0,
            Value::Fixed64(_) => 1,
            Value::Len(_) => 2,
            Value::Fixed32(_) => 5,
        }
    }
}

/// One field of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
    /// Where tag and value stand in the message's bytes.
    pub range: Range<usize>,
}

/// Iterates over the fields of a message. After an error it ends.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => {
                let rest = self.bytes.get(self.at..).unwrap_or_default();
                let (number, length) = varint(rest)?;
                self.at += length;
                Ok(number)
            }
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let end = self.at.checked_add(length).ok_or(WireError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(WireError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    #[inline]
    fn field(&mut self) -> Result<Field<'a>, WireError> {
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number))
            .ok_or(WireError::Tag)?;
        let value = match (tag & 7) as u8 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(
                self.take(8)?
                    .first_chunk()
                    .map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            ),
            2 => {
                let length = self.varint()?;
                Value::Len(self.take(length)?)
            }
            5 => Value::Fixed32(
                self.take(4)?
                    .first_chunk()
                    .map_or(0, |bytes| u32::from_le_bytes(*bytes)),
            ),
            // Groups are gone from every proto that is read here.
            other => return Err(WireError::WireType(other)),
        };
        Ok(Field {
            number,
            value,
            range: start..self.at,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

/// Reads one varint; returns it and its length in bytes.
///
/// # Errors
/// [`WireError::Truncated`] or [`WireError::Varint`].
pub fn varint(bytes: &[u8]) -> Result<(u64, usize), WireError> {
    let mut number = 0u64;
    for (position, byte) in bytes.iter().take(10).enumerate() {
        if position == 9 && *byte > 1 {
            return Err(WireError::Varint);
        }
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Ok((number, position + 1));
        }
    }
    Err(if bytes.len() < 10 {
        WireError::Truncated
    } else {
        WireError::Varint
    })
}

/// Reads one value without a tag, as packed fields hold them; returns it and its length in bytes.
///
/// # Errors
/// When the bytes end within it, or for a wire type that is never packed.
pub fn packed_value(bytes: &[u8], wire_type: u8) -> Result<(Value<'_>, usize), WireError> {
    match wire_type {
        0 => varint(bytes).map(|(number, length)| (Value::Varint(number), length)),
        1 => bytes
            .first_chunk()
            .map(|chunk| (Value::Fixed64(u64::from_le_bytes(*chunk)), 8))
            .ok_or(WireError::Truncated),
        5 => bytes
            .first_chunk()
            .map(|chunk| (Value::Fixed32(u32::from_le_bytes(*chunk)), 4))
            .ok_or(WireError::Truncated),
        other => Err(WireError::WireType(other)),
    }
}

/// The last length-delimited field of that number (the last one wins, as in every decoder).
///
/// # Errors
/// When the bytes are malformed.
pub fn bytes_field(message: &[u8], number: u32) -> Result<Option<&[u8]>, WireError> {
    let mut found = None;
    for field in Fields::new(message) {
        if let Field {
            number: own,
            value: Value::Len(value),
            ..
        } = field?
            && own == number
        {
            found = Some(value);
        }
    }
    Ok(found)
}

/// The last varint field of that number.
///
/// # Errors
/// When the bytes are malformed.
pub fn varint_field(message: &[u8], number: u32) -> Result<Option<u64>, WireError> {
    let mut found = None;
    for field in Fields::new(message) {
        if let Field {
            number: own,
            value: Value::Varint(value),
            ..
        } = field?
            && own == number
        {
            found = Some(value);
        }
    }
    Ok(found)
}

/// The string in field 1, which is the name in `Listener`, `Cluster` (and the cluster name in `ClusterLoadAssignment`),
/// `RouteConfiguration`, `VirtualHost`, `Secret` and `Resource`'s payloads alike. Empty when unset or not UTF-8.
///
/// # Errors
/// When the bytes are malformed.
pub fn name(message: &[u8]) -> Result<&str, WireError> {
    Ok(bytes_field(message, 1)?
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .unwrap_or_default())
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a tag.
pub fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// Appends a length-delimited field.
pub fn put_len(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Starts a length-delimited field of unknown length; hand the result to [`end_len`].
pub fn begin_len(out: &mut Vec<u8>, number: u32) -> usize {
    put_tag(out, number, 2);
    out.push(0);
    out.len()
}

/// Writes the length of a field that [`begin_len`] started. One byte is reserved; a longer length moves the content up.
pub fn end_len(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let mut spelled = Vec::with_capacity(10);
    put_varint(&mut spelled, length as u64);
    let more = spelled.len() - 1;
    out.resize(out.len() + more, 0);
    out.copy_within(start..start + length, start + more);
    out[start - 1..start + more].copy_from_slice(&spelled);
}

#[cfg(test)]
mod tests;
