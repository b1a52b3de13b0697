//! The course of the demo: start the mesh, send traffic, play the scenes, account for everything.

use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

use control_plane_mock::NothingMatched;
use control_plane_mock::pki::PkiError;

use super::config::{FIRST_REVISION, Retries};
use super::load::Load;
use super::mesh::{Mesh, until};
use super::report::{Report, SceneReport};
use super::scenes::{self as stage, SCENES, Scene};
use super::tally::{Counts, Kind, Tally};
use crate::app::StartError;
use crate::runtime::clock;

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(200);

/// How the demo is to run.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Worker threads of each proxy.
    pub concurrency: u32,
    /// Port of the client sidecar's admin server on 127.0.0.1; 0 for any.
    pub admin_port: u16,
    /// The tour sends traffic for this long, or longer if its scenes take longer.
    pub at_least: Duration,
}

/// The demo could not go on. A scene that does not hold is no such error: it is in the [`Report`].
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("the proxy does not start: {0}")]
    Start(#[from] StartError),
    #[error("the bootstrap is wrong: {0}")]
    Bootstrap(String),
    #[error("{0}")]
    Pki(#[from] PkiError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("waited in vain for {0}")]
    Waited(String),
    #[error("{0}")]
    NothingMatched(#[from] NothingMatched),
    /// What a scene saw and should not have.
    #[error("{0}")]
    Unexpected(String),
}

/// What happens, as it happens.
pub enum Event<'a> {
    /// The mesh runs; admin servers of the client and the server sidecar, and where the app's traffic goes in.
    Ready {
        admin: [String; 2],
        http: String,
        tcp: String,
    },
    Started(&'static str),
    Progress(&'a Counts),
    Ended(&'a SceneReport),
}

/// What a scene has to work with.
pub struct Tour {
    pub mesh: Mesh,
    pub tally: Arc<Tally>,
    /// Of the routes that were pushed last.
    pub retries: Retries,
    pub revision: u32,
}

/// Plays every scene under steady traffic. Needs a runtime with I/O and time; nothing of it is left when it returns.
///
/// # Errors
/// The mesh does not come up.
pub async fn scenes(settings: &Settings, observe: &mut dyn FnMut(Event<'_>)) -> Result<Report, DemoError> {
    let started = clock::now();
    let (mut tour, load) = begin(settings, observe).await?;
    let traffic_since = clock::now();
    let mut reports = Vec::new();
    for scene in SCENES {
        observe(Event::Started(scene.title()));
        let report = play(scene, &mut tour, observe).await;
        observe(Event::Ended(&report));
        reports.push(report);
    }
    while clock::now().saturating_duration_since(traffic_since) < settings.at_least {
        clock::sleep(PROGRESS).await;
        observe(Event::Progress(&tour.tally.counts()));
    }
    load.finish().await;
    Ok(Report {
        scenes: reports,
        counts: tour.tally.counts(),
        failures: tour.tally.failures(),
        took: clock::now().saturating_duration_since(started),
    })
}

/// Keeps the mesh and its traffic running until SIGINT, and says what became of the traffic.
///
/// # Errors
/// The mesh does not come up, or signals cannot be listened to.
pub async fn serve(settings: &Settings, observe: &mut dyn FnMut(Event<'_>)) -> Result<Counts, DemoError> {
    // Before anybody is told that it serves.
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (tour, load) = begin(settings, observe).await?;
    loop {
        tokio::select! {
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
            () = clock::sleep(PROGRESS) => observe(Event::Progress(&tour.tally.counts())),
        }
    }
    load.finish().await;
    Ok(tour.tally.counts())
}

async fn begin(settings: &Settings, observe: &mut dyn FnMut(Event<'_>)) -> Result<(Tour, Load), DemoError> {
    let mesh = Mesh::start(settings).await?;
    let targets = mesh.targets().await?;
    let admin = |sidecar: &super::mesh::Sidecar| {
        sidecar
            .proxy
            .admin
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    observe(Event::Ready {
        admin: [admin(&mesh.client), admin(&mesh.server)],
        http: targets.http.to_string(),
        tcp: targets.tcp.to_string(),
    });
    let tally = Arc::new(Tally::default());
    let load = Load::start(targets, &tally);
    let flowing = until("traffic of every kind", || {
        let counts = tally.counts();
        Kind::ALL.iter().all(|kind| counts.of(*kind) > 0) || counts.failed > 0
    });
    flowing.await?;
    let tour = Tour {
        mesh,
        tally,
        retries: Retries::Off,
        revision: FIRST_REVISION,
    };
    Ok((tour, load))
}

async fn play(scene: Scene, tour: &mut Tour, observe: &mut dyn FnMut(Event<'_>)) -> SceneReport {
    let (tally, before, started) = (tour.tally.clone(), tour.tally.counts(), clock::now());
    let mut evidence = Vec::new();
    let outcome = {
        let playing = stage::play(scene, tour, &mut evidence);
        tokio::pin!(playing);
        loop {
            tokio::select! {
                outcome = &mut playing => break outcome,
                () = clock::sleep(PROGRESS) => observe(Event::Progress(&tally.counts())),
            }
        }
    };
    let counts = tally.counts().since(&before);
    let mut held = counts.failed == 0;
    if let Err(error) = outcome {
        evidence.push(error.to_string());
        held = false;
    }
    SceneReport {
        title: scene.title(),
        evidence,
        held,
        requests: counts.requests(),
        failed: counts.failed,
        took: clock::now().saturating_duration_since(started),
    }
}
