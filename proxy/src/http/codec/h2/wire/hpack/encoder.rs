//! Fields → blocks.
//!
//! What is put in the table pays only if it comes again, and drives out what would have. Three rules keep it to that:
//! - Static names whose values are made for one request or one user ([`ONE_TIME`]) are written as literals, always.
//! - The first value of any other name is put in, if only for the name: an `x-request-id` refers to it from then on.
//! - A further value of a name in the table is put in when it comes the second time ([`Seen`]). So request ids, trace contexts and paths with
//!   numbers in them stay out without a list of their names, while methods of gRPC and the few hosts behind one upstream get in.

use bytes::{BufMut, BytesMut};

use super::table::{Name, Table, entry_size};
use super::{DEFAULT_TABLE_SIZE, huffman, statics};

/// One direction of a connection, as its sender.
pub struct Encoder {
    pub(super) table: Table,
    /// A hash of each entry of the table, oldest first.
    hashes: Vec<Hash>,
    seen: Seen,
    /// What the peer's settings came to since the last block: the lowest size, and the last.
    resize: Option<(usize, usize)>,
}

impl Encoder {
    pub fn new() -> Self {
        Self {
            table: Table::new(),
            hashes: Vec::new(),
            seen: Seen::default(),
            resize: None,
        }
    }

    /// Takes the peer's SETTINGS_HEADER_TABLE_SIZE: ours is the smaller of it and 4096. It holds from the next block on.
    pub fn set_max_table_size(&mut self, size: usize) {
        let size = size.min(DEFAULT_TABLE_SIZE);
        let lowest = self
            .resize
            .map_or(self.table.max_size(), |(lowest, _)| lowest)
            .min(size);
        self.resize = Some((lowest, size));
    }

    /// Begins a block: tells the table's new size, and before it that it was smaller meanwhile (RFC 7541 4.2).
    ///
    /// For the smaller size we say 0, which no peer can have meant to forbid: Go's decoder takes a second update only if the first left the table
    /// empty.
    pub fn begin(&mut self, out: &mut BytesMut) {
        let Some((lowest, last)) = self.resize.take() else {
            return;
        };
        if lowest < last && lowest < self.table.max_size() {
            self.resize_table(0, out);
        }
        if last != self.table.max_size() {
            self.resize_table(last, out);
        }
    }

    fn resize_table(&mut self, size: usize, out: &mut BytesMut) {
        integer(0x20, 5, size, out);
        self.table.resize(size);
        self.evict_hashes();
        if size == 0 {
            self.hashes = Vec::new();
        }
    }

    /// Writes one field of the block that was begun. What is `sensitive` goes into no table, here or further on, and neither do credentials.
    pub fn field(&mut self, name: &[u8], value: &[u8], sensitive: bool, out: &mut BytesMut) {
        let known = statics::find(name);
        if sensitive || is_secret(known, value) {
            let index = self.name_index(known, name);
            return literal(NEVER_INDEXED, index, name, value, out);
        }
        if let Some(index) = known.and_then(|first| statics::find_value(first, value)) {
            return out.put_u8(0x80 | index);
        }
        if is_one_time(known) || entry_size(name.len(), value.len()) > self.table.max_size() / 2 {
            // A field that would drive out half of the table is not worth it, however often it comes.
            let index = self.name_index(known, name);
            return literal(NOT_INDEXED, index, name, value, out);
        }
        let name_in_table = known.map_or(Name::Literal(name), Name::Static);
        let hash = Hash::of(name_in_table, value);
        if let Some(index) = self.position(Hash::WHOLE, hash, |entry| entry == (name_in_table, value)) {
            return integer(0x80, 7, statics::COUNT + 1 + index, out);
        }
        let there = self.position(Hash::NAME, hash, |(name, _)| name == name_in_table);
        let is_new = there.is_none() && !is_path(known);
        let index = known.map(usize::from).or(there.map(|index| statics::COUNT + 1 + index));
        if is_new || self.seen.again(hash) {
            literal(INDEXING, index, name, value, out);
            self.table.insert(name_in_table, value);
            self.hashes.push(hash);
            self.evict_hashes();
        } else {
            literal(NOT_INDEXED, index, name, value, out);
        }
    }

    /// An index with that name.
    fn name_index(&self, known: Option<u8>, name: &[u8]) -> Option<usize> {
        if let Some(index) = known {
            return Some(usize::from(index));
        }
        let hash = Hash::of(Name::Literal(name), &[]);
        let there = self.position(Hash::NAME, hash, |(own, _)| own == Name::Literal(name));
        there.map(|index| statics::COUNT + 1 + index)
    }

    /// The index of an entry whose hash agrees in the bits of `mask` and that is the one.
    fn position(&self, mask: u32, wanted: Hash, is_it: impl Fn((Name<'_>, &[u8])) -> bool) -> Option<usize> {
        let wanted = wanted.0 & mask;
        let agrees = |hash: &Hash| hash.0 & mask == wanted;
        let is_it = |age: usize, hash: &Hash| {
            let index = self.hashes.len() - 1 - age;
            let found = agrees(hash) && self.table.get(index).is_some_and(&is_it);
            found.then_some(index)
        };
        // Four at a time: the compiler makes that one comparison of vectors.
        let (fours, rest) = self.hashes.as_chunks::<4>();
        let mut age = 0;
        for four in fours {
            if four.iter().fold(false, |any, hash| any | agrees(hash)) {
                let found = (age..).zip(four).find_map(|(age, hash)| is_it(age, hash));
                if found.is_some() {
                    return found;
                }
            }
            age += 4;
        }
        (age..).zip(rest).find_map(|(age, hash)| is_it(age, hash))
    }

    /// Lets the hashes of entries go that went.
    fn evict_hashes(&mut self) {
        let gone = self.hashes.len().saturating_sub(self.table.len());
        self.hashes.drain(..gone);
    }
}

/// Name in the upper half, value in the lower. Entries that agree are compared: whoever makes hashes meet slows a search down to the size of the
/// table, 4096 octets.
#[derive(Clone, Copy)]
struct Hash(u32);

impl Hash {
    const WHOLE: u32 = u32::MAX;
    const NAME: u32 = 0xffff_0000;

    fn of(name: Name<'_>, value: &[u8]) -> Self {
        let name = match name {
            Name::Static(index) => u16::from(index),
            Name::Literal(name) => mix(name),
        };
        Self(u32::from(name) << 16 | u32::from(mix(value)))
    }
}

fn mix(bytes: &[u8]) -> u16 {
    // The factor is 2^64 divided by the golden ratio, as Knuth has it for multiplicative hashing.
    let step = |hash: u64, word: u64| (hash.rotate_left(25) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut hash = bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = step(hash, u64::from_le_bytes(*word));
    }
    let rest = match (
        bytes.last_chunk::<8>(),
        rest.first_chunk::<4>(),
        rest.last_chunk::<4>(),
        rest,
    ) {
        (_, _, _, []) => return (hash >> 48) as u16,
        (Some(last), ..) => u64::from_le_bytes(*last),
        (None, Some(first), Some(last), _) => {
            u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
        }
        (_, _, _, few) => few.iter().fold(0, |word, &octet| word << 8 | u64::from(octet)),
    };
    (step(hash, rest) >> 48) as u16
}

/// The fields that lately came and were not put in the table, by their hashes. One that is taken for another is put in too early: no harm.
#[derive(Default)]
struct Seen([u16; 16]);

impl Seen {
    /// Whether the field was seen before; it is from now on.
    fn again(&mut self, Hash(hash): Hash) -> bool {
        // Values differ where names agree, and zero is an empty place.
        let tag = (hash ^ hash >> 16) as u16 | 1;
        let Some(place) = self.0.get_mut(hash as usize >> 1 & 15) else {
            return false;
        };
        std::mem::replace(place, tag) == tag
    }
}

/// Credentials are never put in a table: who can have fields of his own sent over the connection could find them by trying (RFC 7541 7.1). Cookies
/// shorter than twenty octets count as such, as with nghttp2, which Envoy writes its blocks with, and with Firefox.
fn is_secret(known: Option<u8>, value: &[u8]) -> bool {
    match known {
        Some(AUTHORIZATION | PROXY_AUTHORIZATION) => true,
        Some(COOKIE | SET_COOKIE) => value.len() < 20,
        _ => false,
    }
}

fn is_one_time(known: Option<u8>) -> bool {
    known.is_some_and(|index| ONE_TIME >> index & 1 != 0)
}

/// Also the first path waits until it comes again: a path is no name that others refer to.
fn is_path(known: Option<u8>) -> bool {
    known == Some(PATH)
}

const PATH: u8 = 4;
const AUTHORIZATION: u8 = 23;
const COOKIE: u8 = 32;
const PROXY_AUTHORIZATION: u8 = 49;
const SET_COOKIE: u8 = 55;

/// A bit for each static name whose values belong to one request, one representation or one user. nghttp2 leaves out age, content-length, etag,
/// if-modified-since, if-none-match, location and set-cookie; the others are of their kind. It keeps long cookies, but its connections are one
/// browser's: ours carry the requests of many users, each with a cookie that would drive out what all share.
const ONE_TIME: u64 = {
    let indices: [u8; 16] = [
        21, // age
        28, // content-length
        30, // content-range
        COOKIE, 33, // date
        34, // etag
        36, // expires
        39, // if-match
        40, // if-modified-since
        41, // if-none-match
        42, // if-range
        43, // if-unmodified-since
        44, // last-modified
        46, // location
        50, // range
        SET_COOKIE,
    ];
    let mut bits = 0;
    let mut n = 0;
    while n < indices.len() {
        bits |= 1 << indices[n];
        n += 1;
    }
    bits
};

/// How a literal begins: the bits, and how long the prefix behind them is (RFC 7541 6.2).
type Kind = (u8, u32);
const INDEXING: Kind = (0x40, 6);
const NOT_INDEXED: Kind = (0x00, 4);
const NEVER_INDEXED: Kind = (0x10, 4);

fn literal((bits, prefix): Kind, index: Option<usize>, name: &[u8], value: &[u8], out: &mut BytesMut) {
    integer(bits, prefix, index.unwrap_or(0), out);
    if index.is_none() {
        string(name, out);
    }
    string(value, out);
}

/// Writes a string literal, coded if that is shorter.
fn string(text: &[u8], out: &mut BytesMut) {
    let coded_len = huffman::coded_len(text);
    if coded_len < text.len() {
        integer(0x80, 7, coded_len, out);
        huffman::encode(text, coded_len, out);
    } else {
        integer(0, 7, text.len(), out);
        out.put_slice(text);
    }
}

/// Writes an integer behind `bits` of an octet, whose prefix is so long (RFC 7541 5.1).
#[inline]
fn integer(bits: u8, prefix: u32, value: usize, out: &mut BytesMut) {
    let most = (1 << prefix) - 1;
    if value < most {
        return out.put_u8(bits | value as u8);
    }
    out.put_u8(bits | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
impl Encoder {
    /// Octets of memory, as allocated.
    pub fn footprint(&self) -> usize {
        self.table.footprint() + self.hashes.capacity() * size_of::<Hash>()
    }
}
