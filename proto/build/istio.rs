//! Descriptors of the messages that `envoy-types` lacks: Istio's own, whose structs are in `src/istio.rs`, one of Envoy's contrib extensions
//! (`src/contrib.rs`), and both `TypedStruct`s.
//!
//! A field is `(number, name, type)`. A type is a scalar's name or a message's full name, with `repeated`, `map` (string
//! keys) or `oneof:<name>` before it, or `enum` before an enum's full name.

use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    MessageOptions, OneofDescriptorProto,
};

type Fields = &'static [(i32, &'static str, &'static str)];

struct File {
    package: &'static str,
    /// Message names; a nested one as `Outer.Inner`, after its outer.
    messages: &'static [(&'static str, Fields)],
    /// Enums by name, nested ones as `Outer.Inner`.
    enums: &'static [(&'static str, &'static [&'static str])],
}

const FILES: &[File] = &[
    File {
        package: "istio.envoy.config.filter.http.alpn.v2alpha1",
        messages: &[
            (
                "FilterConfig",
                &[(
                    1,
                    "alpn_override",
                    "repeated istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.AlpnOverride",
                )],
            ),
            (
                "FilterConfig.AlpnOverride",
                &[
                    (
                        1,
                        "upstream_protocol",
                        "enum istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.Protocol",
                    ),
                    (2, "alpn_override", "repeated string"),
                ],
            ),
        ],
        enums: &[("FilterConfig.Protocol", &["HTTP10", "HTTP11", "HTTP2"])],
    },
    File {
        package: "envoy.tcp.metadataexchange.config",
        messages: &[(
            "MetadataExchange",
            &[
                (1, "protocol", "string"),
                (2, "enable_discovery", "bool"),
                (3, "additional_labels", "repeated string"),
            ],
        )],
        enums: &[],
    },
    File {
        package: "io.istio.http.peer_metadata",
        messages: &[
            (
                "Config",
                &[
                    (
                        1,
                        "downstream_discovery",
                        "repeated io.istio.http.peer_metadata.Config.DiscoveryMethod",
                    ),
                    (
                        2,
                        "upstream_discovery",
                        "repeated io.istio.http.peer_metadata.Config.DiscoveryMethod",
                    ),
                    (
                        3,
                        "downstream_propagation",
                        "repeated io.istio.http.peer_metadata.Config.PropagationMethod",
                    ),
                    (
                        4,
                        "upstream_propagation",
                        "repeated io.istio.http.peer_metadata.Config.PropagationMethod",
                    ),
                    (5, "shared_with_upstream", "bool"),
                    (6, "additional_labels", "repeated string"),
                ],
            ),
            ("Config.Baggage", &[]),
            ("Config.WorkloadDiscovery", &[]),
            ("Config.IstioHeaders", &[(1, "skip_external_clusters", "bool")]),
            (
                "Config.DiscoveryMethod",
                &[
                    (
                        1,
                        "baggage",
                        "oneof:method_specifier io.istio.http.peer_metadata.Config.Baggage",
                    ),
                    (
                        2,
                        "workload_discovery",
                        "oneof:method_specifier io.istio.http.peer_metadata.Config.WorkloadDiscovery",
                    ),
                    (
                        3,
                        "istio_headers",
                        "oneof:method_specifier io.istio.http.peer_metadata.Config.IstioHeaders",
                    ),
                ],
            ),
            (
                "Config.PropagationMethod",
                &[
                    (
                        1,
                        "istio_headers",
                        "oneof:method_specifier io.istio.http.peer_metadata.Config.IstioHeaders",
                    ),
                    (
                        2,
                        "baggage",
                        "oneof:method_specifier io.istio.http.peer_metadata.Config.Baggage",
                    ),
                ],
            ),
        ],
        enums: &[],
    },
    File {
        package: "stats",
        messages: &[
            (
                "MetricConfig",
                &[
                    (1, "dimensions", "map string"),
                    (2, "name", "string"),
                    (3, "tags_to_remove", "repeated string"),
                    (4, "match", "string"),
                    (5, "drop", "bool"),
                ],
            ),
            (
                "MetricDefinition",
                &[
                    (1, "name", "string"),
                    (2, "value", "string"),
                    (3, "type", "enum stats.MetricType"),
                ],
            ),
            (
                "PluginConfig",
                &[
                    (1, "debug", "bool"),
                    (2, "max_peer_cache_size", "int32"),
                    (3, "stat_prefix", "string"),
                    (4, "field_separator", "string"),
                    (5, "value_separator", "string"),
                    (6, "disable_host_header_fallback", "bool"),
                    (7, "tcp_reporting_duration", "google.protobuf.Duration"),
                    (8, "metrics", "repeated stats.MetricConfig"),
                    (9, "definitions", "repeated stats.MetricDefinition"),
                    (10, "reporter", "enum stats.Reporter"),
                    (11, "rotation_interval", "google.protobuf.Duration"),
                    (12, "graceful_deletion_interval", "google.protobuf.Duration"),
                ],
            ),
        ],
        enums: &[
            ("MetricType", &["COUNTER", "GAUGE", "HISTOGRAM"]),
            ("Reporter", &["UNSPECIFIED", "SERVER_GATEWAY"]),
        ],
    },
    File {
        package: "istio.workload",
        messages: &[(
            "BootstrapExtension",
            &[(1, "config_source", "envoy.config.core.v3.ConfigSource")],
        )],
        enums: &[],
    },
    File {
        package: "envoy.extensions.load_balancing_policies.peak_ewma.v3alpha",
        messages: &[(
            "PeakEwma",
            &[
                (1, "decay_time", "google.protobuf.Duration"),
                (2, "aggregation_interval", "google.protobuf.Duration"),
                (3, "max_samples_per_host", "google.protobuf.UInt32Value"),
                (4, "default_rtt", "google.protobuf.Duration"),
                (5, "penalty_value", "google.protobuf.DoubleValue"),
            ],
        )],
        enums: &[],
    },
    File {
        package: "udpa.type.v1",
        messages: &[(
            "TypedStruct",
            &[(1, "type_url", "string"), (2, "value", "google.protobuf.Struct")],
        )],
        enums: &[],
    },
    File {
        package: "xds.type.v3",
        messages: &[(
            "TypedStruct",
            &[(1, "type_url", "string"), (2, "value", "google.protobuf.Struct")],
        )],
        enums: &[],
    },
];

pub fn files() -> impl Iterator<Item = FileDescriptorProto> {
    FILES.iter().map(|file| {
        let mut proto = FileDescriptorProto {
            name: Some(format!("{}.proto", file.package)),
            package: Some(file.package.to_owned()),
            dependency: vec![
                "google/protobuf/duration.proto".to_owned(),
                "google/protobuf/struct.proto".to_owned(),
                "google/protobuf/wrappers.proto".to_owned(),
                "envoy/config/core/v3/config_source.proto".to_owned(),
            ],
            syntax: Some("proto3".to_owned()),
            ..Default::default()
        };
        for (name, fields) in file.messages {
            let full_name = format!("{}.{name}", file.package);
            let built = message(name.rsplit('.').next().unwrap_or(name), &full_name, fields);
            match outer(&mut proto, name) {
                Some(parent) => parent.nested_type.push(built),
                None => proto.message_type.push(built),
            }
        }
        for (name, values) in file.enums {
            let built = enumeration(name.rsplit('.').next().unwrap_or(name), values);
            match outer(&mut proto, name) {
                Some(parent) => parent.enum_type.push(built),
                None => proto.enum_type.push(built),
            }
        }
        proto
    })
}

fn outer<'a>(proto: &'a mut FileDescriptorProto, name: &str) -> Option<&'a mut DescriptorProto> {
    let (parent, _) = name.split_once('.')?;
    proto.message_type.iter_mut().find(|message| message.name() == parent)
}

fn message(name: &str, full_name: &str, fields: Fields) -> DescriptorProto {
    let mut built = DescriptorProto {
        name: Some(name.to_owned()),
        ..Default::default()
    };
    for (number, field_name, spelled) in fields {
        let mut field = FieldDescriptorProto {
            name: Some((*field_name).to_owned()),
            number: Some(*number),
            ..Default::default()
        };
        field.set_label(Label::Optional);
        let mut kind = *spelled;
        if let Some(rest) = spelled.strip_prefix("repeated ") {
            field.set_label(Label::Repeated);
            kind = rest;
        } else if let Some(rest) = spelled.strip_prefix("oneof:") {
            let (oneof, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            if built.oneof_decl.iter().all(|declared| declared.name() != oneof) {
                built.oneof_decl.push(OneofDescriptorProto {
                    name: Some(oneof.to_owned()),
                    ..Default::default()
                });
            }
            field.oneof_index = Some(built.oneof_decl.len() as i32 - 1);
            kind = rest;
        } else if let Some(value) = spelled.strip_prefix("map ") {
            field.set_label(Label::Repeated);
            let entry = format!("{}Entry", camel(field_name));
            let mut nested = message(&entry, "", &[(1, "key", "string")]);
            let mut value_field = FieldDescriptorProto {
                name: Some("value".to_owned()),
                number: Some(2),
                ..Default::default()
            };
            value_field.set_label(Label::Optional);
            set_type(&mut value_field, value);
            nested.field.push(value_field);
            nested.options = Some(MessageOptions {
                map_entry: Some(true),
                ..Default::default()
            });
            built.nested_type.push(nested);
            field.set_type(Type::Message);
            field.type_name = Some(format!(".{full_name}.{entry}"));
            built.field.push(field);
            continue;
        }
        set_type(&mut field, kind);
        built.field.push(field);
    }
    built
}

fn set_type(field: &mut FieldDescriptorProto, kind: &str) {
    match kind {
        "string" => field.set_type(Type::String),
        "bool" => field.set_type(Type::Bool),
        "int32" => field.set_type(Type::Int32),
        _ => {
            let enumeration = kind.strip_prefix("enum ");
            field.set_type(if enumeration.is_some() {
                Type::Enum
            } else {
                Type::Message
            });
            field.type_name = Some(format!(".{}", enumeration.unwrap_or(kind)));
        }
    }
}

fn enumeration(name: &str, values: &[&str]) -> EnumDescriptorProto {
    let value = |(number, value): (usize, &&str)| EnumValueDescriptorProto {
        name: Some((*value).to_owned()),
        number: Some(number as i32),
        ..Default::default()
    };
    EnumDescriptorProto {
        name: Some(name.to_owned()),
        value: values.iter().enumerate().map(value).collect(),
        ..Default::default()
    }
}

fn camel(name: &str) -> String {
    let capital = |word: &str| {
        word.chars()
            .take(1)
            .map(|first| first.to_ascii_uppercase())
            .chain(word.chars().skip(1))
            .collect::<String>()
    };
    name.split('_').map(capital).collect()
}
