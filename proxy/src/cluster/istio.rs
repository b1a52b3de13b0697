//! What Istio says of a cluster in `metadata.filter_metadata["istio"]`, read once when the cluster is built.

use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    /// `alpn_override: "false"`: the cluster keeps its own ALPN list.
    pub keeps_alpn: bool,
    /// Outside the mesh.
    pub external: bool,
    /// `disable_mx`: its hosts are told nothing of us.
    pub disable_mx: bool,
    /// The first of `services`.
    pub service: Option<ServiceFacts>,
}

/// The service behind a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    pub host: String,
    pub name: String,
    pub namespace: String,
}

impl ClusterFacts {
    pub fn of(metadata: Option<&Metadata>) -> Self {
        let Some(istio) = metadata.and_then(|metadata| metadata.filter_metadata.get("istio")) else {
            return Self::default();
        };
        let services = match kind(istio, "services") {
            Some(Kind::ListValue(list)) => list.values.as_slice(),
            _ => &[],
        };
        Self {
            keeps_alpn: text(istio, "alpn_override") == "false",
            external: is_true(istio, "external"),
            disable_mx: is_true(istio, "disable_mx"),
            service: services.first().and_then(service),
        }
    }
}

fn service(value: &Value) -> Option<ServiceFacts> {
    let Some(Kind::StructValue(fields)) = &value.kind else {
        return None;
    };
    let host = text(fields, "host");
    let name = match text(fields, "name") {
        // Without a name the first label of the host stands for it.
        "" => host.split('.').next().unwrap_or_default(),
        name => name,
    };
    Some(ServiceFacts {
        host: host.to_owned(),
        name: name.to_owned(),
        namespace: text(fields, "namespace").to_owned(),
    })
}

fn kind<'a>(fields: &'a Struct, key: &str) -> Option<&'a Kind> {
    fields.fields.get(key)?.kind.as_ref()
}

fn text<'a>(fields: &'a Struct, key: &str) -> &'a str {
    match kind(fields, key) {
        Some(Kind::StringValue(text)) => text,
        _ => "",
    }
}

fn is_true(fields: &Struct, key: &str) -> bool {
    matches!(kind(fields, key), Some(Kind::BoolValue(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
        Struct {
            fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    }

    #[test]
    fn facts_are_read_from_istios_metadata() {
        let string = |text: &str| value(Kind::StringValue(text.to_owned()));
        let service = object([
            ("host", string("web.shop.svc.cluster.local")),
            ("namespace", string("shop")),
        ]);
        let list = remora_proto::pb::google::protobuf::ListValue {
            values: vec![value(Kind::StructValue(service))],
        };
        let istio = object([
            ("alpn_override", string("false")),
            ("external", value(Kind::BoolValue(true))),
            ("services", value(Kind::ListValue(list))),
        ]);
        let metadata = Metadata {
            filter_metadata: [("istio".to_owned(), istio)].into_iter().collect(),
            ..Metadata::default()
        };
        let facts = ClusterFacts::of(Some(&metadata));
        let service = facts.service.as_ref().expect("a service");
        assert!(facts.keeps_alpn && facts.external && !facts.disable_mx);
        assert_eq!((service.name.as_str(), service.namespace.as_str()), ("web", "shop"));
        assert_eq!(ClusterFacts::of(None), ClusterFacts::default());
    }
}
