//! What there is to dump.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::admin::v3 as pb;
use remora_proto::pb::google::protobuf::{Any, Timestamp};
use remora_proto::wire;
use remora_xds::store::ErrorState;
use remora_xds::types::{self, ResourceType};
use remora_xds::{DumpEntry, Resource, TypeStatus};

use super::{Item, List, Section, endpoints};
use crate::admin::AdminState;
use crate::admin::bootstrap_view::{self, Static};

/// Every section, in Envoy's order.
pub(super) async fn sections(state: &AdminState, include_eds: bool) -> Vec<Section> {
    let (dump, status) = match &state.xds {
        // A client that has stopped has nothing to show.
        Some(client) => (
            client.dump().await.unwrap_or_default(),
            client.status().await.unwrap_or_default(),
        ),
        None => Default::default(),
    };
    assemble(
        state,
        &Dynamic {
            dump,
            status: status.types,
        },
        include_eds,
    )
}

/// As [`sections`], from what the client said.
pub(super) fn assemble(state: &AdminState, dynamic: &Dynamic, include_eds: bool) -> Vec<Section> {
    let mut sections = vec![bootstrap(state), clusters(state, dynamic)];
    let extensions = dynamic.items(&types::EXTENSION_CONFIG, extension);
    if !extensions.is_empty() {
        sections.push(section(
            "envoy.admin.v3.EcdsConfigDump",
            String::new(),
            vec![List {
                field: "ecds_filters",
                message: "envoy.admin.v3.EcdsConfigDump.EcdsFilterConfig",
                items: extensions,
            }],
        ));
    }
    if include_eds {
        sections.push(endpoints::section(state));
    }
    sections.push(listeners(state, dynamic));
    sections.push(section(
        "envoy.admin.v3.ScopedRoutesConfigDump",
        String::new(),
        Vec::new(),
    ));
    sections.push(routes(state, dynamic));
    sections.push(secrets(state, dynamic));
    sections
}

/// What the xDS client holds.
#[derive(Default)]
pub(super) struct Dynamic {
    pub dump: Vec<DumpEntry>,
    pub status: Vec<TypeStatus>,
}

impl Dynamic {
    fn of(&self, ty: ResourceType) -> impl Iterator<Item = &DumpEntry> {
        self.dump.iter().filter(move |entry| entry.ty == ty)
    }

    fn items<M: Message + 'static>(&self, ty: ResourceType, make: fn(&DumpEntry) -> M) -> Vec<Item> {
        self.items_where(ty, |_| true, make)
    }

    fn items_where<M: Message + 'static>(
        &self,
        ty: ResourceType,
        wanted: fn(&DumpEntry) -> bool,
        make: fn(&DumpEntry) -> M,
    ) -> Vec<Item> {
        let entries = self.of(ty).filter(|entry| wanted(entry));
        entries
            .map(|entry| {
                let own = entry.clone();
                Item::new(&entry.name, move || make(&own))
            })
            .collect()
    }

    fn version(&self, ty: ResourceType) -> String {
        let found = self.status.iter().find(|status| status.ty == ty);
        found
            .map(|status| status.applied_version.to_string())
            .unwrap_or_default()
    }
}

pub(super) fn section(message: &'static str, version_info: String, lists: Vec<List>) -> Section {
    Section {
        message,
        whole: None,
        version_info,
        lists,
    }
}

fn bootstrap(state: &AdminState) -> Section {
    /// `BootstrapConfigDump.bootstrap` and `.last_updated`
    const FIELDS: (u32, u32) = (1, 2);
    let mut whole = Vec::new();
    // Put together on the wire: the bootstrap may be large, and nothing here looks into it.
    wire::put_len(&mut whole, FIELDS.0, &state.bootstrap);
    wire::put_len(&mut whole, FIELDS.1, &timestamp(state.started_at).encode_to_vec());
    Section {
        message: "envoy.admin.v3.BootstrapConfigDump",
        whole: Some(whole.into()),
        version_info: String::new(),
        lists: Vec::new(),
    }
}

fn clusters(state: &AdminState, dynamic: &Dynamic) -> Section {
    const ITEM: &str = "envoy.admin.v3.ClustersConfigDump.DynamicCluster";
    let fixed = fixed(state, Static::Clusters, &types::CLUSTER, |cluster, last_updated| {
        pb::clusters_config_dump::StaticCluster { cluster, last_updated }
    });
    let dynamic = &with_warmth(state, dynamic);
    let lists = vec![
        List {
            field: "static_clusters",
            message: "envoy.admin.v3.ClustersConfigDump.StaticCluster",
            items: fixed,
        },
        List {
            field: "dynamic_active_clusters",
            message: ITEM,
            items: dynamic.items_where(
                &types::CLUSTER,
                |entry| entry.active.is_some(),
                |entry| cluster(entry.active.as_deref(), entry),
            ),
        },
        List {
            field: "dynamic_warming_clusters",
            message: ITEM,
            items: dynamic.items_where(&types::CLUSTER, warming_or_only_failed, |entry| {
                cluster(entry.warming.as_deref(), entry)
            }),
        },
    ];
    section(
        "envoy.admin.v3.ClustersConfigDump",
        dynamic.version(&types::CLUSTER),
        lists,
    )
}

/// For the control plane's client a cluster is active when nothing it refers to is missing; its hosts may have to be checked yet.
fn with_warmth(state: &AdminState, dynamic: &Dynamic) -> Dynamic {
    let snapshot = state.snapshot.load_full();
    let mut dump: Vec<DumpEntry> = dynamic.of(&types::CLUSTER).cloned().collect();
    for entry in dump.iter_mut().filter(|entry| snapshot.warming.contains(&entry.name)) {
        let served = snapshot.clusters.get(&entry.name);
        let newest = entry.warming.take().or(entry.active.take());
        entry.warming = newest;
        entry.active = served.and_then(|slot| slot.resource.clone());
    }
    Dynamic {
        dump,
        status: dynamic.status.clone(),
    }
}

fn cluster(of: Option<&Resource>, entry: &DumpEntry) -> pb::clusters_config_dump::DynamicCluster {
    pb::clusters_config_dump::DynamicCluster {
        version_info: version(of),
        cluster: of.map(any),
        last_updated: of.map(updated),
        error_state: entry.error.as_ref().map(|error| failure(error, entry.ty)),
        client_status: 0,
    }
}

/// What has no active version stands among the warming ones, be it only with the error that keeps it out.
fn warming_or_only_failed(entry: &DumpEntry) -> bool {
    entry.warming.is_some() || entry.active.is_none()
}

fn listeners(state: &AdminState, dynamic: &Dynamic) -> Section {
    let fixed = fixed(state, Static::Listeners, &types::LISTENER, |listener, last_updated| {
        pb::listeners_config_dump::StaticListener { listener, last_updated }
    });
    let lists = vec![
        List {
            field: "static_listeners",
            message: "envoy.admin.v3.ListenersConfigDump.StaticListener",
            items: fixed,
        },
        List {
            field: "dynamic_listeners",
            message: "envoy.admin.v3.ListenersConfigDump.DynamicListener",
            items: dynamic_listeners(state, dynamic),
        },
    ];
    section(
        "envoy.admin.v3.ListenersConfigDump",
        dynamic.version(&types::LISTENER),
        lists,
    )
}

/// Those that drain are shown with what has taken their place, or by themselves if nothing has; of several of a name, the first that began to.
fn dynamic_listeners(state: &AdminState, dynamic: &Dynamic) -> Vec<Item> {
    let draining = state.control.draining_listeners();
    let find = |name: &str| draining.iter().find(|resource| *resource.name == *name).cloned();
    let mut entries: Vec<DumpEntry> = dynamic.of(&types::LISTENER).cloned().collect();
    let mut known: HashSet<Arc<str>> = entries.iter().map(|entry| entry.name.clone()).collect();
    let gone = draining.iter().filter(|resource| known.insert(resource.name.clone()));
    entries.extend(gone.map(|resource| DumpEntry {
        ty: &types::LISTENER,
        source: Arc::default(),
        name: resource.name.clone(),
        active: None,
        warming: None,
        error: None,
    }));
    let item = |entry: DumpEntry| {
        let drains = find(&entry.name);
        Item::new(&entry.name.clone(), move || listener(&entry, drains.as_ref()))
    };
    entries.into_iter().map(item).collect()
}

fn listener(entry: &DumpEntry, draining: Option<&Arc<Resource>>) -> pb::listeners_config_dump::DynamicListener {
    let version_of = |of: &Arc<Resource>| pb::listeners_config_dump::DynamicListenerState {
        version_info: of.version.to_string(),
        listener: Some(any(of)),
        last_updated: Some(updated(of)),
    };
    pb::listeners_config_dump::DynamicListener {
        name: entry.name.to_string(),
        active_state: entry.active.as_ref().map(version_of),
        warming_state: entry.warming.as_ref().map(version_of),
        draining_state: draining.map(version_of),
        error_state: entry.error.as_ref().map(|error| failure(error, entry.ty)),
        client_status: 0,
    }
}

/// Static ones are those that stand inside a listener, of the bootstrap or not.
fn routes(state: &AdminState, dynamic: &Dynamic) -> Section {
    let started_at = state.started_at;
    let own = bootstrap_view::resources(&state.bootstrap, Static::Listeners);
    let own = own.into_iter().map(|(_, bytes)| (bytes, started_at));
    let theirs = dynamic.of(&types::LISTENER).filter_map(|entry| {
        let resource = entry.active.as_ref()?;
        Some((resource.bytes.clone(), resource.updated_at))
    });
    let mut inline = Vec::new();
    for (listener, at) in own.chain(theirs) {
        for (name, route) in bootstrap_view::inline_routes(&listener) {
            inline.push(Item::new(&name, move || pb::routes_config_dump::StaticRouteConfig {
                route_config: Some(any_of(&types::ROUTE, &route)),
                last_updated: Some(timestamp(at)),
            }));
        }
    }
    let make = |entry: &DumpEntry| {
        let newest = entry.active.as_deref().or(entry.warming.as_deref());
        pb::routes_config_dump::DynamicRouteConfig {
            version_info: version(newest),
            route_config: newest.map(any),
            last_updated: newest.map(updated),
            error_state: entry.error.as_ref().map(|error| failure(error, entry.ty)),
            client_status: 0,
        }
    };
    let lists = vec![
        List {
            field: "static_route_configs",
            message: "envoy.admin.v3.RoutesConfigDump.StaticRouteConfig",
            items: inline,
        },
        List {
            field: "dynamic_route_configs",
            message: "envoy.admin.v3.RoutesConfigDump.DynamicRouteConfig",
            items: dynamic.items(&types::ROUTE, make),
        },
    ];
    section("envoy.admin.v3.RoutesConfigDump", String::new(), lists)
}

fn secrets(state: &AdminState, dynamic: &Dynamic) -> Section {
    const ITEM: &str = "envoy.admin.v3.SecretsConfigDump.DynamicSecret";
    let fixed = bootstrap_view::resources(&state.bootstrap, Static::Secrets).into_iter();
    let fixed = fixed.map(|(name, bytes)| {
        let own = name.clone();
        Item::new(&name, move || pb::secrets_config_dump::StaticSecret {
            name: own.clone(),
            last_updated: None,
            secret: Some(any_of(&types::SECRET, &bytes)),
        })
    });
    let lists = vec![
        List {
            field: "static_secrets",
            message: "envoy.admin.v3.SecretsConfigDump.StaticSecret",
            items: fixed.collect(),
        },
        List {
            field: "dynamic_active_secrets",
            message: ITEM,
            items: dynamic.items_where(
                &types::SECRET,
                |entry| entry.active.is_some(),
                |entry| secret(entry.active.as_deref(), entry),
            ),
        },
        List {
            field: "dynamic_warming_secrets",
            message: ITEM,
            items: dynamic.items_where(&types::SECRET, warming_or_only_failed, |entry| {
                secret(entry.warming.as_deref(), entry)
            }),
        },
    ];
    section("envoy.admin.v3.SecretsConfigDump", String::new(), lists)
}

fn secret(of: Option<&Resource>, entry: &DumpEntry) -> pb::secrets_config_dump::DynamicSecret {
    pb::secrets_config_dump::DynamicSecret {
        name: entry.name.to_string(),
        version_info: version(of),
        last_updated: of.map(updated),
        secret: of.map(any),
        error_state: entry.error.as_ref().map(|error| failure(error, entry.ty)),
        client_status: 0,
    }
}

fn extension(entry: &DumpEntry) -> pb::ecds_config_dump::EcdsFilterConfig {
    let newest = entry.active.as_deref().or(entry.warming.as_deref());
    pb::ecds_config_dump::EcdsFilterConfig {
        version_info: version(newest),
        ecds_filter: newest.map(any),
        last_updated: newest.map(updated),
        error_state: entry.error.as_ref().map(|error| failure(error, entry.ty)),
        client_status: 0,
    }
}

/// Static resources of a kind.
fn fixed<M: Message + 'static>(
    state: &AdminState,
    kind: Static,
    ty: ResourceType,
    make: fn(Option<Any>, Option<Timestamp>) -> M,
) -> Vec<Item> {
    let at = state.started_at;
    let resources = bootstrap_view::resources(&state.bootstrap, kind).into_iter();
    resources
        .map(|(name, bytes)| Item::new(&name, move || make(Some(any_of(ty, &bytes)), Some(timestamp(at)))))
        .collect()
}

fn version(of: Option<&Resource>) -> String {
    of.map(|resource| resource.version.to_string()).unwrap_or_default()
}

fn any(resource: &Resource) -> Any {
    any_of(resource.ty, &resource.bytes)
}

pub(super) fn any_of(ty: ResourceType, bytes: &Bytes) -> Any {
    Any {
        type_url: ty.url.to_owned(),
        value: bytes.to_vec(),
    }
}

fn updated(resource: &Resource) -> Timestamp {
    timestamp(resource.updated_at)
}

/// To the millisecond, as Envoy's clock for these.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_millis() * 1_000_000).unwrap_or_default(),
    }
}

/// What cannot be decoded cannot be shown, and must not take what it was to replace out of the dump with it. Envoy shows no error of such a
/// resource at all.
fn failure(error: &ErrorState, ty: ResourceType) -> pb::UpdateFailureState {
    let message = remora_proto::type_url::full_name(ty.url);
    let is_shown = !error.failed.is_empty() && remora_proto::json::to_json(&error.failed, message).is_ok();
    pb::UpdateFailureState {
        failed_configuration: is_shown.then(|| any_of(ty, &error.failed)),
        last_update_attempt: Some(timestamp(error.at)),
        details: error.details.to_string(),
        version_info: error.version.to_string(),
    }
}
