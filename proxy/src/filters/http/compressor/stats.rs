//! `http.<stat_prefix>.compressor.<library>.<encoding>.`: what became of responses, and why.

use std::sync::Arc;

use remora_proto::pb::envoy::config::core::v3::TypedExtensionConfig;

use crate::config::{Compiled, Problems};
use crate::filters::http::FilterContext;

crate::stat_group! {
    /// What `accept-encoding` asked for.
    pub struct HeaderStats {
        counters: {
            no_accept_header, header_identity, header_compressor_used, header_compressor_overshadowed, header_wildcard,
            header_not_valid, not_compressed_etag,
        }
        gauges: {}
        histograms: {}
    }
}

crate::stat_group! {
    /// `response.`, where the configuration speaks of responses.
    pub struct ResponseStats {
        counters: {
            compressed, not_compressed, content_length_too_small, total_compressed_bytes, total_uncompressed_bytes,
        }
        gauges: {}
        histograms: {}
    }
}

crate::stat_group! {
    /// `request.`: none is compressed here.
    pub struct RequestStats {
        counters: { not_compressed }
        gauges: {}
        histograms: {}
    }
}

/// All of one compressor.
pub(super) struct Counts {
    pub headers: Arc<HeaderStats>,
    pub responses: Arc<ResponseStats>,
    pub requests: Arc<RequestStats>,
}

impl Counts {
    /// `named`: there is a `response_direction_config`, which gives responses a prefix of their own.
    ///
    /// # Errors
    /// The library is none that has stats.
    pub fn new(library: &TypedExtensionConfig, named: bool, cx: &FilterContext<'_>) -> Compiled<Self> {
        let any = library.typed_config.as_ref();
        let kind = any.map_or("", |any| remora_proto::type_url::full_name(&any.type_url));
        let encoding = kind
            .strip_prefix("envoy.extensions.compression.")
            .and_then(|kind| kind.split('.').next())
            .ok_or_else(|| Problems::one("typed_config", format!("{kind} is not supported")))?;
        let prefix = format!("{}compressor.{}.{encoding}.", cx.stat_prefix, library.name);
        let stats = &cx.build.stats;
        let response = if named { "response." } else { "" };
        Ok(Self {
            headers: stats.group(&prefix),
            responses: stats.group(&format!("{prefix}{response}")),
            requests: stats.group(&format!("{prefix}request.")),
        })
    }
}
