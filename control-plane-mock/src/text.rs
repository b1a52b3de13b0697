//! Resources written as YAML or JSON: the only place of this crate that turns text into messages.

use prost::Message;
use remora_proto::json::{self, Options};
use remora_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use remora_proto::pb::google::protobuf::Any;
use serde_json::Value;

use crate::{store, types};

/// Reads resources out of a text: each document is one resource with `@type`, or a list of them under `resources:` (which makes it
/// also a file for Envoy's `path_config_source`). A resource may stand in an `envoy.service.discovery.v3.Resource`, which gives it a time to
/// live.
///
/// # Errors
/// What is wrong, with line and field path where they are known.
pub fn resources(text: &str) -> Result<Vec<Any>, String> {
    let mut found = Vec::new();
    for document in documents(text) {
        match json::parse(&document).map_err(|error| error.to_string())? {
            Value::Null => {}
            Value::Object(fields) if fields.contains_key("resources") => {
                let response: DiscoveryResponse = message(&document, "envoy.service.discovery.v3.DiscoveryResponse")?;
                found.extend(response.resources);
            }
            Value::Object(fields) if fields.contains_key("@type") => {
                found.push(message(&document, "google.protobuf.Any")?);
            }
            _ => return Err("neither a resource with \"@type\" nor a list under \"resources\"".to_owned()),
        }
    }
    for any in &found {
        check(any)?;
    }
    Ok(found)
}

/// Packs one resource that was read as part of a larger document.
///
/// # Errors
/// What is wrong, with the field path where it is known.
pub fn resource(value: &Value) -> Result<Any, String> {
    let encoded = json::encode_value(value, "google.protobuf.Any", &Options::default())
        .map_err(|problems| problems.to_string())?;
    let any = Any::decode(encoded.bytes.as_slice()).map_err(|error| error.to_string())?;
    check(&any)?;
    Ok(any)
}

fn message<M: Message + Default>(text: &str, full_name: &str) -> Result<M, String> {
    let encoded = json::encode_text(text, full_name, &Options::default()).map_err(|problems| problems.to_string())?;
    M::decode(encoded.bytes.as_slice()).map_err(|error| error.to_string())
}

fn check(any: &Any) -> Result<(), String> {
    let (type_url, name) = store::key_of(any);
    if !types::SERVED.iter().any(|served| served.url == type_url) {
        return Err(format!("{type_url} is no xDS resource type"));
    }
    if name.is_empty() {
        return Err(format!("a {} without a name", types::short(&type_url)));
    }
    Ok(())
}

/// The documents of a YAML stream, each after as many empty lines as stand before it, so that lines in errors are those of the file.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        let current = documents.len() - 1;
        if line.trim_end() == "---" {
            documents.push("\n".repeat(number + 1));
        } else {
            documents[current].push_str(line);
            documents[current].push('\n');
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_documents_is_split_with_lines_kept() {
        assert_eq!(documents("a: 1\n---\nb: 2\n---\n"), ["a: 1\n", "\n\nb: 2\n"]);
    }

    #[test]
    fn all_three_shapes_are_read() {
        let text = r#"
"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
name: a
connect_timeout: 0.25s
---
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: b
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: r
"#;
        let names: Vec<String> = resources(text)
            .expect("the text is good")
            .iter()
            .map(store::name_of)
            .collect();
        assert_eq!(names, ["a", "b", "r"]);
        assert!(resources("").expect("nothing is no error").is_empty());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let unknown_field = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: a\nnmae: b\n";
        assert!(resources(unknown_field).expect_err("no such field").contains("nmae"));
        assert!(resources("just text").expect_err("no resource").contains("@type"));
        let no_resource = "\"@type\": type.googleapis.com/envoy.config.core.v3.Node\nid: a\n";
        assert!(
            resources(no_resource)
                .expect_err("a node is not served")
                .contains("no xDS resource")
        );
        let hollow = "\"@type\": type.googleapis.com/envoy.service.discovery.v3.Resource\nname: a\nttl: 5s\n";
        assert!(
            resources(hollow)
                .expect_err("nothing is in it")
                .contains("no xDS resource")
        );
        let nameless = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n";
        assert!(
            resources(nameless)
                .expect_err("a name is needed")
                .contains("without a name")
        );
    }
}
