//! The construction that comes before anything listens.

use std::sync::Arc;

use remora_xds::Root;

use super::assembly::{Assembly, assemble};
use super::client::Pins;
use super::interpreter::Meaning;
use super::{StartError, restart, start_workers};
use crate::admin;
use crate::bootstrap::Bootstrap;
use crate::cli::Options;
use crate::cluster::discovery::{Resolve, resolver};
use crate::config::BuildContext;
use crate::http::header_policy::remote::prefer_local_ip;
use crate::listener::ListenerManager;
use crate::restart::Restart;
use crate::snapshot::build::Builder;
use crate::telemetry::access_log::AccessLog;

/// What a proxy is made of before it listens.
pub(super) struct Made {
    pub(super) context: Arc<BuildContext>,
    pub(super) builder: Builder,
    pub(super) meaning: Meaning,
    pub(super) pins: Pins,
    pub(super) roots: Vec<Root>,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) admin: Option<admin::Bound>,
    pub(super) admin_logs: Arc<[AccessLog]>,
    pub(super) manager: Arc<ListenerManager>,
}

impl Made {
    /// # Errors
    /// Everything that is wrong with the bootstrap, or an address that is in use.
    pub(super) async fn new(
        options: &Arc<Options>,
        bootstrap: &Bootstrap,
        restart: Option<&Restart>,
    ) -> Result<Self, StartError> {
        prefer_local_ip(options.local_address_ip_version);
        let assembly = assemble(options, bootstrap).map_err(StartError::Config)?;
        assembly.tell_warnings(bootstrap);
        let Assembly {
            context,
            builder,
            mut meaning,
            pins,
            roots,
            admin_logs,
            ..
        } = assembly;
        let resolver = resolver::build(bootstrap.resolver.as_ref());
        let resolver = resolver.map_err(|error| StartError::Resolver(error.to_string()))?;
        let admin = restart::bind_admin(bootstrap, restart).await?;
        let address = admin.as_ref().and_then(admin::Bound::address);
        if let (Some(path), Some(address)) = (&options.admin_address_path, address) {
            admin::write_address_path(path, &address).map_err(|error| StartError::AddressPath {
                path: path.display().to_string(),
                error,
            })?;
        }
        let manager = start_workers(options, &context, bootstrap.max_connections, restart)?;
        meaning.listeners = Some(manager.clone());
        Ok(Self {
            context,
            builder,
            meaning,
            pins,
            roots,
            resolver,
            admin,
            admin_logs,
            manager,
        })
    }
}
