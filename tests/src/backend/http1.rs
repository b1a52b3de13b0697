//! The backend's HTTP/1.1.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use remora::runtime::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Request, Response, Shared, Step};
use crate::http1::Reader;

/// Serves one connection whose first bytes were read already.
pub(super) async fn serve(stream: TcpStream, first: Vec<u8>, shared: Arc<Shared>) {
    let mut reader = Reader::new(stream);
    reader.buffer = first;
    while let Some(head) = reader.head().await {
        shared.requests.fetch_add(1, Ordering::SeqCst);
        // Who is told what to answer answers that.
        if head.header("upgrade").is_some() && head.header("x-do").is_none() {
            return echo(reader).await;
        }
        if head.header("expect").is_some() {
            let _ = reader.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        let body = reader.body(&head, false).await;
        if !body.whole {
            return;
        }
        let request = Request {
            line: head.first_line,
            headers: head.headers,
            body: body.data,
            trailers: body.trailers,
        };
        let plan = request.plan(&shared);
        if !answer(&mut reader.io, &request, &plan, &shared).await {
            return;
        }
    }
}

/// Says whether the connection goes on.
async fn answer(stream: &mut TcpStream, request: &Request, plan: &[Step], shared: &Shared) -> bool {
    for step in plan {
        match step {
            Step::Delay(time) => clock::sleep(*time).await,
            Step::Hang => return std::future::pending().await,
            Step::Reset => return false,
            Step::Abort => {
                let _ = stream.set_zero_linger();
                return false;
            }
            Step::Raw(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                return false;
            }
            Step::Early(status) => {
                let head = format!("HTTP/1.1 {status} Early\r\nlink: </a.css>\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
            }
            _ => {}
        }
    }
    let response = Response::of(request, plan, shared);
    let chunked = plan.contains(&Step::Chunked) || !response.trailers.is_empty();
    let close = plan.contains(&Step::Close);
    let mut bytes = head(&response, chunked, close);
    let body = if request.line.starts_with("HEAD ") {
        &[][..]
    } else {
        &response.body[..]
    };
    if plan.contains(&Step::Cut) || plan.contains(&Step::Stall) {
        bytes.extend_from_slice(&body[..body.len() / 2]);
        let _ = stream.write_all(&bytes).await;
        if plan.contains(&Step::Stall) {
            std::future::pending::<()>().await;
        }
        return false;
    }
    if chunked && !request.line.starts_with("HEAD ") {
        // Two chunks, so that joining and splitting show.
        for part in body.chunks(body.len().div_ceil(2).max(1)) {
            bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n");
        for (name, value) in &response.trailers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
    } else {
        bytes.extend_from_slice(body);
    }
    stream.write_all(&bytes).await.is_ok() && !close
}

fn head(response: &Response, chunked: bool, close: bool) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if chunked {
        head.push_str("transfer-encoding: chunked\r\n");
    } else if !matches!(response.status, 204 | 304) {
        head.push_str(&format!("content-length: {}\r\n", response.body.len()));
    }
    if close {
        head.push_str("connection: close\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Accepts any upgrade and echoes what follows.
async fn echo(mut reader: Reader<TcpStream>) {
    let head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
    if reader.io.write_all(head).await.is_err() || reader.io.write_all(&reader.buffer).await.is_err() {
        return;
    }
    let mut chunk = vec![0; 4096];
    while let Ok(count) = reader.io.read(&mut chunk).await {
        if count == 0 || reader.io.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}
