//! Flow control, both ways (RFC 9113 section 5.2), and what waits for a peer that does not read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::super::error::By;
use super::*;

const ROOM: usize = 64 * 1024;

/// A server's stream on which a response has begun.
fn answering(machine: &Shared, id: u32) -> SendStream {
    tell(machine, &[headers(id, true, &GET)]);
    let mut incoming = accept(machine);
    incoming
        .respond
        .send_response(http::StatusCode::OK, &http::HeaderMap::new(), false)
        .unwrap();
    incoming.respond.into_stream()
}

fn sent_data(machine: &Shared, stream: u32) -> usize {
    let frames = said(machine);
    let data = frames
        .iter()
        .filter(|frame| frame.kind == frame::DATA && frame.stream == stream);
    data.map(|frame| frame.payload.len()).sum()
}

#[derive(Default)]
struct Bells(AtomicUsize);

impl Wake for Bells {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bells {
    fn rung(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// Tries to send; woken through these bells.
    fn send(self: &Arc<Self>, stream: &mut SendStream, data: &mut Bytes) -> bool {
        let waker = Waker::from(self.clone());
        stream
            .poll_send(data, false, &mut Context::from_waker(&waker))
            .is_ready()
    }
}

#[test]
fn a_body_goes_as_far_as_its_window() {
    let machine = server(&H2Options::default());
    tell(&machine, &[settings(&[(frame::INITIAL_WINDOW_SIZE, 10)])]);
    let mut stream = answering(&machine, 1);
    let (count, polled) = send(&mut stream, b"0123456789abcdef", true);
    assert!(count == 10 && polled.is_pending());
    assert_eq!(sent_data(&machine, 1), 10);
    // A window that shrinks under what was sent is negative, and has to be filled first.
    tell(
        &machine,
        &[settings(&[(frame::INITIAL_WINDOW_SIZE, 4)]), window_update(1, 6)],
    );
    assert_eq!(send(&mut stream, b"abcdef", true).0, 0);
    tell(&machine, &[window_update(1, 5)]);
    assert_eq!(send(&mut stream, b"abcdef", true).0, 5);
    // An end needs no window.
    let mut trailers = http::HeaderMap::new();
    trailers.insert("a", http::HeaderValue::from_static("b"));
    stream.send_trailers(&trailers).unwrap();
    let frames = said(&machine);
    let last = frames.last().unwrap();
    assert_eq!(
        (last.kind, last.flags),
        (frame::HEADERS, frame::END_HEADERS | frame::END_STREAM)
    );
    drop(stream);
    assert!(machine.lock().streams.is_empty());
}

#[test]
fn the_last_byte_carries_the_end_and_an_empty_body_has_a_frame_for_it() {
    for (body, expected) in [(&b"abc"[..], 3), (b"", 0)] {
        let machine = server(&H2Options::default());
        let mut stream = answering(&machine, 1);
        assert!(send(&mut stream, body, true).1.is_ready());
        let frames = said(&machine);
        let last = frames.last().unwrap();
        assert_eq!(
            (last.kind, last.flags, last.payload.len()),
            (frame::DATA, frame::END_STREAM, expected)
        );
    }
}

#[test]
fn a_window_that_overflows_by_settings_ends_the_connection() {
    let machine = server(&H2Options::default());
    let _stream = answering(&machine, 1);
    tell(&machine, &[window_update(1, 0x7fff_ffff - 65_535)]);
    tell(&machine, &[settings(&[(frame::INITIAL_WINDOW_SIZE, 65_536)])]);
    assert_eq!(complaints(&said(&machine)), [(0, Reason::FLOW_CONTROL_ERROR)]);
}

#[test]
fn a_peer_that_does_not_read_stops_the_body() {
    let machine = server(&H2Options::default());
    tell(
        &machine,
        &[
            settings(&[(frame::INITIAL_WINDOW_SIZE, 1 << 30)]),
            window_update(0, 1 << 30),
        ],
    );
    let mut stream = answering(&machine, 1);
    said(&machine);
    let bells = Arc::<Bells>::default();
    let mut body = Bytes::from(vec![7; 1 << 20]);
    assert!(!bells.send(&mut stream, &mut body));
    let waiting = machine.lock().out.bytes().len();
    assert!((ROOM..ROOM + 100).contains(&waiting), "{waiting}");
    // Little room is not worth a turn, half of it is.
    machine.lock().wrote(1000);
    assert_eq!(bells.rung(), 0);
    machine.lock().wrote(ROOM / 2);
    assert_eq!(bells.rung(), 1);
    assert!(!bells.send(&mut stream, &mut body));
    let waiting = machine.lock().out.bytes().len();
    assert!((ROOM..ROOM + 100).contains(&waiting), "{waiting}");
    let mut all = (1 << 20) - body.len();
    while !body.is_empty() {
        let waiting = machine.lock().out.bytes().len();
        machine.lock().wrote(waiting);
        let before = body.len();
        bells.send(&mut stream, &mut body);
        all += before - body.len();
    }
    assert_eq!(all, 1 << 20);
}

#[test]
fn who_waits_for_the_connection_has_a_turn_and_passes_it_on() {
    let machine = server(&H2Options::default());
    tell(&machine, &[settings(&[(frame::INITIAL_WINDOW_SIZE, 1 << 20)])]);
    let mut first = answering(&machine, 1);
    for part in [60_000, 5535] {
        assert!(send(&mut first, &vec![0; part], false).1.is_ready());
        said(&machine);
    }
    let bells: Vec<Arc<Bells>> = (0..3).map(|_| Arc::default()).collect();
    let mut streams: Vec<SendStream> = [3, 5, 7].map(|id| answering(&machine, id)).into();
    let mut bodies = vec![Bytes::from(vec![1; 1000]); 3];
    for number in 0..3 {
        assert!(!bells[number].send(&mut streams[number], &mut bodies[number]));
    }
    let rung = || bells.iter().map(|bells| bells.rung()).collect::<Vec<_>>();
    tell(&machine, &[window_update(0, 1500)]);
    assert_eq!(rung(), [1, 0, 0]);
    // It leaves 500 for the next, which is back at the end of the queue with its rest.
    assert!(bells[0].send(&mut streams[0], &mut bodies[0]));
    assert_eq!(rung(), [0, 1, 0]);
    assert!(!bells[1].send(&mut streams[1], &mut bodies[1]));
    assert_eq!(rung(), [0, 0, 0]);
    tell(&machine, &[window_update(0, 100)]);
    assert_eq!(rung(), [0, 0, 1]);
    // Who goes away with its turn leaves it to the next.
    drop(streams.pop());
    assert_eq!(rung()[1], 1);
    machine.lock().check();
}

#[test]
fn every_byte_comes_back_to_the_connections_window() {
    let options = H2Options {
        initial_stream_window: 65_535,
        initial_connection_window: 1 << 20,
        ..H2Options::default()
    };
    let machine = server(&options);
    let count = |machine: &Shared| machine.lock().unclaimed;
    // Padding.
    tell(&machine, &[headers(1, false, &POST)]);
    tell(&machine, &[frame(frame::DATA, frame::PADDED, 1, &[3, b'a', 0, 0, 0])]);
    assert_eq!(count(&machine), 4);
    let mut incoming = accept(&machine);
    assert_eq!(read(&mut incoming.body), Poll::Ready(Some(Ok(b"a".to_vec()))));
    assert_eq!(count(&machine), 5);
    // Unread, and then nobody reads.
    tell(&machine, &[data(1, false, &[0; 10])]);
    assert_eq!(count(&machine), 5);
    drop(incoming.body);
    assert_eq!(count(&machine), 15);
    tell(&machine, &[data(1, false, &[0; 10])]);
    assert_eq!(count(&machine), 25);
    // Reset by us, by the client, and forgotten.
    incoming.respond.send_reset(Reason::CANCEL);
    drop(incoming.respond);
    tell(&machine, &[data(1, false, &[0; 10])]);
    assert_eq!(count(&machine), 35);
    tell(
        &machine,
        &[
            headers(3, false, &POST),
            data(3, false, &[0; 10]),
            reset(3, Reason::CANCEL),
        ],
    );
    tell(&machine, &[data(3, false, &[0; 10])]);
    assert_eq!(count(&machine), 45);
    let incoming = accept(&machine);
    drop(incoming);
    assert_eq!(count(&machine), 55);
    tell(&machine, &[data(3, false, &[0; 10])]);
    assert_eq!(count(&machine), 65);
    // More than announced.
    let length = [&POST[..], &[("content-length", "3")]].concat();
    tell(&machine, &[headers(5, false, &length), data(5, false, &[0; 10])]);
    assert_eq!(count(&machine), 75);
}

#[test]
fn windows_open_again_by_halves() {
    let options = H2Options {
        initial_stream_window: 1000,
        initial_connection_window: 100_000,
        ..H2Options::default()
    };
    let machine = server(&options);
    tell(
        &machine,
        &[frame(frame::SETTINGS, frame::ACK, 0, &[]), headers(1, false, &POST)],
    );
    let mut incoming = accept(&machine);
    let mut updates = Vec::new();
    for _ in 0..100 {
        tell(&machine, &[data(1, false, &[0; 499])]);
        assert!(matches!(read(&mut incoming.body), Poll::Ready(Some(Ok(_)))));
        tell(&machine, &[data(1, false, &[0; 501])]);
        assert!(matches!(read(&mut incoming.body), Poll::Ready(Some(Ok(_)))));
        updates.extend(said(&machine).into_iter().map(|frame| (frame.kind, frame.stream)));
    }
    let of = |stream| {
        updates
            .iter()
            .filter(|update| **update == (frame::WINDOW_UPDATE, stream))
            .count()
    };
    assert_eq!((of(1), of(0), updates.len()), (100, 2, 102));
    // A client that says more than it may.
    tell(&machine, &[data(1, false, &[0; 1001])]);
    assert_eq!(complaints(&said(&machine)), [(1, Reason::FLOW_CONTROL_ERROR)]);
}

#[test]
fn what_our_settings_say_holds_once_the_peer_knows() {
    let options = H2Options {
        initial_stream_window: 10,
        ..H2Options::default()
    };
    let machine = server(&options);
    tell(&machine, &[headers(1, false, &POST), data(1, false, &[0; 100])]);
    assert_eq!(said(&machine), []);
    tell(
        &machine,
        &[frame(frame::SETTINGS, frame::ACK, 0, &[]), data(1, false, &[0; 1])],
    );
    assert_eq!(complaints(&said(&machine)), [(1, Reason::FLOW_CONTROL_ERROR)]);
}

#[test]
fn frames_that_come_before_anybody_reads_are_one_chunk() {
    let machine = server(&H2Options::default());
    tell(&machine, &[headers(1, false, &POST)]);
    let mut incoming = accept(&machine);
    assert!(read(&mut incoming.body).is_pending());
    tell(
        &machine,
        &[data(1, false, b"a"), data(1, false, b"b"), data(1, true, b"c")],
    );
    assert!(!incoming.body.is_end_stream());
    assert_eq!(read(&mut incoming.body), Poll::Ready(Some(Ok(b"abc".to_vec()))));
    assert!(incoming.body.is_end_stream());
    assert_eq!(read(&mut incoming.body), Poll::Ready(None));
    incoming.respond.send_reset(Reason::CANCEL);
    let gone = Error::Reset(Reason::CANCEL, By::Us);
    assert_eq!(now(|cx| incoming.respond.poll_reset(cx)), Poll::Ready(gone));
}
