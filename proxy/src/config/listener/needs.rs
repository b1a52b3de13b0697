//! What a listener waits for before it can serve: route tables and secrets.

use prost::Message;
use remora_proto::pb::envoy::config::listener::v3::FilterChain;
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};

use super::chains::{HCM, typed_config};
use super::{Compiled, Problems, decode};
use crate::config::route::Under;
use crate::config::route::clusters::{self, ClusterRef};
use crate::config::source::ConfigSource;
use crate::config::tls::{SecretRef, secret_refs};

/// The resources that a listener names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenerNeeds {
    pub name: String,
    pub routes: Vec<RouteRef>,
    pub secrets: Vec<SecretRef>,
    /// What inline route configurations name and validate (`validate_clusters`, on by default).
    pub clusters: Vec<ClusterRef>,
}

/// A route configuration by name.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRef {
    pub name: String,
    pub source: ConfigSource,
    /// Of the connection manager that names it.
    pub stat_prefix: String,
    /// Where in the listener its source stands.
    pub path: String,
}

impl RouteRef {
    fn is_same(&self, other: &Self) -> bool {
        (&self.name, &self.source, &self.stat_prefix) == (&other.name, &other.source, &other.stat_prefix)
    }
}

/// Reads an encoded `Listener` for what it names, without compiling it. Each resource once.
///
/// # Errors
/// Bytes that do not decode, or a source that does not exist here.
pub fn needs(bytes: &[u8]) -> Compiled<ListenerNeeds> {
    let config = decode(bytes)?;
    let mut needs = ListenerNeeds {
        name: config.name.clone(),
        ..ListenerNeeds::default()
    };
    let mut problems = Problems::default();
    for (index, chain) in config.filter_chains.iter().enumerate() {
        let path = format!("filter_chains[{index}]");
        problems.keep(needs.add(chain, &path).under(&path));
    }
    if let Some(chain) = &config.default_filter_chain {
        let path = "default_filter_chain";
        problems.keep(needs.add(chain, path).under(path));
    }
    problems.into_result()?;
    needs
        .routes
        .sort_by(|a, b| (&a.name, &a.stat_prefix).cmp(&(&b.name, &b.stat_prefix)));
    needs.routes.dedup_by(|a, b| a.is_same(b));
    needs.secrets.sort_by(|a, b| a.name.cmp(&b.name));
    needs.secrets.dedup_by(|a, b| a.is_same(b));
    Ok(needs)
}

impl ListenerNeeds {
    fn add(&mut self, chain: &FilterChain, chain_path: &str) -> Compiled<()> {
        let mut problems = Problems::default();
        if let Some(socket) = &chain.transport_socket {
            let named = problems.keep(secret_refs(socket).under("transport_socket"));
            self.secrets.extend(named.into_iter().flatten().map(|secret| SecretRef {
                path: format!("{chain_path}.{}", secret.path),
                ..secret
            }));
        }
        for (index, filter) in chain.filters.iter().enumerate() {
            let Ok(any) = typed_config(filter) else { continue };
            if any.type_url != HCM {
                continue;
            }
            let path = format!("filters[{index}].typed_config");
            let manager = HttpConnectionManager::decode(any.value.as_slice())
                .map_err(|error| Problems::one(path.clone(), error.to_string()));
            problems.keep(manager.and_then(|manager| self.add_routes(&manager, chain_path, &path)));
        }
        problems.into_result()
    }

    fn add_routes(&mut self, manager: &HttpConnectionManager, chain_path: &str, path: &str) -> Compiled<()> {
        match &manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => {
                let path = format!("{path}.rds.config_source");
                let Some(source) = &rds.config_source else {
                    return Err(Problems::one(path, "required"));
                };
                self.routes.push(RouteRef {
                    name: rds.route_config_name.clone(),
                    source: ConfigSource::compile(source).under(&path)?,
                    stat_prefix: manager.stat_prefix.clone(),
                    path: format!("{chain_path}.{path}"),
                });
            }
            Some(RouteSpecifier::RouteConfig(config)) if config.validate_clusters.is_none_or(|flag| flag.value) => {
                let path = format!("{chain_path}.{path}.route_config");
                self.clusters
                    .extend(clusters::named(config).into_iter().map(|named| named.under(&path)));
            }
            _ => {}
        }
        Ok(())
    }
}
