//! Whatever a peer sends, in whatever pieces.

use proptest::prelude::*;

use super::*;

/// Frames that are likely to mean something, and some that are not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![Just(0_u32), Just(1), Just(3), Just(5), Just(7), Just(2)];
    let payload = proptest::collection::vec(any::<u8>(), 0..40);
    let flags = prop_oneof![Just(0_u8), Just(1), Just(4), Just(5), Just(8), any::<u8>()];
    prop_oneof![
        4 => (id.clone(), any::<bool>()).prop_map(|(id, end)| headers(id, end, &GET)),
        4 => (id.clone(), any::<bool>(), payload.clone()).prop_map(|(id, end, payload)| data(id, end, &payload)),
        2 => (id.clone(), any::<bool>()).prop_map(|(id, end)| headers(id, end, &[("a", "b")])),
        1 => (id.clone(), 0_u32..3).prop_map(|(id, reason)| reset(id, Reason(reason))),
        2 => (id.clone(), 0_u32..70_000).prop_map(|(id, increment)| window_update(id, increment)),
        1 => (1_u16..7, prop_oneof![0_u32..3, 16_384_u32..100_000]).prop_map(|setting| settings(&[setting])),
        1 => Just(frame(frame::SETTINGS, frame::ACK, 0, &[])),
        1 => (any::<bool>(), any::<[u8; 8]>()).prop_map(|(ack, payload)| frame(frame::PING, u8::from(ack), 0, &payload)),
        1 => (0_u8..11, flags, id, payload).prop_map(|(kind, flags, id, payload)| frame(kind, flags, id, &payload)),
    ]
}

/// What a server does between two frames of its client.
#[derive(Clone, Debug)]
enum Deed {
    Accept,
    Read(usize),
    Answer(usize, bool),
    Send(usize, usize, bool),
    Reset(usize),
    DropBody(usize),
    Drop(usize),
    Write(usize),
    Leave,
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let which = 0_usize..4;
    prop_oneof![
        4 => Just(Deed::Accept),
        3 => which.clone().prop_map(Deed::Read),
        2 => (which.clone(), any::<bool>()).prop_map(|(which, end)| Deed::Answer(which, end)),
        4 => (which.clone(), 0_usize..40_000, any::<bool>()).prop_map(|(which, length, end)| Deed::Send(which, length, end)),
        1 => which.clone().prop_map(Deed::Reset),
        1 => which.clone().prop_map(Deed::DropBody),
        1 => which.prop_map(Deed::Drop),
        2 => (1_usize..100_000).prop_map(Deed::Write),
        1 => Just(Deed::Leave),
    ]
}

#[derive(Default)]
struct Held {
    bodies: Vec<Option<RecvStream>>,
    responds: Vec<Option<super::super::SendResponse>>,
    streams: Vec<Option<SendStream>>,
}

impl Held {
    fn act(&mut self, machine: &Shared, deed: &Deed) {
        match *deed {
            Deed::Accept => {
                if let Some(incoming) = handles::accept(machine) {
                    self.bodies.push(Some(incoming.body));
                    self.responds.push(Some(incoming.respond));
                    self.streams.push(None);
                }
            }
            Deed::Read(which) => {
                if let Some(Some(body)) = self.bodies.get_mut(which) {
                    let _ = read(body);
                }
            }
            Deed::Answer(which, end) => {
                let Some(mut respond) = self.responds.get_mut(which).and_then(Option::take) else {
                    return;
                };
                let _ = respond.send_response(http::StatusCode::OK, &http::HeaderMap::new(), end);
                self.streams[which] = Some(respond.into_stream());
            }
            Deed::Send(which, length, end) => {
                if let Some(Some(stream)) = self.streams.get_mut(which) {
                    let _ = send(stream, &vec![0; length], end);
                }
            }
            Deed::Reset(which) => {
                if let Some(Some(stream)) = self.streams.get_mut(which) {
                    stream.send_reset(Reason::INTERNAL_ERROR);
                }
            }
            Deed::DropBody(which) => drop(self.bodies.get_mut(which).and_then(Option::take)),
            Deed::Drop(which) => {
                drop(self.responds.get_mut(which).and_then(Option::take));
                drop(self.streams.get_mut(which).and_then(Option::take));
            }
            Deed::Write(count) => {
                let mut machine = machine.lock();
                let count = count.min(machine.out.bytes().len());
                machine.wrote(count);
            }
            Deed::Leave => machine.lock().leave(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_do_not_matter(
        sent in proptest::collection::vec(any_frame(), 0..30),
        cuts in proptest::collection::vec(1_usize..30, 1..20),
    ) {
        let bytes = sent.concat();
        let (whole, pieces) = (server(&H2Options::default()), server(&H2Options::default()));
        tell(&whole, std::slice::from_ref(&bytes));
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*cut));
            tell(&pieces, &[now.to_vec()]);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let (one, other) = (whole.lock(), pieces.lock());
        prop_assert_eq!(one.out.bytes(), other.out.bytes());
        prop_assert_eq!(one.end, other.end);
        prop_assert_eq!(one.flood, other.flood);
        prop_assert_eq!(&one.pending, &other.pending);
        prop_assert_eq!((one.recv_window, one.send_window, one.unclaimed), (other.recv_window, other.send_window, other.unclaimed));
    }

    #[test]
    fn nothing_is_left_of_streams_that_nobody_holds(
        steps in proptest::collection::vec((any_frame(), any_deed(), any_deed()), 0..60),
    ) {
        let machine = server(&H2Options::default());
        let mut held = Held::default();
        for (frame, one, other) in steps {
            tell(&machine, &[frame]);
            for deed in [one, other] {
                held.act(&machine, &deed);
                machine.lock().check();
            }
        }
        drop(held);
        while let Some(incoming) = handles::accept(&machine) {
            drop(incoming);
        }
        let machine = machine.lock();
        machine.check();
        prop_assert!(machine.streams.is_empty());
        prop_assert_eq!(machine.recv_window + i64::from(machine.unclaimed), 24 << 20);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (machine, sender) = client(&H2Options::default());
        let _stream = ask(&sender, "GET", true);
        tell(&machine, &[bytes]);
    }
}
