//! Requests that go on while something changes, each counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use remora::runtime::clock;
use remora::runtime::spawn::spawn;
use tokio::task::JoinHandle;

use crate::answer::Ending;
use crate::http1::Http1;
use crate::wait::until;

/// Open-loop GETs of `/`, on fresh and on reused connections; a new one every two milliseconds.
pub struct Load {
    shared: Arc<Shared>,
    task: JoinHandle<Vec<String>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
}

/// Pause between two requests.
const EVERY: Duration = Duration::from_millis(2);

impl Load {
    /// Starts.
    pub fn on(address: SocketAddr, host: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let task = spawn("load", run(address, host, shared.clone()));
        Self { shared, task }
    }

    /// Waits for that many more requests to have been answered.
    pub async fn more(&self, count: u64) {
        let target = self.shared.done.load(Ordering::SeqCst) + count;
        until("more requests", async || {
            (self.shared.done.load(Ordering::SeqCst) >= target).then_some(())
        })
        .await;
    }

    /// Stops, waits for what is under way, and returns what failed, and how many were sent.
    pub async fn finish(self) -> (Vec<String>, u64) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let failed = self.task.await.unwrap();
        (failed, self.shared.done.load(Ordering::SeqCst))
    }

    /// Stops, and panics with all that failed, or if nothing was sent.
    pub async fn none_failed(self) {
        let (failed, sent) = self.finish().await;
        assert!(
            failed.is_empty(),
            "{} of {sent} failed:\n{}",
            failed.len(),
            failed.join("\n")
        );
        assert!(sent > 0);
    }
}

async fn run(address: SocketAddr, host: &'static str, shared: Arc<Shared>) -> Vec<String> {
    let mut running = Vec::new();
    let mut failed = Vec::new();
    while !shared.stop.load(Ordering::SeqCst) {
        let shared = shared.clone();
        running.push(spawn("load request", async move {
            let outcome = pair(address, host).await;
            shared.done.fetch_add(2, Ordering::SeqCst);
            outcome
        }));
        clock::sleep(EVERY).await;
    }
    for request in running {
        if let Err(failure) = request.await.unwrap() {
            failed.push(failure);
        }
    }
    failed
}

/// Two requests on one new connection: the first finds it fresh, the second reused.
async fn pair(address: SocketAddr, host: &str) -> Result<(), String> {
    let mut client = Http1::connect(address).await.map_err(|error| error.to_string())?;
    for _ in 0..2 {
        let answer = client.get(host, "/", "").await;
        if answer.status != 200 || !answer.is_whole() || answer.body.is_empty() {
            return Err(answer.render());
        }
        // Told to go, as a drain may: the next request takes another connection.
        if answer.ending == Ending::Closed {
            client = Http1::connect(address).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
