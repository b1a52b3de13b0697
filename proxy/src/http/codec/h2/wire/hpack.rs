//! HPACK (RFC 7541): header blocks of HTTP/2, both ways.
//!
//! In: the octets of one whole block, for the [`Decoder`]; fields in their order, for the [`Encoder`]. Out: [`Field`]s that borrow from where they
//! lie; octets. Each side of a connection has one of the two, and both keep a dynamic [`table`]: what one block puts there the next refers to, so
//! blocks are read and written in the connection's order, all of each, or the peers no longer mean the same.
//!
//! An idle connection costs what its tables hold: one buffer of octets and twelve octets an entry (sixteen in an encoder), nothing while they are
//! empty. A field is decoded and encoded without an allocation, unless its table has to grow.

mod decoder;
mod encoder;
mod huffman;
mod statics;
mod table;

#[cfg(test)]
mod tests;

pub(super) use decoder::Decoder;
pub(super) use encoder::Encoder;

/// One field of a block.
pub(super) struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    /// Never to be put in a table on its further way (RFC 7541 6.2.3).
    pub sensitive: bool,
    /// Where the name stands in the static table, if it was taken from there: the first place of the name, whichever of its places was referred
    /// to (`:method` is 2, `:status` is 8). A name that the peer spelled out has none, even if the table knows it.
    pub static_name: Option<u8>,
}

/// A block that is none: the connection ends with COMPRESSION_ERROR, as the tables are out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// SETTINGS_HEADER_TABLE_SIZE of who has not said otherwise (RFC 9113 6.5.2).
const DEFAULT_TABLE_SIZE: usize = 4096;
