//! The clusters that a route configuration names: what `validate_clusters` looks at.

use remora_proto::pb::envoy::config::route::v3 as pbr;

use super::{Compiled, Problems};

/// A cluster by name, and where it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRef {
    /// Path inside the route configuration, or wherever that lies.
    pub path: String,
    pub name: String,
    /// What Envoy calls a cluster named there: `cluster`, `weighted cluster`, `shadow cluster`.
    role: &'static str,
}

impl ClusterRef {
    pub fn under(self, prefix: &str) -> Self {
        let path = format!("{prefix}.{}", self.path);
        Self { path, ..self }
    }
}

/// Every mention of a cluster by name.
pub fn named(config: &pbr::RouteConfiguration) -> Vec<ClusterRef> {
    let mut found = Vec::new();
    mirrors(&config.request_mirror_policies, "", &mut found);
    for (host_at, host) in config.virtual_hosts.iter().enumerate() {
        let path = format!("virtual_hosts[{host_at}].");
        mirrors(&host.request_mirror_policies, &path, &mut found);
        for (route_at, route) in host.routes.iter().enumerate() {
            if let Some(pbr::route::Action::Route(action)) = &route.action {
                of_action(action, &format!("{path}routes[{route_at}].route."), &mut found);
            }
        }
    }
    found
}

/// # Errors
/// Each that `is_known` denies, in Envoy's words.
pub fn all_known(named: &[ClusterRef], is_known: impl Fn(&str) -> bool) -> Compiled<()> {
    let unknown = named.iter().filter(|cluster| !is_known(&cluster.name));
    let problems = unknown
        .flat_map(|ClusterRef { path, name, role }| Problems::one(path, format!("route: unknown {role} '{name}'")).0);
    Problems(problems.collect()).into_result()
}

fn of_action(action: &pbr::RouteAction, path: &str, found: &mut Vec<ClusterRef>) {
    use pbr::route_action::ClusterSpecifier;
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => found.push(ClusterRef {
            path: format!("{path}cluster"),
            name: name.clone(),
            role: "cluster",
        }),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let named = weighted.clusters.iter().enumerate();
            found.extend(
                named
                    .filter(|(_, cluster)| !cluster.name.is_empty())
                    .map(|(at, cluster)| ClusterRef {
                        path: format!("{path}weighted_clusters.clusters[{at}].name"),
                        name: cluster.name.clone(),
                        role: "weighted cluster",
                    }),
            );
        }
        _ => {}
    }
    mirrors(&action.request_mirror_policies, path, found);
}

fn mirrors(policies: &[pbr::route_action::RequestMirrorPolicy], path: &str, found: &mut Vec<ClusterRef>) {
    let named = policies
        .iter()
        .enumerate()
        .filter(|(_, policy)| !policy.cluster.is_empty());
    found.extend(named.map(|(at, policy)| ClusterRef {
        path: format!("{path}request_mirror_policies[{at}].cluster"),
        name: policy.cluster.clone(),
        role: "shadow cluster",
    }));
}
