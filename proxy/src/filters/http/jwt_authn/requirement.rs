//! What a request must have: `JwtRequirement`.

use std::sync::Arc;

use remora_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use remora_proto::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;

use super::JwtAuthn;
use super::provider::Provider;
use super::remote::RemoteKeys;
use super::token::{Refusal, Token};
use crate::config::route::{Under, each, refuse};
use crate::config::{Compiled, Problems};
use crate::http::exchange::Exchange;
use crate::runtime::clock;

pub(super) enum Requirement {
    /// A good token of one issuer; its place in the list of providers.
    Provider {
        index: usize,
        audiences: Option<Vec<String>>,
    },
    Any(Vec<Requirement>),
    All(Vec<Requirement>),
    /// A token that is there must be good, whoever issued it.
    AllowMissing,
    /// Good tokens are read, others do not matter.
    AllowMissingOrFailed,
}

impl Requirement {
    /// `None`: nothing is required.
    pub fn compile_optional(value: &pb::JwtRequirement, providers: &[&str]) -> Compiled<Option<Self>> {
        match value.requires_type {
            None => Ok(None),
            Some(_) => Self::compile(value, providers).map(Some),
        }
    }

    /// `providers`: their names, in their order.
    pub fn compile(value: &pb::JwtRequirement, providers: &[&str]) -> Compiled<Self> {
        let index = |field: &str, name: &str| {
            let found = providers.iter().position(|provider| *provider == name);
            found.ok_or_else(|| Problems::one(field, format!("there is no provider {name:?}")))
        };
        let list = |requirements: &[pb::JwtRequirement]| {
            refuse("requirements", requirements.len() < 2, "needs at least two")?;
            each("requirements", requirements, |inner| Self::compile(inner, providers))
        };
        Ok(match &value.requires_type {
            None => return Err(Problems::one("requires_type", "is required")),
            Some(RequiresType::ProviderName(name)) => Self::Provider {
                index: index("provider_name", name)?,
                audiences: None,
            },
            Some(RequiresType::ProviderAndAudiences(both)) => Self::Provider {
                index: index("provider_and_audiences.provider_name", &both.provider_name)?,
                audiences: Some(both.audiences.clone()),
            },
            Some(RequiresType::RequiresAny(any)) => Self::Any(list(&any.requirements).under("requires_any")?),
            Some(RequiresType::RequiresAll(all)) => Self::All(list(&all.requirements).under("requires_all")?),
            Some(RequiresType::AllowMissing(_)) => Self::AllowMissing,
            Some(RequiresType::AllowMissingOrFailed(_)) => Self::AllowMissingOrFailed,
            Some(RequiresType::ExtractOnlyWithoutValidation(_)) => {
                return Err(Problems::one("extract_only_without_validation", "is not supported"));
            }
        })
    }

    /// Whether the request has what it must; claims of good tokens are passed on.
    pub fn check(&self, filter: &JwtAuthn, exchange: &mut Exchange) -> Result<(), Refusal> {
        match self {
            Self::Provider { index, audiences } => provided(*index, audiences.as_deref(), filter, exchange),
            Self::All(all) => all.iter().try_for_each(|one| one.check(filter, exchange)),
            Self::Any(any) => any_of(any, filter, exchange),
            Self::AllowMissing => anybodys(filter, exchange),
            Self::AllowMissingOrFailed => {
                // Only what a good token says is of interest.
                let _ = anybodys(filter, exchange);
                Ok(())
            }
        }
    }
}

impl Requirement {
    /// Adds the key sets that tokens of the request need and that are not there or too old.
    pub fn stale(&self, filter: &JwtAuthn, exchange: &Exchange, stale: &mut Vec<Arc<RemoteKeys>>) {
        let now = clock::now();
        let mut add = |provider: &Provider, text: &str, audiences: Option<&[String]>| {
            if let Some(remote) = provider.remote()
                && !remote.is_fresh(now)
                && !stale.iter().any(|known| Arc::ptr_eq(known, remote))
                // A token that is refused anyway is not worth a fetch.
                && Token::parse(text).is_ok_and(|token| provider.verify_claims(&token, audiences).is_ok())
            {
                stale.push(remote.clone());
            }
        };
        match self {
            Self::Provider { index, audiences } => {
                let provider = &filter.providers[*index];
                for text in provider.tokens(exchange) {
                    add(provider, &text, audiences.as_deref());
                }
            }
            Self::Any(all) | Self::All(all) => all.iter().for_each(|one| one.stale(filter, exchange, stale)),
            Self::AllowMissing | Self::AllowMissingOrFailed => {
                let all = || filter.providers.iter();
                for text in all().flat_map(|provider| provider.tokens(exchange)) {
                    all().for_each(|provider| add(provider, &text, None));
                }
            }
        }
    }
}

fn any_of(any: &[Requirement], filter: &JwtAuthn, exchange: &mut Exchange) -> Result<(), Refusal> {
    let of_tokens = |one: &&Requirement| !matches!(one, Requirement::AllowMissing | Requirement::AllowMissingOrFailed);
    let mut refusal = Refusal::Missing;
    for one in any.iter().filter(of_tokens) {
        match one.check(filter, exchange) {
            Ok(()) => return Ok(()),
            // That a token is another's says less than that it is bad.
            Err(Refusal::Missing) => {}
            Err(Refusal::UnknownIssuer) if refusal != Refusal::Missing => {}
            Err(other) => refusal = other,
        }
    }
    let allows = |wanted: fn(&Requirement) -> bool| any.iter().any(wanted);
    let missing_is_fine = allows(|one| matches!(one, Requirement::AllowMissing));
    if allows(|one| matches!(one, Requirement::AllowMissingOrFailed))
        || (missing_is_fine && refusal == Refusal::Missing)
    {
        return Ok(());
    }
    Err(refusal)
}

/// Every token that stands where the issuer's tokens stand must be good.
fn provided(
    index: usize,
    audiences: Option<&[String]>,
    filter: &JwtAuthn,
    exchange: &mut Exchange,
) -> Result<(), Refusal> {
    let provider = &filter.providers[index];
    let texts = provider.tokens(exchange);
    if texts.is_empty() {
        return Err(Refusal::Missing);
    }
    filter.stats.jwt_cache_miss.add(texts.len() as u64);
    let tokens = texts
        .iter()
        .map(|text| Token::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    for token in &tokens {
        provider.verify(token, audiences)?;
    }
    tokens.iter().for_each(|token| provider.accept(token, exchange));
    Ok(())
}

/// Every token anywhere must be good, by the keys of whoever it says has issued it.
fn anybodys(filter: &JwtAuthn, exchange: &mut Exchange) -> Result<(), Refusal> {
    let mut texts: Vec<String> = Vec::new();
    for text in filter.providers.iter().flat_map(|provider| provider.tokens(exchange)) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    for text in &texts {
        filter.stats.jwt_cache_miss.inc();
        let token = Token::parse(text)?;
        let issuer = token.claim("iss").unwrap_or_default();
        let provider = filter
            .providers
            .iter()
            .find(|provider| provider.issuer.is_empty() || provider.issuer == issuer);
        let provider = provider.ok_or(Refusal::UnknownIssuer)?;
        provider.verify(&token, None)?;
        provider.accept(&token, exchange);
    }
    Ok(())
}
