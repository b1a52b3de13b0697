//! The proxy's own program, in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};

use crate::{ask_admin, until};

/// A running process; killed when dropped.
pub struct Program {
    pub process: Child,
    pub admin: SocketAddr,
}

impl Program {
    /// Starts `command`, which is to write its admin address to that file, and waits until it is ready.
    pub async fn start(command: &mut Command, admin_address: &Path) -> Self {
        let mut process = command.arg("--admin-address-path").arg(admin_address).spawn().unwrap();
        let admin = until("the admin address", async || {
            let exited = process.try_wait().unwrap();
            assert!(exited.is_none(), "ended: {exited:?}");
            std::fs::read_to_string(admin_address)
                .ok()
                .and_then(|text| text.parse().ok())
        })
        .await;
        until("readiness", async || {
            (ask_admin(admin, "GET", "/ready").await.status == 200).then_some(())
        })
        .await;
        Self { process, admin }
    }

    /// Where its only listener listens.
    pub async fn listens(&self) -> SocketAddr {
        let listeners = ask_admin(self.admin, "GET", "/listeners").await.text();
        let (_, address) = listeners.trim().split_once("::").unwrap();
        address.parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
