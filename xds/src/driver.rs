//! The one task that moves bytes between an [`Engine`] and the world.
//!
//! In: events of streams and watched files, commands of handles, time. Out: requests. Each response is parsed, checked and applied
//! on a blocking thread; meanwhile the task waits, which is the back-pressure on the streams (their connections live elsewhere and
//! keep answering pings). No follower is ever waited for.

mod builder;
mod handle;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tonic::{Code, Status};

pub use builder::{Builder, Client, Decode};
pub use handle::{ClientHandle, Stopped};

use crate::client::connect::Connect;
use crate::client::file;
use crate::client::stream::{Events, StreamEvent};
use crate::engine::{Engine, StreamId, ToOpen};
use crate::store::{Now, PathSource, Source};
use handle::Command;

/// Requests that may wait for one stream to take them.
const OUTGOING: usize = 64;
/// How soon a stream that took none is offered them again.
const RETRY: Duration = Duration::from_millis(50);

/// Gives the connector of a source.
pub(crate) type Connectors = Arc<dyn Fn(&Source) -> Option<Arc<dyn Connect>> + Send + Sync>;

/// Runs a client. Make one with [`Client::builder`].
pub struct Driver {
    /// Away while a blocking thread works on it.
    engine: Option<Box<Engine>>,
    connectors: Connectors,
    decode: Option<Decode>,
    /// The encoded node.
    node: Bytes,
    commands: mpsc::Receiver<Command>,
    open: Vec<Open>,
    clock: fn() -> Now,
}

struct Open {
    id: StreamId,
    link: Link,
    /// What messages call it: the rpc and whom it goes to.
    what: String,
}

enum Link {
    Stream {
        events: Events,
        outgoing: mpsc::Sender<Bytes>,
    },
    File {
        source: PathSource,
        changes: BoxStream<'static, ()>,
    },
}

enum Event {
    Stream(StreamId, StreamEvent),
    File(StreamId, PathSource),
    Command(Option<Command>),
    Time,
}

impl Driver {
    /// Runs until [`ClientHandle::stop`] or until every handle is gone. Needs a tokio runtime with I/O, time and blocking threads.
    ///
    /// # Cancel safety
    /// Dropping the future ends the client and its streams.
    pub async fn run(mut self) {
        loop {
            if !self.settle().await {
                return;
            }
            match self.next_event().await {
                Event::Stream(id, event) => self.on_stream(id, event).await,
                Event::File(id, source) => self.read(id, source).await,
                Event::Command(Some(command)) => {
                    if !self.on_command(command).await {
                        return;
                    }
                }
                Event::Command(None) => return,
                Event::Time => {
                    self.work(|engine, now| engine.tick(now)).await;
                }
            }
        }
    }

    /// Opens and closes what is due and offers requests to streams. Returns false when the engine is lost.
    async fn settle(&mut self) -> bool {
        let now = (self.clock)();
        let Some(engine) = self.engine.as_mut() else {
            return false;
        };
        let (closed, rereads) = (engine.take_closed(), engine.take_rereads());
        self.open.retain(|open| !closed.contains(&open.id));
        for to_open in engine.streams_to_open(now.instant) {
            engine.on_connected(to_open.id, now);
            // The embedder's code may panic; that costs this attempt.
            let opened = catch_unwind(AssertUnwindSafe(|| open(&self.connectors, &to_open)));
            match opened.ok().flatten() {
                Some((link, what)) => self.open.push(Open {
                    id: to_open.id,
                    link,
                    what,
                }),
                None => engine.on_disconnected(to_open.id, now),
            }
        }
        for open in &self.open {
            let Link::Stream { outgoing, .. } = &open.link else {
                continue;
            };
            while let Ok(permit) = outgoing.try_reserve() {
                let Some(request) = engine.poll_transmit(open.id, now.instant) else {
                    break;
                };
                if request.is_nack() {
                    tracing::debug!(type_url = request.type_url, "nack");
                }
                permit.send(request.encode(&self.node));
            }
        }
        for id in rereads {
            let source = self
                .open
                .iter()
                .find(|open| open.id == id)
                .and_then(|open| match &open.link {
                    Link::File { source, .. } => Some(source.clone()),
                    Link::Stream { .. } => None,
                });
            if let Some(source) = source {
                self.read(id, source).await;
            }
        }
        self.engine.is_some()
    }

    async fn next_event(&mut self) -> Event {
        let now = (self.clock)().instant;
        let full = self.open.iter().any(|open| match &open.link {
            Link::Stream { outgoing, .. } => outgoing.capacity() == 0 && !outgoing.is_closed(),
            Link::File { .. } => false,
        });
        let engine = self.engine.as_ref().and_then(|engine| engine.next_deadline());
        let deadline = engine.into_iter().chain(full.then(|| now + RETRY)).min();
        let open = &mut self.open;
        tokio::select! {
            command = self.commands.recv() => Event::Command(command),
            event = next_of(open) => event,
            () = sleep_until(deadline) => Event::Time,
        }
    }

    async fn on_stream(&mut self, id: StreamId, event: StreamEvent) {
        match event {
            StreamEvent::Accepted => {
                self.work(move |engine, _| engine.on_accepted(id)).await;
            }
            StreamEvent::Message(message) => {
                let (node, outgoing) = (self.node.clone(), self.outgoing(id));
                let room = outgoing.as_ref().map_or(0, mpsc::Sender::capacity);
                // What answers it is put together there too: it may name every cluster.
                let job = move |engine: &mut Engine, now: Now| {
                    let applied = engine.on_message(id, message, now);
                    let requests = std::iter::from_fn(|| engine.poll_transmit(id, now.instant)).take(room);
                    let requests: Vec<_> = requests.map(|request| request.encode(&node)).collect();
                    (applied, requests)
                };
                let Some((applied, requests)) = self.work(job).await else {
                    return;
                };
                for (request, outgoing) in requests.into_iter().zip(outgoing.iter().cycle()) {
                    // There is room, as nobody else sends; a stream that is gone takes nothing, and is opened anew.
                    let _ = outgoing.try_send(request);
                }
                if let Err(reason) = applied {
                    self.disconnect(id, &Status::internal(reason));
                }
            }
            StreamEvent::Closed(status) => self.disconnect(id, &status),
        }
    }

    fn outgoing(&self, id: StreamId) -> Option<mpsc::Sender<Bytes>> {
        let open = self.open.iter().find(|open| open.id == id)?;
        match &open.link {
            Link::Stream { outgoing, .. } => Some(outgoing.clone()),
            Link::File { .. } => None,
        }
    }

    fn disconnect(&mut self, id: StreamId, status: &Status) {
        let at = self.open.iter().position(|open| open.id == id);
        let what = at.map_or_else(String::new, |at| self.open.swap_remove(at).what);
        let now = (self.clock)();
        let Some(engine) = self.engine.as_mut() else {
            return;
        };
        let code = status.code();
        let reason = format!("{what} closed: {}, {}", code as i32, status.message());
        let usual = matches!(
            code,
            Code::Ok | Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted
        );
        if engine.note_failure(id, reason.clone(), usual) {
            tracing::warn!("{reason}");
        } else {
            tracing::debug!("{reason}");
        }
        engine.on_disconnected(id, now);
    }

    /// Reads, decodes and applies a file. What cannot be read changes nothing.
    async fn read(&mut self, id: StreamId, source: PathSource) {
        let Some(decode) = self.decode.clone() else {
            tracing::warn!(path = &*source.path, "no decoder for files is configured");
            return;
        };
        let read = move |engine: &mut Engine, now| {
            let path = std::path::Path::new(&*source.path);
            let content = file::read(path);
            let decode = |content: Vec<u8>| {
                let decoded = catch_unwind(AssertUnwindSafe(|| decode(&content, path)));
                decoded.unwrap_or_else(|_| Err("internal error: the decoder panicked".to_owned()))
            };
            let message = content.and_then(decode);
            let applied = message.and_then(|message| engine.on_message(id, message, now));
            if let Err(error) = applied {
                tracing::warn!(
                    path = &*source.path,
                    error,
                    "file is not usable, the last good one stays"
                );
                engine.on_unreadable(id, error, now);
            }
        };
        self.work(read).await;
    }

    /// Returns false when that was the last command.
    async fn on_command(&mut self, command: Command) -> bool {
        match command {
            // Whoever asked may have gone; after a panic nobody is answered.
            Command::Follow(reply) => {
                let updates = self.work(|engine, _| engine.store.follow()).await;
                drop(updates.map(|updates| reply.send(updates)));
            }
            Command::Status(reply) => {
                let status = self.work(|engine, _| engine.status()).await;
                drop(status.map(|status| reply.send(status)));
            }
            Command::Dump(reply) => {
                let dump = self.work(|engine, _| engine.store.dump()).await;
                drop(dump.map(|dump| reply.send(dump)));
            }
            Command::Pin(owner, references) => {
                self.work(move |engine, now| engine.pin(&owner, references, now)).await;
            }
            Command::Unpin(owner) => {
                self.work(move |engine, now| engine.unpin(&owner, now)).await;
            }
            Command::Root(root) => {
                self.work(move |engine, now| engine.add_root(root, now)).await;
            }
            Command::Stop => return false,
        }
        true
    }

    /// Runs `job` on a blocking thread. `None`: it panicked (as a callback of the embedder may), or the runtime ends.
    async fn work<T: Send + 'static>(&mut self, job: impl FnOnce(&mut Engine, Now) -> T + Send + 'static) -> Option<T> {
        let mut engine = self.engine.take()?;
        let clock = self.clock;
        let worked = tokio::task::spawn_blocking(move || {
            let done = catch_unwind(AssertUnwindSafe(|| job(&mut engine, clock())));
            (engine, done)
        });
        match worked.await {
            Ok((engine, done)) => {
                self.engine = Some(engine);
                if done.is_err() {
                    self.start_again();
                }
                done.ok()
            }
            Err(error) => {
                tracing::error!(%error, "xds client ends");
                None
            }
        }
    }

    /// After a panic nobody knows what was said and what was not: every stream is opened anew, where all is said again. What was published stays.
    fn start_again(&mut self) {
        tracing::error!("a panic while the xds client worked: all streams start again");
        let now = (self.clock)();
        for open in std::mem::take(&mut self.open) {
            if let Some(engine) = self.engine.as_mut() {
                engine.on_disconnected(open.id, now);
            }
        }
    }
}

fn open(connectors: &Connectors, to_open: &ToOpen) -> Option<(Link, String)> {
    if let Source::Path(source) = &*to_open.source {
        let link = Link::File {
            source: source.clone(),
            changes: file::watch(source),
        };
        return Some((link, format!("watch of {}", source.path)));
    }
    let connector = connectors(&to_open.source)?;
    let (outgoing, queue) = mpsc::channel(OUTGOING);
    let rpc = to_open.path.rsplit('/').next().unwrap_or_default();
    let what = format!("{rpc} gRPC config stream to {}", connector.target());
    let link = Link::Stream {
        events: connector.open(to_open.path, queue),
        outgoing,
    };
    Some((link, what))
}

/// The next event of any stream or file; pending for ever while there is none.
async fn next_of(open: &mut [Open]) -> Event {
    std::future::poll_fn(|context| {
        let ready = open.iter_mut().position_map(|open| match &mut open.link {
            Link::Stream { events, .. } => match Pin::new(events).poll_next(context) {
                Poll::Ready(Some(event)) => Some(Event::Stream(open.id, event)),
                // Unreachable by contract; a connector that breaks it has lost its stream all the same.
                Poll::Ready(None) => Some(Event::Stream(
                    open.id,
                    StreamEvent::Closed(Status::unavailable("ended")),
                )),
                Poll::Pending => None,
            },
            Link::File { source, changes } => match Pin::new(changes).poll_next(context) {
                Poll::Ready(Some(())) => Some(Event::File(open.id, source.clone())),
                Poll::Ready(None) | Poll::Pending => None,
            },
        });
        let Some((at, event)) = ready else { return Poll::Pending };
        // Whoever had its turn goes last.
        open[at..].rotate_left(1);
        Poll::Ready(event)
    })
    .await
}

trait PositionMap: Iterator + Sized {
    /// The first `Some` of `map`, and where it was.
    fn position_map<T>(self, map: impl FnMut(Self::Item) -> Option<T>) -> Option<(usize, T)>;
}

impl<I: Iterator> PositionMap for I {
    fn position_map<T>(self, mut map: impl FnMut(I::Item) -> Option<T>) -> Option<(usize, T)> {
        self.enumerate()
            .find_map(|(at, item)| map(item).map(|found| (at, found)))
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Mode, Root, SourceConfig, types};

    /// A control plane that hands its streams out and says nothing.
    struct Silent(mpsc::Sender<mpsc::Receiver<Bytes>>);

    impl Connect for Silent {
        fn open(&self, _: &'static str, outgoing: mpsc::Receiver<Bytes>) -> Events {
            self.0.try_send(outgoing).unwrap();
            Box::pin(futures_util::stream::pending())
        }
    }

    #[tokio::test]
    async fn a_panic_costs_the_streams_and_not_the_client() {
        let (opened, mut streams) = mpsc::channel(4);
        let (client, mut driver) = Client::builder(&Default::default())
            .ads(SourceConfig::aggregated(Mode::Delta), Silent(opened))
            .root(Root::new(&types::CLUSTER))
            .build();
        assert!(driver.settle().await);
        let mut first = streams.recv().await.unwrap();
        assert!(first.recv().await.is_some(), "the subscription");
        assert!(driver.work(|_, _| panic!("planted")).await.is_none());
        let running = tokio::spawn(driver.run());
        let mut second = streams.recv().await.unwrap();
        assert!(second.recv().await.is_some(), "the subscription again");
        assert!(first.recv().await.is_none(), "the stream before is closed");
        assert_eq!(client.status().await.unwrap().types.len(), 1);
        client.stop().await;
        running.await.unwrap();
    }

    /// A control plane that pushes without end, and counts what is taken.
    struct Flood(Arc<AtomicUsize>);

    impl Connect for Flood {
        fn open(&self, _: &'static str, outgoing: mpsc::Receiver<Bytes>) -> Events {
            let taken = self.0.clone();
            let events = futures_util::stream::unfold(outgoing, move |mut outgoing| {
                let taken = taken.clone();
                async move {
                    // Nothing before the first request.
                    if taken.load(Ordering::SeqCst) == 0 {
                        outgoing.recv().await?;
                    }
                    taken.fetch_add(1, Ordering::SeqCst);
                    let cluster = crate::tests::res("a", "1");
                    let message = crate::tests::delta(&types::CLUSTER, "n", &[cluster], &[]);
                    Some((StreamEvent::Message(message), outgoing))
                }
            });
            Box::pin(events)
        }
    }

    #[tokio::test]
    async fn the_next_response_of_a_stream_is_not_read_before_the_last_one_is_applied() {
        let taken = Arc::new(AtomicUsize::new(0));
        let (entered, mut checks) = mpsc::unbounded_channel();
        let (resume, gate) = std::sync::mpsc::channel::<()>();
        let gate = parking_lot::Mutex::new(gate);
        let (client, driver) = Client::builder(&Default::default())
            .ads(SourceConfig::aggregated(Mode::Delta), Flood(taken.clone()))
            .interpreter(move |_: &str, _: &str, _: &Bytes| {
                entered.send(()).unwrap();
                let _ = gate.lock().recv();
                Ok(Vec::new())
            })
            .root(Root::new(&types::CLUSTER))
            .build();
        let running = tokio::spawn(driver.run());
        checks.recv().await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(taken.load(Ordering::SeqCst), 1, "the first is still being checked");
        resume.send(()).unwrap();
        while taken.load(Ordering::SeqCst) == 1 {
            tokio::task::yield_now().await;
        }
        drop(resume);
        client.stop().await;
        running.await.unwrap();
    }
}
