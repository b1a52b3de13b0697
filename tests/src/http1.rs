//! HTTP/1 by hand: a client that sends exactly the bytes it is given, and the reading of messages for both sides.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::{Answer, Ending};
use crate::wait::within;

/// Anything a connection can run over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A client connection.
pub struct Http1 {
    reader: Reader<Box<dyn Transport>>,
}

impl Http1 {
    /// Connects, in the clear.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = within("a connection", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(Box::new(stream)))
    }

    /// A client over a transport that is connected already.
    pub fn over(transport: Box<dyn Transport>) -> Self {
        Self {
            reader: Reader::new(transport),
        }
    }

    /// Sends these bytes. A peer that has closed already is no error here: what it answered is what counts.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.reader.io.write_all(bytes.as_ref()).await;
        let _ = self.reader.io.flush().await;
    }

    /// Closes the sending half.
    pub async fn finish(&mut self) {
        let _ = self.reader.io.shutdown().await;
    }

    /// Reads one response. `to` is the method it answers.
    pub async fn response(&mut self, to: &str) -> Answer {
        within("a response", self.read_response(to)).await
    }

    /// One GET, and its answer.
    pub async fn get(&mut self, host: &str, path: &str, headers: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n"))
            .await;
        self.response("GET").await
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        within("the end of the connection", async {
            while self.reader.fill().await.is_ok_and(|more| more > 0) {}
        })
        .await;
        std::mem::take(&mut self.reader.buffer)
    }

    /// Reads this many bytes, for protocols other than HTTP.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        within("bytes", async {
            while self.reader.buffer.len() < count {
                match self.reader.fill().await {
                    Ok(more) if more > 0 => {}
                    end => panic!("{end:?} after {:?}", String::from_utf8_lossy(&self.reader.buffer)),
                }
            }
        })
        .await;
        self.reader.buffer.drain(..count).collect()
    }

    async fn read_response(&mut self, to: &str) -> Answer {
        let mut interim = Vec::new();
        let head = loop {
            let Some(head) = self.reader.head().await else {
                return Answer {
                    interim,
                    ending: Ending::Cut,
                    ..Answer::default()
                };
            };
            let status = head.status();
            if (100..200).contains(&status) && status != 101 {
                let named = head.headers.iter().map(|(name, value)| format!(" {name}: {value}"));
                interim.push(format!("{}{}", head.first_line, named.collect::<String>()));
                continue;
            }
            break head;
        };
        let status = head.status();
        let mut answer = Answer {
            status_line: head.first_line.clone(),
            status,
            headers: head.headers.clone(),
            interim,
            ..Answer::default()
        };
        if to != "HEAD" && !matches!(status, 101 | 204 | 304) {
            let framed = head.is_chunked() || head.content_length().is_some();
            let body = self.reader.body(&head, !framed).await;
            answer.body = body.data;
            answer.trailers = body.trailers;
            answer.ending = match (body.whole, framed) {
                (false, _) => Ending::Cut,
                (true, true) => Ending::Open,
                (true, false) => Ending::Closed,
            };
        }
        let closing = answer
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if closing && answer.ending == Ending::Open {
            while self.reader.fill().await.is_ok_and(|more| more > 0) {}
            answer.ending = Ending::Closed;
        }
        answer
    }
}

/// Reads messages off a connection.
pub(crate) struct Reader<T> {
    pub(crate) io: T,
    pub(crate) buffer: Vec<u8>,
}

/// Start line and headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) first_line: String,
    pub(crate) headers: Vec<(String, String)>,
}

#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// False if the connection ended first.
    pub(crate) whole: bool,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut named = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    pub(crate) fn content_length(&self) -> Option<usize> {
        self.header("content-length").and_then(|value| value.parse().ok())
    }

    fn status(&self) -> u16 {
        self.first_line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0)
    }
}

impl<T: AsyncRead + Unpin> Reader<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, buffer: Vec::new() }
    }

    /// Reads more; 0 at the end.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        self.io.read_buf(&mut self.buffer).await
    }

    /// None if the connection ends first.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        let mut head = Head {
            first_line: self.line().await?,
            headers: Vec::new(),
        };
        head.headers = self.fields().await?;
        Some(head)
    }

    /// The body that `head` announces.
    pub(crate) async fn body(&mut self, head: &Head, until_close: bool) -> Body {
        let mut body = Body::default();
        if head.is_chunked() {
            body.whole = self.chunks(&mut body).await.is_some();
        } else if until_close {
            while self.fill().await.is_ok_and(|more| more > 0) {}
            body.data = std::mem::take(&mut self.buffer);
            body.whole = true;
        } else {
            let length = head.content_length().unwrap_or(0);
            body.whole = self.data(length, &mut body.data).await.is_some();
        }
        body
    }

    async fn chunks(&mut self, body: &mut Body) -> Option<()> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16).ok()?;
            if size == 0 {
                body.trailers = self.fields().await?;
                return Some(());
            }
            self.data(size, &mut body.data).await?;
            self.line().await?;
        }
    }

    async fn data(&mut self, length: usize, into: &mut Vec<u8>) -> Option<()> {
        while self.buffer.len() < length {
            if !self.fill().await.is_ok_and(|more| more > 0) {
                into.append(&mut self.buffer);
                return None;
            }
        }
        into.extend(self.buffer.drain(..length));
        Some(())
    }

    async fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            if !self.fill().await.is_ok_and(|more| more > 0) {
                return None;
            }
        }
    }
}
