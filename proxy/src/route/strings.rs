//! Matchers over values: strings, protobuf values, metadata.

use remora_proto::pb::envoy::r#type::matcher::v3 as pbm;
use remora_proto::pb::google::protobuf::{Value, value::Kind};

use crate::config::route::{Under, each, full_regex};
use crate::config::{Compiled, Problems};
use crate::http::exchange::DynamicMetadata;

/// `envoy.type.matcher.v3.StringMatcher`, over bytes because header values are bytes.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    ignore_case: bool,
    pattern: Pattern,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<[u8]>),
    Regex(regex::bytes::Regex),
}

impl StringMatcher {
    pub fn compile(value: &pbm::StringMatcher) -> Compiled<Self> {
        use pbm::string_matcher::MatchPattern as M;
        let bytes = |text: &String| text.as_bytes().into();
        let pattern = match &value.match_pattern {
            Some(M::Exact(text)) => Pattern::Exact(bytes(text)),
            Some(M::Prefix(text)) => Pattern::Prefix(bytes(text)),
            Some(M::Suffix(text)) => Pattern::Suffix(bytes(text)),
            Some(M::Contains(text)) => Pattern::Contains(text.to_ascii_lowercase_if(value.ignore_case)),
            Some(M::SafeRegex(regex)) => Pattern::Regex(full_regex(regex).under("safe_regex")?),
            Some(M::Custom(_)) => return Err(Problems::one("custom", "custom string matchers are not supported")),
            None => return Err(Problems::one("", "a string matcher needs a pattern")),
        };
        Ok(Self {
            ignore_case: value.ignore_case,
            pattern,
        })
    }

    /// A matcher from one of the deprecated forms that carry a bare pattern.
    pub fn exact(text: &str) -> Self {
        Self::cased(Pattern::Exact(text.as_bytes().into()))
    }

    pub fn prefix(text: &str) -> Self {
        Self::cased(Pattern::Prefix(text.as_bytes().into()))
    }

    pub fn suffix(text: &str) -> Self {
        Self::cased(Pattern::Suffix(text.as_bytes().into()))
    }

    pub fn contains(text: &str) -> Self {
        Self::cased(Pattern::Contains(text.as_bytes().into()))
    }

    pub fn regex(regex: regex::bytes::Regex) -> Self {
        Self::cased(Pattern::Regex(regex))
    }

    fn cased(pattern: Pattern) -> Self {
        Self {
            ignore_case: false,
            pattern,
        }
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        match &self.pattern {
            Pattern::Exact(text) => self.same(value, text),
            Pattern::Prefix(text) => value.get(..text.len()).is_some_and(|head| self.same(head, text)),
            Pattern::Suffix(text) => {
                let start = value.len().checked_sub(text.len());
                start.is_some_and(|start| self.same(&value[start..], text))
            }
            Pattern::Contains(text) if self.ignore_case => {
                memchr::memmem::find(&value.to_ascii_lowercase(), text).is_some()
            }
            Pattern::Contains(text) => memchr::memmem::find(value, text).is_some(),
            Pattern::Regex(regex) => regex.is_match(value),
        }
    }

    fn same(&self, value: &[u8], text: &[u8]) -> bool {
        if self.ignore_case {
            value.eq_ignore_ascii_case(text)
        } else {
            value == text
        }
    }
}

trait LowerIf {
    fn to_ascii_lowercase_if(&self, lower: bool) -> Box<[u8]>;
}

impl LowerIf for String {
    fn to_ascii_lowercase_if(&self, lower: bool) -> Box<[u8]> {
        if lower {
            self.to_ascii_lowercase().into_bytes().into()
        } else {
            self.as_bytes().into()
        }
    }
}

/// `envoy.type.matcher.v3.ValueMatcher`
#[derive(Clone, Debug)]
pub enum ValueMatcher {
    Null,
    DoubleRange(f64, f64),
    DoubleExact(f64),
    String(StringMatcher),
    Bool(bool),
    Present(bool),
    ListOneOf(Box<ValueMatcher>),
    Or(Vec<ValueMatcher>),
}

impl ValueMatcher {
    pub fn compile(value: &pbm::ValueMatcher) -> Compiled<Self> {
        use pbm::value_matcher::MatchPattern as M;
        let Some(pattern) = &value.match_pattern else {
            return Err(Problems::one("", "a value matcher needs a pattern"));
        };
        Ok(match pattern {
            M::NullMatch(_) => Self::Null,
            M::DoubleMatch(double) => match &double.match_pattern {
                Some(pbm::double_matcher::MatchPattern::Range(range)) => Self::DoubleRange(range.start, range.end),
                Some(pbm::double_matcher::MatchPattern::Exact(exact)) => Self::DoubleExact(*exact),
                None => return Err(Problems::one("double_match", "needs a pattern")),
            },
            M::StringMatch(string) => Self::String(StringMatcher::compile(string).under("string_match")?),
            M::BoolMatch(bool) => Self::Bool(*bool),
            M::PresentMatch(present) => Self::Present(*present),
            M::ListMatch(list) => match &list.match_pattern {
                Some(pbm::list_matcher::MatchPattern::OneOf(inner)) => {
                    Self::ListOneOf(Box::new(Self::compile(inner).under("list_match.one_of")?))
                }
                None => return Err(Problems::one("list_match", "needs a pattern")),
            },
            M::OrMatch(or) => Self::Or(each("value_matchers", &or.value_matchers, Self::compile).under("or_match")?),
        })
    }

    pub fn matches(&self, value: Option<&Value>) -> bool {
        let kind = value.and_then(|value| value.kind.as_ref());
        match (self, kind) {
            (Self::Present(present), kind) => kind.is_some() == *present,
            (Self::Null, Some(Kind::NullValue(_))) => true,
            (Self::DoubleRange(start, end), Some(Kind::NumberValue(number))) => number >= start && number < end,
            (Self::DoubleExact(exact), Some(Kind::NumberValue(number))) => number == exact,
            (Self::String(matcher), Some(Kind::StringValue(text))) => matcher.matches(text.as_bytes()),
            (Self::Bool(expected), Some(Kind::BoolValue(bool))) => bool == expected,
            (Self::ListOneOf(inner), Some(Kind::ListValue(list))) => {
                list.values.iter().any(|item| inner.matches(Some(item)))
            }
            (Self::Or(any), _) => any.iter().any(|matcher| matcher.matches(value)),
            _ => false,
        }
    }
}

/// `envoy.type.matcher.v3.MetadataMatcher` over the stream's dynamic metadata.
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    filter: String,
    path: Vec<String>,
    value: ValueMatcher,
    invert: bool,
}

impl MetadataMatcher {
    pub fn compile(value: &pbm::MetadataMatcher) -> Compiled<Self> {
        let path = each("path", &value.path, |segment| match &segment.segment {
            Some(pbm::metadata_matcher::path_segment::Segment::Key(key)) => Ok(key.clone()),
            None => Err(Problems::one("key", "is required")),
        })?;
        let Some(matcher) = &value.value else {
            return Err(Problems::one("value", "is required"));
        };
        Ok(Self {
            filter: value.filter.clone(),
            path,
            value: ValueMatcher::compile(matcher).under("value")?,
            invert: value.invert,
        })
    }

    pub fn matches(&self, metadata: Option<&DynamicMetadata>) -> bool {
        self.value.matches(self.lookup(metadata)) != self.invert
    }

    /// Whether the path leads to a value at all.
    pub fn is_present(&self, metadata: Option<&DynamicMetadata>) -> bool {
        self.lookup(metadata).is_some()
    }

    fn lookup<'a>(&self, metadata: Option<&'a DynamicMetadata>) -> Option<&'a Value> {
        metadata?.value(&self.filter, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pbm::string_matcher::MatchPattern as M;

    fn matcher(ignore_case: bool, pattern: M) -> StringMatcher {
        let value = pbm::StringMatcher {
            ignore_case,
            match_pattern: Some(pattern),
        };
        StringMatcher::compile(&value).expect("compiles")
    }

    #[test]
    fn strings_match_as_envoys_do() {
        let regex = |text: &str| {
            M::SafeRegex(pbm::RegexMatcher {
                regex: text.into(),
                ..Default::default()
            })
        };
        let cases = [
            (false, M::Exact("Foo".into()), "foo", false),
            (true, M::Exact("Foo".into()), "foo", true),
            (false, M::Prefix("fo".into()), "foo", true),
            (false, M::Prefix("fooo".into()), "foo", false),
            (true, M::Suffix("OO".into()), "foo", true),
            (true, M::Contains("BaR".into()), "foobarx", true),
            (false, M::Contains("BaR".into()), "foobarx", false),
            (false, regex("o+"), "foo", false),
            (false, regex("fo+|x"), "foo", true),
            (false, regex("a|foo"), "foox", false),
        ];
        for (ignore_case, pattern, value, expected) in cases {
            let shown = format!("{pattern:?} on {value}");
            assert_eq!(
                matcher(ignore_case, pattern).matches(value.as_bytes()),
                expected,
                "{shown}"
            );
        }
    }

    #[test]
    fn a_custom_matcher_is_refused_with_its_path() {
        let value = pbm::StringMatcher {
            match_pattern: Some(M::Custom(Default::default())),
            ..Default::default()
        };
        assert_eq!(StringMatcher::compile(&value).expect_err("refused").0[0].path, "custom");
    }
}
