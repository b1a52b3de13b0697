//! The codec seam (D14): server connections yield heads, bodies and responders, client connections take them.
//!
//! In: an [`Io`](crate::runtime::io::Io). Out: [`Exchange`](super::exchange::Exchange)s answered by the connection manager's pipeline; every protocol error is a
//! [`Failure`](super::failure::Failure). Above this seam nobody knows which codec runs.

pub mod h1;
pub mod h2;

use super::body::Body;
use super::failure::Failure;

/// A request that got no response.
#[derive(Debug)]
pub struct SendError {
    pub failure: Failure,
    /// The request, if it can be sent again on another connection: its body was not consumed.
    pub request: Option<http::Request<Body>>,
}

/// Whether a request head asks to leave HTTP on its connection (RFC 9110 section 7.8).
pub fn is_upgrade(parts: &http::request::Parts) -> bool {
    parts.headers.contains_key(http::header::UPGRADE) && parts.headers.contains_key(http::header::CONNECTION)
}
