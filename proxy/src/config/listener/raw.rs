//! Fields of an encoded message as they stand, for hashes: an encoding made again may order its maps otherwise.

/// The length-delimited fields numbered `number`, in their order. Stops at what is malformed: whoever decodes it reports that.
pub fn fields(mut bytes: &[u8], number: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(tag) = varint(&mut bytes) {
        let skip = match tag & 7 {
            0 => {
                if varint(&mut bytes).is_none() {
                    break;
                }
                0
            }
            1 => 8,
            5 => 4,
            2 => match varint(&mut bytes).and_then(|length| usize::try_from(length).ok()) {
                Some(length) => length,
                None => break,
            },
            _ => break,
        };
        let Some((body, rest)) = bytes.split_at_checked(skip) else {
            break;
        };
        if tag & 7 == 2 && tag >> 3 == number {
            found.push(body);
        }
        bytes = rest;
    }
    found
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
