//! The encoder: events in, protobuf out. One output buffer; a nested message is written in place and its length patched in after.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::problem::{Problem, ProblemKind, Problems};
use super::source::{DEPTH_LIMIT, Event, Source, Stop, skip};
use super::{Encoded, Options, scalar};
use crate::schema::{Field, Kind, Message, WellKnown};
use crate::wire::{begin_len, end_len, put_tag};

pub(super) struct Encoder<'o> {
    pub(super) out: Vec<u8>,
    path: Vec<Step>,
    depth: usize,
    problems: Vec<Problem>,
    ignored: Vec<Problem>,
    options: &'o Options,
}

enum Step {
    Field(Field),
    Index(usize),
    Key(String),
}

impl<'o> Encoder<'o> {
    /// Encodes one document.
    pub(super) fn run<'a>(
        source: &mut dyn Source<'a>,
        message: Message,
        options: &'o Options,
    ) -> Result<Result<Encoded, Problems>, Stop> {
        let mut encoder = Encoder {
            out: Vec::new(),
            path: Vec::new(),
            depth: 0,
            problems: Vec::new(),
            ignored: Vec::new(),
            options,
        };
        let event = source.value()?;
        if event != Event::Null {
            encoder.message(source, message, event)?;
        }
        source.finish()?;
        let Encoder {
            mut out,
            problems,
            ignored,
            ..
        } = encoder;
        if !problems.is_empty() && !options.keep_going {
            return Ok(Err(Problems(problems)));
        }
        out.shrink_to_fit();
        Ok(Ok(Encoded {
            bytes: out,
            ignored,
            problems,
        }))
    }

    /// The content of a message, without tag and length.
    pub(super) fn message<'a>(
        &mut self,
        source: &mut dyn Source<'a>,
        message: Message,
        event: Event<'a>,
    ) -> Result<(), Stop> {
        if self.depth >= DEPTH_LIMIT {
            self.problem(source, ProblemKind::Depth, "nested too deeply".to_owned());
            return skip(source, &event);
        }
        self.depth += 1;
        let done = match (message.well_known(), event) {
            (WellKnown::None | WellKnown::Empty, Event::Map) => self.fields(source, message),
            (WellKnown::None | WellKnown::Empty, other) => {
                self.mismatch(source, &format!("a map ({})", message.name()), &other)
            }
            (known, event) => self.well_known(source, known, message, event),
        };
        self.depth -= 1;
        done
    }

    /// The fields of an open map.
    pub(super) fn fields<'a>(&mut self, source: &mut dyn Source<'a>, message: Message) -> Result<(), Stop> {
        let mut seen = 0u128;
        let mut oneofs = 0u64;
        while let Some(key) = source.key()? {
            let Some(field) = message.field_by_name(&key) else {
                self.unknown(source, message, &key)?;
                continue;
            };
            self.path.push(Step::Field(field));
            let event = source.value()?;
            let bit = 1u128.checked_shl(field.position() as u32).unwrap_or_default();
            if seen & bit != 0 {
                self.problem(source, ProblemKind::Duplicate, "the field stands twice".to_owned());
                skip(source, &event)?;
            } else if event != Event::Null || takes_null(field) {
                let oneof = field
                    .oneof()
                    .map_or(0, |position| 1u64.checked_shl(position as u32).unwrap_or_default());
                if oneofs & oneof != 0 {
                    let name = field
                        .oneof()
                        .and_then(|position| message.oneof(position))
                        .map_or("", |(name, _)| name);
                    self.problem(
                        source,
                        ProblemKind::Oneof,
                        format!("only one of the fields of {name} can be set"),
                    );
                }
                oneofs |= oneof;
                self.field(source, field, event)?;
            }
            seen |= bit;
            self.path.pop();
        }
        Ok(())
    }

    fn unknown<'a>(&mut self, source: &mut dyn Source<'a>, message: Message, key: &str) -> Result<(), Stop> {
        self.path.push(Step::Key(key.to_owned()));
        let problem = Problem {
            line: source.line(),
            ..Problem::new(
                ProblemKind::Unknown,
                self.path(true),
                format!("{} has no such field", message.name()),
            )
        };
        self.path.pop();
        let list = if self.options.ignore_unknown {
            &mut self.ignored
        } else {
            &mut self.problems
        };
        if list.len() < Problems::LIMIT {
            list.push(problem);
        }
        let event = source.value()?;
        skip(source, &event)
    }

    pub(super) fn field<'a>(
        &mut self,
        source: &mut dyn Source<'a>,
        field: Field,
        event: Event<'a>,
    ) -> Result<(), Stop> {
        if field.is_map() {
            return match event {
                Event::Map => self.map(source, field),
                other => self.mismatch(source, "a map", &other),
            };
        }
        if !field.is_repeated() {
            return self.single(source, field, event, field.has_presence());
        }
        if event != Event::List {
            return self.mismatch(source, "a list", &event);
        }
        let packed = field
            .is_packed()
            .then(|| (self.out.len(), begin_len(&mut self.out, field.number())));
        let mut index = 0;
        while let Some(item) = source.item()? {
            self.path.push(Step::Index(index));
            index += 1;
            match item {
                Event::Null if !takes_null(field) => {
                    self.problem(source, ProblemKind::Value, "null in a list".to_owned())
                }
                item if packed.is_some() => self.packed(source, field, &item)?,
                item => self.single(source, field, item, true)?,
            }
            self.path.pop();
        }
        if let Some((before, start)) = packed {
            if self.out.len() == start {
                self.out.truncate(before)
            } else {
                end_len(&mut self.out, start)
            }
        }
        Ok(())
    }

    fn map<'a>(&mut self, source: &mut dyn Source<'a>, field: Field) -> Result<(), Stop> {
        let Some((key_field, value_field)) = field.message().and_then(|entry| entry.field(1).zip(entry.field(2)))
        else {
            return skip(source, &Event::Map);
        };
        let mut seen = HashSet::new();
        while let Some(key) = source.key()? {
            let key = key.into_owned();
            self.path.push(Step::Key(key.clone()));
            let event = source.value()?;
            if !seen.insert(key.clone()) {
                self.problem(source, ProblemKind::Duplicate, "the key stands twice".to_owned());
                skip(source, &event)?;
            } else if event == Event::Null && !takes_null(value_field) {
                self.problem(source, ProblemKind::Value, "null in a map".to_owned());
            } else {
                let start = begin_len(&mut self.out, field.number());
                if let Err(reason) = scalar::put_key(&mut self.out, key_field, &key) {
                    self.problem(source, ProblemKind::Value, reason);
                }
                self.single(source, value_field, event, false)?;
                end_len(&mut self.out, start);
            }
            self.path.pop();
        }
        Ok(())
    }

    /// One value with its tag. A default is left out unless `always`.
    pub(super) fn single<'a>(
        &mut self,
        source: &mut dyn Source<'a>,
        field: Field,
        event: Event<'a>,
        always: bool,
    ) -> Result<(), Stop> {
        if let Some(message) = field.message() {
            let start = begin_len(&mut self.out, field.number());
            self.message(source, message, event)?;
            end_len(&mut self.out, start);
            return Ok(());
        }
        let before = self.out.len();
        put_tag(&mut self.out, field.number(), field.kind().wire_type());
        match scalar::put(&mut self.out, field, &event) {
            Ok(is_default) => {
                if is_default && !always {
                    self.out.truncate(before);
                }
                Ok(())
            }
            Err(reason) => {
                self.out.truncate(before);
                self.problem(source, ProblemKind::Value, reason);
                skip(source, &event)
            }
        }
    }

    fn packed<'a>(&mut self, source: &mut dyn Source<'a>, field: Field, event: &Event<'a>) -> Result<(), Stop> {
        if let Err(reason) = scalar::put(&mut self.out, field, event) {
            self.problem(source, ProblemKind::Value, reason);
            skip(source, event)?;
        }
        Ok(())
    }

    pub(super) fn mismatch<'a>(
        &mut self,
        source: &mut dyn Source<'a>,
        wanted: &str,
        event: &Event<'a>,
    ) -> Result<(), Stop> {
        self.problem(source, ProblemKind::Value, scalar::mismatch(wanted, event));
        skip(source, event)
    }

    pub(super) fn problem<'a>(&mut self, source: &dyn Source<'a>, kind: ProblemKind, reason: String) {
        if self.problems.len() < Problems::LIMIT {
            self.problems.push(Problem {
                line: source.line(),
                ..Problem::new(kind, self.path(false), reason)
            });
        }
    }

    /// The path, with map keys in brackets; `dotted_end` writes the last step as a field that does not exist.
    fn path(&self, dotted_end: bool) -> String {
        let mut path = String::new();
        for (position, step) in self.path.iter().enumerate() {
            let dot = if path.is_empty() { "" } else { "." };
            let _ = match step {
                Step::Field(field) => write!(path, "{dot}{}", field.name()),
                Step::Index(index) => write!(path, "[{index}]"),
                Step::Key(key) if dotted_end && position + 1 == self.path.len() => write!(path, "{dot}{key}"),
                Step::Key(key) => write!(path, "[{key:?}]"),
            };
        }
        path
    }
}

/// `google.protobuf.Value` and `NullValue` have a null of their own.
fn takes_null(field: Field) -> bool {
    match field.kind() {
        Kind::Message => {
            !field.is_map()
                && field
                    .message()
                    .is_some_and(|message| message.well_known() == WellKnown::Value)
        }
        Kind::Enum => field
            .enumeration()
            .is_some_and(|item| item.name() == "google.protobuf.NullValue"),
        _ => false,
    }
}
