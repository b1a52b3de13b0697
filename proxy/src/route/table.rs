//! A route configuration: its bytes, an index over domains, and virtual hosts built by their first request (D5).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::envoy::config::route::v3 as pbr;

use super::domains::DomainIndex;
use super::forward::Mirror;
use super::headers::HeaderKey;
use super::per_filter::PerFilter;
use super::view::RequestView;
use super::virtual_host::{Route, VirtualHost};
use super::wire;
use crate::config::route::clusters::{self, ClusterRef};
use crate::config::route::{each, header_name, refuse_all};
use crate::config::{BuildContext, Compiled, Problem, Problems, gather};
use crate::http::header_policy::mutations::LevelMutations;
use crate::telemetry::stats::Stats;

/// A compiled route configuration.
pub struct RouteTable {
    bytes: Bytes,
    settings: Arc<TableSettings>,
    hosts: Box<[Slot]>,
    index: DomainIndex,
    validate_clusters: bool,
}

/// What a table says outside its virtual hosts.
pub struct TableSettings {
    pub name: Arc<str>,
    /// Where virtual hosts and routes that count for themselves have their counters.
    pub stats: Stats,
    pub mutations: LevelMutations,
    /// Apply table → virtual host → route instead of route → virtual host → table.
    pub most_specific_wins: bool,
    pub per_filter: PerFilter,
    pub mirrors: Arc<[Mirror]>,
    pub internal_only_headers: Vec<http::HeaderName>,
    pub ignore_path_parameters: bool,
    pub metadata: Option<Arc<Metadata>>,
    /// Bytes; 4096 by default.
    pub max_direct_response_body: usize,
    ignore_port: bool,
    vhost_header: Option<HeaderKey>,
}

/// One virtual host: where it lies in the table's bytes, and its runtime form once somebody asked for it.
struct Slot {
    at: u32,
    len: u32,
    built: OnceLock<Arc<VirtualHost>>,
}

/// `RouteConfiguration.virtual_hosts`
const VIRTUAL_HOSTS: u32 = 2;
/// `VirtualHost.domains`
const DOMAINS: u32 = 2;

impl RouteTable {
    /// Indexes an encoded `RouteConfiguration` and validates every virtual host by building it; what was built is not kept.
    pub fn parse(bytes: Bytes, cx: &BuildContext) -> Compiled<Self> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(Problems::one("", "the route configuration is larger than 4 GiB"));
        }
        let mut rest = Vec::new();
        let mut hosts = Vec::new();
        for field in wire::fields(&bytes, 0..bytes.len()) {
            let field = field?;
            match field.payload {
                Some(payload) if field.number == VIRTUAL_HOSTS => hosts.push(Slot {
                    at: payload.start as u32,
                    len: payload.len() as u32,
                    built: OnceLock::new(),
                }),
                _ => rest.extend_from_slice(&bytes[field.whole]),
            }
        }
        let rest =
            pbr::RouteConfiguration::decode(rest.as_slice()).map_err(|error| Problems::one("", error.to_string()))?;
        let settings = Arc::new(TableSettings::compile(&rest, cx)?);
        let mut table = Self {
            settings,
            hosts: hosts.into(),
            index: DomainIndex::default(),
            validate_clusters: rest.validate_clusters.is_some_and(|flag| flag.value),
            bytes,
        };
        table.check_hosts()?;
        Ok(table)
    }

    fn check_hosts(&mut self) -> Compiled<()> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut names = std::collections::HashSet::with_capacity(self.hosts.len());
        for (number, slot) in self.hosts.iter().enumerate() {
            let indexed = index_domains(&self.bytes, slot, number as u32, &mut self.index);
            let built = slot.build(&self.bytes, &self.settings);
            for failed in [indexed.err(), built.as_ref().err().cloned()].into_iter().flatten() {
                problems.extend(failed.under(&format!("virtual_hosts[{number}]")).0);
            }
            if let Ok(built) = built
                && !names.insert(xxhash_rust::xxh64::xxh64(built.name().as_bytes(), 0))
            {
                let reason = format!("Only unique names for virtual hosts are permitted: {}", built.name());
                problems.push(Problem {
                    path: format!("virtual_hosts[{number}].name"),
                    reason,
                });
            }
        }
        self.index.finish(&self.bytes);
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Problems(problems))
        }
    }

    /// The virtual host for an authority, built now if this is its first use.
    pub fn virtual_host(&self, authority: &[u8]) -> Option<Arc<VirtualHost>> {
        let host = match port_start(authority).filter(|_| self.settings.ignore_port) {
            Some(port) => &authority[..port],
            None => authority,
        };
        let number = self.index.find(&self.bytes, host)?;
        self.at(number as usize)
    }

    /// The virtual host and route for a request. A virtual host without a matching route is final: there is no falling back.
    pub fn select(&self, view: &RequestView<'_>) -> (Option<Arc<VirtualHost>>, Option<Arc<Route>>) {
        let host = match &self.settings.vhost_header {
            Some(key) => self.virtual_host(key.of(view).as_deref().unwrap_or_default()),
            None => self.virtual_host(view.authority.unwrap_or_default()),
        };
        let route = host.as_ref().and_then(|host| host.select(view));
        (host, route)
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn settings(&self) -> &Arc<TableSettings> {
        &self.settings
    }

    /// The encoded `RouteConfiguration`, for config dumps.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn virtual_host_count(&self) -> usize {
        self.hosts.len()
    }

    /// Virtual hosts that some request has built.
    pub fn built_count(&self) -> usize {
        self.hosts.iter().filter(|slot| slot.built.get().is_some()).count()
    }

    /// The clusters that must exist: with `validate_clusters`, which is off by default for a table that is delivered by name.
    ///
    /// # Errors
    /// None for a table that was parsed.
    pub fn clusters_to_validate(&self) -> Compiled<Vec<ClusterRef>> {
        if !self.validate_clusters {
            return Ok(Vec::new());
        }
        let config = pbr::RouteConfiguration::decode(self.bytes.clone());
        let config = config.map_err(|error| Problems::one("", error.to_string()))?;
        Ok(clusters::named(&config))
    }

    fn at(&self, number: usize) -> Option<Arc<VirtualHost>> {
        let slot = self.hosts.get(number)?;
        if let Some(built) = slot.built.get() {
            return Some(built.clone());
        }
        match slot.build(&self.bytes, &self.settings) {
            Ok(built) => Some(slot.built.get_or_init(|| Arc::new(built)).clone()),
            Err(problems) => {
                // Only a file that a direct response reads can have gone since the table was accepted.
                tracing::error!(table = self.name(), number, %problems, "virtual host can no longer be built");
                None
            }
        }
    }
}

impl Slot {
    fn range(&self) -> std::ops::Range<usize> {
        self.at as usize..self.at as usize + self.len as usize
    }

    fn build(&self, bytes: &Bytes, settings: &Arc<TableSettings>) -> Compiled<VirtualHost> {
        let value =
            pbr::VirtualHost::decode(&bytes[self.range()]).map_err(|error| Problems::one("", error.to_string()))?;
        VirtualHost::compile(&value, settings)
    }
}

fn index_domains(bytes: &[u8], slot: &Slot, number: u32, index: &mut DomainIndex) -> Compiled<()> {
    let mut problems = Vec::new();
    let mut count = 0;
    for field in wire::fields(bytes, slot.range()) {
        let field = field?;
        let Some(payload) = field.payload.filter(|_| field.number == DOMAINS) else {
            continue;
        };
        if !index.insert(bytes, payload.start as u32, payload.len() as u32, number) {
            let domain = String::from_utf8_lossy(&bytes[payload]);
            let reason = match domain.as_ref() {
                "*" => "Only a single wildcard domain is permitted".to_owned(),
                _ => format!("Only unique values for domains are permitted. Duplicate entry of domain {domain}"),
            };
            problems.push(Problem {
                path: format!("domains[{count}]"),
                reason,
            });
        }
        count += 1;
    }
    if count == 0 {
        problems.push(Problem {
            path: "domains".into(),
            reason: "at least one domain is needed".into(),
        });
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Problems(problems))
    }
}

/// Where an authority's `:port` begins; the colons inside an IPv6 literal are none.
pub fn port_start(authority: &[u8]) -> Option<usize> {
    let colon = memchr::memrchr(b':', authority)?;
    let inside = memchr::memrchr(b']', authority).is_some_and(|bracket| bracket > colon);
    (!inside).then_some(colon)
}

impl TableSettings {
    fn compile(value: &pbr::RouteConfiguration, cx: &BuildContext) -> Compiled<Self> {
        let plugins = !value.cluster_specifier_plugins.is_empty();
        let specifiers = !value.route_specifiers.is_empty();
        let vhost_header = Some(value.vhost_header.as_str()).filter(|header| !header.is_empty());
        gather! {
            let _supported = refuse_all(&[
                ("vhds", value.vhds.is_some(), "virtual host discovery is not supported"),
                ("cluster_specifier_plugins", plugins, "is not supported"),
                ("route_specifiers", specifiers, "is not supported"),
            ]);
            let mutations = LevelMutations::compile(
                &value.request_headers_to_add,
                &value.request_headers_to_remove,
                &value.response_headers_to_add,
                &value.response_headers_to_remove,
            );
            let per_filter = PerFilter::compile(&value.typed_per_filter_config);
            let mirrors = each("request_mirror_policies", &value.request_mirror_policies, Mirror::compile);
            let internal_only_headers =
                each("internal_only_headers", &value.internal_only_headers, |name| header_name("", name));
            let vhost_header = vhost_header.map(|header| HeaderKey::compile("vhost_header", header)).transpose();
        }
        Ok(Self {
            name: value.name.as_str().into(),
            stats: cx.stats.clone(),
            mutations,
            most_specific_wins: value.most_specific_header_mutations_wins,
            per_filter,
            mirrors: mirrors.into(),
            internal_only_headers,
            ignore_path_parameters: value.ignore_path_parameters_in_path_matching,
            metadata: value.metadata.clone().map(Arc::new),
            max_direct_response_body: value
                .max_direct_response_body_size_bytes
                .map_or(4096, |max| max.value as usize),
            ignore_port: value.ignore_port_in_host_matching,
            vhost_header,
        })
    }
}
