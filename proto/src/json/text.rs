//! JSON text, pulled value by value. Strings without escapes are borrowed.

use std::borrow::Cow;

use super::problem::JsonError;
use super::source::{Event, Repeats, Source, Stop};

pub(super) struct JsonSource<'a> {
    text: &'a str,
    at: usize,
    /// The innermost container was just opened: no comma before its first member.
    fresh: bool,
    /// Takes what protobuf's parser takes beyond JSON.
    lenient: bool,
}

impl<'a> JsonSource<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Self {
            text,
            at,
            fresh: true,
            lenient: false,
        }
    }

    /// Also takes a comma after the last member, strings in `'`, keys without quotes, control characters in strings.
    pub(super) fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, reason: impl Into<String>) -> Stop {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |position| position + 1);
        JsonError::new(reason, self.line(), before.len() - line_start + 1).into()
    }

    fn unexpected(&self, wanted: &str) -> Stop {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => self.error(format!("expected {wanted}, found {found:?}")),
            None => self.error(format!("expected {wanted}, found the end of the text")),
        }
    }

    /// Steps to the next member; false when the container ends here.
    fn next_member(&mut self, close: u8) -> Result<bool, Stop> {
        self.blank();
        let fresh = std::mem::replace(&mut self.fresh, false);
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        if !fresh {
            if self.peek() != Some(b',') {
                return Err(self.unexpected(if close == b'}' { "',' or '}'" } else { "',' or ']'" }));
            }
            self.at += 1;
            self.blank();
            if self.peek() == Some(close) {
                if !self.lenient {
                    return Err(self.unexpected("another member after the comma"));
                }
                self.at += 1;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Stop> {
        let quote = self.peek().unwrap_or(b'"');
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(end) if end == quote => {
                    let plain = self.text.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(Cow::Borrowed(plain));
                }
                Some(b'\\') => return self.escaped(start, char::from(quote)),
                Some(0..0x20) if !self.lenient => {
                    return Err(self.error("a control character in a string must be escaped"));
                }
                Some(_) => self.at += 1,
                None => return Err(self.error("a string is not closed")),
            }
        }
    }

    fn escaped(&mut self, start: usize, quote: char) -> Result<Cow<'a, str>, Stop> {
        let mut text = self.text.get(start..self.at).unwrap_or_default().to_owned();
        loop {
            let Some(next) = self.text.get(self.at..).and_then(|rest| rest.chars().next()) else {
                return Err(self.error("a string is not closed"));
            };
            match next {
                end if end == quote => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                '\\' => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                control if control < ' ' && !self.lenient => {
                    return Err(self.error("a control character in a string must be escaped"));
                }
                other => {
                    self.at += other.len_utf8();
                    text.push(other);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Stop> {
        let code = self.peek();
        self.at += 1;
        Ok(match code {
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
            Some(b'\'') if self.lenient => '\'',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex()?;
                let mut code = u32::from(first);
                if (0xd800..0xdc00).contains(&first) && self.text.as_bytes().get(self.at..self.at + 2) == Some(b"\\u") {
                    self.at += 2;
                    let second = u32::from(self.hex()?);
                    if (0xdc00..0xe000).contains(&second) {
                        code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
                    }
                }
                char::from_u32(code).ok_or_else(|| self.error("a \\u escape is half of a pair"))?
            }
            _ => return Err(self.error("an escape is not known")),
        })
    }

    fn hex(&mut self) -> Result<u16, Stop> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let number = number.ok_or_else(|| self.error("\\u needs four hexadecimal digits"))?;
        self.at += 4;
        Ok(number)
    }

    fn number(&mut self) -> Result<Event<'a>, Stop> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let spelled = self.text.get(start..self.at).unwrap_or_default();
        let digits = spelled.strip_prefix('-').unwrap_or(spelled);
        let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        if leading_zero
            || !digits.starts_with(|first: char| first.is_ascii_digit())
            || digits.ends_with(['.', '-', '+'])
        {
            return Err(self.error(format!("{spelled} is not a number")));
        }
        if digits.bytes().all(|digit| digit.is_ascii_digit())
            && let Ok(number) = spelled.parse()
        {
            return Ok(Event::Int(number));
        }
        spelled
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .map(Event::Float)
            .ok_or_else(|| self.error(format!("{spelled} is not a number")))
    }

    /// A key without quotes, which must not be a word that stands for a value.
    fn bare_key(&mut self) -> Result<Cow<'a, str>, Stop> {
        let start = self.at;
        while matches!(self.peek(), Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_')) {
            self.at += 1;
        }
        match self.text.get(start..self.at).unwrap_or_default() {
            "true" | "false" | "null" => Err(self.error("a key must not be such a word")),
            key => Ok(Cow::Borrowed(key)),
        }
    }

    fn word(&mut self) -> Result<Event<'a>, Stop> {
        for (word, event) in [
            ("true", Event::Bool(true)),
            ("false", Event::Bool(false)),
            ("null", Event::Null),
        ] {
            if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
                self.at += word.len();
                return Ok(event);
            }
        }
        Err(self.unexpected("a value"))
    }
}

impl<'a> Source<'a> for JsonSource<'a> {
    fn value(&mut self) -> Result<Event<'a>, Stop> {
        self.blank();
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                self.fresh = true;
                Ok(Event::Map)
            }
            Some(b'[') => {
                self.at += 1;
                self.fresh = true;
                Ok(Event::List)
            }
            Some(b'"') => self.string().map(Event::Text),
            Some(b'\'') if self.lenient => self.string().map(Event::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn key(&mut self) -> Result<Option<Cow<'a, str>>, Stop> {
        if !self.next_member(b'}')? {
            return Ok(None);
        }
        let key = match self.peek() {
            Some(b'"') => self.string()?,
            Some(b'\'') if self.lenient => self.string()?,
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') if self.lenient => self.bare_key()?,
            _ => return Err(self.unexpected("a key in quotes")),
        };
        self.blank();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("':'"));
        }
        self.at += 1;
        Ok(Some(key))
    }

    fn item(&mut self) -> Result<Option<Event<'a>>, Stop> {
        if self.next_member(b']')? {
            self.value().map(Some)
        } else {
            Ok(None)
        }
    }

    fn finish(&mut self) -> Result<bool, Stop> {
        self.blank();
        if self.at < self.text.len() {
            Err(self.unexpected("the end of the text"))
        } else {
            Ok(false)
        }
    }

    fn repeats(&self) -> Repeats {
        Repeats::Join
    }

    fn line(&self) -> usize {
        self.text
            .as_bytes()
            .iter()
            .take(self.at)
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    }
}
