//! An HTTP/2 client over `h2`, frame by frame where a test needs it.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use remora::runtime::spawn::spawn;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::answer::{Answer, Ending};
use crate::backend::{map_headers, pairs_of, send_data};
use crate::http1::Transport;
use crate::wait::within;

/// A client connection by prior knowledge; closed when dropped.
pub struct Http2 {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

/// A request whose head was sent.
pub struct Http2Stream {
    response: h2::client::ResponseFuture,
    send: SendStream<Bytes>,
    incoming: Option<RecvStream>,
    answer: Answer,
}

impl Http2 {
    /// Connects, in the clear.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(Box::new(stream)).await
    }

    /// A client over a transport that is connected already.
    pub async fn over(transport: Box<dyn Transport>) -> Self {
        let (requests, connection) = within("an HTTP/2 handshake", h2::client::handshake(transport))
            .await
            .unwrap();
        let driver = spawn("HTTP/2 client", async {
            let _ = connection.await;
        });
        Self { requests, driver }
    }

    /// Sends a head; the body follows on the stream.
    pub async fn open(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> Http2Stream {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{host}{path}"))
            .version(http::Version::HTTP_2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut requests = within("room for a stream", self.requests.clone().ready())
            .await
            .unwrap();
        let (response, send) = requests.send_request(request.body(()).unwrap(), end).unwrap();
        Http2Stream {
            response,
            send,
            incoming: None,
            answer: Answer::default(),
        }
    }

    /// A whole request, and its answer.
    pub async fn exchange(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        trailers: &[(&str, &str)],
    ) -> Answer {
        let mut stream = self
            .open(method, host, path, headers, body.is_empty() && trailers.is_empty())
            .await;
        if !body.is_empty() {
            stream.data(body, trailers.is_empty()).await;
        }
        if !trailers.is_empty() {
            stream.trailers(trailers);
        }
        stream.answer().await
    }

    /// One GET, and its answer.
    pub async fn get(&mut self, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.exchange("GET", host, path, headers, b"", &[]).await
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Http2Stream {
    /// Sends data, as flow control allows.
    pub async fn data(&mut self, data: &[u8], end: bool) {
        within("window for data", send_data(&mut self.send, data, end)).await;
    }

    /// Ends the request with trailers.
    pub fn trailers(&mut self, trailers: &[(&str, &str)]) {
        let owned: Vec<_> = trailers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        // A stream that was reset meanwhile shows that in its answer.
        let _ = self.send.send_trailers(map_headers(&owned));
    }

    /// Reads the next data frame of the response (after its head); none at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        within("data", async {
            self.head().await?;
            let incoming = self.incoming.as_mut()?;
            let data = incoming.data().await?.ok()?;
            let _ = incoming.flow_control().release_capacity(data.len());
            self.answer.body.extend_from_slice(&data);
            Some(data)
        })
        .await
    }

    /// The rest of the response, and all of it together.
    pub async fn answer(mut self) -> Answer {
        within("a response", async {
            if let Err(error) = self.read().await {
                self.answer.ending = match error.reason() {
                    Some(reason) => Ending::Reset(format!("{reason:?}")),
                    None => Ending::Cut,
                };
            }
            self.answer
        })
        .await
    }

    async fn read(&mut self) -> Result<(), h2::Error> {
        self.try_head().await?;
        let Some(incoming) = &mut self.incoming else {
            return Ok(());
        };
        while let Some(data) = incoming.data().await {
            let data = data?;
            let _ = incoming.flow_control().release_capacity(data.len());
            self.answer.body.extend_from_slice(&data);
        }
        if let Some(trailers) = incoming.trailers().await? {
            self.answer.trailers = pairs_of(&trailers);
        }
        Ok(())
    }

    async fn head(&mut self) -> Option<()> {
        self.try_head().await.ok()
    }

    async fn try_head(&mut self) -> Result<(), h2::Error> {
        if self.incoming.is_some() {
            return Ok(());
        }
        let (head, incoming) = (&mut self.response).await?.into_parts();
        self.answer.status = head.status.as_u16();
        self.answer.status_line = format!("HTTP/2 {}", head.status.as_u16());
        self.answer.headers = pairs_of(&head.headers);
        self.incoming = Some(incoming);
        Ok(())
    }
}
