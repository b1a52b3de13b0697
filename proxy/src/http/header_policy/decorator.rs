//! `x-envoy-decorator-operation`: what a route calls its operation. The side that calls tells the side that serves, for its span; a server that
//! is told nothing tells the client. No spans are made here, but the proxy on the other side may make some, and nobody behind a proxy may see
//! the header.

use http::{HeaderMap, HeaderName};

use crate::http::exchange::Exchange;
use crate::listener::Direction;

static X_ENVOY_DECORATOR_OPERATION: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");

/// Which side of a call a listener is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    /// A listener without a direction is a server's, as in Envoy.
    pub fn of(direction: Direction) -> Self {
        match direction {
            Direction::Outbound => Self::Client,
            Direction::Inbound | Direction::Unspecified => Self::Server,
        }
    }

    pub(super) fn request(self, exchange: &mut Exchange) {
        let decorator = exchange.route.route.as_ref().and_then(|route| route.decorator.as_ref());
        let decorator = decorator.filter(|decorator| decorator.propagate).cloned();
        let headers = exchange.request.headers_mut();
        match self {
            Self::Client => {
                if let Some(decorator) = decorator {
                    headers.insert(&X_ENVOY_DECORATOR_OPERATION, decorator.operation.clone());
                }
            }
            Self::Server => {
                let told = headers.remove(&X_ENVOY_DECORATOR_OPERATION);
                let is_named = told.is_some_and(|operation| !operation.is_empty());
                exchange.decorator = decorator.filter(|_| !is_named);
            }
        }
    }

    pub(super) fn response(self, exchange: &Exchange, headers: &mut HeaderMap) {
        match (self, &exchange.decorator) {
            (Self::Client, _) => {
                headers.remove(&X_ENVOY_DECORATOR_OPERATION);
            }
            (Self::Server, Some(decorator)) => {
                headers.insert(&X_ENVOY_DECORATOR_OPERATION, decorator.operation.clone());
            }
            (Self::Server, None) => {}
        }
    }
}
