//! Subject-alternative-name matchers.

use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    SubjectAltNameMatcher, subject_alt_name_matcher::SanType,
};
use remora_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::x509::CertificateFacts;
use crate::config::{Compiled, Problems};

/// One compiled matcher. Any of a list that matches is enough.
#[derive(Debug)]
pub struct SanMatcher {
    /// `None`: every kind of name (the deprecated untyped field).
    kind: Option<SanType>,
    /// Of an `OTHER_NAME`: its type.
    oid: String,
    pattern: Pattern,
}

#[derive(Debug)]
enum Pattern {
    Exact(String, bool),
    Prefix(String, bool),
    Suffix(String, bool),
    Contains(String, bool),
    Regex(regex::Regex),
}

impl SanMatcher {
    pub fn typed(config: &SubjectAltNameMatcher) -> Compiled<Self> {
        let kind = SanType::try_from(config.san_type).unwrap_or(SanType::Unspecified);
        if kind == SanType::Unspecified {
            return Err(Problems::one(
                "san_type",
                "must be EMAIL, DNS, URI, IP_ADDRESS or OTHER_NAME",
            ));
        }
        if kind == SanType::OtherName && !is_oid(&config.oid) {
            return Err(Problems::one("oid", "must be the dotted numbers of the name's type"));
        }
        let matcher = config
            .matcher
            .as_ref()
            .ok_or_else(|| Problems::one("matcher", "required"))?;
        Ok(Self {
            kind: Some(kind),
            oid: config.oid.clone(),
            pattern: Pattern::compile(matcher).map_err(|problems| problems.under("matcher"))?,
        })
    }

    pub fn untyped(config: &StringMatcher) -> Compiled<Self> {
        let pattern = Pattern::compile(config)?;
        Ok(Self {
            kind: None,
            oid: String::new(),
            pattern,
        })
    }

    /// Whether a name of the certificate matches.
    pub fn matches(&self, facts: &CertificateFacts) -> bool {
        let of_kind = |kind: SanType| self.kind.is_none_or(|wanted| wanted == kind);
        let plain = |names: &[String]| names.iter().any(|name| self.pattern.matches(name));
        (of_kind(SanType::Uri) && plain(&facts.uri_sans))
            || (of_kind(SanType::Dns) && facts.dns_sans.iter().any(|name| self.matches_dns(name)))
            || (of_kind(SanType::Email) && plain(&facts.email_sans))
            || (of_kind(SanType::IpAddress) && plain(&facts.ip_sans))
            || (self.kind == Some(SanType::OtherName) && self.matches_other(facts))
    }

    fn matches_other(&self, facts: &CertificateFacts) -> bool {
        let mut names = facts.other_san_types.iter().zip(&facts.other_sans);
        names.any(|(kind, name)| *kind == self.oid && self.pattern.matches(name))
    }

    fn matches_dns(&self, name: &str) -> bool {
        // An exact matcher for a DNS name honours a wildcard in the certificate; so does Envoy.
        match &self.pattern {
            Pattern::Exact(wanted, _) => dns_matches(wanted, name),
            other => other.matches(name),
        }
    }
}

impl Pattern {
    fn compile(config: &StringMatcher) -> Compiled<Self> {
        let fold = config.ignore_case;
        Ok(match &config.match_pattern {
            Some(MatchPattern::Exact(text)) => Self::Exact(text.clone(), fold),
            Some(MatchPattern::Prefix(text)) => Self::Prefix(text.clone(), fold),
            Some(MatchPattern::Suffix(text)) => Self::Suffix(text.clone(), fold),
            Some(MatchPattern::Contains(text)) => Self::Contains(text.clone(), fold),
            Some(MatchPattern::SafeRegex(config)) => {
                // RE2's FullMatch: the whole name.
                let whole = format!("^(?:{})$", config.regex);
                let compiled = regex::Regex::new(&whole);
                Self::Regex(compiled.map_err(|error| Problems::one("safe_regex.regex", error.to_string()))?)
            }
            Some(MatchPattern::Custom(_)) => return Err(Problems::one("custom", "not supported")),
            None => return Err(Problems::one("match_pattern", "required")),
        })
    }

    fn matches(&self, name: &str) -> bool {
        let folded = |text: &str, fold: bool| match fold {
            true => text.to_ascii_lowercase(),
            false => text.to_owned(),
        };
        match self {
            Self::Exact(text, fold) => folded(name, *fold) == folded(text, *fold),
            Self::Prefix(text, fold) => folded(name, *fold).starts_with(&folded(text, *fold)),
            Self::Suffix(text, fold) => folded(name, *fold).ends_with(&folded(text, *fold)),
            Self::Contains(text, fold) => folded(name, *fold).contains(&folded(text, *fold)),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

fn is_oid(text: &str) -> bool {
    text.contains('.') && text.split('.').all(|part| part.parse::<u64>().is_ok())
}

/// Whether one of the certificate's DNS names covers `host`.
pub fn names_host(facts: &CertificateFacts, host: &str) -> bool {
    any_names_host(&facts.dns_sans, host)
}

/// Whether the certificate has this very name, of whatever kind; DNS names may have wildcards.
pub fn is_named(facts: &CertificateFacts, name: &str) -> bool {
    let others = [&facts.uri_sans, &facts.email_sans, &facts.ip_sans];
    names_host(facts, name) || others.into_iter().flatten().any(|other| other == name)
}

/// As [`names_host`], over the names alone.
pub fn any_names_host(dns_sans: &[String], host: &str) -> bool {
    dns_sans.iter().any(|name| dns_matches(host, name))
}

/// `*.example.com` in a certificate stands for one label.
fn dns_matches(wanted: &str, in_certificate: &str) -> bool {
    if wanted.eq_ignore_ascii_case(in_certificate) {
        return true;
    }
    let Some(parent) = in_certificate.strip_prefix("*.") else {
        return false;
    };
    match wanted.split_once('.') {
        Some((label, rest)) => !label.is_empty() && parent.contains('.') && rest.eq_ignore_ascii_case(parent),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_of_certificates_stand_for_one_label() {
        for (wanted, name, expected) in [
            ("a.example.com", "*.example.com", true),
            ("A.example.com", "a.EXAMPLE.com", true),
            ("a.b.example.com", "*.example.com", false),
            ("example.com", "*.example.com", false),
            ("a.com", "*.com", false),
            ("*.example.com", "a.example.com", false),
        ] {
            assert_eq!(dns_matches(wanted, name), expected, "{wanted} against {name}");
        }
    }

    #[test]
    fn prefixes_match_spiffe_names_only_at_the_start() {
        let matcher = SanMatcher::untyped(&StringMatcher {
            ignore_case: false,
            match_pattern: Some(MatchPattern::Prefix("spiffe://td/".to_owned())),
        })
        .unwrap();
        let facts = |uri: &str| CertificateFacts {
            uri_sans: vec![uri.to_owned()],
            ..CertificateFacts::default()
        };
        assert!(matcher.matches(&facts("spiffe://td/ns/a/sa/b")));
        assert!(!matcher.matches(&facts("spiffe://other/spiffe://td/")));
    }
}
