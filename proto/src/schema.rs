//! What every message looks like: fields, names, enums and PGV rules, read straight from one table in the binary.
//!
//! In: a full name (`envoy.config.cluster.v3.Cluster`). Out: small `Copy` handles. The table is plain bytes without pointers, so
//! it costs no start-up time, no relocation and no heap, and only the pages that are touched become resident.
//! `build.rs` writes it; the record layouts are stated where they are read, below.

mod blob;
pub mod ops;
mod rule;

use std::fmt;

use blob::{text, u8_at, u16_at, u32_at};
pub use rule::{Rule, Rules};

/// The generated constants: where each table starts, and how many records there are.
pub(crate) mod layout {
    include!(concat!(env!("OUT_DIR"), "/layout.rs"));
}

/// Finds a message by its full name, without a leading dot.
pub fn message(full_name: &str) -> Option<Message> {
    let (mut low, mut high) = (0, layout::MESSAGE_COUNT);
    while low < high {
        let middle = low.midpoint(high);
        match Message(middle).name().cmp(full_name) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(Message(middle)),
        }
    }
    None
}

/// All messages, sorted by full name.
pub fn messages() -> impl Iterator<Item = Message> {
    (0..layout::MESSAGE_COUNT).map(Message)
}

/// How many fields all messages have together: [`Field::index`] is below it.
pub fn field_count() -> usize {
    layout::FIELD_COUNT as usize
}

/// A message type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message(u32);

impl Message {
    const RECORD: usize = 40;

    fn at(self, offset: usize) -> usize {
        layout::MESSAGES + self.0 as usize * Self::RECORD + offset
    }

    /// Position among all messages.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The full name, without a leading dot.
    pub fn name(self) -> &'static str {
        text(u32_at(self.at(0)), u16_at(self.at(4)).into())
    }

    /// Which special form of protobuf JSON the message has.
    pub fn well_known(self) -> WellKnown {
        match u8_at(self.at(6)) {
            1 => WellKnown::Any,
            2 => WellKnown::Duration,
            3 => WellKnown::Timestamp,
            4 => WellKnown::Struct,
            5 => WellKnown::Value,
            6 => WellKnown::ListValue,
            8 => WellKnown::Wrapper,
            9 => WellKnown::Empty,
            _ => WellKnown::None,
        }
    }

    pub(crate) fn flags(self) -> u8 {
        u8_at(self.at(7))
    }

    fn fields_start(self) -> u32 {
        u32_at(self.at(8))
    }

    /// How many fields there are.
    pub fn field_count(self) -> usize {
        u16_at(self.at(12)).into()
    }

    /// The fields, by number.
    pub fn fields(self) -> impl ExactSizeIterator<Item = Field> {
        let start = self.fields_start();
        (0..u16_at(self.at(12))).map(move |position| Field(start + u32::from(position)))
    }

    /// The field at a position in [`Message::fields`].
    pub fn field_at(self, position: usize) -> Option<Field> {
        (position < self.field_count()).then(|| Field(self.fields_start() + position as u32))
    }

    /// Finds a field by its number.
    #[inline]
    pub fn field(self, number: u32) -> Option<Field> {
        if number < u32::from(u16_at(self.at(14))) {
            let start = u32_at(self.at(16)) as usize;
            let position = u16_at(layout::NUMBERS + 2 * (start + number as usize)).checked_sub(1)?;
            return Some(Field(self.fields_start() + u32::from(position)));
        }
        let count = self.field_count();
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if Field(self.fields_start() + middle as u32).number() < number {
                low = middle + 1
            } else {
                high = middle
            }
        }
        self.field_at(low).filter(|field| field.number() == number)
    }

    /// Finds a field by its proto name (`connect_timeout`) or its JSON name (`connectTimeout`).
    pub fn field_by_name(self, name: &str) -> Option<Field> {
        let start = u32_at(self.at(20)) as usize;
        let (mut low, mut high) = (0, usize::from(u16_at(self.at(24))));
        while low < high {
            let middle = low.midpoint(high);
            let record = layout::NAMES + 8 * (start + middle);
            match text(u32_at(record), u16_at(record + 4).into()).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.field_at(u16_at(record + 6).into()),
            }
        }
        None
    }

    /// Name of a oneof, and whether PGV wants one of its members set.
    pub fn oneof(self, position: usize) -> Option<(&'static str, bool)> {
        let record = layout::ONEOFS + 8 * (u32_at(self.at(28)) as usize + position);
        (position < self.oneof_count())
            .then(|| (text(u32_at(record), u16_at(record + 4).into()), u16_at(record + 6) != 0))
    }

    /// How many oneofs there are.
    pub fn oneof_count(self) -> usize {
        u16_at(self.at(26)).into()
    }

    /// Fields whose rules may be broken by leaving them out.
    pub(crate) fn checked_when_absent(self) -> impl Iterator<Item = (usize, Field)> {
        let start = u32_at(self.at(32)) as usize;
        let position = move |index: u16| usize::from(u16_at(layout::ABSENT + 2 * (start + usize::from(index))));
        (0..u16_at(self.at(36)))
            .map(move |index| (position(index), Field(self.fields_start() + position(index) as u32)))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Messages with a JSON form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WellKnown {
    None,
    Any,
    Duration,
    Timestamp,
    Struct,
    Value,
    ListValue,
    /// `google.protobuf.BoolValue` and the like: one field, `value`, number 1.
    Wrapper,
    Empty,
}

/// A field's type, numbered as in `descriptor.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Double = 1,
    Float = 2,
    Int64 = 3,
    Uint64 = 4,
    Int32 = 5,
    Fixed64 = 6,
    Fixed32 = 7,
    Bool = 8,
    String = 9,
    Message = 11,
    Bytes = 12,
    Uint32 = 13,
    Enum = 14,
    Sfixed32 = 15,
    Sfixed64 = 16,
    Sint32 = 17,
    Sint64 = 18,
}

impl Kind {
    /// The wire type of one value: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
    pub fn wire_type(self) -> u8 {
        match self {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
            Kind::String | Kind::Bytes | Kind::Message => 2,
            _ => 0,
        }
    }
}

/// A field of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field(u32);

impl Field {
    const RECORD: usize = 32;

    #[inline]
    fn at(self, offset: usize) -> usize {
        layout::FIELDS + self.0 as usize * Self::RECORD + offset
    }

    /// Position among the fields of all messages, below [`field_count`].
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Position among the fields of its message.
    pub fn position(self) -> usize {
        (self.0 - self.parent().fields_start()) as usize
    }

    pub fn number(self) -> u32 {
        u32_at(self.at(0))
    }

    /// The name in the `.proto` file.
    pub fn name(self) -> &'static str {
        text(u32_at(self.at(4)), u8_at(self.at(12)).into())
    }

    /// The lowerCamelCase name.
    pub fn json_name(self) -> &'static str {
        text(u32_at(self.at(8)), u8_at(self.at(13)).into())
    }

    #[inline]
    pub fn kind(self) -> Kind {
        match u8_at(self.at(14)) {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => Kind::Message,
            13 => Kind::Uint32,
            14 => Kind::Enum,
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            _ => Kind::Bytes,
        }
    }

    #[inline]
    pub(crate) fn flags(self) -> u8 {
        u8_at(self.at(15))
    }

    /// Repeated or map.
    pub fn is_repeated(self) -> bool {
        self.flags() & ops::FIELD_REPEATED != 0
    }

    /// A map; [`Field::message`] is then the entry, with fields 1 (key) and 2 (value).
    pub fn is_map(self) -> bool {
        self.flags() & ops::FIELD_MAP != 0
    }

    pub fn is_deprecated(self) -> bool {
        self.flags() & ops::FIELD_DEPRECATED != 0
    }

    /// Envoy refuses the field unless a runtime key allows it.
    pub fn is_disallowed_by_default(self) -> bool {
        self.flags() & ops::FIELD_DISALLOWED != 0
    }

    /// Holds a secret: left out of dumps.
    pub fn is_sensitive(self) -> bool {
        self.flags() & ops::FIELD_SENSITIVE != 0
    }

    /// Unset and default differ: messages, `optional` scalars, members of a oneof.
    pub fn has_presence(self) -> bool {
        self.flags() & ops::FIELD_PRESENCE != 0
    }

    /// Repeated scalars written as one length-delimited value.
    pub fn is_packed(self) -> bool {
        self.flags() & ops::FIELD_PACKED != 0
    }

    /// Position of the oneof it belongs to.
    pub fn oneof(self) -> Option<usize> {
        Some(u8_at(self.at(16)))
            .filter(|position| *position != 0xff)
            .map(usize::from)
    }

    /// The message type, for a field of [`Kind::Message`].
    #[inline]
    pub fn message(self) -> Option<Message> {
        (self.kind() == Kind::Message).then(|| Message(u32_at(self.at(20))))
    }

    /// The enum type, for a field of [`Kind::Enum`].
    pub fn enumeration(self) -> Option<Enum> {
        (self.kind() == Kind::Enum).then(|| Enum(u32_at(self.at(20))))
    }

    /// The message that the field belongs to.
    pub fn parent(self) -> Message {
        Message(u32_at(self.at(28)))
    }

    /// PGV rules, often none.
    #[inline]
    pub fn rules(self) -> Rules {
        Rules::new(u32_at(self.at(24)), u16_at(self.at(18)))
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.parent().name(), self.name())
    }
}

/// An enum type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enum(u32);

impl Enum {
    const RECORD: usize = 12;

    fn at(self, offset: usize) -> usize {
        layout::ENUMS + self.0 as usize * Self::RECORD + offset
    }

    /// The full name.
    pub fn name(self) -> &'static str {
        text(u32_at(self.at(0)), u16_at(self.at(4)).into())
    }

    /// Numbers and names, as declared (aliases included).
    pub fn values(self) -> impl Iterator<Item = (i32, &'static str)> {
        let start = u32_at(self.at(8)) as usize;
        (0..usize::from(u16_at(self.at(6)))).map(move |position| {
            let record = layout::VALUES + 12 * (start + position);
            (
                u32_at(record) as i32,
                text(u32_at(record + 4), u32_at(record + 8) as usize),
            )
        })
    }

    /// The number of a value's name.
    pub fn number(self, name: &str) -> Option<i32> {
        self.values()
            .find(|(_, known)| *known == name)
            .map(|(number, _)| number)
    }

    /// The first name of a number.
    pub fn value_name(self, number: i32) -> Option<&'static str> {
        self.values().find(|(known, _)| *known == number).map(|(_, name)| name)
    }
}

impl fmt::Debug for Enum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
