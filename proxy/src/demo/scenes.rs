//! The scenes. Each changes something, waits for it to show, and checks what the traffic made of it.

use control_plane_mock::{PATIENCE as PLANE_PATIENCE, What};
use sha2::{Digest, Sha256};

use super::config::{self, CANARY, CLIENT_CERT, ECHO, FRESH, OUTBOUND_HTTP, REVISION, Retries, SERVER_CERT};
use super::mesh::{Identities, until};
use super::probe;
use super::replica::{CLIENT_CERTIFICATE, Mode, NAMES};
use super::tally::{Counts, Kind, by_replica};
use super::tour::{DemoError, Tour};
use crate::tls::x509::hex;

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    Spread,
    Ejection,
    Failover,
    Canary,
    Rotation,
    BadListener,
    ControlPlaneGone,
    ListenerInPlace,
}

/// The order of play.
pub const SCENES: [Scene; 8] = [
    Scene::Spread,
    Scene::Ejection,
    Scene::Failover,
    Scene::Canary,
    Scene::Rotation,
    Scene::BadListener,
    Scene::ControlPlaneGone,
    Scene::ListenerInPlace,
];

/// Answers that a claim about shares is made from.
const SAMPLE: u64 = 150;
/// The same for the canary: the standard deviation of 10 % is then 1.2 points, and the tolerance five times that.
const CANARY_SAMPLE: u64 = 600;
const CANARY_TOLERANCE: f64 = 6.0;
/// Requests that the app has under way at most, and some.
const IN_FLIGHT: u64 = 20;
/// Answers after a change, so that what was in flight before it is over.
const SETTLE: u64 = 40;

impl Scene {
    pub fn title(self) -> &'static str {
        match self {
            Self::Spread => "traffic is spread evenly",
            Self::Ejection => "a failing replica is ejected and comes back",
            Self::Failover => "a lost priority fails over and recovers",
            Self::Canary => "a 90/10 canary arrives over RDS",
            Self::Rotation => "certificates rotate",
            Self::BadListener => "a bad listener is refused",
            Self::ControlPlaneGone => "the control plane dies and comes back",
            Self::ListenerInPlace => "listeners change in place",
        }
    }

    /// What hosts that fail do to requests is hidden by retries; all else must not do anything to them.
    fn retries(self) -> Retries {
        match self {
            Self::Ejection | Self::Failover => Retries::On,
            _ => Retries::Off,
        }
    }
}

/// Plays one scene. What it saw goes into `evidence`, also when it then fails.
///
/// # Errors
/// Something did not happen, or should not have.
pub async fn play(scene: Scene, tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    if tour.retries != scene.retries() {
        tour.route(&[(ECHO, 100)], scene.retries()).await?;
    }
    let retried = tour.retried();
    match scene {
        Scene::Spread => spread(tour, evidence).await,
        Scene::Ejection => ejection(tour, evidence).await,
        Scene::Failover => failover(tour, evidence).await,
        Scene::Canary => canary(tour, evidence).await,
        Scene::Rotation => rotation(tour, evidence).await,
        Scene::BadListener => bad_listener(tour, evidence).await,
        Scene::ControlPlaneGone => control_plane_gone(tour, evidence).await,
        Scene::ListenerInPlace => listener_in_place(tour, evidence).await,
    }?;
    check(
        scene.retries() == Retries::On || tour.retried() == retried,
        "something was tried again although retries are off",
    )
}

async fn spread(tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    let counts = tour.sample(SAMPLE).await?;
    let tcp = counts.answered[Kind::Tcp as usize];
    evidence.push(format!(
        "HTTP/1 and gRPC: {} (c and d have priority 1)",
        by_replica(&counts.balanced())
    ));
    evidence.push(format!("TCP, by connection: {}", by_replica(&tcp)));
    let [a, b, c, d] = counts.balanced();
    check(
        c + d == 0,
        "the lower priority got traffic while the higher one was healthy",
    )?;
    check(
        a.abs_diff(b) * 5 <= a + b,
        "the two replicas' shares are more than 20 % apart",
    )?;
    check(tcp[2] > 0 && tcp[3] > 0, "one replica got no TCP")
}

async fn ejection(tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    let ejected = |tour: &Tour| tour.echo("outlier_detection.ejections_enforced_total");
    let (ejections, retries) = (ejected(tour), tour.echo("upstream_rq_retry"));
    tour.mesh.replicas[0].set(Mode::Failing);
    tour.ejected(1).await?;
    let received = tour.mesh.replicas[0].received();
    let again = ejected(tour);
    let counts = tour.sample(SAMPLE / 2).await?;
    let (received, again) = (tour.mesh.replicas[0].received() - received, ejected(tour) - again);
    tour.mesh.replicas[0].set(Mode::Serving);
    evidence.push(format!(
        "a answered 503: ejected {} time(s), {} retries hid it",
        ejected(tour) - ejections,
        tour.echo("upstream_rq_retry") - retries,
    ));
    evidence.push(format!(
        "then: {}; a was asked {received} times",
        by_replica(&counts.balanced())
    ));
    // Stragglers that were on their way when it was ejected; on a slow machine it comes back, fails and goes several times.
    check(
        received <= (again + 1) * IN_FLIGHT,
        "the ejected replica was still asked",
    )?;
    tour.ejected(0).await?;
    let counts = tour.answered_by(0, SETTLE).await?;
    evidence.push(format!("a serves again: {}", by_replica(&counts.balanced())));
    Ok(())
}

async fn failover(tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    let all = |tour: &Tour, mode| tour.mesh.replicas[..2].iter().for_each(|replica| replica.set(mode));
    all(tour, Mode::Down);
    tour.ejected(2).await?;
    tour.sample(SETTLE).await?;
    let counts = tour.sample(SAMPLE).await?;
    all(tour, Mode::Serving);
    evidence.push(format!("a and b down: {}", by_replica(&counts.balanced())));
    let [a, b, c, d] = counts.balanced();
    check(
        a + b == 0 && c > 0 && d > 0,
        "traffic did not move to both replicas of priority 1",
    )?;
    tour.ejected(0).await?;
    tour.sample(SETTLE).await?;
    let counts = tour.sample(SAMPLE).await?;
    evidence.push(format!("a and b back: {}", by_replica(&counts.balanced())));
    let [a, b, c, d] = counts.balanced();
    // A straggler may still have been on its way to priority 1.
    check(
        a > 0 && b > 0 && (c + d) * 20 <= a + b,
        "traffic did not come back to priority 0",
    )
}

async fn canary(tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    let before = tour.tally.counts();
    tour.route(&[(ECHO, 90), (CANARY, 10)], Retries::Off).await?;
    // Replica d alone is the canary.
    until("the canary's first answer", || {
        tour.tally.counts().since(&before).balanced()[3] > 0
    })
    .await?;
    let counts = tour.sample(CANARY_SAMPLE).await?.balanced();
    let share = 100.0 * counts[3] as f64 / counts.iter().sum::<u64>().max(1) as f64;
    evidence.push(format!(
        "weights {ECHO} 90, {CANARY} 10: {}; canary {share:.1} %",
        by_replica(&counts)
    ));
    tour.route(&[(ECHO, 100)], Retries::Off).await?;
    check(
        (share - 10.0).abs() <= CANARY_TOLERANCE,
        "the canary's share is out of tolerance",
    )
}

async fn rotation(tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    let closed = tour.echo("upstream_cx_destroy");
    let lost = tour.tally.counts();
    let mesh = &mut tour.mesh;
    let address = mesh.inbound[0].http;
    let shown = probe::server_certificate(address, &mesh.authority, &mesh.identities.client).await?;
    check(
        shown == mesh.identities.server.leaf_der,
        "the server sidecar does not show its certificate",
    )?;
    let old = std::mem::replace(&mut mesh.identities, Identities::issue(&mesh.authority)?);
    let new = &mesh.identities;
    mesh.server.plane()?.push_secret(new.server.secret(SERVER_CERT));
    mesh.client.plane()?.push_secret(new.client.secret(CLIENT_CERT));
    let hash = hex(&Sha256::digest(&new.client.leaf_der));
    until("a handshake with the new client certificate", || {
        tour.tally.seen(CLIENT_CERTIFICATE, &hash) > 0
    })
    .await?;
    loop {
        // Each try is a handshake of its own; the push is on its way.
        let shown = probe::server_certificate(address, &mesh.authority, &new.client).await?;
        if shown == new.server.leaf_der {
            break;
        }
        check(
            shown == old.server.leaf_der,
            "the server sidecar shows a certificate that nobody issued",
        )?;
    }
    evidence.push(format!(
        "new handshakes: server serial {} → {}, client serial {} → {}",
        old.server.serial, new.server.serial, old.client.serial, new.client.serial
    ));
    tour.sample(SETTLE).await?;
    let closed = tour.echo("upstream_cx_destroy") - closed;
    let lost = tour.tally.counts().since(&lost);
    evidence.push(format!(
        "open connections closed meanwhile: {closed} between the sidecars, {} of the app",
        lost.lost.iter().sum::<u64>()
    ));
    check(
        closed == 0 && lost.lost.iter().all(|lost| *lost == 0),
        "a connection was closed",
    )
}

async fn bad_listener(tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    let plane = tour.mesh.client.plane()?;
    let mark = plane.mark();
    plane.push_listener(config::listener_outbound_broken());
    let refused = plane
        .wait_from(
            mark,
            |entry| entry.what == What::Nack && entry.is_of("lds"),
            PLANE_PATIENCE,
        )
        .await?;
    let reason = refused.error.map(|(_, text)| text).unwrap_or_default();
    evidence.push(format!("NACK: {reason}"));
    let counts = tour.sample(SAMPLE).await?;
    evidence.push(format!("{} requests after it, all answered", counts.requests()));
    let mark = plane.mark();
    plane.push_listener(config::listener_outbound_http(""));
    plane
        .wait_from(
            mark,
            |entry| entry.what == What::Ack && entry.is_of("lds"),
            PLANE_PATIENCE,
        )
        .await?;
    check(reason.contains("http_filters"), "the refusal does not name the place")
}

async fn control_plane_gone(tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    tour.mesh.client.kill_plane().await;
    tour.mesh.server.kill_plane().await;
    let counts = tour.sample(SAMPLE).await?;
    evidence.push(format!("without a control plane: {} requests answered", counts.all()));
    tour.mesh.client.restart_plane().await?;
    tour.mesh.server.restart_plane().await?;
    tour.route(&[(ECHO, 100)], Retries::Off).await?;
    evidence.push(format!(
        "back, and a route pushed then arrived: {REVISION}: {}",
        tour.revision
    ));
    Ok(())
}

async fn listener_in_place(tour: &mut Tour, evidence: &mut Vec<String>) -> Result<(), DemoError> {
    const NAME: &str = "remora-demo";
    let updated = |tour: &Tour| tour.mesh.client.stat("listener_manager.listener_in_place_updated");
    let (before, updates) = (tour.tally.counts(), updated(tour));
    let plane = tour.mesh.client.plane()?;
    plane.push_listener(config::listener_outbound_tcp_grown());
    until("the TCP listener's update", || updated(tour) > updates).await?;
    tour.sample(SETTLE).await?;
    let lost = tour.tally.counts().since(&before);
    evidence.push(format!(
        "a filter chain more on the TCP listener: {} open connections lost",
        lost.lost_of(Kind::Tcp)
    ));
    check(lost.lost_of(Kind::Tcp) == 0, "an open TCP connection was lost")?;
    plane.push_listener(config::listener_outbound_http(NAME));
    until("an answer of the new filter chain", || {
        tour.tally.seen("server", NAME) > 0
    })
    .await?;
    tour.sample(SAMPLE).await?;
    let counts = tour.tally.counts().since(&before);
    evidence.push(format!(
        "{OUTBOUND_HTTP} with another filter chain: 'server: {NAME}' on new connections, {} old ones asked to leave, {} of {} requests failed",
        counts.lost.iter().sum::<u64>(),
        counts.failed,
        counts.requests()
    ));
    check(updated(tour) >= updates + 2, "the listener was not updated in place")
}

impl Tour {
    /// A stat of the client sidecar's cluster.
    fn echo(&self, stat: &str) -> u64 {
        self.mesh.client.stat(&format!("cluster.{ECHO}.{stat}"))
    }

    /// Retries of all clusters together.
    fn retried(&self) -> u64 {
        let of = |cluster: &str| self.mesh.client.stat(&format!("cluster.{cluster}.upstream_rq_retry"));
        [ECHO, CANARY, FRESH].into_iter().map(of).sum()
    }

    /// Pushes routes; when it returns they are in force, and what was under way before them is over.
    async fn route(&mut self, weights: &[(&str, u32)], retries: Retries) -> Result<(), DemoError> {
        self.revision += 1;
        self.retries = retries;
        let plane = self.mesh.client.plane()?;
        plane.push_route(config::routes(weights, retries, self.revision));
        let revision = self.revision.to_string();
        until("an answer over the routes that were pushed", || {
            self.tally.seen(REVISION, &revision) > 0
        })
        .await?;
        let before = self.tally.counts();
        until("what was under way before", || {
            let since = self.tally.counts().since(&before);
            // Of requests that go one after the other, the second started after the push.
            since.balanced().iter().sum::<u64>() >= SETTLE && since.of(Kind::Fresh) >= 2
        })
        .await
    }

    /// Waits until so many replicas are ejected.
    async fn ejected(&self, count: u64) -> Result<(), DemoError> {
        until(&format!("{count} ejected replicas"), || {
            self.echo("outlier_detection.ejections_active") == count
        })
        .await
    }

    /// The next so many HTTP and gRPC answers.
    async fn sample(&self, count: u64) -> Result<Counts, DemoError> {
        let before = self.tally.counts();
        let since = || self.tally.counts().since(&before);
        until(&format!("{count} answers"), || {
            since().balanced().iter().sum::<u64>() >= count
        })
        .await?;
        Ok(since())
    }

    /// What is answered until a replica has given so many answers.
    async fn answered_by(&self, replica: usize, count: u64) -> Result<Counts, DemoError> {
        let before = self.tally.counts();
        let since = || self.tally.counts().since(&before);
        until(&format!("{count} answers of {}", NAMES[replica]), || {
            since().balanced()[replica] >= count
        })
        .await?;
        Ok(since())
    }
}

fn check(holds: bool, otherwise: &str) -> Result<(), DemoError> {
    if holds {
        Ok(())
    } else {
        Err(DemoError::Unexpected(otherwise.to_owned()))
    }
}
