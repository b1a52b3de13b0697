//! What came back, whole, in the form that tests assert on and compare.

use std::fmt::Write;

/// A response as a client saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `HTTP/1.1 200 OK`, or `HTTP/2 200`.
    pub status_line: String,
    /// 0 if nothing came.
    pub status: u16,
    /// In order of arrival, names as sent.
    pub headers: Vec<(String, String)>,
    /// Heads of interim responses, before the final one.
    pub interim: Vec<String>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub ending: Ending,
}

/// How the response ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// Complete; the connection goes on.
    #[default]
    Open,
    /// Complete, and the peer closed the connection.
    Closed,
    /// The connection or stream ended before the response did.
    Cut,
    /// The HTTP/2 stream was reset, with this reason.
    Reset(String),
}

impl Answer {
    /// Value of the first header of that name (any case).
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Value of the first trailer of that name.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        find(&self.trailers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Complete, whatever it says.
    pub fn is_whole(&self) -> bool {
        matches!(self.ending, Ending::Open | Ending::Closed)
    }

    /// All of it as lines, headers sorted, with what differs from run to run masked.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for interim in &self.interim {
            let _ = writeln!(text, "interim {interim}");
        }
        let _ = writeln!(text, "{}", self.status_line);
        for (name, value) in sorted(&self.headers) {
            let _ = writeln!(text, "{name}: {}", masked(&name, &value));
        }
        for line in self.text().lines() {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            let value = &rounded(name, masked(name, value));
            let _ = if value.is_empty() {
                writeln!(text, "| {name}")
            } else {
                writeln!(text, "| {name}: {value}")
            };
        }
        for (name, value) in sorted(&self.trailers) {
            let _ = writeln!(text, "trailer {name}: {value}");
        }
        let _ = writeln!(text, "ending: {:?}", self.ending);
        text
    }
}

/// Header values that differ from run to run.
const MASKED: [&str; 2] = ["date", "x-envoy-upstream-service-time"];

fn masked<'a>(name: &str, value: &'a str) -> &'a str {
    if name.eq_ignore_ascii_case("x-request-id") {
        // The digit that says why it is traced is nobody's own.
        match value.len() {
            36 => &value[14..15],
            _ => "*",
        }
    } else if MASKED.iter().any(|masked| name.eq_ignore_ascii_case(masked)) {
        "*"
    } else {
        value
    }
}

/// The time that a retry has left, in whole seconds begun: what the first try took differs from run to run.
fn rounded(name: &str, value: &str) -> String {
    match value.parse::<u64>() {
        Ok(millis) if name.eq_ignore_ascii_case("x-envoy-expected-rq-timeout-ms") && millis > 1000 => {
            millis.next_multiple_of(1000).to_string()
        }
        _ => value.to_owned(),
    }
}

fn sorted(headers: &[(String, String)]) -> Vec<(String, String)> {
    let mut headers = headers.to_vec();
    headers.sort();
    headers
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut named = headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    named.next().map(|(_, value)| value.as_str())
}
