//! The code of string literals (RFC 7541 5.2 and appendix B).
//!
//! The code is canonical: its lengths say all. The tables are made of them when this is compiled.

use bytes::BytesMut;

use super::Malformed;

/// Octets that a string takes when it is coded.
pub fn coded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&octet| usize::from(LENGTHS[usize::from(octet)])).sum();
    bits.div_ceil(8)
}

/// Writes a string whose [`coded_len`] is known.
pub fn encode(text: &[u8], coded_len: usize, out: &mut BytesMut) {
    let begin = out.len();
    out.resize(begin + coded_len, 0);
    let mut room = out.get_mut(begin..).unwrap_or_default();
    // The lowest `count` bits of `bits` are to be written: fewer than 32 between two octets, and no code is longer than 30.
    let mut bits: u64 = 0;
    let mut count: u32 = 0;
    for &octet in text {
        let (code, length) = CODES[usize::from(octet)];
        bits = bits << length | u64::from(code);
        count += length;
        if count >= 32 {
            count -= 32;
            let Some((word, rest)) = room.split_first_chunk_mut::<4>() else {
                return;
            };
            *word = ((bits >> count) as u32).to_be_bytes();
            room = rest;
        }
    }
    // What lacks in the last octet are the first bits of EOS, which are ones.
    let last = (bits << (32 - count) | (u64::from(u32::MAX) >> count)) as u32;
    for (place, octet) in room.iter_mut().zip(last.to_be_bytes()) {
        *place = octet;
    }
}

/// Appends what a coded string says, at most eight octets for five.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let begin = out.len();
    out.resize(begin + coded.len() * 8 / SHORTEST, 0);
    let room = out.get_mut(begin..).unwrap_or_default();
    let mut bits = Bits {
        coded,
        window: 0,
        count: 0,
    };
    let whole = bits.decode_most(room);
    let length = bits.decode_rest(room, whole)?;
    out.truncate(begin + length);
    Ok(())
}

/// What of a coded string is still to be read.
struct Bits<'a> {
    /// What has not gone into the window.
    coded: &'a [u8],
    /// The next bits, from the top: `count` that were taken off `coded`, then maybe some that are still to be, then zeros.
    window: u64,
    count: u32,
}

impl Bits<'_> {
    /// Decodes five symbols at a time as long as the next eight octets are there; returns how many it decoded.
    fn decode_most(&mut self, room: &mut [u8]) -> usize {
        let mut written = 0;
        while let (Some(word), Some(places)) = (self.coded.first_chunk::<8>(), room.get_mut(written..written + 5)) {
            self.fill(*word, 8);
            // At least 56 bits are there now: five short codes, or a long one.
            for place in places {
                let Some(symbol) = self.short() else {
                    if self.count < LONGEST {
                        break;
                    }
                    let symbol = self.long();
                    if symbol.value == EOS {
                        // Told by the rest, which comes upon it again.
                        return written;
                    }
                    *place = symbol.value as u8;
                    written += 1;
                    self.skip(symbol.length);
                    break;
                };
                *place = symbol.value as u8;
                written += 1;
                self.skip(symbol.length);
            }
        }
        written
    }

    /// Decodes symbol by symbol to the end, behind those that are `written`; returns how many are.
    fn decode_rest(&mut self, room: &mut [u8], mut written: usize) -> Result<usize, Malformed> {
        loop {
            if self.count < LONGEST && !self.coded.is_empty() {
                self.fill_rest();
            }
            let symbol = self.short().unwrap_or_else(|| self.long());
            if symbol.length > self.count {
                let is_padding = self.count < 8 && self.window.leading_ones() >= self.count;
                return if is_padding { Ok(written) } else { Err(Malformed) };
            }
            if symbol.value == EOS {
                return Err(Malformed);
            }
            *room.get_mut(written).ok_or(Malformed)? = symbol.value as u8;
            written += 1;
            self.skip(symbol.length);
        }
    }

    /// Fills the window from the next eight octets, of which so many are there; it takes whole ones.
    fn fill(&mut self, word: [u8; 8], there: u32) {
        self.window |= u64::from_be_bytes(word) >> self.count;
        let taken = ((63 - self.count) / 8).min(there);
        self.coded = self.coded.get(taken as usize..).unwrap_or_default();
        self.count += taken * 8;
    }

    #[cold]
    #[inline(never)]
    fn fill_rest(&mut self) {
        let mut word = [0; 8];
        let mut there = 0;
        for (place, &octet) in word.iter_mut().zip(self.coded) {
            *place = octet;
            there += 1;
        }
        self.fill(word, there);
    }

    fn skip(&mut self, length: u32) {
        self.window <<= length;
        self.count -= length;
    }

    /// The symbol at the top of the window, if its code is short.
    fn short(&self) -> Option<Symbol> {
        let short = SHORT[(self.window >> (64 - SHORT_BITS)) as usize];
        let symbol = Symbol {
            value: short >> 8,
            length: u32::from(short & 0xff),
        };
        (short != 0).then_some(symbol)
    }

    /// The symbol at the top of the window, whose code is long.
    #[cold]
    #[inline(never)]
    fn long(&self) -> Symbol {
        let top = (self.window >> (64 - LONGEST)) as u32;
        for (length, row) in (1..).zip(&ROWS).skip(SHORT_BITS as usize) {
            if top < row.end {
                let place = usize::from(row.first) + ((top - row.begin) >> (LONGEST - length)) as usize;
                return Symbol {
                    value: SORTED.get(place).copied().unwrap_or(EOS),
                    length,
                };
            }
        }
        Symbol {
            value: EOS,
            length: LONGEST,
        }
    }
}

struct Symbol {
    value: u16,
    length: u32,
}

const EOS: u16 = 256;
const SHORTEST: usize = 5;
const LONGEST: u32 = 30;

/// Codes up to this length are found in one step: all letters, digits and marks that headers are made of.
const SHORT_BITS: u32 = 10;

/// Symbol and length (low octet) of the code that the index begins with; 0: it is longer.
static SHORT: [u16; 1 << SHORT_BITS] = {
    let mut table = [0; 1 << SHORT_BITS];
    let mut symbol = 0;
    while symbol < CODES.len() {
        let (code, length) = CODES[symbol];
        if length <= SHORT_BITS {
            let free = SHORT_BITS - length;
            let mut index = (code as usize) << free;
            while index < ((code + 1) as usize) << free {
                table[index] = (symbol as u16) << 8 | length as u16;
                index += 1;
            }
        }
        symbol += 1;
    }
    table
};

/// The codes of one length: in 30 bits, where they begin and where longer ones do.
struct Row {
    begin: u32,
    end: u32,
    /// Where the first one's symbol stands in [`SORTED`].
    first: u16,
}

/// Symbols in the order of their codes.
static SORTED: [u16; 257] = CANON.0;
/// By length, from 1.
static ROWS: [Row; LONGEST as usize] = CANON.1;
/// Code and length of each octet.
static CODES: [(u32, u32); 256] = CANON.2;

const CANON: ([u16; 257], [Row; LONGEST as usize], [(u32, u32); 256]) = {
    let mut sorted = [0; 257];
    let mut rows = [const {
        Row {
            begin: 0,
            end: 0,
            first: 0,
        }
    }; LONGEST as usize];
    let mut codes = [(0, 0); 256];
    let mut code: u32 = 0;
    let mut count = 0;
    let mut length = 1;
    while length <= LONGEST {
        let free = LONGEST - length;
        let row = &mut rows[length as usize - 1];
        row.begin = code << free;
        row.first = count as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as u32 == length {
                sorted[count] = symbol as u16;
                if symbol < codes.len() {
                    codes[symbol] = (code, length);
                }
                count += 1;
                code += 1;
            }
            symbol += 1;
        }
        row.end = code << free;
        code <<= 1;
        length += 1;
    }
    (sorted, rows, codes)
};

/// Bits of the code of each octet, and of EOS.
static LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];
