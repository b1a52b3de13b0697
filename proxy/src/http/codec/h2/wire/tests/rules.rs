//! What a peer may not say, and what comes of it (RFC 9113 sections 4 to 8).

use super::super::error::{By, VIOLATION};
use super::*;

/// What a server complains of behind `bytes`, on a connection that has just begun.
fn complaint(bytes: &[Vec<u8>]) -> Vec<(u32, Reason)> {
    let machine = server(&H2Options::default());
    tell(&machine, bytes);
    complaints(&said(&machine))
}

#[test]
fn frames_that_end_the_connection() {
    let head = headers(1, false, &POST);
    let cases: &[(&[Vec<u8>], Reason)] = &[
        (&[data(1, false, b"x")], Reason::PROTOCOL_ERROR),
        (&[data(0, false, b"x")], Reason::PROTOCOL_ERROR),
        (&[headers(2, true, &GET)], Reason::PROTOCOL_ERROR),
        (&[headers(0, true, &GET)], Reason::PROTOCOL_ERROR),
        (&[reset(1, Reason::CANCEL)], Reason::PROTOCOL_ERROR),
        (&[window_update(1, 1)], Reason::PROTOCOL_ERROR),
        (&[window_update(0, 0)], Reason::PROTOCOL_ERROR),
        (&[window_update(0, 0x7fff_ffff)], Reason::FLOW_CONTROL_ERROR),
        (&[frame(frame::WINDOW_UPDATE, 0, 0, &[0; 3])], Reason::FRAME_SIZE_ERROR),
        (&[frame(frame::PING, 0, 0, &[0; 7])], Reason::FRAME_SIZE_ERROR),
        (&[frame(frame::PING, 0, 1, &[0; 8])], Reason::PROTOCOL_ERROR),
        (&[frame(frame::SETTINGS, 0, 0, &[0; 5])], Reason::FRAME_SIZE_ERROR),
        (
            &[frame(frame::SETTINGS, frame::ACK, 0, &[0; 6])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (&[frame(frame::SETTINGS, 0, 1, &[])], Reason::PROTOCOL_ERROR),
        (&[settings(&[(frame::ENABLE_PUSH, 2)])], Reason::PROTOCOL_ERROR),
        (
            &[settings(&[(frame::INITIAL_WINDOW_SIZE, 1 << 31)])],
            Reason::FLOW_CONTROL_ERROR,
        ),
        (&[settings(&[(frame::MAX_FRAME_SIZE, 16_383)])], Reason::PROTOCOL_ERROR),
        (&[settings(&[(frame::MAX_FRAME_SIZE, 1 << 24)])], Reason::PROTOCOL_ERROR),
        (&[frame(frame::GOAWAY, 0, 1, &[0; 8])], Reason::PROTOCOL_ERROR),
        (&[frame(frame::GOAWAY, 0, 0, &[0; 7])], Reason::FRAME_SIZE_ERROR),
        (
            &[frame(frame::PUSH_PROMISE, frame::END_HEADERS, 1, &[0; 4])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            &[frame(frame::CONTINUATION, frame::END_HEADERS, 1, &[])],
            Reason::PROTOCOL_ERROR,
        ),
        (&[frame(frame::RST_STREAM, 0, 1, &[0; 3])], Reason::FRAME_SIZE_ERROR),
        (&[frame(frame::DATA, 0, 1, &[0; 16_385])], Reason::FRAME_SIZE_ERROR),
        (
            &[frame(frame::HEADERS, frame::END_HEADERS, 1, &[0xff; 6])],
            Reason::COMPRESSION_ERROR,
        ),
        (&[frame(frame::PRIORITY, 0, 0, &[0; 5])], Reason::PROTOCOL_ERROR),
        (
            &[frame(frame::PRIORITY, 0, 3, &[0, 0, 0, 3, 1])],
            Reason::PROTOCOL_ERROR,
        ),
        // More padding than payload.
        (
            &[head.clone(), frame(frame::DATA, frame::PADDED, 1, &[2, 0])],
            Reason::PROTOCOL_ERROR,
        ),
        // A block that is interrupted.
        (
            &[
                frame(frame::HEADERS, 0, 1, &block(&GET)),
                frame(frame::PING, 0, 0, &[0; 8]),
            ],
            Reason::PROTOCOL_ERROR,
        ),
        (
            &[
                frame(frame::HEADERS, 0, 1, &block(&GET)),
                frame(frame::CONTINUATION, frame::END_HEADERS, 3, &[]),
            ],
            Reason::PROTOCOL_ERROR,
        ),
        // A stream that is over, or that a higher one has skipped.
        (&[headers(3, true, &GET), headers(1, true, &GET)], Reason::STREAM_CLOSED),
    ];
    for (number, (bytes, reason)) in cases.iter().enumerate() {
        assert_eq!(complaint(bytes), [(0, *reason)], "case {number}");
    }
}

#[test]
fn frames_that_end_their_stream_alone() {
    let open = headers(1, false, &POST);
    let over = headers(1, true, &GET);
    let circular = [&[0, 0, 0, 1, 16][..], &block(&GET)].concat();
    let flags = frame::END_HEADERS | frame::END_STREAM | frame::HAS_PRIORITY;
    let length = [&POST[..], &[("content-length", "3")]].concat();
    let announced = headers(1, false, &length);
    let cases: &[(&[Vec<u8>], Reason)] = &[
        (&[open.clone(), window_update(1, 0)], Reason::PROTOCOL_ERROR),
        (
            &[open.clone(), window_update(1, 0x7fff_ffff)],
            Reason::FLOW_CONTROL_ERROR,
        ),
        (&[over.clone(), data(1, true, b"x")], Reason::STREAM_CLOSED),
        (&[over.clone(), headers(1, true, &[("a", "b")])], Reason::STREAM_CLOSED),
        (
            &[open.clone(), headers(1, false, &[("a", "b")])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            &[open.clone(), headers(1, true, &[(":path", "/")])],
            Reason::PROTOCOL_ERROR,
        ),
        (&[open.clone(), headers(1, true, &[("A", "b")])], Reason::PROTOCOL_ERROR),
        (
            &[open.clone(), frame(frame::PRIORITY, 0, 1, &[0; 4])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            &[open.clone(), frame(frame::PRIORITY, 0, 1, &[0, 0, 0, 1, 1])],
            Reason::PROTOCOL_ERROR,
        ),
        (&[frame(frame::HEADERS, flags, 1, &circular)], Reason::PROTOCOL_ERROR),
        (&[announced.clone(), data(1, true, b"ab")], Reason::PROTOCOL_ERROR),
        (&[announced.clone(), data(1, false, b"abcd")], Reason::PROTOCOL_ERROR),
        (
            &[announced.clone(), headers(1, true, &[("a", "b")])],
            Reason::PROTOCOL_ERROR,
        ),
        (&[headers(1, true, &length)], Reason::PROTOCOL_ERROR),
        // The peer has reset it itself.
        (
            &[open.clone(), reset(1, Reason::CANCEL), data(1, false, b"x")],
            Reason::STREAM_CLOSED,
        ),
    ];
    for (number, (bytes, reason)) in cases.iter().enumerate() {
        assert_eq!(complaint(bytes), [(1, *reason)], "case {number}");
    }
    assert_eq!(complaint(&[announced, data(1, false, b"ab"), data(1, true, b"c")]), []);
}

#[test]
fn heads_that_are_none_reset_their_stream_and_say_why() {
    let with = |fields: &[(&'static str, &'static str)]| [&GET[..], fields].concat();
    let target = |path, authority| {
        [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
        ]
    };
    const INVALID: &str = super::super::error::INVALID;
    let cases: Vec<(Vec<(&str, &str)>, &str)> = vec![
        (with(&[("Upper", "case")]), VIOLATION),
        (with(&[("connection", "close")]), VIOLATION),
        (with(&[("keep-alive", "1")]), VIOLATION),
        (with(&[("proxy-connection", "1")]), VIOLATION),
        (with(&[("upgrade", "x")]), VIOLATION),
        (with(&[("transfer-encoding", "chunked")]), VIOLATION),
        (with(&[("te", "gzip")]), VIOLATION),
        (with(&[("a", "b"), (":path", "/late")]), VIOLATION),
        (with(&[(":path", "/twice")]), VIOLATION),
        (with(&[(":unknown", "x")]), VIOLATION),
        (with(&[(":status", "200")]), VIOLATION),
        (with(&[(":protocol", "websocket")]), VIOLATION),
        (with(&[("a", "b\r\nc: d")]), VIOLATION),
        (with(&[("content-length", "x")]), VIOLATION),
        (with(&[("content-length", "0"), ("content-length", "0")]), INVALID),
        (with(&[("host", "a"), ("host", "b")]), INVALID),
        (target("/", "user@a.test").to_vec(), INVALID),
        (target("", "a.test").to_vec(), VIOLATION),
        (target("relative", "a.test").to_vec(), VIOLATION),
        (target("*", "a.test").to_vec(), VIOLATION),
        (GET[1..].to_vec(), VIOLATION),
        (vec![GET[0], GET[2], GET[3]], VIOLATION),
        (vec![GET[0], GET[1], GET[3]], VIOLATION),
        (vec![(":method", "CONNECT"), (":path", "/"), GET[3]], VIOLATION),
    ];
    for (fields, details) in cases {
        let machine = server(&H2Options::default());
        tell(&machine, &[headers(1, true, &fields), headers(3, true, &GET)]);
        assert_eq!(complaints(&said(&machine)), [(1, Reason::PROTOCOL_ERROR)], "{fields:?}");
        assert_eq!(machine.lock().malformed, [details], "{fields:?}");
        assert_eq!(accept(&machine).message.head.uri().path(), "/");
        assert_eq!(machine.lock().counts.unseen, 0);
    }
    let allowed = [
        with(&[("te", "trailers"), ("host", "b.test")]),
        vec![(":method", "CONNECT"), (":authority", "a.test:443")],
        vec![(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), GET[3]],
        vec![GET[0], GET[1], GET[2], ("host", "a.test")],
    ];
    for fields in allowed {
        assert_eq!(complaint(&[headers(1, true, &fields)]), [], "{fields:?}");
    }
}

#[test]
fn the_first_frame_is_settings_behind_the_preface() {
    let machine = Arc::new(Mutex::new(Machine::server(&H2Options::default())));
    tell(&machine, &[b"GET / HTTP/1.1\r\n\r\n".to_vec()]);
    assert_eq!(complaints(&said(&machine)), [(0, Reason::PROTOCOL_ERROR)]);
    for first in [
        frame(frame::PING, 0, 0, &[0; 8]),
        frame(frame::SETTINGS, frame::ACK, 0, &[]),
    ] {
        let machine = Arc::new(Mutex::new(Machine::server(&H2Options::default())));
        tell(&machine, &[frame::PREFACE.to_vec(), first]);
        assert_eq!(complaints(&said(&machine)), [(0, Reason::PROTOCOL_ERROR)]);
    }
}

#[test]
fn what_was_on_its_way_to_a_stream_that_we_reset_is_no_error() {
    let machine = server(&H2Options::default());
    tell(&machine, &[headers(1, false, &POST)]);
    accept(&machine).respond.send_reset(Reason::CANCEL);
    tell(
        &machine,
        &[
            data(1, false, b"late"),
            window_update(1, 5),
            headers(1, true, &[("late", "too")]),
        ],
    );
    assert_eq!(complaints(&said(&machine)), [(1, Reason::CANCEL)]);
    // Its bytes count for the connection again.
    assert_eq!(machine.lock().unclaimed, 4);
}

#[test]
fn streams_beyond_the_limit_are_refused_and_what_they_send_is_passed_over() {
    let options = H2Options {
        max_concurrent_streams: 1,
        ..H2Options::default()
    };
    let machine = server(&options);
    tell(
        &machine,
        &[headers(1, false, &POST), headers(3, false, &POST), data(3, true, b"x")],
    );
    assert_eq!(complaints(&said(&machine)), [(3, Reason::REFUSED_STREAM)]);
    let first = accept(&machine);
    assert!(handles::accept(&machine).is_none());
    drop(first);
    tell(&machine, &[headers(5, true, &GET)]);
    accept(&machine);
}

#[test]
fn floods_end_the_connection_without_a_word() {
    let priority = frame(frame::PRIORITY, 0, 1, &[0, 0, 0, 3, 16]);
    let empty = data(1, false, b"");
    let padded = frame(frame::DATA, frame::PADDED, 1, &[2, 0, 0]);
    let ping = frame(frame::PING, 0, 0, &[1; 8]);
    const CONTROLS: &str = "codec_error:Too_many_control_frames_in_the_outbound_queue.";
    let cases: &[(Vec<Vec<u8>>, &str)] = &[
        (vec![priority; 201], "codec_error:Too_many_PRIORITY_frames"),
        (
            vec![window_update(0, 1); 8],
            "codec_error:Too_many_WINDOW_UPDATE_frames",
        ),
        (vec![empty, padded], "http2.inbound_empty_frames_flood"),
        (vec![ping; 1001], CONTROLS),
        (vec![settings(&[]); 1001], CONTROLS),
    ];
    for (flood, details) in cases {
        let machine = server(&H2Options::default());
        tell(&machine, &[headers(1, false, &POST)]);
        tell(&machine, &flood[..flood.len() - 1]);
        machine.lock().check_output();
        assert_eq!(machine.lock().end, None, "{details}");
        tell(&machine, &flood[flood.len() - 1..]);
        machine.lock().check_output();
        assert_eq!(machine.lock().flood, Some(*details));
        assert!(said(&machine).is_empty());
    }
}

#[test]
fn blocks_are_bounded_in_bytes_parts_and_meaning() {
    let calm = [(0, Reason::ENHANCE_YOUR_CALM)];
    let begun = frame(frame::HEADERS, frame::END_STREAM, 1, &block(&GET));
    let large = frame(frame::CONTINUATION, 0, 1, &[0; 16_000]);
    assert_eq!(complaint(&[vec![begun.clone()], vec![large; 8]].concat()), calm);
    let tiny = frame(frame::CONTINUATION, 0, 1, &block(&[("a", "b")]));
    assert_eq!(complaint(&[vec![begun], vec![tiny; 40]].concat()), calm);
    // A field of the dynamic table, again and again.
    let mut bomb = block(&GET);
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0x80, 0x1e]);
    bomb.extend(vec![b'y'; 127 + 0xf00]);
    bomb.extend(vec![0x80 | 62; 1000]);
    let bomb = frame(frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, 1, &bomb);
    assert_eq!(complaint(&[bomb]), calm);
}

#[test]
fn what_is_over_our_limits_is_told_and_not_kept() {
    let options = H2Options {
        max_headers_count: 2,
        max_header_list_size: 150,
        ..H2Options::default()
    };
    let cases = [
        (vec![("a", "b"); 3], Some("http2.too_many_headers")),
        (vec![("a", LONG); 2], Some("http2.header_list_size_too_large")),
        (vec![("a", "b"); 2], None),
    ];
    const LONG: &str =
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";
    for (fields, over) in cases {
        let machine = server(&options);
        tell(&machine, &[headers(1, false, &[&POST[..], &fields].concat())]);
        tell(&machine, &[headers(1, true, &fields)]);
        let mut incoming = accept(&machine);
        assert_eq!(incoming.message.over, over);
        assert_eq!(incoming.body.take_trailers().unwrap().over, over);
        assert!(incoming.message.head.headers().len() <= 2);
    }
}

#[test]
fn resets_are_bounded_whoever_sends_them() {
    let options = H2Options {
        max_pending_accept_reset_streams: 2,
        ..H2Options::default()
    };
    let machine = server(&options);
    for id in [1, 3] {
        tell(&machine, &[headers(id, true, &GET), reset(id, Reason::CANCEL)]);
    }
    assert_eq!(said(&machine), []);
    tell(&machine, &[headers(5, true, &GET), reset(5, Reason::CANCEL)]);
    assert_eq!(complaints(&said(&machine)), [(0, Reason::ENHANCE_YOUR_CALM)]);

    let machine = server(&H2Options::default());
    let mut id = 1;
    while machine.lock().end.is_none() {
        assert!(id < 4000);
        tell(&machine, &[headers(id, true, &GET), window_update(id, 0)]);
        drop(handles::accept(&machine));
        if machine.lock().end.is_none() {
            said(&machine);
        }
        id += 2;
    }
    assert_eq!(
        complaints(&said(&machine)).last(),
        Some(&(0, Reason::ENHANCE_YOUR_CALM))
    );
}

#[test]
fn a_server_may_not_say_everything_either() {
    let ok = [(":status", "200")];
    let cases: &[(&[Vec<u8>], (u32, Reason))] = &[
        (&[headers(2, true, &ok)], (0, Reason::PROTOCOL_ERROR)),
        (&[headers(3, true, &ok)], (0, Reason::PROTOCOL_ERROR)),
        (&[settings(&[(frame::ENABLE_PUSH, 1)])], (0, Reason::PROTOCOL_ERROR)),
        (
            &[frame(frame::PUSH_PROMISE, frame::END_HEADERS, 1, &[0, 0, 0, 2])],
            (0, Reason::PROTOCOL_ERROR),
        ),
        (&[data(1, false, b"x")], (1, Reason::PROTOCOL_ERROR)),
        (&[headers(1, true, &[("a", "b")])], (1, Reason::PROTOCOL_ERROR)),
        (&[headers(1, true, &[(":status", "103")])], (1, Reason::PROTOCOL_ERROR)),
        (&[headers(1, false, &[(":status", "101")])], (1, Reason::PROTOCOL_ERROR)),
        (
            &[headers(1, false, &ok), headers(1, false, &[(":status", "103")])],
            (1, Reason::PROTOCOL_ERROR),
        ),
        (
            &[headers(1, true, &[(":status", "200"), (":path", "/")])],
            (1, Reason::PROTOCOL_ERROR),
        ),
        (
            &[headers(1, true, &[(":status", "200"), ("content-length", "1")])],
            (1, Reason::PROTOCOL_ERROR),
        ),
        (
            &[headers(1, true, &[(":status", "204"), ("content-length", "5")])],
            (1, Reason::PROTOCOL_ERROR),
        ),
        (
            &[headers(1, false, &[(":status", "204")]), data(1, true, b"x")],
            (1, Reason::PROTOCOL_ERROR),
        ),
        (
            &[
                headers(1, false, &[(":status", "304"), ("content-length", "1")]),
                data(1, true, b"x"),
            ],
            (1, Reason::PROTOCOL_ERROR),
        ),
    ];
    for (number, (bytes, complaint)) in cases.iter().enumerate() {
        let (machine, sender) = client(&H2Options::default());
        let (mut response, _body) = ask(&sender, "GET", true);
        said(&machine);
        tell(&machine, bytes);
        assert_eq!(complaints(&said(&machine)), [*complaint], "case {number}");
        let error = match answer(&mut response) {
            Poll::Ready(Ok((_, mut body))) => match read(&mut body) {
                Poll::Ready(Some(Err(error))) => error,
                other => panic!("case {number}: {other:?}"),
            },
            Poll::Ready(Err(error)) => error,
            Poll::Pending => panic!("case {number}"),
        };
        let rules = By::Rules(VIOLATION);
        assert!(
            error == Error::Reset(complaint.1, rules) || error == Error::GoAway(complaint.1, rules),
            "case {number}: {error:?}"
        );
    }
    // No body, and its length all the same.
    for (method, status) in [("HEAD", "200"), ("GET", "304")] {
        let (machine, sender) = client(&H2Options::default());
        let (mut response, _body) = ask(&sender, method, true);
        tell(
            &machine,
            &[headers(1, true, &[(":status", status), ("content-length", "5")])],
        );
        assert!(matches!(answer(&mut response), Poll::Ready(Ok(_))));
    }
}
