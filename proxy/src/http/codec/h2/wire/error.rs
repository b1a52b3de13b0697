//! Why a stream or a connection ended.

use std::fmt;

/// An error code of RFC 9113 section 7; any other passes as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Peer,
    /// Whoever uses the codec.
    Us,
    /// The codec, because the peer broke the rules; response-code details.
    Rules(&'static str),
}

/// The end of a stream that was no completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the connection broke or was closed")]
    Transport,
    #[error("stream reset: {0:?} ({1:?})")]
    Reset(Reason, By),
    /// With its connection, or unseen by a peer that leaves.
    #[error("connection ended: {0:?} ({1:?})")]
    GoAway(Reason, By),
}

impl Error {
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Transport => None,
            Self::Reset(reason, _) | Self::GoAway(reason, _) => Some(reason),
        }
    }

    pub fn is_reset(self) -> bool {
        matches!(self, Self::Reset(..))
    }

    pub fn is_remote(self) -> bool {
        matches!(self, Self::Reset(_, By::Peer) | Self::GoAway(_, By::Peer))
    }
}

/// Envoy's response-code details for a message that is none.
pub const VIOLATION: &str = "http2.violation.of.messaging.rule";
/// And for one with a header that cannot be.
pub const INVALID: &str = "http2.invalid.header.field";

/// What the connection does not survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Rules(Reason),
    /// Too many frames of a kind, as response-code details: nothing more is read or written.
    Flood(&'static str),
}

impl From<super::hpack::Malformed> for Broken {
    fn from(_: super::hpack::Malformed) -> Self {
        Self::Rules(Reason::COMPRESSION_ERROR)
    }
}
