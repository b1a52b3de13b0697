//! `envoy.filters.listener.proxy_protocol`: addresses and TLVs out of a PROXY header.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use pb::proxy_protocol::TlvLocation;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::listener::proxy_protocol::v3 as pb;

use crate::config::route::{each, refuse};
use crate::config::{BuildContext, Compiled, Problems};
use crate::http::exchange::{DynamicMetadata, FilterState, Object, ObjectState};
use crate::listener::detect::Detection;
use crate::listener::detect::proxy_protocol::{Header, LATE_END, NO_END, V2_FIXED, Version, parse, signature};
use crate::tcp::proxy_header::{Pass, PassedTlvs};
use crate::telemetry::stats::Counter;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";

/// The key in the filter state.
const STATE: &str = "envoy.network.proxy_protocol.tlv";
/// The metadata namespace of rules that name none.
const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";

crate::stat_group! {
    /// Under `proxy_proto.[<prefix>.]`.
    pub struct ProxyProtocolStats {
        counters: { not_found_disallowed, not_found_allowed }
        gauges: {}
        histograms: {}
    }
}

crate::stat_group! {
    /// Under `downstream_cx_`, of all such filters together: Envoy's name has no prefix, and nothing is under none here.
    pub struct ErrorStats {
        counters: { proxy_proto_error }
        gauges: {}
        histograms: {}
    }
}

crate::stat_group! {
    /// Under `proxy_proto.[<prefix>.]versions.v<N>.`.
    pub struct VersionStats {
        counters: { found, disallowed, error }
        gauges: {}
        histograms: {}
    }
}

/// The compiled filter.
pub struct ProxyProtocol {
    /// `allow_requests_without_proxy_protocol`
    optional: bool,
    disallowed: Vec<Version>,
    rules: Vec<Rule>,
    /// `tlv_location`: what rules find becomes one object in the filter state, not metadata.
    as_state: bool,
    pass: Pass,
    stats: Arc<ProxyProtocolStats>,
    versions: [Arc<VersionStats>; 2],
    errors: Arc<ErrorStats>,
}

struct Rule {
    tlv_type: u8,
    namespace: String,
    key: String,
    base64: bool,
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Take the header's bytes off the stream.
    Header(Header),
    /// There is none, which is fine.
    Absent,
    Refused,
}

/// # Errors
/// What is wrong or not supported, by path.
pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<ProxyProtocol> {
    let config = pb::ProxyProtocol::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    let location = TlvLocation::try_from(config.tlv_location);
    let location = location.map_err(|_| Problems::one("tlv_location", "unknown value"))?;
    let prefix = match config.stat_prefix.as_str() {
        "" => "proxy_proto.".to_owned(),
        prefix => format!("proxy_proto.{prefix}."),
    };
    // 0 is V1.
    let version = |version: &i32| if *version == 0 { Version::V1 } else { Version::V2 };
    let disallowed: Vec<Version> = config.disallowed_versions.iter().map(version).collect();
    let none_is_left = [Version::V1, Version::V2]
        .iter()
        .all(|version| disallowed.contains(version));
    refuse(
        "disallowed_versions",
        none_is_left,
        "all proxy protocol versions are disallowed",
    )?;
    Ok(ProxyProtocol {
        optional: config.allow_requests_without_proxy_protocol,
        disallowed,
        rules: each("rules", &config.rules, rule)?.into_iter().flatten().collect(),
        as_state: location == TlvLocation::FilterState,
        pass: Pass::compile(config.pass_through_tlvs.as_ref()).map_err(|p| p.under("pass_through_tlvs"))?,
        stats: cx.stats.group(&prefix),
        errors: cx.stats.group("downstream_cx_"),
        versions: ["v1", "v2"].map(|version| cx.stats.group(&format!("{prefix}versions.{version}."))),
    })
}

/// `None`: a rule that stores nothing.
fn rule(config: &pb::proxy_protocol::Rule) -> Compiled<Option<Rule>> {
    let tlv_type = u8::try_from(config.tlv_type).map_err(|_| Problems::one("tlv_type", "must be less than 256"))?;
    let Some(pair) = &config.on_tlv_present else {
        return Ok(None);
    };
    refuse("on_tlv_present.key", pair.key.is_empty(), "required")?;
    let namespace = match pair.metadata_namespace.as_str() {
        "" => NAMESPACE,
        namespace => namespace,
    };
    Ok(Some(Rule {
        tlv_type,
        namespace: namespace.to_owned(),
        key: pair.key.clone(),
        base64: pair.value_string_encoding == pb::proxy_protocol::key_value_pair::ValueStringEncoding::Base64 as i32,
    }))
}

impl ProxyProtocol {
    /// Looks at the first bytes; a version that is not allowed is none, where none is needed.
    pub fn look(&self, bytes: &[u8]) -> Detection<Header> {
        let disallowed = signature(bytes).filter(|version| self.disallowed.contains(version));
        match (disallowed, parse(bytes)) {
            (Some(_), _) if self.optional => Detection::No,
            // What a header that is not wanted says is not waited for.
            (Some(Version::V2), _) if bytes.len() >= V2_FIXED => Detection::Broken("PROXY version 2 is not allowed"),
            // So little without a signature is judged when its line ends, unless none is needed.
            (_, Detection::No) if !self.optional && bytes.len() < SHORTEST_V2 => unsigned(bytes),
            (_, found) => found,
        }
    }

    /// Judges and counts what [`look`](Self::look) has found in `bytes`.
    pub fn judge(&self, bytes: &[u8], found: Detection<Header>) -> Outcome {
        let version = signature(bytes);
        let stats = |version: Version| &self.versions[version as usize];
        let refused = |counter: Option<&Counter>| {
            counter.inspect(|counter| counter.inc());
            self.errors.proxy_proto_error.inc();
            Outcome::Refused
        };
        match (found, version) {
            // Envoy knows the version by the line's end.
            (Detection::Broken(NO_END), _) => refused(Some(&self.stats.not_found_disallowed)),
            (Detection::Broken(LATE_END), Some(version)) => refused(Some(&stats(version).error)),
            (Detection::Broken(NO_LINE), _) => refused(Some(&stats(Version::V1).error)),
            // Whether a header of a version that is not allowed is in order is nobody's business.
            (Detection::Found(_) | Detection::Broken(_), Some(version)) if self.disallowed.contains(&version) => {
                stats(version).found.inc();
                stats(version).disallowed.inc();
                Outcome::Refused
            }
            (Detection::Found(header), _) => {
                stats(header.version).found.inc();
                Outcome::Header(header)
            }
            (Detection::No, _) if self.optional => {
                self.stats.not_found_allowed.inc();
                Outcome::Absent
            }
            (Detection::No, _) => refused(Some(&self.stats.not_found_disallowed)),
            (Detection::Broken(_) | Detection::NeedMore, version) => {
                refused(version.map(|version| &stats(version).error))
            }
        }
    }

    /// Puts the header's TLVs where the configuration wants them.
    pub fn store(&self, header: Header, extensions: &mut http::Extensions) {
        let mut fields = BTreeMap::new();
        for rule in &self.rules {
            // In metadata the first one of a type wins, in the filter state the last, as in Envoy.
            let mut found = header.tlvs.iter().filter(|(kind, _)| *kind == rule.tlv_type);
            let found = if self.as_state { found.next_back() } else { found.next() };
            if let Some((_, value)) = found {
                let text = match rule.base64 {
                    true => base64::engine::general_purpose::STANDARD.encode(value),
                    false => sanitized(value),
                };
                if self.as_state {
                    fields.insert(rule.key.clone(), text);
                    continue;
                }
                let metadata = extensions.get_or_insert_default::<DynamicMetadata>();
                metadata.set_text(&rule.namespace, rule.key.clone(), &text);
            }
        }
        if !fields.is_empty() {
            let json = serde_json::json!(fields).to_string();
            let texts = extensions.get_or_insert_default::<FilterState>();
            texts.0.insert(STATE.to_owned(), json.clone());
            let objects = extensions.get_or_insert_default::<ObjectState>();
            objects.0.insert(STATE, Object { json, fields });
        }
        // There, even if empty: it tells that there was a header.
        let mut passed = header.tlvs;
        passed.retain(|(kind, _)| self.pass.passes(*kind));
        extensions.insert(PassedTlvs(passed));
    }
}

/// Bytes of a version 2 header without addresses. Of fewer bytes without a signature Envoy wants to see the end of a line.
const SHORTEST_V2: usize = 16;

const NO_LINE: &str = "no PROXY line";

/// What begins with no signature, and is too short for a header of version 2.
fn unsigned(bytes: &[u8]) -> Detection<Header> {
    match memchr::memmem::find(bytes, b"\r\n") {
        Some(_) => Detection::Broken(NO_LINE),
        None => Detection::NeedMore,
    }
}

/// Envoy's `sanitizeUtf8String`: each byte that is not part of valid UTF-8 becomes `!`.
fn sanitized(mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    loop {
        match std::str::from_utf8(bytes) {
            Ok(valid) => {
                text.push_str(valid);
                return text;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                text.push('!');
                bytes = rest.get(1..).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(config: pb::ProxyProtocol) -> (ProxyProtocol, BuildContext) {
        let cx = BuildContext::default();
        (compile(&config.encode_to_vec(), &cx).expect("compiles"), cx)
    }

    const V1: &[u8] = b"PROXY UNKNOWN\r\n";
    const V2: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x16\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02\x02\0\x03h\xffi\x05\0\x01z";

    #[test]
    fn a_version_that_is_not_allowed_is_refused_or_no_header_at_all() {
        for (optional, v1, v2) in [(false, "refused", "header"), (true, "absent", "header")] {
            let (filter, _cx) = filter(pb::ProxyProtocol {
                allow_requests_without_proxy_protocol: optional,
                disallowed_versions: vec![0],
                ..Default::default()
            });
            for (bytes, expected) in [(V1, v1), (V2, v2)] {
                let outcome = match filter.judge(bytes, filter.look(bytes)) {
                    Outcome::Header(_) => "header",
                    Outcome::Absent => "absent",
                    Outcome::Refused => "refused",
                };
                assert_eq!(outcome, expected);
            }
        }
    }

    #[test]
    fn tlvs_become_metadata_by_rule_and_pass_on_by_type() {
        let pair = |key: &str, encoding| pb::proxy_protocol::KeyValuePair {
            key: key.into(),
            value_string_encoding: encoding,
            ..Default::default()
        };
        let rule = |kind, pair| pb::proxy_protocol::Rule {
            tlv_type: kind,
            on_tlv_present: Some(pair),
        };
        let (filter, cx) = filter(pb::ProxyProtocol {
            rules: vec![
                rule(2, pair("text", 0)),
                rule(2, pair("base64", 2)),
                rule(9, pair("none", 0)),
            ],
            pass_through_tlvs: Some(
                remora_proto::pb::envoy::config::core::v3::ProxyProtocolPassThroughTlVs {
                    match_type: 1,
                    tlv_type: vec![5],
                },
            ),
            stat_prefix: "p".into(),
            ..Default::default()
        });
        let Outcome::Header(header) = filter.judge(V2, filter.look(V2)) else {
            panic!("a header")
        };
        let mut extensions = http::Extensions::new();
        filter.store(header, &mut extensions);
        let metadata = extensions.get::<DynamicMetadata>().expect("set");
        let text = |key: &str| {
            use remora_proto::pb::google::protobuf::value::Kind;
            match metadata.value(NAMESPACE, &[key.to_owned()])?.kind.clone()? {
                Kind::StringValue(text) => Some(text),
                _ => None,
            }
        };
        assert_eq!(
            (text("text").as_deref(), text("base64").as_deref()),
            (Some("h!i"), Some("aP9p"))
        );
        assert_eq!(text("none"), None);
        assert_eq!(extensions.get(), Some(&PassedTlvs(vec![(5, b"z".to_vec())])));
        let found: Arc<VersionStats> = cx.stats.group("proxy_proto.p.versions.v2.");
        assert_eq!(found.found.value(), 1);
    }

    #[test]
    fn tlvs_become_an_object_in_the_filter_state() {
        let rule = |kind, key: &str| pb::proxy_protocol::Rule {
            tlv_type: kind,
            on_tlv_present: Some(pb::proxy_protocol::KeyValuePair {
                key: key.into(),
                ..Default::default()
            }),
        };
        let (filter, _cx) = filter(pb::ProxyProtocol {
            rules: vec![rule(2, "two"), rule(5, "five"), rule(9, "nine")],
            tlv_location: TlvLocation::FilterState as i32,
            ..Default::default()
        });
        let Outcome::Header(header) = filter.judge(V2, filter.look(V2)) else {
            panic!("a header")
        };
        let mut extensions = http::Extensions::new();
        filter.store(header, &mut extensions);
        assert!(extensions.get::<DynamicMetadata>().is_none());
        let json = r#"{"five":"z","two":"h!i"}"#;
        assert_eq!(extensions.get::<FilterState>().expect("set").0[STATE], json);
        let object = &extensions.get::<ObjectState>().expect("set").0[STATE];
        assert_eq!((&*object.json, &*object.fields["two"]), (json, "h!i"));
        // Nothing passes, but there was a header: nobody else adds TLVs then.
        assert_eq!(extensions.get(), Some(&PassedTlvs(Vec::new())));
    }
}
