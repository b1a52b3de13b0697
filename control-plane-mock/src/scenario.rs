//! Scenarios: a script as a file, so that trouble can be played without writing a test.
//!
//! ```yaml
//! resources: []                  # what is served from the start; or `files: [a.yaml]`, relative to the scenario
//! steps:
//! - {at: on-connect, do: withhold, type: eds}
//! - {at: "after-ack: cds", do: bad, type: lds, fault: undecodable}
//! - {at: "after-nack: lds", do: release, type: eds}
//! - {do: push, files: [short.yaml], ttl_ms: 2000}
//! - {do: report, type: eds, name: gone, code: 5, message: no such service}
//! - {at: 500, do: disconnect, ending: reset}
//! ```
//!
//! Steps are played in order. `at` is one of: nothing (at once), a number of milliseconds after the step before, `on-connect` (a stream is
//! opened), `after-request: T`, `after-ack: T`, `after-nack: T`. Events are looked for from the one that the step before waited for, so
//! none is missed because it came early.

mod action;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use action::{Action, Payload};

use crate::handle::Handle;
use crate::store::Snapshot;
use crate::transcript::{Entry, What};
use crate::types;

/// A scenario that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct ScenarioError {
    /// The file (its directory, for a text that came from nowhere).
    pub path: PathBuf,
    /// Which step, and why.
    pub reason: String,
}

/// A scenario ready to be played.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What is served from the start.
    pub initial: Snapshot,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
struct Step {
    at: At,
    action: Action,
}

#[derive(Clone, Debug, PartialEq)]
enum At {
    Once,
    After(Duration),
    Connect,
    Message { what: What, type_url: String },
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// The file cannot be read, or says something that is not understood.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let problem = |reason: String| ScenarioError {
            path: path.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
        Self::read(&text, path.parent().unwrap_or(Path::new("."))).map_err(problem)
    }

    /// Reads a scenario from text; files it names are relative to `base`.
    ///
    /// # Errors
    /// It says something that is not understood.
    pub fn parse(text: &str, base: &Path) -> Result<Self, ScenarioError> {
        Self::read(text, base).map_err(|reason| ScenarioError {
            path: base.to_owned(),
            reason,
        })
    }

    /// Plays the steps through `handle`, in order; ends after the last one.
    ///
    /// # Cancel safety
    /// Stops between two steps.
    pub async fn play(&self, handle: &Handle) {
        let mut cursor = handle.mark();
        for step in &self.steps {
            match &step.at {
                At::Once => {}
                At::After(pause) => tokio::time::sleep(*pause).await,
                At::Connect => cursor = next(handle, cursor, |entry| entry.what == What::Open).await,
                At::Message { what, type_url } => {
                    cursor = next(handle, cursor, |entry| {
                        entry.what == *what && entry.type_url == *type_url
                    })
                    .await;
                }
            }
            step.action.play(handle);
        }
    }

    fn read(text: &str, base: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            #[serde(default)]
            resources: Vec<Value>,
            #[serde(default)]
            files: Vec<PathBuf>,
            #[serde(default)]
            steps: Vec<Map<String, Value>>,
        }
        let value = remora_proto::json::parse(text).map_err(|error| error.to_string())?;
        let document: Document = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let mut initial = Payload {
            resources: document.resources,
            files: document.files,
            ..Payload::default()
        };
        initial.read(base)?;
        let mut steps = Vec::with_capacity(document.steps.len());
        for (index, step) in document.steps.into_iter().enumerate() {
            steps.push(Step::read(step, base).map_err(|reason| format!("steps[{index}]: {reason}"))?);
        }
        Ok(Self {
            initial: initial.snapshot,
            steps,
        })
    }
}

impl Step {
    fn read(mut fields: Map<String, Value>, base: &Path) -> Result<Self, String> {
        let at = fields.remove("at").map_or(Ok(At::Once), |at| At::read(&at))?;
        let mut action: Action = serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
        if let Action::Push(payload) | Action::Set(payload) = &mut action {
            payload.read(base)?;
        }
        for name in action.types() {
            types::known(name).map_err(|reason| format!("type: {reason}"))?;
        }
        Ok(Self { at, action })
    }
}

impl At {
    fn read(value: &Value) -> Result<Self, String> {
        if let Some(pause) = value.as_u64() {
            return Ok(Self::After(Duration::from_millis(pause)));
        }
        let (event, type_name) = match value {
            Value::String(text) => {
                let (event, type_name) = text.split_once(':').unwrap_or((text, ""));
                (event.trim().to_owned(), type_name.trim().to_owned())
            }
            Value::Object(fields) if fields.len() == 1 => fields
                .iter()
                .next()
                .map(|(event, type_name)| (event.clone(), type_name.as_str().unwrap_or_default().to_owned()))
                .unwrap_or_default(),
            _ => return Err(format!("at: {value} is neither a number of milliseconds nor an event")),
        };
        let what = match event.as_str() {
            "on-connect" => return Ok(Self::Connect),
            "after-request" => What::Request,
            "after-ack" => What::Ack,
            "after-nack" => What::Nack,
            _ => return Err(format!("at: there is no event {event:?}")),
        };
        if type_name.is_empty() {
            return Err(format!("at: {event} needs a type, as in \"{event}: cds\""));
        }
        Ok(Self::Message {
            what,
            type_url: types::known(&type_name).map_err(|reason| format!("at: {reason}"))?,
        })
    }
}

/// Index after the next entry that matches, however long that takes.
async fn next(handle: &Handle, cursor: usize, mut matches: impl FnMut(&Entry) -> bool) -> usize {
    let mut from = cursor;
    loop {
        for entry in handle.next_entries(from).await {
            from = entry.index + 1;
            if matches(&entry) {
                return from;
            }
        }
    }
}
