//! The wire rules of one stream, without I/O: what a request changes, what is owed to the client, and the response that pays it.
//!
//! [`sotw`] and [`delta`] hold the two variants behind one trait; `stream.rs` pumps bytes in and out of them.

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::{ControlPlane, Node};
use remora_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource, ResourceError, ResourceName,
};
use remora_proto::pb::google::protobuf::{Any, Duration as ProtoDuration};
use remora_proto::pb::google::rpc::Status;

use crate::script::{Fault, Script};
use crate::store::{self, Store, TypeState};
use crate::transcript::{Entry, What};
use crate::types;

pub mod delta;
pub mod sotw;

/// A response on its way out: what to write in the transcript and what to put on the wire.
#[derive(Debug)]
pub struct Reply {
    /// The transcript's view of it.
    pub entry: Entry,
    /// The message.
    pub message: Response,
}

/// A response of either variant.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// State of the world.
    Sotw(DiscoveryResponse),
    /// Delta.
    Delta(DeltaDiscoveryResponse),
}

/// One side of the protocol on one stream.
pub trait Session: Send + Sync + 'static {
    /// Takes in one request and says how the transcript should show it.
    ///
    /// # Errors
    /// Bytes that are no request, or a type that this method does not serve: the text for the gRPC status.
    fn receive(&mut self, bytes: Bytes, store: &Store, script: &Script) -> Result<Entry, String>;

    /// Types the client has subscribed to, with anything owed or not.
    fn subscribed(&self) -> Vec<String>;

    /// True if the client should get a response of this type.
    fn owes(&self, type_url: &str, store: &Store, script: &Script) -> bool;

    /// Builds the response of this type and notes what the client now has.
    fn respond(&mut self, type_url: &str, store: &Store, script: &Script) -> Reply;

    /// Builds a response with every resource held of a type, asked for or not.
    fn respond_unsolicited(&mut self, type_url: &str, store: &Store) -> Reply;

    /// Builds a TTL heartbeat for one resource.
    fn heartbeat(&mut self, type_url: &str, name: &str, store: &Store) -> Reply;

    /// Forgets what was sent of a type, so that all of it is owed again.
    fn forget_sent(&mut self, type_url: &str);

    /// The nonce last sent for a type and the one before it.
    fn nonces(&self, type_url: &str) -> (String, String);
}

/// What both variants need to know about their stream.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// Number of the stream.
    pub id: u64,
    /// The only type served, for the per-type methods.
    pub only: Option<&'static str>,
    /// `control_plane.identifier` of every response.
    pub identifier: String,
}

impl StreamInfo {
    fn check_type(&self, requested: &str) -> Result<String, String> {
        match (self.only, requested) {
            (None, "") => Err("type URL is required for ADS".to_owned()),
            (Some(only), "") => Ok(only.to_owned()),
            (Some(only), other) if only != other => Err(format!("this method serves {only}, not {other}")),
            (_, other) => Ok(other.to_owned()),
        }
    }

    fn control_plane(&self) -> Option<ControlPlane> {
        (!self.identifier.is_empty()).then(|| ControlPlane {
            identifier: self.identifier.clone(),
        })
    }
}

impl Reply {
    /// Applies what a fault does to the content. (What it does to the transport is the stream's business.)
    pub fn spoil(&mut self, fault: &Fault, previous_nonce: &str) {
        let type_url = self.entry.type_url.clone();
        match fault {
            Fault::Undecodable => self.message.add("undecodable", store::raw(&type_url, UNDECODABLE)),
            Fault::WrongType => {
                let other = if type_url == types::CLUSTER {
                    types::LISTENER
                } else {
                    types::CLUSTER
                };
                self.message.add("wrong-type", store::raw(other, Vec::new()));
            }
            Fault::Report { name, code, message } => self.message.report(name, *code, message),
            Fault::Extra(any) => self.message.add(&store::name_of(any), any.clone()),
            Fault::Duplicate => self.message.duplicate_first(),
            Fault::DuplicateNonce => self.set_nonce(previous_nonce.to_owned()),
            Fault::StaleNonce => self.set_nonce(format!("stale-{}", self.entry.nonce)),
            Fault::Garbage | Fault::CutShort(_) | Fault::Lost => {}
        }
        self.entry.note = format!("{fault:?}");
    }

    fn set_nonce(&mut self, nonce: String) {
        match &mut self.message {
            Response::Sotw(response) => response.nonce.clone_from(&nonce),
            Response::Delta(response) => response.nonce.clone_from(&nonce),
        }
        self.entry.nonce = nonce;
    }
}

impl Response {
    /// The encoded message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Sotw(response) => response.encode_to_vec(),
            Self::Delta(response) => response.encode_to_vec(),
        }
    }

    fn add(&mut self, name: &str, any: Any) {
        match self {
            Self::Sotw(response) => response.resources.push(any),
            Self::Delta(response) => response.resources.push(Resource {
                name: name.to_owned(),
                version: "bad".to_owned(),
                resource: Some(any),
                ..Default::default()
            }),
        }
    }

    fn report(&mut self, name: &str, code: i32, message: &str) {
        let error = ResourceError {
            resource_name: Some(ResourceName {
                name: name.to_owned(),
                ..Default::default()
            }),
            error_detail: Some(Status {
                code,
                message: message.to_owned(),
                ..Default::default()
            }),
        };
        match self {
            Self::Sotw(response) => response.resource_errors.push(error),
            Self::Delta(response) => response.resource_errors.push(error),
        }
    }

    fn duplicate_first(&mut self) {
        match self {
            Self::Sotw(response) => response.resources.extend(response.resources.first().cloned()),
            Self::Delta(response) => response.resources.extend(response.resources.first().cloned()),
        }
    }
}

/// Field 1 announced as 127 bytes long, with none of them there.
const UNDECODABLE: [u8; 2] = [0x0a, 0x7f];

fn kind(error: Option<&Status>, answers: bool) -> What {
    match (error, answers) {
        (Some(_), _) => What::Nack,
        (None, true) => What::Ack,
        (None, false) => What::Request,
    }
}

fn describe(entry: &mut Entry, node: Option<&Node>, error: Option<&Status>) {
    entry.node = node.map(|node| node.id.clone());
    entry.error = error.map(|status| (status.code, status.message.clone()));
}

fn wrap(name: &str, version: &str, resource: Option<Any>, ttl: Option<std::time::Duration>) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource,
        ttl: ttl.map(|ttl| ProtoDuration {
            seconds: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            nanos: ttl.subsec_nanos().cast_signed(),
        }),
        ..Default::default()
    }
}

fn version_of(store: &Store, type_url: &str) -> String {
    store.of(type_url).map_or_else(|| "0".to_owned(), TypeState::version)
}
