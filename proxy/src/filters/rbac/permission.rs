//! What is to be done: `envoy.config.rbac.v3.Permission`.

use ipnet::IpNet;
use remora_proto::pb::envoy::config::rbac::v3 as pb;
use remora_proto::pb::envoy::config::rbac::v3::permission::Rule;

use super::{Subject, contains, network, path, sourced};
use crate::config::route::{Under, each, refuse};
use crate::config::{Compiled, Problems};
use crate::route::headers::HeaderMatcher;
use crate::route::strings::{MetadataMatcher, StringMatcher};
use crate::route::uri_template::Template;

#[derive(Debug)]
pub(super) enum Permission {
    And(Vec<Permission>),
    Or(Vec<Permission>),
    Any,
    Not(Box<Permission>),
    Header(HeaderMatcher),
    UrlPath(StringMatcher),
    UriTemplate(Template),
    DestinationIp(IpNet),
    DestinationPort(std::ops::Range<u32>),
    Metadata(MetadataMatcher),
    ServerName(StringMatcher),
}

impl Permission {
    #[allow(deprecated, reason = "istiod still sends `metadata`")]
    pub fn compile(value: &pb::Permission) -> Compiled<Self> {
        let Some(rule) = &value.rule else {
            return Err(Problems::one("rule", "is required"));
        };
        Ok(match rule {
            Rule::AndRules(set) => Self::And(rules(set).under("and_rules")?),
            Rule::OrRules(set) => Self::Or(rules(set).under("or_rules")?),
            Rule::NotRule(inner) => Self::Not(Box::new(Self::compile(inner).under("not_rule")?)),
            Rule::Any(any) => {
                refuse("any", !any, "must be true")?;
                Self::Any
            }
            Rule::Header(header) => Self::Header(HeaderMatcher::compile(header).under("header")?),
            Rule::UrlPath(url) => Self::UrlPath(path(url).under("url_path")?),
            Rule::UriTemplate(template) => {
                Self::UriTemplate(Template::of_match_policy(template).under("uri_template")?)
            }
            Rule::DestinationIp(range) => Self::DestinationIp(network(range).under("destination_ip")?),
            Rule::DestinationPort(port) => {
                refuse("destination_port", *port > 65_535, "is no port")?;
                Self::DestinationPort(*port..*port + 1)
            }
            Rule::DestinationPortRange(range) => {
                let bound = |number: i32| {
                    let valid = u32::try_from(number).ok().filter(|number| *number <= 65_536);
                    valid.ok_or_else(|| Problems::one("destination_port_range", "is no range of ports"))
                };
                Self::DestinationPort(bound(range.start)?..bound(range.end)?)
            }
            Rule::Metadata(metadata) => Self::Metadata(MetadataMatcher::compile(metadata).under("metadata")?),
            Rule::SourcedMetadata(metadata) => Self::Metadata(sourced(metadata).under("sourced_metadata")?),
            Rule::RequestedServerName(name) => {
                Self::ServerName(StringMatcher::compile(name).under("requested_server_name")?)
            }
            Rule::Matcher(_) => return Err(Problems::one("matcher", "is not supported")),
        })
    }

    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::And(rules) => rules.iter().all(|rule| rule.matches(subject)),
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(subject)),
            Self::Any => true,
            Self::Not(rule) => !rule.matches(subject),
            Self::Header(header) => subject.request.is_some_and(|view| header.matches(&view)),
            Self::UrlPath(matcher) => subject.path().is_some_and(|path| matcher.matches(path.as_bytes())),
            Self::UriTemplate(template) => subject.path().is_some_and(|path| template.matches(path)),
            Self::DestinationIp(network) => contains(network, &subject.connection.local),
            Self::DestinationPort(ports) => {
                let local = subject.connection.local.ip();
                local.is_some_and(|local| ports.contains(&u32::from(local.port())))
            }
            Self::Metadata(matcher) => matcher.matches(subject.metadata()),
            Self::ServerName(matcher) => {
                matcher.matches(subject.connection.sni.as_deref().unwrap_or_default().as_bytes())
            }
        }
    }
}

fn rules(set: &pb::permission::Set) -> Compiled<Vec<Permission>> {
    refuse("rules", set.rules.is_empty(), "needs at least one")?;
    each("rules", &set.rules, Permission::compile)
}
