//! From a connection manager's configuration to its header policy.

use http::{HeaderValue, StatusCode};
use ipnet::IpNet;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pbh;
use remora_proto::pb::envoy::extensions::http::original_ip_detection as pbo;
use remora_proto::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use remora_proto::pb::envoy::r#type::v3::Percent;

use super::decorator::Side;
use super::path::{EscapedSlashes, PathPolicy};
use super::remote::{Detection, RemoteRule};
use super::request_id::{RequestIdPolicy, Sampling};
use super::xfcc::{Mode, Xfcc};
use super::{HeaderPolicy, HostPolicy, ServerHeader, StripPort};
use crate::config::live::{REJECT_FRAGMENTS, Switch};
use crate::config::route::{Fraction, Under, each, header_name, optional, refuse, refuse_all};
use crate::config::{BuildContext, Compiled, Problems, gather};

impl HeaderPolicy {
    /// Compiles what a connection manager says about heads. `service_cluster` and `node.id` of `cx` feed `add_user_agent`.
    pub fn compile(value: &pbh::HttpConnectionManager, cx: &BuildContext) -> Compiled<Self> {
        let internal = value.internal_address_config.as_ref();
        let ranges = internal.map(|internal| match internal.cidr_ranges.as_slice() {
            [] => Ok(private_ranges()),
            ranges => each("cidr_ranges", ranges, cidr),
        });
        let server_name = if value.server_name.is_empty() {
            "envoy"
        } else {
            &value.server_name
        };
        let adds_user_agent = value.add_user_agent.is_some_and(|add| add.value);
        gather! {
            let _supported = refuse_unsupported(value);
            let remote = remote_rule(value);
            let path = path_policy(value);
            let host = host_policy(value);
            let request_id = request_id(value);
            let sampling = optional("tracing", value.tracing.as_ref(), sampling);
            let xfcc = xfcc(value);
            let ranges = ranges.transpose().under("internal_address_config");
            let user_agent = adds_user_agent.then(|| user_agent(cx)).transpose();
            let via = (!value.via.is_empty()).then(|| header_value("via", &value.via)).transpose();
            let server_mode = server_mode(value.server_header_transformation);
            let server_name = header_value("server_name", server_name);
        }
        Ok(Self {
            remote,
            path,
            reject_fragments: Switch::feature(REJECT_FRAGMENTS, true),
            host,
            request_id,
            sampling: sampling.filter(|_| request_id.use_for_sampling),
            operations: value.tracing.is_some().then(|| Side::of(cx.direction)),
            xfcc,
            internal_ranges: ranges.unwrap_or_default(),
            internal_unix_sockets: internal.is_some_and(|internal| internal.unix_sockets),
            append_forwarded_port: value.append_x_forwarded_port,
            user_agent,
            via,
            server: (server_mode, server_name),
            proxy_100_continue: value.proxy_100_continue,
        })
    }
}

/// What an `internal_address_config` without ranges of its own means.
fn private_ranges() -> Vec<ipnet::IpNet> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let v4 = |octets: [u8; 4], bits| ipnet::IpNet::new_assert(Ipv4Addr::from(octets).into(), bits);
    let v6 = |address: Ipv6Addr, bits| ipnet::IpNet::new_assert(address.into(), bits);
    vec![
        v4([10, 0, 0, 0], 8),
        v4([172, 16, 0, 0], 12),
        v4([192, 168, 0, 0], 16),
        v4([127, 0, 0, 1], 32),
        v6(Ipv6Addr::LOCALHOST, 128),
        v6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 8),
    ]
}

fn refuse_unsupported(value: &pbh::HttpConnectionManager) -> Compiled<()> {
    let unsupported = "is not supported";
    let fields = [
        (
            "scheme_header_transformation",
            value.scheme_header_transformation.is_some(),
        ),
        (
            "early_header_mutation_extensions",
            !value.early_header_mutation_extensions.is_empty(),
        ),
        (
            "forward_client_cert_matcher",
            value.forward_client_cert_matcher.is_some(),
        ),
        ("forward_proto_config", value.forward_proto_config.is_some()),
        ("proxy_status_config", value.proxy_status_config.is_some()),
        ("path_normalization_options", value.path_normalization_options.is_some()),
        (
            "typed_header_validation_config",
            value.typed_header_validation_config.is_some(),
        ),
        (
            "represent_ipv4_remote_address_as_ipv4_mapped_ipv6",
            value.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        ),
    ];
    refuse_all(&fields.map(|(field, is_set)| (field, is_set, unsupported)))
}

fn server_mode(transformation: i32) -> Compiled<ServerHeader> {
    match transformation {
        0 => Ok(ServerHeader::Overwrite),
        1 => Ok(ServerHeader::AppendIfAbsent),
        2 => Ok(ServerHeader::PassThrough),
        other => Err(unknown("server_header_transformation", other)),
    }
}

fn unknown(field: &str, value: i32) -> Problems {
    Problems::one(field, format!("unknown value {value}"))
}

fn header_value(field: &str, text: &str) -> Compiled<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| Problems::one(field, format!("{text:?} is not a header value")))
}

fn user_agent(cx: &BuildContext) -> Compiled<(HeaderValue, Option<HeaderValue>)> {
    let node = (!cx.node.id.is_empty())
        .then(|| header_value("add_user_agent", &cx.node.id))
        .transpose()?;
    Ok((header_value("add_user_agent", &cx.node.cluster)?, node))
}

fn remote_rule(value: &pbh::HttpConnectionManager) -> Compiled<RemoteRule> {
    let is_edge = value.use_remote_address.is_some_and(|edge| edge.value);
    let extensions = &value.original_ip_detection_extensions;
    if !extensions.is_empty() {
        let both = is_edge || value.xff_num_trusted_hops > 0;
        refuse(
            "original_ip_detection_extensions",
            both,
            "cannot be combined with use_remote_address or xff_num_trusted_hops",
        )?;
        let detections = each("original_ip_detection_extensions", extensions, detection)?;
        return Ok(RemoteRule::Mesh(detections));
    }
    let trusted_hops = value.xff_num_trusted_hops;
    if is_edge {
        return Ok(RemoteRule::Edge {
            trusted_hops,
            skip_append: value.skip_xff_append,
        });
    }
    Ok(RemoteRule::Mesh(vec![Detection::Xff {
        trusted_hops,
        skip_append: true,
    }]))
}

fn detection(extension: &TypedExtensionConfig) -> Compiled<Detection> {
    let any = extension
        .typed_config
        .as_ref()
        .ok_or_else(|| Problems::one("typed_config", "is required"))?;
    let malformed = |error: prost::DecodeError| Problems::one("typed_config", error.to_string());
    match any.type_url.rsplit('/').next() {
        Some("envoy.extensions.http.original_ip_detection.xff.v3.XffConfig") => {
            let config = pbo::xff::v3::XffConfig::decode(any.value.as_slice()).map_err(malformed)?;
            let skip_append = config.skip_xff_append.is_none_or(|skip| skip.value);
            match &config.xff_trusted_cidrs {
                Some(trusted) => Ok(Detection::TrustedRanges {
                    ranges: each("cidrs", &trusted.cidrs, cidr).under("typed_config.xff_trusted_cidrs")?,
                    skip_append,
                }),
                None => Ok(Detection::Xff {
                    trusted_hops: config.xff_num_trusted_hops,
                    skip_append,
                }),
            }
        }
        Some("envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig") => {
            let config = pbo::custom_header::v3::CustomHeaderConfig::decode(any.value.as_slice()).map_err(malformed)?;
            let status = |code: i32| {
                u16::try_from(code)
                    .ok()
                    .and_then(|code| StatusCode::from_u16(code).ok())
            };
            Ok(Detection::Header {
                name: header_name("typed_config.header_name", &config.header_name)?,
                may_be_internal: config.allow_extension_to_set_address_as_trusted,
                reject: config
                    .reject_with_status
                    .map(|reject| status(reject.code).unwrap_or(StatusCode::FORBIDDEN)),
            })
        }
        _ => Err(Problems::one(
            "typed_config",
            format!("{} is not supported", any.type_url),
        )),
    }
}

/// A CIDR range; the bits behind the prefix do not count.
pub fn cidr(range: &CidrRange) -> Compiled<IpNet> {
    let address = range.address_prefix.parse().map_err(|_| {
        Problems::one(
            "address_prefix",
            format!("{:?} is not an IP address", range.address_prefix),
        )
    })?;
    let length = range.prefix_len.map_or(0, |length| length.value);
    let length = u8::try_from(length).map_err(|_| Problems::one("prefix_len", "is too large"))?;
    IpNet::new(address, length)
        .map(|net| net.trunc())
        .map_err(|_| Problems::one("prefix_len", "is too large"))
}

fn path_policy(value: &pbh::HttpConnectionManager) -> Compiled<PathPolicy> {
    let escaped_slashes = match value.path_with_escaped_slashes_action {
        0 | 1 => EscapedSlashes::Keep,
        2 => EscapedSlashes::Reject,
        3 => EscapedSlashes::UnescapeAndRedirect,
        4 => EscapedSlashes::UnescapeAndForward,
        other => return Err(unknown("path_with_escaped_slashes_action", other)),
    };
    Ok(PathPolicy {
        normalize: value.normalize_path.is_some_and(|normalize| normalize.value),
        merge_slashes: value.merge_slashes,
        escaped_slashes,
    })
}

fn host_policy(value: &pbh::HttpConnectionManager) -> Compiled<HostPolicy> {
    let any = matches!(
        value.strip_port_mode,
        Some(pbh::http_connection_manager::StripPortMode::StripAnyHostPort(true))
    );
    refuse(
        "strip_matching_host_port",
        any && value.strip_matching_host_port,
        "only one of strip_matching_host_port and strip_any_host_port may be set",
    )?;
    let strip_port = match (any, value.strip_matching_host_port) {
        (true, _) => StripPort::Any,
        (false, true) => StripPort::Matching,
        (false, false) => StripPort::Never,
    };
    Ok(HostPolicy {
        strip_trailing_dot: value.strip_trailing_host_dot,
        strip_port,
    })
}

/// How request ids are made, by the only extension that there is.
///
/// # Errors
/// Any other extension, by path.
pub fn uuid_config(extension: &pbh::RequestIdExtension) -> Compiled<UuidRequestIdConfig> {
    let Some(any) = &extension.typed_config else {
        return Ok(UuidRequestIdConfig::default());
    };
    if any.type_url.rsplit('/').next() != Some("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig") {
        return Err(Problems::one(
            "typed_config",
            format!("{} is not supported", any.type_url),
        ));
    }
    UuidRequestIdConfig::decode(any.value.as_slice()).map_err(|error| Problems::one("typed_config", error.to_string()))
}

fn request_id(value: &pbh::HttpConnectionManager) -> Compiled<RequestIdPolicy> {
    let extension =
        optional("request_id_extension", value.request_id_extension.as_ref(), uuid_config)?.unwrap_or_default();
    Ok(RequestIdPolicy {
        generate: value.generate_request_id.is_none_or(|generate| generate.value),
        preserve_external: value.preserve_external_request_id,
        always_in_response: value.always_set_request_id_in_response,
        pack_trace_reason: extension.pack_trace_reason.is_none_or(|pack| pack.value),
        use_for_sampling: extension
            .use_request_id_for_trace_sampling
            .is_none_or(|used| used.value),
    })
}

/// `client_sampling` and `overall_sampling` in whole percents, `random_sampling` in hundredths of one, as Envoy reads them.
fn sampling(value: &pbh::http_connection_manager::Tracing) -> Compiled<Sampling> {
    let fraction = |field: &str, percent: Option<f64>, steps: u32| {
        let Some(percent) = percent else { return Ok(None) };
        refuse(field, !(0.0..=100.0).contains(&percent), "must be in 0..=100")?;
        let numerator = match steps {
            1 => percent as u32,
            steps => (percent * f64::from(steps)).round() as u32,
        };
        Ok(Some(Fraction {
            numerator,
            denominator: 100 * steps,
        }))
    };
    let percent = |value: Option<&Percent>| value.map(|percent| percent.value);
    gather! {
        let client = fraction("client_sampling", percent(value.client_sampling.as_ref()), 1);
        let random = fraction("random_sampling", percent(value.random_sampling.as_ref()), 100);
        let overall = fraction("overall_sampling", percent(value.overall_sampling.as_ref()), 1);
    }
    Ok(Sampling {
        client,
        random,
        overall,
    })
}

fn xfcc(value: &pbh::HttpConnectionManager) -> Compiled<Xfcc> {
    let mode = match value.forward_client_cert_details {
        0 => Mode::Sanitize,
        1 => Mode::ForwardOnly,
        2 => Mode::AppendForward,
        3 => Mode::SanitizeSet,
        4 => Mode::AlwaysForwardOnly,
        other => return Err(unknown("forward_client_cert_details", other)),
    };
    let Some(details) = &value.set_current_client_cert_details else {
        return Ok(Xfcc {
            mode,
            ..Xfcc::default()
        });
    };
    refuse(
        "set_current_client_cert_details.issuer",
        details.issuer,
        "is not supported",
    )?;
    refuse(
        "set_current_client_cert_details.format",
        details.format != 0,
        "only TEXT is supported",
    )?;
    Ok(Xfcc {
        mode,
        cert: details.cert,
        chain: details.chain,
        subject: details.subject.is_some_and(|subject| subject.value),
        uri: details.uri,
        dns: details.dns,
    })
}
