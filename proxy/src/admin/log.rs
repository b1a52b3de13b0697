//! `admin.access_log`: one line for each request to the admin server, written when its page is sent.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::ConnectInfo;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use bytes::Bytes;
use http::request::Parts;
use http_body::{Frame, SizeHint};

use super::counted::Counting;
use super::reply::Reply;
use crate::http::exchange::{Exchange, Protocol};
use crate::listener::{ConnectionInfo, Direction};
use crate::runtime::clock;
use crate::runtime::io::Address;
use crate::telemetry::access_log::AccessLog;

/// The two ends of an admin connection.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    local: Address,
    remote: Address,
}

impl Default for Ends {
    /// Of a unix socket whose path is not known.
    fn default() -> Self {
        Self {
            local: Address::Pipe("".into()),
            remote: Address::Pipe("".into()),
        }
    }
}

impl Ends {
    pub(super) fn of_tcp(local: Option<SocketAddr>, remote: SocketAddr) -> Self {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            local: Address::Ip(local.unwrap_or(unknown)),
            remote: Address::Ip(remote),
        }
    }

    pub(super) fn of_unix(address: Option<tokio::net::unix::SocketAddr>) -> Self {
        let path = address.as_ref().and_then(|address| address.as_pathname()?.to_str());
        Self {
            local: Address::Pipe(path.unwrap_or_default().into()),
            ..Self::default()
        }
    }
}

impl<T> Connected<IncomingStream<'_, Counting<T>>> for Ends
where
    Counting<T>: Listener<Addr = Ends>,
{
    fn connect_info(stream: IncomingStream<'_, Counting<T>>) -> Self {
        stream.remote_addr().clone()
    }
}

/// The request as its log will show it.
pub(super) fn exchange(head: &Parts) -> Exchange {
    let ends = head.extensions.get::<ConnectInfo<Ends>>();
    let ends = ends.map(|info| info.0.clone()).unwrap_or_default();
    let connection = ConnectionInfo {
        id: 0,
        local: ends.local,
        direct_remote: ends.remote.clone(),
        remote: ends.remote,
        own_local: None,
        original_destination: None,
        sni: None,
        transport_protocol: "raw_buffer",
        alpn: None,
        tls: None,
        workload: None,
        listener_name: Arc::from(""),
        filter_chain_name: Arc::from(""),
        metadata: Default::default(),
        direction: Direction::Unspecified,
        accepted_at: clock::now(),
        secured_at: None,
        requests: Default::default(),
        xfcc: Default::default(),
        buffer_limit: 0,
        extensions: http::Extensions::new(),
    };
    let protocol = match head.version {
        http::Version::HTTP_10 => Protocol::Http10,
        _ => Protocol::Http11,
    };
    let mut request = http::Request::new(crate::http::body::Body::Empty);
    request.method_mut().clone_from(&head.method);
    request.uri_mut().clone_from(&head.uri);
    request.headers_mut().clone_from(&head.headers);
    let mut exchange = Exchange::new(request, Arc::new(connection), protocol);
    exchange.authority = head.headers.get(http::header::HOST).cloned();
    exchange.details = "admin_filter_response".into();
    exchange
}

/// The reply, with its end logged.
pub(super) fn logged(reply: Reply, mut exchange: Exchange, logs: Arc<[AccessLog]>) -> Reply {
    exchange.response_code = Some(reply.status());
    exchange.logged_response = Some(Box::new(reply.headers().clone()));
    reply.map(|inner| Body::new(Logged { inner, exchange, logs }))
}

/// A page that is logged when it is dropped: sent, or given up.
struct Logged {
    inner: Body,
    exchange: Exchange,
    logs: Arc<[AccessLog]>,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            this.exchange.bytes.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.exchange.timing.end = Some(self.exchange.elapsed());
        self.logs.iter().for_each(|log| log.log(&self.exchange));
    }
}
