//! Rules of the wire, on bytes alone.

mod ends;
mod properties;
mod rules;
mod socket;
mod turns;
mod windows;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;

use super::super::options::H2Options;
use super::frame::{self, Head};
use super::handles::{self, Incoming, Shared};
use super::{Error, Machine, Message, Reason, RecvStream, ResponseFuture, SendRequest, SendStream};

/// A frame as a peer reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = Head {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    [&head.bytes()[..], payload].concat()
}

/// A header block of literals that no table keeps (RFC 7541 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.test"),
];
const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.test"),
];

fn headers(stream: u32, end: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    let end = if end { frame::END_STREAM } else { 0 };
    frame(frame::HEADERS, frame::END_HEADERS | end, stream, &block(fields))
}

fn data(stream: u32, end: bool, payload: &[u8]) -> Vec<u8> {
    frame(frame::DATA, if end { frame::END_STREAM } else { 0 }, stream, payload)
}

fn reset(stream: u32, reason: Reason) -> Vec<u8> {
    frame(frame::RST_STREAM, 0, stream, &reason.0.to_be_bytes())
}

fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in values {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(frame::SETTINGS, 0, 0, &payload)
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(frame::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A server whose client writes bytes by hand, and has said hello.
fn server(options: &H2Options) -> Shared {
    let machine = Arc::new(Mutex::new(Machine::server(options)));
    tell(&machine, &[frame::PREFACE.to_vec(), settings(&[])]);
    said(&machine);
    machine
}

/// A client whose server writes bytes by hand, and has said hello.
fn client(options: &H2Options) -> (Shared, SendRequest) {
    let machine = Arc::new(Mutex::new(Machine::client(options)));
    let sender = SendRequest::new(&machine);
    tell(&machine, &[settings(&[])]);
    said(&machine);
    (machine, sender)
}

fn tell(machine: &Shared, frames: &[Vec<u8>]) {
    let mut machine = machine.lock();
    machine.receive(&frames.concat());
    machine.check();
}

/// All that the machine has to say; it goes out.
fn said(machine: &Shared) -> Vec<Seen> {
    let mut machine = machine.lock();
    let bytes = machine.out.bytes().to_vec();
    machine.wrote(bytes.len());
    frames(bytes.strip_prefix(frame::PREFACE).unwrap_or(&bytes))
}

fn frames(mut bytes: &[u8]) -> Vec<Seen> {
    let mut frames = Vec::new();
    while let Some(head) = Head::parse(bytes) {
        let (payload, rest) = bytes[frame::HEAD..].split_at(head.length);
        frames.push(Seen {
            kind: head.kind,
            flags: head.flags,
            stream: head.stream,
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    frames
}

/// What resets and goodbyes there were: the stream (0: the connection), and why.
fn complaints(seen: &[Seen]) -> Vec<(u32, Reason)> {
    let code = |bytes: &[u8]| Reason(u32::from_be_bytes(bytes.try_into().unwrap()));
    let complaint = |frame: &Seen| match frame.kind {
        frame::RST_STREAM => Some((frame.stream, code(&frame.payload))),
        frame::GOAWAY => Some((0, code(&frame.payload[4..8]))),
        _ => None,
    };
    seen.iter().filter_map(complaint).collect()
}

fn now<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

fn accept(machine: &Shared) -> Incoming {
    handles::accept(machine).expect("a request")
}

fn send(stream: &mut SendStream, bytes: &[u8], last: bool) -> (usize, Poll<Result<(), Error>>) {
    let mut data = Bytes::copy_from_slice(bytes);
    let polled = now(|cx| stream.poll_send(&mut data, last, cx));
    (bytes.len() - data.len(), polled)
}

/// The next data; `Ready(None)`: the end.
fn read(stream: &mut RecvStream) -> Poll<Option<Result<Vec<u8>, Error>>> {
    now(|cx| stream.poll_data(cx)).map(|read| read.map(|read| read.map(|data| data.to_vec())))
}

fn request(method: &str) -> http::request::Parts {
    let builder = Request::builder().method(method).uri("http://a.test/");
    builder.body(()).unwrap().into_parts().0
}

fn ask(sender: &SendRequest, method: &str, end: bool) -> (ResponseFuture, SendStream) {
    sender.send_request(&request(method), end).unwrap()
}

fn answer(response: &mut ResponseFuture) -> Poll<Result<(Message<Response<()>>, RecvStream), Error>> {
    now(|cx| response.poll(cx))
}

fn failure<T>(poll: Poll<Result<T, Error>>) -> Option<Error> {
    match poll {
        Poll::Ready(Err(error)) => Some(error),
        _ => None,
    }
}
