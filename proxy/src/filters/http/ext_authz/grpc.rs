//! A service that speaks `envoy.service.auth.v3.Authorization`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use prost::Message;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::service::auth::v3 as pb;
use remora_proto::pb::google::protobuf::{Value, value::Kind};

use super::check::Question;
use super::config::call_timeout;
use super::decision::{Change, Decision, Denial, Grant, HeaderChange, QueryChange};
use crate::config::route::{header_name, refuse};
use crate::config::{BuildContext, Compiled, Problems};
use crate::http::call::{Answer, Callee};
use crate::http::stats::ASYNC_CLIENT;
use crate::runtime::clock;

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

pub(crate) struct GrpcService {
    callee: Callee,
    authority: HeaderValue,
    initial: Vec<(HeaderName, HeaderValue)>,
}

impl GrpcService {
    pub fn compile(value: &core::GrpcService, cx: &BuildContext) -> Compiled<Self> {
        use core::grpc_service::TargetSpecifier;
        let Some(TargetSpecifier::EnvoyGrpc(envoy)) = &value.target_specifier else {
            return Err(Problems::one("target_specifier", "only envoy_grpc is supported"));
        };
        refuse(
            "envoy_grpc.retry_policy",
            envoy.retry_policy.is_some(),
            "is not supported",
        )?;
        refuse("retry_policy", value.retry_policy.is_some(), "is not supported")?;
        let authority = match envoy.authority.as_str() {
            "" => envoy.cluster_name.as_str(),
            own => own,
        };
        let text = |field: &str, text: &str| {
            HeaderValue::try_from(text).map_err(|_| Problems::one(field, "is not a header value"))
        };
        let mut initial = Vec::with_capacity(value.initial_metadata.len());
        for (index, header) in value.initial_metadata.iter().enumerate() {
            let field = format!("initial_metadata[{index}]");
            initial.push((header_name(&field, &header.key)?, text(&field, &header.value)?));
        }
        Ok(Self {
            callee: Callee {
                snapshot: cx.snapshot.clone(),
                cluster: Arc::from(envoy.cluster_name.as_str()),
                timeout: call_timeout("timeout", value.timeout.as_ref())?,
                skip_envoy_headers: envoy.skip_envoy_headers,
                stats: cx.stats.group(ASYNC_CLIENT),
            },
            authority: text("envoy_grpc.authority", authority)?,
            initial,
        })
    }

    pub(super) async fn check(&self, question: Question) -> Decision {
        let local = question.local.clone();
        self.ask(&question.into_request(true), local).await
    }

    /// `local`: the address on which what is asked about came.
    pub async fn ask(&self, question: &pb::CheckRequest, local: Option<String>) -> Decision {
        let mut request = Request::new(framed(question));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(PATH);
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if !self.callee.timeout.is_zero()
            && let Ok(timeout) = HeaderValue::try_from(format!("{}m", self.callee.timeout.as_millis()))
        {
            headers.insert(TIMEOUT, timeout);
        }
        for (name, value) in &self.initial {
            headers.append(name, value.clone());
        }
        if let Some(local) = local.and_then(|local| HeaderValue::try_from(local).ok()) {
            headers.insert(FORWARDED_FOR, local);
        }
        let asked = clock::now();
        match self.callee.call(request).await {
            Ok(answer) => timed(decide(&answer), clock::now().saturating_duration_since(asked)),
            Err(error) => Decision::None(error.to_string()),
        }
    }
}

/// Metadata of an answer tells how long it took too, in milliseconds.
fn timed(mut decision: Decision, took: Duration) -> Decision {
    let metadata = match &mut decision {
        Decision::Granted(grant) => grant.metadata.as_mut(),
        Decision::Denied(denial) => denial.metadata.as_mut(),
        Decision::None(_) => None,
    };
    if let Some(metadata) = metadata {
        let kind = Some(Kind::NumberValue(took.as_millis() as f64));
        metadata.fields.insert("ext_authz_duration".to_owned(), Value { kind });
    }
    decision
}

/// A message with gRPC's prefix: not compressed, its length.
fn framed(message: &pb::CheckRequest) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(length + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A growing buffer takes any message.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

fn decide(answer: &Answer) -> Decision {
    if answer.status != StatusCode::OK {
        return Decision::None(format!("the service answered {}", answer.status));
    }
    let status = |headers: &HeaderMap| headers.get("grpc-status").cloned();
    let trailers = answer.trailers.as_ref().and_then(status);
    let status = trailers.or_else(|| status(&answer.headers));
    match status.as_ref().map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(other) => return Decision::None(format!("gRPC status {}", String::from_utf8_lossy(other))),
        None => return Decision::None("there is no gRPC status".to_owned()),
    }
    let Some(message) = unframed(&answer.body) else {
        return Decision::None("the answer is not one plain gRPC message".to_owned());
    };
    match pb::CheckResponse::decode(message) {
        Ok(response) => decision(response),
        Err(error) => Decision::None(error.to_string()),
    }
}

fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    (prefix[0] == 0 && message.len() == length as usize).then_some(message)
}

#[allow(deprecated, reason = "older services tell metadata with their headers")]
fn decision(response: pb::CheckResponse) -> Decision {
    use pb::check_response::HttpResponse;
    let code = response.status.as_ref().map_or(0, |status| status.code);
    match (code, response.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => {
            let mut grant = Grant::default();
            grant.request = changes(&ok.headers, false, &mut grant.invalid);
            grant.client = changes(&ok.response_headers_to_add, true, &mut grant.invalid);
            grant.remove = ok.headers_to_remove.iter().filter_map(|name| removable(name)).collect();
            if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
                let set = ok.query_parameters_to_set.into_iter();
                grant.query = Some(QueryChange {
                    set: set.map(|one| (one.key, one.value)).collect(),
                    remove: ok.query_parameters_to_remove,
                });
            }
            grant.metadata = ok.dynamic_metadata.or(response.dynamic_metadata);
            Decision::Granted(grant)
        }
        (0, _) => Decision::Granted(Grant {
            metadata: response.dynamic_metadata,
            ..Grant::default()
        }),
        (_, denied) => {
            let mut denial = Denial::plain(StatusCode::FORBIDDEN);
            denial.metadata = response.dynamic_metadata;
            if let Some(HttpResponse::DeniedResponse(denied)) = denied {
                let status = denied.status.and_then(|status| u16::try_from(status.code).ok());
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                denial.status = status.unwrap_or(StatusCode::FORBIDDEN);
                denial.headers = changes(&denied.headers, false, &mut denial.invalid);
                denial.body = denied.body;
            }
            Decision::Denied(denial)
        }
    }
}

/// A header that a service may remove: neither a pseudo-header nor `host`.
pub(super) fn removable(name: &str) -> Option<HeaderName> {
    HeaderName::try_from(name.trim()).ok().filter(|name| *name != HOST)
}

/// `by_action`: an absent `append` leaves it to `append_action`; else it means to overwrite.
#[allow(deprecated, reason = "`append` is what services set")]
fn changes(options: &[core::HeaderValueOption], by_action: bool, invalid: &mut bool) -> Vec<HeaderChange> {
    let mut changes = Vec::with_capacity(options.len());
    for option in options {
        let Some(header) = &option.header else { continue };
        let change = match (option.append.as_ref().map(|append| append.value), option.append_action) {
            (Some(true), _) if by_action => Change::Add,
            (Some(true), _) => Change::AppendToPresent,
            (Some(false), _) => Change::Set,
            (None, _) if !by_action => Change::Set,
            (None, 1) => Change::AddIfAbsent,
            (None, 2) => Change::Set,
            (None, 3) => Change::SetIfPresent,
            (None, _) => Change::Add,
        };
        let value = match header.raw_value.is_empty() {
            true => header.value.as_bytes(),
            false => &header.raw_value,
        };
        let name = HeaderName::try_from(header.key.as_str()).ok();
        match (name, HeaderValue::from_bytes(value)) {
            (Some(name), Ok(value)) => changes.push(HeaderChange { name, value, change }),
            _ => *invalid = true,
        }
    }
    changes
}
