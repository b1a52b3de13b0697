//! Fingerprints of a ClientHello: what it offers, hashed, tells clients apart by the library that they were built with.
//!
//! JA3 is the MD5 of five lists in decimal; JA4 a few counts in plain text and two SHA-256, cut. What a client offers at random (GREASE, RFC 8701) is
//! left out where Envoy leaves it out: groups and signature schemes keep it.

use std::sync::Arc;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::client_hello::{ALPN, Reader, SERVER_NAME};

/// Of a connection, in its extensions; as far as they are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprints {
    pub ja3: Option<Arc<str>>,
    pub ja4: Option<Arc<str>>,
}

/// `enable_ja3_fingerprinting`, `enable_ja4_fingerprinting`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub ja3: bool,
    pub ja4: bool,
}

impl Wanted {
    pub fn any(self) -> bool {
        self.ja3 || self.ja4
    }

    /// Of the body of a ClientHello. `None`: it is malformed.
    pub fn take(self, message: &[u8]) -> Option<Fingerprints> {
        let offer = Offer::read(message)?;
        Some(Fingerprints {
            ja3: self.ja3.then(|| offer.ja3().into()),
            ja4: self.ja4.then(|| offer.ja4().into()),
        })
    }
}

const GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURES: u16 = 13;
const VERSIONS: u16 = 43;

/// What a client offers, in its order.
struct Offer<'a> {
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<(u16, &'a [u8])>,
}

impl<'a> Offer<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(message);
        let version = reader.u16()?;
        reader.take(32)?;
        reader.vector8()?;
        let ciphers = numbers(reader.vector16()?)
            .filter(|cipher| !is_grease(*cipher))
            .collect();
        reader.vector8()?;
        let mut extensions = Vec::new();
        if !reader.0.is_empty() {
            let mut rest = Reader(reader.vector16()?);
            while !rest.0.is_empty() {
                let kind = rest.u16()?;
                let body = rest.vector16()?;
                if !is_grease(kind) {
                    extensions.push((kind, body));
                }
            }
        }
        Some(Self {
            version,
            ciphers,
            extensions,
        })
    }

    fn extension(&self, wanted: u16) -> Option<&'a [u8]> {
        let found = self.extensions.iter().find(|(kind, _)| *kind == wanted);
        found.map(|(_, body)| *body)
    }

    /// The list in an extension, behind its length.
    fn list(&self, kind: u16) -> impl Iterator<Item = u16> {
        numbers(self.extension(kind).and_then(|body| body.get(2..)).unwrap_or_default())
    }

    fn ja3(&self) -> String {
        let formats = self.extension(POINT_FORMATS).and_then(|body| body.get(1..));
        let text = [
            self.version.to_string(),
            joined(self.ciphers.iter().copied(), "-", decimal),
            joined(self.extensions.iter().map(|(kind, _)| *kind), "-", decimal),
            joined(self.list(GROUPS), "-", decimal),
            joined(
                formats.unwrap_or_default().iter().map(|format| u16::from(*format)),
                "-",
                decimal,
            ),
        ]
        .join(",");
        crate::tls::x509::hex(&Md5::digest(text))
    }

    fn ja4(&self) -> String {
        let named = if self.extension(SERVER_NAME).is_some() {
            'd'
        } else {
            'i'
        };
        let count = |count: usize| count.min(99);
        let mut ciphers = self.ciphers.clone();
        ciphers.sort_unstable();
        let mut kinds: Vec<u16> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.retain(|kind| ![SERVER_NAME, ALPN].contains(kind));
        kinds.sort_unstable();
        let mut offered = joined(kinds.into_iter(), ",", hexadecimal);
        let signatures = joined(self.list(SIGNATURES), ",", hexadecimal);
        if !signatures.is_empty() {
            offered = format!("{offered}_{signatures}");
        }
        format!(
            "t{}{named}{:02}{:02}{}_{}_{}",
            self.newest(),
            count(self.ciphers.len()),
            count(self.extensions.len()),
            self.protocol(),
            cut_digest(&joined(ciphers.into_iter(), ",", hexadecimal)),
            cut_digest(&offered)
        )
    }

    /// The highest version that is offered.
    fn newest(&self) -> &'static str {
        let version = match self.extension(VERSIONS) {
            Some(body) => {
                let listed = Reader(body).vector8().map(numbers);
                let listed = listed.into_iter().flatten().filter(|version| !is_grease(*version));
                match listed.max() {
                    // None but GREASE: as if there was no list. One that is cut short has no version at all.
                    None if Reader(body).vector8().is_some() => self.version,
                    listed => listed.unwrap_or_default(),
                }
            }
            None => self.version,
        };
        match version {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            _ => "00",
        }
    }

    /// The first and the last character of the first protocol of ALPN; of one that is no text, of its hexadecimal form.
    fn protocol(&self) -> String {
        let names = self.extension(ALPN).and_then(|body| Reader(body).vector16());
        let name = names.and_then(|names| Reader(names).vector8());
        let (Some(first), Some(last)) = (name.and_then(<[u8]>::first), name.and_then(<[u8]>::last)) else {
            return "00".to_owned();
        };
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
            return [char::from(*first), char::from(*last)].iter().collect();
        }
        format!("{:x}{:x}", first >> 4, last & 15)
    }
}

fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

fn joined(values: impl Iterator<Item = u16>, separator: &str, print: fn(u16) -> String) -> String {
    values.map(print).collect::<Vec<_>>().join(separator)
}

fn decimal(value: u16) -> String {
    value.to_string()
}

fn hexadecimal(value: u16) -> String {
    format!("{value:04x}")
}

/// Twelve digits of the SHA-256; zeros for nothing.
fn cut_digest(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    crate::tls::x509::hex(&Sha256::digest(text)[..6])
}

#[cfg(test)]
mod tests;
