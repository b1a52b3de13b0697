//! Extensions: what an `Any` holds, which of them may be passed over, and lists of which the first supported one counts.

use std::sync::OnceLock;

use super::check::{Scope, Walk};
use super::path::Path;
use super::report::FindingKind;
use crate::json::{self, ProblemKind};
use crate::schema::{self, Field, Message};
use crate::type_url::{full_name, is_typed_struct};
use crate::wire::{self, Fields, Value};

/// Policies that Envoy's API defines and Envoy passes over: only gRPC has them.
const NOT_ENVOYS: &[&str] = &[
    "envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst",
    "envoy.extensions.load_balancing_policies.random_subsetting.v3.RandomSubsetting",
];

/// Whether the message configures a policy at all: Envoy looks for one among policies only, and passes over what else is in the list.
fn is_policy(name: &str) -> bool {
    name.starts_with("envoy.extensions.load_balancing_policies.")
}

/// Messages with rules of their own.
struct Special {
    /// The `is_optional` fields of `HttpFilter` and of the per-route `FilterConfig`.
    optional: [Option<Field>; 2],
    /// `LoadBalancingPolicy.policies`.
    policies: Option<Field>,
}

fn special() -> &'static Special {
    static SPECIAL: OnceLock<Special> = OnceLock::new();
    let find = |message: &str, field: &str| schema::message(message).and_then(|found| found.field_by_name(field));
    SPECIAL.get_or_init(|| Special {
        optional: [
            find(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
                "is_optional",
            ),
            find("envoy.config.route.v3.FilterConfig", "is_optional"),
        ],
        policies: find("envoy.config.cluster.v3.LoadBalancingPolicy", "policies"),
    })
}

/// Whether the message configures an extension and says that it may be missing.
pub(super) fn is_optional(bytes: &[u8], message: Message) -> bool {
    let mark = special()
        .optional
        .iter()
        .flatten()
        .find(|mark| mark.parent() == message);
    mark.is_some_and(|mark| {
        wire::varint_field(bytes, mark.number())
            .ok()
            .flatten()
            .unwrap_or_default()
            != 0
    })
}

impl Walk<'_> {
    /// Of a `LoadBalancingPolicy`'s list Envoy takes the first policy that it knows; returns where the first one stands that we know. Those
    /// before it are told of: as refused where Envoy would have taken them. Without any, a finding says so, and the returned place matches
    /// none of them.
    pub(super) fn chosen_policy(&mut self, bytes: &[u8], message: Message, path: &Path<'_>) -> Option<usize> {
        let policies = special().policies.filter(|policies| policies.parent() == message)?;
        let ledger = self.ledger?;
        let mut names = Vec::new();
        for found in Fields::new(bytes).flatten() {
            let Value::Len(policy) = found.value else { continue };
            // Policy.typed_extension_config is number 4, TypedExtensionConfig.typed_config number 2, Any.type_url number 1.
            let extension = wire::bytes_field(policy, 4).ok().flatten().unwrap_or_default();
            let any = wire::bytes_field(extension, 2).ok().flatten().unwrap_or_default();
            let name = real_name(any);
            if is_policy(name) && schema::message(name).is_some_and(|known| ledger.lists(known)) {
                self.passed_over(&names, || path.text(policies.name()).words());
                return Some(found.range.start);
            }
            names.push(name);
        }
        if names.is_empty() {
            return None;
        }
        let reason = format!("none of the load balancing policies is supported: {}", names.join(", "));
        self.report
            .add(FindingKind::Refused, || path.text(policies.name()).words(), reason);
        Some(usize::MAX)
    }

    fn passed_over(&mut self, names: &[&str], path: impl Fn() -> String) {
        for name in names {
            let is_envoys = is_policy(name) && schema::message(name).is_some() && !NOT_ENVOYS.contains(name);
            let (kind, reason) = match is_envoys {
                true => (
                    FindingKind::Refused,
                    format!("Envoy would balance by {name}, which Remora does not have"),
                ),
                false => (
                    FindingKind::PassedOver,
                    format!("{name} is unknown, the next supported policy is taken"),
                ),
            };
            self.report.add(kind, &path, reason);
        }
    }

    pub(super) fn any(&mut self, bytes: &[u8], scope: Scope, path: &Path<'_>) {
        let (mut url, mut value) = (&[][..], &[][..]);
        for found in Fields::new(bytes) {
            match found.map(|found| (found.number, found.value)) {
                Ok((1, Value::Len(bytes))) => url = bytes,
                Ok((2, Value::Len(bytes))) => value = bytes,
                Ok((1 | 2, _)) => {
                    return self.report.add(
                        FindingKind::Malformed,
                        || path.words(),
                        "the value is not of the field's type",
                    );
                }
                Ok((number, _)) => {
                    self.report.add(
                        FindingKind::Unknown,
                        || path.words(),
                        format!("an Any has no field {number}"),
                    );
                }
                Err(error) => {
                    return self
                        .report
                        .add(FindingKind::Malformed, || path.words(), error.to_string());
                }
            }
        }
        let Ok(url) = std::str::from_utf8(url) else {
            return self
                .report
                .add(FindingKind::Malformed, || path.words(), "the type URL is not UTF-8");
        };
        if url.is_empty() && value.is_empty() {
            return;
        }
        let name = full_name(url);
        if is_typed_struct(name) {
            return self.typed_struct(value, scope, path);
        }
        match schema::message(name) {
            Some(message) => self.content(value, message, scope, path),
            None => self.unknown_type(url, scope, path),
        }
    }

    fn content(&mut self, value: &[u8], message: Message, mut scope: Scope, path: &Path<'_>) {
        if scope.held && !self.ledger.is_some_and(|ledger| ledger.lists(message)) {
            scope.held = false;
            if scope.optional {
                self.report.skipped += 1;
                return;
            }
            let reason = format!("the extension type {} is not supported by Remora", message.name());
            self.report.add(FindingKind::Refused, || path.words(), reason);
        }
        if scope.held && self.ledger.is_some_and(|ledger| ledger.forbids(message)) {
            if scope.optional {
                self.report.skipped += 1;
                return;
            }
            let reason = format!(
                "didn't find a registered implementation with type URL: '{}': it is disabled",
                message.name()
            );
            return self.report.add(FindingKind::RefusedAlways, || path.words(), reason);
        }
        // Without a ledger it is the control plane's own message that is looked at.
        if self.ledger.is_some() && RESOURCES.contains(&message.name()) {
            let reason = format!(
                "{} is a resource, not the configuration of an extension",
                message.name()
            );
            return self.report.add(FindingKind::Invalid, || path.words(), reason);
        }
        self.message(value, message, scope, path);
    }

    fn typed_struct(&mut self, value: &[u8], scope: Scope, path: &Path<'_>) {
        let options = json::Options {
            ignore_unknown: true,
            ..json::Options::default()
        };
        match json::typed_struct(value, &options) {
            Ok((name, encoded)) => {
                for problem in &encoded.ignored {
                    let place = || path.text("value").text(&problem.path).words();
                    self.report.add(FindingKind::Unknown, place, problem.reason.clone());
                }
                if let Some(message) = schema::message(name) {
                    self.content(&encoded.bytes, message, scope, &path.text("value"));
                }
            }
            Err(problems) => {
                for problem in problems.0 {
                    if problem.kind == ProblemKind::UnknownType && problem.path == "type_url" {
                        self.unknown_type(wire::name(value).unwrap_or_default(), scope, path);
                        continue;
                    }
                    self.report.add(
                        FindingKind::Invalid,
                        || path.text(&problem.path).words(),
                        problem.reason,
                    );
                }
            }
        }
    }

    fn unknown_type(&mut self, url: &str, scope: Scope, path: &Path<'_>) {
        if !scope.held {
            return;
        }
        if scope.optional {
            self.report.skipped += 1;
        } else {
            self.report.add(
                FindingKind::Refused,
                || path.words(),
                format!("unknown extension type {url:?}"),
            );
        }
    }
}

/// What control planes send; never found inside one another but where a field is of that very type.
const RESOURCES: [&str; 6] = [
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
];

/// The full name of what an encoded `Any` holds, looking into `TypedStruct`.
fn real_name(any: &[u8]) -> &str {
    let name = full_name(wire::name(any).unwrap_or_default());
    if !is_typed_struct(name) {
        return name;
    }
    let inner = wire::bytes_field(any, 2).ok().flatten().unwrap_or_default();
    full_name(wire::name(inner).unwrap_or_default())
}
