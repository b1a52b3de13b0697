//! The engine of role-based access control, for HTTP and for plain connections.
//!
//! In: `envoy.config.rbac.v3.RBAC`, or a match tree. Out: a [`Decider`] that decides about a [`Subject`]. What the engine cannot evaluate does not compile: a rule
//! that is left out would let somebody in.

mod matcher;
mod permission;
mod principal;

use ipnet::IpNet;
use remora_proto::pb::envoy::config::core::v3::CidrRange;
use remora_proto::pb::envoy::config::rbac::v3 as pb;
use remora_proto::pb::envoy::config::rbac::v3::rbac::Action;
use remora_proto::pb::envoy::r#type::matcher::v3::{PathMatcher, path_matcher};
use remora_proto::pb::xds::r#type::matcher::v3::Matcher;

use crate::config::route::{Under, each, each_entry, optional, refuse, refuse_all};
use crate::config::{Compiled, Problems, gather};
use crate::http::exchange::{DynamicMetadata, Exchange};
use crate::listener::ConnectionInfo;
use crate::route::RequestView;
use crate::route::strings::{MetadataMatcher, StringMatcher};
use crate::runtime::io::Address;
pub use matcher::Of;
use matcher::Tree;
use permission::Permission;
use principal::Principal;

/// Who wants what.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub connection: &'a ConnectionInfo,
    /// After XFF processing, if there is a request.
    pub remote: &'a Address,
    /// `None`: a connection without HTTP; whatever asks for a header then finds none.
    pub request: Option<RequestView<'a>>,
}

impl<'a> Subject<'a> {
    pub fn of(exchange: &'a Exchange) -> Self {
        Self {
            connection: &exchange.connection,
            remote: exchange.remote_address(),
            request: Some(RequestView::of(exchange)),
        }
    }

    pub fn of_connection(connection: &'a ConnectionInfo) -> Self {
        Self {
            connection,
            remote: &connection.remote,
            request: None,
        }
    }

    fn path(&self) -> Option<&'a str> {
        self.request?.path()
    }

    fn metadata(&self) -> Option<&'a DynamicMetadata> {
        self.extensions().get::<DynamicMetadata>()
    }

    /// What filters keep: the stream's, else the connection's.
    fn extensions(&self) -> &'a http::Extensions {
        self.request
            .map_or(&self.connection.extensions, |request| request.extensions)
    }
}

/// What an engine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'a str>,
    /// Where something can ask the access log to log: whether it is asked (`access_log_hint`).
    pub log: Option<bool>,
}

/// What decides: a set of rules, or a match tree.
#[derive(Debug)]
pub enum Decider {
    Rules(Engine),
    Tree(Tree),
}

impl Decider {
    /// From two fields, each by its name and value: where there is a tree, rules count for nothing, as in Envoy.
    ///
    /// # Errors
    /// Whatever is wrong or cannot be evaluated, by path.
    pub fn compile(
        (rules_field, rules): (&str, Option<&pb::Rbac>),
        (tree_field, tree): (&str, Option<&Matcher>),
        of: Of,
    ) -> Compiled<Option<Self>> {
        let rules = optional(rules_field, rules, Engine::compile)?;
        let tree = optional(tree_field, tree, |tree| Tree::compile(tree, of))?;
        Ok(tree.map(Self::Tree).or(rules.map(Self::Rules)))
    }

    pub fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        match self {
            Self::Rules(engine) => engine.decide(subject),
            Self::Tree(tree) => tree.decide(subject),
        }
    }
}

/// A compiled set of rules.
#[derive(Debug)]
pub struct Engine {
    action: Action,
    /// By name, the order in which they are asked.
    policies: Vec<Policy>,
}

#[derive(Debug)]
struct Policy {
    name: Box<str>,
    permissions: Vec<Permission>,
    principals: Vec<Principal>,
}

impl Engine {
    /// # Errors
    /// Whatever is wrong or cannot be evaluated, by path.
    pub fn compile(value: &pb::Rbac) -> Compiled<Self> {
        let audits = value.audit_logging_options.as_ref();
        let audits = audits.is_some_and(|options| !options.logger_configs.is_empty());
        gather! {
            let action = Action::try_from(value.action).map_err(|_| Problems::one("action", "unknown value"));
            let _audits = refuse("audit_logging_options.logger_configs", audits, "audit loggers are not supported");
            let policies = each_entry("policies", &value.policies, Policy::compile);
        }
        let mut policies = policies;
        policies.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Self { action, policies })
    }

    pub fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        let matched = self.policies.iter().find(|policy| policy.matches(subject));
        let policy = matched.map(|policy| &*policy.name);
        match self.action {
            Action::Allow => Decision {
                allowed: policy.is_some(),
                policy,
                log: None,
            },
            Action::Deny => Decision {
                allowed: policy.is_none(),
                policy,
                log: None,
            },
            Action::Log => Decision {
                allowed: true,
                policy,
                log: Some(policy.is_some()),
            },
        }
    }
}

impl Decision<'_> {
    /// `%RESPONSE_CODE_DETAILS%` or `%CONNECTION_TERMINATION_DETAILS%` of a denial; blanks would break the columns of a log.
    pub fn denial_details(&self) -> String {
        let policy = self.policy.unwrap_or("none").replace(char::is_whitespace, "_");
        format!("rbac_access_denied_matched_policy[{policy}]")
    }

    /// As dynamic metadata says it.
    pub fn as_str(&self) -> &'static str {
        if self.allowed { "allowed" } else { "denied" }
    }
}

impl Policy {
    fn compile(name: &str, value: &pb::Policy) -> Compiled<Self> {
        const CEL: &str = "CEL conditions are not supported";
        gather! {
            let _supported = refuse_all(&[
                ("condition", value.condition.is_some(), CEL),
                ("checked_condition", value.checked_condition.is_some(), CEL),
                ("cel_config", value.cel_config.is_some(), CEL),
                ("permissions", value.permissions.is_empty(), "needs at least one"),
                ("principals", value.principals.is_empty(), "needs at least one"),
            ]);
            let permissions = each("permissions", &value.permissions, Permission::compile);
            let principals = each("principals", &value.principals, Principal::compile);
        }
        Ok(Self {
            name: name.into(),
            permissions,
            principals,
        })
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.permissions.iter().any(|permission| permission.matches(subject))
            && self.principals.iter().any(|principal| principal.matches(subject))
    }
}

/// The keys under which a set of rules tells what it says, in dynamic metadata.
pub(super) struct Told {
    kind: &'static str,
    policy: String,
    result: String,
}

impl Told {
    /// `kind`: `shadow` or `enforced`.
    pub fn new(prefix: &str, kind: &'static str) -> Self {
        Self {
            kind,
            policy: format!("{prefix}{kind}_effective_policy_id"),
            result: format!("{prefix}{kind}_engine_result"),
        }
    }

    pub fn tell(&self, extensions: &mut http::Extensions, namespace: &str, decision: &Decision<'_>) {
        let metadata = extensions.get_or_insert_default::<DynamicMetadata>();
        if let Some(policy) = decision.policy {
            metadata.set_text(namespace, self.policy.clone(), policy);
        }
        metadata.set_text(namespace, self.result.clone(), decision.as_str());
        note(self.kind, decision);
    }
}

/// Tells the logger of the rules what was decided, in Envoy's words.
pub(super) fn note(kind: &str, decision: &Decision<'_>) {
    let policy = decision.policy.unwrap_or("none");
    tracing::debug!(target: "rbac", "{kind} {}, matched policy {policy}", decision.as_str());
}

/// What a LOG action asks of the access log's filters.
pub(super) fn hint(extensions: &mut http::Extensions, log: bool) {
    use remora_proto::pb::google::protobuf::{Value, value::Kind};
    let metadata = extensions.get_or_insert_default::<DynamicMetadata>();
    let value = Value {
        kind: Some(Kind::BoolValue(log)),
    };
    let fields = &mut metadata.fields_mut("envoy.common").fields;
    fields.insert("access_log_hint".to_owned(), value);
}

/// A counter's name behind a configured prefix, which Envoy ends with a dot unless it has one.
pub(super) fn stat_name(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.to_owned(),
        prefix => format!("{}.{name}", prefix.strip_suffix('.').unwrap_or(prefix)),
    }
}

fn network(value: &CidrRange) -> Compiled<IpNet> {
    let address = value
        .address_prefix
        .parse::<std::net::IpAddr>()
        .map_err(|_| Problems::one("address_prefix", "is not an IP address"))?;
    let length = value.prefix_len.as_ref().map_or(0, |length| length.value);
    crate::config::listener::network(address, length).ok_or_else(|| Problems::one("prefix_len", "is out of range"))
}

fn contains(network: &IpNet, address: &Address) -> bool {
    address.ip().is_some_and(|address| network.contains(&address.ip()))
}

fn path(value: &PathMatcher) -> Compiled<StringMatcher> {
    match &value.rule {
        Some(path_matcher::Rule::Path(path)) => StringMatcher::compile(path).under("path"),
        None => Err(Problems::one("path", "is required")),
    }
}

fn sourced(value: &pb::SourcedMetadata) -> Compiled<MetadataMatcher> {
    refuse(
        "metadata_source",
        value.metadata_source != pb::MetadataSource::Dynamic as i32,
        "only dynamic metadata is supported",
    )?;
    match &value.metadata_matcher {
        Some(matcher) => MetadataMatcher::compile(matcher).under("metadata_matcher"),
        None => Err(Problems::one("metadata_matcher", "is required")),
    }
}

#[cfg(test)]
mod tests;
