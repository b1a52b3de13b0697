//! Where values come from: JSON text, YAML text or a tree, behind one pull interface.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::problem::{JsonError, Problem, ProblemKind};

/// A value, or the start of one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Cow<'a, str>),
    /// Read on with [`Source::key`] until it returns none.
    Map,
    /// Read on with [`Source::item`] until it returns none.
    List,
}

/// Why reading ended early.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stop {
    Syntax(JsonError),
    /// The text uses what cannot be streamed (YAML anchors).
    NeedsTree,
}

impl From<JsonError> for Stop {
    fn from(error: JsonError) -> Self {
        Stop::Syntax(error)
    }
}

/// A reader of one document. After a value that starts a map or a list, all of it must be read.
pub(super) trait Source<'a> {
    /// The document's value, or the value of the key just read.
    fn value(&mut self) -> Result<Event<'a>, Stop>;
    /// The next key of the innermost open map; none ends it.
    fn key(&mut self) -> Result<Option<Cow<'a, str>>, Stop>;
    /// The next value of the innermost open list; none ends it.
    fn item(&mut self) -> Result<Option<Event<'a>>, Stop>;
    /// Nothing may follow the document, but for what Envoy passes over: true when something did.
    fn finish(&mut self) -> Result<bool, Stop>;
    /// What a key means that stands twice.
    fn repeats(&self) -> Repeats {
        Repeats::Replace
    }
    /// The line that was read last, from 1; 0 when unknown.
    fn line(&self) -> usize;
}

/// What Envoy makes of a key that stands twice in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeats {
    /// YAML: the last one counts.
    Replace,
    /// JSON: messages are joined, lists appended; in maps it is refused.
    Join,
}

/// Nesting beyond this is refused: protobuf decoders do so too.
pub(super) const DEPTH_LIMIT: usize = 100;

/// Reads the rest of a value that starts with `event` into a tree; `notes` takes the keys that stand twice.
pub(super) fn collect<'a>(
    source: &mut dyn Source<'a>,
    event: Event<'a>,
    depth: usize,
    notes: &mut Vec<Problem>,
) -> Result<Value, Stop> {
    if depth > DEPTH_LIMIT {
        return Err(JsonError::new("nested too deeply", source.line(), 0).into());
    }
    Ok(match event {
        Event::Null => Value::Null,
        Event::Bool(flag) => Value::Bool(flag),
        Event::Int(number) => integer(number),
        Event::Float(number) => Value::from(number),
        Event::Text(text) => Value::String(text.into_owned()),
        Event::Map => {
            let mut map = Map::new();
            while let Some(key) = source.key()? {
                let next = source.value()?;
                let value = collect(source, next, depth + 1, notes)?;
                if map.insert(key.clone().into_owned(), value).is_some() {
                    if source.repeats() == Repeats::Join {
                        return Err(JsonError::new(format!("the key {key} stands twice"), source.line(), 0).into());
                    }
                    notes.push(twice(&key, source.line()));
                }
            }
            Value::Object(map)
        }
        Event::List => {
            let mut list = Vec::new();
            while let Some(next) = source.item()? {
                list.push(collect(source, next, depth + 1, notes)?);
            }
            Value::Array(list)
        }
    })
}

/// Reads over the rest of a value.
pub(super) fn skip<'a>(source: &mut dyn Source<'a>, event: &Event<'a>) -> Result<(), Stop> {
    // A stack instead of recursion: what is skipped may be nested at will.
    let mut open = vec![];
    match event {
        Event::Map => open.push(true),
        Event::List => open.push(false),
        _ => return Ok(()),
    }
    while let Some(is_map) = open.last() {
        let next = if *is_map {
            match source.key()? {
                Some(_) => Some(source.value()?),
                None => None,
            }
        } else {
            source.item()?
        };
        match next {
            None => drop(open.pop()),
            Some(Event::Map) => open.push(true),
            Some(Event::List) => open.push(false),
            Some(_) => {}
        }
    }
    Ok(())
}

/// The note about a key whose earlier value is lost.
pub(super) fn twice(key: &str, line: usize) -> Problem {
    Problem {
        line,
        ..Problem::new(
            ProblemKind::Duplicate,
            String::new(),
            format!("the key {key} stands twice: the last one counts"),
        )
    }
}

/// An integer as a JSON number; one beyond 64 bits becomes a float, as in JavaScript.
pub(super) fn integer(number: i128) -> Value {
    if let Ok(small) = i64::try_from(number) {
        Value::from(small)
    } else if let Ok(large) = u64::try_from(number) {
        Value::from(large)
    } else {
        Value::from(number as f64)
    }
}
