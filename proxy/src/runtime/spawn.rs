//! The named task spawner. A panic costs the task, is counted and logged with its place, never the worker.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

thread_local! {
    /// The task that runs on this thread, for the panic hook.
    static TASK: Cell<&'static str> = const { Cell::new("") };
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Spawns `future` on the current thread's runtime under a name that panics carry. A panic ends the task alone.
#[allow(clippy::disallowed_methods)]
pub fn spawn<F>(name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(Named::new(name, future))
}

/// As [`spawn`], on another thread's runtime.
pub fn spawn_on<F>(
    runtime: &tokio::runtime::Handle,
    name: &'static str,
    future: F,
) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    runtime.spawn(Named::new(name, future))
}

/// Runs `work`, and makes an error of its panic, which is counted and logged with its place as every other.
///
/// # Errors
/// What the panic said. Whatever `work` has touched is as it was at that moment.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        format!("it panicked: {}", text.unwrap_or("no message"))
    })
}

/// Panics since the process started, of tasks and threads (`server.worker_panics`).
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Has every panic counted and logged with its place and task; one outside a named task goes to the hook before, too (a program that
/// embeds a proxy, a test). Installs itself once; later calls do nothing.
pub fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let payload = panic.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let message = text
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            let task = TASK.replace("");
            tracing::error!(task, place, message, "panic");
            if task.is_empty() {
                before(panic);
            }
        }));
    });
}

pin_project_lite::pin_project! {
    struct Named<F> {
        name: &'static str,
        #[pin]
        future: F,
    }
}

impl<F> Named<F> {
    fn new(name: &'static str, future: F) -> Self {
        Self { name, future }
    }
}

impl<F: Future> Future for Named<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        TASK.set(this.name);
        let polled = this.future.poll(cx);
        TASK.set("");
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_counted_and_ends_its_task_alone() {
        install_panic_hook();
        let before = panics();
        let broken = spawn("broken", async { std::panic::panic_any("on purpose") });
        assert!(broken.await.is_err_and(|error| error.is_panic()));
        assert!(panics() > before);
        assert_eq!(spawn("fine", async { 7 }).await.ok(), Some(7));
    }
}
