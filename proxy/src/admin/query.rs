//! The query of an admin request.

use percent_encoding::percent_decode_str;
use regex::Regex;

/// Parameters in their order, percent-decoded. `+` stays a plus, as in Envoy.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let pair = |item: &str| {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            (decode(name), decode(value))
        };
        Self(text.split('&').filter(|item| !item.is_empty()).map(pair).collect())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// The first value of `name`; empty ones count as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(own, _)| own == name)?;
        (!value.is_empty()).then_some(value)
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// `name` as an expression to search with.
    ///
    /// # Errors
    /// What is wrong with the expression, in one line.
    pub(super) fn regex(&self, name: &str) -> Result<Option<Regex>, String> {
        self.get(name).map(regex).transpose()
    }
}

/// # Errors
/// What is wrong with the expression, in one line.
pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        format!("{}: {pattern}", reason.trim_start_matches("error: "))
    })
}
