//! Sections to JSON text, piece by piece.

use bytes::Bytes;
use remora_proto::json::{Style, write_json};
use remora_proto::type_url::type_url;
use serde_json::Value;

use super::mask::Mask;
use super::{Item, List, Section};
use crate::admin::reply::{self, STYLE};

/// A stretch of the page; rendered when the client has taken the ones before.
pub(super) enum Piece {
    Text(String),
    Message {
        /// Spaces that the message's lines stand in.
        indent: usize,
        message: &'static str,
        encode: Box<dyn Fn() -> Vec<u8> + Send>,
        /// With its `@type` in front.
        typed: bool,
        mask: Option<Mask>,
        /// Text behind it.
        end: &'static str,
    },
}

impl Piece {
    pub(super) fn render(self) -> Bytes {
        match self {
            Self::Text(text) => text.into(),
            Self::Message {
                indent,
                message,
                encode,
                typed,
                mask,
                end,
            } => {
                let json = json(message, &encode(), typed, mask.as_ref());
                let spaces = " ".repeat(indent);
                // Text inside JSON strings has no raw line break, so every break is one of the layout.
                let indented = json.replace('\n', &format!("\n{spaces}"));
                format!("{spaces}{indented}{end}").into()
            }
        }
    }
}

/// `?resource=`: the elements of one list, each with its type.
pub(super) fn list(list: List, mask: Option<Mask>) -> Vec<Piece> {
    if list.items.is_empty() {
        return vec![Piece::Text("{}\n".to_owned())];
    }
    let mut pieces = vec![Piece::Text("{\n \"configs\": [\n".to_owned())];
    items(&mut pieces, list.message, list.items, 2, true, mask.as_ref());
    pieces.push(Piece::Text(" ]\n}\n".to_owned()));
    pieces
}

/// The whole dump. A mask keeps the sections that have a field it names.
pub(super) fn sections(sections: Vec<Section>, mask: Option<Mask>) -> Vec<Piece> {
    let kept = |section: &Section| mask.as_ref().is_none_or(|mask| mask.fits(section.message));
    let sections: Vec<_> = sections.into_iter().filter(kept).collect();
    if sections.is_empty() {
        return vec![Piece::Text("{}\n".to_owned())];
    }
    let mut pieces = vec![Piece::Text("{\n \"configs\": [\n".to_owned())];
    let last = sections.len() - 1;
    for (index, one) in sections.into_iter().enumerate() {
        section(&mut pieces, one, mask.as_ref());
        pieces.push(Piece::Text(if index == last { "\n" } else { ",\n" }.to_owned()));
    }
    pieces.push(Piece::Text(" ]\n}\n".to_owned()));
    pieces
}

fn section(pieces: &mut Vec<Piece>, section: Section, mask: Option<&Mask>) {
    if let Some(whole) = section.whole {
        pieces.push(Piece::Message {
            indent: 2,
            message: section.message,
            encode: Box::new(move || whole.to_vec()),
            typed: true,
            mask: mask.cloned(),
            end: "",
        });
        return;
    }
    let mut head = format!("  {{\n   \"@type\": \"{}\"", type_url(section.message));
    let wants = |field: &str| mask.is_none_or(|mask| mask.names(field));
    if !section.version_info.is_empty() && wants("version_info") {
        head += &format!(",\n   \"version_info\": {}", Value::from(section.version_info));
    }
    pieces.push(Piece::Text(head));
    for list in section.lists {
        if list.items.is_empty() || !wants(list.field) {
            continue;
        }
        pieces.push(Piece::Text(format!(",\n   \"{}\": [\n", list.field)));
        let inner = mask.and_then(|mask| mask.below(list.field));
        items(pieces, list.message, list.items, 4, false, inner.as_ref());
        pieces.push(Piece::Text("   ]".to_owned()));
    }
    pieces.push(Piece::Text("\n  }".to_owned()));
}

fn items(
    pieces: &mut Vec<Piece>,
    message: &'static str,
    items: Vec<Item>,
    indent: usize,
    typed: bool,
    mask: Option<&Mask>,
) {
    let last = items.len().saturating_sub(1);
    for (index, item) in items.into_iter().enumerate() {
        pieces.push(Piece::Message {
            indent,
            message,
            encode: item.encode,
            typed,
            mask: mask.cloned(),
            end: if index == last { "\n" } else { ",\n" },
        });
    }
}

/// A message that cannot be printed (it nests too deeply) says so in its place; the rest of the page is not lost with it.
fn json(message: &'static str, bytes: &[u8], typed: bool, mask: Option<&Mask>) -> String {
    let print = |style: Style| {
        let mut text = Vec::new();
        let written = if typed {
            let any = remora_proto::pb::google::protobuf::Any {
                type_url: type_url(message),
                value: bytes.to_vec(),
            };
            write_json(
                &prost::Message::encode_to_vec(&any),
                "google.protobuf.Any",
                &mut text,
                style,
            )
        } else {
            write_json(bytes, message, &mut text, style)
        };
        written.map(|()| String::from_utf8_lossy(&text).into_owned())
    };
    let printed = match mask {
        None => print(STYLE),
        Some(mask) => print(Style { pretty: false, ..STYLE }).map(|text| {
            let mut tree = serde_json::from_str(&text).unwrap_or(Value::Null);
            mask.trim(&mut tree);
            reply::pretty(&tree)
        }),
    };
    printed.unwrap_or_else(|error| reply::pretty(&serde_json::json!({ "unprintable": error.to_string() })))
}
