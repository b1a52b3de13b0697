//! What routes, retries and header rules are compiled with: lists with paths, durations, fractions, regular expressions.
//!
//! In: protobuf values. Out: runtime values, or [`Problems`] that name the field.

pub mod clusters;

use std::collections::HashMap;
use std::time::Duration;

use remora_proto::pb;

use super::{Compiled, Problems};

/// Puts a field's name in front of the problems of its value.
pub trait Under<T> {
    fn under(self, field: &str) -> Compiled<T>;
}

impl<T> Under<T> for Compiled<T> {
    fn under(self, field: &str) -> Compiled<T> {
        self.map_err(|problems| problems.under(field))
    }
}

/// Compiles each item of a repeated field and gathers the problems of all of them.
pub fn each<I, T>(field: &str, items: &[I], compile: impl Fn(&I) -> Compiled<T>) -> Compiled<Vec<T>> {
    let mut compiled = Vec::with_capacity(items.len());
    let mut problems = Problems::default();
    for (index, item) in items.iter().enumerate() {
        match compile(item) {
            Ok(item) => compiled.push(item),
            Err(found) => problems.0.extend(found.under(&format!("{field}[{index}]")).0),
        }
    }
    problems.into_result().map(|()| compiled)
}

/// Compiles each value of a map and gathers the problems of all of them, in the order of its keys.
pub fn each_entry<I, T>(
    field: &str,
    entries: &HashMap<String, I>,
    compile: impl Fn(&str, &I) -> Compiled<T>,
) -> Compiled<Vec<T>> {
    let mut names: Vec<&String> = entries.keys().collect();
    names.sort_unstable();
    let mut compiled = Vec::with_capacity(entries.len());
    let mut problems = Problems::default();
    for (name, entry) in names.into_iter().filter_map(|name| entries.get_key_value(name)) {
        compiled.extend(problems.keep(compile(name, entry).under(&format!("{field}[{name:?}]"))));
    }
    problems.into_result().map(|()| compiled)
}

/// Compiles a message field if it is set.
pub fn optional<I, T>(field: &str, value: Option<&I>, compile: impl FnOnce(&I) -> Compiled<T>) -> Compiled<Option<T>> {
    value.map(compile).transpose().under(field)
}

/// Refuses `field` when it is set.
pub fn refuse(field: &str, is_set: bool, reason: &str) -> Compiled<()> {
    if is_set {
        Err(Problems::one(field, reason))
    } else {
        Ok(())
    }
}

/// Refuses each of these `(field, is set, reason)` that is set.
pub fn refuse_all(fields: &[(&str, bool, &str)]) -> Compiled<()> {
    let set = fields.iter().filter(|(_, is_set, _)| *is_set);
    let problems = set.flat_map(|(field, _, reason)| Problems::one(*field, *reason).0);
    Problems(problems.collect()).into_result()
}

/// A duration that may not be negative.
pub fn duration(field: &str, value: Option<&pb::google::protobuf::Duration>) -> Compiled<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    let seconds = u64::try_from(value.seconds);
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Ok(seconds), Some(nanos)) => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(Problems::one(field, "the duration is out of range")),
    }
}

/// A chance of `numerator` in `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: u32,
    pub denominator: u32,
}

impl Fraction {
    pub fn compile(value: &pb::envoy::r#type::v3::FractionalPercent) -> Compiled<Self> {
        let denominator = match value.denominator {
            0 => 100,
            1 => 10_000,
            2 => 1_000_000,
            other => return Err(Problems::one("denominator", format!("unknown value {other}"))),
        };
        Ok(Self {
            numerator: value.numerator,
            denominator,
        })
    }

    /// As this, but not more than `numerator`.
    pub fn capped(self, numerator: Option<u64>) -> Self {
        let asked = numerator.and_then(|asked| u32::try_from(asked).ok());
        Self {
            numerator: asked.map_or(self.numerator, |asked| asked.min(self.numerator)),
            ..self
        }
    }

    /// Whether the point, one of ten thousand, lies within.
    pub fn reaches(self, point: u64) -> bool {
        point * u64::from(self.denominator) < u64::from(self.numerator) * 10_000
    }

    /// Whether the stream whose random number is `random` is among the chosen.
    pub fn contains(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// Compiles an RE2 pattern that must match a whole value.
pub fn full_regex(value: &pb::envoy::r#type::matcher::v3::RegexMatcher) -> Compiled<regex::bytes::Regex> {
    regex(&format!(r"\A(?:{})\z", value.regex), &value.regex)
}

/// Compiles an RE2 pattern that may match anywhere.
pub fn search_regex(value: &pb::envoy::r#type::matcher::v3::RegexMatcher) -> Compiled<regex::bytes::Regex> {
    regex(&value.regex, &value.regex)
}

fn regex(pattern: &str, shown: &str) -> Compiled<regex::bytes::Regex> {
    if shown.is_empty() {
        return Err(Problems::one("regex", "may not be empty"));
    }
    // RE2's classes are ASCII ones; without Unicode tables a program is also a tenth of the size.
    let bytes_only = shown.is_ascii() && !shown.contains(r"\p") && !shown.contains(r"\P");
    regex::bytes::RegexBuilder::new(pattern)
        .unicode(!bytes_only)
        .build()
        .map_err(|error| {
            let reason = in_one_line(&error.to_string());
            Problems::one(
                "regex",
                format!("{shown:?} is not a valid regular expression: {reason}"),
            )
        })
}

/// The last line of a parser's drawing: what is wrong, without the picture of where.
fn in_one_line(error: &str) -> String {
    let last = error.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Parses a header name of the configuration.
pub fn header_name(field: &str, name: &str) -> Compiled<http::HeaderName> {
    http::HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Problems::one(field, format!("{name:?} is not a header name")))
}

/// A header that configuration may set: no pseudo-header and not `host`.
pub fn mutable_name(field: &str, name: &str) -> Compiled<http::HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(Problems::one(
            field,
            format!("{name:?} may not be modified: no :-prefixed or host header may"),
        ));
    }
    header_name(field, name)
}

/// The bytes of a data source, read now.
pub fn data_source(value: &pb::envoy::config::core::v3::DataSource) -> Compiled<bytes::Bytes> {
    use pb::envoy::config::core::v3::data_source::Specifier;
    use remora_xds::client::file;
    match &value.specifier {
        Some(Specifier::InlineString(text)) => Ok(bytes::Bytes::copy_from_slice(text.as_bytes())),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes::Bytes::copy_from_slice(bytes)),
        Some(Specifier::Filename(path)) => file::read(path.as_ref())
            .map(Into::into)
            .map_err(|error| Problems::one("filename", format!("{path}: {error}"))),
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(name)
            .map(Into::into)
            .map_err(|error| Problems::one("environment_variable", format!("{name}: {error}"))),
        None => Ok(bytes::Bytes::new()),
    }
}
