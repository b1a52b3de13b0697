//! `grpc.health.v1.Health/Check` over HTTP/2.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http_body_util::{BodyExt, Full};
use prost::Message;

use super::kept::HttpConnection;
use super::probe::authority;
use super::{GrpcCheck, Outcome};
use crate::cluster::Cluster;
use crate::cluster::host::Host;

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct Verdict {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `ServingStatus.SERVING`
const SERVING: i32 = 1;
/// Longest answer that is read: a verdict has a few bytes.
const LONGEST: usize = 4096;

/// `None`: the connection failed.
pub(super) async fn ask(
    connection: &mut HttpConnection,
    check: &GrpcCheck,
    cluster: &Cluster,
    host: &Host,
) -> Option<Outcome> {
    let response = connection.send(request(check, cluster, host)?).await?;
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Some(Outcome::Failure);
    }
    let body = http_body_util::Limited::new(body, LONGEST).collect().await.ok()?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
    let is_ok = status.is_some_and(|status| status == "0");
    match is_ok && serves(&body.to_bytes()) {
        true => Some(Outcome::Success),
        false => Some(Outcome::Failure),
    }
}

fn request(check: &GrpcCheck, cluster: &Cluster, host: &Host) -> Option<http::Request<Full<Bytes>>> {
    let scheme = if host.tls.is_some() { "https" } else { "http" };
    let authority = authority(&check.authority, cluster, host);
    let mut request = http::Request::builder()
        .method(http::Method::POST)
        .uri(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "Envoy/HC");
    for (name, value) in &check.headers {
        request = request.header(name, value);
    }
    let question = Question {
        service: check.service.clone(),
    };
    let mut body = BytesMut::new();
    // One message, not compressed.
    body.put_u8(0);
    body.put_u32(u32::try_from(question.encoded_len()).ok()?);
    question.encode(&mut body).ok()?;
    request.body(Full::new(body.freeze())).ok()
}

fn serves(body: &[u8]) -> bool {
    let Some((&[0, a, b, c, d], message)) = body.split_first_chunk::<5>() else {
        return false;
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let verdict = message.get(..length).map(Verdict::decode);
    verdict.is_some_and(|verdict| verdict.is_ok_and(|verdict| verdict.status == SERVING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_serving_answer_serves() {
        assert!(serves(&[0, 0, 0, 0, 2, 8, 1]));
        // NOT_SERVING, UNKNOWN (nothing encoded), cut short, compressed, nothing.
        for body in [
            &[0u8, 0, 0, 0, 2, 8, 2][..],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 8],
            &[1, 0, 0, 0, 2, 8, 1],
            &[],
        ] {
            assert!(!serves(body), "{body:?}");
        }
    }
}
