//! YAML text as Envoy reads it: yaml-cpp's nodes, turned into JSON values by Envoy's own rules for plain scalars.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event as YamlEvent, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::problem::{JsonError, Problem, ProblemKind};
use super::source::{DEPTH_LIMIT, Event, Source, Stop, integer, twice};

/// Streams a document without anchors.
pub(super) struct YamlSource<'a> {
    parser: Parser<'a, StrInput<'a>>,
    line: usize,
}

impl<'a> YamlSource<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
            line: 0,
        }
    }

    fn next(&mut self) -> Result<YamlEvent<'a>, Stop> {
        let (event, span) = next_event(&mut self.parser)?;
        self.line = span.start.line();
        match &event {
            YamlEvent::Alias(_) => Err(Stop::NeedsTree),
            YamlEvent::Scalar(_, _, anchor, _)
            | YamlEvent::MappingStart(anchor, _)
            | YamlEvent::SequenceStart(anchor, _)
                if *anchor != 0 =>
            {
                Err(Stop::NeedsTree)
            }
            _ => Ok(event),
        }
    }

    fn started(&self, event: YamlEvent<'a>) -> Result<Event<'a>, Stop> {
        Ok(match event {
            YamlEvent::Scalar(text, style, _, tag) => scalar(text, style, tag.as_deref()),
            YamlEvent::MappingStart(..) => Event::Map,
            YamlEvent::SequenceStart(..) => Event::List,
            // A text without a document.
            YamlEvent::StreamEnd | YamlEvent::DocumentEnd => Event::Null,
            _ => return Err(JsonError::new("a value is missing", self.line, 0).into()),
        })
    }
}

impl<'a> Source<'a> for YamlSource<'a> {
    fn value(&mut self) -> Result<Event<'a>, Stop> {
        let event = self.next()?;
        self.started(event)
    }

    fn key(&mut self) -> Result<Option<Cow<'a, str>>, Stop> {
        loop {
            match self.next()? {
                YamlEvent::MappingEnd => return Ok(None),
                YamlEvent::Scalar(_, _, _, Some(tag)) if is_ignored(&tag) => {
                    let value = self.value()?;
                    super::source::skip(self, &value)?;
                }
                YamlEvent::Scalar(text, ..) => return Ok(Some(text)),
                _ => return Err(JsonError::new("a key must be a plain value", self.line, 0).into()),
            }
        }
    }

    fn item(&mut self) -> Result<Option<Event<'a>>, Stop> {
        match self.next()? {
            YamlEvent::SequenceEnd => Ok(None),
            event => self.started(event).map(Some),
        }
    }

    fn finish(&mut self) -> Result<bool, Stop> {
        more_follows(&mut self.parser).map_err(Stop::from)
    }

    fn line(&self) -> usize {
        self.line
    }
}

/// Reads the first document into a tree, anchors resolved; with what was passed over.
pub(super) fn tree(text: &str) -> Result<(Value, Vec<Problem>), JsonError> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
        anchors: HashMap::new(),
        nodes: 0,
        notes: Vec::new(),
    };
    let (first, span) = next_event(&mut builder.parser)?;
    if matches!(first, YamlEvent::StreamEnd | YamlEvent::DocumentEnd) {
        return Ok((Value::Null, Vec::new()));
    }
    let (value, _) = builder.node(first, span, 0)?;
    if more_follows(&mut builder.parser)? {
        let reason = "what follows the first document is not read".to_owned();
        let note = Problem::new(ProblemKind::Duplicate, String::new(), reason);
        builder.notes.push(note);
    }
    Ok((value, builder.notes))
}

/// Aliases of aliases grow exponentially; no configuration needs so many values.
const NODE_LIMIT: usize = 20_000_000;

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What each anchor stands for, and how many values that is.
    anchors: HashMap<usize, (Value, usize)>,
    nodes: usize,
    /// Keys that stand twice.
    notes: Vec<Problem>,
}

impl<'a> Builder<'a> {
    /// Reads the value that starts with `event`; returns how many values it holds, too.
    fn node(&mut self, event: YamlEvent<'a>, span: Span, depth: usize) -> Result<(Value, usize), JsonError> {
        let error = |reason: String| JsonError::new(reason, span.start.line(), span.start.col() + 1);
        if depth > DEPTH_LIMIT {
            return Err(error("nested too deeply".to_owned()));
        }
        let (anchor, value, count) = match event {
            YamlEvent::Alias(anchor) => {
                let (value, count) = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| error("an alias stands inside its own anchor".to_owned()))?;
                (0, value, count)
            }
            YamlEvent::Scalar(text, style, anchor, tag) => {
                let value = match scalar(text, style, tag.as_deref()) {
                    Event::Bool(flag) => Value::Bool(flag),
                    Event::Int(number) => integer(number),
                    Event::Text(text) => Value::String(text.into_owned()),
                    _ => Value::Null,
                };
                (anchor, value, 1)
            }
            YamlEvent::MappingStart(anchor, _) => {
                let (map, count) = self.mapping(depth)?;
                (anchor, Value::Object(map), count)
            }
            YamlEvent::SequenceStart(anchor, _) => {
                let (mut list, mut count) = (Vec::new(), 1);
                loop {
                    let (next, at) = next_event(&mut self.parser)?;
                    if next == YamlEvent::SequenceEnd {
                        break;
                    }
                    let (item, size) = self.node(next, at, depth + 1)?;
                    list.push(item);
                    count += size;
                }
                (anchor, Value::Array(list), count)
            }
            _ => return Err(error("a value is missing".to_owned())),
        };
        self.nodes = self.nodes.saturating_add(count);
        if self.nodes > NODE_LIMIT {
            return Err(error("the aliases expand to too many values".to_owned()));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), count));
        }
        Ok((value, count))
    }

    fn mapping(&mut self, depth: usize) -> Result<(Map<String, Value>, usize), JsonError> {
        let (mut map, mut count) = (Map::new(), 1);
        loop {
            let (next, at) = next_event(&mut self.parser)?;
            let error = |reason: String| JsonError::new(reason, at.start.line(), at.start.col() + 1);
            let (key, ignored) = match next {
                YamlEvent::MappingEnd => return Ok((map, count)),
                YamlEvent::Scalar(text, _, anchor, tag) => {
                    if anchor != 0 {
                        self.anchors
                            .insert(anchor, (Value::String(text.clone().into_owned()), 1));
                    }
                    (text.into_owned(), tag.is_some_and(|tag| is_ignored(&tag)))
                }
                YamlEvent::Alias(anchor) => match self.anchors.get(&anchor) {
                    Some((Value::String(text), _)) => (text.clone(), false),
                    _ => return Err(error("a key must be a plain value".to_owned())),
                },
                _ => return Err(error("a key must be a plain value".to_owned())),
            };
            let (next, span) = next_event(&mut self.parser)?;
            let (value, size) = self.node(next, span, depth + 1)?;
            count += size;
            if !ignored && map.insert(key.clone(), value).is_some() {
                self.notes.push(twice(&key, at.start.line()));
            }
        }
    }
}

fn next_event<'a>(parser: &mut Parser<'a, StrInput<'a>>) -> Result<(YamlEvent<'a>, Span), JsonError> {
    loop {
        match parser.next_event() {
            Some(Ok((YamlEvent::StreamStart | YamlEvent::DocumentStart(_) | YamlEvent::Nothing, _))) => {}
            Some(Ok(event)) => return Ok(event),
            Some(Err(error)) => return Err(scan_error(&error)),
            None => return Ok((YamlEvent::StreamEnd, Span::default())),
        }
    }
}

/// Envoy reads the first of several documents and drops the rest, be it well-formed or not.
fn more_follows<'a>(parser: &mut Parser<'a, StrInput<'a>>) -> Result<bool, JsonError> {
    let mut is_closed = false;
    loop {
        match parser.next_event() {
            None | Some(Ok((YamlEvent::StreamEnd, _))) => return Ok(false),
            Some(Ok((YamlEvent::DocumentEnd, _))) => is_closed = true,
            Some(Ok(_)) => return Ok(true),
            Some(Err(_)) if is_closed => return Ok(true),
            Some(Err(error)) => return Err(scan_error(&error)),
        }
    }
}

fn scan_error(error: &ScanError) -> JsonError {
    JsonError::new(error.info(), error.marker().line(), error.marker().col() + 1)
}

fn is_ignored(tag: &Tag) -> bool {
    tag.handle == "!" && tag.suffix == "ignore"
}

/// Envoy's `parseYamlNode`: quoted and block scalars are strings; a plain one is null, a boolean, a 32-bit number or a string.
fn scalar<'a>(text: Cow<'a, str>, style: ScalarStyle, tag: Option<&Tag>) -> Event<'a> {
    let non_specific =
        tag.is_some_and(|tag| tag.handle.is_empty() && tag.suffix == "!" || tag.handle == "!" && tag.suffix.is_empty());
    if style != ScalarStyle::Plain || non_specific {
        return Event::Text(text);
    }
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Event::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Event::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Event::Bool(false);
        }
        _ => {}
    }
    match plain_integer(&text) {
        Some(number) if i32::try_from(number).is_ok() => Event::Int(number.into()),
        Some(number) => Event::Text(Cow::Owned(number.to_string())),
        None => Event::Text(text),
    }
}

/// A C++ stream's idea of an integer: `0x` is hexadecimal, a leading zero is octal.
fn plain_integer(text: &str) -> Option<i64> {
    let first = *text.as_bytes().first()?;
    if !(first.is_ascii_digit() || first == b'-' || first == b'+') {
        return None;
    }
    let (negative, digits) = match first {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // `from_str_radix` takes a sign of its own.
    if !digits.starts_with(|digit: char| digit.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -number } else { number }).ok()
}
