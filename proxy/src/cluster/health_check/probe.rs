//! One question to one host, over the connection of its checks.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kept::{HttpConnection, Kept, TcpConnection};
use super::{CheckKind, HealthCheck, HttpCheck, Outcome, TcpCheck, grpc};
use crate::cluster::Cluster;
use crate::cluster::host::Host;
use crate::runtime::io::{Address, Io};
use crate::tcp::connect::{self, Overrides, Target};

/// Checks `host` once, within the check's time: what was found, and the status of an HTTP check's answer (0 without one). Takes the
/// connection that was kept, and keeps one if it is worth it.
pub async fn probe(cluster: &Cluster, host: &Host, check: &HealthCheck, kept: &mut Kept) -> (Outcome, u16) {
    let mut status = 0;
    let before = std::mem::take(kept);
    let asked = async {
        match &check.kind {
            CheckKind::Tcp(tcp) => {
                let mut connection = match before.into_tcp() {
                    Some(connection) => connection,
                    None => Box::new(TcpConnection {
                        io: connect(cluster, host, check).await?,
                        received: Vec::new(),
                    }),
                };
                ask_tcp(&mut connection, tcp).await?;
                // As in Envoy: where connecting is all that is asked, it is asked each time.
                let after = (!tcp.receive.is_empty()).then_some(Kept::Tcp(connection));
                Some((Outcome::Success, after.unwrap_or_default()))
            }
            CheckKind::Http(http) => {
                let mut connection = http_connection(before, cluster, host, check, http.http2).await?;
                let outcome = ask_http(&mut connection, http, cluster, host, &mut status).await?;
                Some((outcome, Kept::Http(connection)))
            }
            CheckKind::Grpc(grpc) => {
                let mut connection = http_connection(before, cluster, host, check, true).await?;
                let outcome = grpc::ask(&mut connection, grpc, cluster, host).await?;
                Some((outcome, Kept::Http(connection)))
            }
        }
    };
    let outcome = match tokio::time::timeout(check.timeout, asked).await {
        Ok(Some((outcome, after))) => {
            if check.reuse {
                *kept = after;
            }
            outcome
        }
        Ok(None) => Outcome::NetworkFailure,
        Err(_) => Outcome::Timeout,
    };
    (outcome, status)
}

async fn http_connection(
    before: Kept,
    cluster: &Cluster,
    host: &Host,
    check: &HealthCheck,
    http2: bool,
) -> Option<Box<HttpConnection>> {
    match before.into_http().await {
        Some(connection) => Some(connection),
        None => HttpConnection::start(connect(cluster, host, check).await?, http2).await,
    }
}

/// Connects as traffic does, but to where checks go. `None`: not connected.
async fn connect(cluster: &Cluster, host: &Host, check: &HealthCheck) -> Option<Io> {
    let address = address(host, check);
    let own = host.socket();
    let socket = check.transport.as_ref().unwrap_or(&own);
    if socket.unusable {
        return None;
    }
    let target = Target {
        address: &address,
        // As in Envoy, checks are about the host's first address.
        others: &[],
        header: socket.header.as_deref(),
        tls: socket.tls.as_deref(),
        hostname: &host.hostname,
    };
    let overrides = Overrides {
        alpn: Some(check.alpn.as_slice()).filter(|alpn| !alpn.is_empty()),
        ..Overrides::default()
    };
    // The check's own time covers all of it.
    let connected = connect::reach(cluster, &target, Duration::MAX, overrides).await;
    connected.ok().map(|connected| connected.io)
}

fn address(host: &Host, check: &HealthCheck) -> Address {
    let target = host.health_check.as_deref();
    let address = target.and_then(|target| target.address.as_ref());
    let mut address = address.unwrap_or(&host.address).clone();
    if let Address::Ip(address) = &mut address {
        let own_port = target.map(|target| target.port).filter(|port| *port != 0);
        if let Some(port) = own_port.or(check.alt_port) {
            address.set_port(port);
        }
    }
    address
}

async fn ask_tcp(connection: &mut TcpConnection, check: &TcpCheck) -> Option<()> {
    let TcpConnection { io, received } = connection;
    if !check.send.is_empty() {
        io.write_all(&check.send).await.ok()?;
        io.flush().await.ok()?;
    }
    while !contains_in_order(received, &check.receive) {
        if io.read_buf(received).await.ok()? == 0 {
            return None;
        }
    }
    received.clear();
    Some(())
}

/// Envoy's fuzzy match: each pattern somewhere behind the one before it.
fn contains_in_order(received: &[u8], patterns: &[Vec<u8>]) -> bool {
    let mut rest = received;
    for pattern in patterns {
        let Some(at) = memchr::memmem::find(rest, pattern) else {
            return false;
        };
        rest = &rest[at + pattern.len()..];
    }
    true
}

async fn ask_http(
    connection: &mut HttpConnection,
    check: &HttpCheck,
    cluster: &Cluster,
    host: &Host,
    status: &mut u16,
) -> Option<Outcome> {
    let response = connection.send(request(check, cluster, host)?).await?;
    if check.service_name.is_some() {
        cluster.stats.health_check().verify_cluster.inc();
    }
    *status = response.status().as_u16();
    let outcome = judge(check, &response);
    // As Envoy, which judges answers when they are complete.
    let body = beginning(response.into_body(), check.response_buffer_size).await?;
    if !matches!(outcome, Outcome::Success | Outcome::Degraded) || contains_in_order(&body, &check.receive) {
        return Some(outcome);
    }
    Some(Outcome::Failure)
}

/// At most `most` bytes of a body, all of it for 0; what follows is read and forgotten.
async fn beginning(mut body: Incoming, most: u64) -> Option<Vec<u8>> {
    let most = match usize::try_from(most) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(most) => most,
    };
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data()
            && bytes.len() < most
        {
            bytes.extend_from_slice(&data);
        }
    }
    bytes.truncate(most);
    Some(bytes)
}

/// What a check calls its host: the endpoint's own name, the configured one, the cluster's.
pub(super) fn authority<'a>(configured: &'a str, cluster: &'a Cluster, host: &'a Host) -> &'a str {
    let own = host.health_check.as_deref().map(|target| target.hostname.as_str());
    match (own.filter(|name| !name.is_empty()), configured) {
        (Some(own), _) => own,
        (None, "") => &cluster.name,
        (None, configured) => configured,
    }
}

fn request(check: &HttpCheck, cluster: &Cluster, host: &Host) -> Option<http::Request<Full<Bytes>>> {
    let authority = authority(&check.host, cluster, host);
    let mut request = http::Request::builder()
        .method(check.method.clone())
        .header(http::header::USER_AGENT, "Envoy/HC");
    if check.http2 {
        let scheme = if host.tls.is_some() { "https" } else { "http" };
        request = request.uri(format!("{scheme}://{authority}{}", check.path));
    } else {
        request = request.uri(check.path.as_str()).header(http::header::HOST, authority);
    }
    for (name, value) in &check.headers {
        request = request.header(name, value);
    }
    let mut request = request.body(Full::new(Bytes::from(check.send.clone()))).ok()?;
    for name in &check.without {
        request.headers_mut().remove(name);
    }
    Some(request)
}

fn judge<B>(check: &HttpCheck, response: &http::Response<B>) -> Outcome {
    let status = response.status().as_u16();
    let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(from, to)| (*from..*to).contains(&status));
    let says = |name: &str| response.headers().contains_key(name);
    if !within(&check.expected) && says(super::IMMEDIATE_FAILURE) {
        return Outcome::ImmediateFailure;
    }
    if let Some(expected) = &check.service_name {
        let served = response.headers().get("x-envoy-upstream-healthchecked-cluster");
        if !served.is_some_and(|name| expected.matches(name.as_bytes())) {
            return Outcome::Failure;
        }
    }
    match (within(&check.expected), within(&check.retriable)) {
        (true, _) if says("x-envoy-degraded") => Outcome::Degraded,
        (true, _) => Outcome::Success,
        (false, true) => Outcome::Retriable,
        (false, false) => Outcome::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_in_order_only() {
        let patterns = [b"ab".to_vec(), b"bc".to_vec()];
        assert!(contains_in_order(b"xabybcz", &patterns));
        assert!(!contains_in_order(b"abc", &patterns));
        assert!(!contains_in_order(b"bcab", &patterns));
        assert!(contains_in_order(b"", &[]));
    }
}
