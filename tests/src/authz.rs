//! An authorization service (`envoy.service.auth.v3`) that does what the header `x-authz` of the request (or, of a connection without HTTP, of the
//! check itself) tells it to, and shows what it was asked.

use std::fmt::Write;
use std::net::SocketAddr;

use remora::runtime::spawn::spawn;
use remora_proto::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use remora_proto::pb::envoy::service::auth::v3::attribute_context::Peer;
use remora_proto::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use remora_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
use remora_proto::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};
use remora_proto::pb::google::rpc::Status as RpcStatus;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A listening service; stops when dropped.
pub struct AuthzService {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl AuthzService {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Rules));
        let serving = spawn("authorization service", async move {
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { address, serving }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for AuthzService {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Rules;

#[tonic::async_trait]
impl Authorization for Rules {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let own = request
            .metadata()
            .get("x-authz")
            .and_then(|wish| wish.to_str().ok())
            .map(str::to_owned);
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
        let wish = match http {
            Some(http) => http.headers.get("x-authz").cloned(),
            None => own,
        };
        let shown = show(&attributes);
        let answer = match wish.as_deref().unwrap_or_default() {
            "deny" => denied(16, Some(401), shown),
            "deny plainly" => CheckResponse {
                status: Some(status(7)),
                ..Default::default()
            },
            "deny, no status" => denied(7, None, "no status".to_owned()),
            "fail" => return Err(Status::internal("no")),
            "empty" => CheckResponse::default(),
            "tell" => CheckResponse {
                dynamic_metadata: told(shown),
                ..Default::default()
            },
            "deny and tell" => CheckResponse {
                status: Some(status(7)),
                dynamic_metadata: told(shown),
                ..Default::default()
            },
            _ => granted(shown),
        };
        Ok(Response::new(answer))
    }
}

fn status(code: i32) -> RpcStatus {
    RpcStatus {
        code,
        ..Default::default()
    }
}

fn denied(code: i32, http: Option<i32>, body: String) -> CheckResponse {
    CheckResponse {
        status: Some(status(code)),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: http.map(|code| remora_proto::pb::envoy::r#type::v3::HttpStatus { code }),
            headers: vec![
                header("x-why", "because", None),
                header("x-why", "therefore", Some(true)),
            ],
            body,
        })),
        ..Default::default()
    }
}

#[allow(deprecated)]
fn granted(shown: String) -> CheckResponse {
    CheckResponse {
        status: Some(status(0)),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![
                header("x-check", &shown, None),
                header("x-both", "set", None),
                header("x-absent", "appended", Some(true)),
                header("x-present", "appended", Some(true)),
            ],
            headers_to_remove: vec!["x-secret".into(), "host".into()],
            response_headers_to_add: vec![
                header("x-granted", "yes", None),
                header("x-granted", "again", Some(true)),
            ],
            ..Default::default()
        })),
        dynamic_metadata: told("told".to_owned()),
    }
}

fn told(text: String) -> Option<Struct> {
    let text = Value {
        kind: Some(Kind::StringValue(text)),
    };
    Some(Struct {
        fields: [("who".to_owned(), text)].into_iter().collect(),
    })
}

#[allow(deprecated)]
fn header(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        }),
        append: append.map(|value| remora_proto::pb::google::protobuf::BoolValue { value }),
        ..Default::default()
    }
}

/// What a service is told, but for what differs from one request to the next: time, ids, ephemeral ports.
fn show(attributes: &AttributeContext) -> String {
    let mut text = String::new();
    for (name, side) in [("source", &attributes.source), ("destination", &attributes.destination)] {
        let _ = write!(text, "{name}={} ", side.as_ref().map(peer).unwrap_or_default());
    }
    if let Some(http) = attributes.request.as_ref().and_then(|request| request.http.as_ref()) {
        let _ = write!(
            text,
            "{} {} host={} scheme={} {} size={} body={} raw={} ",
            http.method,
            http.path,
            http.host,
            http.scheme,
            http.protocol,
            http.size,
            http.body,
            String::from_utf8_lossy(&http.raw_body),
        );
        let mut headers: Vec<_> = http
            .headers
            .iter()
            .filter(|(name, _)| *name != "x-request-id")
            .collect();
        headers.sort();
        let _ = write!(text, "headers={headers:?} ");
    }
    let mut extensions: Vec<_> = attributes.context_extensions.iter().collect();
    extensions.sort();
    let metadata = attributes
        .metadata_context
        .as_ref()
        .map(|metadata| metadata.filter_metadata.keys().collect::<Vec<_>>());
    let _ = write!(text, "extensions={extensions:?} metadata={metadata:?}");
    text
}

fn peer(peer: &Peer) -> String {
    use remora_proto::pb::envoy::config::core::v3::address::Address;
    let ip = match peer.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(Address::SocketAddress(address)) => address.address.clone(),
        other => format!("{other:?}"),
    };
    let mut labels: Vec<_> = peer.labels.iter().collect();
    labels.sort();
    format!("{ip}/{}/{}/{labels:?}", peer.principal, peer.certificate)
}
