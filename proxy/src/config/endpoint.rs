//! `envoy.config.endpoint.v3.ClusterLoadAssignment` → hosts by priority.
//!
//! An endpoint becomes a [`Template`], and a template with an address a host: at once where the address is one, after
//! each answer where it is a DNS name.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::endpoint::v3 as pb;

use super::route::{Fraction, Under, duration, each, optional, refuse, refuse_all};
use super::{Compiled, Problems, gather};
use crate::cluster::host::{Health, HealthCheckTarget, Host, Locality};
use crate::cluster::priority::{AssignmentPolicy, OVERPROVISIONING_FACTOR};
use crate::runtime::io::{Address, Internal};
use crate::tls::{UpstreamSocket, UpstreamTransport};

/// What an assignment says: its hosts, in order, without their state.
#[derive(Default)]
pub struct Endpoints {
    pub hosts: Vec<Endpoint>,
    pub policy: AssignmentPolicy,
}

/// One host and the health that the control plane gives it.
pub struct Endpoint {
    pub host: Host,
    pub health: Health,
    pub draining: bool,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Address(Address),
    /// A DNS name and a port.
    Name(String, u16),
}

/// An endpoint before its address is known.
#[derive(Clone)]
pub struct Template {
    pub location: Location,
    pub additional: Vec<Address>,
    pub hostname: Arc<str>,
    pub weight: u32,
    pub priority: u32,
    pub locality: Arc<Locality>,
    pub metadata: Option<Arc<core::Metadata>>,
    pub socket: UpstreamSocket,
    pub health_check: Option<Arc<HealthCheckTarget>>,
    pub health: Health,
    pub draining: bool,
}

impl Template {
    /// Where names are resolved, a host without a name of its own is called by what stands in the configuration, be it an address.
    pub fn call_by_address(&mut self) {
        if let (true, Location::Address(Address::Ip(address))) = (self.hostname.is_empty(), &self.location) {
            self.hostname = Arc::from(address.ip().to_string());
        }
    }

    /// The host of a name that resolves to these addresses: at the first, the others in reserve. `None` for none.
    pub fn at_first(&self, addresses: &[Address]) -> Option<Endpoint> {
        let (first, others) = addresses.split_first()?;
        let mut endpoint = self.at(first.clone());
        if !others.is_empty() {
            endpoint.host.additional_addresses = others.into();
        }
        Some(endpoint)
    }

    /// The host at `address`.
    pub fn at(&self, address: Address) -> Endpoint {
        let mut host = Host::new(address);
        host.additional_addresses = self.additional.clone().into_boxed_slice();
        host.hostname = self.hostname.clone();
        host.weight = self.weight;
        host.priority = self.priority;
        host.locality = self.locality.clone();
        host.metadata = self.metadata.clone();
        host.use_socket(self.socket.clone());
        host.health_check = self.health_check.clone();
        Endpoint {
            host,
            health: self.health,
            draining: self.draining,
        }
    }
}

/// Whether an encoded assignment can be used.
///
/// # Errors
/// What cannot, by path.
pub fn check(bytes: &[u8]) -> Compiled<()> {
    compile(&decode(bytes)?, &UpstreamTransport::default()).map(|_| ())
}

/// Whether the endpoints may be used for some time only (`endpoint_stale_after`): then it matters that they are sent again as they are.
pub fn age(bytes: &[u8]) -> bool {
    let policy = decode(bytes).ok().and_then(|assignment| assignment.policy);
    policy.is_some_and(|policy| policy.endpoint_stale_after.is_some())
}

/// # Errors
/// The bytes are no such message.
pub fn decode(bytes: &[u8]) -> Compiled<pb::ClusterLoadAssignment> {
    pb::ClusterLoadAssignment::decode(bytes).map_err(|error| Problems::one("", error.to_string()))
}

/// Endpoints that all have addresses.
///
/// # Errors
/// What is wrong or not supported, by path.
pub fn compile(assignment: &pb::ClusterLoadAssignment, transport: &UpstreamTransport) -> Compiled<Endpoints> {
    let (templates, policy) = templates(assignment, transport)?;
    let mut problems = Problems::default();
    let mut hosts = Vec::with_capacity(templates.len());
    for (at, template) in templates.iter().enumerate() {
        match &template.location {
            Location::Address(address) => hosts.push(template.at(address.clone())),
            Location::Name(name, _) => {
                let path = format!("{}.endpoint.address.socket_address.address", place(assignment, at));
                problems
                    .0
                    .extend(Problems::one(path, format!("malformed IP address: {name}")).0);
            }
        }
    }
    problems.into_result().map(|()| Endpoints { hosts, policy })
}

/// The path of the endpoint that comes at this place when all localities are laid in a row.
#[allow(deprecated)]
fn place(assignment: &pb::ClusterLoadAssignment, mut at: usize) -> String {
    use pb::locality_lb_endpoints::LbConfig;
    for (index, group) in assignment.endpoints.iter().enumerate() {
        let (field, endpoints) = match &group.lb_config {
            Some(LbConfig::LoadBalancerEndpoints(list)) => ("load_balancer_endpoints.lb_endpoints", &list.lb_endpoints),
            _ => ("lb_endpoints", &group.lb_endpoints),
        };
        if at < endpoints.len() {
            return format!("endpoints[{index}].{field}[{at}]");
        }
        at -= endpoints.len();
    }
    "endpoints".to_owned()
}

/// Every endpoint, whether it has an address or a name.
///
/// # Errors
/// What is wrong or not supported, by path.
pub fn templates(
    assignment: &pb::ClusterLoadAssignment,
    transport: &UpstreamTransport,
) -> Compiled<(Vec<Template>, AssignmentPolicy)> {
    let has_named = !assignment.named_endpoints.is_empty();
    gather! {
        let policy = policy(assignment.policy.as_ref()).under("policy");
        let _inline = refuse("named_endpoints", has_named, "not supported");
        let groups = each("endpoints", &assignment.endpoints, |group| locality(group, transport));
    }
    check_sums(assignment, &groups)?;
    let mut policy = policy;
    let mut all = Vec::new();
    for (group, templates) in assignment.endpoints.iter().zip(groups) {
        let weight = group.load_balancing_weight.as_ref().map_or(0, |weight| weight.value);
        if let Some(first) = templates.first() {
            policy
                .locality_weights
                .insert((group.priority, first.locality.clone()), weight);
        }
        all.extend(templates);
    }
    Ok((all, policy))
}

/// Weights add up within 32 bits: those of the endpoints of one locality, and those of the localities of one priority.
fn check_sums(assignment: &pb::ClusterLoadAssignment, groups: &[Vec<Template>]) -> Compiled<()> {
    const LIMIT: u64 = u32::MAX as u64;
    let mut localities: BTreeMap<u32, u64> = BTreeMap::new();
    let mut hosts: HashMap<(u32, Option<&Locality>), u64> = HashMap::new();
    let mut problems = Problems::default();
    for (index, (group, templates)) in assignment.endpoints.iter().zip(groups).enumerate() {
        let weight = group.load_balancing_weight.as_ref().map_or(0, |weight| weight.value);
        let locality = localities.entry(group.priority).or_default();
        *locality += u64::from(weight);
        let name = templates.first().map(|template| &*template.locality);
        let host = hosts.entry((group.priority, name)).or_default();
        *host += templates.iter().map(|template| u64::from(template.weight)).sum::<u64>();
        for (field, sum) in [("load_balancing_weight", *locality), ("lb_endpoints", *host)] {
            if sum > LIMIT {
                let path = format!("endpoints[{index}].{field}");
                problems
                    .0
                    .extend(Problems::one(path, format!("weights add up to more than {LIMIT}")).0);
            }
        }
    }
    problems.into_result()
}

fn policy(policy: Option<&pb::cluster_load_assignment::Policy>) -> Compiled<AssignmentPolicy> {
    let Some(policy) = policy else {
        return Ok(AssignmentPolicy::default());
    };
    let factor = policy
        .overprovisioning_factor
        .as_ref()
        .map_or(OVERPROVISIONING_FACTOR, |factor| factor.value);
    gather! {
        let _one = refuse("drop_overloads", policy.drop_overloads.len() > 1, "at most one is supported");
        let drop_overload = each("drop_overloads", &policy.drop_overloads, |entry| {
            let percent = entry.drop_percentage.unwrap_or_default();
            let share = Fraction::compile(&percent).under("drop_percentage")?;
            refuse("drop_percentage", share.numerator > share.denominator, "is more than all")?;
            Ok(share)
        });
        let stale_after = duration("endpoint_stale_after", policy.endpoint_stale_after.as_ref());
        let _factor = refuse("overprovisioning_factor", factor == 0, "must be greater than 0");
    }
    let is_zero = stale_after.is_some_and(|time| time.is_zero());
    refuse("endpoint_stale_after", is_zero, "must be greater than 0")?;
    Ok(AssignmentPolicy {
        overprovisioning_factor: factor,
        weighted_priority_health: policy.weighted_priority_health,
        drop_overload: drop_overload.first().copied().filter(|share| share.numerator > 0),
        stale_after,
        ..AssignmentPolicy::default()
    })
}

#[allow(deprecated)]
fn locality(group: &pb::LocalityLbEndpoints, transport: &UpstreamTransport) -> Compiled<Vec<Template>> {
    use pb::locality_lb_endpoints::LbConfig;
    let is_leds = matches!(group.lb_config, Some(LbConfig::LedsClusterLocalityConfig(_)));
    let is_zero = group
        .load_balancing_weight
        .as_ref()
        .is_some_and(|weight| weight.value == 0);
    let refused = refuse_all(&[
        ("leds_cluster_locality_config", is_leds, "not supported"),
        ("priority", group.priority > 128, "must be at most 128"),
        ("load_balancing_weight", is_zero, "must be at least 1"),
    ]);
    let name = group.locality.clone().unwrap_or_default();
    let name = Arc::new(Locality {
        region: name.region,
        zone: name.zone,
        sub_zone: name.sub_zone,
    });
    let endpoint = |endpoint: &pb::LbEndpoint| endpoint_template(endpoint, group, &name, transport);
    gather! {
        let _group = refused;
        let templates = match &group.lb_config {
            Some(LbConfig::LoadBalancerEndpoints(list)) => {
                each("load_balancer_endpoints.lb_endpoints", &list.lb_endpoints, endpoint)
            }
            _ => each("lb_endpoints", &group.lb_endpoints, endpoint),
        };
    }
    Ok(templates)
}

fn endpoint_template(
    value: &pb::LbEndpoint,
    group: &pb::LocalityLbEndpoints,
    locality: &Arc<Locality>,
    transport: &UpstreamTransport,
) -> Compiled<Template> {
    use pb::lb_endpoint::HostIdentifier;
    let endpoint = match &value.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => return Err(Problems::one("endpoint_name", "not supported")),
        None => return Err(Problems::one("endpoint", "required")),
    };
    let weight = value.load_balancing_weight.as_ref().map_or(1, |weight| weight.value);
    let check = endpoint.health_check_config.as_ref();
    gather! {
        let _weight = refuse("load_balancing_weight", weight == 0, "must be at least 1");
        let health = health(value.health_status).under("health_status");
        let location = location(endpoint.address.as_ref()).under("endpoint.address");
        let additional = each("endpoint.additional_addresses", &endpoint.additional_addresses, |additional| {
            ip_or_pipe(additional.address.as_ref()).under("address")
        });
        let health_check = optional("endpoint.health_check_config", check, health_check_target);
    }
    let (health, draining) = health;
    let hostname = match (&location, endpoint.hostname.as_str()) {
        // A host found by name is called by it.
        (Location::Name(name, _), "") => name.clone(),
        (_, hostname) => hostname.to_owned(),
    };
    Ok(Template {
        location,
        additional,
        hostname: Arc::from(hostname),
        weight,
        priority: group.priority,
        locality: locality.clone(),
        metadata: value.metadata.clone().map(Arc::new),
        socket: transport_for(transport, value.metadata.as_ref(), group.metadata.as_ref()),
        health_check: health_check.map(Arc::new),
        health,
        draining,
    })
}

/// What the control plane says of an endpoint, and whether it drains.
fn health(status: i32) -> Compiled<(Health, bool)> {
    match core::HealthStatus::try_from(status) {
        Ok(core::HealthStatus::Unknown | core::HealthStatus::Healthy) => Ok((Health::Healthy, false)),
        Ok(core::HealthStatus::Degraded) => Ok((Health::Degraded, false)),
        Ok(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) => Ok((Health::Unhealthy, false)),
        Ok(core::HealthStatus::Draining) => Ok((Health::Unhealthy, true)),
        Err(_) => Err(Problems::one("", "unknown value")),
    }
}

/// An address that needs no resolving.
fn ip_or_pipe(address: Option<&core::Address>) -> Compiled<Address> {
    match location(address)? {
        Location::Address(address) => Ok(address),
        Location::Name(name, _) => Err(Problems::one("", format!("malformed IP address: {name}"))),
    }
}

fn health_check_target(config: &pb::endpoint::HealthCheckConfig) -> Compiled<HealthCheckTarget> {
    gather! {
        let address = optional("address", config.address.as_ref(), |address| ip_or_pipe(Some(address)));
        let port = port(config.port_value).under("port_value");
    }
    Ok(HealthCheckTarget {
        address,
        port,
        hostname: config.hostname.clone(),
        disabled: config.disable_active_health_check,
    })
}

/// The transport socket of an endpoint: the first match that its metadata, else its locality's, fits; else the default.
pub fn transport_for(
    transport: &UpstreamTransport,
    endpoint: Option<&core::Metadata>,
    locality: Option<&core::Metadata>,
) -> UpstreamSocket {
    const NAMESPACE: &str = "envoy.transport_socket_match";
    let labels = [endpoint, locality]
        .into_iter()
        .flatten()
        .find_map(|metadata| metadata.filter_metadata.get(NAMESPACE));
    let fits = |entry: &&crate::tls::TransportMatch| {
        let has = |(key, value): &(String, _)| labels.is_some_and(|labels| labels.fields.get(key) == Some(value));
        entry.labels.iter().all(has)
    };
    match transport.matches.iter().find(fits) {
        Some(entry) => entry.socket.clone(),
        None => transport.default.clone(),
    }
}

/// An address of an endpoint, or of anything that may be named instead.
///
/// # Errors
/// What is wrong or not supported, by path.
pub fn location(address: Option<&core::Address>) -> Compiled<Location> {
    use core::address::Address as Kind;
    match address.and_then(|address| address.address.as_ref()) {
        Some(Kind::SocketAddress(socket)) => socket_location(socket).under("socket_address"),
        Some(Kind::Pipe(pipe)) => Ok(Location::Address(Address::Pipe(Arc::from(pipe.path.as_str())))),
        Some(Kind::EnvoyInternalAddress(internal)) => internal_location(internal).under("envoy_internal_address"),
        None => Err(Problems::one("", "an address is required")),
    }
}

fn internal_location(internal: &core::EnvoyInternalAddress) -> Compiled<Location> {
    use core::envoy_internal_address::AddressNameSpecifier;
    match &internal.address_name_specifier {
        Some(AddressNameSpecifier::ServerListenerName(name)) => {
            let (listener, endpoint) = (name.clone(), internal.endpoint_id.clone());
            Ok(Location::Address(Address::Internal(Arc::new(Internal {
                listener,
                endpoint,
            }))))
        }
        None => Err(Problems::one("server_listener_name", "required")),
    }
}

/// An IP address or name with its port.
///
/// # Errors
/// What is wrong or not supported, by path.
pub fn socket_location(socket: &core::SocketAddress) -> Compiled<Location> {
    use core::socket_address::PortSpecifier;
    let is_other = socket.protocol != core::socket_address::Protocol::Tcp as i32;
    let has_namespace = !socket.network_namespace_filepath.is_empty();
    gather! {
        let _supported = refuse_all(&[
            ("protocol", is_other, "only TCP is supported"),
            ("resolver_name", !socket.resolver_name.is_empty(), "not supported"),
            ("network_namespace_filepath", has_namespace, "not supported"),
            ("address", socket.address.is_empty(), "required"),
        ]);
        let port = match &socket.port_specifier {
            Some(PortSpecifier::PortValue(value)) => port(*value).under("port_value"),
            Some(PortSpecifier::NamedPort(_)) => Err(Problems::one("named_port", "not supported")),
            None => Ok(0),
        };
    }
    match socket.address.parse::<IpAddr>() {
        Ok(ip) => Ok(Location::Address(Address::Ip(SocketAddr::new(ip, port)))),
        Err(_) => Ok(Location::Name(socket.address.clone(), port)),
    }
}

fn port(value: u32) -> Compiled<u16> {
    u16::try_from(value).map_err(|_| Problems::one("", "must be at most 65535"))
}
