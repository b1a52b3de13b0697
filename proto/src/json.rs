//! Protobuf JSON, and YAML as Envoy reads it, to encoded bytes and back.
//!
//! In: text, or encoded bytes, and the full name of the message. Out: encoded bytes, or JSON with Envoy's (proto) field names. Text
//! is encoded event by event: no tree of the document is built, unless YAML anchors or a late `@type` ask for one.
//!
//! YAML scalars follow Envoy (yaml-cpp, then JSON): `yes`, `on` and `y` are booleans, `0x1f` and `017` are numbers, numbers with a fraction
//! and integers beyond 32 bits are strings that typed fields parse, `<<` is an ordinary key, a key tagged `!ignore` is left out
//! with its value. A repeated key, which Envoy accepts silently, is a problem here.

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

/// What [`encode_text`] made of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The encoded message.
    pub bytes: Vec<u8>,
    /// Unknown fields that [`Options::ignore_unknown`] let pass.
    pub ignored: Vec<Problem>,
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
        match Encoder::run(&mut text::JsonSource::new(text), message, options) {
            Err(Stop::Syntax(error)) if options.format == Format::Json => return Err(error.into()),
            Err(Stop::Syntax(error)) => json_error = Some(error),
            Err(Stop::NeedsTree) => {}
            Ok(outcome) => return outcome,
        }
    }
    let streamed = match Encoder::run(&mut yaml::YamlSource::new(text), message, options) {
        Err(Stop::NeedsTree) => {
            let tree = yaml::tree(text).map_err(Problems::from)?;
            Encoder::run(&mut tree::TreeSource::new(&tree), message, options)
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

/// Reads JSON or YAML into a tree, with YAML scalars as Envoy reads them.
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
            .and_then(|event| source::collect(&mut source, event, 0))
            .and_then(|tree| {
                source.finish()?;
                Ok(tree)
            });
        if let Ok(tree) = parsed {
            return Ok(tree);
        }
    }
    yaml::tree(text)
}

#[cfg(test)]
mod tests;
