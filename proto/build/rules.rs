//! PGV options (`validate.rules`) as a flat list of small operations.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, Value};

use crate::ops;
use crate::tables::Pools;

/// One operation: what to compare with, as a number, a string's place, or the place of a list of either.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    pub op: u8,
    pub count: u16,
    pub extra: u32,
    pub arg: u64,
}

#[derive(Default)]
pub struct Rules {
    pub records: Vec<Rule>,
    pub lists: Vec<u64>,
    pub patterns: HashMap<String, u32>,
    seen: HashMap<Vec<Rule>, u32>,
}

impl Rules {
    /// Stores the rules of one field; returns where they start and how many there are.
    pub fn add(&mut self, field_rules: &DynamicMessage, pools: &mut Pools) -> (u32, u16) {
        let mut list = Vec::new();
        for (group, value) in field_rules.fields() {
            let Value::Message(group_rules) = value else { continue };
            for (rule, argument) in group_rules.fields() {
                self.one(group.name(), &rule, argument, &mut list, pools);
            }
            mark_strict(group_rules, &mut list);
        }
        let count = list.len() as u16;
        if let Some(start) = self.seen.get(&list) {
            return (*start, count);
        }
        let start = self.records.len() as u32;
        self.seen.insert(list.clone(), start);
        self.records.extend(list);
        (start, count)
    }

    fn one(&mut self, group: &str, rule: &FieldDescriptor, argument: &Value, list: &mut Vec<Rule>, pools: &mut Pools) {
        let Some(op) = operation(group, rule.name(), argument) else {
            return;
        };
        if matches!(argument, Value::Bool(false)) && op != ops::CONST {
            return;
        }
        let mut record = Rule {
            op,
            count: 0,
            extra: 0,
            arg: 0,
        };
        match argument {
            Value::List(values) => {
                let args: Vec<u64> = values.iter().map(|value| scalar(value, pools)).collect();
                (record.arg, record.count) = (self.lists.len() as u64, args.len() as u16);
                self.lists.extend(args);
            }
            Value::Message(nested) if matches!(op, ops::ITEMS | ops::KEYS | ops::VALUES) => {
                let (start, count) = self.add(nested, pools);
                (record.arg, record.count) = (u64::from(start), count);
            }
            value => record.arg = scalar(value, pools),
        }
        if op == ops::PATTERN {
            let next = self.patterns.len() as u32;
            record.extra = *self
                .patterns
                .entry(argument.as_str().unwrap_or_default().to_owned())
                .or_insert(next);
        }
        // What switches the others off has to be seen before them.
        if matches!(op, ops::IGNORE_EMPTY | ops::SKIP) {
            list.insert(0, record)
        } else {
            list.push(record)
        }
    }
}

/// The operation of a PGV rule, named within its group (`string.min_len`).
fn operation(group: &str, rule: &str, argument: &Value) -> Option<u8> {
    let bytes = group == "bytes";
    let text = bytes || group == "string";
    Some(match rule {
        "required" => ops::REQUIRED,
        "skip" => ops::SKIP,
        "ignore_empty" => ops::IGNORE_EMPTY,
        "const" if text => ops::TEXT_CONST,
        "const" => ops::CONST,
        "lt" => ops::LT,
        "lte" => ops::LTE,
        "gt" => ops::GT,
        "gte" => ops::GTE,
        "in" if text || group == "any" => ops::TEXT_IN,
        "not_in" if text || group == "any" => ops::TEXT_NOT_IN,
        "in" => ops::IN,
        "not_in" => ops::NOT_IN,
        "defined_only" => ops::DEFINED_ONLY,
        "len" if bytes => ops::LEN_BYTES,
        "min_len" if bytes => ops::MIN_BYTES,
        "max_len" if bytes => ops::MAX_BYTES,
        "len" => ops::LEN,
        "min_len" => ops::MIN_LEN,
        "max_len" => ops::MAX_LEN,
        "len_bytes" => ops::LEN_BYTES,
        "min_bytes" => ops::MIN_BYTES,
        "max_bytes" => ops::MAX_BYTES,
        "pattern" => ops::PATTERN,
        "prefix" => ops::PREFIX,
        "suffix" => ops::SUFFIX,
        "contains" => ops::CONTAINS,
        "not_contains" => ops::NOT_CONTAINS,
        "email" => ops::EMAIL,
        "hostname" => ops::HOSTNAME,
        "ip" => ops::IP,
        "ipv4" => ops::IPV4,
        "ipv6" => ops::IPV6,
        "uri" => ops::URI,
        "uri_ref" => ops::URI_REF,
        "address" => ops::ADDRESS,
        "uuid" => ops::UUID,
        "well_known_regex" => {
            if argument.as_enum_number() == Some(1) {
                ops::HEADER_NAME
            } else {
                ops::HEADER_VALUE
            }
        }
        "min_items" | "min_pairs" => ops::MIN_ITEMS,
        "max_items" | "max_pairs" => ops::MAX_ITEMS,
        "unique" => ops::UNIQUE,
        "items" => ops::ITEMS,
        "keys" => ops::KEYS,
        "values" => ops::VALUES,
        // `strict` is read together with `well_known_regex`; `no_sparse` cannot be broken on the wire.
        "strict" | "no_sparse" => return None,
        other => {
            println!("cargo:warning=PGV rule {group}.{other} is not known");
            return None;
        }
    })
}

/// PGV's header patterns are strict unless told otherwise.
fn mark_strict(group_rules: &DynamicMessage, list: &mut [Rule]) {
    let loose = group_rules
        .fields()
        .any(|(rule, argument)| rule.name() == "strict" && *argument == Value::Bool(false));
    for rule in list
        .iter_mut()
        .filter(|rule| matches!(rule.op, ops::HEADER_NAME | ops::HEADER_VALUE))
    {
        rule.extra = u32::from(!loose);
    }
}

/// A number as its own bits (floats as f64, durations as nanoseconds), a string as offset and length.
fn scalar(value: &Value, pools: &mut Pools) -> u64 {
    match value {
        Value::Bool(flag) => u64::from(*flag),
        Value::I32(number) | Value::EnumNumber(number) => i64::from(*number) as u64,
        Value::I64(number) => *number as u64,
        Value::U32(number) => u64::from(*number),
        Value::U64(number) => *number,
        Value::F32(number) => f64::from(*number).to_bits(),
        Value::F64(number) => number.to_bits(),
        Value::String(text) => pools.text(text.as_bytes()),
        Value::Bytes(bytes) => pools.text(bytes),
        Value::Message(duration) => nanoseconds(duration) as u64,
        Value::List(_) | Value::Map(_) => 0,
    }
}

fn nanoseconds(duration: &DynamicMessage) -> i64 {
    let part = |name: &str| match duration.get_field_by_name(name).as_deref() {
        Some(Value::I64(number)) => *number,
        Some(Value::I32(number)) => i64::from(*number),
        _ => 0,
    };
    debug_assert_eq!(duration.descriptor().full_name(), "google.protobuf.Duration");
    part("seconds")
        .saturating_mul(1_000_000_000)
        .saturating_add(part("nanos"))
}
