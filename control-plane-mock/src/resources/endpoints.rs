//! Endpoint assignments.

use remora_proto::pb::envoy::config::core::v3::{HealthStatus, Locality};
use remora_proto::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use remora_proto::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};

use super::{builder, number, socket_address};

builder! {
    /// An endpoint assignment; see [`endpoints`] and [`endpoints_of`].
    EndpointsBuilder => ClusterLoadAssignment
}

/// One endpoint; see [`endpoint`].
#[derive(Clone, Debug)]
pub struct EndpointBuilder {
    message: LbEndpoint,
}

/// An assignment with these hosts in one locality without a name, at priority 0.
pub fn endpoints<'a>(cluster: &str, hosts: impl IntoIterator<Item = (&'a str, u16)>) -> EndpointsBuilder {
    endpoints_of(cluster).locality(0, "", hosts.into_iter().map(|(address, port)| endpoint(address, port)))
}

/// An assignment without hosts, to add localities to.
pub fn endpoints_of(cluster: &str) -> EndpointsBuilder {
    EndpointsBuilder {
        message: ClusterLoadAssignment {
            cluster_name: cluster.to_owned(),
            ..ClusterLoadAssignment::default()
        },
    }
}

/// A host.
pub fn endpoint(address: &str, port: u16) -> EndpointBuilder {
    EndpointBuilder {
        message: LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                address: Some(socket_address(address, port)),
                ..Endpoint::default()
            })),
            ..LbEndpoint::default()
        },
    }
}

impl EndpointsBuilder {
    /// Adds a locality, written `region/zone/sub_zone` (parts at the end may be missing), at a priority (0 is the highest).
    pub fn locality(self, priority: u32, place: &str, hosts: impl IntoIterator<Item = EndpointBuilder>) -> Self {
        let mut parts = place.splitn(3, '/').map(str::to_owned);
        let locality = (!place.is_empty()).then(|| Locality {
            region: parts.next().unwrap_or_default(),
            zone: parts.next().unwrap_or_default(),
            sub_zone: parts.next().unwrap_or_default(),
        });
        self.edit(|assignment| {
            assignment.endpoints.push(LocalityLbEndpoints {
                locality,
                priority,
                lb_endpoints: hosts.into_iter().map(|host| host.message).collect(),
                ..LocalityLbEndpoints::default()
            });
        })
    }

    /// Weight of the locality added last.
    pub fn locality_weight(self, weight: u32) -> Self {
        self.edit(|assignment| {
            if let Some(locality) = assignment.endpoints.last_mut() {
                locality.load_balancing_weight = number(weight);
            }
        })
    }
}

impl EndpointBuilder {
    /// Load balancing weight, at least 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.message.load_balancing_weight = number(weight);
        self
    }

    /// Health as the control plane sees it.
    pub fn health(mut self, health: HealthStatus) -> Self {
        self.message.health_status = health.into();
        self
    }

    /// The message as it stands.
    pub fn build(self) -> LbEndpoint {
        self.message
    }
}

impl From<EndpointsBuilder> for ClusterLoadAssignment {
    fn from(builder: EndpointsBuilder) -> Self {
        builder.message
    }
}
