//! `/xds`: our own page about the control plane, in plain words; and `/init_dump`, what initialization waits for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_proto::pb::envoy::admin::v3::{UnreadyTargetsDumps, unready_targets_dumps::UnreadyTargetsDump};
use remora_xds::{Nack, Status, StreamStatus, TypeStatus};
use serde_json::{Value, json};

use super::query::Query;
use super::reply::{self, Reply};
use super::{AdminState, Publication};
use crate::runtime::clock;

/// Names of one kind that the text page spells out; JSON has all.
const SHOWN: usize = 20;

pub(super) async fn xds(state: Arc<AdminState>, query: Query) -> Reply {
    let Some(client) = &state.xds else {
        return reply::ok("everything is static: there is no control plane\n");
    };
    let Ok(status) = client.status().await else {
        return reply::ok("the xds client has stopped; the last configuration stays in use\n");
    };
    if query.get("format") == Some("json") {
        let types: Vec<_> = status.types.iter().map(tree).collect();
        return reply::tree(&json!({
            "types": types,
            "streams": status.streams.iter().map(stream).collect::<Vec<_>>(),
            "last_publication": state.notes.publication().map(publication),
            "tolerated": state.notes.tolerated(),
            "unusable": state.notes.failures(),
        }));
    }
    let mut page = String::new();
    status.streams.iter().for_each(|one| page += &connection(one));
    if page.is_empty() {
        page += "nothing is asked of any control plane or file\n";
    }
    let now = clock::system_now();
    for one in &status.types {
        page += &describe(one, now);
    }
    if let Some(last) = state.notes.publication() {
        page += &format!(
            "\nlast publication to the workers: generation {}, {} changes, built in {:?}\n",
            last.generation, last.changes, last.build
        );
    }
    let lists = [
        (
            "accepted, but it could not be put to use (a bug of the proxy)",
            state.notes.failures(),
        ),
        ("set, and without effect", state.notes.tolerated()),
    ];
    for (title, lines) in lists.iter().filter(|(_, lines)| !lines.is_empty()) {
        page += &format!("\n{title}:\n");
        lines.iter().for_each(|line| page += &format!("  {line}\n"));
    }
    reply::ok(page)
}

/// One stream, or one watched file.
fn connection(stream: &StreamStatus) -> String {
    let StreamStatus {
        source,
        carries,
        identifier,
        ..
    } = stream;
    let what = match (stream.is_file, stream.is_open) {
        (true, true) => format!("{carries} from the file {source}\n"),
        (true, false) => format!("{carries} from the file {source}: not read yet\n"),
        (false, true) if identifier.is_empty() => format!("{carries} from {source}: connected\n"),
        (false, true) => format!("{carries} from {source}: connected to the control plane {identifier}\n"),
        (false, false) => format!("{carries} from {source}: not connected\n"),
    };
    let why = stream.failure.iter().map(|failure| format!("  {failure}\n"));
    std::iter::once(what).chain(why).collect()
}

fn stream(stream: &StreamStatus) -> Value {
    json!({
        "source": stream.source,
        "file": stream.is_file,
        "carries": stream.carries,
        "open": stream.is_open,
        "identifier": stream.identifier,
        "failure": stream.failure,
    })
}

fn publication(last: Publication) -> Value {
    json!({
        "generation": last.generation,
        "changes": last.changes,
        "build_us": micros(last.build),
    })
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970.
fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn describe(status: &TypeStatus, now: SystemTime) -> String {
    let mut page = format!("\n{} ({})\n", status.ty.short, status.ty.url);
    let mut line = |text: String| page += &format!("  {text}\n");
    line(format!("from {}", status.source));
    match status.since.and_then(|at| now.duration_since(at).ok()) {
        Some(ago) => line(format!(
            "runs version {:?}, accepted {} s ago; {} in use",
            status.running_version,
            ago.as_secs(),
            status.published
        )),
        None => line(format!("nothing accepted yet; {} in use", status.published)),
    }
    if status.wanted_version != status.running_version {
        line(format!("the control plane wants version {:?}", status.wanted_version));
    }
    for waiting in status.waiting.iter().take(SHOWN) {
        let waits_for: Vec<_> = waiting
            .waits_for
            .iter()
            .map(|(ty, name)| format!("{} {name}", ty.short))
            .collect();
        line(format!(
            "{} is not in use yet: it waits for {}",
            waiting.name,
            waits_for.join(", ")
        ));
    }
    for name in status.missing.iter().take(SHOWN) {
        line(format!("{name} was asked for and has not arrived"));
    }
    let hidden = status.waiting.len().saturating_sub(SHOWN) + status.missing.len().saturating_sub(SHOWN);
    if hidden > 0 {
        line(format!("and {hidden} more (?format=json has all)"));
    }
    let is_current = |nack: &Nack| status.since.is_none_or(|since| nack.at >= since);
    if let Some(nack) = status.last_nack.as_ref().filter(|nack| is_current(nack)) {
        let ago = now.duration_since(nack.at).unwrap_or_default().as_secs();
        line(format!(
            "refused version {:?} {ago} s ago: {}",
            nack.version, nack.reason
        ));
    } else {
        // Of single resources, where later ones were accepted (delta).
        for (name, error) in status.refused.iter().take(SHOWN) {
            line(format!(
                "{name} is refused in version {:?}: {}",
                error.version, error.details
            ));
        }
    }
    for (name, reason) in status.reported.iter().take(SHOWN) {
        line(format!("the control plane cannot serve {name}: {reason}"));
    }
    let cost = &status.last_push;
    if cost.bytes > 0 {
        line(format!(
            "last response: {} bytes; {} added, {} changed, {} unchanged, {} removed, {} refused; \
             decoded in {:?}, checked in {:?}, published in {:?}",
            cost.bytes,
            cost.added,
            cost.changed,
            cost.unchanged,
            cost.removed,
            cost.rejected,
            cost.decode,
            cost.validate,
            cost.publish
        ));
    }
    page
}

fn tree(status: &TypeStatus) -> Value {
    let waiting: Vec<_> = status
        .waiting
        .iter()
        .map(|waiting| {
            let waits_for: Vec<_> = waiting
                .waits_for
                .iter()
                .map(|(ty, name)| json!({"type": ty.short, "name": &**name}))
                .collect();
            json!({"name": &*waiting.name, "waits_for": waits_for})
        })
        .collect();
    let missing: Vec<_> = status.missing.iter().map(|name| &**name).collect();
    let reported = status
        .reported
        .iter()
        .map(|(name, reason)| json!({"name": name, "reason": reason}));
    let nack = status
        .last_nack
        .as_ref()
        .map(|nack| json!({"version": &*nack.version, "reason": nack.reason, "at_ms": millis(nack.at)}));
    let refused = status.refused.iter().map(|(name, error)| {
        json!({"name": &**name, "version": &*error.version, "reason": &*error.details, "at_ms": millis(error.at)})
    });
    let cost = &status.last_push;
    let push = json!({
        "bytes": cost.bytes,
        "added": cost.added,
        "changed": cost.changed,
        "unchanged": cost.unchanged,
        "removed": cost.removed,
        "rejected": cost.rejected,
        "decode_us": micros(cost.decode),
        "validate_us": micros(cost.validate),
        "publish_us": micros(cost.publish),
    });
    json!({
        "type": status.ty.short,
        "type_url": status.ty.url,
        "source": status.source,
        "wanted_version": &*status.wanted_version,
        "running_version": &*status.running_version,
        "accepted_ms": status.since.map(millis),
        "in_use": status.published,
        "waiting": waiting,
        "missing": missing,
        "reported": reported.collect::<Vec<_>>(),
        "refused": refused.collect::<Vec<_>>(),
        "last_nack": nack,
        "last_push": push,
    })
}

/// Resources that wait for others, by type.
pub(super) async fn init_dump(state: Arc<AdminState>) -> Reply {
    let status = match &state.xds {
        Some(client) => client.status().await.unwrap_or_default(),
        None => Status::default(),
    };
    let dump = |one: &TypeStatus| UnreadyTargetsDump {
        name: format!("init manager {}", one.ty.short),
        target_names: one.waiting.iter().map(|waiting| waiting.name.to_string()).collect(),
    };
    let unready = status.types.iter().filter(|one| !one.waiting.is_empty());
    reply::message(&UnreadyTargetsDumps {
        unready_targets_dumps: unready.map(dump).collect(),
    })
}
