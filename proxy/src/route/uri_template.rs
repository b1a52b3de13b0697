//! URI templates (`/users/{id}/**`), for matching and for rewriting.

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use remora_proto::pb::envoy::extensions::path::{r#match::uri_template::v3 as pbm, rewrite::uri_template::v3 as pbw};

use crate::config::{Compiled, Problems};

/// One path segment: what RFC 3986 allows but `/`.
const SEGMENT: &str = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+";
/// Any number of segments.
const SEGMENTS: &str = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=/]*";

/// A compiled path template.
#[derive(Debug)]
pub struct Template {
    regex: regex::Regex,
    variables: Vec<String>,
}

impl Template {
    /// From the `UriTemplateMatchConfig` inside a `path_match_policy`.
    pub fn of_match_policy(policy: &TypedExtensionConfig) -> Compiled<Self> {
        const TYPE: &str = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
        let any = policy.typed_config.as_ref().filter(|any| any.type_url == TYPE);
        let Some(any) = any else {
            return Err(Problems::one(
                "typed_config",
                "only UriTemplateMatchConfig is supported",
            ));
        };
        let config = pbm::UriTemplateMatchConfig::decode(any.value.as_slice())
            .map_err(|error| Problems::one("typed_config", error.to_string()))?;
        Self::parse(&config.path_template).map_err(|problem| Problems::one("typed_config.path_template", problem))
    }

    fn parse(template: &str) -> Result<Self, String> {
        let invalid = || format!("{template:?} is not a path template");
        let mut rest = template.strip_prefix('/').ok_or_else(invalid)?;
        let mut pattern = String::from(r"\A/");
        let mut variables = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('{') {
                let (inside, after) = after.split_once('}').ok_or_else(invalid)?;
                let (name, inner) = inside.split_once('=').unwrap_or((inside, "*"));
                let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !is_name || variables.iter().any(|known| known == name) {
                    return Err(invalid());
                }
                variables.push(name.to_owned());
                pattern.push('(');
                globs(inner, &mut pattern);
                pattern.push(')');
                rest = after;
            } else {
                let end = rest.find('{').unwrap_or(rest.len());
                if rest[..end].contains('}') {
                    return Err(invalid());
                }
                globs(&rest[..end], &mut pattern);
                rest = &rest[end..];
            }
        }
        pattern.push_str(r"\z");
        let regex = regex::Regex::new(&pattern).map_err(|error| error.to_string())?;
        Ok(Self { regex, variables })
    }

    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }

    /// Fills `rewrite`'s variables with what this template captures in `path`.
    pub fn rewrite(&self, rewrite: &Rewrite, path: &str) -> Option<String> {
        let captures = self.regex.captures(path)?;
        let mut out = String::with_capacity(path.len());
        for part in &rewrite.0 {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Variable(name) => {
                    let index = self.variables.iter().position(|known| known == name)?;
                    out.push_str(captures.get(index + 1)?.as_str());
                }
            }
        }
        Some(out)
    }
}

fn globs(text: &str, pattern: &mut String) {
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("**") {
            pattern.push_str(SEGMENTS);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            pattern.push_str(SEGMENT);
            rest = after;
        } else {
            let end = rest.find('*').unwrap_or(rest.len());
            pattern.push_str(&regex::escape(&rest[..end]));
            rest = &rest[end..];
        }
    }
}

/// A compiled rewrite: literals and the names of captured variables.
#[derive(Debug)]
pub struct Rewrite(Vec<Part>);

#[derive(Debug)]
enum Part {
    Literal(String),
    Variable(String),
}

impl Rewrite {
    /// From the `UriTemplateRewriteConfig` inside a `path_rewrite_policy`; `template` is the route's own.
    pub fn of_policy(policy: &TypedExtensionConfig, template: &Template) -> Compiled<Self> {
        const TYPE: &str = "type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig";
        let any = policy.typed_config.as_ref().filter(|any| any.type_url == TYPE);
        let Some(any) = any else {
            return Err(Problems::one(
                "typed_config",
                "only UriTemplateRewriteConfig is supported",
            ));
        };
        let config = pbw::UriTemplateRewriteConfig::decode(any.value.as_slice())
            .map_err(|error| Problems::one("typed_config", error.to_string()))?;
        let text = config.path_template_rewrite;
        let parsed = parse_rewrite(&text, template);
        parsed.ok_or_else(|| {
            Problems::one(
                "typed_config.path_template_rewrite",
                format!("{text:?} does not fit the path template"),
            )
        })
    }
}

fn parse_rewrite(text: &str, template: &Template) -> Option<Rewrite> {
    let mut rest = text.starts_with('/').then_some(text)?;
    let mut parts = Vec::new();
    while let Some(open) = rest.find('{') {
        parts.push(Part::Literal(rest[..open].to_owned()));
        let (name, after) = rest[open + 1..].split_once('}')?;
        template.variables.iter().find(|known| *known == name)?;
        parts.push(Part::Variable(name.to_owned()));
        rest = after;
    }
    parts.push(Part::Literal(rest.to_owned()));
    Some(Rewrite(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_by_segment() {
        let cases = [
            ("/foo/{id}", "/foo/1", true),
            ("/foo/{id}", "/foo/1/2", false),
            ("/foo/*/bar", "/foo/x/bar", true),
            ("/foo/**", "/foo/x/y", true),
            ("/foo/{rest=**}", "/foo/", true),
            ("/foo/{a=bar/*}", "/foo/bar/x", true),
            ("/foo/{a=bar/*}", "/foo/baz/x", false),
            ("/a.b", "/axb", false),
        ];
        for (template, path, expected) in cases {
            assert_eq!(
                Template::parse(template).expect("parses").matches(path),
                expected,
                "{template} {path}"
            );
        }
        for template in ["foo", "/{a", "/a}", "/{a}/{a}", "/{}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }

    #[test]
    fn rewrites_take_variables_from_the_path() {
        let template = Template::parse("/{country}/{rest=**}").expect("parses");
        let rewrite = parse_rewrite("/x/{rest}?c={country}", &template).expect("parses");
        assert_eq!(template.rewrite(&rewrite, "/se/a/b").as_deref(), Some("/x/a/b?c=se"));
        assert!(parse_rewrite("/{unknown}", &template).is_none());
    }
}
