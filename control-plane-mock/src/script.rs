//! What the control plane does wrong, or late, on purpose.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use remora_proto::pb::google::protobuf::Any;

use crate::types;

/// How faithful the server is to one well-known implementation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Answers with whatever of the requested names exists.
    #[default]
    Plain,
    /// go-control-plane's snapshot cache in ADS mode: a type requested by name is answered only once the request lists every resource
    /// of that type in the snapshot; a request with a stale nonce is discarded; a version that the client already has is not sent again.
    GoControlPlane,
}

/// Something wrong with one response. Each is played once, by the next response of its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// One more resource, of the right type, whose bytes do not decode.
    Undecodable,
    /// One more resource whose type URL is not the response's.
    WrongType,
    /// The first resource twice.
    Duplicate,
    /// The nonce of the previous response of this type again.
    DuplicateNonce,
    /// A nonce that was never used before and that later ACKs are not held against: the client's answers count as stale.
    StaleNonce,
    /// An extra resource as it stands.
    Extra(Any),
    /// An entry in `resource_errors`: why the client does not get this resource.
    Report {
        /// Resource name.
        name: String,
        /// gRPC status code.
        code: i32,
        /// In words.
        message: String,
    },
    /// A gRPC frame with bytes that are no protobuf message, then the stream goes on.
    Garbage,
    /// Half of the message, then the end given.
    CutShort(Ending),
    /// The response is recorded as sent, but never leaves.
    Lost,
}

/// How a stream is ended by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// Trailers with gRPC status OK.
    Ok,
    /// Trailers with gRPC status UNAVAILABLE (14).
    #[default]
    Unavailable,
    /// RST_STREAM.
    Reset,
    /// The TCP (or unix) connection is closed with everything on it.
    Connection,
}

/// How response bytes reach the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per DATA frame, at least 1.
    pub chunk: usize,
    /// Pause between frames.
    pub gap: Duration,
}

/// Something that happens on open streams now.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Ends streams: all, or the one numbered.
    End {
        /// The stream to end; all when `None`.
        stream: Option<u64>,
        /// How.
        ending: Ending,
    },
    /// Sends everything subscribed of a type again, unchanged.
    Resend(String),
    /// Sends a TTL heartbeat for one resource of a type.
    Heartbeat {
        /// Type URL.
        type_url: String,
        /// Resource name.
        name: String,
    },
    /// Sends a response of a type that nobody may have asked for, with the resources held.
    Unsolicited(String),
    /// Sends these bytes as one gRPC message.
    Raw(Vec<u8>),
}

/// The script as it stands: what is withheld, delayed or broken.
#[derive(Debug, Default)]
pub struct Script {
    /// See [`Manner`].
    pub manner: Manner,
    /// Types of which nothing is sent.
    pub withheld: BTreeSet<String>,
    /// Names of which nothing is sent, by type.
    pub withheld_names: BTreeMap<String, BTreeSet<String>>,
    /// How long a response of a type waits before it is sent.
    pub delays: BTreeMap<String, Duration>,
    /// Faults waiting for a response of their type.
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    /// Order in which types are pushed when several changed at once; types not listed follow in the usual order.
    pub order: Vec<String>,
    /// Every stream ends this way after so many responses (counted per stream).
    pub end_after: Option<(u64, Ending)>,
    /// New connections are closed at once.
    pub refuse_connections: bool,
    /// New streams are answered with this gRPC status code and nothing else.
    pub refuse_streams: Option<i32>,
    /// How many streams a connection takes at once, of those opened from now on; hyper's 200 when `None`.
    pub max_streams: Option<u32>,
    /// How bytes reach the wire; all at once when `None`.
    pub pace: Option<Pace>,
    /// Delta methods answer UNIMPLEMENTED (`--sotw-only`), or SotW ones do.
    pub only_delta: Option<bool>,
    /// Commands given so far, for streams to pick up by position.
    pub commands: Vec<Command>,
    /// Raised by each change through a handle.
    pub generation: u64,
}

impl Script {
    /// Takes the next fault for a response of `type_url`.
    pub fn take_fault(&mut self, type_url: &str) -> Option<Fault> {
        self.faults.get_mut(type_url)?.pop_front()
    }

    /// True if `name` of `type_url` may be sent now.
    pub fn lets_through(&self, type_url: &str, name: &str) -> bool {
        !self
            .withheld_names
            .get(type_url)
            .is_some_and(|names| names.contains(name))
    }

    /// Sorts type URLs into the order in which they are to be pushed.
    pub fn sort(&self, type_urls: &mut [String]) {
        let rank = |url: &str| {
            let scripted = self.order.iter().position(|other| other == url);
            let usual = types::SERVED
                .iter()
                .position(|served| served.url == url)
                .unwrap_or(types::SERVED.len());
            (scripted.unwrap_or(usize::MAX), usual)
        };
        type_urls.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
    }
}
