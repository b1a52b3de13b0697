//! `local_reply_config`: what operators make of the answers that are ours.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, StatusCode};
use remora_proto::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string::Format};
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pbh;

use crate::config::route::{Under, data_source, each, optional};
use crate::config::{Compiled, Problems};
use crate::http::exchange::Exchange;
use crate::http::header_policy::mutations::Mutations;
use crate::telemetry::access_log::{Filter, LineFormat};
use crate::telemetry::format::LogView;

/// A compiled `LocalReplyConfig`.
pub struct LocalReply {
    mappers: Vec<Mapper>,
    format: Option<BodyFormat>,
}

/// `ResponseMapper`; the first whose filter passes applies.
struct Mapper {
    filter: Filter,
    status: Option<StatusCode>,
    body: Option<bytes::Bytes>,
    format: Option<BodyFormat>,
    headers: Mutations,
}

/// A body that is put together from what is known of the stream, the body so far among it.
pub struct BodyFormat {
    format: LineFormat,
    content_type: HeaderValue,
}

impl LocalReply {
    pub fn compile(value: &pbh::LocalReplyConfig) -> Compiled<Self> {
        Ok(Self {
            mappers: each("mappers", &value.mappers, Mapper::compile)?,
            format: optional("body_format", value.body_format.as_ref(), BodyFormat::compile)?,
        })
    }

    /// Rewrites an answer; returns the content type of its body, if a format says what it is.
    pub fn rewrite(
        &self,
        exchange: &mut Exchange,
        status: &mut StatusCode,
        body: &mut Cow<'_, [u8]>,
        headers: &mut HeaderMap,
    ) -> Option<HeaderValue> {
        // Filters and formats see the code as it is so far.
        exchange.response_code = Some(*status);
        let mapper = self
            .mappers
            .iter()
            .find(|mapper| mapper.filter.passes(&LogView::of(exchange).with_response(headers)));
        let mut format = self.format.as_ref();
        if let Some(mapper) = mapper {
            if let Some(own) = &mapper.body {
                *body = Cow::Owned(own.to_vec());
            }
            mapper.headers.apply_response(exchange, headers);
            if let Some(own) = mapper.status {
                *status = own;
                exchange.response_code = Some(own);
            }
            format = mapper.format.as_ref().or(format);
        }
        let format = format?;
        *body = Cow::Owned(format.write(exchange, body, headers));
        Some(format.content_type.clone())
    }
}

impl Mapper {
    fn compile(value: &pbh::ResponseMapper) -> Compiled<Self> {
        let Some(filter) = &value.filter else {
            return Err(Problems::one("filter", "is required"));
        };
        let status = value.status_code.as_ref().map(|code| {
            let code = u16::try_from(code.value).ok();
            code.and_then(|code| StatusCode::from_u16(code).ok())
                .ok_or_else(|| Problems::one("status_code", "is not a status code"))
        });
        Ok(Self {
            filter: Filter::compile(filter).under("filter")?,
            status: status.transpose()?,
            body: optional("body", value.body.as_ref(), data_source)?,
            format: optional(
                "body_format_override",
                value.body_format_override.as_ref(),
                BodyFormat::compile,
            )?,
            headers: Mutations::compile(("headers_to_add", ""), &value.headers_to_add, &[])?,
        })
    }
}

impl BodyFormat {
    pub fn compile(value: &SubstitutionFormatString) -> Compiled<Self> {
        let format = LineFormat::compile(value)?;
        let content_type = match (&value.format, value.content_type.as_str()) {
            (Some(Format::JsonFormat(_)), "") => HeaderValue::from_static("application/json"),
            (_, "") => super::TEXT,
            (_, own) => {
                HeaderValue::from_str(own).map_err(|_| Problems::one("content_type", "is not a header value"))?
            }
        };
        Ok(Self { format, content_type })
    }

    pub fn content_type(&self) -> &HeaderValue {
        &self.content_type
    }

    pub fn write(&self, exchange: &Exchange, body: &[u8], headers: &HeaderMap) -> Vec<u8> {
        let view = LogView {
            local_reply: body,
            ..LogView::of(exchange).with_response(headers)
        };
        let mut out = Vec::with_capacity(body.len() + 64);
        self.format.write(&view, &mut out);
        out
    }
}

impl std::fmt::Debug for BodyFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BodyFormat({:?})", self.content_type)
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::pb::envoy::config::accesslog::v3 as pba;
    use remora_proto::pb::envoy::config::core::v3::{
        DataSource, HeaderValue as PbHeaderValue, HeaderValueOption, data_source::Specifier,
    };
    use remora_proto::pb::google::protobuf::UInt32Value;

    use super::*;
    use crate::http::failure::Failure;
    use crate::http::respond::{local_reply, respond};
    use crate::testing::exchange;

    fn text(format: &str, content_type: &str) -> SubstitutionFormatString {
        let source = DataSource {
            specifier: Some(Specifier::InlineString(format.to_owned())),
            ..DataSource::default()
        };
        SubstitutionFormatString {
            format: Some(Format::TextFormatSource(source)),
            content_type: content_type.to_owned(),
            ..SubstitutionFormatString::default()
        }
    }

    /// Answers with this flag become 410 with a body of their own; everything gets a format.
    fn config() -> LocalReply {
        let flags = pba::ResponseFlagFilter {
            flags: vec!["NR".to_owned()],
        };
        let header = HeaderValueOption {
            header: Some(PbHeaderValue {
                key: "x-mapped".to_owned(),
                value: "%RESPONSE_FLAGS%".to_owned(),
                ..PbHeaderValue::default()
            }),
            ..HeaderValueOption::default()
        };
        let mapper = pbh::ResponseMapper {
            filter: Some(pba::AccessLogFilter {
                filter_specifier: Some(pba::access_log_filter::FilterSpecifier::ResponseFlagFilter(flags)),
            }),
            status_code: Some(UInt32Value { value: 410 }),
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString("nothing here".to_owned())),
                ..DataSource::default()
            }),
            headers_to_add: vec![header],
            ..pbh::ResponseMapper::default()
        };
        let config = pbh::LocalReplyConfig {
            mappers: vec![mapper],
            body_format: Some(text("<%RESPONSE_CODE%: %LOCAL_REPLY_BODY%>", "text/html")),
        };
        LocalReply::compile(&config).expect("compiles")
    }

    fn answer(failure: &Failure) -> (u16, String, Option<String>, Option<String>) {
        let mut exchange = exchange("GET", "/", &[("host", "h")]);
        exchange.local_reply = Some(std::sync::Arc::new(config()));
        let response = respond(&mut exchange, failure);
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().expect("text").to_owned())
        };
        let (kind, mapped) = (header("content-type"), header("x-mapped"));
        let status = response.status().as_u16();
        let crate::http::body::Body::Full(body) = response.into_body() else {
            return (status, String::new(), kind, mapped);
        };
        (status, String::from_utf8_lossy(&body).into_owned(), kind, mapped)
    }

    #[test]
    fn the_first_mapper_that_passes_and_the_format_make_the_answer() {
        let html = Some("text/html".to_owned());
        assert_eq!(
            answer(&Failure::RouteNotFound),
            (
                410,
                "<410: nothing here>".to_owned(),
                html.clone(),
                Some("NR".to_owned())
            )
        );
        assert_eq!(
            answer(&Failure::NoHealthyUpstream),
            (503, "<503: no healthy upstream>".to_owned(), html, None)
        );
    }

    #[test]
    fn without_a_configuration_answers_stay_plain() {
        let mut exchange = exchange("GET", "/", &[("host", "h")]);
        let response = local_reply(&mut exchange, StatusCode::FORBIDDEN, None, "no", "because");
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let headers = response.headers();
        assert_eq!(
            headers.get("content-type").map(HeaderValue::as_bytes),
            Some(&b"text/plain"[..])
        );
        assert_eq!(
            headers.get("content-length").map(HeaderValue::as_bytes),
            Some(&b"2"[..])
        );
        assert_eq!(exchange.details, "because");
    }
}
