//! TLS ClientHello: server name and ALPN (RFC 8446 section 4.1.2, RFC 6066, RFC 7301).

use super::Detection;

/// What `tls_inspector` finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Lower case.
    pub server_name: Option<String>,
    /// In the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// Envoy's `TLS_MAX_CLIENT_HELLO`.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
pub(super) const SERVER_NAME: u16 = 0;
pub(super) const ALPN: u16 = 16;

/// Reads the first handshake message, however many records it is cut into; `limit` bounds it in bytes.
pub fn parse(bytes: &[u8], limit: usize) -> Detection<ClientHello> {
    let message = match message(bytes, limit) {
        Detection::Found(message) => message,
        Detection::NeedMore => return Detection::NeedMore,
        Detection::No => return Detection::No,
        Detection::Broken(reason) => return Detection::Broken(reason),
    };
    match hello(&message) {
        Some(hello) => Detection::Found(hello),
        None => Detection::Broken("malformed ClientHello"),
    }
}

/// The body of the ClientHello, put together from its records.
pub fn message(bytes: &[u8], limit: usize) -> Detection<Vec<u8>> {
    let mut message: Vec<u8> = Vec::new();
    let mut rest = bytes;
    loop {
        // A record: type, version, length. Each byte that is there must fit before more are awaited.
        if rest.first().is_some_and(|kind| *kind != HANDSHAKE) || rest.get(1).is_some_and(|major| *major != 3) {
            return Detection::No;
        }
        let Some((header, body)) = rest.split_at_checked(5) else {
            return Detection::NeedMore;
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > 16 * 1024 + 256 {
            return Detection::Broken("bad record length");
        }
        let available = &body[..length.min(body.len())];
        message.extend_from_slice(available);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Detection::No;
        }
        if let Some(&[high, middle, low]) = message.get(1..4).and_then(|length| <&[u8; 3]>::try_from(length).ok()) {
            let wanted = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if wanted + 4 > limit {
                return Detection::Broken("ClientHello too large");
            }
            if let Some(body) = message.get(4..4 + wanted) {
                return Detection::Found(body.to_vec());
            }
        }
        if available.len() < length {
            return Detection::NeedMore;
        }
        rest = &body[length..];
    }
}

fn hello(message: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(message);
    reader.take(2 + 32)?;
    reader.vector8()?;
    reader.vector16()?;
    reader.vector8()?;
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut body = Reader(extensions.vector16()?);
        match kind {
            SERVER_NAME => hello.server_name = server_name(&mut body)?,
            ALPN => {
                let mut names = Reader(body.vector16()?);
                while !names.0.is_empty() {
                    hello.alpn.push(names.vector8()?.to_vec());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(body: &mut Reader<'_>) -> Option<Option<String>> {
    let mut names = Reader(body.vector16()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.vector16()?;
        if kind == 0 {
            let text = std::str::from_utf8(name).ok()?;
            return Some(Some(text.to_ascii_lowercase()).filter(|text| !text.is_empty()));
        }
    }
    Some(None)
}

/// Takes length-prefixed pieces off the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}
