//! Everything of a bootstrap that can be wrong before anything runs: static resources, what they refer to, sources, log files.
//!
//! Serving starts from an [`Assembly`], validating ends with one: what the one accepts the other does.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use remora_xds::Root;

use super::client::{Pins, meaning, roots, sources};
use super::interpreter::{self, Meaning};
use crate::bootstrap::Bootstrap;
use crate::cli::Options;
use crate::cluster::host::Locality;
use crate::cluster::lb::LocalCluster;
use crate::config::fields::{self, Strictness, Warning};
use crate::config::live::Values;
use crate::config::route::{clusters, refuse};
use crate::config::sources::ResourceKey;
use crate::config::{BuildContext, Compiled, Problems, gather};
use crate::listener::ListenerConfig;
use crate::runtime::io::Address;
use crate::snapshot::build::{Builder, LISTENER_OWNER};
use crate::telemetry::access_log::{AccessLog, Sink, Sinks};
use crate::telemetry::server::RuntimeStats;

/// A bootstrap, understood.
pub struct Assembly {
    pub(super) context: Arc<BuildContext>,
    pub(super) builder: Builder,
    pub(super) meaning: Meaning,
    /// What static resources wait for.
    pub(super) pins: Pins,
    pub(super) roots: Vec<Root>,
    pub(super) admin_logs: Arc<[AccessLog]>,
    /// What the field tables let pass.
    pub warnings: Vec<Warning>,
}

/// Checks and builds all of it. Opens log files; touches no socket and starts no task.
///
/// # Errors
/// Everything that is wrong, by path.
pub fn assemble(options: &Options, bootstrap: &Bootstrap) -> Compiled<Assembly> {
    let mut context = BuildContext {
        access_logs: Arc::new(Sinks::new(options.file_flush_interval, options.file_flush_min_size)),
        node: bootstrap.node.clone(),
        connection_limits: Arc::new(bootstrap.runtime.connection_limits()),
        sources: Arc::new(sources(bootstrap)),
        ..BuildContext::default()
    };
    // Before anything is compiled that names a key.
    context.runtime = Arc::new(Values::new(bootstrap.runtime.clone(), context.stats.group("runtime.")));
    let events = outlier_events(bootstrap, &context);
    let events = events.map(|sink| context.outlier_events = sink);
    let context = Arc::new(context);
    if !bootstrap.local_cluster.is_empty() {
        let own = bootstrap.node.locality.clone().map(Locality::from);
        let local = LocalCluster::new(bootstrap.local_cluster.clone(), own);
        context.hosts.set_local(local);
    }
    let meaning = meaning(bootstrap, &context, options);
    // Static fields that are not known were refused, or let pass, when the text was read.
    let strictness = Strictness {
        reject_unknown: false,
        ..meaning.strictness
    };
    let tables = fields::check(crate::bootstrap::MESSAGE, &bootstrap.bytes, strictness);
    let mut builder = Builder::new(context.clone());
    let pins = add_static(&mut builder, bootstrap, &context, &meaning);
    let built = all(
        events,
        pins,
        roots(bootstrap, &context.sources),
        admin_logs(bootstrap, &context),
    );
    let (warnings, (pins, roots, admin_logs)) = match (tables, built) {
        (Ok(warnings), Ok(built)) => (warnings, built),
        (Err(wrong), Ok(_)) | (Ok(_), Err(wrong)) => return Err(wrong),
        (Err(mut wrong), Err(more)) => {
            // The builders say some of it again.
            wrong.add_unknown(more);
            return Err(wrong);
        }
    };
    Ok(Assembly {
        context,
        builder,
        meaning,
        pins,
        roots,
        admin_logs,
        warnings,
    })
}

type Built = (Pins, Vec<Root>, Arc<[AccessLog]>);

fn all(
    events: Compiled<()>,
    pins: Compiled<Pins>,
    roots: Compiled<Vec<Root>>,
    admin_logs: Compiled<Arc<[AccessLog]>>,
) -> Compiled<Built> {
    gather! {
        let _events = events;
        let pins = pins;
        let roots = roots;
        let admin_logs = admin_logs;
    }
    Ok((pins, roots, admin_logs))
}

impl Assembly {
    /// Logs, counts and notes what was let pass.
    pub(super) fn tell_warnings(&self, bootstrap: &Bootstrap) {
        let meaning = &self.meaning;
        for warning in &bootstrap.warnings {
            meaning.notes.tolerate(format!("bootstrap: {warning}"));
        }
        let runtime: Arc<RuntimeStats> = self.context.stats.group("runtime.");
        for warning in &self.warnings {
            if warning.is_deprecated {
                runtime.count_deprecated();
                if meaning.strictness.tell_deprecated {
                    interpreter::tell_deprecated(crate::bootstrap::MESSAGE, warning);
                }
                continue;
            }
            tracing::warn!(path = %warning.path, reason = %warning.reason, "tolerated");
            if warning.is_unsupported {
                meaning.server.unsupported_fields.inc();
                meaning.notes.tolerate(format!("bootstrap: {warning}"));
            } else if warning.is_unknown {
                meaning.server.static_unknown_fields.inc();
            }
        }
    }
}

/// `admin.access_log`
fn admin_logs(bootstrap: &Bootstrap, context: &BuildContext) -> Compiled<Arc<[AccessLog]>> {
    let configured = bootstrap.admin.as_ref().map_or(&[][..], |admin| &admin.access_log);
    let logs = AccessLog::compile_all(configured, context);
    logs.map(Arc::from).map_err(|wrong| wrong.under("admin"))
}

fn outlier_events(bootstrap: &Bootstrap, cx: &BuildContext) -> Compiled<Option<Arc<Sink>>> {
    let path = &bootstrap.outlier_event_log;
    if path.is_empty() {
        return Ok(None);
    }
    let opened = cx.access_logs.open(path, &cx.stats);
    opened.map(Some).map_err(|error| {
        let field = "cluster_manager.outlier_detection.event_log_path";
        Problems::one(field, format!("unable to open file '{path}': {error}"))
    })
}

fn add_static(
    builder: &mut Builder,
    bootstrap: &Bootstrap,
    context: &BuildContext,
    meaning: &Meaning,
) -> Compiled<Pins> {
    let mut problems = Problems::default();
    let mut pins = Pins::new();
    for (index, secret) in bootstrap.secrets.iter().enumerate() {
        let taken = context
            .secrets
            .update(&ResourceKey::fixed(&secret.name), Some(&secret.bytes));
        problems.keep(taken.map_err(|wrong| wrong.under(&format!("static_resources.secrets[{index}]"))));
    }
    let mut seen = HashSet::new();
    for (index, cluster) in bootstrap.clusters.iter().enumerate() {
        let under = |wrong: Problems| wrong.under(&format!("static_resources.clusters[{index}]"));
        let mut wrong = Problems::default();
        wrong.keep(refuse_again(&mut seen, &cluster.name, "cluster"));
        let added = builder.add_cluster(cluster.bytes.clone());
        let references = added.and_then(|needs| meaning.cluster_references(&needs));
        let references = wrong.keep_unknown(references).unwrap_or_default();
        problems.keep(wrong.into_result().map_err(under));
        if !references.is_empty() {
            pins.push((format!("cluster/{}", cluster.name), references));
        }
    }
    // What is wrong with a cluster is told once.
    let named: HashSet<&str> = bootstrap.clusters.iter().map(|cluster| &*cluster.name).collect();
    let mut addresses = HashMap::new();
    seen.clear();
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        let needs = crate::config::listener::needs(&listener.bytes);
        let references = needs.and_then(|needs| {
            gather! {
                let _clusters = clusters::all_known(&needs.clusters, |name| named.contains(name));
                let references = meaning.listener_references(&needs);
            }
            Ok(references)
        });
        let hold = references.as_ref().is_ok_and(|references| !references.is_empty());
        let added = builder.add_listener(&listener.bytes, hold);
        let added = added.and_then(|config| free_addresses(&mut addresses, &config));
        let under = |wrong: Problems| wrong.under(&format!("static_resources.listeners[{index}]"));
        let mut wrong = Problems::default();
        wrong.keep(refuse_again(&mut seen, &listener.name, "listener"));
        wrong.keep_unknown(added);
        let references = wrong.keep_unknown(references).unwrap_or_default();
        problems.keep(wrong.into_result().map_err(under));
        if !references.is_empty() {
            pins.push((format!("{LISTENER_OWNER}{}", listener.name), references));
        }
    }
    problems.into_result().map(|()| pins)
}

/// Refuses a name that stands before, be the resource that has it in order or not.
fn refuse_again<'a>(seen: &mut HashSet<&'a str>, name: &'a str, kind: &str) -> Compiled<()> {
    let is_twice = !name.is_empty() && !seen.insert(name);
    refuse("name", is_twice, &format!("duplicate {kind} '{name}'"))
}

/// One address, one listener; port 0 is a new one each time.
fn free_addresses(taken: &mut HashMap<Address, Arc<str>>, config: &ListenerConfig) -> Compiled<()> {
    let fixed = |address: &&Address| address.ip().is_none_or(|address| address.port() != 0);
    for address in config.addresses.iter().filter(fixed) {
        if let Some(other) = taken.insert(address.clone(), config.name.clone()) {
            let reason = format!("duplicate address '{address}' of existing listener '{other}'");
            return Err(Problems::one("address", reason));
        }
    }
    Ok(())
}
