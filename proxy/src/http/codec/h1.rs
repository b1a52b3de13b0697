//! HTTP/1: a sans-IO machine over `httparse` (`parse`, `decode`, `encode`) and the two drivers around it (`server`, `client`).
//!
//! In: bytes of an [`Io`](crate::runtime::io::Io). Out, server side: exchanges, answered by a service; client side: responses to the requests it was given.
//! Strict by default: whatever two parsers could read in two ways is refused (RFC 9112 sections 6.3, 11.2).

pub mod case;
pub mod client;
pub mod decode;
pub mod encode;
pub mod parse;
pub mod server;
mod stream;
#[cfg(test)]
mod tests;

use super::Underscores;
pub use case::{HeaderCase, OriginalNames};
pub use client::{ClientConnection, ResponseBody};
pub use server::RequestBody;

/// Limits and switches of one side; defaults are Envoy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct H1Options {
    /// Bytes of a message head, 60 KiB by default (`max_request_headers_kb`).
    pub max_head_bytes: usize,
    /// Headers of a message head, 100 by default (`common_http_protocol_options.max_headers_count`).
    pub max_headers: usize,
    /// `accept_http_10`
    pub accept_http_10: bool,
    /// Read buffer limit in bytes before back-pressure (`per_connection_buffer_limit_bytes`, 1 MiB).
    pub buffer_limit: usize,
    /// `http_protocol_options.enable_trailers`
    pub enable_trailers: bool,
    /// Requests that a downstream connection takes (`common_http_protocol_options.max_requests_per_connection`).
    pub max_requests: Option<u32>,
    /// `common_http_protocol_options.headers_with_underscores_action`
    pub underscores: Underscores,
    /// `header_key_format`
    pub header_case: HeaderCase,
}

impl Default for H1Options {
    fn default() -> Self {
        Self {
            max_head_bytes: 60 * 1024,
            max_headers: 100,
            accept_http_10: false,
            buffer_limit: 1024 * 1024,
            enable_trailers: false,
            max_requests: None,
            underscores: Underscores::Allow,
            header_case: HeaderCase::Lower,
        }
    }
}

impl H1Options {
    /// Trailers that are dropped may be as many as they like.
    fn trailers(&self) -> decode::TrailerLimits {
        decode::TrailerLimits {
            bytes: self.max_head_bytes,
            count: if self.enable_trailers {
                self.max_headers
            } else {
                usize::MAX
            },
        }
    }
}

/// One read's largest size.
const MAX_READ: usize = 64 * 1024;
