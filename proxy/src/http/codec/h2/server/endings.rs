//! How connections end that their clients did not end well, and what the log says of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::wire::{Error, Reason};
use super::{Cut, Driver, Timer};
use crate::http::codec::unread_request;
use crate::http::exchange::{Exchange, Protocol, Reset};
use crate::http::service::{ConnectionEvent, Service};
use crate::listener::ConnectionInfo;
use crate::runtime::clock;
use crate::runtime::io::Io;
use crate::telemetry::flags::ResponseFlags;

/// So much is read of what comes behind the end, in bytes.
const ENOUGH: usize = 256 * 1024;

/// Says that no more will come, and reads what the peer still sends, for a while: closing over unread bytes would reset the connection, and take back
/// what the peer has not read yet. Returns whether the peer had not closed by the end of it.
pub(super) async fn linger(mut io: Io, limit: Duration) -> bool {
    let rest = async {
        let _ = io.shutdown().await;
        let mut nobody = vec![0; 4096];
        let mut room = ENOUGH;
        while room > 0 {
            match io.read(&mut nobody).await {
                Ok(count) if count > 0 => room = room.saturating_sub(count),
                _ => return,
            }
        }
        // It sends on and on: it is not read any more, and has until then to read what we have said.
        std::future::pending().await
    };
    tokio::select! {
        () = rest => false,
        () = clock::sleep(limit) => true,
    }
}

impl<S: Service> Driver<S> {
    /// The connection failed: what its streams are told, and the statistics.
    pub(super) fn failed(&mut self, error: Error) {
        /// Envoy's for all that its codec does not name.
        const BROKEN: &str = "codec_error:The_user_callback_function_failed";
        let details = match self.h2.flood() {
            Some(flood) => flood,
            None if error == Error::Transport => return,
            None if error.is_remote() || self.shared.cut.get().is_some() => {
                let _ = self.shared.cut.set(Cut::Local);
                return;
            }
            None => BROKEN,
        };
        let _ = self.shared.cut.set(Cut::Broken(details));
        self.hangs_up = details != BROKEN || error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
        self.service.event(ConnectionEvent::ProtocolError);
        self.tell_malformed();
        // Requests that the client had begun, and nobody has seen.
        for _ in 0..self.h2.unseen() {
            self.tell(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, details);
        }
    }

    /// Requests that were reset for what their heads were leave a line in the log.
    pub(super) fn tell_malformed(&mut self) {
        for details in self.h2.take_malformed() {
            self.service.event(ConnectionEvent::ProtocolError);
            self.tell(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, details);
        }
    }

    fn tell(&self, flags: ResponseFlags, details: &'static str) {
        tell(&*self.service, &self.connection, flags, details);
    }

    /// Whether the connection must be polled again because a header block is late.
    pub(super) fn poll_headers(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(limit) = self.shared.options.request_headers.filter(|_| !self.late) else {
            return false;
        };
        let Some(since) = self.h2.block_since() else {
            self.headers = None;
            return false;
        };
        let timer = self.headers.get_or_insert_with(|| Timer::after(limit));
        loop {
            timer.rearm(since + limit);
            if timer.poll(cx).is_pending() {
                return false;
            }
            if since + limit <= clock::now() {
                break;
            }
        }
        tracing::debug!(connection = self.connection.id, "http2 request headers timeout");
        self.late = true;
        self.tell(ResponseFlags::default(), "request_header_timeout");
        // Until the block is complete the client can say nothing else: streams that it has ended are answered, then the connection goes.
        self.ending = Some(Timer::after(Duration::ZERO));
        true
    }

    /// Whether the connection must be polled again because it ends.
    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>) -> bool {
        const AGAIN: Duration = Duration::from_secs(1);
        let Some(timer) = &mut self.ending else { return false };
        while timer.poll(cx).is_ready() {
            if self.shared.streams.load(Ordering::Relaxed) == 0 {
                self.ending = None;
                self.shut(Reason::NO_ERROR);
                return true;
            }
            timer.rearm(clock::now() + AGAIN);
        }
        false
    }
}

/// Writes down a request that was none.
pub(in crate::http::codec::h2) fn tell<S: Service>(
    service: &S,
    connection: &Arc<ConnectionInfo>,
    flags: ResponseFlags,
    details: &'static str,
) {
    let mut exchange = Exchange::new(unread_request(), connection.clone(), Protocol::Http2);
    exchange.flags.set(flags);
    exchange.reset = Some(Reset::ByClient);
    exchange.details = Cow::Borrowed(details);
    exchange.timing.end = Some(exchange.elapsed());
    service.finish(&mut exchange);
}
