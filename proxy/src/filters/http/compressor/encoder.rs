//! The compression libraries behind one door: chunks in, chunks out, each complete enough to be read when it arrives.

use std::io::Write as _;

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::extensions::compression::brotli::compressor::v3::Brotli;
use remora_proto::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use remora_proto::pb::envoy::extensions::compression::zstd::compressor::v3::Zstd;
use remora_proto::pb::google::protobuf::Any;

use crate::config::{Compiled, Problems};

/// A configured library. Levels are the libraries' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    Gzip { level: u32 },
    Brotli { quality: u32, window: u32 },
    Zstd { level: i32 },
}

/// One response's encoder.
pub(super) enum Encoder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    /// A library that could not start: the response has to end.
    Broken,
}

/// Envoy's defaults.
const BROTLI_QUALITY: u32 = 3;
const BROTLI_WINDOW: u32 = 18;
const BROTLI_BUFFER: usize = 4096;
const ZSTD_LEVEL: u32 = 3;
const GZIP_LEVEL: u32 = 6;

impl Library {
    pub fn compile(any: &Any) -> Compiled<Self> {
        let name = remora_proto::type_url::full_name(&any.type_url);
        let malformed = |error: prost::DecodeError| Problems::one("", error.to_string());
        match name.strip_prefix("envoy.extensions.compression.") {
            Some("gzip.compressor.v3.Gzip") => {
                let config = Gzip::decode(any.value.as_slice()).map_err(malformed)?;
                Ok(Self::Gzip {
                    level: gzip_level(config.compression_level),
                })
            }
            Some("brotli.compressor.v3.Brotli") => {
                let config = Brotli::decode(any.value.as_slice()).map_err(malformed)?;
                Ok(Self::Brotli {
                    quality: config.quality.map_or(BROTLI_QUALITY, |wrapped| wrapped.value),
                    window: config.window_bits.map_or(BROTLI_WINDOW, |wrapped| wrapped.value),
                })
            }
            Some("zstd.compressor.v3.Zstd") => {
                let config = Zstd::decode(any.value.as_slice()).map_err(malformed)?;
                let level = config.compression_level.map_or(ZSTD_LEVEL, |wrapped| wrapped.value);
                Ok(Self::Zstd {
                    level: i32::try_from(level).unwrap_or(i32::MAX),
                })
            }
            _ => Err(Problems::one("", format!("{name} is not supported"))),
        }
    }

    /// Its name in `content-encoding`.
    pub fn encoding(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "br",
            Self::Zstd { .. } => "zstd",
        }
    }

    pub fn encoder(self) -> Encoder {
        match self {
            Self::Gzip { level } => Encoder::Gzip(flate2::write::GzEncoder::new(
                Vec::new(),
                flate2::Compression::new(level),
            )),
            Self::Brotli { quality, window } => {
                let writer = brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER, quality, window);
                Encoder::Brotli(Box::new(writer))
            }
            Self::Zstd { level } => {
                let encoder = zstd::stream::write::Encoder::new(Vec::new(), level);
                encoder.map_or(Encoder::Broken, Encoder::Zstd)
            }
        }
    }
}

impl Encoder {
    /// The encoded chunk; with `end` also what closes the stream. Writing to memory does not fail.
    pub fn push(&mut self, chunk: &[u8], end: bool) -> Bytes {
        let out = match self {
            Self::Gzip(encoder) => {
                let _ = encoder
                    .write_all(chunk)
                    .and_then(|()| if end { encoder.try_finish() } else { encoder.flush() });
                std::mem::take(encoder.get_mut())
            }
            Self::Brotli(encoder) => {
                let _ = encoder.write_all(chunk).and_then(|()| encoder.flush());
                let mut out = std::mem::take(encoder.get_mut());
                if end {
                    let last = brotli::CompressorWriter::new(Vec::new(), 1, 0, BROTLI_WINDOW);
                    out.extend(std::mem::replace(&mut **encoder, last).into_inner());
                }
                out
            }
            Self::Zstd(encoder) => {
                let _ = encoder
                    .write_all(chunk)
                    .and_then(|()| if end { encoder.do_finish() } else { encoder.flush() });
                std::mem::take(encoder.get_mut())
            }
            Self::Broken => Vec::new(),
        };
        out.into()
    }
}

/// The enumeration counts levels from 1; 0 is the default.
fn gzip_level(level: i32) -> u32 {
    u32::try_from(level)
        .ok()
        .filter(|level| *level > 0)
        .unwrap_or(GZIP_LEVEL)
}
