//! What control planes are told of the program itself: the node, as the bootstrap's dump shows it.

use std::path::Path;

use remora_tests::{External, Sidecar};
use serde_json::Value;

use crate::harness::envoy_or_skip;

const BOOTSTRAP: &str = "node: {id: told, cluster: told, metadata: {a: b}, locality: {zone: z}}\n\
                         admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n";

fn node(dump: &str) -> Value {
    let dump: Value = serde_json::from_str(dump).unwrap();
    dump["configs"][0]["bootstrap"]["node"].clone()
}

/// What Envoy and Istio's build of it have, but Envoy alone has not.
const ISTIO: [&str; 2] = ["envoy.filters.http.alpn", "envoy.filters.http.peer_metadata"];

#[tokio::test]
async fn the_node_is_envoys_with_the_extensions_that_are_there() {
    let Some(envoy) = envoy_or_skip("node") else { return };
    let theirs = External::start(Path::new(&envoy), BOOTSTRAP).await;
    let ours = Sidecar::start(BOOTSTRAP).await.unwrap();
    let mut theirs = node(&theirs.admin("GET", "/config_dump").await.text());
    let mut ours = node(&ours.admin("GET", "/config_dump").await.text());
    let known = theirs["extensions"].take().as_array().cloned().unwrap();
    let listed = ours["extensions"].take().as_array().cloned().unwrap();
    for own in &listed {
        let is_istios = ISTIO.iter().any(|name| own["name"] == *name);
        let same = known
            .iter()
            .find(|other| other["name"] == own["name"] && other["category"] == own["category"]);
        let types = |of: &Value| of["type_urls"].as_array().cloned().unwrap_or_default();
        let fits = same.is_some_and(|same| types(own).iter().all(|name| types(same).contains(name)));
        assert!(fits != is_istios, "Envoy has no such extension: {own}");
    }
    assert!(
        listed
            .iter()
            .any(|own| own["name"] == "envoy.filters.network.ext_authz")
    );
    let build = |node: &mut Value| node["user_agent_build_version"]["metadata"].take();
    let (their_build, our_build) = (build(&mut theirs), build(&mut ours));
    for (key, value) in our_build.as_object().unwrap() {
        assert!(
            their_build.get(key).is_some() && value.is_string(),
            "{key} is not Envoy's"
        );
    }
    assert_eq!(ours, theirs);
}
