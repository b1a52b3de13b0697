//! Says that something has come for a connection before its task has had its turn to read it.
//!
//! The event loop tells all that has happened before any task runs. A request that is first in that turn would otherwise be sent on a connection
//! which its peer has already ended, or asked us to leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Between a socket and the task that reads from it.
pub(super) struct Bell {
    rope: Arc<Rope>,
    waker: Waker,
}

/// What whoever asks holds; see [`Rope::is_rung`].
#[derive(Default)]
pub(super) struct Rope {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Bell {
    pub(super) fn new() -> Self {
        let rope = Arc::<Rope>::default();
        let waker = Waker::from(rope.clone());
        Self { rope, waker }
    }

    pub(super) fn rope(&self) -> Arc<Rope> {
        self.rope.clone()
    }

    /// Runs `read`, and rings when there is more for it.
    pub(super) fn listen<T>(&self, cx: &mut Context<'_>, read: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.rope.task.register(cx.waker());
        self.rope.rung.store(false, Ordering::Relaxed);
        let read = read(&mut Context::from_waker(&self.waker));
        if read.is_ready() {
            // Until a read finds nothing there may be more.
            self.rope.rung.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl Rope {
    /// Whether the socket has, or may have, what was not read.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed)
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Relaxed);
        self.task.wake();
    }
}
