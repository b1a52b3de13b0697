//! `proxy_protocol_tlvs`: what the PROXY header to upstream says beyond what the client's own header said.

use std::borrow::Cow;

use remora_proto::pb::envoy::config::core::v3::TlvEntry;
use remora_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;

use pb::ProxyProtocolTlvMergePolicy as Policy;

use crate::config::route::{Under, each, refuse};
use crate::config::{Compiled, Problems};
use crate::filters::filter_state::text_format;
use crate::tcp::proxy_header::{PassedTlvs, Tlv, tlv_type};
use crate::telemetry::format::{Format, LogView, TcpRecord};

/// Compiled.
pub(super) struct AddedTlvs {
    fixed: Vec<Tlv>,
    /// After the fixed ones, as in Envoy.
    formatted: Vec<(u8, Format)>,
    policy: Policy,
}

enum Entry {
    Fixed(Tlv),
    Formatted(u8, Format),
}

impl AddedTlvs {
    /// `None`: there are none.
    pub(super) fn compile(config: &pb::TcpProxy) -> Compiled<Option<Self>> {
        let policy = Policy::try_from(config.proxy_protocol_tlv_merge_policy);
        let policy = policy.map_err(|_| Problems::one("proxy_protocol_tlv_merge_policy", "unknown value"))?;
        let mut added = Self {
            fixed: Vec::new(),
            formatted: Vec::new(),
            policy,
        };
        for entry in each("proxy_protocol_tlvs", &config.proxy_protocol_tlvs, entry)? {
            match entry {
                Entry::Fixed(tlv) => added.fixed.push(tlv),
                Entry::Formatted(kind, format) => added.formatted.push((kind, format)),
            }
        }
        let is_empty = added.fixed.is_empty() && added.formatted.is_empty();
        Ok((!is_empty).then_some(added))
    }

    /// What goes upstream; whoever writes the header may still keep some of it back.
    pub(super) fn merge<'a>(&self, record: &'a TcpRecord) -> Cow<'a, [Tlv]> {
        let theirs = record.connection.extensions.get::<PassedTlvs>();
        if let (Policy::AddIfAbsent, Some(theirs)) = (self.policy, theirs) {
            return Cow::Borrowed(&theirs.0);
        }
        let theirs = theirs.map_or(&[][..], |passed| &passed.0);
        let view = LogView::of_tcp(record);
        let formatted = self.formatted.iter().map(|(kind, format)| {
            let mut value = Vec::new();
            format.write(&view, &mut value);
            (*kind, value)
        });
        let ours = self.fixed.iter().cloned().chain(formatted);
        match self.policy {
            Policy::AddIfAbsent => ours.collect(),
            Policy::AppendIfExistsOrAdd => theirs.iter().cloned().chain(ours).collect(),
            Policy::OverwriteByTypeIfExistsOrAdd => {
                let mut merged: Vec<Tlv> = ours.collect();
                let count = merged.len();
                for tlv in theirs {
                    if !merged[..count].iter().any(|(kind, _)| *kind == tlv.0) {
                        merged.push(tlv.clone());
                    }
                }
                merged.into()
            }
        }
    }
}

fn entry(config: &TlvEntry) -> Compiled<Entry> {
    let kind = tlv_type(config.r#type)?;
    let Some(format) = &config.format_string else {
        refuse("value", config.value.is_empty(), "value or format_string is required")?;
        return Ok(Entry::Fixed((kind, config.value.clone())));
    };
    refuse(
        "value",
        !config.value.is_empty(),
        "only one of value and format_string may be set",
    )?;
    Ok(Entry::Formatted(kind, text_format(format).under("format_string")?))
}
