//! PGV rules of a field as records.

use super::blob::{bytes, u8_at, u16_at, u32_at, u64_at};
use super::layout;

/// A run of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    start: u32,
    count: u16,
}

impl Rules {
    /// No rules.
    pub const NONE: Rules = Rules { start: 0, count: 0 };

    pub(super) fn new(start: u32, count: u16) -> Self {
        Self { start, count }
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Rule> {
        (0..u32::from(self.count)).map(move |position| Rule {
            at: layout::RULES + 16 * (self.start + position) as usize,
        })
    }

    /// Whether a rule of this operation is among them.
    pub fn has(self, op: u8) -> bool {
        self.iter().any(|rule| rule.op() == op)
    }
}

/// One rule: an operation of [`super::ops`] and what it compares with.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    at: usize,
}

impl Rule {
    pub fn op(self) -> u8 {
        u8_at(self.at)
    }

    /// Pattern number, or 1 for strict header rules.
    pub fn extra(self) -> u32 {
        u32_at(self.at + 4)
    }

    /// The number's bits: i64 or u64 by the field's kind, f64 for floats, nanoseconds for durations.
    pub fn number(self) -> u64 {
        u64_at(self.at + 8)
    }

    /// The string or bytes to compare with.
    pub fn bytes(self) -> &'static [u8] {
        placed(self.number())
    }

    /// Numbers of `in` and `not_in`.
    pub fn numbers(self) -> impl Iterator<Item = u64> {
        let start = self.number() as usize;
        (0..usize::from(u16_at(self.at + 2))).map(move |position| u64_at(layout::LISTS + 8 * (start + position)))
    }

    /// Strings of `in` and `not_in`.
    pub fn texts(self) -> impl Iterator<Item = &'static [u8]> {
        self.numbers().map(placed)
    }

    /// Rules for the items, keys or values.
    pub fn nested(self) -> Rules {
        Rules::new(self.number() as u32, u16_at(self.at + 2))
    }
}

fn placed(place: u64) -> &'static [u8] {
    bytes(place as u32, (place >> 32) as usize)
}
