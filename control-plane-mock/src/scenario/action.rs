//! What the steps of a scenario do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::handle::Handle;
use crate::script::{Ending, Fault, Manner, Pace};
use crate::store::Snapshot;
use crate::text;

/// What a step does; field names are those of the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Action {
    Push(Payload),
    Set(Payload),
    Remove {
        r#type: String,
        name: String,
    },
    Withhold {
        r#type: String,
        name: Option<String>,
    },
    Release {
        r#type: String,
    },
    Delay {
        r#type: String,
        ms: u64,
    },
    Bad {
        r#type: String,
        fault: FaultName,
        #[serde(default)]
        ending: EndingName,
    },
    Disconnect {
        stream: Option<u64>,
        #[serde(default)]
        ending: EndingName,
    },
    EndAfter {
        responses: u64,
        #[serde(default)]
        ending: EndingName,
    },
    /// Drops every connection and accepts none until `up`.
    Down {},
    Up {},
    /// Answers new streams with a gRPC status code; without one, serves them again.
    RefuseStreams {
        code: Option<i32>,
    },
    Pace {
        chunk: usize,
        gap_ms: u64,
    },
    Order {
        types: Vec<String>,
    },
    Resend {
        r#type: String,
    },
    /// Sends the type again with an entry in `resource_errors`.
    Report {
        r#type: String,
        name: String,
        code: i32,
        #[serde(default)]
        message: String,
    },
    Heartbeat {
        r#type: String,
        name: String,
    },
    Unsolicited {
        r#type: String,
    },
    PinVersion {
        r#type: String,
        version: String,
    },
    Manner {
        manner: MannerName,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    #[serde(default)]
    pub(super) resources: Vec<Value>,
    #[serde(default)]
    pub(super) files: Vec<PathBuf>,
    /// Time to live of each of them, whatever their files say.
    pub(super) ttl_ms: Option<u64>,
    /// The same, read: filled in when the scenario is.
    #[serde(skip)]
    pub(super) snapshot: Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FaultName {
    Undecodable,
    WrongType,
    Duplicate,
    DuplicateNonce,
    StaleNonce,
    Garbage,
    CutShort,
    Lost,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum EndingName {
    Ok,
    #[default]
    Unavailable,
    Reset,
    Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MannerName {
    Plain,
    GoControlPlane,
}

impl Payload {
    pub(super) fn read(&mut self, base: &Path) -> Result<(), String> {
        for (index, value) in self.resources.iter().enumerate() {
            let resource = text::resource(value).map_err(|reason| format!("resources[{index}]: {reason}"))?;
            self.snapshot.add_any(resource);
        }
        for file in &self.files {
            let named = |reason: String| format!("{}: {reason}", file.display());
            let content = std::fs::read_to_string(base.join(file)).map_err(|error| named(error.to_string()))?;
            for any in text::resources(&content).map_err(named)? {
                self.snapshot.add_any(any);
            }
        }
        if let Some(ttl) = self.ttl_ms {
            self.snapshot.set_ttl(Duration::from_millis(ttl));
        }
        Ok(())
    }
}

impl Action {
    /// The types that it names.
    pub(super) fn types(&self) -> &[String] {
        match self {
            Self::Order { types } => types,
            Self::Remove { r#type, .. }
            | Self::Withhold { r#type, .. }
            | Self::Release { r#type }
            | Self::Delay { r#type, .. }
            | Self::Bad { r#type, .. }
            | Self::Resend { r#type }
            | Self::Report { r#type, .. }
            | Self::Heartbeat { r#type, .. }
            | Self::Unsolicited { r#type }
            | Self::PinVersion { r#type, .. } => std::slice::from_ref(r#type),
            Self::Push(_)
            | Self::Set(_)
            | Self::Disconnect { .. }
            | Self::EndAfter { .. }
            | Self::Down {}
            | Self::Up {}
            | Self::RefuseStreams { .. }
            | Self::Pace { .. }
            | Self::Manner { .. } => &[],
        }
    }

    pub(super) fn play(&self, handle: &Handle) {
        match self {
            Self::Push(payload) => handle.push_all(&payload.snapshot),
            Self::Set(payload) => handle.set(&payload.snapshot),
            Self::Remove { r#type, name } => {
                // A name that was never there leaves nothing to do.
                let _ = handle.remove(r#type, name);
            }
            Self::Withhold { r#type, name: None } => handle.withhold(r#type),
            Self::Withhold {
                r#type,
                name: Some(name),
            } => handle.withhold_name(r#type, name),
            Self::Release { r#type } => handle.release(r#type),
            Self::Delay { r#type, ms } => handle.delay(r#type, Duration::from_millis(*ms)),
            Self::Bad { r#type, fault, ending } => handle.fault(r#type, fault.fault(ending.ending())),
            Self::Disconnect { stream: None, ending } => handle.disconnect(ending.ending()),
            Self::Disconnect {
                stream: Some(stream),
                ending,
            } => handle.disconnect_stream(*stream, ending.ending()),
            Self::EndAfter { responses, ending } => handle.end_after(Some((*responses, ending.ending()))),
            Self::Down {} => {
                handle.refuse_connections(true);
                handle.disconnect(Ending::Connection);
            }
            Self::Up {} => handle.refuse_connections(false),
            Self::RefuseStreams { code } => handle.refuse_streams(*code),
            Self::Pace { chunk, gap_ms } => {
                handle.pace(Some(Pace {
                    chunk: *chunk,
                    gap: Duration::from_millis(*gap_ms),
                }));
            }
            Self::Order { types } => handle.order(&types.iter().map(String::as_str).collect::<Vec<_>>()),
            Self::Resend { r#type } => handle.resend(r#type),
            Self::Report {
                r#type,
                name,
                code,
                message,
            } => {
                let (name, code, message) = (name.clone(), *code, message.clone());
                handle.fault(r#type, Fault::Report { name, code, message });
                handle.resend(r#type);
            }
            Self::Heartbeat { r#type, name } => handle.heartbeat(r#type, name),
            Self::Unsolicited { r#type } => handle.unsolicited(r#type),
            Self::PinVersion { r#type, version } => handle.pin_version(r#type, version),
            Self::Manner {
                manner: MannerName::Plain,
            } => handle.manner(Manner::Plain),
            Self::Manner {
                manner: MannerName::GoControlPlane,
            } => handle.manner(Manner::GoControlPlane),
        }
    }
}

impl FaultName {
    fn fault(self, ending: Ending) -> Fault {
        match self {
            Self::Undecodable => Fault::Undecodable,
            Self::WrongType => Fault::WrongType,
            Self::Duplicate => Fault::Duplicate,
            Self::DuplicateNonce => Fault::DuplicateNonce,
            Self::StaleNonce => Fault::StaleNonce,
            Self::Garbage => Fault::Garbage,
            Self::CutShort => Fault::CutShort(ending),
            Self::Lost => Fault::Lost,
        }
    }
}

impl EndingName {
    fn ending(self) -> Ending {
        match self {
            Self::Ok => Ending::Ok,
            Self::Unavailable => Ending::Unavailable,
            Self::Reset => Ending::Reset,
            Self::Connection => Ending::Connection,
        }
    }
}
