//! The codec seam (D14): server connections yield heads, bodies and responders, client connections take them.
//!
//! In: an [`Io`](crate::runtime::io::Io). Out: [`Exchange`](super::exchange::Exchange)s answered by the connection manager's pipeline; every protocol error is a
//! [`Failure`](super::failure::Failure). Above this seam nobody knows which codec runs.

pub mod h1;
pub mod h2;
