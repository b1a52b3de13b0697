//! Blocks → fields.

use std::cell::Cell;

use super::table::{Name, Table};
use super::{Field, Malformed, huffman, statics};

/// One direction of a connection, as its receiver.
pub struct Decoder {
    pub(super) table: Table,
    /// What the peer may make of the table's size.
    limit: usize,
}

impl Decoder {
    /// With the SETTINGS_HEADER_TABLE_SIZE that we announce. The table begins with the default size whatever it is, as the peer's does: what we
    /// announced holds when its size update comes.
    pub fn new(max_table_size: usize) -> Self {
        Self {
            table: Table::new(),
            limit: max_table_size,
        }
    }

    /// Decodes one whole block. `field` gets each field in its order.
    ///
    /// # Errors
    /// A [`Malformed`] block, or what `field` says. Either way the table is out of step and the connection must end. Who has had enough of a block
    /// whose connection goes on says `Ok` to its other fields.
    pub fn decode<E: From<Malformed>>(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(Field<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut scratch = SCRATCH.take();
        let done = self.fields(Input(block), &mut scratch, &mut field);
        if scratch.capacity() <= KEPT_SCRATCH {
            SCRATCH.set(scratch);
        }
        done
    }

    fn fields<E: From<Malformed>>(
        &mut self,
        mut input: Input<'_>,
        scratch: &mut Vec<u8>,
        field: &mut impl FnMut(Field<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut is_beginning = true;
        while let Some(&first) = input.0.first() {
            match first {
                INDEXED.. => field(self.indexed(input.integer(7)?)?)?,
                INDEXING.. => {
                    let (name, value) = self.literal(&mut input, 6, scratch)?;
                    field(literal_field(name, value, false))?;
                    self.table.insert(name, value);
                }
                SIZE_UPDATE.. => {
                    let size = input.integer(5)?;
                    if !is_beginning || size > self.limit {
                        return Err(Malformed.into());
                    }
                    self.table.resize(size);
                    continue;
                }
                _ => {
                    let (name, value) = self.literal(&mut input, 4, scratch)?;
                    field(literal_field(name, value, first >= NEVER_INDEXED))?;
                }
            }
            is_beginning = false;
        }
        Ok(())
    }

    fn indexed(&self, index: usize) -> Result<Field<'_>, Malformed> {
        if let Some((name, value)) = statics::entry(index) {
            return Ok(Field {
                name,
                value,
                sensitive: false,
                static_name: Some(statics::first(index as u8)),
            });
        }
        let (name, value) = self.dynamic(index)?;
        Ok(literal_field(name, value, false))
    }

    fn dynamic(&self, index: usize) -> Result<(Name<'_>, &[u8]), Malformed> {
        let index = index.checked_sub(statics::COUNT + 1).ok_or(Malformed)?;
        self.table.get(index).ok_or(Malformed)
    }

    /// A literal's name and value. Neither borrows from the table, which may be going to take them in.
    fn literal<'a, 'block: 'a>(
        &self,
        input: &mut Input<'block>,
        prefix: u32,
        scratch: &'a mut Vec<u8>,
    ) -> Result<(Name<'a>, &'a [u8]), Malformed> {
        scratch.clear();
        let name = match input.integer(prefix)? {
            0 => input.string(scratch)?.map(Name::Literal),
            index @ 1..=statics::COUNT => Some(Name::Static(statics::first(index as u8))),
            index => match self.dynamic(index)?.0 {
                Name::Static(index) => Some(Name::Static(index)),
                Name::Literal(name) => {
                    scratch.extend_from_slice(name);
                    None
                }
            },
        };
        let name_len = scratch.len();
        let value = input.string(scratch)?;
        let (name_there, value_there) = scratch.split_at_checked(name_len).ok_or(Malformed)?;
        Ok((name.unwrap_or(Name::Literal(name_there)), value.unwrap_or(value_there)))
    }
}

fn literal_field<'a>(name: Name<'a>, value: &'a [u8], sensitive: bool) -> Field<'a> {
    Field {
        name: name.as_bytes(),
        value,
        sensitive,
        static_name: match name {
            Name::Static(index) => Some(index),
            Name::Literal(_) => None,
        },
    }
}

/// What of a block is still to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// An integer whose first octet has a prefix of so many bits (RFC 7541 5.1). More than 32 bits are refused, and more than five octets behind
    /// the first, zeros or not.
    #[inline]
    fn integer(&mut self, prefix: u32) -> Result<usize, Malformed> {
        let most = (1u8 << prefix) - 1;
        let value = self.octet()? & most;
        if value < most {
            Ok(usize::from(value))
        } else {
            self.large_integer(u64::from(most))
        }
    }

    fn large_integer(&mut self, mut value: u64) -> Result<usize, Malformed> {
        for shift in [0, 7, 14, 21, 28] {
            let octet = self.octet()?;
            value += u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return u32::try_from(value).map(|value| value as usize).map_err(|_| Malformed);
            }
        }
        Err(Malformed)
    }

    /// A string literal (RFC 7541 5.2): where it lies in the block, or `None` if it is coded and was appended to `scratch`.
    fn string(&mut self, scratch: &mut Vec<u8>) -> Result<Option<&'a [u8]>, Malformed> {
        let is_coded = self.0.first().is_some_and(|&first| first >= CODED);
        let length = self.integer(7)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        if !is_coded {
            return Ok(Some(string));
        }
        huffman::decode(string, scratch)?;
        Ok(None)
    }

    fn octet(&mut self) -> Result<u8, Malformed> {
        let (&octet, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(octet)
    }
}

// The first octets of representations, by their highest bits (RFC 7541 6), and of a coded string.
const INDEXED: u8 = 0x80;
const INDEXING: u8 = 0x40;
const SIZE_UPDATE: u8 = 0x20;
const NEVER_INDEXED: u8 = 0x10;
const CODED: u8 = 0x80;

/// The scratch that a worker keeps from block to block, in octets. One block needs at most 8/5 of its length.
const KEPT_SCRATCH: usize = 16 * 1024;

thread_local! {
    /// Where coded strings of one field are written plainly: it belongs to the worker, not to each of its connections.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}
