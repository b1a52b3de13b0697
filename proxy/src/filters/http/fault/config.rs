//! `HTTPFault`, of the filter or of a route.

use std::time::Duration;

use http::StatusCode;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::common::fault::v3 as pbc;
use remora_proto::pb::envoy::extensions::filters::http::fault::v3 as pb;

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
    pub max_active: Option<u64>,
    pub per_cluster_stats: bool,
}

pub(super) struct Delay {
    pub by: DelayBy,
    pub fraction: Fraction,
}

#[derive(Clone, Copy)]
pub(super) enum DelayBy {
    Fixed(Duration),
    Header,
}

pub(super) struct Abort {
    /// `None`: the request's headers say.
    pub with: Option<AbortWith>,
    pub fraction: Fraction,
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
            delay: optional("delay", value.delay.as_ref(), Delay::compile)?,
            abort: optional("abort", value.abort.as_ref(), Abort::compile)?,
            cluster: value.upstream_cluster.as_str().into(),
            headers: each("headers", &value.headers, HeaderMatcher::compile)?,
            nodes: value.downstream_nodes.clone(),
            max_active: value.max_active_faults.as_ref().map(|max| u64::from(max.value)),
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
    fn compile(value: &pbc::FaultDelay) -> Compiled<Self> {
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
            fraction: fraction(value.percentage.as_ref())?,
        })
    }
}

impl Abort {
    fn compile(value: &pb::FaultAbort) -> Compiled<Self> {
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
            fraction: fraction(value.percentage.as_ref())?,
            body: body.into(),
        })
    }
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
