//! Plays a script on both proxies, each with a control plane of its own, and reports what differs.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use control_plane_mock::resources::{Variant, bootstrap_ads_with, cluster_static};
use control_plane_mock::{ControlPlane, Entry, Handle, NothingMatched, What};
use remora_tests::{External, PATIENCE, Sidecar};

use crate::differences::DIFFERENCES;
use crate::harness::{envoy_or_skip, only_in};

/// What is waited for; each of the type.
#[derive(Clone, Copy, Debug)]
pub enum Said {
    Ack(&'static str),
    Nack(&'static str),
    /// One or the other.
    Answer(&'static str),
    /// A request that answers nothing.
    Request(&'static str),
    /// A request that no longer wants this name.
    Dropped(&'static str, &'static str),
}

impl Said {
    fn is(self, entry: &Entry) -> bool {
        let (ty, kinds): (_, &[What]) = match self {
            Self::Ack(ty) => (ty, &[What::Ack]),
            Self::Nack(ty) => (ty, &[What::Nack]),
            Self::Answer(ty) => (ty, &[What::Ack, What::Nack]),
            Self::Request(ty) => (ty, &[What::Request]),
            Self::Dropped(ty, name) => {
                let named = |names: &[String]| names.iter().any(|other| other == name);
                let dropped = match entry.delta {
                    true => named(&entry.removed),
                    false => !named(&entry.names),
                };
                return entry.is_request() && entry.is_of(ty) && dropped;
            }
        };
        kinds.contains(&entry.what) && entry.is_of(ty)
    }
}

/// One thing that the control plane does, and what must have been said before the next.
pub struct Step {
    pub name: &'static str,
    pub act: fn(&Handle),
    pub then: &'static [Said],
}

pub fn step(name: &'static str, then: &'static [Said], act: fn(&Handle)) -> Step {
    Step { name, act, then }
}

/// Plays `script` on both and panics with all requests that differ and are not accepted.
pub async fn compare(world: &str, variant: Variant, script: Vec<Step>) {
    let Some(envoy) = envoy_or_skip(world) else { return };
    let theirs = converse(Some(Path::new(&envoy)), variant, &script).await;
    let ours = converse(None, variant, &script).await;
    let mut wrong = Vec::new();
    for (index, step) in script.iter().enumerate() {
        let case = format!("xds-{world}/{}", step.name);
        let (theirs, ours) = (&theirs[index], &ours[index]);
        let (missing, extra) = (only_in(theirs, ours), only_in(ours, theirs));
        let listed = DIFFERENCES.iter().find(|difference| difference.case == case);
        match (theirs == ours, listed) {
            (false, None) => wrong.push(format!("{case}:\n{}", side_by_side(&missing, &extra, theirs, ours))),
            (true, Some(listed)) => wrong.push(format!("{case}: listed, but there is no difference ({})", listed.why)),
            _ => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "{} steps differ:\n\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn side_by_side(missing: &[String], extra: &[String], theirs: &str, ours: &str) -> String {
    if missing.is_empty() && extra.is_empty() {
        return format!("  another order:\n  Envoy:\n{theirs}\n  Remora:\n{ours}\n");
    }
    let mut text = format!("  Envoy:\n{theirs}\n  Remora:\n{ours}\n");
    for (mark, lines) in [("- Envoy: ", missing), ("+ Remora:", extra)] {
        for line in lines {
            let _ = writeln!(text, "  {mark} {line}");
        }
    }
    text
}

enum Subject {
    External { _envoy: External },
    Sidecar { _sidecar: Sidecar },
}

/// What one proxy says at each step, by type in order.
async fn converse(envoy: Option<&Path>, variant: Variant, script: &[Step]) -> Vec<String> {
    let control_plane = ControlPlane::start().await.unwrap();
    let handle = control_plane.handle();
    let mut said = Vec::new();
    let mut subject = None;
    for (index, step) in script.iter().enumerate() {
        let mark = handle.mark();
        (step.act)(&handle);
        if subject.is_none() {
            let admin = SocketAddr::from(([127, 0, 0, 1], 0));
            let bootstrap = bootstrap_ads_with("parity", handle.listen(), admin, variant, |_| {});
            subject = Some(match envoy {
                Some(program) => Subject::External {
                    _envoy: External::start(program, &bootstrap).await,
                },
                None => Subject::Sidecar {
                    _sidecar: Sidecar::start(&bootstrap).await.unwrap(),
                },
            });
        }
        let who = if envoy.is_some() { "Envoy" } else { "Remora" };
        for said in step.then {
            if let Err(error) = handle.wait_from(mark, |entry| said.is(entry), PATIENCE).await {
                panic!("{who}, {}: no {said:?}: {error}", step.name);
            }
        }
        // A stream is ordered: whatever was said before the answer to this is here when the answer is. Twice, as what the control plane
        // owed to other types may come after the first.
        let mut end = mark;
        for round in 0..2 {
            let port = 1000 + (index * 2 + round) as u16;
            end = pass(&handle, port)
                .await
                .unwrap_or_else(|error| panic!("{who}, {}: {error}", step.name));
        }
        let entries = handle.transcript();
        let of_step = entries.iter().filter(|entry| entry.index >= mark && entry.index <= end);
        said.push(render(of_step));
    }
    said
}

/// Pushes a cluster that nothing depends on. Returns the place of its answer in the transcript.
async fn pass(handle: &Handle, port: u16) -> Result<usize, NothingMatched> {
    let mark = handle.mark();
    let version = handle.push_cluster(cluster_static("barrier", [("127.0.0.1", port)]));
    let sent = |entry: &Entry| entry.what == What::Response && entry.is_of("cds") && entry.version == version;
    let sent = handle.wait_from(mark, sent, PATIENCE).await?;
    let answered = |entry: &Entry| {
        entry.is_request() && entry.is_of("cds") && entry.stream == sent.stream && entry.nonce == sent.nonce
    };
    Ok(handle.wait_from(mark, answered, PATIENCE).await?.index)
}

/// The requests as lines, by type: what types say to each other's answers is a matter of timing, what one says is not.
fn render<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let mut lines: Vec<(String, String)> = entries.filter(|entry| entry.is_request()).map(line).collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

fn line(entry: &Entry) -> (String, String) {
    let ty = entry.type_url.rsplit('.').next().unwrap_or_default().to_owned();
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names.join(",")
    };
    let mut line = format!(
        "{ty} {:?} stream={} version={:?} nonce={:?} [{}]",
        entry.what,
        entry.stream,
        entry.version,
        entry.nonce,
        sorted(&entry.names)
    );
    if entry.delta {
        let held: Vec<String> = entry
            .initial_versions
            .iter()
            .map(|(name, version)| format!("{name}@{version}"))
            .collect();
        let _ = write!(line, " -[{}] initial=[{}]", sorted(&entry.removed), held.join(","));
    }
    if entry.node.is_some() {
        line.push_str(" node");
    }
    // The words of a reason are each proxy's own; that there are some is not.
    if let Some((code, reason)) = &entry.error {
        let _ = write!(
            line,
            " error={code} {}",
            if reason.is_empty() {
                "without a reason"
            } else {
                "with a reason"
            }
        );
    }
    (ty, line)
}
