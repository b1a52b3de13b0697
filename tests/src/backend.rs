//! A backend that does what the request tells it to, in HTTP/1.1 and (by prior knowledge) HTTP/2, so that two proxies can share it.
//!
//! The request header `x-do` (or the parameter `do` of its query) holds one plan per attempt (`x-envoy-attempt-count` chooses; the last one repeats), separated by `|`; a plan is
//! a list of `Step`s separated by `,`. Without it the backend answers 200 and shows the request it got.

mod http1;
mod http2;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use remora::runtime::spawn::spawn;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A listening backend; stops when dropped.
pub struct Backend {
    address: SocketAddr,
    name: Arc<str>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// A set of public keys (RFC 7517); whoever has the private ones has signed the tokens of parity's world `tokens`.
pub const KEYS: &str = r#"{"keys":[{"kty":"RSA","kid":"r","n":"lGXQn7oUENV_neCOiaZR8TD6AnX9_niCseZyE2AJpgl0_vsSKmxkyfrmxl52kIOGIoUw5m2jqPEz6G_Ei6YpW2cNw48Tg7EmFQIlB2RWmAfMaQyNBoeUPtjwOlI7qOFTSrBQtkh68zC6gLBhHrOJIETHtvrEgJ3S39jHLOkepkewXalIHWhECV1DeSkm4sN9nCjz9EWblIhDSqPENCY1eQuv-06i1BvfOlSRZXx-YMouDlSvO8UmhOJzif9K8TjSA-RvASl2yg_PIjhWqyZyY6tgHXGfARDrgARlaHj6Jr2nt1CkrkE2fofnV_XhKSKCgzrApLiWESZVwL4cbaC-6w","e":"AQAB"},{"kty":"EC","crv":"P-256","kid":"e2","x":"w_Pk376rzkcHGbhi0ejreRggWKJrWTau8RQogr9sNlY","y":"8LOzIC1Ms_3H69KYPKuO0Ifl-jYYowqY5U81WLvS5eA"},{"kty":"EC","crv":"P-384","kid":"e3","x":"sTIkn5m3n3rVnzk0XWZPcterl2xca7XaLlNKtlraP7Cfy7ku1CePcl4UqdzVDcbz","y":"ppUXEEitSYYa5aza8mhvsSIHrIHY9fbGtBfbx5tNRdAjZx-c7-h0rjxhhINWAAsN"},{"kty":"EC","crv":"P-521","kid":"e5","x":"AQpv8_ptkH0LbpzRIZsMMLOegE_sDxgKEBI8r81RvUAACLwWxvO0Ad3bzRHgQjQBOXZQSLwl0kVs140INZ0xtAZ2","y":"AftEwJ0_RuClIUcJSRu042P4AqqLdacjJRsU1tk5xgUFUjhMPu4Uus32FXQ3fi1Oi7mR8_YT6vHLhkKefZWxJIFR"},{"kty":"OKP","crv":"Ed25519","kid":"d","x":"E_Fj9c_VywGWXiw9fTnhzqW1FdcyBP8HrDdjmOPl1TU"}]}"#;

struct Shared {
    name: Arc<str>,
    requests: AtomicU64,
    connections: AtomicU64,
    /// Every request is answered with this status while it is not 0.
    failing: AtomicU64,
    /// Whole requests, shown.
    seen: Mutex<Vec<String>>,
    /// Set when the backend is gone: connections close.
    gone: watch::Sender<bool>,
}

/// One instruction of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `status=N`
    Status(u16),
    /// `delay=MS`: before the response head.
    Delay(Duration),
    /// `hang`: no answer at all.
    Hang,
    /// `keys`: the body is [`KEYS`].
    Keys,
    /// `reset`: the connection (HTTP/1) or stream (HTTP/2, REFUSED_STREAM) ends before any answer.
    Reset,
    /// `abort`: the stream (HTTP/2, INTERNAL_ERROR) or connection (HTTP/1) is reset before any answer.
    Abort,
    /// `cut`: half of the body, then the end.
    Cut,
    /// `stall`: half of the body, then nothing.
    Stall,
    /// `chunked`
    Chunked,
    /// `trailer`: with the trailer `x-trailer: yes`.
    Trailer,
    /// `close`: HTTP/1 `connection: close`.
    Close,
    /// `early=N`: an interim response first.
    Early(u16),
    /// `body=N`: that many bytes instead of the request shown.
    Body(usize),
    /// `header=NAME:VALUE`
    Header(String, String),
    /// `raw=TEXT`: these bytes and no others, `\n` escaped as `\\n` (HTTP/1 alone).
    Raw(String),
    /// `grpc=N`: a trailers-only answer with that status.
    Grpc(u16),
}

/// Request as the backend got it.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Backend {
    /// Starts on a free port.
    pub async fn start(name: &str) -> Self {
        Self::at(name, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts at this address: how a backend that was dropped comes back.
    pub async fn at(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.into(),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            seen: Mutex::default(),
            gone: watch::Sender::new(false),
        });
        let accepting = spawn("backend", accept(listener, shared.clone()));
        Self {
            address,
            name: name.into(),
            shared,
            accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests whose head arrived, ever.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Whole requests so far, as they are shown in answers.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().clone()
    }

    /// Connections accepted, ever.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Answers everything with this status from now on; `None` ends that.
    pub fn fail_with(&self, status: Option<u16>) {
        self.shared.failing.store(status.unwrap_or(0).into(), Ordering::SeqCst);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.gone.send_replace(true);
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut named = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.as_str())
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.line.split(' ').nth(1)?.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The steps for this attempt.
    fn plan(&self, shared: &Shared) -> Vec<Step> {
        let attempt: usize = self
            .header("x-envoy-attempt-count")
            .and_then(|count| count.parse().ok())
            .unwrap_or(1);
        let told = self.header("x-do").or_else(|| self.parameter("do"));
        let plans: Vec<&str> = told.unwrap_or("").split('|').collect();
        let plan = plans.get(attempt.max(1) - 1).or(plans.last()).copied().unwrap_or("");
        let mut steps: Vec<Step> = plan
            .split(',')
            .filter(|step| !step.is_empty())
            .map(Step::parse)
            .collect();
        let failing = shared.failing.load(Ordering::SeqCst);
        if failing != 0 {
            steps.push(Step::Status(u16::try_from(failing).unwrap()));
        }
        steps
    }

    /// The request, shown: what a proxy made of it.
    fn shown(&self) -> Vec<u8> {
        let mut headers: Vec<String> = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect();
        headers.sort();
        let mut text = format!("{}\n{}\n", self.line, headers.concat()).into_bytes();
        text.extend_from_slice(&self.body);
        for (name, value) in &self.trailers {
            text.extend_from_slice(format!("\ntrailer {name}: {value}").as_bytes());
        }
        text
    }
}

impl Step {
    fn parse(text: &str) -> Self {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        match name {
            "status" => Self::Status(value.parse().unwrap()),
            "delay" => Self::Delay(Duration::from_millis(value.parse().unwrap())),
            "hang" => Self::Hang,
            "reset" => Self::Reset,
            "abort" => Self::Abort,
            "cut" => Self::Cut,
            "stall" => Self::Stall,
            "chunked" => Self::Chunked,
            "trailer" => Self::Trailer,
            "close" => Self::Close,
            "early" => Self::Early(value.parse().unwrap()),
            "body" => Self::Body(value.parse().unwrap()),
            "header" => {
                let (name, value) = value.split_once(':').unwrap();
                Self::Header(name.to_owned(), value.to_owned())
            }
            "keys" => Self::Keys,
            "raw" => Self::Raw(value.replace("\\n", "\r\n")),
            "grpc" => Self::Grpc(value.parse().unwrap()),
            _ => panic!("no such step: {text}"),
        }
    }
}

/// What a plan makes of a request.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Response {
    fn of(request: &Request, plan: &[Step], shared: &Shared) -> Self {
        let shown = request.shown();
        let text = String::from_utf8_lossy(&shown).into_owned();
        shared.seen.lock().push(text);
        let mut response = Self {
            status: 200,
            headers: vec![("x-backend".to_owned(), shared.name.to_string())],
            body: shown,
            trailers: Vec::new(),
        };
        for step in plan {
            match step {
                Step::Status(status) => response.status = *status,
                Step::Keys => response.body = KEYS.into(),
                Step::Body(size) => response.body = vec![b'x'; *size],
                Step::Header(name, value) => response.headers.push((name.clone(), value.clone())),
                Step::Trailer => response.trailers.push(("x-trailer".to_owned(), "yes".to_owned())),
                _ => {}
            }
        }
        if matches!(response.status, 204 | 304) {
            response.body.clear();
        }
        response
    }
}

pub(crate) use http2::{map as map_headers, pairs as pairs_of, send as send_data};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            spawn("backend connection", serve(stream, shared.clone()));
        }
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut gone = shared.gone.subscribe();
    let connection = async {
        let _ = stream.set_nodelay(true);
        let mut first = Vec::new();
        while !PREFACE.starts_with(&first) || first.len() < PREFACE.len() {
            if !first.is_empty() && !PREFACE.starts_with(&first) {
                break;
            }
            let mut chunk = vec![0; PREFACE.len() - first.len()];
            match stream.read(&mut chunk).await {
                Ok(count) if count > 0 => first.extend_from_slice(&chunk[..count]),
                _ => return,
            }
        }
        if first == PREFACE {
            http2::serve(stream, &first, shared.clone()).await;
        } else {
            http1::serve(stream, first, shared.clone()).await;
        }
    };
    tokio::select! {
        () = connection => {}
        _ = gone.wait_for(|gone| *gone) => {}
    }
}
