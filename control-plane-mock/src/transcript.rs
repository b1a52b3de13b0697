//! Everything the server saw and said, in order, with a way to wait for an entry.

use std::collections::VecDeque;
use std::fmt;

use crate::types;

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A stream was opened; `note` is its gRPC path.
    Open,
    /// A request that is neither an ACK nor a NACK: a first one, or a change of subscription.
    Request,
    /// A request that accepts the response whose nonce it carries.
    Ack,
    /// A request that refuses the response whose nonce it carries.
    Nack,
    /// A response that was handed to the transport.
    Response,
    /// A stream ended; `note` says how.
    Close,
}

/// One thing that happened on one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Position in the transcript, from 0.
    pub index: usize,
    /// Number of the stream, from 1, in the order they were opened over the life of the server.
    pub stream: u64,
    /// Delta rather than state of the world.
    pub delta: bool,
    /// What happened.
    pub what: What,
    /// Type URL; empty for `Open` and `Close`.
    pub type_url: String,
    /// `version_info` of a SotW message, `system_version_info` of a delta response. In an `Ack` or `Nack` entry of a delta
    /// stream, the version of the response it answers.
    pub version: String,
    /// Nonce carried.
    pub nonce: String,
    /// Names requested (SotW), subscribed (delta request) or delivered (response).
    pub names: Vec<String>,
    /// Names unsubscribed (delta request) or removed (delta response).
    pub removed: Vec<String>,
    /// `initial_resource_versions` of a delta request, sorted by name.
    pub initial_versions: Vec<(String, String)>,
    /// gRPC code and message of `error_detail`.
    pub error: Option<(i32, String)>,
    /// `node.id`, if the request carried a node.
    pub node: Option<String>,
    /// The nonce is not the newest one sent for this type on this stream.
    pub stale: bool,
    /// Free text: path of a stream, how it ended, which fault was played.
    pub note: String,
}

impl Entry {
    /// An entry with nothing but its stream and kind.
    pub fn new(stream: u64, delta: bool, what: What, type_url: &str) -> Self {
        Self {
            index: 0,
            stream,
            delta,
            what,
            type_url: type_url.to_owned(),
            version: String::new(),
            nonce: String::new(),
            names: Vec::new(),
            removed: Vec::new(),
            initial_versions: Vec::new(),
            error: None,
            node: None,
            stale: false,
            note: String::new(),
        }
    }

    /// True for requests of every kind (ACKs and NACKs included).
    pub fn is_request(&self) -> bool {
        matches!(self.what, What::Request | What::Ack | What::Nack)
    }

    /// True if this is of the given type (short name or URL).
    pub fn is_of(&self, type_name: &str) -> bool {
        self.type_url == types::resolve(type_name)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.what {
            What::Response => "<-",
            What::Open | What::Close => "--",
            _ => "->",
        };
        write!(
            f,
            "#{} {arrow} {:?} {}",
            self.stream,
            self.what,
            types::short(&self.type_url)
        )?;
        for (label, text) in [("version", &self.version), ("nonce", &self.nonce)] {
            if !text.is_empty() {
                write!(f, " {label}={text}")?;
            }
        }
        for (label, names) in [("names", &self.names), ("removed", &self.removed)] {
            if !names.is_empty() {
                write!(f, " {label}=[{}]", names.join(","))?;
            }
        }
        if !self.initial_versions.is_empty() {
            let held: Vec<String> = self
                .initial_versions
                .iter()
                .map(|(name, version)| format!("{name}@{version}"))
                .collect();
            write!(f, " initial=[{}]", held.join(","))?;
        }
        if let Some(node) = &self.node {
            write!(f, " node={node}")?;
        }
        if self.stale {
            f.write_str(" stale")?;
        }
        if let Some((code, message)) = &self.error {
            write!(f, " error={code} {message:?}")?;
        }
        if !self.note.is_empty() {
            write!(f, " ({})", self.note)?;
        }
        Ok(())
    }
}

/// The recorded entries. Keeps the newest [`Transcript::LIMIT`] of them.
#[derive(Debug, Default)]
pub struct Transcript {
    entries: VecDeque<Entry>,
    next: usize,
}

impl Transcript {
    /// Entries kept; enough for any test, and a bound for a server that runs for weeks.
    pub const LIMIT: usize = 100_000;

    /// Records an entry and gives it its index.
    pub fn record(&mut self, mut entry: Entry) {
        entry.index = self.next;
        self.next += 1;
        if self.entries.len() == Self::LIMIT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Index that the next entry will get.
    pub fn next_index(&self) -> usize {
        self.next
    }

    /// Entries from index `from` on that are still kept.
    pub fn since(&self, from: usize) -> impl Iterator<Item = &Entry> {
        let first = self.next - self.entries.len();
        self.entries.iter().skip(from.saturating_sub(first))
    }
}
