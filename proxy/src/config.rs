//! Typed proto → validated runtime model, one file per resource; the field tables (`fields`).
//!
//! In: encoded bytes of one resource that the ledger walk (`fields::check`) has passed. Out: a model in which an impossible
//! state has no type. A builder here is also the validator: what was ACKed builds later without failing.

pub mod cluster;
pub mod endpoint;
pub mod fields;
pub mod hcm;
pub mod header_case;
pub mod identity;
pub mod listener;
pub mod live;
pub mod resolver;
pub mod route;
pub mod source;
pub mod sources;
pub mod tls;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use self::sources::Sources;
use crate::cluster::host::HostRegistry;
use crate::filters::network::local_ratelimit::SharedBuckets;
use crate::listener::Direction;
use crate::snapshot::SnapshotCell;
use crate::snapshot::last_routes::LastRoutes;
use crate::telemetry::access_log::{Sink, Sinks};
use crate::telemetry::stats::Stats;
use crate::tls::SecretStore;

/// What compiled configuration is tied to: the long-lived objects that survive it. One per process; cloning shares.
#[derive(Clone, Default)]
pub struct BuildContext {
    pub stats: Stats,
    /// What the client of the control plane counts.
    pub xds: Arc<remora_xds::Stats>,
    pub secrets: Arc<SecretStore>,
    /// Where resources that others name come from.
    pub sources: Arc<Sources>,
    /// `listener.<address>.` while a listener is compiled: the prefix of what its filters count by listener.
    pub listener_scope: Arc<str>,
    /// `traffic_direction` of that listener.
    pub direction: Direction,
    /// Where compiled connection managers and TCP proxies look up route tables and clusters.
    pub snapshot: Arc<SnapshotCell>,
    /// And what they route by when their listener drains.
    pub last_routes: Arc<LastRoutes>,
    pub access_logs: Arc<Sinks>,
    pub hosts: Arc<HostRegistry>,
    /// The event log of outlier detection, if the bootstrap asks for one.
    pub outlier_events: Option<Arc<Sink>>,
    /// `node` of the bootstrap: locality and metadata for access logs and zone awareness.
    pub node: Arc<remora_proto::pb::envoy::config::core::v3::Node>,
    /// How many connections a listener may have, by its name.
    pub connection_limits: Arc<HashMap<String, u64>>,
    /// What keys are set to; see [`live`].
    pub runtime: Arc<live::Values>,
    /// Token buckets that filters of connections share.
    pub buckets: Arc<SharedBuckets>,
}

/// What one field says that we cannot do, or what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted protobuf path inside the resource, with `[i]` for list items: `filter_chains[0].filters[1].name`.
    pub path: String,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.reason);
        }
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// Every problem of one resource, in field order; never empty when returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn one(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self(vec![Problem {
            path: path.into(),
            reason: reason.into(),
        }])
    }

    /// The value, or its problems among these.
    pub fn keep<T>(&mut self, result: Compiled<T>) -> Option<T> {
        result.map_err(|found| self.0.extend(found.0)).ok()
    }

    /// Adds problems of the same resource that somebody else found, but for what is known of a field or of one above it.
    pub fn add_unknown(&mut self, others: Self) {
        let is_known = |path: &str| {
            self.0.iter().any(|known| {
                let rest = path.strip_prefix(known.path.as_str());
                !known.path.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
        };
        let new: Vec<Problem> = others.0.into_iter().filter(|other| !is_known(&other.path)).collect();
        self.0.extend(new);
    }

    /// As [`Problems::keep`], of what may say some of it again: see [`Problems::add_unknown`].
    pub fn keep_unknown<T>(&mut self, result: Compiled<T>) -> Option<T> {
        result.map_err(|found| self.add_unknown(found)).ok()
    }

    /// # Errors
    /// These, if there are any.
    pub fn into_result(self) -> Compiled<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Puts `prefix` in front of each path.
    pub fn under(mut self, prefix: &str) -> Self {
        for problem in &mut self.0 {
            problem.path = match (problem.path.is_empty(), problem.path.starts_with('[')) {
                (true, _) => prefix.to_owned(),
                (false, true) => format!("{prefix}{}", problem.path),
                (false, false) => format!("{prefix}.{}", problem.path),
            };
        }
        self
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The result of every compile step in this room.
pub type Compiled<T> = Result<T, Problems>;

/// Several parts of one message: binds each when all are well, else returns the problems of all from the function around.
macro_rules! gather {
    ($(let $name:ident = $value:expr;)+) => {
        let mut problems = $crate::config::Problems::default();
        $(let $name = problems.keep($value);)+
        let ($(Some($name),)+) = ($($name,)+) else {
            return Err(problems);
        };
    };
}
pub(crate) use gather;
