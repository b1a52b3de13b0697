//! Workers: one OS thread with a current-thread runtime each. A connection never leaves its worker.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::spawn;

thread_local! {
    static INDEX: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The index of the worker that this thread is; `None` elsewhere (main, tests).
pub fn index() -> Option<usize> {
    INDEX.get()
}

/// All workers of the process. Dropping it stops them.
pub struct Workers(Vec<Worker>);

struct Worker {
    handle: Handle,
    /// Dropped to stop the worker.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads named `wrk:worker_N`.
    ///
    /// # Errors
    /// When the system refuses a thread or its event queue.
    pub fn start(count: usize) -> io::Result<Self> {
        spawn::install_panic_hook();
        (0..count.max(1))
            .map(Worker::start)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes a future on the worker `index` and runs it there. Never blocks the caller; what the future returns is dropped.
    pub fn run<M, F>(&self, index: usize, name: &'static str, make: M)
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if let Some(worker) = self.0.get(index) {
            spawn::spawn_on(&worker.handle, name, async move { make().await });
        }
    }

    /// As [`run`](Self::run), on every worker.
    pub fn run_all<M, F>(&self, name: &'static str, make: M)
    where
        M: FnOnce(usize) -> F + Clone + Send + 'static,
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        for index in 0..self.0.len() {
            let make = make.clone();
            self.run(index, name, move || make(index));
        }
    }

    /// Stops all workers: their tasks are dropped where they stand. Drain first.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        for worker in &mut self.0 {
            worker.stop.take();
        }
        for worker in &mut self.0 {
            // The last owner may be a worker itself, which ends by itself.
            let other = |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
            if let Some(thread) = worker.thread.take().filter(other) {
                // A panic of the thread itself is logged by the hook.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Worker {
    fn start(index: usize) -> io::Result<Self> {
        // The runtime is made here, so that a failure is the caller's.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(format!("wrk:worker_{index}"))
            .spawn(move || {
                INDEX.set(Some(index));
                // Ends when the sender is dropped.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn futures_run_on_the_worker_that_was_named() {
        let workers = Workers::start(2).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        workers.run_all("where", move |asked| async move {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = sender.send((asked, index(), name));
        });
        let mut seen: Vec<_> = receiver.iter().collect();
        seen.sort();
        assert_eq!(seen[0], (0, Some(0), "wrk:worker_0".to_owned()));
        assert_eq!(seen[1], (1, Some(1), "wrk:worker_1".to_owned()));
        workers.stop();
    }
}
