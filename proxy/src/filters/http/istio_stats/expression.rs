//! Expressions of the simple form: an attribute, a constant, text joined of several, or a choice by whether an attribute is there.

use remora_proto::pb::envoy::config::core::v3::Node;

use super::attribute::{self, Attribute, Found, Subject};
use crate::config::{Compiled, Problems};

/// How deep parentheses and choices may lie in one another.
const DEPTH: usize = 16;

/// A compiled expression; its value is text, or there is none.
pub(super) enum Expression {
    Constant {
        value: String,
        is_text: bool,
    },
    /// What it asks for is never there.
    Missing,
    Attribute(Attribute),
    /// `string(…)`
    Text(Box<Expression>),
    /// All of them, one behind the other; no value if one has none.
    Join(Vec<Expression>),
    Choice(Box<Choice>),
}

pub(super) struct Choice {
    is_known: Attribute,
    then: Expression,
    otherwise: Expression,
}

impl Expression {
    /// Compiles an expression of Envoy's language; `node` is who we are.
    ///
    /// # Errors
    /// It is of no form that is supported; why.
    pub fn compile(text: &str, node: &Node) -> Compiled<Self> {
        let refused = |reason| Problems::one("", format!("the expression {text:?} is not supported: {reason}"));
        let mut parser = Parser { rest: text, node };
        let expression = parser.whole(0).map_err(refused)?;
        match parser.peek() {
            "" => Ok(expression),
            rest => Err(refused(format!("{rest:?} is not understood"))),
        }
    }

    /// Appends the value. False: there is none, and nothing is appended.
    pub fn write(&self, subject: &Subject<'_>, out: &mut String) -> bool {
        match self {
            Self::Constant { value, .. } => {
                out.push_str(value);
                true
            }
            Self::Missing => false,
            Self::Attribute(attribute) => attribute.write(subject, out),
            Self::Text(inner) => inner.write(subject, out),
            Self::Join(parts) => {
                let start = out.len();
                let found = parts.iter().all(|part| part.write(subject, out));
                if !found {
                    out.truncate(start);
                }
                found
            }
            Self::Choice(choice) => match choice.is_known.is_known(subject) {
                true => choice.then.write(subject, out),
                false => choice.otherwise.write(subject, out),
            },
        }
    }

    /// Whether the response's headers have to be kept for it.
    pub fn needs_response(&self) -> bool {
        match self {
            Self::Constant { .. } | Self::Missing => false,
            Self::Attribute(attribute) => attribute.needs_response(),
            Self::Text(inner) => inner.needs_response(),
            Self::Join(parts) => parts.iter().any(Self::needs_response),
            Self::Choice(choice) => {
                choice.is_known.needs_response() || choice.then.needs_response() || choice.otherwise.needs_response()
            }
        }
    }

    fn is_text(&self) -> bool {
        match self {
            Self::Constant { is_text, .. } => *is_text,
            Self::Missing | Self::Text(_) | Self::Join(_) => true,
            Self::Attribute(attribute) => attribute.is_text(),
            Self::Choice(choice) => choice.then.is_text() && choice.otherwise.is_text(),
        }
    }
}

/// A value, or something that is true or false.
enum Parsed {
    Value(Expression),
    IsKnown(Attribute),
}

struct Parser<'a> {
    rest: &'a str,
    node: &'a Node,
}

type Parse<T> = Result<T, String>;

impl<'a> Parser<'a> {
    /// A choice, or what may stand in one.
    fn whole(&mut self, depth: usize) -> Parse<Expression> {
        match self.sum(depth)? {
            Parsed::Value(value) => Ok(value),
            Parsed::IsKnown(attribute) => self.choice(attribute, depth),
        }
    }

    /// What follows a condition; by itself it is true or false.
    fn choice(&mut self, is_known: Attribute, depth: usize) -> Parse<Expression> {
        let constant = |value: &str| Expression::Constant {
            value: value.to_owned(),
            is_text: false,
        };
        let (then, otherwise) = match self.takes("?") {
            true => {
                let then = self.whole(depth + 1)?;
                self.expect(":")?;
                (then, self.whole(depth + 1)?)
            }
            false => (constant("true"), constant("false")),
        };
        Ok(Expression::Choice(Box::new(Choice {
            is_known,
            then,
            otherwise,
        })))
    }

    /// One operand, or several joined by `+`.
    fn sum(&mut self, depth: usize) -> Parse<Parsed> {
        let first = match self.operand(depth)? {
            Parsed::Value(value) => value,
            condition => return Ok(condition),
        };
        let mut parts = vec![first];
        while self.takes("+") {
            match self.operand(depth)? {
                Parsed::Value(value) => parts.push(value),
                Parsed::IsKnown(_) => return Err("only text is joined".to_owned()),
            }
        }
        if parts.len() > 1 && !parts.iter().all(Expression::is_text) {
            return Err("only text is joined".to_owned());
        }
        Ok(Parsed::Value(match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => Expression::Join(parts.into_iter().chain(last).collect()),
        }))
    }

    fn operand(&mut self, depth: usize) -> Parse<Parsed> {
        if depth > DEPTH {
            return Err("it is too deep".to_owned());
        }
        if self.takes("(") {
            let inner = match self.sum(depth + 1)? {
                Parsed::IsKnown(attribute) if !self.peek().starts_with(')') => {
                    Parsed::Value(self.choice(attribute, depth + 1)?)
                }
                inner => inner,
            };
            self.expect(")")?;
            return Ok(inner);
        }
        if let Some(value) = self.quoted()? {
            return self.after_text(value);
        }
        if let Some(digits) = self.word(|character| character.is_ascii_digit()) {
            return Ok(Parsed::Value(Expression::Constant {
                value: digits,
                is_text: false,
            }));
        }
        let name = self.word(is_of_name).ok_or_else(|| self.not_understood())?;
        match (name.as_str(), self.peek().starts_with('(')) {
            ("has", true) => {
                self.expect("(")?;
                self.asked_for()
            }
            ("string", true) => {
                self.expect("(")?;
                let inner = self.whole(depth + 1)?;
                self.expect(")")?;
                Ok(Parsed::Value(Expression::Text(Box::new(inner))))
            }
            (_, true) => Err(format!("{name}() is no function that is known")),
            ("true" | "false", false) => Ok(Parsed::Value(Expression::Constant {
                value: name,
                is_text: false,
            })),
            (_, false) => {
                let path = self.path(Some(name))?;
                self.find(&path)
            }
        }
    }

    /// The rest of `has(…)`.
    fn asked_for(&mut self) -> Parse<Parsed> {
        let before = self.peek();
        let path = self.path(None)?;
        if before[..before.len() - self.rest.len()].ends_with(']') {
            return Err("has() asks for a name, not for a key in brackets".to_owned());
        }
        self.expect(")")?;
        match self.find(&path)? {
            Parsed::Value(Expression::Attribute(attribute)) => Ok(Parsed::IsKnown(attribute)),
            _ => Err("only what may change is asked for with has()".to_owned()),
        }
    }

    /// Text may be followed by `in request.headers`.
    fn after_text(&mut self, value: String) -> Parse<Parsed> {
        let before = self.rest;
        if self.word(is_of_name).as_deref() != Some("in") {
            self.rest = before;
            return Ok(Parsed::Value(Expression::Constant { value, is_text: true }));
        }
        let mut path = self.path(None)?;
        if path.len() != 2 || path[1] != "headers" {
            return Err(format!("in {} is not understood", path.join(".")));
        }
        path.push(value);
        match self.find(&path)? {
            Parsed::Value(Expression::Attribute(attribute)) => Ok(Parsed::IsKnown(attribute)),
            _ => Err(self.not_understood()),
        }
    }

    fn find(&self, path: &[String]) -> Parse<Parsed> {
        Ok(Parsed::Value(match attribute::find(path, self.node)? {
            Found::Attribute(attribute) => Expression::Attribute(attribute),
            Found::Constant(None) => Expression::Missing,
            Found::Constant(Some((value, is_text))) => Expression::Constant { value, is_text },
        }))
    }

    /// `name.name['key']`, of which the first name may have been read already.
    fn path(&mut self, first: Option<String>) -> Parse<Vec<String>> {
        let first = first.or_else(|| self.word(is_of_name));
        let mut path = vec![first.ok_or_else(|| self.not_understood())?];
        loop {
            if self.takes(".") {
                path.push(self.word(is_of_name).ok_or_else(|| self.not_understood())?);
            } else if self.takes("[") {
                path.push(self.quoted()?.ok_or_else(|| self.not_understood())?);
                self.expect("]")?;
            } else {
                return Ok(path);
            }
        }
    }

    /// Text in quotation marks, if there is some.
    fn quoted(&mut self) -> Parse<Option<String>> {
        let Some(quote) = self.peek().chars().next().filter(|first| matches!(first, '"' | '\'')) else {
            return Ok(None);
        };
        let inside = &self.peek()[1..];
        let (text, rest) = inside.split_once(quote).ok_or("a text does not end")?;
        if text.contains('\\') {
            return Err("backslashes in text are not understood".to_owned());
        }
        self.rest = rest;
        Ok(Some(text.to_owned()))
    }

    fn word(&mut self, is_part: fn(char) -> bool) -> Option<String> {
        let rest = self.peek();
        let end = rest.find(|character| !is_part(character)).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        Some(word.to_owned()).filter(|word| !word.is_empty())
    }

    fn takes(&mut self, mark: &str) -> bool {
        let after = self.peek().strip_prefix(mark);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn expect(&mut self, mark: &str) -> Parse<()> {
        match self.takes(mark) {
            true => Ok(()),
            false => Err(format!("{mark:?} is missing before {:?}", self.peek())),
        }
    }

    /// What is left, without blanks before it.
    fn peek(&self) -> &'a str {
        self.rest.trim_start()
    }

    fn not_understood(&self) -> String {
        format!("{:?} is not understood", self.peek())
    }
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}
