//! Both drivers against raw bytes over in-memory streams.

mod client;
mod server;

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::server::{Timeouts, serve};
use super::{H1Options, server::RefusedHead};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::service::{Response, Service};
use crate::runtime::drain::Drain;
use crate::runtime::io::Io;
use crate::testing;

/// Of an exchange: its details, the bytes sent, the code.
type Record = (String, u64, Option<u16>);

/// Answers with the request's body; `/collect` reads all of it first, `/early` nothing.
struct Echo {
    finished: mpsc::Sender<Record>,
}

impl Service for Echo {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        if let Some(RefusedHead(failure)) = exchange.extensions.remove::<RefusedHead>() {
            let row = failure.row();
            let mut response = Response::new(Body::from(row.body));
            *response.status_mut() = row.status;
            exchange.details = row.details.into();
            return response;
        }
        let body = exchange.request.body_mut().take();
        match exchange.request.uri().path() {
            "/early" => Response::new(Body::from("early")),
            "/collect" => match http_body_util::BodyExt::collect(body).await {
                Ok(whole) => Response::new(Body::from(whole.to_bytes())),
                Err(error) => {
                    exchange.response_code = Some(http::StatusCode::SERVICE_UNAVAILABLE);
                    Response::new(Body::from(error.to_string()))
                }
            },
            "/never" => std::future::pending().await,
            _ => Response::new(body),
        }
    }

    fn finish(&self, exchange: &mut Exchange) {
        let code = exchange.response_code.map(|code| code.as_u16());
        let record = (exchange.details.to_string(), exchange.bytes.sent, code);
        self.finished.try_send(record).expect("the test reads what it makes");
    }
}

/// A served connection: the client's end, what was finished, the drain.
struct Served {
    client: DuplexStream,
    finished: mpsc::Receiver<Record>,
    drain: Drain,
    task: tokio::task::JoinHandle<()>,
}

fn served(pipe: usize) -> Served {
    served_with(pipe, H1Options::default(), Timeouts::default())
}

fn served_with(pipe: usize, options: H1Options, timeouts: Timeouts) -> Served {
    let (client, server) = tokio::io::duplex(pipe);
    let (sender, finished) = mpsc::channel(1024);
    let (drain, signal) = Drain::new();
    let service = Arc::new(Echo { finished: sender });
    let connection = Arc::new(testing::connection(None));
    let serving = serve(Io::Duplex(server), service, connection, options, timeouts, signal);
    let task = crate::runtime::spawn::spawn("test connection", serving);
    Served {
        client,
        finished,
        drain,
        task,
    }
}

async fn read_all(stream: &mut DuplexStream) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("the peer closes");
    String::from_utf8_lossy(&all).into_owned()
}

async fn exchange(request: &str) -> String {
    let mut served = served(64 * 1024);
    served.client.write_all(request.as_bytes()).await.expect("open");
    served.client.shutdown().await.expect("open");
    read_all(&mut served.client).await
}
