//! The construction that comes before anything listens.

use std::sync::Arc;

use remora_xds::Root;

use super::client::{Pins, meaning, roots};
use super::interpreter::Meaning;
use super::{StartError, add_static, admin_logs, check, outlier_events, restart, start_workers};
use crate::admin;
use crate::bootstrap::Bootstrap;
use crate::cli::Options;
use crate::cluster::discovery::SystemResolver;
use crate::config::BuildContext;
use crate::http::header_policy::remote::prefer_local_ip;
use crate::listener::ListenerManager;
use crate::restart::Restart;
use crate::snapshot::build::Builder;
use crate::telemetry::access_log::{AccessLog, Sinks};

/// What a proxy is made of before it listens.
pub(super) struct Made {
    pub(super) context: Arc<BuildContext>,
    pub(super) builder: Builder,
    pub(super) meaning: Meaning,
    pub(super) pins: Pins,
    pub(super) roots: Vec<Root>,
    pub(super) resolver: SystemResolver,
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
        let mut context = BuildContext {
            access_logs: Arc::new(Sinks::new(options.file_flush_interval, options.file_flush_min_size)),
            node: bootstrap.node.clone(),
            ..BuildContext::default()
        };
        context.outlier_events = outlier_events(bootstrap, &context).map_err(StartError::Config)?;
        let context = Arc::new(context);
        let mut builder = Builder::new(context.clone());
        let mut meaning = meaning(bootstrap, &context, options);
        let pins = check(bootstrap, &meaning)
            .and_then(|()| add_static(&mut builder, bootstrap, &context, &meaning))
            .map_err(StartError::Config)?;
        let roots = roots(bootstrap, &meaning.sources).map_err(StartError::Config)?;
        let resolver = SystemResolver::new().map_err(|error| StartError::Resolver(error.to_string()))?;
        let admin_logs = admin_logs(bootstrap, &context).map_err(StartError::Config)?;
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
