//! Operation codes of PGV rules, shared by the build script that writes the tables and the walker that reads them.

pub const REQUIRED: u8 = 1;
pub const SKIP: u8 = 2;
pub const IGNORE_EMPTY: u8 = 3;
pub const CONST: u8 = 4;
pub const LT: u8 = 5;
pub const LTE: u8 = 6;
pub const GT: u8 = 7;
pub const GTE: u8 = 8;
pub const IN: u8 = 9;
pub const NOT_IN: u8 = 10;
pub const DEFINED_ONLY: u8 = 11;
pub const TEXT_CONST: u8 = 16;
pub const LEN: u8 = 17;
pub const MIN_LEN: u8 = 18;
pub const MAX_LEN: u8 = 19;
pub const LEN_BYTES: u8 = 20;
pub const MIN_BYTES: u8 = 21;
pub const MAX_BYTES: u8 = 22;
pub const PATTERN: u8 = 23;
pub const PREFIX: u8 = 24;
pub const SUFFIX: u8 = 25;
pub const CONTAINS: u8 = 26;
pub const NOT_CONTAINS: u8 = 27;
pub const TEXT_IN: u8 = 28;
pub const TEXT_NOT_IN: u8 = 29;
pub const EMAIL: u8 = 30;
pub const HOSTNAME: u8 = 31;
pub const IP: u8 = 32;
pub const IPV4: u8 = 33;
pub const IPV6: u8 = 34;
pub const URI: u8 = 35;
pub const URI_REF: u8 = 36;
pub const ADDRESS: u8 = 37;
pub const UUID: u8 = 38;
/// `extra` is 1 for the strict form.
pub const HEADER_NAME: u8 = 39;
/// `extra` is 1 for the strict form.
pub const HEADER_VALUE: u8 = 40;
pub const MIN_ITEMS: u8 = 48;
pub const MAX_ITEMS: u8 = 49;
pub const UNIQUE: u8 = 50;
pub const ITEMS: u8 = 51;
pub const KEYS: u8 = 54;
pub const VALUES: u8 = 55;

/// Flag bits of a field record.
pub const FIELD_REPEATED: u8 = 1;
pub const FIELD_MAP: u8 = 2;
pub const FIELD_DEPRECATED: u8 = 4;
/// Unset and default can be told apart (message, oneof member, `optional`).
pub const FIELD_PRESENCE: u8 = 8;
pub const FIELD_SENSITIVE: u8 = 16;
/// `envoy.annotations.disallowed_by_default`.
pub const FIELD_DISALLOWED: u8 = 32;
pub const FIELD_PACKED: u8 = 64;

/// Flag bits of a message record: PGV switched off for it.
pub const MESSAGE_UNCHECKED: u8 = 1;
/// The message has list rules (`min_items`, `max_items`, `unique`), which need a second look at the whole message.
pub const MESSAGE_COUNTED: u8 = 2;

/// Which special form of protobuf JSON a message has, as stored in its record.
pub const WELL_KNOWN: &[(u8, &str)] = &[
    (1, "google.protobuf.Any"),
    (2, "google.protobuf.Duration"),
    (3, "google.protobuf.Timestamp"),
    (4, "google.protobuf.Struct"),
    (5, "google.protobuf.Value"),
    (6, "google.protobuf.ListValue"),
    (8, "google.protobuf.DoubleValue"),
    (8, "google.protobuf.FloatValue"),
    (8, "google.protobuf.Int64Value"),
    (8, "google.protobuf.UInt64Value"),
    (8, "google.protobuf.Int32Value"),
    (8, "google.protobuf.UInt32Value"),
    (8, "google.protobuf.BoolValue"),
    (8, "google.protobuf.StringValue"),
    (8, "google.protobuf.BytesValue"),
    (9, "google.protobuf.Empty"),
];
