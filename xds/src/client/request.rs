//! Discovery requests as plain data, and their wire form.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::wire;

/// `google.rpc.Code.INTERNAL`, which Envoy puts on every NACK.
const INTERNAL: u64 = 13;
/// Longest NACK message in bytes: it may travel in headers of a peer's choosing.
pub const MAX_REASON: usize = 4096;

/// One `DiscoveryRequest` or `DeltaDiscoveryRequest`.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub type_url: &'static str,
    /// The node goes along.
    pub node: bool,
    /// Empty on delta requests that answer nothing.
    pub nonce: Arc<str>,
    /// What makes it a NACK.
    pub error: Option<String>,
    pub body: Body,
}

/// What the two protocols do not share.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Sotw {
        version: Arc<str>,
        names: Names,
    },
    Delta {
        subscribe: Vec<Arc<str>>,
        unsubscribe: Vec<Arc<str>>,
        /// `initial_resource_versions`, sorted by name.
        initial: Vec<(Arc<str>, Arc<str>)>,
    },
}

/// A sorted list of resource names, encoded once: every ACK repeats it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    encoded: Bytes,
    count: usize,
}

impl Names {
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let (mut encoded, mut count) = (BytesMut::new(), 0);
        for name in names {
            wire::put_bytes(&mut encoded, 3, name.as_bytes());
            count += 1;
        }
        Self {
            encoded: encoded.freeze(),
            count,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The names, for logs and tests.
    pub fn to_vec(&self) -> Vec<String> {
        let mut reader = wire::Reader::new(&self.encoded);
        let mut names = Vec::with_capacity(self.count);
        while let Ok(Some((_, wire::Value::Span(span)))) = reader.field() {
            names.push(String::from_utf8_lossy(&self.encoded[span]).into_owned());
        }
        names
    }
}

impl Request {
    pub fn is_nack(&self) -> bool {
        self.error.is_some()
    }

    /// The wire form; `node` is the encoded `Node`.
    pub fn encode(&self, node: &Bytes) -> Bytes {
        let mut out = BytesMut::new();
        match &self.body {
            Body::Sotw { version, names } => {
                out.reserve(names.encoded.len() + node.len() + 512);
                wire::put_text(&mut out, 1, version);
                if self.node {
                    wire::put_bytes(&mut out, 2, node);
                }
                out.put_slice(&names.encoded);
                wire::put_text(&mut out, 4, self.type_url);
                wire::put_text(&mut out, 5, &self.nonce);
                self.put_error(&mut out, 6);
            }
            Body::Delta {
                subscribe,
                unsubscribe,
                initial,
            } => {
                if self.node {
                    wire::put_bytes(&mut out, 1, node);
                }
                wire::put_text(&mut out, 2, self.type_url);
                subscribe
                    .iter()
                    .for_each(|name| wire::put_bytes(&mut out, 3, name.as_bytes()));
                unsubscribe
                    .iter()
                    .for_each(|name| wire::put_bytes(&mut out, 4, name.as_bytes()));
                for (name, version) in initial {
                    let mut entry = BytesMut::new();
                    wire::put_bytes(&mut entry, 1, name.as_bytes());
                    wire::put_text(&mut entry, 2, version);
                    wire::put_bytes(&mut out, 5, &entry);
                }
                wire::put_text(&mut out, 6, &self.nonce);
                self.put_error(&mut out, 7);
            }
        }
        out.freeze()
    }

    fn put_error(&self, out: &mut BytesMut, number: u32) {
        if let Some(reason) = &self.error {
            let mut status = BytesMut::new();
            wire::put_number(&mut status, 1, INTERNAL);
            wire::put_text(&mut status, 2, reason);
            wire::put_bytes(out, number, &status);
        }
    }
}

/// What was wrong with one resource of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Empty when the resource did not tell its name.
    pub name: Arc<str>,
    pub reason: String,
}

/// The message of a NACK: failures in the order of the response, as far as [`MAX_REASON`] bytes go, and how many are left out.
pub(crate) fn reason(failures: &[Failure]) -> String {
    let mut message = String::new();
    for (at, failure) in failures.iter().enumerate() {
        let separator = if at == 0 { "" } else { "; " };
        let name = match &*failure.name {
            "" => "(unnamed resource)",
            name => name,
        };
        let line = format!("{separator}{name}: {}", failure.reason);
        if message.len() + line.len() > MAX_REASON - REST {
            let room = (MAX_REASON - REST).saturating_sub(message.len());
            let cut = (0..=room).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
            message.push_str(&line[..cut]);
            match failures.len() - at - 1 {
                0 => message.push_str(" (cut)"),
                more => message.push_str(&format!(" (cut; {more} more resources refused)")),
            }
            return message;
        }
        message.push_str(&line);
    }
    message
}

/// What is kept free for telling how much is left out.
const REST: usize = 64;
