//! From an accepted socket to the terminal filter of its chain.
//!
//! listener filters → hand-off by original destination → chain match → TLS → network filters → terminal. What is only needed on the way is
//! boxed, so that a connection that idles in its terminal filter costs no more than that.

mod admission;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::active::{ActiveListener, ListenerState, Shared};
use super::chain_match::{FilterChain, Target, Terminal};
use super::inspect::{Findings, Inspection, Refusal};
use super::{ConfiguredMetadata, ConnectionInfo};
use crate::runtime::drain::{DrainPhase, DrainSignal};
use crate::runtime::io::{Address, Io};
use crate::runtime::{clock, worker};
use crate::telemetry::access_log::TcpJournal;
use crate::telemetry::flags::ResponseFlags;
use crate::tls::TlsError;
use admission::Unshaken;

/// Serves one accepted connection to its end.
pub async fn serve(shared: Arc<Shared>, listener: Arc<ActiveListener>, io: Io, local: Address, remote: Address) {
    let arrival = Arrival {
        shared,
        io,
        local,
        remote,
        accepted_at: clock::now(),
    };
    let Some(open) = Box::pin(arrival.open(listener)).await else {
        return;
    };
    let Opened {
        io,
        chain,
        connection,
        guard,
        holds,
        journal,
    } = *open;
    let drain = chain.drain.signal();
    match &chain.terminal {
        // Boxed, so that a connection is as large as what it does and no larger.
        Terminal::Http(manager) => Box::pin(manager.clone().serve(io, connection, drain)).await,
        Terminal::Tcp(proxy) => Box::pin(proxy.clone().serve(io, connection, drain, &chain.observers)).await,
        Terminal::Echo => Box::pin(until_closed(drain, echo(io))).await,
        Terminal::DirectResponse(bytes) => Box::pin(until_closed(drain, respond(io, bytes.clone()))).await,
        Terminal::Close => {}
    }
    drop((holds, guard, journal));
}

struct Arrival {
    shared: Arc<Shared>,
    io: Io,
    local: Address,
    remote: Address,
    accepted_at: Instant,
}

struct Opened {
    io: Io,
    chain: Arc<FilterChain>,
    connection: Arc<ConnectionInfo>,
    guard: OpenConnection,
    holds: Vec<Box<dyn Send>>,
    /// Written when the connection ends.
    journal: Option<Box<TcpJournal>>,
}

/// The listener's own log of a connection, if it keeps one.
fn journal(state: &ListenerState, connection: Arc<ConnectionInfo>) -> Option<Box<TcpJournal>> {
    (!state.access_logs.is_empty()).then(|| TcpJournal::of_listener(&state.access_logs, connection))
}

impl Arrival {
    /// Everything up to the terminal filter. `None`: the connection is refused, counted, and closed.
    async fn open(self, listener: Arc<ActiveListener>) -> Option<Box<Opened>> {
        let Self {
            shared,
            io,
            local,
            remote,
            accepted_at,
        } = self;
        let (listener, state, io, findings) = hand_off(&shared, listener, io, (&local, &remote)).await?;
        let place = Place::new(local, remote, &findings);
        let chain = find_chain(&state, &place, &findings);
        let mut connection = ConnectionInfo {
            id: shared.next_connection_id(),
            local: place.local,
            remote: place.remote,
            direct_remote: place.direct_remote,
            own_local: place.own_local,
            original_destination: findings.original_destination,
            sni: findings.server_name.map(Arc::from),
            transport_protocol: match &chain {
                Some(chain) if chain.tls.is_some() => "tls",
                _ => "raw_buffer",
            },
            alpn: None,
            tls: None,
            workload: None,
            listener_name: listener.name.clone(),
            filter_chain_name: chain.as_ref().map_or_else(|| Arc::from(""), |chain| chain.name.clone()),
            metadata: ConfiguredMetadata {
                listener: state.settings.metadata.clone(),
                filter_chain: chain.as_ref().and_then(|chain| chain.metadata.clone()),
            },
            direction: state.settings.direction,
            accepted_at,
            secured_at: None,
            requests: Default::default(),
            xfcc: Default::default(),
            buffer_limit: state.settings.buffer_limit,
            extensions: findings.extensions,
        };
        let Some(chain) = chain else {
            listener.stats.listener.no_filter_chain_match.inc();
            if let Some(mut journal) = journal(&state, Arc::new(connection)) {
                journal.record.flags = ResponseFlags::NO_ROUTE_FOUND;
            }
            return None;
        };
        let guard = OpenConnection::start(listener.clone(), accepted_at);
        let io = match handshake(&listener, &chain, io, &mut connection).await {
            Ok(io) => io,
            Err(failure) => {
                admission::unshaken(&chain, &state, Arc::new(connection), &failure);
                return None;
            }
        };
        let io = preamble(&chain, io, &mut connection).await?;
        let admission::Admitted { holds, meters, closed } = admission::admitted(&chain, &mut connection).await;
        let io = meters.into_iter().fold(io, Io::metered);
        let connection = Arc::new(connection);
        if let Some(closing) = closed {
            admission::close(&chain, &state, connection, closing).await;
            admission::end(io).await;
            return None;
        }
        let journal = journal(&state, connection.clone());
        Some(Box::new(Opened {
            io,
            chain,
            connection,
            guard,
            holds,
            journal,
        }))
    }
}

/// Runs the listener filters, and hands the connection on to the listener of its original destination if that is asked for. `None`: it is
/// refused, and counted.
async fn hand_off(
    shared: &Arc<Shared>,
    listener: Arc<ActiveListener>,
    io: Io,
    ends: (&Address, &Address),
) -> Option<(Arc<ActiveListener>, Arc<ListenerState>, Io, Findings)> {
    let state = listener.state.load_full();
    let (io, findings) = inspect(shared, &listener, &state, io, ends).await?;
    let restored = findings
        .original_destination
        .filter(|original| ends.0.ip() != Some(*original));
    let next = match (state.settings.use_original_dst, restored) {
        (true, Some(original)) => shared.directory.load().find(original).cloned(),
        _ => None,
    };
    Some(match next {
        // The other listener runs its own filters; a hand-off happens once at most.
        Some(other) if !Arc::ptr_eq(&other, &listener) => {
            let state = other.state.load_full();
            let (io, mut found) = inspect(shared, &other, &state, io, ends).await?;
            found.original_destination = found.original_destination.or(findings.original_destination);
            // What the first listener's filters left stays, where the other's say nothing else.
            let mut extensions = findings.extensions;
            extensions.extend(found.extensions);
            found.extensions = extensions;
            (other, state, io, found)
        }
        _ => (listener, state, io, findings),
    })
}

/// The addresses of a connection after its listener filters.
struct Place {
    local: Address,
    remote: Address,
    direct_remote: Address,
    own_local: Option<Box<Address>>,
}

impl Place {
    fn new(local: Address, direct_remote: Address, findings: &Findings) -> Self {
        let restored = findings.original_destination.map(Address::Ip);
        let (said, remote) = match findings.proxied {
            Some((source, destination)) => (Some(Address::Ip(destination)), Address::Ip(source)),
            None => (restored, direct_remote.clone()),
        };
        let (local, own_local) = match said {
            Some(said) if said != local => (said, Some(Box::new(local))),
            _ => (local, None),
        };
        Self {
            local,
            remote,
            direct_remote,
            own_local,
        }
    }
}

async fn inspect(
    shared: &Shared,
    listener: &ActiveListener,
    state: &ListenerState,
    io: Io,
    (local, remote): (&Address, &Address),
) -> Option<(Io, Findings)> {
    let settings = &state.settings;
    let stats = &listener.stats.listener;
    if settings.listener_filters.is_empty() {
        // There for no time at all.
        stats.downstream_pre_cx_active.touch();
        return Some((io, Findings::default()));
    }
    stats.downstream_pre_cx_active.inc();
    let _pre = Pre(listener);
    let mut inspection = Inspection::new(io);
    let running = inspection.run(settings, local, remote, &shared.inspectors);
    let outcome = match settings.listener_filters_timeout {
        None => Ok(running.await),
        Some(limit) => tokio::time::timeout(limit, running).await,
    };
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(Refusal::RemoteClose)) => {
            stats.downstream_listener_filter_remote_close.inc();
            return None;
        }
        // The filter has counted it itself.
        Ok(Err(Refusal::Filter)) => {
            inspection.refuse();
            return None;
        }
        Err(_) => {
            stats.downstream_pre_cx_timeout.inc();
            if !settings.continue_on_listener_filters_timeout {
                inspection.refuse();
                return None;
            }
        }
    }
    Some(inspection.finish())
}

fn find_chain(state: &ListenerState, place: &Place, findings: &Findings) -> Option<Arc<FilterChain>> {
    let target = Target {
        destination: place.local.ip(),
        server_name: findings.server_name.as_deref(),
        transport_protocol: match findings.transport_protocol {
            // Envoy takes what nobody has looked at for plaintext.
            "" => "raw_buffer",
            known => known,
        },
        application_protocols: &findings.alpn,
        direct_source: place.direct_remote.ip().map(|address: SocketAddr| address.ip()),
        source: place.remote.ip(),
    };
    state.chains.find(&target).cloned()
}

/// TLS, if the chain has it. An error has been counted; for the log, the connection says what is known of who was refused.
async fn handshake(
    listener: &ActiveListener,
    chain: &FilterChain,
    io: Io,
    connection: &mut ConnectionInfo,
) -> Result<Io, Unshaken> {
    let Some(tls) = &chain.tls else { return Ok(io) };
    let accepting = Box::pin(tls.accept(io, &mut connection.tls));
    let outcome = match chain.handshake_timeout {
        None => accepting.await,
        Some(limit) => match tokio::time::timeout(limit, accepting).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let timeouts = &listener.stats.listener.downstream_cx_transport_socket_connect_timeout;
                timeouts.inc();
                return Err(Unshaken::TooSlow);
            }
        },
    };
    let stats = listener.stats.tls();
    stats.ssl.record(&outcome);
    match outcome {
        Ok(done) => {
            connection.alpn = done.peer.alpn.as_deref().map(Arc::from);
            connection.tls = Some(done.peer);
            connection.secured_at = Some(clock::now());
            Ok(done.io)
        }
        Err(error) => {
            if matches!(error, TlsError::SecretNotReady) {
                stats.socket.downstream_context_secrets_not_ready.inc();
            }
            tracing::debug!(connection = connection.id, %error, "TLS handshake failed");
            Err(match error {
                TlsError::Io(_) => Unshaken::Gone,
                error => Unshaken::Failed(error.to_string()),
            })
        }
    }
}

/// What both ends tell each other first, if a filter of the chain wants that. `None`: the connection failed.
async fn preamble(chain: &FilterChain, io: Io, connection: &mut ConnectionInfo) -> Option<Io> {
    let Some(exchange) = chain.filters.iter().find_map(|filter| filter.preamble()) else {
        return Some(io);
    };
    let exchanging = Box::pin(exchange.exchange(io, connection.alpn.as_deref()));
    match exchanging.await {
        Ok((io, workload)) => {
            connection.workload = workload;
            Some(io)
        }
        Err(error) => {
            tracing::debug!(connection = connection.id, %error, "no metadata came");
            None
        }
    }
}

async fn until_closed(mut drain: DrainSignal, serving: impl Future<Output = ()>) {
    tokio::select! {
        () = serving => {}
        () = drain.reached(DrainPhase::Closed) => {}
    }
}

async fn echo(mut io: Io) {
    let mut buffer = vec![0; 4096];
    loop {
        match io.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if io.write_all(&buffer[..count]).await.is_err() || io.flush().await.is_err() {
                    return;
                }
            }
        }
    }
    // The peer may be gone; there is nobody to tell.
    let _ = io.shutdown().await;
}

async fn respond(mut io: Io, bytes: bytes::Bytes) {
    if io.write_all(&bytes).await.is_ok() {
        let _ = io.shutdown().await;
    }
}

/// Counts a connection for as long as it lives.
struct OpenConnection {
    listener: Arc<ActiveListener>,
    accepted_at: Instant,
}

impl OpenConnection {
    fn start(listener: Arc<ActiveListener>, accepted_at: Instant) -> Self {
        let stats = &listener.stats;
        stats.listener.downstream_cx_total.inc();
        stats.listener.downstream_cx_active.inc();
        if let Some(worker) = worker::index().and_then(|index| stats.workers.get(index)) {
            worker.downstream_cx_total.inc();
            worker.downstream_cx_active.inc();
        }
        Self { listener, accepted_at }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let stats = &self.listener.stats;
        stats.listener.downstream_cx_active.dec();
        stats.listener.downstream_cx_destroy.inc();
        let length: Duration = clock::now().saturating_duration_since(self.accepted_at);
        stats
            .listener
            .downstream_cx_length_ms
            .record(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        if let Some(worker) = worker::index().and_then(|index| stats.workers.get(index)) {
            worker.downstream_cx_active.dec();
        }
    }
}

struct Pre<'a>(&'a ActiveListener);

impl Drop for Pre<'_> {
    fn drop(&mut self) {
        self.0.stats.listener.downstream_pre_cx_active.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::active::Directory;
    use crate::listener::stats::{InspectorStats, Scope};
    use crate::telemetry::stats::Stats;

    /// What an idle connection costs besides its sockets; measured, may only go down.
    #[test]
    fn a_connection_is_small() {
        let stats = Stats::new();
        let shared = Arc::new(Shared::new(InspectorStats::new(&stats)));
        shared.directory.store(Arc::new(Directory::default()));
        let listener = Arc::new(ActiveListener {
            name: Arc::from("l"),
            addresses: Vec::new(),
            configured: Vec::new(),
            bind_to_port: false,
            reuse_port: false,
            state: arc_swap::ArcSwap::from_pointee(ListenerState {
                hash: 0,
                settings: crate::listener::ListenerSettings::default(),
                chains: crate::listener::chain_match::ChainTable::default(),
                access_logs: Arc::new([]),
                resource: None,
            }),
            stats: Scope::new(&stats, None, None, 1),
            loads: crate::listener::balance::Loads::default(),
            limit: crate::listener::balance::ConnectionLimit::default(),
            stop: crate::runtime::drain::Drain::new().0,
            sockets: parking_lot::Mutex::default(),
        });
        let (io, _peer) = tokio::io::duplex(1);
        let address = Address::Pipe(Arc::from(""));
        let future = serve(shared, listener, Io::Duplex(io), address.clone(), address);
        assert!(
            std::mem::size_of_val(&future) <= 256,
            "{} bytes",
            std::mem::size_of_val(&future)
        );
    }
}
