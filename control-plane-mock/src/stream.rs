//! One stream from open to close: requests in, transcript entries and responses out, with the script's mischief in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::grpc::{self, Piece, Requests, code};
use crate::script::{Command, Ending, Fault, Pace};
use crate::session::{Reply, Session};
use crate::shared::{Inner, Shared};
use crate::task;
use crate::transcript::{Entry, What};

/// Time given to bytes already written to reach the peer before an abrupt end would discard them.
const FLUSH: Duration = Duration::from_millis(20);

/// Everything one stream holds.
pub struct Stream<S> {
    /// The wire rules and what the client has.
    pub session: S,
    /// State of the server.
    pub shared: Arc<Shared>,
    /// Number of the stream.
    pub id: u64,
    /// Delta rather than state of the world.
    pub delta: bool,
    /// Where response bytes go.
    pub pieces: mpsc::Sender<Piece>,
    /// Closes the connection under the stream.
    pub kill_connection: Arc<Notify>,
    /// Commands already seen by this stream.
    pub commands_seen: usize,
    /// When a delayed response of a type may go.
    pub holds: BTreeMap<String, Instant>,
    /// Responses sent so far.
    pub responses: u64,
}

/// What a stream has to do next.
enum Step {
    Send(Outgoing),
    End(Ending),
    /// Nothing until something happens, or until the given time.
    Idle(Option<Instant>),
}

struct Outgoing {
    message: Vec<u8>,
    fault: Option<Fault>,
    pace: Option<Pace>,
}

/// Why a stream stops: how it is to be ended, and what the transcript says about it.
struct Stop {
    ending: Option<Ending>,
    status: (i32, String),
    note: String,
}

impl<S: Session> Stream<S> {
    /// Runs the stream until either side ends it.
    pub async fn run(mut self, mut requests: Requests) {
        let stop = self.serve(&mut requests).await;
        let mut entry = Entry::new(self.id, self.delta, What::Close, "");
        entry.note = stop.note;
        self.shared.record(entry);
        match stop.ending {
            None => {
                let (status, message) = stop.status;
                self.trailers(status, &message).await;
            }
            Some(Ending::Ok) => self.trailers(code::OK, "").await,
            Some(Ending::Unavailable) => self.trailers(code::UNAVAILABLE, "scripted").await,
            Some(Ending::Reset) => {
                tokio::time::sleep(FLUSH).await;
                let _ = self.pieces.send(Piece::Reset).await;
            }
            Some(Ending::Connection) => {
                tokio::time::sleep(FLUSH).await;
                self.kill_connection.notify_one();
            }
        }
    }

    async fn serve(&mut self, requests: &mut Requests) -> Stop {
        let mut changes = self.shared.changes();
        loop {
            changes.borrow_and_update();
            let wake = match self.next_step() {
                Step::Send(outgoing) => match self.deliver(outgoing).await {
                    Ok(()) => continue,
                    Err(stop) => return stop,
                },
                Step::End(ending) => return Stop::scripted(ending),
                Step::Idle(wake) => wake,
            };
            tokio::select! {
                request = requests.next() => match request {
                    Ok(Some(bytes)) => if let Err(stop) = self.receive(bytes) {
                        return stop;
                    },
                    Ok(None) => return Stop::of(code::OK, "", "client finished"),
                    Err(error) => return Stop::of(code::INVALID_ARGUMENT, "bad stream", &format!("client: {error}")),
                },
                _ = changes.changed() => {}
                () = sleep_until(wake) => {}
                () = self.pieces.closed() => return Stop::of(code::OK, "", "client went away"),
            }
        }
    }

    fn receive(&mut self, bytes: Bytes) -> Result<(), Stop> {
        let mut inner = self.shared.lock();
        let received = self.session.receive(bytes, &inner.store, &inner.script);
        match received {
            Ok(entry) => {
                inner.transcript.record(entry);
                drop(inner);
                self.shared.announce_record();
                Ok(())
            }
            Err(text) => Err(Stop::of(code::INVALID_ARGUMENT, &text, &text)),
        }
    }

    fn next_step(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        let step = self
            .command_step(&mut inner)
            .unwrap_or_else(|| self.owed_step(&mut inner));
        drop(inner);
        if matches!(step, Step::Send(_)) {
            shared.announce_record();
        }
        step
    }

    fn command_step(&mut self, inner: &mut Inner) -> Option<Step> {
        loop {
            let command = inner.script.commands.get(self.commands_seen)?.clone();
            self.commands_seen += 1;
            match command {
                Command::End { stream, ending } if stream.is_none_or(|id| id == self.id) => {
                    return Some(Step::End(ending));
                }
                Command::End { .. } => {}
                Command::Resend(type_url) => self.session.forget_sent(&type_url),
                Command::Heartbeat { type_url, name } => {
                    if self.session.subscribed().contains(&type_url) {
                        let reply = self.session.heartbeat(&type_url, &name, &inner.store);
                        return Some(self.send(inner, reply, "heartbeat"));
                    }
                }
                Command::Unsolicited(type_url) => {
                    let reply = self.session.respond_unsolicited(&type_url, &inner.store);
                    return Some(self.send(inner, reply, "unsolicited"));
                }
                Command::Raw(message) => {
                    return Some(Step::Send(Outgoing {
                        message,
                        fault: None,
                        pace: inner.script.pace,
                    }));
                }
            }
        }
    }

    fn owed_step(&mut self, inner: &mut Inner) -> Step {
        if let Some((limit, ending)) = inner.script.end_after
            && self.responses >= limit
        {
            return Step::End(ending);
        }
        let mut wake: Option<Instant> = None;
        let mut type_urls = self.session.subscribed();
        inner.script.sort(&mut type_urls);
        for type_url in type_urls {
            if inner.script.withheld.contains(&type_url) || !self.session.owes(&type_url, &inner.store, &inner.script) {
                continue;
            }
            if let Some(delay) = inner.script.delays.get(&type_url) {
                let now = task::now();
                let hold = *self.holds.entry(type_url.clone()).or_insert(now + *delay);
                if now < hold {
                    wake = Some(wake.map_or(hold, |other| other.min(hold)));
                    continue;
                }
            }
            self.holds.remove(&type_url);
            let reply = self.session.respond(&type_url, &inner.store, &inner.script);
            return self.send(inner, reply, "");
        }
        Step::Idle(wake)
    }

    /// Applies the next fault of the type, records the response and hands it on. Recording before writing means that no answer can stand
    /// in the transcript ahead of what it answers.
    fn send(&mut self, inner: &mut Inner, mut reply: Reply, note: &str) -> Step {
        note.clone_into(&mut reply.entry.note);
        let fault = inner.script.take_fault(&reply.entry.type_url);
        if let Some(fault) = &fault {
            let (_, previous) = self.session.nonces(&reply.entry.type_url);
            reply.spoil(fault, &previous);
        }
        inner.transcript.record(reply.entry);
        self.responses += 1;
        Step::Send(Outgoing {
            message: reply.message.encode(),
            fault,
            pace: inner.script.pace,
        })
    }

    async fn deliver(&self, outgoing: Outgoing) -> Result<(), Stop> {
        let framed = grpc::frame(&outgoing.message);
        match outgoing.fault {
            Some(Fault::Lost) => Ok(()),
            Some(Fault::Garbage) => self.write(grpc::frame(&GARBAGE), outgoing.pace).await,
            Some(Fault::CutShort(ending)) => {
                self.write(framed.slice(..framed.len() / 2), outgoing.pace).await?;
                Err(Stop::scripted(ending))
            }
            _ => self.write(framed, outgoing.pace).await,
        }
    }

    async fn write(&self, mut bytes: Bytes, pace: Option<Pace>) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let piece = match pace {
                Some(pace) => bytes.split_to(pace.chunk.clamp(1, bytes.len())),
                None => bytes.split_off(0),
            };
            if self.pieces.send(Piece::Data(piece)).await.is_err() {
                return Err(Stop::of(code::OK, "", "client went away"));
            }
            if let Some(pace) = pace {
                tokio::time::sleep(pace.gap).await;
            }
        }
        Ok(())
    }

    async fn trailers(&self, status: i32, message: &str) {
        // A client that is gone needs no trailers.
        let _ = self
            .pieces
            .send(Piece::Trailers(grpc::status_trailers(status, message)))
            .await;
    }
}

impl Stop {
    fn of(status: i32, message: &str, note: &str) -> Self {
        Self {
            ending: None,
            status: (status, message.to_owned()),
            note: note.to_owned(),
        }
    }

    fn scripted(ending: Ending) -> Self {
        Self {
            ending: Some(ending),
            status: (code::OK, String::new()),
            note: format!("scripted: {ending:?}"),
        }
    }
}

/// A tag with wire type 7, which protobuf does not have.
const GARBAGE: [u8; 4] = [0xff, 0xff, 0xff, 0xff];

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
