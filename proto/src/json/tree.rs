//! A JSON tree as a source.

use std::borrow::Cow;

use serde_json::{Value, map};

use super::problem::JsonError;
use super::source::{Event, Source, Stop};

pub(super) struct TreeSource<'a> {
    /// The value that [`Source::value`] hands out next.
    pending: Option<&'a Value>,
    open: Vec<Frame<'a>>,
}

enum Frame<'a> {
    Map(map::Iter<'a>),
    List(std::slice::Iter<'a, Value>),
}

impl<'a> TreeSource<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        Self {
            pending: Some(root),
            open: Vec::new(),
        }
    }

    fn start(&mut self, value: &'a Value) -> Event<'a> {
        match value {
            Value::Null => Event::Null,
            Value::Bool(flag) => Event::Bool(*flag),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(small), _) => Event::Int(small.into()),
                (None, Some(large)) => Event::Int(large.into()),
                (None, None) => Event::Float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => Event::Text(Cow::Borrowed(text)),
            Value::Array(items) => {
                self.open.push(Frame::List(items.iter()));
                Event::List
            }
            Value::Object(members) => {
                self.open.push(Frame::Map(members.iter()));
                Event::Map
            }
        }
    }
}

impl<'a> Source<'a> for TreeSource<'a> {
    fn value(&mut self) -> Result<Event<'a>, Stop> {
        match self.pending.take() {
            Some(value) => Ok(self.start(value)),
            None => Err(JsonError::new("a value is missing", 0, 0).into()),
        }
    }

    fn key(&mut self) -> Result<Option<Cow<'a, str>>, Stop> {
        let next = match self.open.last_mut() {
            Some(Frame::Map(members)) => members.next(),
            _ => None,
        };
        match next {
            Some((key, value)) => {
                self.pending = Some(value);
                Ok(Some(Cow::Borrowed(key)))
            }
            None => {
                self.open.pop();
                Ok(None)
            }
        }
    }

    fn item(&mut self) -> Result<Option<Event<'a>>, Stop> {
        let next = match self.open.last_mut() {
            Some(Frame::List(items)) => items.next(),
            _ => None,
        };
        match next {
            Some(value) => Ok(Some(self.start(value))),
            None => {
                self.open.pop();
                Ok(None)
            }
        }
    }

    fn finish(&mut self) -> Result<bool, Stop> {
        Ok(false)
    }

    fn line(&self) -> usize {
        0
    }
}
