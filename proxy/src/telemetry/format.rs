//! Envoy's format strings, compiled into segments.
//!
//! In: a text or JSON format. Out: bytes, written from what is known of a stream. Nothing is looked up by name when a line is written.

mod grpc;
mod json;
mod operator;
mod peer;
mod simple;
mod time;
mod view;

pub use grpc::{grpc_of_http, grpc_sent, grpc_status};
pub use json::JsonFormat;
pub use view::{Close, CloseType, LogType, LogView, TcpRecord};

use crate::config::{Compiled, Problems};
use operator::Operator;

/// Envoy's format when none is configured, to the byte.
pub const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// A compiled text format.
pub struct Format {
    segments: Vec<Segment>,
    /// Missing values print as nothing instead of `-`.
    omit_empty: bool,
}

enum Segment {
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

    /// As [`text`](Self::text), with the choice of what a missing value prints as.
    pub fn parse(format: &str, omit_empty: bool) -> Compiled<Self> {
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

    /// Whether it prints response headers, which then must be kept until it is written.
    pub fn needs_response_headers(&self) -> bool {
        self.operators().any(Operator::needs_response_headers)
    }

    pub fn needs_trailers(&self) -> bool {
        self.operators().any(Operator::needs_trailers)
    }

    pub fn needs_close(&self) -> bool {
        self.operators().any(Operator::needs_close)
    }

    pub fn needs_upstream_meter(&self) -> bool {
        self.operators().any(Operator::needs_upstream_meter)
    }

    pub fn write(&self, view: &LogView<'_>, out: &mut Vec<u8>) {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Segment::Operator(operator) => {
                    if !operator.write(view, out) && !self.omit_empty {
                        out.push(b'-');
                    }
                }
            }
        }
    }

    fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Operator(operator) => Some(operator),
            Segment::Literal(_) => None,
        })
    }

    /// The operator, if the format is nothing else: then JSON keeps its type.
    fn lone(&self) -> Option<&Operator> {
        match self.segments.as_slice() {
            [Segment::Operator(operator)] => Some(operator),
            _ => None,
        }
    }
}

/// A moment as Envoy writes it in JSON: `2026-11-25T10:30:00.123Z`.
pub fn timestamp(moment: std::time::SystemTime) -> String {
    let mut text = Vec::new();
    if let Ok(format) = time::TimeFormat::parse("") {
        format.write(moment, &mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests;
