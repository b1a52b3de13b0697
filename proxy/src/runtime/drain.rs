//! Drain signals: one owner says "finish", every connection under it hears so, idle or not.

use tokio::sync::watch;

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum DrainPhase {
    /// Serve as usual.
    #[default]
    Serving,
    /// Ask peers to leave: `connection: close`, GOAWAY; finish what runs.
    Draining,
    /// Close now.
    Closed,
}

/// The owner's end. Dropping it counts as [`DrainPhase::Draining`]: what nobody owns any more must go.
#[derive(Debug)]
pub struct Drain(watch::Sender<DrainPhase>);

impl Drain {
    pub fn new() -> (Self, DrainSignal) {
        let (sender, receiver) = watch::channel(DrainPhase::Serving);
        (Self(sender), DrainSignal(receiver))
    }

    /// Moves to `phase`; a drain never goes back.
    pub fn advance(&self, phase: DrainPhase) {
        self.0.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }

    pub fn signal(&self) -> DrainSignal {
        DrainSignal(self.0.subscribe())
    }

    /// Connections (signals) that still live.
    pub fn listeners(&self) -> usize {
        self.0.receiver_count()
    }
}

/// A connection's end; cheap to clone.
#[derive(Clone, Debug)]
pub struct DrainSignal(watch::Receiver<DrainPhase>);

impl DrainSignal {
    pub fn phase(&self) -> DrainPhase {
        let phase = *self.0.borrow();
        if phase == DrainPhase::Serving && self.0.has_changed().is_err() {
            return DrainPhase::Draining;
        }
        phase
    }

    pub fn is_draining(&self) -> bool {
        self.phase() >= DrainPhase::Draining
    }

    /// Completes when the phase is at least `phase` (at once if it is already). Cancel safe.
    pub async fn reached(&mut self, phase: DrainPhase) {
        // An error means that the owner is gone, which counts as draining.
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }
}
