//! What match trees ask of a request or connection.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use remora_proto::any;
use remora_proto::pb::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
use remora_proto::pb::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use remora_proto::pb::xds::core::v3::TypedExtensionConfig;

use super::{Of, Subject, unpack};
use crate::config::route::refuse;
use crate::config::{Compiled, Problems};
use crate::http::exchange::FilterState;
use crate::route::headers::HeaderKey;
use crate::tls::PeerInfo;

/// A compiled input.
#[derive(Debug)]
pub(super) enum Input {
    Address(End),
    Port(End),
    ServerName,
    FilterState(String),
    UriSans,
    DnsSans,
    Subject,
    Header(HeaderKey),
}

/// Which address of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Destination,
    /// After a PROXY header, and after XFF processing.
    Source,
    /// The socket's peer.
    DirectSource,
}

/// What an input knows.
pub(super) enum Known<'a> {
    Absent,
    Text(Cow<'a, [u8]>),
    Short(Short),
}

/// An address or port as text, without an allocation.
pub(super) struct Short {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

const NETWORK: &str = "envoy.extensions.matching.common_inputs.network.v3.";
const SSL: &str = "envoy.extensions.matching.common_inputs.ssl.v3.";
const HEADER: &str = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput";

impl Input {
    pub fn compile(config: &TypedExtensionConfig, of: Of) -> Compiled<Self> {
        let Some(typed) = &config.typed_config else {
            return Err(Problems::one("typed_config", "is required"));
        };
        let content = any::content(typed).map_err(|error| Problems::one("typed_config", error.to_string()))?;
        let name = content.0;
        let unknown = || Problems::one("typed_config", format!("input {name} is not supported"));
        if let Some(name) = name.strip_prefix(NETWORK) {
            return Ok(match name {
                "DestinationIPInput" => Self::Address(End::Destination),
                "SourceIPInput" => Self::Address(End::Source),
                "DirectSourceIPInput" => Self::Address(End::DirectSource),
                "DestinationPortInput" => Self::Port(End::Destination),
                "SourcePortInput" => Self::Port(End::Source),
                "ServerNameInput" => Self::ServerName,
                "FilterStateInput" => {
                    let state: FilterStateInput = unpack(config)?;
                    refuse("typed_config.key", state.key.is_empty(), "must not be empty")?;
                    refuse("typed_config.field", !state.field.is_empty(), "is not supported")?;
                    Self::FilterState(state.key)
                }
                _ => return Err(unknown()),
            });
        }
        if let Some(name) = name.strip_prefix(SSL) {
            return Ok(match name {
                "UriSanInput" => Self::UriSans,
                "DnsSanInput" => Self::DnsSans,
                "SubjectInput" => Self::Subject,
                _ => return Err(unknown()),
            });
        }
        if name != HEADER || of == Of::Connections {
            return Err(unknown());
        }
        let header: HttpRequestHeaderMatchInput = unpack(config)?;
        HeaderKey::compile("typed_config.header_name", &header.header_name).map(Self::Header)
    }

    pub fn is_address(&self) -> bool {
        matches!(self, Self::Address(_))
    }

    /// `None`: it cannot be known here.
    pub fn known<'a>(&self, subject: &Subject<'a>) -> Option<Known<'a>> {
        Some(match self {
            Self::Address(end) => Known::Short(Short::of(end.of(subject)?.ip())),
            Self::Port(end) => Known::Short(Short::of(end.of(subject)?.port())),
            Self::ServerName => text(subject.connection.sni.as_deref()),
            Self::FilterState(key) => {
                let state = subject.extensions().get::<FilterState>();
                // State that is empty is there all the same.
                match state.and_then(|state| state.0.get(key)) {
                    Some(value) => Known::Text(Cow::Borrowed(value.as_bytes())),
                    None => Known::Absent,
                }
            }
            Self::UriSans => joined(&tls(subject)?.uri_sans),
            Self::DnsSans => joined(&tls(subject)?.dns_sans),
            Self::Subject => text(tls(subject)?.subject.as_deref()),
            Self::Header(key) => match key.of(&subject.request?) {
                Some(value) => Known::Text(value),
                None => Known::Absent,
            },
        })
    }

    /// The address, if it is one.
    pub fn address(&self, subject: &Subject<'_>) -> Option<IpAddr> {
        match self {
            Self::Address(end) => Some(end.of(subject)?.ip()),
            _ => None,
        }
    }
}

impl End {
    /// `None`: a pipe.
    fn of(self, subject: &Subject<'_>) -> Option<SocketAddr> {
        match self {
            Self::Destination => subject.connection.local.ip(),
            Self::Source => subject.remote.ip(),
            Self::DirectSource => subject.connection.direct_remote.ip(),
        }
    }
}

impl Known<'_> {
    /// `None`: it is absent.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Absent => None,
            Self::Text(text) => Some(text),
            Self::Short(short) => short.bytes.get(..short.length),
        }
    }
}

impl Short {
    /// An IPv6 address that ends like an IPv4 one.
    const LONGEST: usize = 45;

    fn of(value: impl std::fmt::Display) -> Self {
        let mut short = Self {
            bytes: [0; Self::LONGEST],
            length: 0,
        };
        // What does not fit would match nothing; nothing of ours is longer.
        let _ = write!(short, "{value}");
        short
    }
}

impl std::fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let Some(into) = self.bytes.get_mut(self.length..end) else {
            return Err(std::fmt::Error);
        };
        into.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

fn tls<'a>(subject: &Subject<'a>) -> Option<&'a PeerInfo> {
    subject.connection.tls.as_deref()
}

/// What is empty is absent.
fn text(value: Option<&str>) -> Known<'_> {
    match value {
        None | Some("") => Known::Absent,
        Some(value) => Known::Text(Cow::Borrowed(value.as_bytes())),
    }
}

fn joined(sans: &[String]) -> Known<'_> {
    match sans {
        [] => Known::Absent,
        [san] => Known::Text(Cow::Borrowed(san.as_bytes())),
        several => Known::Text(Cow::Owned(several.join(",").into_bytes())),
    }
}
