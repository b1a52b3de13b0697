//! Which answers count as errors, where a cluster says so itself (`HttpProtocolOptions.outlier_detection.error_matcher`).

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use remora_proto::pb::envoy::config::common::matcher::v3 as pb;
use remora_proto::pb::envoy::config::common::matcher::v3::match_predicate::Rule as PbRule;

use crate::config::route::{Under, each};
use crate::config::{Compiled, Problems};
use crate::route::headers::HeaderMatcher;

/// A compiled `MatchPredicate` over the head of an answer.
#[derive(Clone, Debug)]
pub struct ErrorMatcher(Arc<Rule>);

#[derive(Debug)]
enum Rule {
    Or(Vec<Rule>),
    And(Vec<Rule>),
    Not(Box<Rule>),
    Any,
    /// All of them.
    Headers(Vec<HeaderMatcher>),
}

impl PartialEq for ErrorMatcher {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl ErrorMatcher {
    pub fn compile(predicate: &pb::MatchPredicate) -> Compiled<Self> {
        Ok(Self(Arc::new(Rule::compile(predicate)?)))
    }

    /// The status that the answer counts as, as in Envoy: 500 or 200.
    pub fn status(&self, status: StatusCode, headers: &HeaderMap) -> u16 {
        if self.0.matches(status, headers) { 500 } else { 200 }
    }
}

impl Rule {
    fn compile(predicate: &pb::MatchPredicate) -> Compiled<Self> {
        let not_asked = |field: &str| Err(Problems::one(field, "nothing but the head of an answer is looked at"));
        match &predicate.rule {
            Some(PbRule::OrMatch(set)) => Ok(Self::Or(each("or_match.rules", &set.rules, Self::compile)?)),
            Some(PbRule::AndMatch(set)) => Ok(Self::And(each("and_match.rules", &set.rules, Self::compile)?)),
            Some(PbRule::NotMatch(inner)) => Ok(Self::Not(Box::new(Self::compile(inner).under("not_match")?))),
            Some(PbRule::AnyMatch(_)) => Ok(Self::Any),
            Some(PbRule::HttpResponseHeadersMatch(list)) => {
                let path = "http_response_headers_match.headers";
                Ok(Self::Headers(each(path, &list.headers, HeaderMatcher::compile)?))
            }
            Some(PbRule::HttpRequestHeadersMatch(_)) => not_asked("http_request_headers_match"),
            Some(PbRule::HttpRequestTrailersMatch(_)) => not_asked("http_request_trailers_match"),
            Some(PbRule::HttpResponseTrailersMatch(_)) => not_asked("http_response_trailers_match"),
            Some(PbRule::HttpRequestGenericBodyMatch(_)) => not_asked("http_request_generic_body_match"),
            Some(PbRule::HttpResponseGenericBodyMatch(_)) => not_asked("http_response_generic_body_match"),
            None => Err(Problems::one("rule", "required")),
        }
    }

    fn matches(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        match self {
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(status, headers)),
            Self::And(rules) => rules.iter().all(|rule| rule.matches(status, headers)),
            Self::Not(rule) => !rule.matches(status, headers),
            Self::Any => true,
            Self::Headers(all) => all.iter().all(|matcher| matcher.matches_response(status, headers)),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn compiled(yaml: &str) -> Compiled<ErrorMatcher> {
        let name = "envoy.config.common.matcher.v3.MatchPredicate";
        let encoded = remora_proto::json::encode_text(yaml, name, &Default::default()).expect("a predicate");
        ErrorMatcher::compile(&pb::MatchPredicate::decode(encoded.bytes.as_slice()).expect("decodes"))
    }

    #[test]
    fn heads_of_answers_are_errors_or_not() {
        let busy = "{http_response_headers_match: {headers: [{name: \":status\", string_match: {exact: \"429\"}}]}}";
        let marked = "{http_response_headers_match: {headers: [{name: x-bad, present_match: true}]}}";
        let header: HeaderMap = [(
            http::HeaderName::from_static("x-bad"),
            http::HeaderValue::from_static("1"),
        )]
        .into_iter()
        .collect();
        for (rule, expected) in [
            // 429, a 200 with the header, a 503.
            (busy.to_owned(), [500, 200, 200]),
            (format!("{{or_match: {{rules: [{busy}, {marked}]}}}}"), [500, 500, 200]),
            (format!("{{and_match: {{rules: [{busy}, {marked}]}}}}"), [200, 200, 200]),
            (format!("{{not_match: {marked}}}"), [500, 200, 500]),
            ("{any_match: true}".to_owned(), [500, 500, 500]),
        ] {
            let matcher = compiled(&rule).unwrap_or_else(|problems| panic!("{problems}"));
            let none = HeaderMap::new();
            let got = [(429, &none), (200, &header), (503, &none)]
                .map(|(status, headers)| matcher.status(StatusCode::from_u16(status).expect("a status"), headers));
            assert_eq!(got, expected, "{rule}");
        }
        let request = "{not_match: {http_request_headers_match: {headers: [{name: a, present_match: true}]}}}";
        let problems = compiled(request).expect_err("requests are not asked").to_string();
        assert!(
            problems.starts_with("not_match.http_request_headers_match: "),
            "{problems}"
        );
    }
}
