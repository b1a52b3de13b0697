//! A workload as Istio describes it: what metrics are labelled with.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};

const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";

/// One workload. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    pub name: Box<str>,
    pub namespace: Box<str>,
    pub cluster: Box<str>,
    pub workload: Box<str>,
    pub owner: Box<str>,
    pub identity: Box<str>,
    pub canonical_name: Box<str>,
    pub canonical_revision: Box<str>,
    pub app: Box<str>,
    pub version: Box<str>,
    pub region: Box<str>,
    pub zone: Box<str>,
    /// Every other label, by name.
    pub labels: Vec<(Box<str>, Box<str>)>,
}

impl Peer {
    /// Ourselves, from the bootstrap's `node`.
    pub fn of_node(node: &Node) -> Self {
        let mut own = node.metadata.as_ref().map(Self::of_struct).unwrap_or_default();
        if let Some(locality) = &node.locality {
            own.region = locality.region.as_str().into();
            own.zone = locality.zone.as_str().into();
        }
        own
    }

    /// From the value of `x-envoy-peer-metadata`. `None`: it is none.
    pub fn decode(header: &[u8]) -> Option<Self> {
        let bytes = STANDARD.decode(header).ok()?;
        Some(Self::of_struct(&Struct::decode(bytes.as_slice()).ok()?))
    }

    /// From the struct that the header encodes.
    pub fn of_struct(fields: &Struct) -> Self {
        let get = |key: &str| text(fields, key).unwrap_or_default().into();
        let mut peer = Self {
            name: get("NAME"),
            namespace: get("NAMESPACE"),
            cluster: get("CLUSTER_ID"),
            workload: get("WORKLOAD_NAME"),
            owner: get("OWNER"),
            identity: get("IDENTITY"),
            region: get("REGION"),
            zone: get("AVAILABILITY_ZONE"),
            ..Self::default()
        };
        let Some(Kind::StructValue(labels)) = fields.fields.get("LABELS").and_then(|value| value.kind.as_ref()) else {
            return peer;
        };
        let label = |key: &str| text(labels, key).unwrap_or_default().into();
        peer.canonical_name = label(CANONICAL_NAME);
        peer.canonical_revision = label(CANONICAL_REVISION);
        peer.app = label("app");
        peer.version = label("version");
        let others = labels.fields.keys().filter(|key| !KNOWN_LABELS.contains(&key.as_str()));
        peer.labels = others
            .filter_map(|key| Some((key.as_str().into(), text(labels, key)?.into())))
            .collect();
        peer.labels.sort();
        peer
    }

    /// The value of `x-envoy-peer-metadata`: the same bytes for the same workload, because peers remember by them. Of the other labels, those
    /// that are asked for.
    pub fn encode(&self, additional: &[String]) -> String {
        let mut all = Vec::new();
        let mut labels = Vec::new();
        put_strings(&mut self.labels(additional), &mut labels);
        let mut value = Vec::new();
        put_bytes(5, &labels, &mut value);
        put_field("LABELS", &value, &mut all);
        put_strings(&mut self.fields(), &mut all);
        STANDARD.encode(all)
    }

    /// The same as a struct.
    pub fn to_struct(&self, additional: &[String]) -> Struct {
        let value = |kind| Value { kind: Some(kind) };
        let strings = |pairs: Vec<(&str, &str)>| Struct {
            fields: pairs
                .into_iter()
                .filter(|(_, text)| !text.is_empty())
                .map(|(key, text)| (key.to_owned(), value(Kind::StringValue(text.to_owned()))))
                .collect(),
        };
        let mut all = strings(self.fields());
        let labels = value(Kind::StructValue(strings(self.labels(additional))));
        all.fields.insert("LABELS".to_owned(), labels);
        all
    }

    fn labels(&self, additional: &[String]) -> Vec<(&str, &str)> {
        let mut labels = vec![
            (CANONICAL_NAME, &*self.canonical_name),
            (CANONICAL_REVISION, &*self.canonical_revision),
            ("app", &*self.app),
            ("version", &*self.version),
        ];
        let asked = self
            .labels
            .iter()
            .filter(|(key, _)| additional.iter().any(|one| **one == **key));
        labels.extend(asked.map(|(key, value)| (&**key, &**value)));
        labels
    }

    /// The names that [`field`](Self::field) knows.
    pub const FIELDS: &[&str] = &[
        "namespace",
        "cluster",
        "service",
        "revision",
        "app",
        "version",
        "workload",
        "type",
        "name",
        "identity",
        "region",
        "availability_zone",
        "zone",
    ];

    /// By the name that Istio's proxies give the field in the filter state; `None`: there is no such field, or nothing is known.
    pub fn field(&self, name: &str) -> Option<&str> {
        let value: &str = match name {
            "namespace" => &self.namespace,
            "cluster" => &self.cluster,
            "service" => &self.canonical_name,
            "revision" => &self.canonical_revision,
            "app" => &self.app,
            "version" => &self.version,
            "workload" => &self.workload,
            "type" => self.kind(),
            "name" => &self.name,
            "region" => &self.region,
            "availability_zone" | "zone" => &self.zone,
            "identity" => &self.identity,
            _ => "",
        };
        Some(value).filter(|value| !value.is_empty())
    }

    /// What kind of workload owns it.
    fn kind(&self) -> &'static str {
        let kinds = [
            ("deployments", "deployment"),
            ("cronjobs", "cronjob"),
            ("jobs", "job"),
            ("pods", "pod"),
        ];
        let owner = |plural: &&(&str, &str)| self.owner.split('/').any(|part| part == plural.0);
        kinds.iter().find(owner).map_or("", |(_, kind)| kind)
    }

    fn fields(&self) -> Vec<(&str, &str)> {
        vec![
            ("NAME", &*self.name),
            ("NAMESPACE", &*self.namespace),
            ("CLUSTER_ID", &*self.cluster),
            ("WORKLOAD_NAME", &*self.workload),
            ("OWNER", &*self.owner),
            ("IDENTITY", &*self.identity),
            ("REGION", &*self.region),
            ("AVAILABILITY_ZONE", &*self.zone),
        ]
    }
}

const KNOWN_LABELS: [&str; 4] = [CANONICAL_NAME, CANONICAL_REVISION, "app", "version"];

fn text<'a>(fields: &'a Struct, key: &str) -> Option<&'a str> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// String fields of a `Struct`, by name; empty ones are left out.
fn put_strings(fields: &mut [(&str, &str)], out: &mut Vec<u8>) {
    fields.sort_unstable();
    for (key, text) in fields.iter().filter(|(_, text)| !text.is_empty()) {
        let mut value = Vec::new();
        put_bytes(3, text.as_bytes(), &mut value);
        put_field(key, &value, out);
    }
}

/// One entry of a `Struct`'s map; prost's own maps have no order.
fn put_field(key: &str, value: &[u8], out: &mut Vec<u8>) {
    let mut entry = Vec::new();
    put_bytes(1, key.as_bytes(), &mut entry);
    put_bytes(2, value, &mut entry);
    put_bytes(1, &entry, out);
}

fn put_bytes(field: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(field << 3 | 2);
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Struct {
        let value = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        Struct {
            fields: pairs
                .iter()
                .map(|(key, text)| ((*key).to_owned(), value(text)))
                .collect(),
        }
    }

    pub fn node() -> Node {
        let mut metadata = fields(&[
            ("NAME", "web-1"),
            ("NAMESPACE", "shop"),
            ("CLUSTER_ID", "Kubernetes"),
            ("WORKLOAD_NAME", "web-v1"),
            ("OWNER", "kubernetes://apis/apps/v1/namespaces/shop/deployments/web-v1"),
        ]);
        let labels = fields(&[
            ("app", "web"),
            ("version", "v1"),
            (CANONICAL_NAME, "web"),
            (CANONICAL_REVISION, "v1"),
            ("team", "blue"),
        ]);
        let labels = Value {
            kind: Some(Kind::StructValue(labels)),
        };
        metadata.fields.insert("LABELS".to_owned(), labels);
        Node {
            id: "sidecar~10.0.0.9~web-1.shop~shop.svc.cluster.local".into(),
            metadata: Some(metadata),
            ..Node::default()
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_and_always_the_same() {
        let own = Peer::of_node(&node());
        assert_eq!(
            (&*own.app, &*own.canonical_revision, own.labels.len()),
            ("web", "v1", 1)
        );
        let with_team = Peer::decode(own.encode(&["team".to_owned()]).as_bytes());
        assert_eq!(with_team.as_ref(), Some(&own));
        let plain = Peer::decode(own.encode(&[]).as_bytes()).expect("decodes");
        assert!(plain.labels.is_empty());
        let again = Peer::of_node(&node());
        assert_eq!(again.encode(&[]), own.encode(&[]));
    }

    #[test]
    fn rubbish_is_nobody() {
        assert_eq!(Peer::decode(b"%%%"), None);
        assert_eq!(Peer::decode(b"//8="), None);
    }
}
