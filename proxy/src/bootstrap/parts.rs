//! The encoded bootstrap in parts: what is read of it apart, and what is left out.

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_proto::schema;
use remora_proto::wire::{self, Value};

use super::{MESSAGE, StaticResource};
use crate::config::{Compiled, Problems};

/// Numbers of fields in `Bootstrap`.
const NODE: u32 = 1;
pub(super) const STATIC_RESOURCES: u32 = 2;
const DYNAMIC_RESOURCES: u32 = 3;

/// A copy without the field of that number.
pub(super) fn without(encoded: &[u8], number: u32) -> Compiled<Vec<u8>> {
    let mut kept = Vec::new();
    for field in wire::Fields::new(encoded) {
        let field = field.map_err(malformed)?;
        if field.number != number {
            kept.extend_from_slice(encoded.get(field.range).unwrap_or_default());
        }
    }
    Ok(kept)
}

/// A copy without the parts that problems name, but for those on which static resources depend; none if there is no such part.
pub fn without_wrong(encoded: &[u8], problems: &Problems) -> Option<Vec<u8>> {
    let message = schema::message(MESSAGE)?;
    let mut rest = encoded.to_vec();
    for problem in &problems.0 {
        let mut steps = problem.path.split('.');
        let (name, inner) = (steps.next().unwrap_or_default(), steps.next().unwrap_or_default());
        let Some(field) = message.field_by_name(name) else {
            continue;
        };
        if [NODE, STATIC_RESOURCES, DYNAMIC_RESOURCES].contains(&field.number()) {
            continue;
        }
        let inner = inner.split('[').next().unwrap_or_default();
        let inner = field.message().and_then(|message| message.field_by_name(inner));
        rest = match inner {
            Some(inner) => without_inner(&rest, field.number(), inner.number()).ok()?,
            None => without(&rest, field.number()).ok()?,
        };
    }
    (rest.len() < encoded.len()).then_some(rest)
}

/// A copy without the field `inner` of the message field `outer`.
fn without_inner(encoded: &[u8], outer: u32, inner: u32) -> Compiled<Vec<u8>> {
    let mut kept = Vec::new();
    for field in wire::Fields::new(encoded) {
        let field = field.map_err(malformed)?;
        match field.value {
            Value::Len(content) if field.number == outer => wire::put_len(&mut kept, outer, &without(content, inner)?),
            _ => kept.extend_from_slice(encoded.get(field.range).unwrap_or_default()),
        }
    }
    Ok(kept)
}

/// The message with its node replaced, in a buffer of exactly its size.
pub(super) fn with_node(encoded: Vec<u8>, node: &Node) -> Compiled<Bytes> {
    let mut head = Vec::new();
    wire::put_len(&mut head, NODE, &node.encode_to_vec());
    let mut bytes = Vec::with_capacity(encoded.len() + head.len());
    bytes.append(&mut head);
    for field in wire::Fields::new(&encoded) {
        let field = field.map_err(malformed)?;
        if field.number != NODE {
            bytes.extend_from_slice(encoded.get(field.range).unwrap_or_default());
        }
    }
    bytes.shrink_to_fit();
    Ok(bytes.into())
}

/// Listeners, clusters and secrets of an encoded bootstrap, as slices of it.
///
/// # Errors
/// Bytes that are no message.
pub fn static_resources(bytes: &Bytes) -> Compiled<[Vec<StaticResource>; 3]> {
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for part in wire::Fields::new(bytes) {
        let part = part.map_err(malformed)?;
        let (STATIC_RESOURCES, Value::Len(resources)) = (part.number, part.value) else {
            continue;
        };
        for field in wire::Fields::new(resources) {
            let field = field.map_err(malformed)?;
            let list = found.get_mut((field.number as usize).wrapping_sub(1));
            if let (Some(list), Value::Len(resource)) = (list, field.value) {
                list.push(StaticResource {
                    name: wire::name(resource).map_err(malformed)?.into(),
                    bytes: bytes.slice_ref(resource),
                });
            }
        }
    }
    for list in &mut found {
        list.shrink_to_fit();
    }
    Ok(found)
}

fn malformed(error: wire::WireError) -> Problems {
    Problems::one("", error.to_string())
}
