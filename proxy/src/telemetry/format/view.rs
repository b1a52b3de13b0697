//! What a format reads from.

use http::HeaderMap;

use crate::http::exchange::Exchange;

/// A stream as formats see it.
#[derive(Clone, Copy)]
pub struct LogView<'a> {
    pub exchange: &'a Exchange,
    pub response: Option<&'a HeaderMap>,
    pub trailers: Option<&'a HeaderMap>,
}

impl<'a> LogView<'a> {
    pub fn of(exchange: &'a Exchange) -> Self {
        Self {
            exchange,
            response: exchange.logged_response.as_deref(),
            trailers: exchange.logged_trailers.as_deref(),
        }
    }

    /// With the response's headers at hand.
    pub fn with_response(self, headers: &'a HeaderMap) -> Self {
        Self {
            response: Some(headers),
            ..self
        }
    }
}
