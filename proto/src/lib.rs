//! Envoy's types, and what one generic walker over compact tables does with them.
//!
//! In: bytes. Out: typed messages, JSON, problems with their path. No I/O, no policy: the ledger of what is honoured is handed in.
//!
//! | module | what it does |
//! |---|---|
//! | [`pb`] | Envoy's messages as `prost` structs; [`istio`] has the few that are Istio's own, [`contrib`] those of Envoy's contrib extensions |
//! | [`schema`] | fields, names, enums and PGV rules of every message, from one table of plain bytes |
//! | [`wire`] | peeking into encoded bytes |
//! | [`json`] | protobuf JSON and YAML to bytes and back |
//! | [`ledger`] | one walk: what is honoured, tolerated, refused, unknown, and PGV |
//! | [`validate`] | PGV alone |
//! | [`any`], [`type_url`] | unpacking `Any` and `TypedStruct`, names of resource types |

pub use envoy_types::pb;

pub mod any;
pub mod contrib;
pub mod istio;
pub mod json;
pub mod ledger;
pub mod schema;
pub mod type_url;
pub mod validate;
pub mod wire;
