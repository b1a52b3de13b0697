//! How streams and connections end, and what their holders are told.

use http::{HeaderMap, StatusCode};

use super::super::error::By;
use super::*;

const OK: [(&str, &str); 1] = [(":status", "200")];

/// A client's stream whose response has begun.
fn answered(machine: &Shared, sender: &SendRequest, id: u32) -> (RecvStream, SendStream) {
    let (mut response, body) = ask(sender, "GET", true);
    tell(machine, &[headers(id, false, &OK)]);
    match answer(&mut response) {
        Poll::Ready(Ok((_, stream))) => (stream, body),
        _ => panic!("no response"),
    }
}

fn failed(stream: &mut RecvStream) -> Option<Error> {
    match read(stream) {
        Poll::Ready(Some(Err(error))) => Some(error),
        _ => None,
    }
}

#[test]
fn a_body_that_ends_with_its_connection_is_no_whole_one() {
    let (machine, sender) = client(&H2Options::default());
    let (mut stream, _body) = answered(&machine, &sender, 1);
    let (mut unanswered, _other) = ask(&sender, "GET", true);
    tell(&machine, &[data(1, false, b"part")]);
    machine.lock().closed_by_peer();
    // What came is not lost.
    assert_eq!(read(&mut stream), Poll::Ready(Some(Ok(b"part".to_vec()))));
    assert_eq!(failed(&mut stream), Some(Error::Transport));
    assert_eq!(failure(answer(&mut unanswered)), Some(Error::Transport));
    assert_eq!(machine.lock().end, Some(Err(Error::Transport)));

    let machine = server(&H2Options::default());
    tell(&machine, &[headers(1, false, &POST), headers(3, true, &GET)]);
    let (mut half, mut whole) = (accept(&machine), accept(&machine));
    machine.lock().closed_by_peer();
    assert_eq!(failed(&mut half.body), Some(Error::Transport));
    assert_eq!(read(&mut whole.body), Poll::Ready(None), "this request was complete");
    assert_eq!(now(|cx| whole.respond.poll_reset(cx)), Poll::Ready(Error::Transport));
    let sent = whole.respond.send_response(StatusCode::OK, &HeaderMap::new(), true);
    assert_eq!(sent, Err(Error::Transport));
}

#[test]
fn a_reset_before_the_end_is_an_error_and_behind_it_none() {
    let (machine, sender) = client(&H2Options::default());
    let (mut stream, _body) = answered(&machine, &sender, 1);
    tell(&machine, &[data(1, false, b"x"), reset(1, Reason::NO_ERROR)]);
    assert_eq!(read(&mut stream), Poll::Ready(Some(Ok(b"x".to_vec()))));
    assert_eq!(failed(&mut stream), Some(Error::Reset(Reason::NO_ERROR, By::Peer)));

    let (mut response, mut body) = ask(&sender, "POST", false);
    tell(
        &machine,
        &[headers(3, false, &OK), data(3, true, b"x"), reset(3, Reason::NO_ERROR)],
    );
    let Poll::Ready(Ok((_, mut stream))) = answer(&mut response) else {
        panic!("no response");
    };
    assert_eq!(read(&mut stream), Poll::Ready(Some(Ok(b"x".to_vec()))));
    assert_eq!(read(&mut stream), Poll::Ready(None));
    let (_, sent) = send(&mut body, b"more", true);
    assert_eq!(sent, Poll::Ready(Err(Error::Reset(Reason::NO_ERROR, By::Peer))));
}

#[test]
fn a_goodbye_gives_back_what_was_not_looked_at() {
    let (machine, sender) = client(&H2Options::default());
    let (mut first, _first) = ask(&sender, "GET", true);
    let (mut second, _second) = ask(&sender, "GET", true);
    said(&machine);
    let goodbye = |last: u32| frame(frame::GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
    tell(&machine, &[goodbye(0x7fff_ffff)]);
    assert!(answer(&mut second).is_pending() && !sender.takes_streams() && sender.was_asked_to_leave());
    let refused = Error::GoAway(Reason::REFUSED_STREAM, By::Peer);
    assert_eq!(sender.send_request(&request("GET"), true).err(), Some(refused));
    tell(&machine, &[goodbye(1)]);
    assert_eq!(
        failure(answer(&mut second)),
        Some(Error::GoAway(Reason::NO_ERROR, By::Peer))
    );
    assert!(answer(&mut first).is_pending());
    machine.lock().end_if_over();
    assert_eq!(machine.lock().end, None);
    tell(&machine, &[headers(1, true, &OK)]);
    assert!(matches!(answer(&mut first), Poll::Ready(Ok(_))));
    machine.lock().end_if_over();
    assert_eq!(machine.lock().end, Some(Ok(())));
}

#[test]
fn our_goodbye_comes_in_two_steps_and_ends_with_the_last_stream() {
    let machine = server(&H2Options::default());
    tell(&machine, &[headers(1, true, &GET)]);
    let mut incoming = accept(&machine);
    machine.lock().leave();
    let frames = said(&machine);
    assert_eq!(frames[0].payload[..4], [0x7f, 0xff, 0xff, 0xff]);
    // What comes before the PING is answered is served.
    tell(&machine, &[headers(3, true, &GET)]);
    let second = accept(&machine);
    tell(&machine, &[frame(frame::PING, frame::ACK, 0, &frames[1].payload)]);
    assert_eq!(said(&machine)[0].payload[..4], [0, 0, 0, 3]);
    tell(
        &machine,
        &[
            headers(5, false, &POST),
            data(5, true, b"late"),
            reset(5, Reason::CANCEL),
        ],
    );
    assert!(handles::accept(&machine).is_none() && said(&machine).is_empty());
    drop(second);
    said(&machine);
    machine.lock().end_if_over();
    assert_eq!(machine.lock().end, None);
    incoming
        .respond
        .send_response(StatusCode::OK, &HeaderMap::new(), true)
        .unwrap();
    machine.lock().end_if_over();
    assert_eq!(machine.lock().end, Some(Ok(())));
    let frames = said(&machine);
    assert_eq!(frames[0].kind, frame::HEADERS, "the answer leaves before the end");
    assert_eq!(frames[1].kind, frame::GOAWAY);
}

#[test]
fn a_server_that_lets_go_of_a_stream() {
    let machine = server(&H2Options::default());
    // Unanswered.
    tell(&machine, &[headers(1, true, &GET)]);
    drop(accept(&machine));
    assert_eq!(complaints(&said(&machine)), [(1, Reason::CANCEL)]);
    // Answered before the request ended.
    tell(&machine, &[headers(3, false, &POST)]);
    let mut incoming = accept(&machine);
    incoming
        .respond
        .send_response(StatusCode::OK, &HeaderMap::new(), true)
        .unwrap();
    assert_eq!(complaints(&said(&machine)), []);
    drop(incoming);
    assert_eq!(complaints(&said(&machine)), [(3, Reason::NO_ERROR)]);
    // The request is not read, and the answer goes on.
    tell(&machine, &[headers(5, false, &POST)]);
    let mut incoming = accept(&machine);
    drop(incoming.body);
    tell(&machine, &[data(5, true, b"x")]);
    incoming
        .respond
        .send_response(StatusCode::OK, &HeaderMap::new(), false)
        .unwrap();
    let mut stream = incoming.respond.into_stream();
    assert!(send(&mut stream, b"answer", true).1.is_ready());
    drop(stream);
    assert_eq!(complaints(&said(&machine)), []);
    // In the middle of the answer.
    tell(&machine, &[headers(7, true, &GET)]);
    let mut incoming = accept(&machine);
    incoming
        .respond
        .send_response(StatusCode::OK, &HeaderMap::new(), false)
        .unwrap();
    drop(incoming);
    assert_eq!(complaints(&said(&machine)), [(7, Reason::CANCEL)]);
    let machine = machine.lock();
    assert!(machine.streams.is_empty() && machine.active == 0);
    machine.check();
}

#[test]
fn a_client_that_lets_go_of_a_stream() {
    let (machine, sender) = client(&H2Options::default());
    drop(ask(&sender, "GET", true));
    let (response, body) = ask(&sender, "POST", false);
    drop(response);
    assert_eq!(complaints(&said(&machine)), [(1, Reason::CANCEL)]);
    drop(body);
    assert_eq!(complaints(&said(&machine)), [(3, Reason::CANCEL)]);
    let (stream, body) = answered(&machine, &sender, 5);
    tell(&machine, &[data(5, true, b"unread")]);
    drop((stream, body));
    assert_eq!(complaints(&said(&machine)), []);
    assert!(machine.lock().streams.is_empty());
    machine.lock().check();
    drop(sender);
    machine.lock().end_if_over();
    assert_eq!(machine.lock().end, Some(Ok(())));
}

#[test]
fn the_first_interim_response_is_kept() {
    let (machine, sender) = client(&H2Options::default());
    let (mut response, _body) = ask(&sender, "GET", true);
    tell(&machine, &[headers(1, false, &[(":status", "103"), ("a", "b")])]);
    tell(
        &machine,
        &[headers(1, false, &[(":status", "100")]), headers(1, true, &OK)],
    );
    let (status, fields) = *response.take_interim().unwrap();
    assert_eq!(
        (status.as_u16(), &fields["a"]),
        (103, &http::HeaderValue::from_static("b"))
    );
    assert!(response.take_interim().is_none());
    assert!(matches!(answer(&mut response), Poll::Ready(Ok(_))));

    let machine = server(&H2Options::default());
    tell(&machine, &[headers(1, true, &GET)]);
    let mut incoming = accept(&machine);
    let none = HeaderMap::new();
    incoming
        .respond
        .send_informational(StatusCode::EARLY_HINTS, &none)
        .unwrap();
    incoming.respond.send_response(StatusCode::OK, &none, false).unwrap();
    assert!(
        incoming
            .respond
            .send_informational(StatusCode::EARLY_HINTS, &none)
            .is_err()
    );
    assert!(incoming.respond.send_response(StatusCode::OK, &none, true).is_err());
}

#[test]
fn a_client_opens_as_many_streams_as_the_peer_and_the_numbers_allow() {
    let (machine, sender) = client(&H2Options::default());
    tell(&machine, &[settings(&[(frame::MAX_CONCURRENT_STREAMS, 2)])]);
    let _open = [ask(&sender, "GET", true), ask(&sender, "GET", true)];
    let refused = Some(Error::GoAway(Reason::REFUSED_STREAM, By::Peer));
    assert_eq!(sender.send_request(&request("GET"), true).err(), refused);
    // Lowered under what is open.
    tell(
        &machine,
        &[settings(&[(frame::MAX_CONCURRENT_STREAMS, 1)]), headers(1, true, &OK)],
    );
    assert_eq!(sender.send_request(&request("GET"), true).err(), refused);
    tell(&machine, &[headers(3, true, &OK)]);
    machine.lock().highest = 0x7fff_ffff;
    let last = ask(&sender, "GET", true);
    assert_eq!(said(&machine).last().unwrap().stream, 0x7fff_ffff);
    assert!(!sender.takes_streams());
    drop(last);
    assert_eq!(sender.send_request(&request("GET"), true).err(), refused);
}

#[test]
fn the_connections_task_is_called_once_for_all_that_streams_say() {
    let machine = server(&H2Options::default());
    tell(&machine, &[headers(1, true, &GET), headers(3, true, &GET)]);
    let (mut one, mut other) = (accept(&machine), accept(&machine));
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    struct Calls(Arc<std::sync::atomic::AtomicUsize>);
    impl std::task::Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let waker = Waker::from(Arc::new(Calls(calls.clone())));
    let attend = || machine.lock().attend(&Context::from_waker(&waker));
    let count = || calls.swap(0, std::sync::atomic::Ordering::Relaxed);
    attend();
    for incoming in [&mut one, &mut other] {
        incoming
            .respond
            .send_response(StatusCode::OK, &HeaderMap::new(), false)
            .unwrap();
    }
    assert_eq!(count(), 1);
    attend();
    one.respond.send_reset(Reason::CANCEL);
    assert_eq!(count(), 1);
}
