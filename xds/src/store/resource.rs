//! What the store keeps, and the door through which it learns what a resource means.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;

use crate::types::ResourceType;

/// One accepted resource. Immutable; a new version is a new one.
#[derive(Debug)]
pub struct Resource {
    pub ty: ResourceType,
    pub name: Arc<str>,
    /// The encoded message, in an allocation of its own size.
    pub bytes: Bytes,
    /// The resource's own version in delta (may be empty), that of the response in SotW.
    pub version: Arc<str>,
    /// The version of the response that it came in: `system_version_info` in delta.
    pub response: Arc<str>,
    /// xxHash64 of `bytes`.
    pub hash: u64,
    pub updated_at: SystemTime,
}

/// Why the newest version of a resource is not in use: `error_state` of a config dump.
#[derive(Clone, Debug)]
pub struct ErrorState {
    /// What was refused; empty when it was no message at all.
    pub failed: Bytes,
    pub details: Arc<str>,
    pub version: Arc<str>,
    pub at: SystemTime,
}

/// Where a referenced resource comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// The one aggregated stream.
    #[default]
    Ads,
    /// An `ApiConfigSource` of its own, under the name the client was given it by (Envoy: the cluster's name).
    Named(Arc<str>),
    /// A `path_config_source`.
    Path(PathSource),
}

impl Source {
    /// Whether it is read, and nobody is asked.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self, Self::Path(_))
    }
}

/// As people read it: `ads`, the name, or the path.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ads => f.write_str("ads"),
            Self::Named(name) => f.write_str(name),
            Self::Path(source) => f.write_str(&source.path),
        }
    }
}

/// `core.v3.PathConfigSource`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathSource {
    pub path: Arc<str>,
    /// Watched for moves instead of the directory of `path`.
    pub watched_directory: Option<Arc<str>>,
}

/// A resource that another one needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    pub ty: ResourceType,
    pub name: Arc<str>,
    pub source: Source,
    /// How long the owner waits for it before it goes on without; zero is for ever (Envoy's default is 15 s).
    pub initial_fetch_timeout: Duration,
    /// The owner is not published before this has arrived (or timed out).
    pub required: bool,
}

impl Reference {
    /// A required reference over ADS with Envoy's timeout.
    pub fn new(ty: ResourceType, name: impl Into<Arc<str>>) -> Self {
        let initial_fetch_timeout = Duration::from_secs(15);
        Self {
            ty,
            name: name.into(),
            source: Source::Ads,
            initial_fetch_timeout,
            required: true,
        }
    }
}

/// Whether there is an accepted resource of this type and name.
pub type Known<'a> = dyn Fn(ResourceType, &str) -> bool + 'a;

/// Says what a resource means. Called on the store's thread for each resource whose bytes are new.
pub trait Interpreter: Send + Sync {
    /// Checks one resource and tells what it refers to. `known` says whether there is an accepted resource of a type and name, in use or warming.
    ///
    /// # Errors
    /// Why the resource is refused, with the path of the field; goes to the control plane verbatim.
    fn check(&self, type_url: &str, name: &str, bytes: &Bytes, known: &Known<'_>) -> Result<Vec<Reference>, String>;

    /// An update begins that takes away what `gone` says; its checks come after this, so that one resource can have what another gives up.
    fn begin(&self, _type_url: &str, _gone: &dyn Fn(&str) -> bool) {}
    /// Whether it matters that this resource was received once more as it is: it would grow old otherwise.
    fn ages(&self, _type_url: &str, _bytes: &Bytes) -> bool {
        false
    }
}

impl<F> Interpreter for F
where
    F: Fn(&str, &str, &Bytes) -> Result<Vec<Reference>, String> + Send + Sync,
{
    fn check(&self, type_url: &str, name: &str, bytes: &Bytes, _: &Known<'_>) -> Result<Vec<Reference>, String> {
        self(type_url, name, bytes)
    }
}

/// An [`Interpreter`] of one type: takes whatever decodes as `M`, and sees references to nothing in it.
///
/// # Errors
/// Why the bytes are no `M`.
pub fn decodes<M: Message + Default>(_type_url: &str, _name: &str, bytes: &Bytes) -> Result<Vec<Reference>, String> {
    let read = M::decode(bytes.clone());
    read.map(|_| Vec::new()).map_err(|error| error.to_string())
}
