//! `/config_dump`: what is configured, from the bytes as they arrived. Nothing is built, and the page is streamed one resource at a time.
//!
//! One section per `…ConfigDump` message of `envoy.admin.v3`, in Envoy's order. Endpoints (`include_eds`) are an exception to "as they arrived", as
//! they are in Envoy: those of clusters in use are the hosts of now, with the health of now; those of unused clusters are what the control plane sent.

mod collect;
mod endpoints;
mod mask;
mod page;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use regex::Regex;

use super::AdminState;
use super::query::{self, Query};
use super::reply::{self, Reply};
use mask::Mask;
use page::Piece;

/// One `…ConfigDump` message.
struct Section {
    /// Full name of the message.
    message: &'static str,
    /// The encoded message, where it is not a list of resources (`BootstrapConfigDump`).
    whole: Option<Bytes>,
    version_info: String,
    lists: Vec<List>,
}

/// One repeated field of a section.
struct List {
    field: &'static str,
    /// Full name of the elements' message.
    message: &'static str,
    items: Vec<Item>,
}

/// One element; encoded only when its turn comes.
struct Item {
    name: String,
    encode: Box<dyn Fn() -> Vec<u8> + Send>,
}

impl Item {
    fn new<M: prost::Message>(name: &str, make: impl Fn() -> M + Send + 'static) -> Self {
        Self {
            name: name.to_owned(),
            encode: Box::new(move || make().encode_to_vec()),
        }
    }
}

pub(super) async fn config_dump(state: Arc<AdminState>, query: Query) -> Reply {
    let names = match query.get("name_regex").map(name_regex).transpose() {
        Ok(names) => names,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error),
    };
    let mask = query.get("mask").map(Mask::parse);
    let mut sections = collect::sections(&state, query.has("include_eds")).await;
    if let Some(names) = names {
        let lists = sections.iter_mut().flat_map(|section| &mut section.lists);
        lists.for_each(|list| list.items.retain(|item| names.is_match(&item.name)));
    }
    let pieces = match query.get("resource") {
        Some(resource) => match one_list(sections, resource) {
            Ok(list) => match mask.as_ref().and_then(|mask| mask.unknown_in(list.message)) {
                Some(path) => {
                    let reason = format!("FieldMask paths: \"{path}\"\n could not be successfully used.");
                    return refuse(StatusCode::BAD_REQUEST, reason);
                }
                None => page::list(list, mask),
            },
            Err((status, reason)) => return refuse(status, reason),
        },
        None => {
            let fits = |mask: &Mask| sections.iter().any(|section| mask.fits(section.message));
            if !mask.as_ref().is_none_or(fits) {
                let mask = query.get("mask").unwrap_or_default();
                let reason = format!("FieldMask {mask} could not be successfully applied to any configs.");
                return refuse(StatusCode::BAD_REQUEST, reason);
            }
            page::sections(sections, mask)
        }
    };
    let chunks = pieces
        .into_iter()
        .map(|piece| Ok::<_, Infallible>(Piece::render(piece)));
    reply::json(Body::from_stream(stream::iter(chunks)))
}

/// The expression has to match the whole name.
fn name_regex(pattern: &str) -> Result<Regex, String> {
    let complain = |error| format!("INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {error}");
    query::regex(pattern).map_err(complain)?;
    query::regex(&format!("^(?:{pattern})$")).map_err(complain)
}

/// The list that `?resource=` names.
fn one_list(sections: Vec<Section>, resource: &str) -> Result<List, (StatusCode, String)> {
    let single = |section: &Section| {
        let message = remora_proto::schema::message(section.message);
        message.is_some_and(|message| message.field_by_name(resource).is_some())
    };
    let known = sections.iter().any(single);
    let mut lists = sections.into_iter().flat_map(|section| section.lists);
    match (lists.find(|list| list.field == resource), known) {
        (Some(list), _) => Ok(list),
        (None, true) => Err((
            StatusCode::BAD_REQUEST,
            format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field"),
        )),
        (None, false) => Err((StatusCode::NOT_FOUND, format!("{resource} not found in config dump"))),
    }
}

fn refuse(status: StatusCode, reason: String) -> Reply {
    reply::plain(status, reason)
}

/// The whole page for what a client holds.
#[cfg(test)]
pub(super) fn dump_page(state: &AdminState, dump: Vec<remora_xds::DumpEntry>) -> String {
    let dynamic = collect::Dynamic {
        dump,
        ..collect::Dynamic::default()
    };
    let pieces = page::sections(collect::assemble(state, &dynamic, false), None);
    let text = |piece: Piece| String::from_utf8_lossy(&piece.render()).into_owned();
    pieces.into_iter().map(text).collect()
}
