//! Raw xDS clients that do nothing by themselves: each request is written by the test.

use control_plane_mock::{ControlPlane, Listen};
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use remora_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use remora_proto::pb::google::protobuf::Any;
use remora_proto::pb::google::rpc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use control_plane_mock::types;

/// A channel to the server; panics when it cannot be had.
pub async fn channel(listen: &Listen) -> Channel {
    try_channel(listen).await.unwrap()
}

pub async fn try_channel(listen: &Listen) -> Result<Channel, tonic::transport::Error> {
    let uri = match listen {
        Listen::Tcp(address) => format!("http://{address}"),
        Listen::Unix(path) => format!("unix://{}", path.display()),
    };
    Endpoint::from_shared(uri).unwrap().connect().await
}

pub struct Sotw {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Sotw {
    pub async fn open(control_plane: &ControlPlane) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel(control_plane.listen()).await);
        let responses = client
            .stream_aggregated_resources(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { requests, responses }
    }

    pub fn from_parts(requests: mpsc::Sender<DiscoveryRequest>, responses: Streaming<DiscoveryResponse>) -> Self {
        Self { requests, responses }
    }

    pub async fn ask(&self, type_name: &str, names: &[&str]) {
        self.send(request(type_name, names)).await;
    }

    pub async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub async fn next(&mut self) -> DiscoveryResponse {
        self.responses
            .message()
            .await
            .unwrap()
            .expect("the server sends a response")
    }

    pub async fn end(&mut self) -> Option<Status> {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    pub async fn ack(&self, response: &DiscoveryResponse, names: &[&str]) {
        self.send(ack(response, names)).await;
    }

    pub async fn nack(&self, response: &DiscoveryResponse, accepted: &str, reason: &str) {
        let mut request = ack(response, &[]);
        accepted.clone_into(&mut request.version_info);
        request.error_detail = Some(rpc::Status {
            code: 13,
            message: reason.to_owned(),
            details: Vec::new(),
        });
        self.send(request).await;
    }
}

pub fn request(type_name: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node {
            id: "node-1".to_owned(),
            cluster: "tests".to_owned(),
            ..Node::default()
        }),
        type_url: types::resolve(type_name),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

pub fn ack(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        node: None,
        ..request(&response.type_url, names)
    }
}

pub fn names(resources: &[Any]) -> Vec<String> {
    resources.iter().map(control_plane_mock::store::name_of).collect()
}

pub struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    pub async fn open(control_plane: &ControlPlane) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel(control_plane.listen()).await);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { requests, responses }
    }

    pub fn from_parts(
        requests: mpsc::Sender<DeltaDiscoveryRequest>,
        responses: Streaming<DeltaDiscoveryResponse>,
    ) -> Self {
        Self { requests, responses }
    }

    pub async fn subscribe(&self, type_name: &str, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            resource_names_subscribe: owned(names),
            ..delta(type_name)
        })
        .await;
    }

    pub async fn unsubscribe(&self, type_name: &str, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            resource_names_unsubscribe: owned(names),
            ..delta(type_name)
        })
        .await;
    }

    pub async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.responses
            .message()
            .await
            .unwrap()
            .expect("the server sends a response")
    }

    pub async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            response_nonce: response.nonce.clone(),
            ..delta(&response.type_url)
        })
        .await;
    }

    pub async fn nack(&self, response: &DeltaDiscoveryResponse, reason: &str) {
        let error_detail = Some(rpc::Status {
            code: 13,
            message: reason.to_owned(),
            details: Vec::new(),
        });
        let response_nonce = response.nonce.clone();
        self.send(DeltaDiscoveryRequest {
            response_nonce,
            error_detail,
            ..delta(&response.type_url)
        })
        .await;
    }
}

pub fn delta(type_name: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: types::resolve(type_name),
        ..DeltaDiscoveryRequest::default()
    }
}

pub fn added(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
