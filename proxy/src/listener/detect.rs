//! Protocol detection over the first bytes of a connection: pure parsers that ask for more until they know.

pub mod client_hello;
pub mod fingerprint;
pub mod http;
pub mod proxy_protocol;

/// What a parser makes of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detection<T> {
    /// It needs bytes that have not come.
    NeedMore,
    /// This is not the protocol.
    No,
    Found(T),
    /// It is the protocol, and broken.
    Broken(&'static str),
}

#[cfg(test)]
mod tests;
