//! `?mask=`: a `FieldMask` applied to JSON trees. Unlike protobuf's own it also reaches into the elements of lists.

use remora_proto::schema;
use serde_json::Value;

/// Paths of field names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mask(Vec<Vec<String>>);

impl Mask {
    /// `a.b,c`
    pub(super) fn parse(text: &str) -> Self {
        let path = |path: &str| path.split('.').map(|name| name.trim().to_owned()).collect();
        Self(
            text.split(',')
                .filter(|path| !path.trim().is_empty())
                .map(path)
                .collect(),
        )
    }

    /// Whether some path begins with a field of the message.
    pub(super) fn fits(&self, message: &str) -> bool {
        self.first_names().any(|name| is_field(message, name))
    }

    /// The first path that does not begin with a field of the message.
    pub(super) fn unknown_in(&self, message: &str) -> Option<String> {
        let unknown = |path: &&Vec<String>| path.first().is_none_or(|name| !is_field(message, name));
        self.0.iter().find(unknown).map(|path| path.join("."))
    }

    /// Whether some path begins with `field`.
    pub(super) fn names(&self, field: &str) -> bool {
        self.first_names().any(|name| name == field)
    }

    /// What the mask says below `field`; `None` when all of it is wanted.
    pub(super) fn below(&self, field: &str) -> Option<Self> {
        let under = self
            .0
            .iter()
            .filter(|path| path.first().is_some_and(|name| name == field));
        let rest: Vec<Vec<String>> = under.map(|path| path[1..].to_vec()).collect();
        let whole = rest.is_empty() || rest.iter().any(Vec::is_empty);
        (!whole).then_some(Self(rest))
    }

    /// Removes every member that no path names. The type of an `Any` always stays.
    pub(super) fn trim(&self, tree: &mut Value) {
        match tree {
            Value::Array(items) => items.iter_mut().for_each(|item| self.trim(item)),
            Value::Object(members) => {
                members.retain(|name, _| name == "@type" || self.names(name));
                for (name, value) in members.iter_mut() {
                    if let Some(below) = self.below(name) {
                        below.trim(value);
                    }
                }
            }
            _ => {}
        }
    }

    fn first_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|path| path.first().map(String::as_str))
    }
}

fn is_field(message: &str, name: &str) -> bool {
    schema::message(message).is_some_and(|message| message.field_by_name(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_what_it_names() {
        let mask = Mask::parse("cluster.name,cluster.load_assignment.cluster_name,last_updated");
        let mut tree = serde_json::json!({
            "cluster": {"@type": "t", "name": "a", "type": "EDS", "load_assignment": {"cluster_name": "a", "policy": {}}},
            "version_info": "1",
            "last_updated": "now",
        });
        mask.trim(&mut tree);
        let expected = serde_json::json!({
            "cluster": {"@type": "t", "name": "a", "load_assignment": {"cluster_name": "a"}},
            "last_updated": "now",
        });
        assert_eq!(tree, expected);
        let message = "envoy.admin.v3.ClustersConfigDump.DynamicCluster";
        assert_eq!(mask.unknown_in(message), None);
        assert_eq!(
            Mask::parse("nope.name").unknown_in(message).as_deref(),
            Some("nope.name")
        );
    }

    #[test]
    fn a_path_that_ends_at_a_field_wants_all_of_it() {
        let mask = Mask::parse("a.b,a");
        assert_eq!(mask.below("a"), None);
        assert!(mask.names("a") && !mask.names("b"));
    }
}
