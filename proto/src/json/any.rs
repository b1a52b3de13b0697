//! `Any` by its `@type`, and `TypedStruct` as the message it stands for.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::encode::Encoder;
use super::problem::{Problem, ProblemKind, Problems};
use super::source::{Event, Source, Stop, collect, skip, twice};
use super::tree::TreeSource;
use super::{Encoded, Options, encode_value, to_json};
use crate::schema::{self, WellKnown};
use crate::type_url::{PREFIX, full_name, type_url};
use crate::wire::{self, begin_len, end_len, put_len};

/// Turns an encoded `xds.type.v3.TypedStruct` or `udpa.type.v1.TypedStruct` into the message that it names: its full name and bytes.
///
/// # Errors
/// An unknown type, or what its struct has wrong, with paths below `value`.
pub fn typed_struct(bytes: &[u8], options: &Options) -> Result<(&'static str, Encoded), Problems> {
    let problem = |kind, path: &str, reason: String| Problems(vec![Problem::new(kind, path.to_owned(), reason)]);
    let malformed = |error: wire::WireError| problem(ProblemKind::Syntax, "", error.to_string());
    let url = wire::name(bytes).map_err(malformed)?;
    let value = wire::bytes_field(bytes, 2).map_err(malformed)?.unwrap_or_default();
    let Some(message) = schema::message(full_name(url)) else {
        return Err(problem(
            ProblemKind::UnknownType,
            "type_url",
            format!("the type {url:?} is not known"),
        ));
    };
    let tree = to_json(value, "google.protobuf.Struct")
        .map_err(|error| problem(ProblemKind::Syntax, "value", error.to_string()))?;
    match encode_value(&tree, message.name(), options) {
        Ok(encoded) => Ok((message.name(), encoded)),
        Err(mut problems) => {
            for found in &mut problems.0 {
                found.path = if found.path.is_empty() {
                    "value".to_owned()
                } else {
                    format!("value.{}", found.path)
                };
            }
            Err(problems)
        }
    }
}

impl Encoder<'_> {
    pub(super) fn any<'a>(&mut self, source: &mut dyn Source<'a>, event: Event<'a>) -> Result<(), Stop> {
        if event != Event::Map {
            return self.mismatch(source, "a map with @type", &event);
        }
        let Some(first) = source.key()? else { return Ok(()) };
        let value = source.value()?;
        if first == "@type" {
            return match value {
                Event::Text(url) => self.any_content(source, &url),
                other => {
                    self.mismatch(source, "a type URL", &other)?;
                    skip(source, &Event::Map)
                }
            };
        }
        self.late_type(source, first, value)
    }

    /// The type stands behind other members: those have to wait in a tree.
    fn late_type<'a>(
        &mut self,
        source: &mut dyn Source<'a>,
        first: Cow<'a, str>,
        value: Event<'a>,
    ) -> Result<(), Stop> {
        let mut members = Map::new();
        let mut notes = Vec::new();
        let value = collect(source, value, 0, &mut notes)?;
        members.insert(first.into_owned(), value);
        if let Value::Object(rest) = collect(source, Event::Map, 0, &mut notes)? {
            for (key, value) in rest {
                if members.insert(key.clone(), value).is_some() {
                    notes.push(twice(&key, source.line()));
                }
            }
        }
        for note in notes {
            self.note(source, note.reason);
        }
        match members.shift_remove("@type") {
            Some(Value::String(url)) => {
                let tree = Value::Object(members);
                let mut rest = TreeSource::new(&tree);
                rest.value()?;
                self.any_content(&mut rest, &url)
            }
            _ => {
                self.problem(source, ProblemKind::UnknownType, "@type is missing".to_owned());
                Ok(())
            }
        }
    }

    /// The members after `@type`.
    fn any_content<'a>(&mut self, source: &mut dyn Source<'a>, url: &str) -> Result<(), Stop> {
        let Some(message) = schema::message(full_name(url)) else {
            put_len(&mut self.out, 1, url.as_bytes());
            self.problem(
                source,
                ProblemKind::UnknownType,
                format!("the type {url:?} is not known"),
            );
            return skip(source, &Event::Map);
        };
        // The host before the name is of no matter (`foo.bar/envoy…`), and extensions are found by one spelling.
        match url.contains('/') && !url.starts_with(PREFIX) {
            true => put_len(&mut self.out, 1, type_url(message.name()).as_bytes()),
            false => put_len(&mut self.out, 1, url.as_bytes()),
        }
        let before = self.out.len();
        let start = begin_len(&mut self.out, 2);
        if matches!(message.well_known(), WellKnown::None | WellKnown::Empty) {
            self.fields(source, message)?;
        } else {
            while let Some(key) = source.key()? {
                let event = source.value()?;
                if key == "value" {
                    self.message(source, message, event)?;
                } else {
                    self.problem(
                        source,
                        ProblemKind::Unknown,
                        format!("{} has only \"value\", not {key:?}", message.name()),
                    );
                    skip(source, &event)?;
                }
            }
        }
        if self.out.len() == start {
            self.out.truncate(before)
        } else {
            end_len(&mut self.out, start)
        }
        Ok(())
    }
}
