//! HTTP/2 as it is on the wire (RFC 9113): frames, HPACK, the states of streams and the windows of both ends.
//!
//! In: bytes of a socket, which a [`Connection`] reads and hands to its [`Machine`]. Out: for a server, requests ([`Incoming`]) with the way back; for a
//! client, [`SendRequest`], which opens streams; for both, [`RecvStream`]s and [`SendStream`]s. The machine is plain state behind the lock that a
//! connection and its streams share; it knows no socket and no clock, so that each rule is tested on bytes alone. One worker runs all of them.
//!
//! Nothing waits in queues. What is received is kept until it is read, and the peer's windows are its bound; data to be sent goes into the connection's
//! one output when both windows and the output have room for it, and not before: a peer that does not read stops its streams' bodies. What its frames
//! make us answer is counted, and too much of it ends the connection. An idle connection holds no buffer at all.

mod connection;
mod endings;
mod error;
mod frame;
mod handles;
mod head;
mod hpack;
mod machine;
mod output;
mod receive;
mod send;
mod stream;

#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use error::{By, Error, Reason};
pub use handles::{Incoming, Ping, RecvStream, ResponseFuture, SendRequest, SendResponse, SendStream};
pub use machine::Machine;
pub use stream::{Message, Trailers};

/// `:protocol` (RFC 8441), in the extensions of a request that is extended CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol(Box<str>);

impl Protocol {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Protocol {
    fn from(token: &str) -> Self {
        Self(token.into())
    }
}
