//! Rewrites of path and host (spec D.4).

use remora_proto::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::matcher::PathMatcher;
use super::uri_template;
use crate::config::route::{Under, search_regex};
use crate::config::{Compiled, Problems};

/// What becomes of the path of a request that a route took.
#[derive(Debug)]
pub enum PathRewrite {
    /// Replaces what the route's path specifier matched.
    Prefix(Box<str>),
    Regex(Substitution),
    Template(uri_template::Rewrite),
}

impl PathRewrite {
    /// `path_and_query` rewritten; its query stays. `None`: it stays as it is.
    pub fn apply(&self, matcher: &PathMatcher, path_and_query: &str) -> Option<String> {
        let split = path_and_query.find('?').unwrap_or(path_and_query.len());
        let (path, query) = path_and_query.split_at(split);
        let rewritten = match self {
            Self::Prefix(replacement) => {
                let rest = path.get(matcher.matched_len(path)..)?;
                format!("{replacement}{rest}{query}")
            }
            Self::Regex(substitution) => {
                let path = substitution.apply(path);
                if path.is_empty() {
                    return None;
                }
                format!("{path}{query}")
            }
            Self::Template(rewrite) => match matcher {
                PathMatcher::Template(template) => format!("{}{query}", template.rewrite(rewrite, path)?),
                _ => return None,
            },
        };
        Some(rewritten)
    }
}

/// `RegexMatchAndSubstitute`: every match replaced, `\1` stands for a group.
#[derive(Clone, Debug)]
pub struct Substitution {
    regex: regex::bytes::Regex,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(String),
    Group(usize),
}

impl Substitution {
    pub fn compile(value: &RegexMatchAndSubstitute) -> Compiled<Self> {
        let Some(pattern) = &value.pattern else {
            return Err(Problems::one("pattern", "is required"));
        };
        let regex = search_regex(pattern).under("pattern")?;
        let parts =
            parts(&value.substitution, regex.captures_len()).map_err(|reason| Problems::one("substitution", reason))?;
        Ok(Self { regex, parts })
    }

    /// Bytes that are no text are escaped.
    pub fn apply(&self, text: &str) -> String {
        let replaced = self
            .regex
            .replace_all(text.as_bytes(), |captures: &regex::bytes::Captures<'_>| {
                let mut out = Vec::new();
                for part in &self.parts {
                    match part {
                        Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                        Part::Group(index) => {
                            out.extend(captures.get(*index).map_or(&b""[..], |group| group.as_bytes()))
                        }
                    }
                }
                out
            });
        String::from_utf8(replaced.into_owned()).unwrap_or_else(|error| {
            percent_encoding::percent_encode(error.as_bytes(), percent_encoding::CONTROLS).to_string()
        })
    }
}

/// RE2's rewrite syntax: `\0`..`\9` are groups, `\\` is a backslash.
fn parts(text: &str, groups: usize) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            literal.push(character);
            continue;
        }
        match characters.next() {
            Some('\\') => literal.push('\\'),
            Some(digit) if digit.is_ascii_digit() => {
                let index = usize::from(digit as u8 - b'0');
                if index >= groups {
                    return Err(format!("{text:?} names group {index}, which the pattern has not"));
                }
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Group(index));
            }
            _ => return Err(format!("{text:?} has a stray backslash")),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// What becomes of the authority.
#[derive(Debug)]
pub enum HostRewrite {
    Literal(http::HeaderValue),
    /// The picked host's hostname.
    Auto,
    /// The value of a request header.
    Header(http::HeaderName),
    /// A substitution over the path.
    PathRegex(Substitution),
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_proto::pb::envoy::r#type::matcher::v3::RegexMatcher;

    fn substitution(pattern: &str, text: &str) -> Compiled<Substitution> {
        Substitution::compile(&RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher {
                regex: pattern.into(),
                ..Default::default()
            }),
            substitution: text.into(),
        })
    }

    #[test]
    fn prefixes_are_replaced_and_queries_stay() {
        let cases = [
            ("/prefix", "/", "/prefix/x?q=/prefix", "//x?q=/prefix"),
            ("/prefix/", "/", "/prefix/x", "/x"),
            ("/a", "/b", "/a", "/b"),
            ("/a", "/b", "/abc?x", "/bbc?x"),
        ];
        for (prefix, replacement, path, expected) in cases {
            let matcher = PathMatcher::Prefix {
                text: prefix.into(),
                case_sensitive: true,
            };
            let rewrite = PathRewrite::Prefix(replacement.into());
            assert_eq!(rewrite.apply(&matcher, path).as_deref(), Some(expected));
        }
    }

    #[test]
    fn regex_rewrites_replace_every_match_in_the_path_only() {
        let cases = [
            (
                "^/service/([^/]+)(/.*)$",
                r"\2/instance/\1",
                "/service/foo/v1/api?a=1",
                "/v1/api/instance/foo?a=1",
            ),
            ("one", "two", "/xxx/one/yyy/one/zzz?one", "/xxx/two/yyy/two/zzz?one"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("(?-u:\\xc3)", "", "/é", "/%A9"),
        ];
        for (pattern, text, path, expected) in cases {
            let rewrite = PathRewrite::Regex(substitution(pattern, text).expect("compiles"));
            assert_eq!(rewrite.apply(&PathMatcher::Connect, path).as_deref(), Some(expected));
        }
        let nothing = PathRewrite::Regex(substitution("^.*$", "").expect("compiles"));
        assert_eq!(nothing.apply(&PathMatcher::Connect, "/a?b"), None);
        assert!(substitution("a", r"\1").is_err());
        assert!(substitution("a", r"\").is_err());
    }
}
