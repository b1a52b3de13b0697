//! As much of the protobuf wire format as discovery messages need: reading without copying, and writing.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("message is truncated")]
    Truncated,
    #[error("varint is longer than ten bytes")]
    Varint,
    #[error("wire type {0} is not known")]
    WireType(u8),
    #[error("field number 0")]
    FieldZero,
    #[error("string is not UTF-8")]
    Utf8,
}

/// The value of one field; a length-delimited one is a range of the message.
pub(crate) enum Value {
    Number(u64),
    Span(Range<usize>),
}

/// Walks the fields of one message.
pub(crate) struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    /// The next field and its number, `None` at the end.
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Value)>, WireError> {
        if self.at == self.message.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| WireError::Varint)?;
        if number == 0 {
            return Err(WireError::FieldZero);
        }
        let value = match (key & 7) as u8 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.array()?)),
            2 => Value::Span(self.span()?),
            5 => Value::Number(u64::from(u32::from_le_bytes(self.array()?))),
            other => return Err(WireError::WireType(other)),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in 0..10 {
            let byte = *self.message.get(self.at).ok_or(WireError::Truncated)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift * 7).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Varint)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let slice = self.message.get(self.at..self.at + N).ok_or(WireError::Truncated)?;
        self.at += N;
        slice.try_into().map_err(|_| WireError::Truncated)
    }

    fn span(&mut self) -> Result<Range<usize>, WireError> {
        let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.message.len())
            .ok_or(WireError::Truncated)?;
        let span = self.at..end;
        self.at = end;
        Ok(span)
    }
}

/// The text of a span.
pub(crate) fn text(message: &[u8], span: Range<usize>) -> Result<&str, WireError> {
    std::str::from_utf8(&message[span]).map_err(|_| WireError::Utf8)
}

/// The first string with field number `number`; empty when there is none.
pub(crate) fn string_field(message: &[u8], number: u32) -> Result<&str, WireError> {
    let mut reader = Reader::new(message);
    while let Some((found, value)) = reader.field()? {
        if let (true, Value::Span(span)) = (found == number, value) {
            return text(message, span);
        }
    }
    Ok("")
}

/// The two fields of `google.protobuf.Any`: type URL and a slice of the payload.
pub(crate) fn any(message: &Bytes) -> Result<(&str, Bytes), WireError> {
    let (mut url, mut value) = ("", Bytes::new());
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.field()? {
        match (number, field) {
            (1, Value::Span(span)) => url = text(message, span)?,
            (2, Value::Span(span)) => value = message.slice(span),
            _ => {}
        }
    }
    Ok((url, value))
}

/// Appends a length-delimited field, an empty one too.
pub(crate) fn put_bytes(out: &mut BytesMut, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

/// Appends a string field unless it is empty, as proto3 does.
pub(crate) fn put_text(out: &mut BytesMut, number: u32, value: &str) {
    if !value.is_empty() {
        put_bytes(out, number, value.as_bytes());
    }
}

/// Appends a varint field unless it is zero.
pub(crate) fn put_number(out: &mut BytesMut, number: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(number << 3));
        put_varint(out, value);
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
