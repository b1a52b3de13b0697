//! `/certs`.

use std::time::UNIX_EPOCH;

use remora_proto::pb::envoy::admin::v3 as pb;
use remora_proto::pb::google::protobuf::Timestamp;

use super::AdminState;
use super::query::Query;
use super::reply::{self, Reply};
use crate::runtime::clock;
use crate::tls::report::CertificateDetails;

/// One entry per TLS context that lives.
pub(super) fn certs(state: &AdminState, _: &Query) -> Reply {
    let now = clock::system_now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let reports = state.secrets.reports();
    if reports.is_empty() {
        return reply::json("{\n \"certificates\": []\n}\n");
    }
    let details = |list: &[CertificateDetails]| list.iter().map(|one| details(one, now)).collect();
    let certificates = reports.iter().map(|report| pb::Certificate {
        ca_cert: details(&report.ca),
        cert_chain: details(&report.chain),
    });
    reply::message(&pb::Certificates {
        certificates: certificates.collect(),
    })
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
