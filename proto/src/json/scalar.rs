//! Scalars of protobuf JSON: numbers as numbers or strings, base64, enums by name or number.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::source::Event;
use crate::schema::{Enum, Field, Kind};
use crate::wire::put_varint;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);

/// Appends a value without its tag; returns whether it is the type's default.
pub(super) fn put(out: &mut Vec<u8>, field: Field, event: &Event<'_>) -> Result<bool, String> {
    match field.kind() {
        Kind::Bool => match event {
            Event::Bool(flag) => Ok(put_flag(out, *flag)),
            Event::Text(text) if is_any(text, &["true", "t", "yes", "y", "1"]) => Ok(put_flag(out, true)),
            Event::Text(text) if is_any(text, &["false", "f", "no", "n", "0"]) => Ok(put_flag(out, false)),
            other => Err(mismatch("true or false", other)),
        },
        Kind::String => match event {
            Event::Text(text) => {
                put_bytes(out, text.as_bytes());
                Ok(text.is_empty())
            }
            other => Err(mismatch("a string", other)),
        },
        Kind::Bytes => match event {
            Event::Text(text) => {
                let bytes = base64(text).map_err(|error| format!("not base64: {error}"))?;
                put_bytes(out, &bytes);
                Ok(bytes.is_empty())
            }
            other => Err(mismatch("base64 in a string", other)),
        },
        Kind::Double => {
            let number = float(event)?;
            out.extend(number.to_le_bytes());
            Ok(number.to_bits() == 0)
        }
        Kind::Float => {
            let wide = float(event)?;
            let number = wide as f32;
            if wide.is_finite() && number.is_infinite() {
                return Err(format!("{wide} is too large for a float"));
            }
            out.extend(number.to_le_bytes());
            Ok(number.to_bits() == 0)
        }
        Kind::Enum => {
            let number = enumerated(field, event)?;
            put_varint(out, i64::from(number) as u64);
            Ok(number == 0)
        }
        kind => {
            let number = integer(kind, event)?;
            put_integer(out, kind, number);
            Ok(number == 0)
        }
    }
}

/// Appends a map key with its tag; defaults are left out.
pub(super) fn put_key(out: &mut Vec<u8>, field: Field, key: &str) -> Result<(), String> {
    let event = match (field.kind(), key) {
        (Kind::Bool, "true") => Event::Bool(true),
        (Kind::Bool, "false") => Event::Bool(false),
        (Kind::Bool, other) => return Err(mismatch("true or false", &Event::Text(other.into()))),
        (_, text) => Event::Text(text.into()),
    };
    let before = out.len();
    crate::wire::put_tag(out, 1, field.kind().wire_type());
    let outcome = put(out, field, &event);
    if outcome != Ok(false) {
        out.truncate(before);
    }
    outcome.map(|_| ())
}

/// "expected this, found that", with the hint that YAML users need most.
pub(super) fn mismatch(wanted: &str, event: &Event<'_>) -> String {
    let hint = if wanted == "a string" { " (quote it)" } else { "" };
    match event {
        Event::Null => format!("expected {wanted}, found null"),
        Event::Bool(flag) => format!("expected {wanted}, found {flag}{hint}"),
        Event::Int(number) => format!("expected {wanted}, found {number}{hint}"),
        Event::Float(number) => format!("expected {wanted}, found {number}{hint}"),
        Event::Text(text) => format!("expected {wanted}, found {text:?}"),
        Event::Map => format!("expected {wanted}, found a map"),
        Event::List => format!("expected {wanted}, found a list"),
    }
}

fn put_flag(out: &mut Vec<u8>, flag: bool) -> bool {
    out.push(u8::from(flag));
    !flag
}

fn is_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Both alphabets, even mixed; padding is optional, but not half of it.
fn base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    if text.ends_with('=') && !text.len().is_multiple_of(4) {
        return Err(base64::DecodeError::InvalidPadding);
    }
    let plain = |byte: u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    BASE64.decode(text.bytes().map(plain).collect::<Vec<u8>>())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_integer(out: &mut Vec<u8>, kind: Kind, number: i128) {
    match kind {
        Kind::Fixed32 | Kind::Sfixed32 => out.extend((number as u32).to_le_bytes()),
        Kind::Fixed64 | Kind::Sfixed64 => out.extend((number as u64).to_le_bytes()),
        Kind::Sint32 | Kind::Sint64 => {
            let number = number as i64;
            put_varint(out, ((number << 1) ^ (number >> 63)) as u64);
        }
        // A negative int32 is sign-extended to ten bytes.
        _ => put_varint(out, number as u64),
    }
}

fn integer(kind: Kind, event: &Event<'_>) -> Result<i128, String> {
    let number = match event {
        Event::Int(number) => Some(*number),
        Event::Float(number) => integral(*number),
        Event::Text(text) => match text.parse::<i128>() {
            Ok(number) => Some(number),
            // Blanks around it are for floating point only.
            Err(_) if text.starts_with(blank) || text.ends_with(blank) => None,
            Err(_) => spelled(text).and_then(integral),
        },
        _ => None,
    };
    let number = number.ok_or_else(|| mismatch("a whole number", event))?;
    let range = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => i128::from(i32::MIN)..=i128::from(i32::MAX),
        Kind::Uint32 | Kind::Fixed32 => 0..=i128::from(u32::MAX),
        Kind::Uint64 | Kind::Fixed64 => 0..=i128::from(u64::MAX),
        _ => i128::from(i64::MIN)..=i128::from(i64::MAX),
    };
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!(
            "{number} is out of range ({} to {})",
            range.start(),
            range.end()
        ))
    }
}

fn integral(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() < 2e19).then_some(number as i128)
}

fn blank(letter: char) -> bool {
    letter.is_ascii_whitespace()
}

/// A number in quotes, as `absl::SimpleAtod` reads it: blanks around it, one sign, decimal or hexadecimal, `nan` and `infinity` in any case.
fn spelled(text: &str) -> Option<f64> {
    let text = text.trim_matches(blank);
    let (sign, rest) = match text.as_bytes().first() {
        Some(b'-') => (-1.0, &text[1..]),
        Some(b'+') => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let number = match rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        Some(digits) => hexadecimal(digits)?,
        // Rust's parser takes a sign of its own.
        None if rest.starts_with(['+', '-']) => return None,
        None => rest.parse().ok()?,
    };
    Some(sign * number)
}

/// `1.8p3`: a fraction in hexadecimal, times a power of two.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once(['p', 'P']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut number = 0.0;
    for digit in whole.chars().chain(fraction.chars()) {
        number = number * 16.0 + f64::from(digit.to_digit(16)?);
    }
    let places = i32::try_from(fraction.len()).ok()?.checked_mul(4)?;
    Some(number * 2f64.powi(exponent.checked_sub(places)?))
}

fn float(event: &Event<'_>) -> Result<f64, String> {
    match event {
        Event::Int(number) => Ok(*number as f64),
        Event::Float(number) => Ok(*number),
        Event::Text(text) => spelled(text).ok_or_else(|| mismatch("a number", event)),
        other => Err(mismatch("a number", other)),
    }
}

fn in_any_case(item: Enum, text: &str) -> Option<i32> {
    item.values()
        .find(|(_, known)| known.eq_ignore_ascii_case(text))
        .map(|(number, _)| number)
}

fn enumerated(field: Field, event: &Event<'_>) -> Result<i32, String> {
    let Some(item) = field.enumeration() else {
        return Err("not an enum".to_owned());
    };
    match event {
        Event::Text(text) => item
            .number(text)
            .or_else(|| in_any_case(item, text))
            .or_else(|| text.parse().ok())
            .ok_or_else(|| format!("{text:?} is not a value of {}", item.name())),
        Event::Null if item.name() == "google.protobuf.NullValue" => Ok(0),
        Event::Int(number) => {
            i32::try_from(*number).map_err(|_| format!("{number} is out of range for {}", item.name()))
        }
        other => Err(mismatch(&format!("a value of {}", item.name()), other)),
    }
}
