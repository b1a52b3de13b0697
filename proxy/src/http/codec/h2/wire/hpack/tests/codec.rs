//! Both sides: what one writes the other reads, and their tables stay the same.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::table::{Name, Table};
use super::*;

#[test]
fn what_comes_again_is_two_octets() {
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/shop.Cart/Add"),
        (":authority", "cart.shop.svc.cluster.local:8080"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut encoder = Encoder::new();
    let lengths = [(); 3].map(|()| encode(&mut encoder, &fields).len());
    assert!(lengths[0] > 60, "{lengths:?}");
    assert!(lengths[1] < 20, "the path once more: {lengths:?}");
    assert_eq!(lengths[2], fields.len());
}

#[test]
fn values_of_one_request_stay_out_of_the_table() {
    let mut encoder = Encoder::new();
    let mut after_first = None;
    for n in 0..200 {
        let id = format!("5fa1c8f0-7d1e-4c8e-9d0b-{:012x}", n * 0x9e37_79b9_u64);
        let path = format!("/users/{n}/orders?page={n}");
        let date = format!("Mon, 21 Oct 2013 20:{:02}:{:02} GMT", n / 60, n % 60);
        let length = n.to_string();
        let fields = [
            (":path", path.as_str()),
            ("content-length", &length),
            ("date", &date),
            ("cookie", &id),
            ("x-request-id", &id),
            ("traceparent", &id),
            ("user-agent", "curl/8.5.0"),
        ];
        let block = encode(&mut encoder, &fields);
        let table = encoder.table.fields();
        let names: Vec<&[u8]> = table.iter().map(|(name, _)| name.as_slice()).collect();
        assert_eq!(names, [&b"user-agent"[..], b"traceparent", b"x-request-id"]);
        // The names of the ids are referred to, and the fields that stay are not driven out.
        assert_eq!(*after_first.get_or_insert(table.clone()), table);
        assert!(n == 0 || block.len() < 150, "{}", block.len());
    }
}

#[test]
fn credentials_are_never_indexed() {
    let credentials = [
        ("authorization", "Bearer 0123456789012345678901234567890123456789", true),
        ("proxy-authorization", "Basic dXNlcjpwYXNzd29yZA==", true),
        ("cookie", "id=1", true),
        ("set-cookie", "id=1; HttpOnly", true),
        ("cookie", "id=0123456789012345678901234567890123456789", false),
        ("x-token", "told by the caller", true),
    ];
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(4096);
    for (name, value, sensitive) in credentials {
        for _ in 0..2 {
            let mut out = BytesMut::new();
            encoder.begin(&mut out);
            encoder.field(name.as_bytes(), value.as_bytes(), name == "x-token", &mut out);
            let fields = decode(&mut decoder, &out).expect("a block");
            assert_eq!(plain(&fields), [(name, value)]);
            assert_eq!(fields[0].sensitive, sensitive, "{name}");
        }
    }
    assert_eq!(encoder.table.len(), 0);
}

#[test]
fn sizes_between_two_blocks_are_told() {
    let cases: [(&[usize], &str); 7] = [
        (&[4096], ""),
        (&[65_536], ""),
        (&[0], "20"),
        (&[100], "3f 45"),
        (&[100, 4096], "20 3f e1 1f"),
        (&[1000, 30, 2000, 8192], "20 3f e1 1f"),
        (&[5000, 31], "3f 00"),
    ];
    for (sizes, updates) in cases {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new(4096);
        let block = encode(&mut encoder, &[("a", "b")]);
        decode(&mut decoder, &block).expect("a block");
        sizes.iter().for_each(|&size| encoder.set_max_table_size(size));
        let block = encode(&mut encoder, &[(":method", "GET")]);
        assert_eq!(block, [hex(updates), hex("82")].concat(), "{sizes:?}");
        decode(&mut decoder, &block).expect("a block");
        let stays = !updates.contains("20") && !sizes.contains(&31);
        assert_eq!(decoder.table.len(), usize::from(stays), "{sizes:?}");
        assert_eq!(encode(&mut encoder, &[(":method", "GET")]), hex("82"), "told once");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Size(usize),
    Block(Vec<(Vec<u8>, Vec<u8>, bool)>),
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        ":path",
        ":status",
        ":authority",
        "cookie",
        "set-cookie",
        "authorization",
        "date",
        "vary",
        "accept",
    ];
    let own = ["x-a", "x-b", "x-request-id", "grpc-timeout"];
    let listed: Vec<Vec<u8>> = known.iter().chain(&own).map(|name| name.as_bytes().to_vec()).collect();
    prop_oneof![4 => select(listed), 1 => vec(any::<u8>(), 0..20)]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    let few = [
        "",
        "/",
        "200",
        "404",
        "gzip, deflate",
        "curl/8.5.0",
        "private, no-store",
    ];
    let listed: Vec<Vec<u8>> = few.iter().map(|value| value.as_bytes().to_vec()).collect();
    prop_oneof![
        4 => select(listed),
        2 => "[ -~]{0,60}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..300),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let block = vec((names(), values(), proptest::bool::weighted(0.1)), 0..12).prop_map(Step::Block);
    let size = prop_oneof![Just(0), 30usize..300, 0usize..9000].prop_map(Step::Size);
    vec(prop_oneof![3 => block, 1 => size], 1..24)
}

proptest! {
    #[test]
    fn blocks_are_read_as_they_were_meant(steps in steps()) {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new(4096);
        for step in steps {
            let fields = match step {
                Step::Size(size) => {
                    encoder.set_max_table_size(size);
                    continue;
                }
                Step::Block(fields) => fields,
            };
            let mut out = BytesMut::new();
            encoder.begin(&mut out);
            for (name, value, sensitive) in &fields {
                encoder.field(name, value, *sensitive, &mut out);
            }
            let decoded = decode(&mut decoder, &out).expect("a block");
            prop_assert_eq!(decoded.len(), fields.len());
            for (decoded, (name, value, sensitive)) in decoded.iter().zip(&fields) {
                prop_assert_eq!((&decoded.name, &decoded.value), (name, value));
                prop_assert!(decoded.sensitive || !sensitive);
            }
            prop_assert_eq!(encoder.table.fields(), decoder.table.fields());
            prop_assert_eq!(encoder.table.size(), decoder.table.size());
            prop_assert!(decoder.table.size() <= encoder.table.max_size());
            prop_assert_eq!(encoder.table.max_size(), decoder.table.max_size());
        }
    }

    #[test]
    fn any_octets_are_read_or_refused(limit in 0usize..9000, blocks in vec(vec(any::<u8>(), 0..200), 1..8)) {
        let mut decoder = Decoder::new(limit);
        for block in blocks {
            let mut octets = 0;
            let _ = decoder.decode(&block, |field| {
                octets += field.name.len() + field.value.len();
                Ok::<(), Malformed>(())
            });
            prop_assert!(decoder.table.size() <= decoder.table.max_size());
            prop_assert!(decoder.table.max_size() <= limit.max(4096));
            // No octet stands for more than the largest entry.
            prop_assert!(octets <= block.len() * limit.max(4096));
        }
    }

    /// A block of ours with one octet changed: most are read further than random ones.
    #[test]
    fn a_changed_octet_breaks_nothing_else(
        fields in vec((names(), values()), 1..12),
        place in any::<prop::sample::Index>(),
        octet in any::<u8>(),
    ) {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::new();
        encoder.begin(&mut out);
        for (name, value) in &fields {
            encoder.field(name, value, false, &mut out);
        }
        let place = place.index(out.len());
        out[place] = octet;
        let mut decoder = Decoder::new(4096);
        let _ = decode(&mut decoder, &out);
        prop_assert!(decoder.table.size() <= 4096);
    }

    /// The table against the plainest one there is.
    #[test]
    fn the_table_is_a_queue(
        steps in vec((names(), values(), proptest::option::weighted(0.1, 0usize..600)), 1..120),
    ) {
        let mut table = Table::new();
        let mut queue: VecDeque<(Vec<u8>, Vec<u8>)> = VecDeque::new();
        let mut max_size = 4096;
        let size = |queue: &VecDeque<(Vec<u8>, Vec<u8>)>| -> usize {
            queue.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
        };
        for (name, value, resize) in steps {
            if let Some(new_size) = resize {
                table.resize(new_size);
                max_size = new_size;
            } else {
                let stored = super::super::statics::find(&name).map_or(Name::Literal(&name), Name::Static);
                table.insert(stored, &value);
                queue.push_front((name, value));
            }
            while size(&queue) > max_size {
                queue.pop_back();
            }
            prop_assert_eq!(table.fields(), Vec::from(queue.clone()));
            prop_assert_eq!(table.size(), size(&queue));
        }
    }

    #[test]
    fn strings_are_the_same_again(text in vec(any::<u8>(), 0..400)) {
        let mut out = BytesMut::new();
        let length = super::super::huffman::coded_len(&text);
        super::super::huffman::encode(&text, length, &mut out);
        prop_assert_eq!(out.len(), length);
        let mut decoded = Vec::new();
        prop_assert_eq!(super::super::huffman::decode(&out, &mut decoded), Ok(()));
        prop_assert_eq!(decoded, text);
    }
}
