//! What a resource of the control plane means: whether it is accepted, and what it refers to.

use std::sync::Arc;

use bytes::Bytes;
use remora_xds::{Interpreter, Reference, ResourceType, types};

use super::sources::Sources;
use super::stats::RouteScopes;
use crate::admin::Notes;
use crate::cli::Unsupported;
use crate::config::source::ConfigSource;
use crate::config::tls::SecretRef;
use crate::config::{BuildContext, Compiled, cluster, endpoint, fields, listener};
use crate::route::RouteTable;
use crate::telemetry::server::ServerStats;
use crate::tls::SecretStore;

/// Checks by the field tables, then by the very functions that build.
#[derive(Clone)]
pub struct Meaning {
    pub context: Arc<BuildContext>,
    pub unsupported: Unsupported,
    pub sources: Arc<Sources>,
    pub routes: Arc<RouteScopes>,
    pub notes: Arc<Notes>,
    pub server: Arc<ServerStats>,
}

impl Interpreter for Meaning {
    fn ages(&self, type_url: &str, bytes: &Bytes) -> bool {
        type_url == types::ASSIGNMENT.url && crate::config::endpoint::age(bytes)
    }

    fn check(&self, type_url: &str, name: &str, bytes: &Bytes) -> Result<Vec<Reference>, String> {
        let checked = self
            .tables(type_url, name, bytes)
            .and_then(|()| self.compile(type_url, bytes));
        checked.map_err(|problems| problems.to_string())
    }
}

impl Meaning {
    fn tables(&self, type_url: &str, name: &str, bytes: &Bytes) -> Compiled<()> {
        let message = remora_proto::type_url::full_name(type_url);
        for warning in fields::check(message, bytes, self.unsupported)? {
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

    fn compile(&self, type_url: &str, bytes: &Bytes) -> Compiled<Vec<Reference>> {
        if type_url == types::CLUSTER.url {
            return self.cluster_references(&cluster::needs(bytes)?);
        }
        if type_url == types::ASSIGNMENT.url {
            return endpoint::check(bytes).map(|()| Vec::new());
        }
        if type_url == types::ROUTE.url {
            return RouteTable::parse(bytes.clone(), &self.context).map(|_| Vec::new());
        }
        if type_url == types::SECRET.url {
            return SecretStore::compile(bytes).map(|_| Vec::new());
        }
        if type_url == types::LISTENER.url {
            listener::compile(bytes, &self.context)?;
            return self.listener_references(&listener::needs(bytes)?);
        }
        Ok(Vec::new())
    }

    /// What a cluster must have before it is used.
    ///
    /// # Errors
    /// A source that cannot be used.
    pub fn cluster_references(&self, needs: &cluster::ClusterNeeds) -> Compiled<Vec<Reference>> {
        let mut references = self.secret_references(&needs.secrets)?;
        if let Some((name, source)) = &needs.eds {
            let reference = self.reference(&types::ASSIGNMENT, name, source);
            references.push(reference.map_err(|wrong| wrong.under("eds_cluster_config.eds_config"))?);
        }
        Ok(references)
    }

    /// What a listener must have before it is used.
    ///
    /// # Errors
    /// A source that cannot be used.
    pub fn listener_references(&self, needs: &listener::ListenerNeeds) -> Compiled<Vec<Reference>> {
        let mut references = self.secret_references(&needs.secrets)?;
        for route in &needs.routes {
            self.routes.note(&route.stat_prefix, &route.name);
            let reference = self.reference(&types::ROUTE, &route.name, &route.source);
            references.push(reference.map_err(|wrong| wrong.under("rds.config_source"))?);
        }
        Ok(references)
    }

    fn secret_references(&self, secrets: &[SecretRef]) -> Compiled<Vec<Reference>> {
        let named = secrets
            .iter()
            .filter_map(|secret| Some((&secret.name, secret.source.as_ref()?)));
        named
            .map(|(name, source)| {
                let reference = self.reference(&types::SECRET, name, source);
                reference.map_err(|wrong| wrong.under("sds_config"))
            })
            .collect()
    }

    fn reference(&self, ty: ResourceType, name: &str, source: &ConfigSource) -> Compiled<Reference> {
        Ok(Reference {
            source: self.sources.resolve(source)?,
            initial_fetch_timeout: source.initial_fetch_timeout,
            ..Reference::new(ty, name)
        })
    }
}
