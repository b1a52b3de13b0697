//! Heads and trailers out of header blocks, and into them (RFC 9113 section 8).

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version, request};

use super::super::options::HeaderLimits;
use super::Protocol;
use super::error::{Broken, INVALID, Reason, VIOLATION};
use super::hpack::{Decoder, Encoder, Field};
use super::stream::Message;
use crate::http::header_policy::path::TargetWithFragment;

/// What RFC 9113 section 6.5.2 adds to each field's size, in bytes.
const OVERHEAD: usize = 32;

/// A block that says so many times what it may is an attack: the connection ends.
const ABUSE: usize = 8;

/// Names of the static table, from its 15th on (RFC 7541 appendix A).
static NAMES: [HeaderName; 47] = [
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::ACCEPT,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::AGE,
    header::ALLOW,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::ETAG,
    header::EXPECT,
    header::EXPIRES,
    header::FROM,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::REFERER,
    header::REFRESH,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
    header::VARY,
    header::VIA,
    header::WWW_AUTHENTICATE,
];
const FIRST_NAME: u8 = 15;
const TRANSFER_ENCODING: u8 = 57;

/// What a block said.
#[derive(Default)]
pub(super) struct Decoded {
    pub(super) method: Option<Method>,
    pub(super) status: Option<StatusCode>,
    scheme: Option<Scheme>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    pub(super) fields: HeaderMap,
    pub(super) content_length: Option<u64>,
    /// Fields that may not be there twice are.
    is_twice: bool,
    /// See [`Message`].
    size: usize,
    pub(super) over: Option<&'static str>,
    /// Why it is no head, as response-code details.
    pub(super) fault: Option<&'static str>,
}

/// What lies in [`Scratch::text`].
type Span = (usize, usize);

/// Room for one block, which all connections of a worker share.
#[derive(Default)]
struct Scratch {
    text: Vec<u8>,
    fields: Vec<(HeaderName, Span, bool)>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Room that is kept from one block to the next, in bytes and in fields.
const KEPT: (usize, usize) = (16 * 1024, 256);

/// Decodes a block to its end, whatever is wrong with the message in it.
pub(super) fn decode(decoder: &mut Decoder, block: &[u8], limits: HeaderLimits) -> Result<Decoded, Broken> {
    let mut reader = Reader {
        scratch: SCRATCH.take(),
        limits,
        head: Decoded::default(),
        authority: None,
        path: None,
        protocol: None,
        count: 0,
        total: 0,
        hosts: 0,
        is_regular: false,
    };
    let result = decoder.decode(block, |field| reader.field(&field));
    let (decoded, mut scratch) = reader.finish();
    if scratch.text.capacity() <= KEPT.0 && scratch.fields.capacity() <= KEPT.1 {
        scratch.text.clear();
        scratch.fields.clear();
        SCRATCH.set(scratch);
    }
    result.map(|()| decoded)
}

struct Reader {
    scratch: Scratch,
    limits: HeaderLimits,
    head: Decoded,
    authority: Option<Span>,
    path: Option<Span>,
    protocol: Option<Span>,
    count: usize,
    /// As RFC 9113 counts.
    total: usize,
    hosts: u32,
    is_regular: bool,
}

impl Reader {
    fn field(&mut self, field: &Field<'_>) -> Result<(), Broken> {
        self.total += field.name.len() + field.value.len() + OVERHEAD;
        let most = self.limits.bytes as usize;
        if self.total > most.saturating_mul(ABUSE).saturating_add(most) {
            return Err(Broken::Rules(Reason::ENHANCE_YOUR_CALM));
        }
        let good = match field.name.first() {
            Some(b':') => self.pseudo(field),
            _ => self.regular(field),
        };
        if good.is_none() {
            self.head.fault.get_or_insert(VIOLATION);
        }
        Ok(())
    }

    fn pseudo(&mut self, field: &Field<'_>) -> Option<()> {
        let value = field.value;
        if self.is_regular {
            return None;
        }
        let is_twice = match field.name {
            b":method" => self.head.method.replace(Method::from_bytes(value).ok()?).is_some(),
            b":scheme" => self.head.scheme.replace(Scheme::try_from(value).ok()?).is_some(),
            b":status" => self.head.status.replace(StatusCode::from_bytes(value).ok()?).is_some(),
            b":authority" => self.authority.replace(self.scratch.keep(value)).is_some(),
            b":path" => self.path.replace(self.scratch.keep(value)).is_some(),
            b":protocol" => self.protocol.replace(self.scratch.keep(value)).is_some(),
            _ => true,
        };
        (!is_twice).then_some(())
    }

    fn regular(&mut self, field: &Field<'_>) -> Option<()> {
        self.is_regular = true;
        self.count += 1;
        self.head.size += field.name.len() + field.value.len();
        // A block over the limits is read to its end and not kept.
        let fits = self.count <= self.limits.count && self.head.size <= self.limits.bytes as usize;
        let known = field.static_name.filter(|index| *index != TRANSFER_ENCODING);
        let known = known.and_then(|index| NAMES.get(usize::from(index.checked_sub(FIRST_NAME)?)));
        let name = match known {
            Some(name) => name.clone(),
            None => {
                let name = HeaderName::from_lowercase(field.name).ok()?;
                let is_trailers = || field.value == b"trailers";
                if is_hop_by_hop(&name) || (name == header::TE && !is_trailers()) {
                    return None;
                }
                name
            }
        };
        if name == header::CONTENT_LENGTH {
            let length = number(field.value)?;
            self.head.is_twice |= self.head.content_length.is_some();
            if self.head.content_length.is_some_and(|other| other != length) {
                self.head.fault.get_or_insert(INVALID);
            }
            self.head.content_length = Some(length);
        } else if name == header::HOST {
            self.head.is_twice |= self.hosts > 0;
            self.hosts += 1;
        }
        if !field
            .value
            .iter()
            .all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
        {
            return None;
        }
        if fits {
            let span = self.scratch.keep(field.value);
            self.scratch.fields.push((name, span, field.sensitive));
        }
        Some(())
    }

    /// Values share one buffer, whose length is known now.
    fn finish(self) -> (Decoded, Scratch) {
        let mut head = self.head;
        let mut scratch = self.scratch;
        let text = Bytes::copy_from_slice(&scratch.text);
        let cut = |(from, to): Span| text.slice(from..to);
        head.authority = self.authority.map(cut);
        head.path = self.path.map(cut);
        head.protocol = self.protocol.map(cut);
        // More than a map can hold; no limit of ours is so high.
        if head.fields.try_reserve(scratch.fields.len()).is_err() {
            head.over = Some("http2.too_many_headers");
            scratch.fields.clear();
        }
        for (name, span, is_sensitive) in scratch.fields.drain(..) {
            let Ok(mut value) = HeaderValue::from_maybe_shared(cut(span)) else {
                head.fault.get_or_insert(VIOLATION);
                continue;
            };
            value.set_sensitive(is_sensitive);
            if head.fields.try_append(name, value).is_err() {
                head.over = Some("http2.too_many_headers");
            }
        }
        let most = self.limits.bytes as usize;
        if self.count > self.limits.count {
            head.over = Some("http2.too_many_headers");
        } else if head.size > most || self.total > most.saturating_mul(2) {
            head.over = Some("http2.header_list_size_too_large");
        }
        (head, scratch)
    }
}

impl Scratch {
    fn keep(&mut self, value: &[u8]) -> Span {
        let from = self.text.len();
        self.text.extend_from_slice(value);
        (from, self.text.len())
    }
}

/// RFC 9113 section 8.2.2.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection"
    )
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Decoded {
    pub(super) fn has_pseudo(&self) -> bool {
        self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.status.is_some()
            || self.protocol.is_some()
    }

    /// # Errors
    ///
    /// Why it is no request, as response-code details.
    pub(super) fn into_request(self, allow_connect: bool) -> Result<Message<Request<()>>, &'static str> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let method = self.method.ok_or(VIOLATION)?;
        let is_connect = method == Method::CONNECT;
        let is_plain = is_connect && self.protocol.is_none();
        if self.status.is_some() || (self.protocol.is_some() && !(is_connect && allow_connect)) {
            return Err(VIOLATION);
        }
        // RFC 9113 section 8.5: CONNECT has an authority alone.
        if is_plain != self.scheme.is_none() || is_plain != self.path.is_none() {
            return Err(VIOLATION);
        }
        let mut fragment = None;
        let mut parts = http::uri::Parts::default();
        if let Some(authority) = self.authority {
            let authority = Authority::from_maybe_shared(authority).map_err(|_| VIOLATION)?;
            if authority.as_str().contains('@') {
                return Err(INVALID);
            }
            parts.authority = Some(authority);
            parts.scheme = self.scheme;
        } else if is_plain {
            return Err(VIOLATION);
        }
        if self.is_twice {
            return Err(INVALID);
        }
        if let Some(path) = self.path {
            let starts_well = path.starts_with(b"/") || (path == "*" && method == Method::OPTIONS);
            if path.is_empty() || !(starts_well || is_connect) {
                return Err(VIOLATION);
            }
            // Which a URI leaves out.
            fragment = path.contains(&b'#').then(|| TargetWithFragment(path.clone()));
            parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path).map_err(|_| VIOLATION)?);
        }
        let mut request = Request::new(());
        if let Some(target) = fragment {
            request.extensions_mut().insert(target);
        }
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| VIOLATION)?;
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.fields;
        if let Some(protocol) = self.protocol {
            let protocol = std::str::from_utf8(&protocol).map_err(|_| VIOLATION)?;
            request.extensions_mut().insert(Protocol::from(protocol));
        }
        Ok(Message {
            head: request,
            size: self.size,
            over: self.over,
        })
    }

    /// # Errors
    ///
    /// Why it is no response, as response-code details.
    pub(super) fn into_response(self) -> Result<Message<Response<()>>, &'static str> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let is_request = self.method.is_some() || self.scheme.is_some() || self.path.is_some();
        if is_request || self.authority.is_some() || self.protocol.is_some() {
            return Err(VIOLATION);
        }
        if self.is_twice {
            return Err(INVALID);
        }
        let mut response = Response::new(());
        *response.status_mut() = self.status.ok_or(VIOLATION)?;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = self.fields;
        Ok(Message {
            head: response,
            size: self.size,
            over: self.over,
        })
    }
}

pub(super) fn encode_request(encoder: &mut Encoder, head: &request::Parts, out: &mut BytesMut) {
    encoder.begin(out);
    encoder.field(b":method", head.method.as_str().as_bytes(), false, out);
    if let Some(scheme) = head.uri.scheme_str() {
        encoder.field(b":scheme", scheme.as_bytes(), false, out);
    }
    if let Some(authority) = head.uri.authority() {
        encoder.field(b":authority", authority.as_str().as_bytes(), false, out);
    }
    if let Some(path) = head.uri.path_and_query() {
        encoder.field(b":path", path.as_str().as_bytes(), false, out);
    }
    if let Some(protocol) = head.extensions.get::<Protocol>() {
        encoder.field(b":protocol", protocol.as_str().as_bytes(), false, out);
    }
    encode_fields(encoder, &head.headers, out);
}

pub(super) fn encode_response(encoder: &mut Encoder, status: StatusCode, fields: &HeaderMap, out: &mut BytesMut) {
    encoder.begin(out);
    encoder.field(b":status", status.as_str().as_bytes(), false, out);
    encode_fields(encoder, fields, out);
}

pub(super) fn encode_trailers(encoder: &mut Encoder, fields: &HeaderMap, out: &mut BytesMut) {
    encoder.begin(out);
    encode_fields(encoder, fields, out);
}

fn encode_fields(encoder: &mut Encoder, fields: &HeaderMap, out: &mut BytesMut) {
    for (name, value) in fields {
        encoder.field(name.as_str().as_bytes(), value.as_bytes(), value.is_sensitive(), out);
    }
}
