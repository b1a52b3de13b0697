//! Access-log filters: which streams are worth a line (also which local replies a mapper changes).

use remora_proto::pb::envoy::config::accesslog::v3 as pba;
use remora_proto::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier as S;

use crate::config::live::Amount;
use crate::config::route::{Fraction, Under, each};
use crate::config::{Compiled, Problems};
use crate::http::exchange::DynamicMetadata;
use crate::http::header_policy::X_REQUEST_ID;
use crate::http::header_policy::request_id::{TraceReason, number, reason};
use crate::route::RequestView;
use crate::route::headers::HeaderMatcher;
use crate::route::strings::MetadataMatcher;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format::{LogView, grpc_of_http, grpc_sent};

/// A compiled `AccessLogFilter`.
#[derive(Debug)]
pub enum Filter {
    StatusCode(Comparison),
    /// Milliseconds.
    Duration(Comparison),
    /// Requests of the health-check filter are none of ours: everything passes.
    NotHealthCheck,
    Traceable,
    Runtime {
        fraction: Fraction,
        /// A numerator over that of `fraction`.
        numerator: Amount,
        independent: bool,
    },
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Header(Box<HeaderMatcher>),
    /// Any of these; empty: any at all.
    ResponseFlags(Vec<ResponseFlags>),
    GrpcStatus {
        statuses: Vec<u32>,
        exclude: bool,
    },
    Metadata {
        matcher: Option<Box<MetadataMatcher>>,
        if_missing: bool,
    },
    LogType {
        types: Vec<i32>,
        exclude: bool,
    },
}

/// `ComparisonFilter`
#[derive(Clone, Debug)]
pub struct Comparison {
    op: Op,
    value: u64,
    /// Over `value`.
    over: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    AtLeast,
    AtMost,
    Unequal,
}

impl Comparison {
    fn compile(value: Option<&pba::ComparisonFilter>) -> Compiled<Self> {
        let Some(comparison) = value else {
            return Err(Problems::one("comparison", "is required"));
        };
        let op = match comparison.op {
            0 => Op::Equal,
            1 => Op::AtLeast,
            2 => Op::AtMost,
            3 => Op::Unequal,
            other => return Err(Problems::one("comparison.op", format!("unknown value {other}"))),
        };
        let value = comparison.value.as_ref();
        Ok(Self {
            op,
            value: value.map_or(0, |value| u64::from(value.default_value)),
            over: value.map(|value| Amount::named(&value.runtime_key)).unwrap_or_default(),
        })
    }

    fn holds(&self, value: u64) -> bool {
        let limit = self.over.now().unwrap_or(self.value);
        match self.op {
            Op::Equal => value == limit,
            Op::AtLeast => value >= limit,
            Op::AtMost => value <= limit,
            Op::Unequal => value != limit,
        }
    }
}

impl Filter {
    pub fn compile(value: &pba::AccessLogFilter) -> Compiled<Self> {
        let Some(specifier) = &value.filter_specifier else {
            return Err(Problems::one("filter_specifier", "is required"));
        };
        Ok(match specifier {
            S::StatusCodeFilter(filter) => {
                Self::StatusCode(Comparison::compile(filter.comparison.as_ref()).under("status_code_filter")?)
            }
            S::DurationFilter(filter) => {
                Self::Duration(Comparison::compile(filter.comparison.as_ref()).under("duration_filter")?)
            }
            S::NotHealthCheckFilter(_) => Self::NotHealthCheck,
            S::TraceableFilter(_) => Self::Traceable,
            S::RuntimeFilter(filter) => Self::runtime(filter).under("runtime_filter")?,
            S::AndFilter(filter) => Self::And(each("filters", &filter.filters, Self::compile).under("and_filter")?),
            S::OrFilter(filter) => Self::Or(each("filters", &filter.filters, Self::compile).under("or_filter")?),
            S::HeaderFilter(filter) => {
                let Some(header) = &filter.header else {
                    return Err(Problems::one("header_filter.header", "is required"));
                };
                Self::Header(Box::new(HeaderMatcher::compile(header).under("header_filter.header")?))
            }
            S::ResponseFlagFilter(filter) => Self::ResponseFlags(
                each("flags", &filter.flags, |flag| {
                    ResponseFlags::parse(flag).ok_or_else(|| Problems::one("", format!("{flag:?} is no response flag")))
                })
                .under("response_flag_filter")?,
            ),
            S::GrpcStatusFilter(filter) => Self::GrpcStatus {
                statuses: each("statuses", &filter.statuses, |status| {
                    u32::try_from(*status).map_err(|_| Problems::one("", "is no gRPC status"))
                })
                .under("grpc_status_filter")?,
                exclude: filter.exclude,
            },
            S::MetadataFilter(filter) => {
                let matcher = filter.matcher.as_ref().map(MetadataMatcher::compile).transpose();
                Self::Metadata {
                    matcher: matcher.under("metadata_filter.matcher")?.map(Box::new),
                    if_missing: filter.match_if_key_not_found.is_none_or(|flag| flag.value),
                }
            }
            S::LogTypeFilter(filter) => Self::LogType {
                types: filter.types.clone(),
                exclude: filter.exclude,
            },
            // The tables refuse it. Where the operator wants to run without, more is logged than was asked for.
            S::ExtensionFilter(_) => Self::And(Vec::new()),
        })
    }

    fn runtime(filter: &pba::RuntimeFilter) -> Compiled<Self> {
        let never = Fraction {
            numerator: 0,
            denominator: 100,
        };
        let percent = filter.percent_sampled.as_ref().map(Fraction::compile).transpose();
        Ok(Self::Runtime {
            fraction: percent.under("percent_sampled")?.unwrap_or(never),
            numerator: Amount::named(&filter.runtime_key),
            independent: filter.use_independent_randomness,
        })
    }

    /// Whether it looks at the response's headers and trailers.
    pub fn needs_response(&self) -> bool {
        match self {
            Self::GrpcStatus { .. } => true,
            Self::And(filters) | Self::Or(filters) => filters.iter().any(Self::needs_response),
            _ => false,
        }
    }

    pub fn passes(&self, view: &LogView<'_>) -> bool {
        match self {
            Self::StatusCode(comparison) => comparison.holds(u64::from(view.response_code())),
            Self::Duration(comparison) => {
                comparison.holds(u64::try_from(view.duration().as_millis()).unwrap_or(u64::MAX))
            }
            Self::NotHealthCheck => true,
            Self::Traceable => view
                .exchange
                .and_then(|exchange| exchange.headers().get(X_REQUEST_ID))
                .is_some_and(|id| reason(id) != TraceReason::NotTraced),
            Self::Runtime {
                fraction,
                numerator,
                independent,
            } => {
                let own = numerator.now().and_then(|own| u32::try_from(own).ok());
                let numerator = own.unwrap_or(fraction.numerator);
                let fraction = Fraction { numerator, ..*fraction };
                fraction.contains(random_of(view, *independent))
            }
            Self::And(filters) => filters.iter().all(|filter| filter.passes(view)),
            Self::Or(filters) => filters.iter().any(|filter| filter.passes(view)),
            Self::Header(matcher) => view
                .exchange
                .is_some_and(|exchange| matcher.matches(&RequestView::of(exchange))),
            Self::ResponseFlags(flags) if flags.is_empty() => !view.flags.is_empty(),
            Self::ResponseFlags(flags) => flags.iter().any(|flag| view.flags.contains(*flag)),
            Self::GrpcStatus { statuses, exclude } => {
                let of_code = || match view.response_code() {
                    0 => grpc_of_http(500),
                    code => grpc_of_http(code),
                };
                statuses.contains(&grpc_sent(view).unwrap_or_else(of_code)) != *exclude
            }
            Self::Metadata { matcher, if_missing } => {
                let metadata = view.extensions().get::<DynamicMetadata>();
                match matcher {
                    Some(matcher) if matcher.is_present(metadata) => matcher.matches(metadata),
                    _ => *if_missing,
                }
            }
            Self::LogType { types, exclude } => types.contains(&(view.log_type as i32)) != *exclude,
        }
    }
}

/// The same for every hop that sees the same request id, unless asked otherwise.
fn random_of(view: &LogView<'_>, independent: bool) -> u64 {
    let id = view
        .exchange
        .filter(|_| !independent)
        .and_then(|exchange| exchange.headers().get(X_REQUEST_ID));
    id.and_then(number).map_or_else(|| fastrand::u64(..), u64::from)
}
