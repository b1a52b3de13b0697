//! The pages next to what the real Envoy answered for the same bootstrap (`tests/`), and what is our own.

mod dynamic;
mod pages;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prost::Message;
use remora_proto::json::{Options as JsonOptions, encode_text};
use remora_proto::pb::envoy::config::bootstrap::v3 as pb;
use tower::ServiceExt;

use super::bootstrap_view::{Static, resources};
use super::*;
use crate::cli::Command;
use crate::config::BuildContext;
use crate::config::live::RuntimeLayers;
use crate::runtime::clock;
use crate::snapshot::{ClusterSlot, Snapshot};
use crate::telemetry::logging::{DEFAULT_FORMAT, Level};

/// A process that only remembers what it was asked for.
struct Puppet {
    state: Mutex<ServerState>,
    draining: Mutex<Vec<Arc<remora_xds::Resource>>>,
    calls: Mutex<Vec<String>>,
}

impl Control for Puppet {
    fn state(&self) -> ServerState {
        *self.state.lock()
    }

    fn listeners(&self) -> Vec<(Arc<str>, Vec<Address>)> {
        vec![(
            "first".into(),
            vec!["127.0.0.1:15001".parse::<std::net::SocketAddr>().unwrap().into()],
        )]
    }

    fn draining_listeners(&self) -> Vec<Arc<remora_xds::Resource>> {
        self.draining.lock().clone()
    }

    fn drain_listeners(&self, how: DrainListeners) {
        self.calls.lock().push(format!("{how:?}"));
    }

    fn set_health_failed(&self, failed: bool) {
        *self.state.lock() = if failed {
            ServerState::Draining
        } else {
            ServerState::Live
        };
    }

    fn reopen_logs(&self) -> std::io::Result<()> {
        self.calls.lock().push("reopen".to_owned());
        Ok(())
    }

    fn quit(&self) {
        self.calls.lock().push("quit".to_owned());
    }
}

struct World {
    state: Arc<AdminState>,
    puppet: Arc<Puppet>,
}

impl World {
    fn new() -> Self {
        let bootstrap = message(
            "envoy.config.bootstrap.v3.Bootstrap",
            include_str!("tests/bootstrap.yaml"),
        );
        let message = pb::Bootstrap::decode(&bootstrap[..]).unwrap();
        let (layers, _) = RuntimeLayers::compile(message.layered_runtime.as_ref()).unwrap();
        let context = Arc::new(BuildContext {
            runtime: Arc::new(Values::new(layers, Arc::default())),
            ..BuildContext::default()
        });
        let mut snapshot = Snapshot::default();
        for (name, bytes) in resources(&bootstrap, Static::Clusters) {
            let name: Arc<str> = name.into();
            let slot = ClusterSlot::new(name.clone(), bytes, context.clone());
            snapshot.clusters.insert(name, Arc::new(slot));
        }
        let options = match crate::cli::parse(["envoy", "-c", "envoy.yaml", "--concurrency", "1"]) {
            Ok(Command::Run(options)) => options,
            other => panic!("{other:?}"),
        };
        let puppet = Arc::new(Puppet {
            state: Mutex::new(ServerState::Live),
            draining: Mutex::default(),
            calls: Mutex::default(),
        });
        let state = AdminState {
            stats: context.stats.clone(),
            tags: Arc::new(TagRules::new(true)),
            stats_matcher: StatsMatcher::All,
            buckets: Buckets::default(),
            flush_stats: false,
            records_lookups: Default::default(),
            access_logs: Arc::from([]),
            allow_paths: Vec::new(),
            logging: Logging::new(Level::Info, DEFAULT_FORMAT, None).unwrap(),
            runtime: context.runtime.clone(),
            snapshot: Arc::new(SnapshotCell::from_pointee(snapshot)),
            secrets: context.secrets.clone(),
            options: Arc::from(options),
            bootstrap,
            started: clock::now(),
            started_at: UNIX_EPOCH + Duration::from_millis(1_767_323_045_678),
            first_started_at: None,
            xds: None,
            notes: Arc::default(),
            control: puppet.clone(),
        };
        Self {
            state: Arc::new(state),
            puppet,
        }
    }

    async fn get(&self, target: &str) -> (StatusCode, String) {
        self.send("GET", target).await
    }

    async fn send(&self, method: &str, target: &str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(target).body(Body::empty());
        self.answer(request.unwrap()).await
    }

    async fn send_form(&self, target: &str, form: &'static str) -> (StatusCode, String) {
        let request = Request::builder()
            .method("POST")
            .uri(target)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form));
        self.answer(request.unwrap()).await
    }

    async fn answer(&self, request: Request<Body>) -> (StatusCode, String) {
        let reply = router(self.state.clone()).oneshot(request).await.unwrap();
        let status = reply.status();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn page(&self, target: &str) -> String {
        let (status, body) = self.get(target).await;
        assert_eq!(status, StatusCode::OK, "{target}: {body}");
        body
    }

    async fn tree(&self, target: &str) -> serde_json::Value {
        serde_json::from_str(&self.page(target).await).unwrap()
    }
}

/// YAML as the encoded message of that name.
fn message(name: &str, yaml: &str) -> Bytes {
    encode_text(yaml, name, &JsonOptions::default()).unwrap().bytes.into()
}
