//! The static table (RFC 7541 appendix A).

/// Entries of the static table: the dynamic one begins behind them.
pub const COUNT: usize = ENTRIES.len();

/// The entry of an index as it is on the wire, from 1.
pub fn entry(index: usize) -> Option<(&'static [u8], &'static [u8])> {
    ENTRIES.get(index.checked_sub(1)?).copied()
}

/// The name of an index.
pub fn name(index: u8) -> &'static [u8] {
    entry(usize::from(index)).map_or(&[], |(name, _)| name)
}

/// The first index with the name that the index has.
pub const fn first(index: u8) -> u8 {
    match index {
        3 => 2,
        5 => 4,
        7 => 6,
        9..=14 => 8,
        only => only,
    }
}

/// The first index of a name.
pub fn find(name: &[u8]) -> Option<u8> {
    let index = *SLOTS.get(slot(name)?)?;
    (index != 0 && self::name(index) == name).then_some(index)
}

/// The index of a whole field, given its name's first index.
pub fn find_value(first: u8, value: &[u8]) -> Option<u8> {
    let last = match first {
        2 | 4 | 6 => first + 1,
        8 => 14,
        only => only,
    };
    (first..=last).find(|&index| entry(usize::from(index)).is_some_and(|(_, own)| own == value))
}

/// Where a name stands in [`SLOTS`]. Length, first, middle and last octet tell the names apart; the factor, found by trial, gives each a slot of
/// its own. `None`: an empty name.
const fn slot(name: &[u8]) -> Option<usize> {
    let (Some(&first), Some(&last)) = (name.first(), name.last()) else {
        return None;
    };
    let middle = name[name.len() / 2];
    let key = u32::from_le_bytes([first, last, middle, name.len() as u8]);
    Some((key.wrapping_mul(0x50ba_7317) >> 25) as usize)
}

/// The first index of the name of each slot, or 0.
const SLOTS: [u8; 128] = {
    let mut slots = [0; 128];
    let mut index = ENTRIES.len();
    while index > 0 {
        let Some(slot) = slot(ENTRIES[index - 1].0) else {
            panic!("an empty name");
        };
        let taken = slots[slot] as usize;
        assert!(
            taken == 0 || first(taken as u8) == first(index as u8),
            "two names have one slot"
        );
        slots[slot] = index as u8;
        index -= 1;
    }
    slots
};

const ENTRIES: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];
