//! A proxy in this process.

use std::net::SocketAddr;
use std::sync::Arc;

use remora::app::Proxy;
use remora::bootstrap::Bootstrap;
use remora::cli::{self, Command};

use crate::answer::Answer;
use crate::http1::Http1;
use crate::wait::until;

/// Stops, with everything it holds, when dropped.
pub struct Sidecar {
    pub proxy: Proxy,
}

impl Sidecar {
    /// Starts from a bootstrap, with flags for tests: one worker, logs flushed at once, a short drain.
    ///
    /// # Errors
    /// What is wrong with the bootstrap, as the program would print it.
    pub async fn start(bootstrap: &str) -> Result<Self, String> {
        Self::start_with(bootstrap, &[]).await
    }

    /// The same with more flags.
    ///
    /// # Errors
    /// As [`Sidecar::start`].
    pub async fn start_with(bootstrap: &str, flags: &[&str]) -> Result<Self, String> {
        let mut arguments = vec!["remora", "--config-yaml", bootstrap];
        let replaced = |pair: &&[&str]| !flags.contains(&pair[0]);
        arguments.extend(FLAGS.chunks(2).filter(replaced).flatten());
        arguments.extend(flags);
        let options = match cli::parse(arguments) {
            Ok(Command::Run(options)) => options,
            other => return Err(format!("{other:?}")),
        };
        let bootstrap = Bootstrap::load(&options).map_err(|error| error.to_string())?;
        let proxy = Proxy::start(Arc::from(options), bootstrap)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self { proxy })
    }

    /// Where a listener listens, as soon as it does.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        until(&format!("listener {name}"), async || {
            self.proxy
                .control
                .manager
                .addresses(name)
                .first()
                .and_then(|address| address.ip())
        })
        .await
    }

    /// What a first request to the listener `http` is answered with, as soon as that listens.
    pub async fn first_answer(&self) -> u16 {
        let mut client = Http1::connect(self.listener("http").await).await.unwrap();
        client.get("mesh.test", "/", "").await.status
    }

    /// Where the admin server listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.proxy.admin.as_ref().and_then(|address| address.ip()).unwrap()
    }

    /// Asks the admin server.
    pub async fn admin(&self, method: &str, path: &str) -> Answer {
        admin(self.admin_address(), method, path).await
    }

    /// Value of a stat; 0 if it does not exist.
    pub async fn stat(&self, name: &str) -> u64 {
        let text = self.admin("GET", "/stats").await.text();
        let named = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(other, _)| *other == name);
        named.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}

/// What every proxy of a test is started with.
pub(crate) const FLAGS: [&str; 8] = [
    "--concurrency",
    "1",
    "--file-flush-interval-msec",
    "10",
    "--drain-time-s",
    "5",
    "--drain-strategy",
    "immediate",
];

/// One request to an admin server, and its answer.
pub async fn admin(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut client = Http1::connect(address).await.unwrap();
    client
        .send(format!(
            "{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ))
        .await;
    client.response(method).await
}
