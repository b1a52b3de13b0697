//! Discovery responses, parsed off the wire into slices of the message they came in.
//!
//! What is wrong with one resource is noted on that resource, so that the others can be applied; only bytes that are no protobuf
//! message at all fail as a whole.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::wire::{self, Reader, Value, WireError};
use crate::bugs::{Bug, planted};
use crate::types::{self, ResourceType, TypeInfo, WRAPPER_URL};

/// One `DiscoveryResponse` or `DeltaDiscoveryResponse`.
#[derive(Debug, Default)]
pub struct Response {
    pub type_url: String,
    /// `version_info` or `system_version_info`.
    pub version: Arc<str>,
    pub nonce: String,
    /// `control_plane.identifier`.
    pub control_plane: Option<String>,
    pub resources: Vec<Received>,
    /// Delta only: names that are gone.
    pub removed: Vec<Arc<str>>,
    /// Name and message of each `resource_errors` entry.
    pub errors: Vec<(String, String)>,
    /// Bytes of the whole message.
    pub size: usize,
}

/// One resource of a response, or what is wrong with it.
#[derive(Debug)]
pub struct Received {
    /// Empty when the bytes do not tell.
    pub name: Arc<str>,
    pub version: Arc<str>,
    /// A slice of the response; `None` is a heartbeat or an unresolved alias.
    pub payload: Option<Bytes>,
    pub ttl: Option<Duration>,
    pub aliases: Vec<String>,
    pub problem: Option<String>,
    /// The problem is that it is of another type than the response.
    pub foreign: bool,
}

impl Response {
    /// Parses a SotW `DiscoveryResponse`.
    ///
    /// # Errors
    /// The bytes are not a protobuf message of that shape.
    pub fn parse_sotw(message: &Bytes) -> Result<Self, WireError> {
        Self::parse_of(message, None)
    }

    /// Parses the content of a file. It need not say of which type its resources are, as in Envoy: whoever names it knows. Nobody will send
    /// a heartbeat for what is in it, so nothing of it is mortal, which is Envoy's view, too.
    ///
    /// # Errors
    /// The bytes are not a protobuf message of that shape.
    pub(crate) fn parse_file(message: &Bytes, ty: ResourceType) -> Result<Self, WireError> {
        let mut response = Self::parse_of(message, Some(ty))?;
        let mortal = response.resources.iter_mut().filter(|_| !planted(Bug::FilesDie));
        mortal.for_each(|received| received.ttl = None);
        Ok(response)
    }

    fn parse_of(message: &Bytes, ty: Option<ResourceType>) -> Result<Self, WireError> {
        let mut response = Self {
            size: message.len(),
            ..Self::default()
        };
        let mut anys = Vec::new();
        let mut reader = Reader::new(message);
        loop {
            let field = match reader.field() {
                Err(_) if planted(Bug::TakesHalfFiles) && ty.is_some() => None,
                field => field?,
            };
            let Some((number, value)) = field else { break };
            let Value::Span(span) = value else { continue };
            match number {
                1 => response.version = wire::text(message, span)?.into(),
                2 => anys.push(message.slice(span)),
                4 => response.type_url = wire::text(message, span)?.to_owned(),
                5 => response.nonce = wire::text(message, span)?.to_owned(),
                6 => response.control_plane = Some(wire::string_field(&message[span], 1)?.to_owned()),
                7 => response.errors.push(resource_error(&message.slice(span))?),
                _ => {}
            }
        }
        if let Some(ty) = ty {
            response.type_url = ty.url.to_owned();
        }
        response.resources = anys
            .iter()
            .map(|any| from_any(any, &response.type_url, &response.version))
            .collect();
        Ok(response)
    }

    /// Parses a `DeltaDiscoveryResponse`.
    ///
    /// # Errors
    /// The bytes are not a protobuf message of that shape.
    pub fn parse_delta(message: &Bytes) -> Result<Self, WireError> {
        let mut response = Self {
            size: message.len(),
            ..Self::default()
        };
        let mut entries = Vec::new();
        let mut reader = Reader::new(message);
        while let Some((number, value)) = reader.field()? {
            let Value::Span(span) = value else { continue };
            match number {
                1 => response.version = wire::text(message, span)?.into(),
                2 => entries.push(message.slice(span)),
                4 => response.type_url = wire::text(message, span)?.to_owned(),
                5 => response.nonce = wire::text(message, span)?.to_owned(),
                6 => response.removed.push(wire::text(message, span)?.into()),
                7 => response.control_plane = Some(wire::string_field(&message[span], 1)?.to_owned()),
                8 => response.removed.push(wire::string_field(&message[span], 1)?.into()),
                9 => response.errors.push(resource_error(&message.slice(span))?),
                _ => {}
            }
        }
        let url = response.type_url.as_str();
        response.resources = entries.iter().map(|entry| from_wrapper(entry, url, None)).collect();
        Ok(response)
    }
}

/// An element of a SotW response: the resource, or its `Resource` wrapper.
fn from_any(any: &Bytes, type_url: &str, version: &Arc<str>) -> Received {
    let (url, value) = match wire::any(any) {
        Ok(parts) => parts,
        Err(error) => return Received::broken(error.to_string()),
    };
    if url == WRAPPER_URL && type_url != WRAPPER_URL {
        return from_wrapper(&value, type_url, Some(version));
    }
    let mut received = Received::plain(version.clone());
    received.fill(url, value, type_url);
    received
}

/// A `Resource`: field 1 version, 2 payload, 3 name, 4 aliases, 6 TTL. In SotW everything is of the response's version, as in Envoy, whatever
/// the wrapper says.
fn from_wrapper(entry: &Bytes, type_url: &str, of_response: Option<&Arc<str>>) -> Received {
    let mut received = Received::plain(Arc::default());
    if let Err(error) = received.unwrap(entry, type_url) {
        received.problem = Some(error.to_string());
    }
    if let Some(version) = of_response {
        received.version = version.clone();
    }
    received
}

impl Received {
    fn plain(version: Arc<str>) -> Self {
        Self {
            name: Arc::default(),
            version,
            payload: None,
            ttl: None,
            aliases: Vec::new(),
            problem: None,
            foreign: false,
        }
    }

    fn broken(problem: String) -> Self {
        Self::refused(Arc::default(), problem)
    }

    /// What is wrong with the resource called `name`.
    pub(crate) fn refused(name: Arc<str>, problem: String) -> Self {
        Self {
            name,
            problem: Some(problem),
            ..Self::plain(Arc::default())
        }
    }

    fn unwrap(&mut self, entry: &Bytes, type_url: &str) -> Result<(), WireError> {
        let mut payload = None;
        let mut reader = Reader::new(entry);
        while let Some((number, value)) = reader.field()? {
            let Value::Span(span) = value else { continue };
            match number {
                1 => self.version = wire::text(entry, span)?.into(),
                2 => payload = Some(entry.slice(span)),
                3 => self.name = wire::text(entry, span)?.into(),
                4 => self.aliases.push(wire::text(entry, span)?.to_owned()),
                6 => self.ttl = Some(duration(&entry[span])?),
                _ => {}
            }
        }
        if let Some(any) = payload {
            let (url, value) = wire::any(&any)?;
            self.fill(url, value, type_url);
        }
        Ok(())
    }

    /// Takes the payload. A wrapper's name is what was asked for: the payload has to have it too, but for clusters and listeners, which are called
    /// what they call themselves (spec A.4).
    fn fill(&mut self, url: &str, value: Bytes, type_url: &str) {
        match wire::string_field(&value, NAME_FIELD) {
            Ok(own) if self.name.is_empty() || (names_itself(type_url) && !own.is_empty()) => self.name = own.into(),
            Ok(own) if !own.is_empty() && *own != *self.name => {
                self.problem =
                    unexpected(type_url).map(|kind| format!("Unexpected {kind} (expecting {}): {own}", self.name));
            }
            Ok(_) => {}
            Err(error) => self.problem = Some(error.to_string()),
        }
        if url != type_url {
            self.problem = Some(format!("type URL {url} does not match {type_url} of the response"));
            self.foreign = true;
        }
        self.payload = Some(value);
    }
}

fn names_itself(type_url: &str) -> bool {
    type_url == types::CLUSTER.url || type_url == types::LISTENER.url
}

/// Envoy's word for a resource that has another name than the one it was asked for by.
fn unexpected(type_url: &str) -> Option<&'static str> {
    let kinds = [
        (&types::ASSIGNMENT, "EDS cluster"),
        (&types::ROUTE, "RDS configuration"),
        (&types::SECRET, "SDS secret"),
    ];
    let found = kinds.iter().find(|(ty, _)| ty.url == type_url);
    found.map(|(_, kind)| *kind)
}

/// What messages call a resource of the type.
pub(crate) fn kind_of(ty: &TypeInfo) -> &'static str {
    unexpected(ty.url).unwrap_or("resource")
}

/// Every named xDS resource has its name (or `cluster_name`) in field 1.
const NAME_FIELD: u32 = 1;

fn duration(message: &[u8]) -> Result<Duration, WireError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Value::Number(value)) => seconds = u64::try_from(value as i64).unwrap_or(0),
            (2, Value::Number(value)) => nanos = u32::try_from(value).unwrap_or(0).min(999_999_999),
            _ => {}
        }
    }
    Ok(Duration::new(seconds, nanos))
}

fn resource_error(message: &Bytes) -> Result<(String, String), WireError> {
    let (mut name, mut text) = (String::new(), String::new());
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Value::Span(span)) => name = wire::string_field(&message[span], 1)?.to_owned(),
            (2, Value::Span(span)) => text = wire::string_field(&message[span], 2)?.to_owned(),
            _ => {}
        }
    }
    Ok((name, text))
}

/// A payload-less entry that says "no such virtual host" for its aliases.
pub(crate) fn is_unresolved_alias(received: &Received, ty: &TypeInfo) -> bool {
    received.payload.is_none() && !ty.heartbeats && !received.aliases.is_empty()
}
