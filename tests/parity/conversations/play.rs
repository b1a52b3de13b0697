//! Plays a script on both proxies, each with a control plane of its own, and reports what differs.

use std::fmt::Write;
use std::path::Path;

use control_plane_mock::resources::{Variant, cluster_static};
use control_plane_mock::{Entry, Handle, NothingMatched, What};
use remora_tests::{External, PATIENCE, Sidecar};

use super::stage::{Form, Stage};
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
    fn ty(self) -> &'static str {
        match self {
            Self::Ack(ty) | Self::Nack(ty) | Self::Answer(ty) | Self::Request(ty) | Self::Dropped(ty, _) => ty,
        }
    }

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
    pub act: fn(&Stage),
    pub then: Vec<Said>,
}

pub fn step(name: &'static str, then: &'static [Said], act: fn(&Stage)) -> Step {
    Step {
        name,
        act,
        then: then.to_vec(),
    }
}

/// Plays `script` on both and panics with all requests that differ and are not accepted.
pub async fn compare(world: &str, form: Form, variant: Variant, script: Vec<Step>) {
    let Some(envoy) = envoy_or_skip(world) else { return };
    let theirs = converse(Some(Path::new(&envoy)), form, variant, &script).await;
    let ours = converse(None, form, variant, &script).await;
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

/// What one proxy says at each step.
async fn converse(envoy: Option<&Path>, form: Form, variant: Variant, script: &[Step]) -> Vec<String> {
    let stage = Stage::set(form, variant).await;
    let who = if envoy.is_some() { "Envoy" } else { "Remora" };
    let mut said = Vec::new();
    let mut subject = None;
    for (index, step) in script.iter().enumerate() {
        let marks: Vec<usize> = stage.planes().map(|(_, plane)| plane.mark()).collect();
        (step.act)(&stage);
        if subject.is_none() {
            let bootstrap = stage.bootstrap();
            subject = Some(match envoy {
                Some(program) => Subject::External {
                    _envoy: External::start(program, &bootstrap).await,
                },
                None => Subject::Sidecar {
                    _sidecar: Sidecar::start(&bootstrap).await.unwrap(),
                },
            });
        }
        for said in &step.then {
            let at = stage.place_of(said.ty());
            let (_, plane) = stage.planes().nth(at).unwrap();
            if let Err(error) = plane.wait_from(marks[at], |entry| said.is(entry), PATIENCE).await {
                panic!("{who}, {}: no {said:?}: {error}", step.name);
            }
        }
        // A stream is ordered: whatever was said before the answer to this is here when the answer is. Twice, as what the control plane
        // owed to other types may come after the first.
        for round in 0..2 {
            let port = 1000 + (index * 2 + round) as u16;
            let passed = pass(&stage.main(), port).await;
            passed.unwrap_or_else(|error| panic!("{who}, {}: {error}", step.name));
        }
        // Other streams are not: there, whatever was sent must have been answered.
        let mut lines = Vec::new();
        for ((name, plane), mark) in stage.planes().zip(&marks) {
            let answered = settled(&plane, *mark).await;
            answered.unwrap_or_else(|error| panic!("{who}, {}: {error}", step.name));
            lines.push(render(name, form, &plane.transcript(), *mark));
        }
        lines.retain(|lines| !lines.is_empty());
        said.push(lines.join("\n"));
    }
    said
}

/// Pushes a cluster that nothing depends on, and waits until it is answered.
async fn pass(handle: &Handle, port: u16) -> Result<(), NothingMatched> {
    let mark = handle.mark();
    let version = handle.push_cluster(cluster_static("barrier", [("127.0.0.1", port)]));
    let sent = |entry: &Entry| entry.what == What::Response && entry.is_of("cds") && entry.version == version;
    let sent = handle.wait_from(mark, sent, PATIENCE).await?;
    let answered = |entry: &Entry| {
        entry.is_request() && entry.is_of("cds") && entry.stream == sent.stream && entry.nonce == sent.nonce
    };
    handle.wait_from(mark, answered, PATIENCE).await.map(drop)
}

/// Waits until every response since `mark` is answered that can be: on a stream that is still there, of a type that was asked for there.
async fn settled(handle: &Handle, mark: usize) -> Result<(), NothingMatched> {
    let entries = handle.transcript();
    let asked = |one: &Entry| {
        let asks = |other: &Entry| other.is_request() && other.stream == one.stream && other.type_url == one.type_url;
        entries.iter().any(asks)
    };
    let sent = entries
        .iter()
        .filter(|entry| entry.index >= mark && entry.what == What::Response);
    for one in sent.filter(|entry| asked(entry)) {
        let over = |entry: &Entry| {
            let answers = entry.is_request() && entry.type_url == one.type_url && entry.nonce == one.nonce;
            entry.stream == one.stream && (answers || entry.what == What::Close)
        };
        handle.wait_from(one.index, over, PATIENCE).await?;
    }
    Ok(())
}

/// The requests as lines, by conversation: what conversations say to each other's answers is a matter of timing, what one says is not.
fn render(plane: &str, form: Form, entries: &[Entry], mark: usize) -> String {
    let of_step = entries.iter().filter(|entry| entry.index >= mark && entry.is_request());
    let mut lines: Vec<(String, String)> = of_step
        .map(|entry| {
            let mut conversation = entry.type_url.rsplit('.').next().unwrap_or_default().to_owned();
            if form == Form::Separate || plane != "ads" {
                conversation = format!("{plane} {conversation} {}", label(entries, entry.stream));
            } else {
                conversation = format!("{conversation} stream={}", entry.stream);
            }
            let line = format!("{conversation} {}", line(entry));
            (conversation, line)
        })
        .collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// What a stream that carries one subscription was opened for, and how many were before it: in which order streams are opened is a matter of
/// timing.
fn label(entries: &[Entry], stream: u64) -> String {
    let first = |stream: u64| {
        let said = entries
            .iter()
            .find(|entry| entry.stream == stream && entry.is_request());
        said.map(|entry| (entry.type_url.clone(), entry.names.clone()))
    };
    let mine = first(stream);
    let opened = entries
        .iter()
        .filter(|entry| entry.what == What::Open && entry.stream < stream);
    let before = opened.filter(|entry| first(entry.stream) == mine).count();
    let names = mine.map(|(_, names)| names.join(",")).unwrap_or_default();
    format!("of {names:?} #{before}")
}

fn line(entry: &Entry) -> String {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names.join(",")
    };
    let mut line = format!(
        "{:?} version={:?} nonce={:?} [{}]",
        entry.what,
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
    line
}
