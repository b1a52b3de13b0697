//! From files and flags to one encoded message.

use std::path::Path;

use remora_proto::json::{self, Encoded, Format};

use super::{LoadError, MESSAGE};
use crate::cli::Options;
use crate::config::{Problem, Problems};

/// The encoded message, and what was let pass.
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    /// Unknown fields that were let pass, keys that stand twice.
    pub(super) warnings: Vec<String>,
    /// What is wrong with the text, where reading goes on in spite of it.
    pub(super) problems: Problems,
}

/// What messages call the configuration.
pub fn origin(options: &Options) -> String {
    match &options.config_path {
        Some(path) => path.display().to_string(),
        None => "--config-yaml".to_owned(),
    }
}

/// `keep_going`: problems are told next to what could be read.
pub(super) fn read(options: &Options, keep_going: bool) -> Result<Text, LoadError> {
    let from_file = options
        .config_path
        .as_deref()
        .map(|path| file(path, options, keep_going))
        .transpose()?;
    let from_flag = options.config_yaml.as_deref().filter(|text| !text.is_empty());
    let from_flag = from_flag
        .map(|text| encode(text, Format::Auto, "--config-yaml", options, keep_going))
        .transpose()?;
    match (from_file, from_flag) {
        (Some(only), None) | (None, Some(only)) => Ok(only),
        (Some(mut file), Some(flag)) => {
            file.bytes = json::merge(&file.bytes, &flag.bytes, MESSAGE)
                .map_err(|error| failed(&origin(options), Problems::one("", error.to_string())))?;
            file.warnings.extend(flag.warnings);
            file.problems.0.extend(flag.problems.0);
            Ok(file)
        }
        (None, None) => Err(failed(
            "",
            Problems::one("", "at least one of --config-path or --config-yaml must be given"),
        )),
    }
}

fn file(path: &Path, options: &Options, keep_going: bool) -> Result<Text, LoadError> {
    let origin = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| failed(&origin, Problems::one("", format!("unable to read the file: {error}"))))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => {
            return Ok(Text {
                bytes,
                warnings: Vec::new(),
                problems: Problems::default(),
            });
        }
        Some("pb_text") => {
            return Err(failed(
                &origin,
                Problems::one("", "text protobuf is not supported: use YAML or JSON"),
            ));
        }
        _ => {}
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        failed(&origin, Problems::one("", format!("not UTF-8 at byte {at}")))
    })?;
    encode(&text, Format::of(path), &origin, options, keep_going)
}

fn encode(text: &str, format: Format, origin: &str, options: &Options, keep_going: bool) -> Result<Text, LoadError> {
    if text.trim().is_empty() {
        return Err(failed(origin, Problems::one("", "the configuration is empty")));
    }
    let reading = json::Options {
        ignore_unknown: options.allow_unknown_static_fields,
        format,
        keep_going,
    };
    let Encoded {
        bytes,
        ignored,
        notes,
        problems,
    } = json::encode_text(text, MESSAGE, &reading).map_err(|problems| failed(origin, converted(problems)))?;
    Ok(Text {
        problems: converted(json::Problems(problems)),
        bytes,
        warnings: (notes.iter().map(ToString::to_string))
            .chain(
                ignored
                    .iter()
                    .map(|problem| format!("ignored unknown field: {problem}")),
            )
            .collect(),
    })
}

fn converted(problems: json::Problems) -> Problems {
    let one = |problem: json::Problem| {
        let with_line = problem.line > 0 && problem.kind != json::ProblemKind::Syntax;
        Problem {
            reason: if with_line {
                format!("{} (line {})", problem.reason, problem.line)
            } else {
                problem.reason
            },
            path: problem.path,
        }
    };
    Problems(problems.0.into_iter().map(one).collect())
}

fn failed(origin: &str, problems: Problems) -> LoadError {
    LoadError {
        origin: origin.to_owned(),
        problems,
    }
}
