//! Message heads: bytes → `http` parts and framing.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use smallvec::SmallVec;

use super::decode::{BodyDecoder, Broken};
use super::{H1Options, OriginalNames};
use crate::http::failure::Failure;

mod names;
mod target;

use target::Target;

/// Headers that are read into an array on the stack; a head of more, where that is allowed, is read once again into one of its own.
const HEADER_SLOTS: usize = 256;

/// What a [`HeaderMap`] holds at most, with room for what we add.
const MOST_HEADERS: usize = 24_000;

/// A parsed request head.
pub struct RequestHead {
    pub request: Request<()>,
    pub body: BodyDecoder,
    pub keep_alive: bool,
    pub expect_continue: bool,
    /// Bytes of the head on the wire.
    pub wire_bytes: usize,
    /// Those of them that Envoy counts as headers.
    pub line_bytes: usize,
    /// The target, if it had a fragment: the URI has not.
    pub fragment: Option<Bytes>,
}

/// A parsed response head.
pub struct ResponseHead {
    pub response: Response<()>,
    pub body: BodyDecoder,
    pub keep_alive: bool,
    /// See [`RequestHead::line_bytes`].
    pub line_bytes: usize,
}

/// Takes one request head off `buffer`. `None`: more bytes are needed.
///
/// # Errors
/// A [`Failure::BadRequest`] with Envoy's `http1.*` details; the connection cannot be used any further.
pub fn request(buffer: &mut BytesMut, options: &H1Options) -> Result<Option<Box<RequestHead>>, Failure> {
    skip_empty_lines(buffer);
    match read_request(buffer, options, options.max_headers.min(HEADER_SLOTS)) {
        Err(failure) if failure == TOO_MANY_HEADERS && options.max_headers > HEADER_SLOTS => {
            let most = most_headers(buffer, options.max_headers);
            read_request(buffer, options, most)
        }
        done => done,
    }
}

/// How many headers the head can have, if so many are allowed.
fn most_headers(buffer: &[u8], allowed: usize) -> usize {
    let lines = memchr::memchr_iter(b'\n', buffer).count();
    (lines + 1).min(allowed).min(MOST_HEADERS)
}

/// Room for the headers of a head, out of `few` if they fit there.
fn slots<'s, 'b>(
    few: &'s mut [MaybeUninit<httparse::Header<'b>>; HEADER_SLOTS],
    many: &'s mut Vec<MaybeUninit<httparse::Header<'b>>>,
    count: usize,
) -> &'s mut [MaybeUninit<httparse::Header<'b>>] {
    if count <= HEADER_SLOTS {
        return &mut few[..count];
    }
    many.resize_with(count, MaybeUninit::uninit);
    many
}

fn read_request(buffer: &mut BytesMut, options: &H1Options, count: usize) -> Result<Option<Box<RequestHead>>, Failure> {
    let mut few = [const { MaybeUninit::uninit() }; HEADER_SLOTS];
    let mut many = Vec::new();
    let slots = slots(&mut few, &mut many, count);
    let mut parsed = httparse::Request::new(&mut []);
    let head_len = match parsed.parse_with_uninit_headers(buffer, slots) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() >= options.max_head_bytes => return Err(HEAD_TOO_LARGE),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_MANY_HEADERS),
        Err(httparse::Error::HeaderValue) => return Err(INVALID_CHARACTERS),
        Err(httparse::Error::HeaderName) if has_control(buffer) => return Err(INVALID_CHARACTERS),
        Err(httparse::Error::Version | httparse::Error::Token)
            if !options.accept_http_10 && target::is_of_other_version(buffer) =>
        {
            return Err(LOW_VERSION);
        }
        Err(_) => return Err(CODEC_ERROR),
    };
    if head_len > options.max_head_bytes {
        return Err(HEAD_TOO_LARGE);
    }
    let version = if parsed.version == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    if version == Version::HTTP_10 && !options.accept_http_10 {
        return Err(LOW_VERSION);
    }
    let method = target::method(parsed.method.unwrap_or_default())?;
    let base = buffer.as_ptr() as usize;
    let target = parsed.path.map_or(0..0, |path| span(base, path.as_bytes()));
    let spans = Spans::of(base, parsed.headers);
    let head = buffer.split_to(head_len).freeze();

    let mut request = Request::new(());
    let Target { uri, fragment } = Target::parse(&method, head.slice(target))?;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    let mut framing = Framing::default();
    let headers = request.headers_mut();
    headers.reserve(spans.0.len() + 6);
    for (name, value) in spans.iter(&head) {
        let name = names::parse(name).ok_or(CODEC_ERROR)?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| CODEC_ERROR)?;
        framing.observe(&name, &value)?;
        headers.append(name, value);
    }
    if let Some(names) = OriginalNames::of(options.header_case, spans.names(&head)) {
        request.extensions_mut().insert(names);
    }
    let is_connect = method == Method::CONNECT;
    if is_connect {
        // Zero, at most.
        request.headers_mut().remove(CONTENT_LENGTH);
    }
    *request.method_mut() = method;
    if framing.hosts > 1 {
        return Err(CODEC_ERROR);
    }
    Ok(Some(Box::new(RequestHead {
        body: framing.request_body(version, is_connect)?,
        keep_alive: framing.keep_alive(version),
        expect_continue: framing.expects == 1 && framing.expects_continue,
        wire_bytes: head_len,
        line_bytes: spans.line_bytes(head_len),
        fragment,
        request,
    })))
}

/// Takes one response head off `buffer`; `None`: more bytes are needed. Hop-by-hop headers are dropped, but for those of a 101.
///
/// # Errors
/// [`Failure::ProtocolError`] with the reason.
pub fn response(buffer: &mut BytesMut, method: &Method, options: &H1Options) -> Result<Option<ResponseHead>, Failure> {
    match read_response(buffer, method, options, options.max_headers.min(HEADER_SLOTS)) {
        Err(failure) if failure == TOO_MANY_RESPONSE_HEADERS && options.max_headers > HEADER_SLOTS => {
            let most = most_headers(buffer, options.max_headers);
            read_response(buffer, method, options, most)
        }
        done => done,
    }
}

fn read_response(
    buffer: &mut BytesMut,
    method: &Method,
    options: &H1Options,
    count: usize,
) -> Result<Option<ResponseHead>, Failure> {
    let mut few = [const { MaybeUninit::uninit() }; HEADER_SLOTS];
    let mut many = Vec::new();
    let slots = slots(&mut few, &mut many, count);
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let head_len = match config.parse_response_with_uninit_headers(&mut parsed, buffer, slots) {
        Ok(httparse::Status::Complete(length)) if length > options.max_head_bytes => {
            return Err(RESPONSE_HEAD_TOO_LARGE);
        }
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() >= options.max_head_bytes => return Err(RESPONSE_HEAD_TOO_LARGE),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_MANY_RESPONSE_HEADERS),
        Err(_) => return Err(BROKEN_RESPONSE),
    };
    let version = if parsed.version == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let status = parsed
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(BROKEN_RESPONSE)?;
    let base = buffer.as_ptr() as usize;
    let spans = Spans::of(base, parsed.headers);
    let head = buffer.split_to(head_len).freeze();

    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    let upgrading = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut framing = Framing::default();
    let headers = response.headers_mut();
    headers.reserve(spans.0.len() + 3);
    for (name, value) in spans.iter(&head) {
        let name = names::parse(name).ok_or(BROKEN_RESPONSE)?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| BROKEN_RESPONSE)?;
        framing.observe(&name, &value).map_err(|_| BROKEN_RESPONSE)?;
        if upgrading || !is_hop_by_hop(&name) {
            headers.append(name, value);
        }
    }
    if let Some(names) = OriginalNames::of(options.header_case, spans.names(&head)) {
        response.extensions_mut().insert(names);
    }
    let body = framing.response_body(status, method)?;
    if status == StatusCode::NO_CONTENT {
        // RFC 9110, 8.6: it says of none that it is empty.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    let keep_alive = framing.keep_alive(version) && !matches!(body, BodyDecoder::UntilClose);
    Ok(Some(ResponseHead {
        response,
        body,
        keep_alive,
        line_bytes: spans.line_bytes(head_len),
    }))
}

/// Headers that concern one connection only (RFC 9110 section 7.6.1).
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection"
    )
}

/// Parses trailers from a complete block (ending with an empty line). Framing and routing fields are dropped: they mean
/// nothing in a trailer (RFC 9110 section 6.5.1).
///
/// # Errors
/// There are more of them than `max_headers`, or they are none.
pub fn trailers(block: &[u8], max_headers: usize) -> Result<HeaderMap, Broken> {
    let mut slots: SmallVec<[httparse::Header<'_>; 32]> = SmallVec::new();
    slots.resize(most_headers(block, max_headers), httparse::EMPTY_HEADER);
    let parsed = match httparse::parse_headers(block, &mut slots) {
        Ok(httparse::Status::Complete((_, parsed))) => parsed,
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::TooManyTrailers),
        _ => return Err(Broken::Framing),
    };
    let mut map = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Broken::Framing)?;
        if is_hop_by_hop(&name) || name == CONTENT_LENGTH || name == HOST {
            continue;
        }
        let value = HeaderValue::from_bytes(header.value).map_err(|_| Broken::Framing)?;
        map.append(name, value);
    }
    Ok(map)
}

/// Where names and values lie in a head, so that they can be cut out of it without copying.
struct Spans(SmallVec<[[u32; 4]; 32]>);

impl Spans {
    fn of(base: usize, headers: &[httparse::Header<'_>]) -> Self {
        let of = |header: &httparse::Header<'_>| {
            let (name, value) = (span(base, header.name.as_bytes()), span(base, header.value));
            [name.start as u32, name.end as u32, value.start as u32, value.end as u32]
        };
        Self(headers.iter().map(of).collect())
    }

    /// All lines between the first and the empty one, as Envoy's parser reports them: without their line feeds.
    fn line_bytes(&self, head_len: usize) -> usize {
        let first = self
            .0
            .first()
            .map_or(head_len, |&[name_start, ..]| name_start as usize + 2);
        head_len.saturating_sub(first + self.0.len())
    }

    fn names(&self, head: &Bytes) -> impl Iterator<Item = Bytes> {
        let slice = |&[start, end, ..]: &[u32; 4]| head.slice(start as usize..end as usize);
        self.0.iter().map(slice)
    }

    fn iter<'a>(&'a self, head: &'a Bytes) -> impl Iterator<Item = (&'a [u8], Bytes)> {
        self.0
            .iter()
            .map(move |&[name_start, name_end, value_start, value_end]| {
                let value = head.slice(value_start as usize..value_end as usize);
                (&head[name_start as usize..name_end as usize], value)
            })
    }
}

/// What the headers say about the body and the connection.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    asks_keep_alive: bool,
    expects: u32,
    expects_continue: bool,
    hosts: u32,
}

impl Framing {
    fn observe(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Failure> {
        if name == CONTENT_LENGTH {
            let length = parse_length(value.as_bytes()).ok_or(CODEC_ERROR)?;
            // RFC 9112 section 6.3: of several lengths none may be chosen.
            if self.length.replace(length).is_some() {
                return Err(CODEC_ERROR);
            }
        } else if name == TRANSFER_ENCODING {
            if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(INVALID_TRANSFER_ENCODING);
            }
            self.chunked = true;
        } else if name == CONNECTION {
            for token in value.as_bytes().split(|byte| *byte == b',') {
                let token = token.trim_ascii();
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.asks_keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if name == EXPECT {
            self.expects += 1;
            self.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        } else if name == HOST {
            self.hosts += 1;
            if !value.as_bytes().iter().all(|byte| is_authority(*byte)) {
                return Err(INVALID_AUTHORITY);
            }
        }
        Ok(())
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.asks_keep_alive)
    }

    fn request_body(&self, version: Version, is_connect: bool) -> Result<BodyDecoder, Failure> {
        match (self.chunked, self.length) {
            // RFC 9112 section 6.3: both together is an attempt at smuggling.
            (true, Some(_)) => {
                let details = "http1.content_length_and_chunked_not_allowed";
                Err(Failure::BadRequest {
                    details,
                    status: StatusCode::BAD_REQUEST,
                })
            }
            (true, None) if is_connect => Err(INVALID_TRANSFER_ENCODING),
            (_, Some(1..)) if is_connect => Err(BODY_DISALLOWED),
            (true, None) if version == Version::HTTP_10 => Err(CODEC_ERROR),
            (true, None) => Ok(BodyDecoder::chunked()),
            (false, length) => Ok(BodyDecoder::length(length.unwrap_or(0))),
        }
    }

    fn response_body(&self, status: StatusCode, method: &Method) -> Result<BodyDecoder, Failure> {
        let never = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) || status.is_informational();
        let bodiless = never || method == Method::HEAD || (method == Method::CONNECT && status.is_success());
        let announced = self.chunked || self.length.is_some_and(|length| length > 0);
        if announced && status == StatusCode::NO_CONTENT {
            return Err(Failure::ProtocolError("http1.content_length_not_allowed"));
        }
        if bodiless {
            return Ok(BodyDecoder::length(0));
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Failure::ProtocolError("http1.content_length_and_chunked_not_allowed")),
            (true, None) => Ok(BodyDecoder::chunked()),
            (false, Some(length)) => Ok(BodyDecoder::length(length)),
            (false, None) => Ok(BodyDecoder::UntilClose),
        }
    }
}

/// RFC 9112 section 2.2: a server should ignore an empty line before a request line.
fn skip_empty_lines(buffer: &mut BytesMut) {
    while buffer.starts_with(b"\r\n") {
        buffer.advance(2);
    }
}

fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A control character, but for those of lines and blanks, in the head.
fn has_control(buffer: &[u8]) -> bool {
    let end = memchr::memmem::find(buffer, b"\r\n\r\n").unwrap_or(buffer.len());
    let head = buffer.get(..end).unwrap_or_default();
    head.iter()
        .any(|byte| byte.is_ascii_control() && !b"\r\n\t".contains(byte))
}

/// What Envoy takes in an authority (`HeaderUtility::authorityIsValid`): RFC 3986's reg-name, user info, IP literal and port.
fn is_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@[]%".contains(&byte)
}

fn span(base: usize, part: &[u8]) -> std::ops::Range<usize> {
    let start = part.as_ptr() as usize - base;
    start..start + part.len()
}

const fn refused(details: &'static str, status: StatusCode) -> Failure {
    Failure::BadRequest { details, status }
}

pub(super) const CODEC_ERROR: Failure = refused("http1.codec_error", StatusCode::BAD_REQUEST);
const INVALID_CHARACTERS: Failure = refused("http1.invalid_characters", StatusCode::BAD_REQUEST);
const INVALID_TRANSFER_ENCODING: Failure = refused("http1.invalid_transfer_encoding", StatusCode::NOT_IMPLEMENTED);
/// A CONNECT has no body; what its `content-length` announces would be the tunnel's.
const BODY_DISALLOWED: Failure = refused("http1.body_disallowed", StatusCode::BAD_REQUEST);
const LOW_VERSION: Failure = refused("low_version", StatusCode::UPGRADE_REQUIRED);
const INVALID_AUTHORITY: Failure = refused("http.invalid_authority", StatusCode::BAD_REQUEST);
pub(super) const HEAD_TOO_LARGE: Failure =
    refused("http1.headers_too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
pub(super) const TOO_MANY_HEADERS: Failure =
    refused("http1.too_many_headers", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
const TOO_MANY_RESPONSE_HEADERS: Failure = Failure::ProtocolError("http1.too_many_headers");
const RESPONSE_HEAD_TOO_LARGE: Failure = Failure::ProtocolError("http1.response_headers_too_large");
const BROKEN_RESPONSE: Failure = Failure::ProtocolError("http1.codec_error");
