//! A proxy in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::answer::Answer;
use crate::sidecar::{FLAGS, admin};
use crate::wait::until;

/// Killed when dropped.
pub struct External {
    process: Child,
    admin: SocketAddr,
    _directory: TempDir,
}

impl External {
    /// Starts `program` with a bootstrap (that has an admin server) and waits until it says that it is ready.
    pub async fn start(program: &Path, bootstrap: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("envoy.yaml");
        let address = directory.path().join("admin");
        std::fs::write(&config, bootstrap).unwrap();
        let mut process = Command::new(program)
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&address)
            .args(FLAGS)
            .args(["-l", "error", "--disable-hot-restart"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let admin_address = until("the admin address", async || {
            let exited = process.try_wait().unwrap();
            assert!(exited.is_none(), "{} ended: {exited:?}", program.display());
            std::fs::read_to_string(&address)
                .ok()
                .and_then(|text| text.trim().parse().ok())
        })
        .await;
        let external = Self {
            process,
            admin: admin_address,
            _directory: directory,
        };
        until("readiness", async || {
            (external.admin("GET", "/ready").await.status == 200).then_some(())
        })
        .await;
        external
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Asks the admin server.
    pub async fn admin(&self, method: &str, path: &str) -> Answer {
        admin(self.admin, method, path).await
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
