//! spdlog's `%` patterns, as far as `--log-format` and `application_log_config` use them.

use std::fmt::Write;

use time::OffsetDateTime;
use tracing::field::{Field, Visit};

use super::Level;

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Flag(char),
}

/// What one line is made of.
pub struct Line<'a> {
    pub level: Level,
    pub logger: &'a str,
    pub file: &'a str,
    pub line: u32,
    pub message: String,
    pub at: OffsetDateTime,
}

impl Pattern {
    /// Unknown flags stay as they are written; colour marks (`%^`, `%$`) vanish, padding (`%-8l`) is not honoured.
    pub fn parse(format: &str) -> Self {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(char) = chars.next() {
            if char != '%' {
                text.push(char);
                continue;
            }
            let flag = chars.find(|next| !next.is_ascii_digit() && !"-=".contains(*next));
            match flag {
                Some('%') | None => text.push('%'),
                Some('^' | '$') => {}
                Some(flag) if FLAGS.contains(flag) => {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(Piece::Flag(flag));
                }
                Some(other) => text.extend(['%', other]),
            }
        }
        pieces.push(Piece::Text(text));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Self(pieces)
    }

    /// One line with its newline.
    pub fn render(&self, line: &Line<'_>) -> String {
        let mut out = String::with_capacity(96 + line.message.len());
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                // Writing to a string does not fail.
                Piece::Flag(flag) => drop(line.write(*flag, &mut out)),
            }
        }
        out.push('\n');
        out
    }
}

const FLAGS: &str = "YmdTHMSefFtlLnNgsv_j#@P!zEuiI";

impl Line<'_> {
    fn write(&self, flag: char, out: &mut String) -> std::fmt::Result {
        let at = &self.at;
        match flag {
            'Y' => write!(out, "{}", at.year()),
            'm' => write!(out, "{:02}", u8::from(at.month())),
            'd' => write!(out, "{:02}", at.day()),
            'T' => write!(out, "{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second()),
            'H' => write!(out, "{:02}", at.hour()),
            'M' => write!(out, "{:02}", at.minute()),
            'S' => write!(out, "{:02}", at.second()),
            'e' => write!(out, "{:03}", at.millisecond()),
            'f' => write!(out, "{:06}", at.microsecond()),
            'F' => write!(out, "{:09}", at.nanosecond()),
            'E' => write!(out, "{}", at.unix_timestamp()),
            'z' => out.write_str("+00:00"),
            't' => write!(out, "{}", rustix::thread::gettid().as_raw_nonzero()),
            'P' => write!(out, "{}", std::process::id()),
            'l' => out.write_str(self.level.name()),
            'L' => write!(out, "{}", self.level.name()[..1].to_uppercase()),
            'n' => out.write_str(self.logger),
            'g' => out.write_str(self.file),
            's' => out.write_str(self.file.rsplit('/').next().unwrap_or_default()),
            '#' => write!(out, "{}", self.line),
            '@' => write!(out, "{}:{}", self.file, self.line),
            '_' => out.write_str(&self.message.replace('\n', "\\n")),
            'j' => {
                let quoted = serde_json::Value::from(self.message.as_str()).to_string();
                out.write_str(&quoted[1..quoted.len() - 1])
            }
            'v' => out.write_str(&self.message),
            // `%!` (function), `%i`, `%u` (elapsed) and `%N` have nothing to say here.
            _ => Ok(()),
        }
    }
}

/// A line in C's escapes (absl's `CEscape`), the blanks at its end as they are.
pub fn escape(line: &str) -> String {
    let text = line.trim_end();
    let mut out = String::with_capacity(line.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' | b'\'' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(out, "\\{byte:03o}")),
        }
    }
    out.push_str(&line[text.len()..]);
    out
}

/// `application_log_config.log_format.json_format` as a pattern: one JSON object a line, the message escaped.
pub fn json_pattern(fields: &serde_json::Map<String, serde_json::Value>) -> String {
    let escaped = |value: &serde_json::Value| value.to_string().replace("%v", "%j");
    let members: Vec<_> = fields
        .iter()
        .map(|(key, value)| format!("{}:{}", serde_json::Value::from(key.as_str()), escaped(value)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// Collects an event's message and fields.
#[derive(Default)]
pub struct Message {
    message: String,
    fields: String,
}

impl Message {
    /// `message key=value …`
    pub fn text(self) -> String {
        if self.message.is_empty() {
            return self.fields.trim_start().to_owned();
        }
        self.message + &self.fields
    }
}

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn rendered(format: &str) -> String {
        Pattern::parse(format).render(&Line {
            level: Level::Warning,
            logger: "main",
            file: "proxy/src/app.rs",
            line: 7,
            message: "say \"hi\"\nthere".to_owned(),
            at: datetime!(2026-03-04 05:06:07.008_009 UTC),
        })
    }

    #[test]
    fn patterns_render_as_spdlog_does() {
        let tid = rustix::thread::gettid().as_raw_nonzero();
        let default = rendered(super::super::DEFAULT_FORMAT);
        assert_eq!(
            default,
            format!("[2026-03-04 05:06:07.008][{tid}][warning][main] [proxy/src/app.rs:7] say \"hi\"\nthere\n")
        );
        assert_eq!(
            rendered("%Y-%m-%dT%T.%f\t%L %s %@ %_ 100%% %^%q%$"),
            "2026-03-04T05:06:07.008009\tW app.rs proxy/src/app.rs:7 say \"hi\"\\nthere 100% %q\n"
        );
        assert_eq!(rendered("%"), "%\n");
    }

    #[test]
    fn json_lines_are_json() {
        let fields = serde_json::json!({"time": "%Y", "level": "%l", "msg": "%v"});
        let line = rendered(&json_pattern(fields.as_object().expect("an object")));
        let parsed: serde_json::Value = serde_json::from_str(&line).expect("valid JSON");
        assert_eq!(
            parsed,
            serde_json::json!({"time": "2026", "level": "warning", "msg": "say \"hi\"\nthere"})
        );
    }
}
