//! Resources that are installed together.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::{Message, Name};
use remora_proto::pb::envoy::service::discovery::v3::Resource;
use remora_proto::pb::google::protobuf::Any;

use crate::store::{Entry, name_of};
use crate::types;

/// A set of resources to install at once.
///
/// ```
/// use control_plane_mock::{Snapshot, resources};
/// let snapshot = Snapshot::new()
///     .with(resources::cluster_static("echo", [("127.0.0.1", 8080)]))
///     .with(resources::route_config("local").vhost(["*"]).route("/", "echo"));
/// assert_eq!(snapshot.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub(crate) resources: BTreeMap<(String, String), Item>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) any: Any,
    pub(crate) ttl: Option<Duration>,
}

/// Anything that ends as a packed resource: a message itself, or one of the builders.
pub trait IntoResource {
    /// The packed message.
    fn into_any(self) -> Any;
}

impl<M: Message + Name> IntoResource for M {
    fn into_any(self) -> Any {
        Any {
            type_url: M::type_url(),
            value: self.encode_to_vec(),
        }
    }
}

impl Snapshot {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a resource; one of the same type and name added before is replaced.
    pub fn with(mut self, resource: impl IntoResource) -> Self {
        self.add_any(resource.into_any());
        self
    }

    /// As [`Snapshot::with`], with a time to live.
    pub fn with_ttl(mut self, resource: impl IntoResource, ttl: Duration) -> Self {
        let any = resource.into_any();
        let ttl = Some(ttl);
        self.resources.insert(key_of(&any), Item { any, ttl });
        self
    }

    /// Adds a packed resource under the name found in its bytes. Out of an `envoy.service.discovery.v3.Resource` comes the resource in it,
    /// with the wrapper's time to live.
    pub fn add_any(&mut self, any: Any) {
        let key = key_of(&any);
        let (any, ttl) = unwrap(any);
        self.resources.insert(key, Item { any, ttl });
    }

    /// Adds what another has; its resources replace those of the same type and name.
    pub fn merge(&mut self, other: &Self) {
        self.resources.extend(other.resources.clone());
    }

    /// Gives every resource this time to live.
    pub fn set_ttl(&mut self, ttl: Duration) {
        self.resources.values_mut().for_each(|item| item.ttl = Some(ttl));
    }

    /// Number of resources of all types.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// True if a resource of the same type and name is in it.
    pub fn has_one_like(&self, any: &Any) -> bool {
        self.resources.contains_key(&key_of(any))
    }

    /// Name and payload of each resource, by type and name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Any)> {
        self.resources
            .iter()
            .map(|((_, name), item)| (name.as_str(), &item.any))
    }

    /// The same with times to live.
    pub(crate) fn mortals(&self) -> impl Iterator<Item = (&str, &Any, Option<Duration>)> {
        let items = self.resources.iter();
        items.map(|((_, name), item)| (name.as_str(), &item.any, item.ttl))
    }
}

/// Type URL and name of a packed resource, or of the one in a `Resource` wrapper, which may say the name.
pub(crate) fn key_of(any: &Any) -> (String, String) {
    match wrapped(any) {
        Some((Resource { name, .. }, inner)) if !name.is_empty() => (inner.type_url, name),
        Some((_, inner)) => (inner.type_url.clone(), name_of(&inner)),
        None => (any.type_url.clone(), name_of(any)),
    }
}

/// The resource itself, with the time to live that its wrapper says.
fn unwrap(any: Any) -> (Any, Option<Duration>) {
    let Some((wrapper, inner)) = wrapped(&any) else {
        return (any, None);
    };
    let ttl = wrapper.ttl.map(|ttl| {
        let seconds = u64::try_from(ttl.seconds).unwrap_or(0);
        Duration::new(seconds, u32::try_from(ttl.nanos).unwrap_or(0))
    });
    (inner, ttl)
}

fn wrapped(any: &Any) -> Option<(Resource, Any)> {
    if any.type_url != types::WRAPPER {
        return None;
    }
    let mut wrapper = Resource::decode(any.value.as_slice()).ok()?;
    let inner = wrapper.resource.take()?;
    Some((wrapper, inner))
}

impl Item {
    /// Whether that is how it is served.
    pub(crate) fn is(&self, entry: &Entry) -> bool {
        self.any == entry.any && self.ttl == entry.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;
    use crate::store::Store;

    #[test]
    fn a_wrapper_gives_its_resource_a_time_to_live() {
        let inner = resources::cluster_static("a", [("127.0.0.1", 1)]).into_any();
        let wrapper = Resource {
            ttl: Some(remora_proto::pb::google::protobuf::Duration { seconds: 5, nanos: 0 }),
            resource: Some(inner.clone()),
            ..Resource::default()
        };
        let mut snapshot = Snapshot::new();
        snapshot.add_any(wrapper.into_any());
        let mut store = Store::default();
        store.replace(&snapshot);
        let clusters = store.of(types::CLUSTER).expect("clusters were stored");
        let entry = &clusters.entries()["a"];
        assert_eq!((&entry.any, entry.ttl), (&inner, Some(Duration::from_secs(5))));
        // One that shall live for ever is a change.
        let mut immortal = Snapshot::new();
        immortal.add_any(inner);
        store.replace(&immortal);
        let clusters = store.of(types::CLUSTER).expect("clusters were stored");
        assert_eq!((clusters.version().as_str(), clusters.entries()["a"].ttl), ("2", None));
    }
}
