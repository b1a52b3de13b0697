//! What a resource of the control plane means: whether it is accepted, and what it refers to.

use std::sync::Arc;

use bytes::Bytes;
use remora_xds::{Interpreter, Reference, Source, types};

use crate::cli::Unsupported;
use crate::config::tls::{SecretRef, Source as ConfigSource};
use crate::config::{BuildContext, Compiled, Problems, cluster, endpoint, fields, listener};
use crate::route::RouteTable;
use crate::tls::SecretStore;

/// Checks by the field tables, then by the very functions that build.
pub struct Meaning {
    pub context: Arc<BuildContext>,
    pub unsupported: Unsupported,
}

impl Interpreter for Meaning {
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
        }
        Ok(())
    }

    fn compile(&self, type_url: &str, bytes: &Bytes) -> Compiled<Vec<Reference>> {
        if type_url == types::CLUSTER.url {
            return cluster_references(&cluster::needs(bytes)?);
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
            return listener_references(&listener::needs(bytes)?);
        }
        Ok(Vec::new())
    }
}

/// What a cluster must have before it is used.
pub fn cluster_references(needs: &cluster::ClusterNeeds) -> Compiled<Vec<Reference>> {
    let mut references = secret_references(&needs.secrets);
    if let Some((name, source)) = &needs.eds {
        let source =
            source_of(source).ok_or_else(|| Problems::one("eds_cluster_config.eds_config", "has no source"))?;
        references.push(Reference {
            source,
            ..Reference::new(&types::ASSIGNMENT, name.as_str())
        });
    }
    Ok(references)
}

/// What a listener must have before it is used.
pub fn listener_references(needs: &listener::ListenerNeeds) -> Compiled<Vec<Reference>> {
    let mut references = secret_references(&needs.secrets);
    for route in &needs.routes {
        let source = source_of(&route.source).ok_or_else(|| Problems::one("rds.config_source", "has no source"))?;
        references.push(Reference {
            source,
            ..Reference::new(&types::ROUTE, route.name.as_str())
        });
    }
    Ok(references)
}

fn secret_references(secrets: &[SecretRef]) -> Vec<Reference> {
    let reference = |secret: &SecretRef| {
        let source = source_of(&secret.source)?;
        Some(Reference {
            source,
            ..Reference::new(&types::SECRET, secret.name.as_str())
        })
    };
    secrets.iter().filter_map(reference).collect()
}

/// `None`: the bootstrap has it.
fn source_of(source: &ConfigSource) -> Option<Source> {
    match source {
        ConfigSource::Ads => Some(Source::Ads),
        ConfigSource::Grpc { cluster } => Some(Source::Named(Arc::from(cluster.as_str()))),
        ConfigSource::Path {
            path,
            watched_directory,
        } => Some(Source::Path(remora_xds::PathSource {
            path: Arc::from(path.as_str()),
            watched_directory: watched_directory.as_deref().map(Arc::from),
        })),
        ConfigSource::Static => None,
    }
}
