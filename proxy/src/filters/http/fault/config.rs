//! `HTTPFault`, of the filter or of a route.

use std::time::Duration;

use http::StatusCode;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::common::fault::v3 as pbc;
use remora_proto::pb::envoy::extensions::filters::http::fault::v3 as pb;

use crate::config::live::{Amount, Share, fault};
use crate::config::route::{Fraction, Under, duration, each, optional, refuse};
use crate::config::{Compiled, Problems};
use crate::route::headers::HeaderMatcher;

/// See the module.
pub(super) struct Faults {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
    /// Empty: whatever the request is routed to.
    pub cluster: Box<str>,
    pub headers: Vec<HeaderMatcher>,
    pub nodes: Vec<String>,
    pub max_active: MaxActive,
    pub per_cluster_stats: bool,
}

/// `max_active_faults`
pub(super) struct MaxActive {
    default: Option<u64>,
    key: Amount,
}

impl MaxActive {
    pub fn now(&self) -> Option<u64> {
        self.key.now().or(self.default)
    }
}

pub(super) struct Delay {
    pub by: DelayBy,
    /// Milliseconds over what `by` says.
    pub millis: Amount,
    pub share: Share,
}

#[derive(Clone, Copy)]
pub(super) enum DelayBy {
    Fixed(Duration),
    Header,
}

pub(super) struct Abort {
    /// `None`: the request's headers say.
    pub with: Option<AbortWith>,
    /// Statuses over what `with` says, each over one of its kind.
    pub http: Amount,
    pub grpc: Amount,
    pub share: Share,
    pub body: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AbortWith {
    Http(StatusCode),
    Grpc(u32),
}

impl Faults {
    pub fn compile(config: &[u8]) -> Compiled<Self> {
        let value = pb::HttpFault::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
        unsupported(&value)?;
        Ok(Self {
            delay: optional("delay", value.delay.as_ref(), |delay| Delay::compile(delay, &value))?,
            abort: optional("abort", value.abort.as_ref(), |abort| Abort::compile(abort, &value))?,
            cluster: value.upstream_cluster.as_str().into(),
            headers: each("headers", &value.headers, HeaderMatcher::compile)?,
            nodes: value.downstream_nodes.clone(),
            max_active: MaxActive {
                default: value.max_active_faults.as_ref().map(|max| u64::from(max.value)),
                key: Amount::named(key(&value.max_active_faults_runtime, fault::MAX_ACTIVE)),
            },
            per_cluster_stats: !value.disable_downstream_cluster_stats,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.delay.is_none() && self.abort.is_none()
    }
}

fn unsupported(value: &pb::HttpFault) -> Compiled<()> {
    refuse(
        "response_rate_limit",
        value.response_rate_limit.is_some(),
        "is not supported",
    )?;
    refuse("filter_metadata", value.filter_metadata.is_some(), "is not supported")
}

impl Delay {
    fn compile(value: &pbc::FaultDelay, filter: &pb::HttpFault) -> Compiled<Self> {
        use pbc::fault_delay::FaultDelaySecifier as By;
        let by = match &value.fault_delay_secifier {
            Some(By::FixedDelay(delay)) => {
                let delay = duration("fixed_delay", Some(delay))?.unwrap_or_default();
                refuse("fixed_delay", delay.is_zero(), "must be greater than zero")?;
                DelayBy::Fixed(delay)
            }
            Some(By::HeaderDelay(_)) => DelayBy::Header,
            None => return Err(Problems::one("fault_delay_secifier", "is required")),
        };
        Ok(Self {
            by,
            millis: Amount::named(key(&filter.delay_duration_runtime, fault::DELAY_MS)),
            share: Share::new(
                fraction(value.percentage.as_ref())?,
                key(&filter.delay_percent_runtime, fault::DELAY_PERCENT),
            ),
        })
    }
}

impl Abort {
    fn compile(value: &pb::FaultAbort, filter: &pb::HttpFault) -> Compiled<Self> {
        use pb::fault_abort::ErrorType;
        let with = match &value.error_type {
            Some(ErrorType::HttpStatus(code)) => {
                let status = u16::try_from(*code).ok().filter(|code| (200..600).contains(code));
                let status = status.and_then(|code| StatusCode::from_u16(code).ok());
                let status = status.ok_or_else(|| Problems::one("http_status", "must be in 200..600"))?;
                Some(AbortWith::Http(status))
            }
            Some(ErrorType::GrpcStatus(code)) => Some(AbortWith::Grpc(*code)),
            Some(ErrorType::HeaderAbort(_)) => None,
            None => return Err(Problems::one("error_type", "is required")),
        };
        let body = match value.response_body.as_str() {
            "" => "fault filter abort",
            body => body,
        };
        Ok(Self {
            with,
            http: Amount::named(key(&filter.abort_http_status_runtime, fault::ABORT_HTTP)),
            grpc: Amount::named(key(&filter.abort_grpc_status_runtime, fault::ABORT_GRPC)),
            share: Share::new(
                fraction(value.percentage.as_ref())?,
                key(&filter.abort_percent_runtime, fault::ABORT_PERCENT),
            ),
            body: body.into(),
        })
    }
}

/// The key that the configuration names, else Envoy's.
fn key<'a>(named: &'a str, usual: &'static str) -> &'a str {
    if named.is_empty() { usual } else { named }
}

/// Unset: never, as in Envoy.
fn fraction(value: Option<&remora_proto::pb::envoy::r#type::v3::FractionalPercent>) -> Compiled<Fraction> {
    match value {
        Some(value) => Fraction::compile(value).under("percentage"),
        None => Ok(Fraction {
            numerator: 0,
            denominator: 100,
        }),
    }
}
