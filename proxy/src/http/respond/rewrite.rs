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

    /// Rewrites an answer; returns the content type of its body.
    pub fn rewrite(
        &self,
        exchange: &mut Exchange,
        status: &mut StatusCode,
        body: &mut Cow<'_, [u8]>,
        headers: &mut HeaderMap,
    ) -> HeaderValue {
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
        let Some(format) = format else {
            return super::TEXT;
        };
        *body = Cow::Owned(format.write(exchange, body, headers));
        format.content_type.clone()
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
