//! Envoy's format strings, compiled into segments.
//!
//! In: a text or JSON format. Out: bytes, written from what is known of a stream. Nothing is looked up by name when a line is written.

mod operator;
mod view;

pub use view::LogView;

use crate::config::{Compiled, Problems};
use operator::Operator;

/// A compiled text format.
pub struct Format {
    segments: Vec<Segment>,
    /// Missing values print as nothing instead of `-`.
    omit_empty: bool,
}

pub(crate) enum Segment {
    Literal(String),
    Operator(Operator),
}

impl Format {
    /// A text format of an access log: missing values print as `-`.
    pub fn text(format: &str) -> Compiled<Self> {
        Self::parse(format, false)
    }

    /// A header value: missing values print as nothing.
    pub fn header(format: &str) -> Compiled<Self> {
        Self::parse(format, true)
    }

    fn parse(format: &str, omit_empty: bool) -> Compiled<Self> {
        let segments = operator::parse(format).map_err(|reason| Problems::one("", reason))?;
        Ok(Self { segments, omit_empty })
    }

    /// The whole format, if it has no operator.
    pub fn literal(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [] => Some(""),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }

    pub fn write(&self, view: &LogView<'_>, out: &mut Vec<u8>) {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Segment::Operator(operator) => {
                    let start = out.len();
                    if !operator.write(view, out) {
                        out.truncate(start);
                        if !self.omit_empty {
                            out.push(b'-');
                        }
                    }
                }
            }
        }
    }
}
