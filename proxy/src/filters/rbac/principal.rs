//! Who asks: `envoy.config.rbac.v3.Principal`.

use ipnet::IpNet;
use remora_proto::pb::envoy::config::rbac::v3 as pb;
use remora_proto::pb::envoy::config::rbac::v3::principal::Identifier;
use remora_proto::pb::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;

use super::{Subject, contains, network, path, sourced};
use crate::config::route::{Under, each, optional, refuse};
use crate::config::{Compiled, Problems};
use crate::http::exchange::FilterState;
use crate::route::headers::HeaderMatcher;
use crate::route::strings::{MetadataMatcher, StringMatcher};
use crate::tls::PeerInfo;

#[derive(Debug)]
pub(super) enum Principal {
    And(Vec<Principal>),
    Or(Vec<Principal>),
    Any,
    Not(Box<Principal>),
    /// `None`: anybody over TLS.
    Authenticated(Option<StringMatcher>),
    /// The connection's peer, after a PROXY header.
    SourceIp(IpNet),
    /// The socket's peer.
    DirectRemoteIp(IpNet),
    /// The client, after XFF processing.
    RemoteIp(IpNet),
    Header(HeaderMatcher),
    UrlPath(StringMatcher),
    Metadata(MetadataMatcher),
    FilterState(String, StringMatcher),
}

impl Principal {
    #[allow(deprecated, reason = "istiod still sends `metadata` and may send `source_ip`")]
    pub fn compile(value: &pb::Principal) -> Compiled<Self> {
        let Some(identifier) = &value.identifier else {
            return Err(Problems::one("identifier", "is required"));
        };
        Ok(match identifier {
            Identifier::AndIds(set) => Self::And(ids(set).under("and_ids")?),
            Identifier::OrIds(set) => Self::Or(ids(set).under("or_ids")?),
            Identifier::NotId(inner) => Self::Not(Box::new(Self::compile(inner).under("not_id")?)),
            Identifier::Any(any) => {
                refuse("any", !any, "must be true")?;
                Self::Any
            }
            Identifier::Authenticated(who) => {
                let name = optional("principal_name", who.principal_name.as_ref(), StringMatcher::compile);
                Self::Authenticated(name.under("authenticated")?)
            }
            Identifier::SourceIp(range) => Self::SourceIp(network(range).under("source_ip")?),
            Identifier::DirectRemoteIp(range) => Self::DirectRemoteIp(network(range).under("direct_remote_ip")?),
            Identifier::RemoteIp(range) => Self::RemoteIp(network(range).under("remote_ip")?),
            Identifier::Header(header) => Self::Header(HeaderMatcher::compile(header).under("header")?),
            Identifier::UrlPath(url) => Self::UrlPath(path(url).under("url_path")?),
            Identifier::Metadata(metadata) => Self::Metadata(MetadataMatcher::compile(metadata).under("metadata")?),
            Identifier::SourcedMetadata(metadata) => Self::Metadata(sourced(metadata).under("sourced_metadata")?),
            Identifier::FilterState(state) => match &state.matcher {
                Some(Matcher::StringMatch(text)) => {
                    let matcher = StringMatcher::compile(text).under("filter_state.string_match")?;
                    Self::FilterState(state.key.clone(), matcher)
                }
                _ => return Err(Problems::one("filter_state", "only string_match is supported")),
            },
            Identifier::Custom(_) => return Err(Problems::one("custom", "is not supported")),
        })
    }

    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let connection = subject.connection;
        match self {
            Self::And(ids) => ids.iter().all(|id| id.matches(subject)),
            Self::Or(ids) => ids.iter().any(|id| id.matches(subject)),
            Self::Any => true,
            Self::Not(id) => !id.matches(subject),
            Self::Authenticated(name) => connection
                .tls
                .as_deref()
                .is_some_and(|tls| is_authenticated(tls, name.as_ref())),
            Self::SourceIp(network) => contains(network, &connection.remote),
            Self::DirectRemoteIp(network) => contains(network, &connection.direct_remote),
            Self::RemoteIp(network) => contains(network, subject.remote),
            Self::Header(header) => subject.request.is_some_and(|view| header.matches(&view)),
            Self::UrlPath(matcher) => subject.path().is_some_and(|path| matcher.matches(path.as_bytes())),
            Self::Metadata(matcher) => matcher.matches(subject.metadata()),
            Self::FilterState(key, matcher) => {
                let state = subject.extensions().get::<FilterState>();
                let value = state.and_then(|state| state.0.get(key));
                value.is_some_and(|value| matcher.matches(value.as_bytes()))
            }
        }
    }
}

/// The principal is a URI SAN, else a DNS SAN, else the subject; any of them may be the one.
fn is_authenticated(tls: &PeerInfo, name: Option<&StringMatcher>) -> bool {
    let Some(name) = name else { return true };
    let sans = tls.uri_sans.iter().chain(&tls.dns_sans);
    sans.into_iter().any(|san| name.matches(san.as_bytes()))
        || name.matches(tls.subject.as_deref().unwrap_or_default().as_bytes())
}

fn ids(set: &pb::principal::Set) -> Compiled<Vec<Principal>> {
    refuse("ids", set.ids.is_empty(), "needs at least one")?;
    each("ids", &set.ids, Principal::compile)
}
