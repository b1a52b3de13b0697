use proptest::prelude::*;

use super::*;

#[test]
fn reads_every_wire_type_with_its_range() {
    let mut bytes = Vec::new();
    put_tag(&mut bytes, 1, 0);
    put_varint(&mut bytes, 300);
    put_len(&mut bytes, 2, b"name");
    put_tag(&mut bytes, 3, 5);
    bytes.extend(7u32.to_le_bytes());
    put_tag(&mut bytes, 4, 1);
    bytes.extend(9u64.to_le_bytes());
    let fields: Vec<_> = Fields::new(&bytes).map(|field| field.expect("well-formed")).collect();
    let values: Vec<_> = fields.iter().map(|field| (field.number, field.value)).collect();
    assert_eq!(
        values,
        [
            (1, Value::Varint(300)),
            (2, Value::Len(b"name")),
            (3, Value::Fixed32(7)),
            (4, Value::Fixed64(9))
        ]
    );
    assert_eq!(fields[0].range, 0..3);
    assert_eq!(fields[3].range.end, bytes.len());
}

#[test]
fn back_patched_lengths_of_every_size() {
    for size in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
        let mut bytes = vec![0x08, 0x01];
        let start = begin_len(&mut bytes, 5);
        bytes.extend(std::iter::repeat_n(0xab, size));
        end_len(&mut bytes, start);
        assert_eq!(bytes_field(&bytes, 5), Ok(Some(vec![0xab; size].as_slice())));
    }
}

#[test]
fn malformed_bytes_are_errors() {
    let error = |bytes: &[u8]| Fields::new(bytes).find_map(Result::err);
    assert_eq!(error(&[0x08]), Some(WireError::Truncated));
    assert_eq!(error(&[0x0a, 5, 1]), Some(WireError::Truncated));
    assert_eq!(error(&[0x00, 1]), Some(WireError::Tag));
    assert_eq!(error(&[0x0b]), Some(WireError::WireType(3)));
    assert_eq!(error(&[0xff; 11]), Some(WireError::Varint));
    assert_eq!(
        error(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        Some(WireError::Truncated)
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_ranges_are_contiguous(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut end = 0;
        for field in Fields::new(&bytes).flatten() {
            prop_assert_eq!(field.range.start, end);
            end = field.range.end;
        }
        prop_assert!(end <= bytes.len());
    }

    #[test]
    fn varints_round_trip(number: u64) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, number);
        prop_assert_eq!(varint(&bytes), Ok((number, bytes.len())));
    }
}
