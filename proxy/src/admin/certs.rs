//! `/certs`.

use std::time::UNIX_EPOCH;

use http::StatusCode;
use prost::{Message, Name as _};
use remora_proto::json::{WriteError, to_json};
use remora_proto::pb::envoy::admin::v3 as pb;
use remora_proto::pb::envoy::config::core::v3::TransportSocket;
use remora_proto::pb::google::protobuf::Timestamp;
use remora_proto::wire::{self, Fields, Value};
use serde_json::{Value as Json, json};

use super::AdminState;
use super::query::Query;
use super::reply::{self, Reply};
use crate::config::BuildContext;
use crate::runtime::clock;
use crate::tls::report::{CertificateDetails, CertificateReport};
use crate::tls::secret::Rebuild;

/// Fields of `Cluster`, and of one of its `transport_socket_matches`.
const TRANSPORT_SOCKET: u32 = 24;
const TRANSPORT_SOCKET_MATCHES: u32 = 43;
const SOCKET_OF_MATCH: u32 = 3;

/// One entry per TLS context: of those that live, and of clusters that nobody has used yet.
pub(super) fn certs(state: &AdminState, _: &Query) -> Reply {
    let now = clock::system_now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let mut reports = state.secrets.reports();
    reports.extend(unused(state));
    let details = |list: &[CertificateDetails]| list.iter().map(|one| details(one, now)).collect();
    let certificates = reports.iter().map(|report| pb::Certificate {
        ca_cert: details(&report.ca),
        cert_chain: details(&report.chain),
    });
    match page(certificates.collect()) {
        Ok(page) => reply::tree(&page),
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// As Envoy prints it: what is empty is shown too.
fn page(certificates: Vec<pb::Certificate>) -> Result<Json, WriteError> {
    let contexts = certificates.iter().map(|certificate| {
        let list = |list: &[pb::CertificateDetails]| list.iter().map(shown).collect::<Result<Json, WriteError>>();
        Ok(json!({"ca_cert": list(&certificate.ca_cert)?, "cert_chain": list(&certificate.cert_chain)?}))
    });
    Ok(json!({"certificates": contexts.collect::<Result<Json, WriteError>>()?}))
}

fn shown(details: &pb::CertificateDetails) -> Result<Json, WriteError> {
    let mut all = json!({"path": "", "serial_number": "", "subject_alt_names": [], "days_until_expiration": "0"});
    let set = to_json(&details.encode_to_vec(), &pb::CertificateDetails::full_name())?;
    if let (Json::Object(all), Json::Object(set)) = (&mut all, set) {
        // What is there already keeps its place.
        all.extend(set);
    }
    Ok(all)
}

/// What clusters would use that nobody has used: their contexts are made for this page alone, one by one (D5).
fn unused(state: &AdminState) -> Vec<CertificateReport> {
    let cx = BuildContext {
        secrets: state.secrets.clone(),
        ..BuildContext::default()
    };
    let snapshot = state.snapshot.load_full();
    let unused = snapshot.clusters.iter().filter(|(_, slot)| slot.built().is_none());
    unused.flat_map(|(_, slot)| of_cluster(&slot.config, &cx)).collect()
}

fn of_cluster(config: &[u8], cx: &BuildContext) -> Vec<CertificateReport> {
    let sockets = Fields::new(config)
        .flatten()
        .filter_map(|field| match (field.number, field.value) {
            (TRANSPORT_SOCKET, Value::Len(socket)) => Some(socket),
            (TRANSPORT_SOCKET_MATCHES, Value::Len(entry)) => wire::bytes_field(entry, SOCKET_OF_MATCH).ok().flatten(),
            _ => None,
        });
    let report = |socket: &[u8]| {
        let socket = TransportSocket::decode(socket).ok()?;
        let compiled = crate::config::tls::upstream(&socket, cx).ok()?;
        Some(compiled.tls?.report())
    };
    sockets.filter_map(report).collect()
}

fn details(certificate: &CertificateDetails, now: i64) -> pb::CertificateDetails {
    use pb::subject_alternate_name::Name;
    let seconds = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let dns = certificate.dns_sans.iter().cloned().map(Name::Dns);
    let uri = certificate.uri_sans.iter().cloned().map(Name::Uri);
    let ip = certificate.ip_sans.iter().cloned().map(Name::IpAddress);
    pb::CertificateDetails {
        path: certificate.path.clone(),
        serial_number: certificate.serial_number.clone(),
        subject_alt_names: dns
            .chain(uri)
            .chain(ip)
            .map(|name| pb::SubjectAlternateName { name: Some(name) })
            .collect(),
        days_until_expiration: certificate.days_until_expiration(now),
        valid_from: seconds(certificate.valid_from),
        expiration_time: seconds(certificate.expiration_time),
        ocsp_details: None,
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::pb::envoy::config::cluster::v3::{Cluster, cluster::TransportSocketMatch};
    use remora_proto::pb::envoy::config::core::v3::{DataSource, data_source, transport_socket::ConfigType};
    use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

    use super::*;

    #[test]
    fn what_is_empty_is_shown() {
        let details = pb::CertificateDetails {
            path: "a.pem".to_owned(),
            valid_from: Some(Timestamp::default()),
            ..Default::default()
        };
        let context = pb::Certificate {
            ca_cert: Vec::new(),
            cert_chain: vec![details],
        };
        let expected = r#"{"certificates":[{"ca_cert":[],"cert_chain":[{"path":"a.pem","serial_number":"","subject_alt_names":[],"days_until_expiration":"0","valid_from":"1970-01-01T00:00:00Z"}]}]}"#;
        assert_eq!(page(vec![context]).unwrap().to_string(), expected);
        assert_eq!(page(Vec::new()).unwrap().to_string(), r#"{"certificates":[]}"#);
    }

    #[test]
    fn certificates_of_a_cluster_that_is_not_built_are_read_from_its_configuration() {
        let authority = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let pem = data_source::Specifier::InlineString(authority.cert.pem());
        let validation = tls::CertificateValidationContext {
            trusted_ca: Some(DataSource {
                specifier: Some(pem),
                ..DataSource::default()
            }),
            ..tls::CertificateValidationContext::default()
        };
        let context = tls::UpstreamTlsContext {
            common_tls_context: Some(tls::CommonTlsContext {
                validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(
                    validation,
                )),
                ..tls::CommonTlsContext::default()
            }),
            ..tls::UpstreamTlsContext::default()
        };
        let socket = TransportSocket {
            name: "tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(remora_proto::any::pack(&context))),
        };
        let cluster = Cluster {
            transport_socket: Some(socket.clone()),
            transport_socket_matches: vec![TransportSocketMatch {
                transport_socket: Some(socket),
                ..TransportSocketMatch::default()
            }],
            ..Cluster::default()
        };
        let cx = BuildContext::default();
        let reports = of_cluster(&cluster.encode_to_vec(), &cx);
        let names: Vec<_> = reports.iter().map(|report| report.ca[0].dns_sans.clone()).collect();
        assert_eq!(names, [["a.test"], ["a.test"]]);
        assert!(cx.secrets.reports().is_empty(), "nothing is left behind");
    }
}
