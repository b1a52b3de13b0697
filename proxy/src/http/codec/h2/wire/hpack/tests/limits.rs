//! What is refused, and what memory is kept.

use super::super::{huffman, statics};
use super::*;

#[test]
fn malformed_blocks() {
    let blocks = [
        ("index 0", "80"),
        ("an index behind the table", "be"),
        ("an index behind the table, in a literal", "7f 00 00"),
        ("an index that is not finished", "ff"),
        ("an index of 2^32 and more", "ff 80 ff ff ff 7f"),
        ("an integer of many zeros", "ff 80 80 80 80 80 00"),
        ("a literal without a name", "40"),
        ("a literal without a value", "00 01 61"),
        ("a name longer than the block", "00 05 61"),
        ("a value longer than the block", "00 01 61 02 62"),
        ("a value longer than any block", "00 01 61 7f ff ff ff ff 0f"),
        ("padding of zeros", "00 01 61 81 00"),
        ("padding of a whole octet", "00 01 61 82 1f ff"),
        ("EOS alone", "00 01 61 84 ff ff ff ff"),
        ("EOS between symbols", "00 01 61 8c 1f ff ff ff fc 63 18 c6 31 8c 63 1f"),
        ("a symbol that is not finished", "00 01 61 81 fe"),
        ("a size update above the limit", "3f e2 1f"),
        ("a size update behind a field", "82 20"),
    ];
    for (what, block) in blocks {
        assert_eq!(decode(&mut Decoder::new(4096), &hex(block)), Err(Malformed), "{what}");
    }
}

#[test]
fn unusual_blocks() {
    let blocks = [
        ("nothing", "", &[][..]),
        (
            "several size updates, up to the limit",
            "20 3f 01 3f e1 1f 82",
            &[(":method", "GET")],
        ),
        (
            "an integer with zeros at its end",
            "3f 80 80 80 80 00 82",
            &[(":method", "GET")],
        ),
        ("an empty name", "00 00 01 61", &[("", "a")]),
        ("an empty value, coded", "00 01 61 80", &[("a", "")]),
        ("padding of seven bits", "00 01 61 83 02 8a 7f", &[("a", "0  ")]),
    ];
    for (what, block, fields) in blocks {
        let decoded = decode(&mut Decoder::new(4096), &hex(block)).expect(what);
        assert_eq!(plain(&decoded), fields, "{what}");
    }
}

#[test]
fn the_first_place_of_a_name_stands_for_all() {
    let first_places: Vec<Option<u8>> = (1..=statics::COUNT)
        .map(|index| statics::entry(index).and_then(|(name, _)| statics::find(name)))
        .collect();
    for (index, first) in (1u8..).zip(first_places) {
        assert_eq!(first, Some(statics::first(index)));
        let (name, value) = statics::entry(usize::from(index)).expect("an entry");
        assert_eq!(statics::find_value(statics::first(index), value), Some(index));
        for other in [&name[1..], &[name, b"x"].concat(), &name.to_ascii_uppercase()] {
            assert_eq!(statics::find(other), None);
        }
    }
    assert_eq!(statics::find(b""), None);
    let fields = decode(
        &mut Decoder::new(4096),
        &hex("83 43 03 50 55 54 be 00 07 3a 6d 65 74 68 6f 64 00"),
    )
    .expect("a block");
    let places: Vec<_> = fields.iter().map(|field| field.static_name).collect();
    assert_eq!(places, [Some(2), Some(2), Some(2), None]);
}

#[test]
fn each_octet_has_its_code() {
    // RFC 7541 appendix B: one of each length, and both ends.
    let codes = [
        (b'0', "07"),
        (b' ', "53"),
        (b'z', "f7"),
        (b'&', "f8"),
        (b'?', "ff 3f"),
        (b'|', "ff 9f"),
        (b'#', "ff af"),
        (0, "ff c7"),
        (b'^', "ff f3"),
        (b'<', "ff f9"),
        (b'\\', "ff fe 1f"),
        (128, "ff fe 6f"),
        (153, "ff fe e7"),
        (129, "ff ff 4b"),
        (1, "ff ff b1"),
        (9, "ff ff ea"),
        (199, "ff ff f6 7f"),
        (255, "ff ff fb bf"),
        (203, "ff ff fb df"),
        (2, "ff ff fe 2f"),
        (22, "ff ff ff fb"),
    ];
    for (octet, code) in codes {
        let mut out = BytesMut::new();
        huffman::encode(&[octet], huffman::coded_len(&[octet]), &mut out);
        assert_eq!(out, hex(code), "{octet}");
    }
    for octet in 0..=u8::MAX {
        // Alone, and among others at each place of a step.
        for text in [vec![octet], [&b"0123"[..], &[octet; 9], b"abcdefgh"].concat()] {
            let mut out = BytesMut::new();
            huffman::encode(&text, huffman::coded_len(&text), &mut out);
            let mut decoded = b"before".to_vec();
            assert_eq!(huffman::decode(&out, &mut decoded), Ok(()));
            assert_eq!(decoded, [b"before", &text[..]].concat());
        }
    }
}

#[test]
fn fields_that_do_not_fit_empty_the_table() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &hex("3f 21 40 01 61 01 62")).expect("a table of 64 with one entry of 34");
    assert_eq!(decoder.table.size(), 34);
    let long = [&hex("40 01 61 20")[..], &[b'x'; 32]].concat();
    decode(&mut decoder, &long).expect("a field of 65");
    assert_eq!((decoder.table.len(), decoder.table.size()), (0, 0));
}

/// RFC 7541 4.4: the name may be the one of the entry that goes.
#[test]
fn a_name_survives_its_entry() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &hex("3f 09 40 03 61 62 63 01 31")).expect("a table of 40 with one entry of 36");
    let fields = decode(&mut decoder, &hex("7e 01 32 be")).expect("a second value");
    assert_eq!(plain(&fields), [("abc", "2"), ("abc", "2")]);
    assert_eq!(decoder.table.len(), 1);
}

#[test]
fn the_caller_may_stop() {
    let mut decoder = Decoder::new(4096);
    #[derive(Debug, PartialEq)]
    enum Refused {
        Enough,
        Malformed,
    }
    impl From<Malformed> for Refused {
        fn from(Malformed: Malformed) -> Self {
            Self::Malformed
        }
    }
    let mut count = 0;
    let stopped = decoder.decode(&hex("82 84 86"), |_| {
        count += 1;
        if count < 2 { Ok(()) } else { Err(Refused::Enough) }
    });
    assert_eq!((stopped, count), (Err(Refused::Enough), 2));
    assert_eq!(decoder.decode(&hex("80"), |_| Ok(())), Err(Refused::Malformed));
}

#[test]
fn memory_follows_use() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(4096);
    assert_eq!((encoder.footprint(), decoder.table.footprint()), (0, 0));
    let block = encode(
        &mut encoder,
        &[
            (":method", "GET"),
            (":path", "/"),
            ("content-length", "12"),
            ("te", "trailers"),
        ],
    );
    decode(&mut decoder, &block).expect("a block");
    assert!(encoder.footprint() <= 512 && decoder.table.footprint() <= 512);

    for n in 0..10_000 {
        let name = format!("x-{}", n % 977);
        let value = "v".repeat(n % 61);
        let block = encode(&mut encoder, &[(&name, &value)]);
        decode(&mut decoder, &block).expect("a block");
        assert_eq!(encoder.table.fields(), decoder.table.fields());
        // Octets and a half as many, and the entries' own sixteen for each of at most 128.
        assert!(decoder.table.footprint() <= 4096 * 3 / 2 + 128 * 16);
    }
    assert!(decoder.table.size() > 3900);

    encoder.set_max_table_size(0);
    let block = encode(&mut encoder, &[("te", "trailers")]);
    decode(&mut decoder, &block).expect("a block");
    assert_eq!((encoder.footprint(), decoder.table.footprint()), (0, 0));
}
