//! The fuzz targets (`fuzz/`) without libFuzzer: a corpus, and mutations of it from fixed seeds, so that a failure comes again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../fuzz/pipeline.rs"]
mod pipeline;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::panic::catch_unwind;

/// Inputs a target, mutations included.
const ROUNDS: usize = 4000;
/// Those of the whole pipeline, which costs a proxy each.
const WHOLE: usize = 400;

/// Whole and broken examples of everything; a target takes what is its own, and survives the rest.
const CORPUS: &[&[u8]] = &[
    b"GET /path?q HTTP/1.1\r\nhost: a\r\nconnection: close, x\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"POST http://h:80/ HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"CONNECT h:443 HTTP/1.1\r\nhost: h:443\r\n\r\n\x16\x03\x01",
    b"GET /a#b HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nset-cookie: a\r\n\r\nabc",
    b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.0 204 None\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n\0\0",
    b"\x00\x035;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nx-trailer: y\r\n\r\nrest",
    b"\x01\x02hello, this is more than six bytes",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\nGET / HTTP/1.1\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb\x04\x00\x04abcd",
    b"\x16\x03\x01\x00\x50\x01\x00\x00\x4c\x03\x03\
      0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00\x00\x21\
      \x00\x00\x00\x0c\x00\x0a\x00\x00\x07a.b.com\x00\x10\x00\x0b\x00\x09\x08http/1.1\x00\x2b\x00\x02",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"\0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x84\x41\x08abcdefgh\0\0\x05\0\x08\0\0\0\x01\x02ab\0\0\0\0\x04\x08\0\0\0\0\x01\0\0\x01\0",
    b"\0\0\x03\x01\x04\0\0\0\x03\x83\x86\x84\0\0\x03\0\0\0\0\0\x03abc\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08\0\0\x08\x06\0\0\0\0\0abcdefgh",
    b"\0\0\x01\x01\0\0\0\0\x05\x83\0\0\x02\x09\x04\0\0\0\x05\x86\x84\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\x10\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0",
    b"%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)% %REQ(:METHOD?X:10)% %%REQ% %DURATION% %DYNAMIC_METADATA(a:b:c):5%",
    b"node: {id: a, cluster: b}\nstatic_resources:\n  clusters:\n  - &c\n    name: x\n    connect_timeout: 1.5s\n    type: STATIC\n  - *c\n",
    b"{\"admin\": {\"address\": {\"socket_address\": {\"address\": \"::1\", \"port_value\": 1}}}, \"node\": {\"metadata\": {\"a\": [1, null, {\"b\": true}]}}}",
    b"\x0a\x01a\x22\x02\x08\x05\x12\x10\x0a\x01b\x12\x0b\x0a\x09localhost\x80\x01\xff\xff\xff\xff\x0f",
    b"\x12\x0e\x0a\x03key\x12\x07\x32\x05\x0a\x03\x1a\x01v",
];

#[test]
fn no_input_does_harm() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1u64);
    let parsers = targets::ALL.iter().map(|(name, target)| (*name, *target, ROUNDS));
    for (name, target, rounds) in parsers.chain([("pipeline", pipeline::pipeline as targets::Target, WHOLE)]) {
        let mut random = Random::new(seed);
        for round in 0..rounds {
            let input = match CORPUS.get(round) {
                Some(example) => example.to_vec(),
                None => mutated(&mut random),
            };
            let outcome = catch_unwind(|| target(&input));
            assert!(
                outcome.is_ok(),
                "{name}, SEED={seed}, round {round}: {:?}",
                String::from_utf8_lossy(&input)
            );
        }
    }
}

/// An example with some bytes changed, taken away, doubled, or exchanged for a part of another example.
fn mutated(random: &mut Random) -> Vec<u8> {
    let mut input = CORPUS[random.below(CORPUS.len())].to_vec();
    for _ in 0..=random.below(5) {
        let at = random.below(input.len().max(1)).min(input.len().saturating_sub(1));
        match random.below(7) {
            _ if input.is_empty() => input.push(random.byte()),
            0 => input[at] = random.byte(),
            1 => input[at] ^= 1 << random.below(8),
            2 => drop(input.drain(at..(at + 1 + random.below(8)).min(input.len()))),
            3 => input.insert(at, *b"\r\n\0:; ,%{}[]\"-0".get(random.below(16)).unwrap_or(&b'x')),
            4 => {
                let part = input[at..].to_vec();
                input.extend_from_slice(&part);
            }
            5 => {
                let other = CORPUS[random.below(CORPUS.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len())..]);
            }
            _ => input.truncate(at),
        }
    }
    input
}

/// xorshift64*: the same on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }
}
