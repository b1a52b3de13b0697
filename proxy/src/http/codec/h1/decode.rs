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

/// Why a body cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The peer's framing.
    Framing,
    TrailersTooLarge,
    TooManyTrailers,
}

/// What trailers may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrailerLimits {
    pub bytes: usize,
    pub count: usize,
}

/// A chunk-size line, its extensions included, is bounded: it is never forwarded.
const MAX_SIZE_LINE: usize = 4096;

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
    pub fn decode(&mut self, buffer: &mut BytesMut, limits: TrailerLimits) -> Result<Decoded, Broken> {
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
            Self::Chunked(state) => decode_chunked(state, buffer, limits),
        }
    }
}

fn decode_chunked(state: &mut ChunkState, buffer: &mut BytesMut, limits: TrailerLimits) -> Result<Decoded, Broken> {
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
                    return Err(Broken::Framing);
                }
                if buffer.len() < 2 {
                    return Ok(Decoded::NeedMore);
                }
                buffer.advance(2);
                *state = ChunkState::Size;
            }
            ChunkState::Trailers => return decode_trailers(state, buffer, limits),
            ChunkState::Done => return Ok(Decoded::End),
        }
    }
}

fn decode_trailers(state: &mut ChunkState, buffer: &mut BytesMut, limits: TrailerLimits) -> Result<Decoded, Broken> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        *state = ChunkState::Done;
        return Ok(Decoded::End);
    }
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        return match buffer.first() {
            Some(b'\n') => Err(Broken::Framing),
            _ if buffer.len() > limits.bytes => Err(Broken::TrailersTooLarge),
            _ => Ok(Decoded::NeedMore),
        };
    };
    if end + 4 > limits.bytes {
        return Err(Broken::TrailersTooLarge);
    }
    let block = buffer.split_to(end + 4);
    let trailers = parse::trailers(&block, limits.count)?;
    *state = ChunkState::Done;
    if trailers.is_empty() {
        Ok(Decoded::End)
    } else {
        Ok(Decoded::Trailers(trailers))
    }
}

/// Size and length of the size line; `None`: the line is not complete.
fn chunk_size(buffer: &[u8]) -> Result<Option<(u64, usize)>, Broken> {
    let Some(newline) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() < MAX_SIZE_LINE {
            Ok(None)
        } else {
            Err(Broken::Framing)
        };
    };
    if newline == 0 || newline > MAX_SIZE_LINE || buffer[newline - 1] != b'\r' {
        return Err(Broken::Framing);
    }
    let line = &buffer[..newline - 1];
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // A size, then blanks, then nothing, or an extension (RFC 9112 section 7.1.1), which is dropped. CR inside one is smuggling.
    let blanks = line[digits..].iter().take_while(|byte| b" \t".contains(byte)).count();
    let extension_ok = line.get(digits + blanks).is_none_or(|byte| *byte == b';');
    if digits == 0 || digits > 16 || !extension_ok || memchr::memchr(b'\r', line).is_some() {
        return Err(Broken::Framing);
    }
    let size = std::str::from_utf8(&line[..digits])
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok());
    Ok(Some((size.ok_or(Broken::Framing)?, newline + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TrailerLimits = TrailerLimits { bytes: 200, count: 5 };

    fn decode_all(input: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Broken> {
        let mut decoder = BodyDecoder::chunked();
        let (mut buffer, mut data, mut trailers) = (BytesMut::new(), Vec::new(), None);
        let mut fed = 0;
        loop {
            match decoder.decode(&mut buffer, LIMITS)? {
                Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                Decoded::Trailers(map) => trailers = Some(map),
                Decoded::End => return Ok((data, trailers, input.len() - fed + buffer.len())),
                Decoded::NeedMore if fed == input.len() => return Err(Broken::Framing),
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
    fn trailers_have_limits() {
        let with = |trailers: &str| {
            let input = format!("0\r\n{trailers}\r\n");
            decode_all(input.as_bytes(), 7).map(|(_, trailers, _)| trailers.expect("trailers").len())
        };
        let of_size = |size: usize| format!("x: {}\r\n", "a".repeat(size - 7));
        assert_eq!(with(&of_size(200)), Ok(1));
        assert_eq!(with(&of_size(201)), Err(Broken::TrailersTooLarge));
        assert_eq!(with(&of_size(900)), Err(Broken::TrailersTooLarge));
        assert_eq!(with(&"x: 1\r\n".repeat(5)), Ok(5));
        assert_eq!(with(&"x: 1\r\n".repeat(6)), Err(Broken::TooManyTrailers));
        assert_eq!(with("x y: 1\r\n"), Err(Broken::Framing));
    }

    #[test]
    fn blanks_may_follow_a_size() {
        for size in ["4   ", "4\t", "4 \t ", "4 ;a=b", "4\t;a", "4; a", "4;a=b ", "4 ;"] {
            for last in ["0", "0 ", "0\t;x"] {
                let input = format!("{size}\r\nWiki\r\n{last}\r\n\r\n");
                let decoded = decode_all(input.as_bytes(), 1).map(|(data, _, rest)| (data, rest));
                assert_eq!(decoded, Ok((b"Wiki".to_vec(), 0)), "{input:?}");
            }
        }
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        for input in [
            &b"4\nWiki\n0\n\n"[..],
            b"0x4\r\nWiki\r\n0\r\n\r\n",
            b" 4\r\nWiki\r\n0\r\n\r\n",
            b"\t4\r\nWiki\r\n0\r\n\r\n",
            b"4 4\r\nWiki\r\n0\r\n\r\n",
            b"4 x\r\nWiki\r\n0\r\n\r\n",
            b"4\x0b\r\nWiki\r\n0\r\n\r\n",
            b"4\0\r\nWiki\r\n0\r\n\r\n",
            b"4 \r\r\nWiki\r\n0\r\n\r\n",
            b"4 \nWiki\r\n0\r\n\r\n",
            b"4 ;a\rb\r\nWiki\r\n0\r\n\r\n",
            b" \r\n",
            b"-4\r\nWiki\r\n0\r\n\r\n",
            b"4\r\nWikiX\r\n0\r\n\r\n",
            b"11111111111111111\r\n",
            b"4;a\rb\r\nWiki\r\n0\r\n\r\n",
            b"\r\n",
        ] {
            assert_eq!(
                decode_all(input, input.len()).map(|ok| ok.0),
                Err(Broken::Framing),
                "{input:?}"
            );
        }
    }
}
