//! The handle of a running control plane: push, script, observe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use remora_proto::pb::envoy::config::listener::v3::Listener;
use remora_proto::pb::envoy::config::route::v3::RouteConfiguration;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use remora_proto::pb::google::protobuf::Any;

use crate::script::{Command, Ending, Fault, Manner, Pace, Script};
use crate::server::Listen;
use crate::shared::Shared;
use crate::store::{self, IntoResource, Snapshot, Store};
use crate::transcript::{Entry, What};
use crate::types;

/// How long the `wait_*` shorthands wait.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Nothing of the kind happened in time. Shows what did.
#[derive(Debug, thiserror::Error)]
#[error("nothing matched within {waited:?}; the transcript so far:\n{transcript}")]
pub struct NothingMatched {
    /// How long it was waited for.
    pub waited: Duration,
    /// The transcript, one entry a line.
    pub transcript: String,
}

/// See the module. Clones share the server; none of them keeps it alive.
///
/// Wherever a method takes a type name it takes a short one (`cds`, `eds`, `lds`, `rds`, `sds` ...) or a type URL.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    listen: Listen,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>, listen: Listen) -> Self {
        Self { shared, listen }
    }

    /// Where the server listens.
    pub fn listen(&self) -> &Listen {
        &self.listen
    }

    /// The TCP address, unless it listens on a unix socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self.listen {
            Listen::Tcp(address) => Some(address),
            Listen::Unix(_) => None,
        }
    }

    /// Makes the server hold exactly these resources; what changed is pushed.
    pub fn set(&self, snapshot: &Snapshot) {
        self.shared.change(|inner| inner.store.replace(snapshot));
    }

    /// Exchanges some resources for others, and leaves the rest alone.
    pub fn exchange(&self, old: &Snapshot, new: &Snapshot) {
        self.shared.change(|inner| inner.store.exchange(old, new));
    }

    /// Adds or replaces one resource and pushes it. Returns the new version of its type.
    pub fn push(&self, resource: impl IntoResource) -> String {
        self.push_any(resource.into_any())
    }

    /// As [`Handle::push`], for a packed resource.
    pub fn push_any(&self, any: Any) -> String {
        let name = store::name_of(&any);
        self.shared.change(|inner| inner.store.put(&name, any, None))
    }

    /// Adds or replaces several resources and pushes each type once.
    pub fn push_all(&self, snapshot: &Snapshot) {
        self.shared.change(|inner| {
            for (name, any, ttl) in snapshot.mortals() {
                inner.store.put(name, any.clone(), ttl);
            }
        });
    }

    /// Pushes a resource with a time to live.
    pub fn push_with_ttl(&self, resource: impl IntoResource, ttl: Duration) -> String {
        let any = resource.into_any();
        let name = store::name_of(&any);
        self.shared.change(|inner| inner.store.put(&name, any, Some(ttl)))
    }

    /// Pushes bytes as the resource `name` of a type, decodable or not.
    pub fn push_raw(&self, type_name: &str, name: &str, bytes: impl Into<Vec<u8>>) -> String {
        let any = store::raw(type_name, bytes);
        self.shared.change(|inner| inner.store.put(name, any, None))
    }

    /// Pushes a cluster.
    pub fn push_cluster(&self, cluster: impl Into<Cluster>) -> String {
        self.push(cluster.into())
    }

    /// Pushes a route configuration.
    pub fn push_route(&self, route: impl Into<RouteConfiguration>) -> String {
        self.push(route.into())
    }

    /// Pushes a listener.
    pub fn push_listener(&self, listener: impl Into<Listener>) -> String {
        self.push(listener.into())
    }

    /// Pushes an endpoint assignment.
    pub fn push_endpoints(&self, assignment: impl Into<ClusterLoadAssignment>) -> String {
        self.push(assignment.into())
    }

    /// Pushes a secret.
    pub fn push_secret(&self, secret: impl Into<Secret>) -> String {
        self.push(secret.into())
    }

    /// Removes a resource; returns the new version of the type, or `None` if there was none of that name.
    pub fn remove(&self, type_name: &str, name: &str) -> Option<String> {
        self.shared
            .change(|inner| inner.store.remove(&types::resolve(type_name), name))
    }

    /// Gives a type this version string until its next change, and sends it again under it.
    pub fn pin_version(&self, type_name: &str, version: &str) {
        self.shared
            .change(|inner| inner.store.pin_version(&types::resolve(type_name), version));
    }

    /// A copy of all that is served.
    pub fn store(&self) -> Store {
        self.shared.lock().store.clone()
    }

    /// Changes the script in any way the shorthands below do not offer.
    pub fn script<R>(&self, change: impl FnOnce(&mut Script) -> R) -> R {
        self.shared.change(|inner| {
            inner.script.generation += 1;
            change(&mut inner.script)
        })
    }

    /// Behaves like another implementation from now on.
    pub fn manner(&self, manner: Manner) {
        self.script(|script| script.manner = manner);
    }

    /// Sends nothing of a type until [`Handle::release`].
    pub fn withhold(&self, type_name: &str) {
        self.script(|script| script.withheld.insert(types::resolve(type_name)));
    }

    /// Sends what was withheld of a type, and goes on sending it.
    pub fn release(&self, type_name: &str) {
        self.script(|script| {
            script.withheld.remove(&types::resolve(type_name));
            script.withheld_names.remove(&types::resolve(type_name));
        });
    }

    /// Holds back one resource of a type until [`Handle::release`] of the type.
    pub fn withhold_name(&self, type_name: &str, name: &str) {
        self.script(|script| {
            script
                .withheld_names
                .entry(types::resolve(type_name))
                .or_default()
                .insert(name.to_owned())
        });
    }

    /// Delays every response of a type by this much.
    pub fn delay(&self, type_name: &str, delay: Duration) {
        self.script(|script| script.delays.insert(types::resolve(type_name), delay));
    }

    /// Spoils the next response of a type.
    pub fn fault(&self, type_name: &str, fault: Fault) {
        self.script(|script| {
            script
                .faults
                .entry(types::resolve(type_name))
                .or_default()
                .push_back(fault)
        });
    }

    /// Pushes types in this order when several have changed.
    pub fn order(&self, type_names: &[&str]) {
        self.script(|script| script.order = type_names.iter().map(|name| types::resolve(name)).collect());
    }

    /// Ends every stream after so many responses on it; `None` switches that off.
    pub fn end_after(&self, limit: Option<(u64, Ending)>) {
        self.script(|script| script.end_after = limit);
    }

    /// Accepts no connection (each is closed at once) while true. Open ones stay.
    pub fn refuse_connections(&self, refuse: bool) {
        self.script(|script| script.refuse_connections = refuse);
    }

    /// Answers each new stream with this gRPC status code; `None` serves them again.
    pub fn refuse_streams(&self, code: Option<i32>) {
        self.script(|script| script.refuse_streams = code);
    }

    /// Dribbles responses out at this pace; `None` sends them whole.
    pub fn pace(&self, pace: Option<Pace>) {
        self.script(|script| script.pace = pace);
    }

    /// Ends all streams now.
    pub fn disconnect(&self, ending: Ending) {
        self.command(Command::End { stream: None, ending });
    }

    /// Ends one stream now.
    pub fn disconnect_stream(&self, stream: u64, ending: Ending) {
        self.command(Command::End {
            stream: Some(stream),
            ending,
        });
    }

    /// Sends all that is subscribed of a type again, unchanged.
    pub fn resend(&self, type_name: &str) {
        self.command(Command::Resend(types::resolve(type_name)));
    }

    /// Sends a heartbeat (no payload, same version) for a resource pushed with a TTL.
    pub fn heartbeat(&self, type_name: &str, name: &str) {
        self.command(Command::Heartbeat {
            type_url: types::resolve(type_name),
            name: name.to_owned(),
        });
    }

    /// Sends every resource of a type, to streams that did not ask too.
    pub fn unsolicited(&self, type_name: &str) {
        self.command(Command::Unsolicited(types::resolve(type_name)));
    }

    /// Sends these bytes as one gRPC message on every stream.
    pub fn send_raw(&self, message: impl Into<Vec<u8>>) {
        self.command(Command::Raw(message.into()));
    }

    /// Gives a command to every open stream.
    pub fn command(&self, command: Command) {
        self.script(|script| script.commands.push(command));
    }

    /// Everything seen and said so far.
    pub fn transcript(&self) -> Vec<Entry> {
        self.shared.lock().transcript.since(0).cloned().collect()
    }

    /// A place in the transcript: [`Handle::wait_from`] looks at what comes after it.
    pub fn mark(&self) -> usize {
        self.shared.lock().transcript.next_index()
    }

    /// The first entry of the whole transcript that matches, now or within `timeout`.
    ///
    /// # Errors
    /// None did.
    pub async fn wait_for(
        &self,
        matches: impl FnMut(&Entry) -> bool,
        timeout: Duration,
    ) -> Result<Entry, NothingMatched> {
        self.wait_from(0, matches, timeout).await
    }

    /// As [`Handle::wait_for`], looking only at what was recorded since `mark`.
    ///
    /// # Errors
    /// None matched.
    pub async fn wait_from(
        &self,
        mark: usize,
        mut matches: impl FnMut(&Entry) -> bool,
        timeout: Duration,
    ) -> Result<Entry, NothingMatched> {
        let mut records = self.shared.records();
        let mut next = mark;
        let search = async {
            loop {
                records.borrow_and_update();
                {
                    let inner = self.shared.lock();
                    if let Some(entry) = inner.transcript.since(next).find(|entry| matches(entry)) {
                        return Some(entry.clone());
                    }
                    next = next.max(inner.transcript.next_index());
                }
                if records.changed().await.is_err() {
                    return None;
                }
            }
        };
        if let Ok(Some(entry)) = tokio::time::timeout(timeout, search).await {
            return Ok(entry);
        }
        let lines: Vec<String> = self.transcript().iter().map(ToString::to_string).collect();
        Err(NothingMatched {
            waited: timeout,
            transcript: lines.join("\n"),
        })
    }

    /// What was recorded since `mark`, as soon as there is something.
    ///
    /// # Cancel safety
    /// Nothing is consumed: the same mark gives the same entries again.
    pub async fn next_entries(&self, mark: usize) -> Vec<Entry> {
        let mut records = self.shared.records();
        loop {
            records.borrow_and_update();
            let entries: Vec<Entry> = self.shared.lock().transcript.since(mark).cloned().collect();
            if !entries.is_empty() {
                return entries;
            }
            if records.changed().await.is_err() {
                // The sender lives in what `self` holds, so this cannot be reached; waiting is the answer that fits.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until a client accepts this version of a type.
    ///
    /// # Errors
    /// None did within [`PATIENCE`].
    pub async fn wait_ack(&self, type_name: &str, version: &str) -> Result<Entry, NothingMatched> {
        self.wait_for(
            |entry| entry.what == What::Ack && entry.is_of(type_name) && entry.version == version,
            PATIENCE,
        )
        .await
    }

    /// Waits until a client refuses a response of a type, and returns its reason (the newest entry counts only if it is the first: use
    /// [`Handle::wait_from`] to wait for a second NACK).
    ///
    /// # Errors
    /// None did within [`PATIENCE`].
    pub async fn wait_nack(&self, type_name: &str) -> Result<String, NothingMatched> {
        let entry = self
            .wait_for(|entry| entry.what == What::Nack && entry.is_of(type_name), PATIENCE)
            .await?;
        Ok(entry.error.map(|(_, message)| message).unwrap_or_default())
    }

    /// Waits until a client subscribes to a resource by name.
    ///
    /// # Errors
    /// None did within [`PATIENCE`].
    pub async fn wait_subscribed(&self, type_name: &str, name: &str) -> Result<Entry, NothingMatched> {
        let wanted = |entry: &Entry| {
            entry.is_request() && entry.is_of(type_name) && entry.names.iter().any(|other| other == name)
        };
        self.wait_for(wanted, PATIENCE).await
    }
}
