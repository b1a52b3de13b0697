//! The encoder: events in, protobuf out. One output buffer; a nested message is written in place and its length patched in after.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use super::merge::single_out;
use super::problem::{JsonError, Problem, ProblemKind, Problems};
use super::source::{DEPTH_LIMIT, Event, Repeats, Source, Stop, skip};
use super::{Encoded, Options, scalar};
use crate::schema::{Field, Kind, Message, WellKnown};
use crate::wire::{Fields, begin_len, end_len, put_tag};

pub(super) struct Encoder<'o> {
    pub(super) out: Vec<u8>,
    path: Vec<Step>,
    depth: usize,
    problems: Vec<Problem>,
    ignored: Vec<Problem>,
    notes: Vec<Problem>,
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
            notes: Vec::new(),
            options,
        };
        let event = source.value()?;
        if event == Event::Null && message.well_known() != WellKnown::Value {
            return Err(JsonError::new("the document is empty", source.line().max(1), 1).into());
        }
        encoder.message(source, message, event)?;
        if source.finish()? {
            encoder.note(source, "what follows the first document is not read".to_owned());
        }
        let Encoder {
            mut out,
            problems,
            ignored,
            notes,
            ..
        } = encoder;
        if !problems.is_empty() && !options.keep_going {
            return Ok(Err(Problems(problems)));
        }
        out.shrink_to_fit();
        Ok(Ok(Encoded {
            bytes: out,
            ignored,
            notes,
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
        let start = self.out.len();
        let mut seen = 0u128;
        let mut oneofs = 0u64;
        let mut has_repeats = false;
        while let Some(key) = source.key()? {
            let Some(field) = message.field_by_name(&key) else {
                self.unknown(source, message, &key)?;
                continue;
            };
            self.path.push(Step::Field(field));
            let event = source.value()?;
            let bit = 1u128.checked_shl(field.position() as u32).unwrap_or_default();
            let oneof = field
                .oneof()
                .map_or(0, |position| 1u64.checked_shl(position as u32).unwrap_or_default());
            if seen & bit != 0 {
                has_repeats |= source.repeats() == Repeats::Join;
                if source.repeats() == Repeats::Replace {
                    self.withdraw(start, field.number());
                    oneofs &= !oneof;
                }
                self.note(source, repeated(source.repeats(), field).to_owned());
            }
            if event != Event::Null || takes_null(field) {
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
        if has_repeats {
            let joined = self.out.split_off(start);
            // What was just encoded is well-formed.
            let _ = single_out(&joined, message, &mut self.out);
        }
        Ok(())
    }

    /// Takes back what was written of a field since `start`, where its message starts.
    fn withdraw(&mut self, start: usize, number: u32) {
        let written = self.out.split_off(start);
        for field in Fields::new(&written).flatten().filter(|field| field.number != number) {
            self.out.extend_from_slice(written.get(field.range).unwrap_or_default());
        }
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
                Event::Null if !takes_null(field) => self.nothing(field, packed.is_none()),
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
        let mut seen: HashMap<String, Range<usize>> = HashMap::new();
        while let Some(key) = source.key()? {
            let key = key.into_owned();
            self.path.push(Step::Key(key.clone()));
            let event = source.value()?;
            if let Some(earlier) = seen.remove(&key) {
                if source.repeats() == Repeats::Join {
                    self.problem(source, ProblemKind::Duplicate, "the key stands twice".to_owned());
                    skip(source, &event)?;
                    seen.insert(key, earlier);
                    self.path.pop();
                    continue;
                }
                self.note(source, "the key stands twice: the last one counts".to_owned());
                self.out.drain(earlier.clone());
                for later in seen.values_mut().filter(|later| later.start > earlier.start) {
                    *later = later.start - earlier.len()..later.end - earlier.len();
                }
            }
            let before = self.out.len();
            let start = begin_len(&mut self.out, field.number());
            if let Err(reason) = scalar::put_key(&mut self.out, key_field, &key) {
                self.problem(source, ProblemKind::Value, reason);
            }
            match event {
                Event::Null if !takes_null(value_field) => self.nothing(value_field, true),
                event => self.single(source, value_field, event, false)?,
            }
            end_len(&mut self.out, start);
            seen.insert(key, before..self.out.len());
            self.path.pop();
        }
        Ok(())
    }

    /// `null` where a value has to be: the default, as in Envoy.
    fn nothing(&mut self, field: Field, is_tagged: bool) {
        if is_tagged {
            put_tag(&mut self.out, field.number(), field.kind().wire_type());
        }
        let length = match field.kind().wire_type() {
            1 => 8,
            5 => 4,
            _ => 1,
        };
        self.out.resize(self.out.len() + length, 0);
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

    /// What is to be told of what was accepted.
    pub(super) fn note<'a>(&mut self, source: &dyn Source<'a>, reason: String) {
        if self.notes.len() < Problems::LIMIT {
            self.notes.push(Problem {
                line: source.line(),
                ..Problem::new(ProblemKind::Duplicate, self.path(false), reason)
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

fn repeated(means: Repeats, field: Field) -> &'static str {
    match means {
        Repeats::Join if field.is_repeated() => "the field stands twice: its lists are joined",
        Repeats::Join if field.message().is_some() => "the field stands twice: its messages are joined",
        _ => "the field stands twice: the last one counts",
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
