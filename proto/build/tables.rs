//! Writes the records. The layout is read back by `src/schema.rs`; all numbers are little-endian.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt::Write as _;

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};

use crate::ops;
use crate::rules::Rules;

/// Where messages are taken from; whatever these reach comes along.
const PACKAGES: &[&str] = &[
    "envoy.",
    "google.protobuf",
    "google.rpc",
    "xds.",
    "udpa.",
    "opentelemetry.",
    "io.",
    "istio.",
    "stats",
    "cel.",
];
const LEFT_OUT: &[&str] = &["envoy.annotations", "udpa.annotations", "xds.annotations"];
/// Numbers above this are found by binary search instead of by index.
const DENSE_LIMIT: u32 = 600;

/// String bytes, each string stored once.
#[derive(Default)]
pub struct Pools {
    bytes: Vec<u8>,
    seen: HashMap<Vec<u8>, u32>,
}

impl Pools {
    fn place(&mut self, text: &[u8]) -> u32 {
        if let Some(offset) = self.seen.get(text) {
            return *offset;
        }
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(text);
        self.seen.insert(text.to_vec(), offset);
        offset
    }

    /// Offset in the low half, length in the high one.
    pub fn text(&mut self, text: &[u8]) -> u64 {
        u64::from(self.place(text)) | (text.len() as u64) << 32
    }
}

#[derive(Default)]
struct Tables {
    messages: Vec<u8>,
    fields: Vec<u8>,
    field_count: u32,
    numbers: Vec<u16>,
    names: Vec<u8>,
    name_count: u32,
    oneofs: Vec<u8>,
    oneof_count: u32,
    absent: Vec<u16>,
    enums: Vec<u8>,
    values: Vec<u8>,
    value_count: u32,
    pools: Pools,
    rules: Rules,
}

/// The annotations that are read, looked up once.
struct Options {
    pool: DescriptorPool,
}

impl Options {
    fn read(&self, options: &DynamicMessage, name: &str) -> Option<Value> {
        let extension = self.pool.get_extension_by_name(name)?;
        options
            .has_extension(&extension)
            .then(|| options.get_extension(&extension).into_owned())
    }

    fn flag(&self, options: &DynamicMessage, name: &str) -> bool {
        self.read(options, name) == Some(Value::Bool(true))
    }
}

pub fn build(pool: &DescriptorPool) -> Result<(Vec<u8>, String), Box<dyn Error>> {
    let (messages, enums) = reachable(pool);
    let message_index: HashMap<&str, u32> = (0..)
        .zip(&messages)
        .map(|(index, message)| (message.full_name(), index))
        .collect();
    let enum_index: HashMap<&str, u32> = (0..)
        .zip(&enums)
        .map(|(index, item)| (item.full_name(), index))
        .collect();
    let options = Options { pool: pool.clone() };
    let mut tables = Tables::default();
    for (index, message) in (0..).zip(&messages) {
        tables.message(index, message, &message_index, &enum_index, &options)?;
    }
    for item in &enums {
        tables.enumeration(item);
    }
    Ok(tables.finish(messages.len()))
}

fn reachable(pool: &DescriptorPool) -> (Vec<MessageDescriptor>, Vec<EnumDescriptor>) {
    let wanted = |message: &MessageDescriptor| {
        let package = message.package_name();
        let descriptors = message.parent_file().name() == "google/protobuf/descriptor.proto";
        !descriptors
            && PACKAGES.iter().any(|prefix| package.starts_with(prefix))
            && !LEFT_OUT.iter().any(|prefix| package.starts_with(prefix))
    };
    let mut queue: Vec<MessageDescriptor> = pool.all_messages().filter(wanted).collect();
    let mut seen: HashSet<String> = queue.iter().map(|message| message.full_name().to_owned()).collect();
    let (mut messages, mut enums) = (Vec::new(), HashMap::new());
    while let Some(message) = queue.pop() {
        for field in message.fields() {
            match field.kind() {
                Kind::Message(target) if seen.insert(target.full_name().to_owned()) => queue.push(target),
                Kind::Enum(target) => drop(enums.insert(target.full_name().to_owned(), target)),
                _ => {}
            }
        }
        messages.push(message);
    }
    messages.sort_by(|left, right| left.full_name().cmp(right.full_name()));
    let mut enums: Vec<EnumDescriptor> = enums.into_values().collect();
    enums.sort_by(|left, right| left.full_name().cmp(right.full_name()));
    (messages, enums)
}

impl Tables {
    fn message(
        &mut self,
        index: u32,
        message: &MessageDescriptor,
        message_index: &HashMap<&str, u32>,
        enum_index: &HashMap<&str, u32>,
        options: &Options,
    ) -> Result<(), Box<dyn Error>> {
        let mut fields: Vec<FieldDescriptor> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        let oneofs: Vec<_> = message.oneofs().filter(|oneof| !oneof.is_synthetic()).collect();
        let (fields_start, oneofs_start, absent_start) = (self.field_count, self.oneof_count, self.absent.len() as u32);
        let message_options = message.options();
        let mut flags = 0;
        if options.flag(&message_options, "validate.disabled") || options.flag(&message_options, "validate.ignored") {
            flags |= ops::MESSAGE_UNCHECKED;
        }
        for (relative, field) in (0u16..).zip(&fields) {
            let oneof = field
                .containing_oneof()
                .and_then(|own| oneofs.iter().position(|oneof| *oneof == own));
            let target = match field.kind() {
                Kind::Message(target) => message_index
                    .get(target.full_name())
                    .copied()
                    .ok_or("a message is missing")?,
                Kind::Enum(target) => enum_index
                    .get(target.full_name())
                    .copied()
                    .ok_or("an enum is missing")?,
                _ => 0,
            };
            let checks = self.field(
                index,
                field,
                oneof.map_or(0xff, |position| position as u8),
                target,
                options,
            );
            flags |= checks.counted;
            if checks.when_absent && oneof.is_none() {
                self.absent.push(relative);
            }
        }
        for oneof in &oneofs {
            let name = self.pools.place(oneof.name().as_bytes());
            put32(&mut self.oneofs, name);
            put16(&mut self.oneofs, oneof.name().len() as u16);
            put16(
                &mut self.oneofs,
                u16::from(options.flag(&oneof.options(), "validate.required")),
            );
            self.oneof_count += 1;
        }
        let (dense_start, dense_len) = self.dense(&fields);
        let (names_start, names_count) = self.field_names(&fields);
        let well_known = ops::WELL_KNOWN
            .iter()
            .find(|(_, name)| *name == message.full_name())
            .map_or(0, |(code, _)| *code);
        let name = self.pools.place(message.full_name().as_bytes());
        let out = &mut self.messages;
        put32(out, name);
        put16(out, message.full_name().len() as u16);
        out.extend([well_known, flags]);
        put32(out, fields_start);
        put16(out, fields.len() as u16);
        put16(out, dense_len);
        put32(out, dense_start);
        put32(out, names_start);
        put16(out, names_count);
        put16(out, oneofs.len() as u16);
        put32(out, oneofs_start);
        put32(out, absent_start);
        put16(out, (self.absent.len() as u32 - absent_start) as u16);
        put16(out, 0);
        Ok(())
    }

    fn field(&mut self, message: u32, field: &FieldDescriptor, oneof: u8, target: u32, options: &Options) -> Checks {
        let field_options = field.options();
        let rules = options.read(&field_options, "validate.rules");
        let (rules_start, rules_count) = match &rules {
            Some(Value::Message(rules)) => self.rules.add(rules, &mut self.pools),
            _ => (0, 0),
        };
        let own = &self.rules.records[rules_start as usize..rules_start as usize + usize::from(rules_count)];
        let has = |wanted: &[u8]| own.iter().any(|rule| wanted.contains(&rule.op));
        let list = field.cardinality() == Cardinality::Repeated;
        // Rules of a scalar without presence hold for its default too; a message or an optional scalar must be there first.
        let scalar_default = !list && !field.supports_presence() && rules_count > 0 && !has(&[ops::IGNORE_EMPTY]);
        let checks = Checks {
            counted: if list && has(&[ops::MIN_ITEMS, ops::MAX_ITEMS, ops::UNIQUE]) {
                ops::MESSAGE_COUNTED
            } else {
                0
            },
            when_absent: has(&[ops::REQUIRED]) || scalar_default,
        };
        let mut flags = 0;
        let mut set = |condition: bool, bit: u8| flags |= if condition { bit } else { 0 };
        set(list, ops::FIELD_REPEATED);
        set(field.is_map(), ops::FIELD_MAP);
        set(
            field
                .field_descriptor_proto()
                .options
                .as_ref()
                .is_some_and(|own| own.deprecated()),
            ops::FIELD_DEPRECATED,
        );
        set(!list && field.supports_presence(), ops::FIELD_PRESENCE);
        set(
            options.flag(&field_options, "udpa.annotations.sensitive"),
            ops::FIELD_SENSITIVE,
        );
        set(
            options.flag(&field_options, "envoy.annotations.disallowed_by_default"),
            ops::FIELD_DISALLOWED,
        );
        set(field.is_packed(), ops::FIELD_PACKED);
        let (name, json) = (
            self.pools.place(field.name().as_bytes()),
            self.pools.place(field.json_name().as_bytes()),
        );
        let out = &mut self.fields;
        put32(out, field.number());
        put32(out, name);
        put32(out, json);
        out.extend([
            field.name().len() as u8,
            field.json_name().len() as u8,
            field.field_descriptor_proto().r#type() as i32 as u8,
            flags,
        ]);
        out.extend([oneof, 0]);
        put16(out, rules_count);
        put32(out, target);
        put32(out, rules_start);
        put32(out, message);
        self.field_count += 1;
        checks
    }

    /// Number to position + 1, for all numbers up to the largest one that is not far out.
    fn dense(&mut self, fields: &[FieldDescriptor]) -> (u32, u16) {
        let start = self.numbers.len() as u32;
        let Some(last) = fields
            .iter()
            .map(FieldDescriptor::number)
            .filter(|number| *number <= DENSE_LIMIT)
            .max()
        else {
            return (start, 0);
        };
        self.numbers.resize(start as usize + last as usize + 1, 0);
        for (position, field) in (1..).zip(fields).filter(|(_, field)| field.number() <= DENSE_LIMIT) {
            self.numbers[(start + field.number()) as usize] = position;
        }
        (start, last as u16 + 1)
    }

    /// Both spellings of every field, sorted.
    fn field_names(&mut self, fields: &[FieldDescriptor]) -> (u32, u16) {
        let mut names: Vec<(&str, u16)> = Vec::new();
        for (position, field) in (0..).zip(fields) {
            names.push((field.name(), position));
            names.push((field.json_name(), position));
        }
        names.sort_by(|left, right| left.0.as_bytes().cmp(right.0.as_bytes()));
        names.dedup();
        let start = self.name_count;
        for (name, position) in &names {
            let offset = self.pools.place(name.as_bytes());
            put32(&mut self.names, offset);
            put16(&mut self.names, name.len() as u16);
            put16(&mut self.names, *position);
        }
        self.name_count += names.len() as u32;
        (start, names.len() as u16)
    }

    fn enumeration(&mut self, item: &EnumDescriptor) {
        let start = self.value_count;
        for value in item.values() {
            let name = self.pools.place(value.name().as_bytes());
            put32(&mut self.values, value.number() as u32);
            put32(&mut self.values, name);
            put32(&mut self.values, value.name().len() as u32);
            self.value_count += 1;
        }
        let name = self.pools.place(item.full_name().as_bytes());
        put32(&mut self.enums, name);
        put16(&mut self.enums, item.full_name().len() as u16);
        put16(&mut self.enums, (self.value_count - start) as u16);
        put32(&mut self.enums, start);
    }

    fn finish(mut self, messages: usize) -> (Vec<u8>, String) {
        let mut patterns: Vec<(String, u32)> = self.rules.patterns.drain().collect();
        patterns.sort_by_key(|(_, index)| *index);
        let mut rules = Vec::new();
        for rule in &self.rules.records {
            rules.extend([rule.op, 0]);
            put16(&mut rules, rule.count);
            put32(&mut rules, rule.extra);
            rules.extend(rule.arg.to_le_bytes());
        }
        let mut blob = Vec::new();
        let mut layout = String::new();
        let sections: [(&str, Vec<u8>); 10] = [
            ("MESSAGES", self.messages),
            ("FIELDS", self.fields),
            (
                "NUMBERS",
                self.numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            ),
            ("NAMES", self.names),
            ("ONEOFS", self.oneofs),
            (
                "ABSENT",
                self.absent.iter().flat_map(|position| position.to_le_bytes()).collect(),
            ),
            ("ENUMS", self.enums),
            ("VALUES", self.values),
            ("RULES", rules),
            (
                "LISTS",
                self.rules.lists.iter().flat_map(|item| item.to_le_bytes()).collect(),
            ),
        ];
        for (name, bytes) in sections {
            let _ = writeln!(layout, "pub const {name}: usize = {};", blob.len());
            blob.extend(bytes);
        }
        let _ = writeln!(layout, "pub const TEXT: usize = {};", blob.len());
        let _ = writeln!(layout, "pub const MESSAGE_COUNT: u32 = {messages};");
        let _ = writeln!(
            layout,
            "pub const FIELD_COUNT: u32 = {};\npub const PATTERN_COUNT: usize = {};",
            self.field_count,
            patterns.len()
        );
        blob.extend(self.pools.bytes);
        (blob, layout)
    }
}

struct Checks {
    counted: u8,
    when_absent: bool,
}

fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend(number.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_le_bytes());
}
