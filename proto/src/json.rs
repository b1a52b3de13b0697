//! Protobuf JSON, and YAML as Envoy reads it, to encoded bytes and back.
//!
//! In: text, or encoded bytes, and the full name of the message. Out: encoded bytes, or JSON with Envoy's (proto) field names. Text
//! is encoded event by event: no tree of the document is built, unless YAML anchors or a late `@type` ask for one.
//!
//! YAML scalars follow Envoy (yaml-cpp, then JSON): `yes`, `on` and `y` are booleans, `0x1f` and `017` are numbers, numbers with a fraction
//! and integers beyond 32 bits are strings that typed fields parse, `<<` is an ordinary key, a key tagged `!ignore` is left out
//! with its value.
//!
//! Typed fields take what Envoy's protobuf takes: booleans, numbers and enums in quotes, enums in any case, `{seconds: 1}` for a duration,
//! `{value: 1}` for a wrapper; a JSON file may have commas too many, `'` for quotes and keys without any. What Envoy accepts without
//! a word although it loses something (a key that stands twice, a second document) is accepted and told in [`Encoded::notes`].

mod any;
mod encode;
mod known;
mod merge;
mod problem;
mod scalar;
mod source;
mod text;
mod time;
mod tree;
mod write;
mod write_known;
mod yaml;

pub use any::typed_struct;
pub use merge::merge;
pub use problem::{JsonError, Problem, ProblemKind, Problems};
pub(crate) use write::unpack;
pub use write::{Style, WriteError, to_json, write_json};

use crate::schema;
use encode::Encoder;
use source::{Source, Stop};

/// How text is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Fields that the schema lacks are counted in [`Encoded::ignored`] instead of being problems.
    pub ignore_unknown: bool,
    pub format: Format,
    /// Problems, but for syntax errors, are told in [`Encoded::problems`] and what they concern is left out.
    pub keep_going: bool,
}

/// The notation of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON when it starts with `{` and parses as JSON, else YAML.
    #[default]
    Auto,
    Json,
    Yaml,
}

impl Format {
    /// What a file's name says of its content.
    pub fn of(path: &std::path::Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Format::Json,
            Some("yaml" | "yml") => Format::Yaml,
            _ => Format::Auto,
        }
    }
}

/// What [`encode_text`] made of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The encoded message.
    pub bytes: Vec<u8>,
    /// Unknown fields that [`Options::ignore_unknown`] let pass.
    pub ignored: Vec<Problem>,
    /// What was read, but may have been meant otherwise: a key that stands twice.
    pub notes: Vec<Problem>,
    /// What is wrong, when [`Options::keep_going`] asked to go on.
    pub problems: Vec<Problem>,
}

/// Encodes JSON or YAML as the message of that full name.
///
/// # Errors
/// All problems of the text that can be found in one pass, each with its path (`static_resources.listeners[0].name`) and line; a
/// syntax error ends the pass.
pub fn encode_text(text: &str, full_name: &str, options: &Options) -> Result<Encoded, Problems> {
    let Some(message) = schema::message(full_name) else {
        return Err(Problems(vec![Problem::new(
            ProblemKind::UnknownType,
            String::new(),
            format!("no message is named {full_name}"),
        )]));
    };
    let looks_like_json = text
        .trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n'])
        .starts_with('{');
    let mut json_error = None;
    if options.format == Format::Json || (options.format == Format::Auto && looks_like_json) {
        let mut source = text::JsonSource::new(text);
        if options.format == Format::Json {
            source = source.lenient();
        }
        match Encoder::run(&mut source, message, options) {
            Err(Stop::Syntax(error)) if options.format == Format::Json => return Err(error.into()),
            Err(Stop::Syntax(error)) => json_error = Some(error),
            Err(Stop::NeedsTree) => {}
            Ok(outcome) => return outcome,
        }
    }
    let streamed = match Encoder::run(&mut yaml::YamlSource::new(text), message, options) {
        Err(Stop::NeedsTree) => {
            let (tree, notes) = yaml::tree(text).map_err(Problems::from)?;
            let outcome = Encoder::run(&mut tree::TreeSource::new(&tree), message, options);
            outcome.map(|read| {
                read.map(|mut encoded| {
                    encoded.notes.splice(..0, notes);
                    encoded
                })
            })
        }
        other => other,
    };
    match (streamed, json_error) {
        (Ok(outcome), _) => outcome,
        // A text that is neither is more likely meant as what it looks like.
        (Err(_), Some(error)) | (Err(Stop::Syntax(error)), None) => Err(error.into()),
        (Err(Stop::NeedsTree), None) => Err(JsonError::new("the anchors could not be resolved", 0, 0).into()),
    }
}

/// Encodes a JSON tree as the message of that full name.
///
/// # Errors
/// As [`encode_text`].
pub fn encode_value(value: &serde_json::Value, full_name: &str, options: &Options) -> Result<Encoded, Problems> {
    let Some(message) = schema::message(full_name) else {
        return Err(Problems(vec![Problem::new(
            ProblemKind::UnknownType,
            String::new(),
            format!("no message is named {full_name}"),
        )]));
    };
    match Encoder::run(&mut tree::TreeSource::new(value), message, options) {
        Ok(outcome) => outcome,
        Err(Stop::Syntax(error)) => Err(error.into()),
        Err(Stop::NeedsTree) => Err(JsonError::new("a tree has no anchors", 0, 0).into()),
    }
}

/// Reads JSON or YAML into a tree, with YAML scalars as Envoy reads them. A key that stands twice or a second document is an error.
///
/// # Errors
/// The first syntax error.
pub fn parse(text: &str) -> Result<serde_json::Value, JsonError> {
    if text
        .trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n'])
        .starts_with(['{', '['])
    {
        let mut source = text::JsonSource::new(text);
        let parsed = source
            .value()
            .and_then(|event| source::collect(&mut source, event, 0, &mut Vec::new()))
            .and_then(|tree| {
                source.finish()?;
                Ok(tree)
            });
        if let Ok(tree) = parsed {
            return Ok(tree);
        }
    }
    match yaml::tree(text)? {
        (tree, notes) if notes.is_empty() => Ok(tree),
        (_, notes) => {
            let line = notes.first().map_or(0, |note| note.line);
            Err(JsonError::new(Problems(notes).to_string(), line, 0))
        }
    }
}

#[cfg(test)]
mod tests;
