//! From an operator's name and parameter to what it prints.

use super::super::grpc::GrpcStyle;
use super::super::peer::PeerField;
use super::super::simple::{self, MomentOf};
use super::super::time::TimeFormat;
use super::{HeaderFrom, HeaderName, MetadataFrom, NameOrder, Operator, StateStyle, What};
use crate::http::header_policy::mutations::is_joined;
use crate::route::headers::HeaderKey;
use crate::runtime::clock;

impl What {
    pub(super) fn compile(name: &str, parameter: Option<&str>) -> Result<Self, String> {
        if let Some(reason) = refused(name) {
            return Err(format!("%{name}% is not supported: {reason}"));
        }
        if name == "ROUTE_RESOLUTION_TIME_US" {
            crate::http::select_route::time_selections();
        }
        if let Some(simple) = simple::find(name) {
            return match parameter {
                None | Some("") => Ok(Self::Simple(simple)),
                Some(_) => Err(format!("%{name}% takes no parameter")),
            };
        }
        let unsupported = || format!("%{name}% is not a supported operator");
        let argument = || parameter.ok_or_else(|| format!("%{name}% needs a parameter"));
        Ok(match name {
            // Envoy's stream info knows the request's headers and no others.
            "REQ" | "REQUEST_HEADER" | "STREAM_INFO_REQ" => headers(HeaderFrom::Request, argument()?, false)?,
            "RESP" | "RESPONSE_HEADER" => headers(HeaderFrom::Response, argument()?, false)?,
            "TRAILER" | "RESPONSE_TRAILER" => headers(HeaderFrom::Trailers, argument()?, false)?,
            "REQ_WITHOUT_QUERY" => headers(HeaderFrom::Request, argument()?, true)?,
            "PATH" => path(parameter.unwrap_or_default())?,
            "QUERY_PARAM" => Self::Query(argument()?.to_owned()),
            "QUERY_PARAMS" => match parameter.unwrap_or_default() {
                "" | "ORIG" => Self::Queries { decoded: false },
                "DECODED" => Self::Queries { decoded: true },
                other => return Err(format!("%QUERY_PARAMS% does not know {other}")),
            },
            "RESPONSE_CODE_DETAILS" => Self::Details {
                blanks: parameter == Some("ALLOW_WHITESPACES"),
            },
            "REQUESTED_SERVER_NAME" => server_name(parameter.unwrap_or_default())?,
            "COALESCE" => coalesce(argument()?)?,
            "COMMON_DURATION" => common_duration(argument()?)?,
            "ENVIRONMENT" => Self::Constant(std::env::var(argument()?).ok()),
            "HOSTNAME" => Self::Constant(hostname()),
            "DYNAMIC_METADATA" => metadata(MetadataFrom::Dynamic, argument()?),
            "CLUSTER_METADATA" => metadata(MetadataFrom::Cluster, argument()?),
            "UPSTREAM_METADATA" => metadata(MetadataFrom::UpstreamHost, argument()?),
            "METADATA" => {
                let (from, rest) = argument()?
                    .split_once(':')
                    .ok_or("%METADATA% needs a type and a namespace")?;
                metadata(metadata_from(from)?, rest)
            }
            "FILTER_STATE" => {
                let (key, style) = argument()?.split_once(':').unwrap_or((argument()?, "TYPED"));
                if let Some(peer) = PeerField::parse(key, style) {
                    return Ok(Self::Peer(peer));
                }
                let style = match style {
                    "PLAIN" => StateStyle::Plain,
                    "TYPED" => StateStyle::Typed,
                    _ => match style.strip_prefix("FIELD:") {
                        Some(name) if !name.is_empty() => StateStyle::Field(name.to_owned()),
                        _ => return Err(format!("%FILTER_STATE% cannot print {style}")),
                    },
                };
                let key = key.to_owned();
                Self::FilterState { key, style }
            }
            // Upstream filters are none of ours: there is no such state.
            "UPSTREAM_FILTER_STATE" => argument().map(|_| Self::Constant(None))?,
            "GRPC_STATUS" => Self::Grpc(GrpcStyle::parse(parameter.unwrap_or_default())?),
            "GRPC_STATUS_NUMBER" => Self::Grpc(GrpcStyle::Number),
            _ => {
                return masked(name, parameter)?
                    .or(moment(name, parameter)?)
                    .ok_or_else(unsupported);
            }
        })
    }
}

fn headers(from: HeaderFrom, parameter: &str, cut_query: bool) -> Result<What, String> {
    let names = parameter.split('?').filter(|name| !name.is_empty()).map(|name| {
        let key = HeaderKey::compile("", name).map_err(|problems| problems.to_string())?;
        let joined = matches!(&key, HeaderKey::Name(name) if is_joined(name));
        Ok(HeaderName { key, joined })
    });
    let names: Vec<_> = names.collect::<Result<_, String>>()?;
    if names.is_empty() || names.len() > 2 {
        return Err(format!("{parameter:?} must name a header and at most one alternative"));
    }
    Ok(What::Header { from, names, cut_query })
}

/// `PATH(WQ|NQ:ORIG|PATH|ORIG_OR_PATH)`: with or without query, before or after rewrites.
fn path(parameter: &str) -> Result<What, String> {
    let (query, which) = parameter.split_once(':').unwrap_or((parameter, ""));
    let cut_query = match query {
        "" | "WQ" => false,
        "NQ" => true,
        other => return Err(format!("%PATH% does not know {other}")),
    };
    let names = match which {
        "" | "ORIG_OR_PATH" => "x-envoy-original-path?:path",
        "PATH" => ":path",
        "ORIG" => "x-envoy-original-path",
        other => return Err(format!("%PATH% does not know {other}")),
    };
    headers(HeaderFrom::Request, names, cut_query)
}

fn common_duration(parameter: &str) -> Result<What, String> {
    let mut parts = parameter.split(':');
    let mut point = || parts.next().map(simple::Point::parse);
    let (Some(from), Some(to)) = (point(), point()) else {
        return Err("%COMMON_DURATION% needs two time points".to_owned());
    };
    let nanos = match parts.next().unwrap_or("ms") {
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        other => return Err(format!("%COMMON_DURATION% does not know the unit {other}")),
    };
    Ok(What::Duration { from, to, nanos })
}

fn metadata_from(name: &str) -> Result<MetadataFrom, String> {
    Ok(match name {
        "DYNAMIC" => MetadataFrom::Dynamic,
        "CLUSTER" => MetadataFrom::Cluster,
        "UPSTREAM_HOST" => MetadataFrom::UpstreamHost,
        "ROUTE" => MetadataFrom::Route,
        "VIRTUAL_HOST" => MetadataFrom::VirtualHost,
        "LISTENER" => MetadataFrom::Listener,
        "LISTENER_FILTER_CHAIN" => MetadataFrom::FilterChain,
        other => return Err(format!("%METADATA% does not know {other}")),
    })
}

fn metadata(from: MetadataFrom, parameter: &str) -> What {
    let mut parts = parameter.split(':').map(str::to_owned);
    What::Metadata {
        from,
        namespace: parts.next().unwrap_or_default(),
        path: parts.collect(),
    }
}

/// Addresses without their port, the parameter a number of bits to keep.
fn masked(name: &str, parameter: Option<&str>) -> Result<Option<What>, String> {
    let Some(of) = simple::address_of(name) else {
        return Ok(None);
    };
    let bits = parameter.map(|bits| bits.parse().map_err(|_| format!("%{name}% needs a number of bits")));
    Ok(Some(What::Masked {
        of,
        bits: bits.transpose()?,
    }))
}

/// When a stream began, a line is written, or a peer's certificate begins or ends to be valid.
fn moment(name: &str, parameter: Option<&str>) -> Result<Option<What>, String> {
    let of: Option<MomentOf> = match name {
        "START_TIME" | "START_TIME_LOCAL" => Some(|view| Some(view.start_time)),
        "EMIT_TIME" | "EMIT_TIME_LOCAL" => Some(|_| Some(clock::system_now())),
        _ => simple::validity_of(name),
    };
    let Some(of) = of else {
        return Ok(None);
    };
    let format = parameter.unwrap_or_default();
    let format = match name.ends_with("_TIME_LOCAL") {
        true => TimeFormat::local(format)?,
        false => TimeFormat::parse(format)?,
    };
    Ok(Some(What::Moment { of, format }))
}

fn server_name(parameter: &str) -> Result<What, String> {
    let (order, host) = parameter.split_once(':').unwrap_or((parameter, ""));
    let host = match host {
        "" | "ORIG_OR_HOST" => "x-envoy-original-host?:authority",
        "ORIG" => "x-envoy-original-host",
        "HOST" => ":authority",
        other => return Err(format!("%REQUESTED_SERVER_NAME% does not know {other}")),
    };
    let order = match order {
        "" | "SNI_ONLY" => NameOrder::SniOnly,
        "SNI_FIRST" => NameOrder::SniFirst,
        "HOST_FIRST" => NameOrder::HostFirst,
        other => return Err(format!("%REQUESTED_SERVER_NAME% does not know {other}")),
    };
    let host = Box::new(headers(HeaderFrom::Request, host, false)?);
    Ok(What::ServerName { order, host })
}

/// `{"operators": ["NAME", {"command": "NAME", "param": "…", "max_length": 3}]}`
fn coalesce(parameter: &str) -> Result<What, String> {
    let json: serde_json::Value =
        serde_json::from_str(parameter).map_err(|error| format!("%COALESCE% needs JSON: {error}"))?;
    let operators = json.get("operators").and_then(serde_json::Value::as_array);
    let operators = operators.filter(|operators| !operators.is_empty());
    let operators = operators.ok_or("%COALESCE% needs a list of operators")?;
    let compiled = operators.iter().map(|entry| {
        let text = |key: &str| entry.get(key).and_then(serde_json::Value::as_str);
        let name = entry.as_str().or_else(|| text("command"));
        let name = name.ok_or("an operator of %COALESCE% needs a command")?;
        let limit = match entry.get("max_length").filter(|limit| !limit.is_null()) {
            Some(limit) => Some(
                limit
                    .as_u64()
                    .filter(|limit| *limit > 0)
                    .ok_or("max_length must be positive")?,
            ),
            None => None,
        };
        let what = What::compile(name, text("param"))?;
        Operator::new(name, what, limit.map(|limit| limit as usize))
    });
    Ok(What::Coalesce(compiled.collect::<Result<_, String>>()?))
}

/// Operators of Envoy whose value cannot be known here, and why.
fn refused(name: &str) -> Option<&'static str> {
    Some(match name {
        "CEL" => "CEL expressions are not supported",
        "DOWNSTREAM_TLS_SESSION_ID" | "UPSTREAM_TLS_SESSION_ID" => "the TLS library does not tell a session's id",
        "DOWNSTREAM_CX_RTT" => "the kernel is not asked for round-trip times",
        _ => return None,
    })
}

/// Operators whose text may be cut.
pub(super) fn takes_length(name: &str) -> bool {
    matches!(
        name,
        "REQ"
            | "REQUEST_HEADER"
            | "STREAM_INFO_REQ"
            | "RESP"
            | "RESPONSE_HEADER"
            | "TRAILER"
            | "RESPONSE_TRAILER"
            | "REQ_WITHOUT_QUERY"
            | "PATH"
            | "QUERY_PARAM"
            | "QUERY_PARAMS"
            | "ENVIRONMENT"
            | "DYNAMIC_METADATA"
            | "CLUSTER_METADATA"
            | "UPSTREAM_METADATA"
            | "METADATA"
            | "FILTER_STATE"
            | "UPSTREAM_FILTER_STATE"
            | "COALESCE"
    )
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
