//! What RFC 7541 shows, what it forbids, and what both sides keep together.

mod appendix_c;
mod codec;
mod limits;

use bytes::BytesMut;

use super::{Decoder, Encoder, Malformed};

/// A field that is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    name: Vec<u8>,
    value: Vec<u8>,
    sensitive: bool,
    static_name: Option<u8>,
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Owned>, Malformed> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        fields.push(Owned {
            name: field.name.to_vec(),
            value: field.value.to_vec(),
            sensitive: field.sensitive,
            static_name: field.static_name,
        });
        Ok::<(), Malformed>(())
    })?;
    Ok(fields)
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), false, &mut out);
    }
    out.to_vec()
}

/// Names and values alone.
fn plain(fields: &[Owned]) -> Vec<(&str, &str)> {
    let text = |octets| std::str::from_utf8(octets).expect("text");
    fields
        .iter()
        .map(|field| (text(&field.name), text(&field.value)))
        .collect()
}

/// Octets in hexadecimal digits, with blanks anywhere.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}
