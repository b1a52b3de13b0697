//! A service that is asked with the request's own head, and answers with a status.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, LOCATION, TRANSFER_ENCODING, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use remora_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use super::check::Question;
use super::config::{any, call_timeout, names};
use super::decision::{Change, Decision, Denial, Grant, HeaderChange};
use super::grpc::removable;
use crate::config::route::{Under, optional, refuse};
use crate::config::{Compiled, Problems};
use crate::filters::http::FilterContext;
use crate::http::call::{Answer, Callee};
use crate::http::exchange::Exchange;
use crate::http::header_policy::mutations::Mutations;
use crate::http::stats::ASYNC_CLIENT;
use crate::route::strings::StringMatcher;

/// By which the service names headers that the request must lose.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

pub(super) struct HttpService {
    callee: Callee,
    path_prefix: String,
    add: Mutations,
    upstream: Vec<StringMatcher>,
    upstream_append: Vec<StringMatcher>,
    /// `None`: all of them.
    client: Option<Vec<StringMatcher>>,
    client_on_success: Vec<StringMatcher>,
    metadata: Vec<StringMatcher>,
}

impl HttpService {
    pub fn compile(value: &pb::HttpService, cx: &FilterContext<'_>) -> Compiled<Self> {
        use remora_proto::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
        let Some(uri) = &value.server_uri else {
            return Err(Problems::one("server_uri", "is required"));
        };
        let Some(HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type else {
            return Err(Problems::one("server_uri.cluster", "is required"));
        };
        refuse("retry_policy", value.retry_policy.is_some(), "is not supported")?;
        if !value.path_prefix.is_empty() && !value.path_prefix.starts_with('/') {
            return Err(Problems::one("path_prefix", "must begin with '/'"));
        }
        let request = value.authorization_request.as_ref();
        let response = value.authorization_response.clone().unwrap_or_default();
        let add = request.map(|request| &request.headers_to_add[..]).unwrap_or_default();
        let add: Vec<_> = add
            .iter()
            .map(|header| remora_proto::pb::envoy::config::core::v3::HeaderValueOption {
                header: Some(header.clone()),
                append_action: 2,
                ..Default::default()
            })
            .collect();
        let list = |field: &str, list| optional(field, list, names).under("authorization_response");
        Ok(Self {
            callee: Callee {
                snapshot: cx.build.snapshot.clone(),
                cluster: Arc::from(cluster.as_str()),
                timeout: call_timeout("server_uri.timeout", uri.timeout.as_ref())?,
                skip_envoy_headers: false,
                stats: cx.build.stats.group(ASYNC_CLIENT),
            },
            path_prefix: value.path_prefix.clone(),
            add: Mutations::compile(("authorization_request.headers_to_add", ""), &add, &[])?,
            upstream: list("allowed_upstream_headers", response.allowed_upstream_headers.as_ref())?.unwrap_or_default(),
            upstream_append: list(
                "allowed_upstream_headers_to_append",
                response.allowed_upstream_headers_to_append.as_ref(),
            )?
            .unwrap_or_default(),
            client: list("allowed_client_headers", response.allowed_client_headers.as_ref())?
                .filter(|list| !list.is_empty()),
            client_on_success: list(
                "allowed_client_headers_on_success",
                response.allowed_client_headers_on_success.as_ref(),
            )?
            .unwrap_or_default(),
            metadata: list(
                "dynamic_metadata_from_headers",
                response.dynamic_metadata_from_headers.as_ref(),
            )?
            .unwrap_or_default(),
        })
    }

    /// Headers that the configuration adds to a check of this request.
    pub fn added(&self, exchange: &Exchange) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !self.add.is_empty() {
            self.add.apply_response(exchange, &mut headers);
        }
        headers
    }

    pub async fn check(&self, question: Question) -> Decision {
        let Ok(uri) = http::Uri::try_from(format!("{}{}", self.path_prefix, question.path)) else {
            return Decision::None("the request's path cannot be asked about".to_owned());
        };
        let length = question.body.len();
        let mut request = Request::new(question.body);
        *request.method_mut() = question.method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        *headers = question.headers;
        for (name, value) in &question.added {
            headers.insert(name, value.clone());
        }
        headers.remove(TRANSFER_ENCODING);
        headers.insert(HOST, question.host);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        match self.callee.call(request).await {
            Ok(answer) => self.decide(answer),
            Err(error) => Decision::None(error.to_string()),
        }
    }

    fn decide(&self, answer: Answer) -> Decision {
        if answer.status.is_server_error() {
            return Decision::None(format!("the service answered {}", answer.status));
        }
        if answer.status == StatusCode::OK {
            return Decision::Granted(self.grant(&answer.headers));
        }
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let mut denial = Denial::plain(answer.status);
        denial.metadata = self.metadata(&answer.headers);
        denial.headers = chosen(&answer.headers, |name| self.reaches_client(name));
        denial.body = body;
        Decision::Denied(denial)
    }

    fn grant(&self, headers: &HeaderMap) -> Grant {
        let mut request = chosen(headers, |name| any(&self.upstream, name.as_str()));
        for change in &mut request {
            change.change = Change::Set;
        }
        let append = chosen(headers, |name| any(&self.upstream_append, name.as_str()));
        request.extend(append.into_iter().map(|change| HeaderChange {
            change: Change::Add,
            ..change
        }));
        let removed = headers
            .get_all(TO_REMOVE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        Grant {
            request,
            remove: removed.flat_map(|list| list.split(',')).filter_map(removable).collect(),
            client: chosen(headers, |name| any(&self.client_on_success, name.as_str()))
                .into_iter()
                .map(|change| HeaderChange {
                    change: Change::Add,
                    ..change
                })
                .collect(),
            metadata: self.metadata(headers),
            ..Grant::default()
        }
    }

    /// What is never another's to say, and what a refusal is not understood without.
    fn reaches_client(&self, name: &HeaderName) -> bool {
        const FRAMING: [HeaderName; 5] = [
            CONTENT_LENGTH,
            TRANSFER_ENCODING,
            http::header::CONNECTION,
            http::header::UPGRADE,
            HOST,
        ];
        if FRAMING.contains(name) {
            return false;
        }
        match &self.client {
            None => true,
            Some(client) => [WWW_AUTHENTICATE, LOCATION].contains(name) || any(client, name.as_str()),
        }
    }

    fn metadata(&self, headers: &HeaderMap) -> Option<Struct> {
        let mut fields = Struct::default();
        for (name, value) in headers {
            if any(&self.metadata, name.as_str()) {
                let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                let value = Value {
                    kind: Some(Kind::StringValue(text)),
                };
                fields.fields.insert(name.as_str().to_owned(), value);
            }
        }
        (!fields.fields.is_empty()).then_some(fields)
    }
}

/// The first line of a header replaces what is there, further ones are added.
fn chosen(headers: &HeaderMap, choose: impl Fn(&HeaderName) -> bool) -> Vec<HeaderChange> {
    let mut changes = Vec::new();
    for name in headers.keys().filter(|name| choose(name)) {
        for (index, value) in headers.get_all(name).iter().enumerate() {
            changes.push(HeaderChange {
                name: name.clone(),
                value: value.clone(),
                change: if index == 0 { Change::Set } else { Change::Add },
            });
        }
    }
    changes
}
