//! Messages whose JSON is not a map of their fields, but for `Any`.

use super::encode::Encoder;
use super::problem::ProblemKind;
use super::source::{Event, Source, Stop, skip};
use super::time::{format_duration, format_timestamp, parse_duration, parse_timestamp};
use crate::schema::{self, Message, WellKnown};
use crate::wire::{self, begin_len, end_len, put_len, put_tag, put_varint};

impl Encoder<'_> {
    pub(super) fn well_known<'a>(
        &mut self,
        source: &mut dyn Source<'a>,
        known: WellKnown,
        message: Message,
        event: Event<'a>,
    ) -> Result<(), Stop> {
        match known {
            WellKnown::Any => self.any(source, event),
            WellKnown::Duration | WellKnown::Timestamp if event == Event::Map => self.counted(source, known, message),
            WellKnown::Duration => self.moment(source, &event, parse_duration, "a duration like \"1.5s\""),
            WellKnown::Timestamp => self.moment(
                source,
                &event,
                parse_timestamp,
                "a timestamp like \"2024-01-31T12:00:00Z\"",
            ),
            WellKnown::Struct => match message.field(1) {
                Some(fields) => self.field(source, fields, event),
                None => skip(source, &event),
            },
            WellKnown::ListValue => match message.field(1) {
                Some(values) => self.field(source, values, event),
                None => skip(source, &event),
            },
            WellKnown::Value => self.value(source, event),
            // `{value: 1}`, next to the value itself.
            WellKnown::Wrapper if event == Event::Map => self.fields(source, message),
            WellKnown::Wrapper => match message.field(1) {
                Some(value) => self.single(source, value, event, false),
                None => skip(source, &event),
            },
            WellKnown::None | WellKnown::Empty => self.fields(source, message),
        }
    }

    /// `{seconds: 1, nanos: 5}`
    fn counted<'a>(&mut self, source: &mut dyn Source<'a>, known: WellKnown, message: Message) -> Result<(), Stop> {
        let start = self.out.len();
        self.fields(source, message)?;
        let written = self.out.get(start..).unwrap_or_default();
        let part = |number| match wire::varint_field(written, number) {
            Ok(Some(value)) => value as i64,
            _ => 0,
        };
        let (seconds, nanos) = (part(1), part(2) as i32);
        let spelled = match known {
            WellKnown::Duration => format_duration(seconds, nanos),
            _ => format_timestamp(seconds, nanos),
        };
        if spelled.is_none() {
            let reason = format!("{seconds} seconds and {nanos} nanoseconds are out of range");
            self.problem(source, ProblemKind::Value, reason);
        }
        Ok(())
    }

    fn moment<'a>(
        &mut self,
        source: &mut dyn Source<'a>,
        event: &Event<'a>,
        parse: fn(&str) -> Option<(i64, i32)>,
        wanted: &str,
    ) -> Result<(), Stop> {
        let parsed = match event {
            Event::Text(text) => parse(text),
            _ => None,
        };
        let Some((seconds, nanos)) = parsed else {
            return self.mismatch(source, wanted, event);
        };
        for (number, part) in [(1, seconds), (2, nanos.into())] {
            if part != 0 {
                put_tag(&mut self.out, number, 0);
                put_varint(&mut self.out, part as u64);
            }
        }
        Ok(())
    }

    /// `google.protobuf.Value`: any JSON.
    fn value<'a>(&mut self, source: &mut dyn Source<'a>, event: Event<'a>) -> Result<(), Stop> {
        match event {
            Event::Null => self.out.extend([0x08, 0]),
            Event::Bool(flag) => self.out.extend([0x20, u8::from(flag)]),
            Event::Int(number) => self.number_value(number as f64),
            Event::Float(number) => self.number_value(number),
            Event::Text(text) => put_len(&mut self.out, 3, text.as_bytes()),
            Event::Map => return self.nested_value(source, 5, "google.protobuf.Struct", Event::Map),
            Event::List => return self.nested_value(source, 6, "google.protobuf.ListValue", Event::List),
        }
        Ok(())
    }

    fn number_value(&mut self, number: f64) {
        put_tag(&mut self.out, 2, 1);
        self.out.extend(number.to_le_bytes());
    }

    fn nested_value<'a>(
        &mut self,
        source: &mut dyn Source<'a>,
        number: u32,
        name: &str,
        event: Event<'a>,
    ) -> Result<(), Stop> {
        let Some(message) = schema::message(name) else {
            self.problem(source, ProblemKind::UnknownType, format!("{name} is missing"));
            return skip(source, &event);
        };
        let start = begin_len(&mut self.out, number);
        self.message(source, message, event)?;
        end_len(&mut self.out, start);
        Ok(())
    }
}
