//! Retry policies: what is retried, how often, after how long (spec D.7). Decisions are pure functions.

mod decide;

use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::envoy::config::route::v3 as pbr;

use super::headers::HeaderMatcher;
use crate::config::route::{Under, duration, each, header_name, optional, refuse};
use crate::config::{Compiled, Problems};

/// A set of `retry_on` conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

macro_rules! retry_on {
    ($($name:ident = $bit:literal, $token:literal;)*) => {
        impl RetryOn {
            $(#[doc = $token] pub const $name: Self = Self(1 << $bit);)*
        }

        const TOKENS: &[(&str, RetryOn)] = &[$(($token, RetryOn::$name)),*];
    };
}

retry_on! {
    SERVER_ERROR = 0, "5xx";
    GATEWAY_ERROR = 1, "gateway-error";
    RESET = 2, "reset";
    RESET_BEFORE_REQUEST = 3, "reset-before-request";
    CONNECT_FAILURE = 4, "connect-failure";
    ENVOY_RATELIMITED = 5, "envoy-ratelimited";
    RETRIABLE_4XX = 6, "retriable-4xx";
    REFUSED_STREAM = 7, "refused-stream";
    RETRIABLE_STATUS_CODES = 8, "retriable-status-codes";
    RETRIABLE_HEADERS = 9, "retriable-headers";
    HTTP3_POST_CONNECT_FAILURE = 10, "http3-post-connect-failure";
    CANCELLED = 11, "cancelled";
    DEADLINE_EXCEEDED = 12, "deadline-exceeded";
    INTERNAL = 13, "internal";
    RESOURCE_EXHAUSTED = 14, "resource-exhausted";
    UNAVAILABLE = 15, "unavailable";
}

impl RetryOn {
    /// Comma-separated tokens; unknown ones are ignored, as in Envoy.
    pub fn parse(text: &str) -> Self {
        let tokens = text.split(',').map(str::trim);
        let known = tokens.filter_map(|token| TOKENS.iter().find(|(name, _)| *name == token));
        known.fold(Self::default(), |set, (_, bit)| set | *bit)
    }

    /// Whether any of `other`'s conditions is in the set.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A compiled `envoy.config.route.v3.RetryPolicy`.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub retry_on: RetryOn,
    pub num_retries: u32,
    /// `None`: no limit.
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    pub retriable_status_codes: Vec<u16>,
    pub retriable_headers: Vec<HeaderMatcher>,
    /// If not empty, only requests that match one of them are retried.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    /// 25 ms by default.
    pub base_interval: Duration,
    /// Ten times the base by default.
    pub max_interval: Duration,
    pub rate_limited: Option<RateLimitedBackOff>,
    pub host_predicates: Vec<HostPredicate>,
    /// How often a host is picked again when a predicate refuses it; 1 by default.
    pub host_selection_attempts: u32,
    /// `previous_priorities`: after how many attempts it turns to other priorities.
    pub previous_priorities: Option<u32>,
}

/// `rate_limited_retry_back_off`
#[derive(Clone, Debug)]
pub struct RateLimitedBackOff {
    pub reset_headers: Vec<(http::HeaderName, ResetFormat)>,
    /// 300 s by default.
    pub max_interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    Seconds,
    UnixTimestamp,
}

/// A host that a retry should not go to.
#[derive(Clone, Debug, PartialEq)]
pub enum HostPredicate {
    PreviousHosts,
    OmitCanaryHosts,
    OmitHostMetadata(Box<Metadata>),
}

impl Default for RetryPolicy {
    /// What a retry policy is when only request headers ask for one.
    fn default() -> Self {
        Self {
            retry_on: RetryOn::default(),
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            retriable_status_codes: Vec::new(),
            retriable_headers: Vec::new(),
            retriable_request_headers: Vec::new(),
            base_interval: BASE_INTERVAL,
            max_interval: BASE_INTERVAL * 10,
            rate_limited: None,
            host_predicates: Vec::new(),
            host_selection_attempts: 1,
            previous_priorities: None,
        }
    }
}

/// `upstream.base_retry_backoff_ms`
const BASE_INTERVAL: Duration = Duration::from_millis(25);

impl RetryPolicy {
    pub fn compile(value: &pbr::RetryPolicy) -> Compiled<Self> {
        refuse(
            "retry_options_predicates",
            !value.retry_options_predicates.is_empty(),
            "retry options predicates are not supported",
        )?;
        refuse(
            "refresh_cluster_on_retry",
            value.refresh_cluster_on_retry,
            "is not supported",
        )?;
        let (base_interval, max_interval) = match &value.retry_back_off {
            Some(back_off) => intervals(back_off).under("retry_back_off")?,
            None => (BASE_INTERVAL, BASE_INTERVAL * 10),
        };
        Ok(Self {
            retry_on: RetryOn::parse(&value.retry_on),
            num_retries: value.num_retries.map_or(1, |count| count.value),
            per_try_timeout: positive(duration("per_try_timeout", value.per_try_timeout.as_ref())?),
            per_try_idle_timeout: positive(duration("per_try_idle_timeout", value.per_try_idle_timeout.as_ref())?),
            retriable_status_codes: each("retriable_status_codes", &value.retriable_status_codes, |code| {
                u16::try_from(*code).map_err(|_| Problems::one("", "is not a status code"))
            })?,
            retriable_headers: each("retriable_headers", &value.retriable_headers, HeaderMatcher::compile)?,
            retriable_request_headers: each(
                "retriable_request_headers",
                &value.retriable_request_headers,
                HeaderMatcher::compile,
            )?,
            base_interval,
            max_interval,
            rate_limited: optional(
                "rate_limited_retry_back_off",
                value.rate_limited_retry_back_off.as_ref(),
                RateLimitedBackOff::compile,
            )?,
            host_predicates: each("retry_host_predicate", &value.retry_host_predicate, host_predicate)?,
            host_selection_attempts: u32::try_from(value.host_selection_retry_max_attempts.max(1)).unwrap_or(u32::MAX),
            previous_priorities: optional("retry_priority", value.retry_priority.as_ref(), previous_priorities)?,
        })
    }

    /// Whether `previous_hosts` is among the predicates: a retry avoids hosts that were tried.
    pub fn avoids_previous_hosts(&self) -> bool {
        self.host_predicates.contains(&HostPredicate::PreviousHosts)
    }
}

/// Zero means no timeout.
fn positive(timeout: Option<Duration>) -> Option<Duration> {
    timeout.filter(|timeout| !timeout.is_zero())
}

fn intervals(value: &pbr::retry_policy::RetryBackOff) -> Compiled<(Duration, Duration)> {
    let Some(base) = duration("base_interval", value.base_interval.as_ref())? else {
        return Err(Problems::one("base_interval", "is required"));
    };
    // Less than a millisecond counts as one.
    let base = base.max(Duration::from_millis(1));
    let max = duration("max_interval", value.max_interval.as_ref())?.unwrap_or(base.saturating_mul(10));
    if max < base {
        return Err(Problems::one("max_interval", "must be at least base_interval"));
    }
    Ok((base, max))
}

impl RateLimitedBackOff {
    fn compile(value: &pbr::retry_policy::RateLimitedRetryBackOff) -> Compiled<Self> {
        let reset_headers = each("reset_headers", &value.reset_headers, |header| {
            let format = if header.format == 0 {
                ResetFormat::Seconds
            } else {
                ResetFormat::UnixTimestamp
            };
            Ok((header_name("name", &header.name)?, format))
        })?;
        let max_interval = duration("max_interval", value.max_interval.as_ref())?;
        Ok(Self {
            reset_headers,
            max_interval: max_interval.unwrap_or(Duration::from_secs(300)),
        })
    }
}

fn host_predicate(value: &pbr::retry_policy::RetryHostPredicate) -> Compiled<HostPredicate> {
    use remora_proto::pb::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
    let Some(pbr::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any)) = &value.config_type else {
        return Err(Problems::one("typed_config", "is required"));
    };
    match any.type_url.rsplit('/').next() {
        Some("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate") => {
            Ok(HostPredicate::PreviousHosts)
        }
        Some("envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate") => {
            Ok(HostPredicate::OmitCanaryHosts)
        }
        Some("envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig") => {
            let config = OmitHostMetadataConfig::decode(any.value.as_slice())
                .map_err(|error| Problems::one("typed_config", error.to_string()))?;
            Ok(HostPredicate::OmitHostMetadata(Box::new(
                config.metadata_match.unwrap_or_default(),
            )))
        }
        _ => Err(Problems::one(
            "typed_config",
            format!("{} is not supported", any.type_url),
        )),
    }
}

fn previous_priorities(value: &pbr::retry_policy::RetryPriority) -> Compiled<u32> {
    use remora_proto::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
    const TYPE: &str = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
    let Some(pbr::retry_policy::retry_priority::ConfigType::TypedConfig(any)) = &value.config_type else {
        return Err(Problems::one("typed_config", "is required"));
    };
    if any.type_url.rsplit('/').next() != Some(TYPE) {
        return Err(Problems::one(
            "typed_config",
            format!("{} is not supported", any.type_url),
        ));
    }
    let config = PreviousPrioritiesConfig::decode(any.value.as_slice())
        .map_err(|error| Problems::one("typed_config", error.to_string()))?;
    u32::try_from(config.update_frequency)
        .ok()
        .filter(|frequency| *frequency > 0)
        .ok_or_else(|| Problems::one("typed_config.update_frequency", "must be positive"))
}
