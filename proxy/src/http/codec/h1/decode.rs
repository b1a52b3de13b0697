//! Bodies: bytes → data and trailers, by length, chunked coding, or until close.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::parse;

/// Where a body stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyDecoder {
    /// Bytes still to come.
    Length(u64),
    Chunked(ChunkState),
    /// A response that ends with its connection.
    UntilClose,
}

/// Inside the chunked coding (RFC 9112 section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkState {
    Size,
    Data(u64),
    /// The line end behind a chunk's data.
    DataEnd,
    Trailers,
    Done,
}

/// One step of decoding.
#[derive(Debug, PartialEq)]
pub enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is complete; bytes behind it belong to the next message.
    End,
    NeedMore,
}

/// The peer's framing is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenFraming;

/// A chunk-size line, its extensions included, is bounded: it is never forwarded.
const MAX_SIZE_LINE: usize = 4096;
const MAX_TRAILERS: usize = 60 * 1024;

impl BodyDecoder {
    pub fn length(length: u64) -> Self {
        Self::Length(length)
    }

    pub fn chunked() -> Self {
        Self::Chunked(ChunkState::Size)
    }

    /// Whether nothing more will come, without looking at any bytes.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(ChunkState::Done))
    }

    /// Bytes still to come, if the framing tells.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(remaining) => Some(*remaining),
            Self::Chunked(ChunkState::Done) => Some(0),
            _ => None,
        }
    }

    /// Takes what it can off `buffer`.
    ///
    /// # Errors
    /// Framing that RFC 9112 does not allow; the connection cannot be used any further.
    pub fn decode(&mut self, buffer: &mut BytesMut, max_headers: usize) -> Result<Decoded, BrokenFraming> {
        match self {
            Self::Length(0) => Ok(Decoded::End),
            Self::Length(remaining) => {
                if buffer.is_empty() {
                    return Ok(Decoded::NeedMore);
                }
                let take = (*remaining).min(buffer.len() as u64);
                *remaining -= take;
                Ok(Decoded::Data(buffer.split_to(take as usize).freeze()))
            }
            Self::UntilClose => {
                if buffer.is_empty() {
                    return Ok(Decoded::NeedMore);
                }
                Ok(Decoded::Data(buffer.split().freeze()))
            }
            Self::Chunked(state) => decode_chunked(state, buffer, max_headers),
        }
    }
}

fn decode_chunked(state: &mut ChunkState, buffer: &mut BytesMut, max_headers: usize) -> Result<Decoded, BrokenFraming> {
    loop {
        match *state {
            ChunkState::Size => {
                let Some((size, line)) = chunk_size(buffer)? else {
                    return Ok(Decoded::NeedMore);
                };
                buffer.advance(line);
                *state = if size == 0 {
                    ChunkState::Trailers
                } else {
                    ChunkState::Data(size)
                };
            }
            ChunkState::Data(remaining) => {
                if buffer.is_empty() {
                    return Ok(Decoded::NeedMore);
                }
                let take = remaining.min(buffer.len() as u64);
                let left = remaining - take;
                *state = if left == 0 {
                    ChunkState::DataEnd
                } else {
                    ChunkState::Data(left)
                };
                return Ok(Decoded::Data(buffer.split_to(take as usize).freeze()));
            }
            ChunkState::DataEnd => {
                if !b"\r\n".starts_with(&buffer[..buffer.len().min(2)]) {
                    return Err(BrokenFraming);
                }
                if buffer.len() < 2 {
                    return Ok(Decoded::NeedMore);
                }
                buffer.advance(2);
                *state = ChunkState::Size;
            }
            ChunkState::Trailers => return decode_trailers(state, buffer, max_headers),
            ChunkState::Done => return Ok(Decoded::End),
        }
    }
}

fn decode_trailers(
    state: &mut ChunkState,
    buffer: &mut BytesMut,
    max_headers: usize,
) -> Result<Decoded, BrokenFraming> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        *state = ChunkState::Done;
        return Ok(Decoded::End);
    }
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        let started_well = buffer.first() != Some(&b'\n');
        return if started_well && buffer.len() < MAX_TRAILERS {
            Ok(Decoded::NeedMore)
        } else {
            Err(BrokenFraming)
        };
    };
    let block = buffer.split_to(end + 4);
    let trailers = parse::trailers(&block, max_headers).ok_or(BrokenFraming)?;
    *state = ChunkState::Done;
    if trailers.is_empty() {
        Ok(Decoded::End)
    } else {
        Ok(Decoded::Trailers(trailers))
    }
}

/// Size and length of the size line; `None`: the line is not complete.
fn chunk_size(buffer: &[u8]) -> Result<Option<(u64, usize)>, BrokenFraming> {
    let Some(newline) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() < MAX_SIZE_LINE {
            Ok(None)
        } else {
            Err(BrokenFraming)
        };
    };
    if newline == 0 || newline > MAX_SIZE_LINE || buffer[newline - 1] != b'\r' {
        return Err(BrokenFraming);
    }
    let line = &buffer[..newline - 1];
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // A size, then nothing, or an extension (RFC 9112 section 7.1.1), which is dropped. CR inside one is smuggling.
    let extension_ok = digits == line.len() || line[digits] == b';';
    if digits == 0 || digits > 16 || !extension_ok || memchr::memchr(b'\r', line).is_some() {
        return Err(BrokenFraming);
    }
    let size = std::str::from_utf8(&line[..digits])
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok());
    Ok(Some((size.ok_or(BrokenFraming)?, newline + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(input: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), BrokenFraming> {
        let mut decoder = BodyDecoder::chunked();
        let (mut buffer, mut data, mut trailers) = (BytesMut::new(), Vec::new(), None);
        let mut fed = 0;
        loop {
            match decoder.decode(&mut buffer, 100)? {
                Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                Decoded::Trailers(map) => trailers = Some(map),
                Decoded::End => return Ok((data, trailers, input.len() - fed + buffer.len())),
                Decoded::NeedMore if fed == input.len() => return Err(BrokenFraming),
                Decoded::NeedMore => {
                    let next = (fed + step).min(input.len());
                    buffer.extend_from_slice(&input[fed..next]);
                    fed = next;
                }
            }
        }
    }

    #[test]
    fn any_split_of_the_input_gives_the_same_body() {
        let input = b"4\r\nWiki\r\nA;x=\"1\"\r\npedia in c\r\n0\r\ngrpc-status: 0\r\n\r\nGET /";
        for step in 1..input.len() {
            let (data, trailers, rest) = decode_all(input, step).expect("valid");
            assert_eq!(data, b"Wikipedia in c");
            assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
            assert_eq!(rest, 5, "step {step}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        for input in [
            &b"4\nWiki\n0\n\n"[..],
            b"0x4\r\nWiki\r\n0\r\n\r\n",
            b"4 \r\nWiki\r\n0\r\n\r\n",
            b"-4\r\nWiki\r\n0\r\n\r\n",
            b"4\r\nWikiX\r\n0\r\n\r\n",
            b"11111111111111111\r\n",
            b"4;a\rb\r\nWiki\r\n0\r\n\r\n",
            b"\r\n",
        ] {
            assert_eq!(
                decode_all(input, input.len()).map(|ok| ok.0),
                Err(BrokenFraming),
                "{input:?}"
            );
        }
    }
}
