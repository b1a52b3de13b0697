//! JSON formats: a `Struct` whose strings are formats; and protobuf values as JSON.

use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use super::{Format, LogView};
use crate::config::{Compiled, Problems};

/// A compiled JSON format; one line per record. Keys are sorted, so that lines can be compared.
pub struct JsonFormat {
    fields: Vec<(String, Node)>,
    omit_empty: bool,
}

enum Node {
    /// JSON that does not change.
    Literal(String),
    Format(Format),
    Object(Vec<(String, Node)>),
    List(Vec<Node>),
}

impl JsonFormat {
    /// `omit_empty`: keys without a value are left out, and a missing part of a text prints as nothing.
    pub fn compile(value: &Struct, omit_empty: bool) -> Compiled<Self> {
        Ok(Self {
            fields: object(value, omit_empty)?,
            omit_empty,
        })
    }

    pub fn needs_response_headers(&self) -> bool {
        self.fields
            .iter()
            .any(|(_, node)| node.any(&Format::needs_response_headers))
    }

    pub fn needs_trailers(&self) -> bool {
        self.fields.iter().any(|(_, node)| node.any(&Format::needs_trailers))
    }

    pub fn needs_close(&self) -> bool {
        let any = |(_, node): &(String, Node)| node.any(&Format::needs_close);
        self.fields.iter().any(any)
    }

    pub fn needs_upstream_meter(&self) -> bool {
        let any = |(_, node): &(String, Node)| node.any(&Format::needs_upstream_meter);
        self.fields.iter().any(any)
    }

    /// The record and a newline.
    pub fn write(&self, view: &LogView<'_>, out: &mut Vec<u8>) {
        write_object(&self.fields, self.omit_empty, view, out);
        out.push(b'\n');
    }
}

fn object(value: &Struct, omit_empty: bool) -> Compiled<Vec<(String, Node)>> {
    let mut fields = Vec::with_capacity(value.fields.len());
    for (key, value) in &value.fields {
        let node = Node::compile(value, omit_empty).map_err(|problems: Problems| problems.under(key))?;
        fields.push((key.clone(), node));
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(fields)
}

impl Node {
    fn compile(value: &Value, omit_empty: bool) -> Compiled<Self> {
        Ok(match &value.kind {
            Some(Kind::StringValue(format)) => Self::Format(Format::parse(format, omit_empty)?),
            Some(Kind::StructValue(inner)) => Self::Object(object(inner, omit_empty)?),
            Some(Kind::ListValue(list)) => {
                let items = list.values.iter().map(|item| Self::compile(item, omit_empty));
                Self::List(items.collect::<Result<_, _>>()?)
            }
            _ => {
                let mut out = Vec::new();
                write_value(value, &mut out);
                Self::Literal(String::from_utf8_lossy(&out).into_owned())
            }
        })
    }

    fn any(&self, test: &impl Fn(&Format) -> bool) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Format(format) => test(format),
            Self::Object(fields) => fields.iter().any(|(_, node)| node.any(test)),
            Self::List(items) => items.iter().any(|node| node.any(test)),
        }
    }

    /// `false`: there is no value, and `null` stands for it.
    fn write(&self, omit_empty: bool, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Literal(text) => {
                out.extend_from_slice(text.as_bytes());
                return text != "null";
            }
            Self::Format(format) => return write_format(format, view, out),
            Self::Object(fields) => write_object(fields, omit_empty, view, out),
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(omit_empty, view, out);
                }
                out.push(b']');
            }
        }
        true
    }
}

fn write_object(fields: &[(String, Node)], omit_empty: bool, view: &LogView<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (key, node) in fields {
        let start = out.len();
        if !first {
            out.push(b',');
        }
        write_string(key.as_bytes(), out);
        out.push(b':');
        if node.write(omit_empty, view, out) || !omit_empty {
            first = false;
        } else {
            out.truncate(start);
        }
    }
    out.push(b'}');
}

/// An operator alone keeps its type; anything else is a text.
fn write_format(format: &Format, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
    let Some(operator) = format.lone() else {
        let mut text = Vec::with_capacity(64);
        format.write(view, &mut text);
        write_string(&text, out);
        return true;
    };
    if operator.write_json(view, out) {
        return true;
    }
    if operator.is_number() {
        let found = operator.write(view, out);
        if !found {
            out.extend_from_slice(b"null");
        }
        return found;
    }
    let mut text = Vec::with_capacity(64);
    let found = operator.write(view, &mut text);
    if found {
        write_string(&text, out);
    } else {
        out.extend_from_slice(b"null");
    }
    found
}

/// A JSON string; what is not UTF-8 is replaced.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    use std::io::Write;
    out.push(b'"');
    let Ok(text) = std::str::from_utf8(text) else {
        return write_bytes(text, out);
    };
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            control if u32::from(control) < 0x20 || control == '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// The rest of a string that is no UTF-8, in Envoy's manner: a byte that is not plain is told by its number, and none is lost.
fn write_bytes(text: &[u8], out: &mut Vec<u8>) {
    use std::io::Write;
    for byte in text {
        match byte {
            b' '..=b'~' if !matches!(byte, b'"' | b'\\') => out.push(*byte),
            _ => _ = write!(out, "\\u{byte:04x}"),
        }
    }
    out.push(b'"');
}

/// A protobuf value as JSON, keys sorted.
pub(super) fn write_value(value: &Value, out: &mut Vec<u8>) {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => out.extend_from_slice(b"null"),
        Some(Kind::BoolValue(flag)) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Some(Kind::NumberValue(number)) => {
            // serde_json prints the shortest digits; whole numbers go without a point, as in protobuf JSON.
            let whole = number.fract() == 0.0 && number.abs() < 9e15;
            let text = if whole {
                format!("{number:.0}")
            } else {
                serde_json::json!(number).to_string()
            };
            out.extend_from_slice(text.as_bytes());
        }
        Some(Kind::StringValue(text)) => write_string(text.as_bytes(), out),
        Some(Kind::StructValue(fields)) => write_struct(fields, out),
        Some(Kind::ListValue(list)) => {
            out.push(b'[');
            for (index, item) in list.values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
    }
}

pub(super) fn write_struct(value: &Struct, out: &mut Vec<u8>) {
    let mut fields: Vec<_> = value.fields.iter().collect();
    fields.sort_by(|a, b| a.0.cmp(b.0));
    out.push(b'{');
    for (index, (key, value)) in fields.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(key.as_bytes(), out);
        out.push(b':');
        write_value(value, out);
    }
    out.push(b'}');
}
