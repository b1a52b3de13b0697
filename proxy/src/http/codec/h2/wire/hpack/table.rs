//! The dynamic table (RFC 7541 2.3.2 and 4).

use std::collections::VecDeque;

use super::{DEFAULT_TABLE_SIZE, statics};

/// What an entry counts beside its octets (RFC 7541 4.1).
const OVERHEAD: usize = 32;

/// The least buffer: a handful of fields, so that the first block does not grow it time and again.
const LEAST_BYTES: usize = 256;

/// A name as an entry keeps it: of what the static table has, the entry holds the place alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// The name's first index.
    Static(u8),
    Literal(&'a [u8]),
}

impl<'a> Name<'a> {
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Static(index) => statics::name(index),
            Self::Literal(name) => name,
        }
    }
}

/// What an entry counts.
pub fn entry_size(name_len: usize, value_len: usize) -> usize {
    name_len + value_len + OVERHEAD
}

/// Entries, oldest first, one behind the other in one buffer; the newest has the index 0 here.
pub struct Table {
    /// Literal name and value of each entry, behind what is left of entries that went.
    bytes: Vec<u8>,
    /// Newest first.
    entries: VecDeque<Entry>,
    /// The place that `bytes` begins at. Places count octets since the table was new and wrap around, so that entries stay as they are when the
    /// buffer is tidied.
    begin: u32,
    /// Size as in RFC 7541 4.1.
    size: usize,
    max_size: usize,
}

struct Entry {
    place: u32,
    name: StoredName,
    value_len: u32,
}

/// Length of a literal name; with the highest bit, the index of a static one.
#[derive(Clone, Copy)]
struct StoredName(u32);

impl StoredName {
    const STATIC: u32 = 1 << 31;

    fn of(name: Name<'_>) -> Self {
        match name {
            Name::Static(index) => Self(Self::STATIC | u32::from(index)),
            Name::Literal(name) => Self(name.len() as u32 & !Self::STATIC),
        }
    }

    fn static_index(self) -> Option<u8> {
        (self.0 & Self::STATIC != 0).then_some(self.0 as u8)
    }

    /// Octets in the buffer.
    fn stored_len(self) -> usize {
        if self.0 & Self::STATIC != 0 { 0 } else { self.0 as usize }
    }

    fn len(self) -> usize {
        self.static_index()
            .map_or(self.0 as usize, |index| statics::name(index).len())
    }
}

impl Table {
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            entries: VecDeque::new(),
            begin: 0,
            size: 0,
            max_size: DEFAULT_TABLE_SIZE,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn max_size(&self) -> usize {
        self.max_size
    }

    pub fn get(&self, index: usize) -> Option<(Name<'_>, &[u8])> {
        let entry = self.entries.get(index)?;
        let (name, rest) = self
            .bytes
            .get(self.at(entry)..)?
            .split_at_checked(entry.name.stored_len())?;
        let value = rest.get(..entry.value_len as usize)?;
        let name = entry.name.static_index().map_or(Name::Literal(name), Name::Static);
        Some((name, value))
    }

    /// Puts a field in. One that is larger than the table empties it and is not put in (RFC 7541 4.4).
    pub fn insert(&mut self, name: Name<'_>, value: &[u8]) {
        let name_len = name.as_bytes().len();
        let size = entry_size(name_len, value.len());
        let Some(rest) = self.max_size.checked_sub(size) else {
            self.evict_to(0);
            return;
        };
        self.evict_to(rest);
        let stored = StoredName::of(name);
        self.make_room(stored.stored_len() + value.len());
        let place = self.begin.wrapping_add(self.bytes.len() as u32);
        if let Name::Literal(name) = name {
            self.bytes.extend_from_slice(name);
        }
        self.bytes.extend_from_slice(value);
        self.entries.push_front(Entry {
            place,
            name: stored,
            value_len: value.len() as u32,
        });
        self.size += size;
    }

    /// A table of no size gives its memory back.
    pub fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict_to(max_size);
        if max_size == 0 {
            self.bytes = Vec::new();
            self.entries = VecDeque::new();
        }
    }

    /// Lets the oldest entries go until the rest has at most this size.
    fn evict_to(&mut self, size: usize) {
        while self.size > size
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry_size(entry.name.len(), entry.value_len as usize);
        }
        if self.entries.is_empty() {
            self.bytes.clear();
        }
    }

    /// Makes the buffer hold so many octets more: it is tidied if a fifth of it is free then, so that the next time is not soon, and grows otherwise.
    fn make_room(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() >= more {
            return;
        }
        let gone = self.entries.back().map_or(self.bytes.len(), |oldest| self.at(oldest));
        let wanted = self.bytes.len() - gone + more;
        self.begin = self.begin.wrapping_add(gone as u32);
        if wanted + wanted / 4 <= self.bytes.capacity() {
            self.bytes.drain(..gone);
            return;
        }
        let mut bytes = Vec::with_capacity((wanted + wanted / 2).max(LEAST_BYTES));
        bytes.extend_from_slice(self.bytes.get(gone..).unwrap_or_default());
        self.bytes = bytes;
    }

    /// Where an entry begins in the buffer.
    fn at(&self, entry: &Entry) -> usize {
        entry.place.wrapping_sub(self.begin) as usize
    }
}

#[cfg(test)]
impl Table {
    pub fn size(&self) -> usize {
        self.size
    }

    /// Octets of memory, as allocated.
    pub fn footprint(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    pub fn fields(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let fields = (0..self.len()).filter_map(|index| self.get(index));
        fields
            .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
            .collect()
    }
}
