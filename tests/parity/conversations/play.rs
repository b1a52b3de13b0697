//! Plays a script on both proxies, each with a control plane of its own, and reports what differs.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use control_plane_mock::resources::{Variant, bootstrap_ads_with, cluster_static};
use control_plane_mock::{ControlPlane, Entry, Handle, What};
use remora_tests::{External, PATIENCE, Sidecar};

use crate::differences::DIFFERENCES;
use crate::harness::{envoy_or_skip, only_in};

/// One thing that the control plane does, and what must have been said before the next.
pub struct Step {
    pub name: &'static str,
    pub act: fn(&Handle),
    /// Answers that are waited for: kind and type.
    pub then: &'static [(What, &'static str)],
}

pub fn step(name: &'static str, then: &'static [(What, &'static str)], act: fn(&Handle)) -> Step {
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
    let mut text = String::new();
    for (mark, lines) in [("- Envoy: ", missing), ("+ Remora:", extra)] {
        lines.iter().for_each(|line| drop(writeln!(text, "  {mark} {line}")));
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
        for (what, ty) in step.then {
            let wanted = |entry: &Entry| entry.what == *what && entry.is_of(ty);
            if let Err(error) = handle.wait_from(mark, wanted, PATIENCE).await {
                panic!("{who}, {}: no {what:?} of {ty}: {error}", step.name);
            }
        }
        // A stream is ordered: whatever was said before the answer to this is here when the answer is.
        let barrier = handle.mark();
        handle.push_cluster(cluster_static("barrier", [("127.0.0.1", 1000 + index as u16)]));
        let passed = |entry: &Entry| matches!(entry.what, What::Ack | What::Nack) && entry.is_of("cds");
        let passed = handle.wait_from(barrier, passed, PATIENCE).await;
        let Ok(passed) = passed else {
            panic!("{who}, {}: {passed:?}", step.name)
        };
        let entries = handle.transcript();
        let of_step = entries
            .iter()
            .filter(|entry| entry.index >= mark && entry.index <= passed.index);
        said.push(render(of_step));
    }
    said
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
