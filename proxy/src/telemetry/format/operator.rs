//! Command operators: `%NAME(parameter):length%`.

use super::Segment;
use super::view::LogView;
use crate::route::headers::HeaderKey;
use crate::route::view::RequestView;

/// One compiled operator.
pub(crate) enum Operator {
    Request(HeaderKey),
}

/// Splits a format into literals and operators.
pub(super) fn parse(format: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        if at > 0 {
            segments.push(Segment::Literal(rest[..at].to_owned()));
        }
        let after = &rest[at + 1..];
        let end = after
            .find('%')
            .ok_or_else(|| format!("{format:?} has an unfinished operator"))?;
        let name = after[..end]
            .strip_prefix("REQ(")
            .and_then(|name| name.strip_suffix(')'));
        let name = name.ok_or_else(|| format!("{:?} is not a supported operator", &after[..end]))?;
        let key = HeaderKey::compile("", name).map_err(|problems| problems.to_string())?;
        segments.push(Segment::Operator(Operator::Request(key)));
        rest = &after[end + 1..];
    }
    if !rest.is_empty() {
        segments.push(Segment::Literal(rest.to_owned()));
    }
    Ok(segments)
}

impl Operator {
    /// Writes the value. `false`: there is none.
    pub(crate) fn write(&self, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Request(key) => match key.of(&RequestView::of(view.exchange)) {
                Some(value) => {
                    out.extend_from_slice(&value);
                    true
                }
                None => false,
            },
        }
    }
}
