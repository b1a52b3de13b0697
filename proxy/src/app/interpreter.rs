//! What a resource of the control plane means: whether it is accepted, and what it refers to.

use std::sync::Arc;

use bytes::Bytes;
use remora_xds::{Interpreter, Known, Reference, ResourceType, types};

use super::stats::RouteScopes;
use crate::admin::Notes;
use crate::config::fields::{Strictness, Warning};
use crate::config::route::{Under, clusters};
use crate::config::source::ConfigSource;
use crate::config::tls::SecretRef;
use crate::config::{BuildContext, Compiled, Problems, cluster, endpoint, fields, listener};
use crate::listener::{ListenerConfig, ListenerManager};
use crate::route::RouteTable;
use crate::telemetry::server::{RuntimeStats, ServerStats};
use crate::tls::SecretStore;

/// Checks by the field tables, then by the very functions that build.
#[derive(Clone)]
pub struct Meaning {
    pub context: Arc<BuildContext>,
    pub strictness: Strictness,
    /// `--ignore-unknown-dynamic-fields`: not a word about them.
    pub ignore_unknown: bool,
    pub routes: Arc<RouteScopes>,
    /// Names of the bootstrap's secrets: those that a transport socket may name without a source.
    pub static_secrets: Arc<[Arc<str>]>,
    pub notes: Arc<Notes>,
    pub server: Arc<ServerStats>,
    pub runtime: Arc<RuntimeStats>,
    /// Who binds; `None`: nothing is to be bound.
    pub listeners: Option<Arc<ListenerManager>>,
}

impl Interpreter for Meaning {
    fn ages(&self, type_url: &str, bytes: &Bytes) -> bool {
        type_url == types::ASSIGNMENT.url && crate::config::endpoint::age(bytes)
    }

    fn check(&self, type_url: &str, name: &str, bytes: &Bytes, known: &Known<'_>) -> Result<Vec<Reference>, String> {
        let checked = self
            .tables(type_url, name, bytes)
            .and_then(|()| self.compile(type_url, bytes, &|cluster| known(&types::CLUSTER, cluster)));
        let (references, listener) = checked.map_err(|problems| problems.to_string())?;
        if let (Some(manager), Some(listener)) = (&self.listeners, listener) {
            manager.reserve(&listener)?;
        }
        Ok(references)
    }

    fn begin(&self, type_url: &str, gone: &dyn Fn(&str) -> bool) {
        if let Some(manager) = self.listeners.as_ref().filter(|_| type_url == types::LISTENER.url) {
            manager.release(gone);
        }
    }
}

/// In Envoy's words.
pub(super) fn tell_deprecated(message: &str, warning: &Warning) {
    tracing::warn!(
        "Deprecated field: type {message} Using deprecated option '{}'. This configuration will be removed from Envoy soon.",
        warning.path
    );
}

impl Meaning {
    fn tables(&self, type_url: &str, name: &str, bytes: &Bytes) -> Compiled<()> {
        let message = remora_proto::type_url::full_name(type_url);
        for warning in fields::check(message, bytes, self.strictness)? {
            if warning.is_unknown && self.ignore_unknown {
                continue;
            }
            if warning.is_deprecated {
                self.runtime.count_deprecated();
                if self.strictness.tell_deprecated {
                    tell_deprecated(message, &warning);
                }
                continue;
            }
            tracing::warn!(kind = message, name, path = %warning.path, reason = %warning.reason, "tolerated");
            if warning.is_unsupported {
                self.server.unsupported_fields.inc();
                self.notes.tolerate(format!("{message} {name}: {warning}"));
            } else if warning.is_unknown {
                self.server.dynamic_unknown_fields.inc();
            }
        }
        Ok(())
    }

    /// What the resource refers to; of a listener also what is to be bound.
    fn compile(
        &self,
        type_url: &str,
        bytes: &Bytes,
        has_cluster: &dyn Fn(&str) -> bool,
    ) -> Compiled<(Vec<Reference>, Option<ListenerConfig>)> {
        if type_url == types::LISTENER.url {
            let listener = listener::compile(bytes, &self.context)?;
            let needs = listener::needs(bytes)?;
            clusters::all_known(&needs.clusters, has_cluster)?;
            let references = self.listener_references(&needs)?;
            return Ok((references, Some(listener)));
        }
        let mut references = Vec::new();
        if type_url == types::CLUSTER.url {
            references = self.cluster_references(&cluster::needs(bytes)?)?;
        } else if type_url == types::ASSIGNMENT.url {
            endpoint::check(bytes)?;
        } else if type_url == types::ROUTE.url {
            let table = RouteTable::parse(bytes.clone(), &self.context)?;
            clusters::all_known(&table.clusters_to_validate()?, has_cluster)?;
        } else if type_url == types::SECRET.url {
            SecretStore::check_delivered(bytes)?;
        }
        Ok((references, None))
    }

    /// What a cluster must have before it is used.
    ///
    /// # Errors
    /// A source that cannot be used.
    pub fn cluster_references(&self, needs: &cluster::ClusterNeeds) -> Compiled<Vec<Reference>> {
        let mut problems = Problems::default();
        let mut references = problems
            .keep(self.secret_references(&needs.secrets))
            .unwrap_or_default();
        if let Some((name, source)) = &needs.eds {
            let reference = self.reference(&types::ASSIGNMENT, name, source);
            references.extend(problems.keep(reference.under("eds_cluster_config.eds_config")));
        }
        problems.into_result().map(|()| references)
    }

    /// What a listener must have before it is used.
    ///
    /// # Errors
    /// A source that cannot be used.
    pub fn listener_references(&self, needs: &listener::ListenerNeeds) -> Compiled<Vec<Reference>> {
        let mut problems = Problems::default();
        let mut references = problems
            .keep(self.secret_references(&needs.secrets))
            .unwrap_or_default();
        for route in &needs.routes {
            self.routes.note(&route.stat_prefix, &route.name);
            let reference = self.reference(&types::ROUTE, &route.name, &route.source);
            references.extend(problems.keep(reference.under(&route.path)));
        }
        problems.into_result().map(|()| references)
    }

    fn secret_references(&self, secrets: &[SecretRef]) -> Compiled<Vec<Reference>> {
        let (mut references, mut problems) = (Vec::new(), Problems::default());
        for secret in secrets {
            match &secret.source {
                Some(source) => {
                    let reference = self.reference(&types::SECRET, &secret.name, source);
                    references.extend(problems.keep(reference.under(&format!("{}.sds_config", secret.path))));
                }
                None if self.static_secrets.iter().any(|name| **name == *secret.name) => {}
                None => {
                    let reason = format!("unknown static secret: {}", secret.name);
                    problems.0.extend(Problems::one(&secret.path, reason).0);
                }
            }
        }
        problems.into_result().map(|()| references)
    }

    fn reference(&self, ty: ResourceType, name: &str, source: &ConfigSource) -> Compiled<Reference> {
        if name.starts_with("xdstp:") {
            return Err(Problems::one("", format!("'{name}': xdstp:// names are not supported")));
        }
        Ok(Reference {
            source: self.context.sources.resolve(source)?,
            initial_fetch_timeout: source.initial_fetch_timeout,
            ..Reference::new(ty, name)
        })
    }
}
