//! `envoy.filters.http.compressor`: responses in the encoding that the client prefers among those that the chain's compressors offer.

mod encoder;
mod stats;

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, TRANSFER_ENCODING, VARY,
};
use http::{Extensions, HeaderMap, HeaderValue};
use parking_lot::Mutex;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::http::compressor::v3 as pb;

use super::{Filter, FilterContext, Flow, Phases, Registration, Stage};
use crate::config::route::{Under, refuse};
use crate::config::{Compiled, Problems};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use encoder::{Encoder, Library};
use stats::Counts;

pub const REGISTRATION: Registration = Registration {
    type_name: "envoy.extensions.filters.http.compressor.v3.Compressor",
    compile,
    per_route: &[],
};

/// What is compressed when the configuration does not say.
const CONTENT_TYPES: [&str; 8] = [
    "application/javascript",
    "application/json",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/plain",
    "text/xml",
];
const MIN_CONTENT_LENGTH: u32 = 30;

struct Compressor {
    name: Box<str>,
    stats: Counts,
    library: Library,
    content_types: Vec<String>,
    min_content_length: u64,
    keep_etags: bool,
    uncompressible: Vec<u32>,
}

/// What the compressors of a chain offer a request, in their order, and what its client accepts.
#[derive(Clone, Default)]
struct Offer {
    encodings: Vec<&'static str>,
    accepted: Option<HeaderValue>,
}

/// What an `accept-encoding` comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    /// `None`: as it is.
    encoding: Option<&'static str>,
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Name,
    Wildcard,
    Identity,
    /// Nothing that the client lists is to be had.
    Nothing,
}

/// The encoder of one response, by the filter that made it.
#[derive(Clone)]
struct Encoding {
    of: &'static str,
    encoder: Arc<Mutex<Option<Encoder>>>,
}

#[allow(deprecated, reason = "`content_type` is what Istio and everyone else still sets")]
fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    let config = pb::Compressor::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    let extension = config.compressor_library.as_ref();
    let library = extension.and_then(|extension| extension.typed_config.as_ref());
    let (Some(extension), Some(library)) = (extension, library) else {
        return Err(Problems::one("compressor_library", "is required"));
    };
    let stats = Counts::new(extension, config.response_direction_config.is_some(), cx).under("compressor_library")?;
    let response = config.response_direction_config.unwrap_or_default();
    let common = response.common_config.unwrap_or_default();
    refuse(
        "response_direction_config.common_config.enabled",
        common.enabled.is_some(),
        "is not supported",
    )?;
    let content_types = match common.content_type.is_empty() {
        true => CONTENT_TYPES.map(str::to_owned).to_vec(),
        false => common.content_type.iter().map(|one| one.to_ascii_lowercase()).collect(),
    };
    let least = common
        .min_content_length
        .map_or(MIN_CONTENT_LENGTH, |wrapped| wrapped.value);
    Ok(Stage::Filter(Arc::new(Compressor {
        name: cx.name.into(),
        stats,
        library: Library::compile(library).under("compressor_library.typed_config")?,
        content_types,
        min_content_length: least.into(),
        keep_etags: response.disable_on_etag_header,
        uncompressible: response.uncompressible_response_codes,
    })))
}

impl Filter for Compressor {
    fn name(&self) -> &str {
        &self.name
    }

    fn phases(&self) -> Phases {
        Phases {
            response_body: true,
            ..Phases::default()
        }
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        self.stats.requests.not_compressed.inc();
        let mut offer = exchange.extensions.remove::<Offer>().unwrap_or_default();
        if offer.encodings.is_empty() {
            offer.accepted = exchange.headers().get(ACCEPT_ENCODING).cloned();
        }
        offer.encodings.push(self.library.encoding());
        exchange.extensions.insert(offer);
        Flow::Continue
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut http::Response<Body>) -> Flow {
        let is_long = self.is_long(response.headers());
        if !is_long {
            self.stats.responses.content_length_too_small.inc();
        }
        let may_compress = is_long && self.may_compress(response);
        let encoding = self.library.encoding();
        let chosen = !response.body().is_empty() && is_long && self.is_chosen(exchange);
        let headers = response.headers_mut();
        let compresses = chosen && may_compress && !headers.contains_key(TRANSFER_ENCODING);
        if !compresses {
            self.stats.responses.not_compressed.inc();
        }
        if !may_compress {
            return Flow::Continue;
        }
        if compresses {
            self.stats.responses.compressed.inc();
            let is_weak = headers.get(ETAG).is_some_and(|etag| etag.as_bytes().starts_with(b"W/"));
            if !is_weak {
                headers.remove(ETAG);
            }
            headers.remove(CONTENT_LENGTH);
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            exchange.extensions.insert(Encoding {
                of: encoding,
                encoder: Arc::new(Mutex::new(Some(self.library.encoder()))),
            });
        }
        // Also for clients that get it as it is: caches in between must know.
        vary(headers);
        Flow::Continue
    }

    fn changes_response(&self, state: &Extensions) -> bool {
        state
            .get::<Encoding>()
            .is_some_and(|encoding| encoding.of == self.library.encoding())
    }

    fn response_body(&self, state: &Extensions, chunk: &mut bytes::Bytes, end: bool) -> Flow {
        let Some(encoding) = state
            .get::<Encoding>()
            .filter(|encoding| encoding.of == self.library.encoding())
        else {
            return Flow::Continue;
        };
        let mut encoder = encoding.encoder.lock();
        if let Some(running) = encoder.as_mut() {
            self.stats.responses.total_uncompressed_bytes.add(chunk.len() as u64);
            *chunk = running.push(chunk, end);
            self.stats.responses.total_compressed_bytes.add(chunk.len() as u64);
            if end {
                *encoder = None;
            }
        }
        Flow::Continue
    }
}

impl Compressor {
    /// Whether the client wants this compressor's encoding most, counted.
    fn is_chosen(&self, exchange: &Exchange) -> bool {
        let choice = exchange.extensions.get::<Offer>().and_then(Offer::choose);
        let Some(choice) = choice else {
            self.stats.headers.no_accept_header.inc();
            return false;
        };
        let is_own = choice.encoding == Some(self.library.encoding());
        match choice.by {
            By::Name if is_own => self.stats.headers.header_compressor_used.inc(),
            By::Name => self.stats.headers.header_compressor_overshadowed.inc(),
            By::Wildcard => self.stats.headers.header_wildcard.inc(),
            By::Identity => self.stats.headers.header_identity.inc(),
            By::Nothing => self.stats.headers.header_not_valid.inc(),
        }
        is_own
    }

    fn is_long(&self, headers: &HeaderMap) -> bool {
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        length.is_none_or(|length| length >= self.min_content_length)
    }

    /// Whether a response that is long enough is of a kind that is compressed, whoever asks.
    fn may_compress(&self, response: &http::Response<Body>) -> bool {
        let headers = response.headers();
        let no_transform = headers
            .get_all(CACHE_CONTROL)
            .iter()
            .any(|value| has_token(value, "no-transform"));
        if headers.contains_key(CONTENT_ENCODING) || no_transform || !self.is_listed(headers) {
            return false;
        }
        if self.keep_etags && headers.contains_key(ETAG) {
            self.stats.headers.not_compressed_etag.inc();
            return false;
        }
        !self.uncompressible.contains(&response.status().as_u16().into())
    }

    fn is_listed(&self, headers: &HeaderMap) -> bool {
        let Some(content_type) = headers.get(CONTENT_TYPE) else {
            return true;
        };
        let text = String::from_utf8_lossy(content_type.as_bytes());
        let kind = text.split(';').next().unwrap_or_default().trim();
        self.content_types
            .iter()
            .any(|listed| listed.eq_ignore_ascii_case(kind))
    }
}

impl Offer {
    /// The offered encoding with the highest weight. Without a preference of the client's, the chain's first; `None`: the client says nothing.
    fn choose(&self) -> Option<Choice> {
        let accepted = self.accepted.as_ref()?.to_str().ok()?;
        let mut allowed = self.encodings.clone();
        let mut weighted = Vec::new();
        for item in accepted.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse::<f32>().ok());
            let weight = weight.unwrap_or(1.0);
            if weight > 0.0 {
                weighted.push((name, weight));
            } else {
                allowed.retain(|offered| !offered.eq_ignore_ascii_case(name) && name != "*");
            }
        }
        let mut best = Choice {
            encoding: None,
            by: By::Nothing,
        };
        let mut most = 0.0;
        for (name, weight) in weighted {
            let offered = match name {
                "*" => allowed.first(),
                _ => allowed.iter().find(|offered| offered.eq_ignore_ascii_case(name)),
            };
            let by = match name {
                "*" => By::Wildcard,
                _ if offered.is_some() => By::Name,
                _ if name.eq_ignore_ascii_case("identity") => By::Identity,
                _ => continue,
            };
            if (offered.is_some() || by == By::Identity) && weight > most {
                most = weight;
                best = Choice {
                    encoding: offered.copied(),
                    by,
                };
            }
        }
        Some(best)
    }
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn vary(headers: &mut HeaderMap) {
    let known = headers
        .get(VARY)
        .map(|vary| String::from_utf8_lossy(vary.as_bytes()).into_owned());
    let value = match known {
        None => "Accept-Encoding".to_owned(),
        Some(known) if known == "*" || known.to_ascii_lowercase().contains("accept-encoding") => return,
        Some(known) => format!("{known}, Accept-Encoding"),
    };
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(VARY, value);
    }
}

#[cfg(test)]
mod tests;
