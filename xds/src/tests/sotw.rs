//! What the SotW protocol has us say.

use super::*;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ROUTE};

fn connected() -> Script {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[&CLUSTER], 1);
    assert_eq!(script.connect(), ["cds v= n= [] node"]);
    script
}

#[test]
fn first_request_is_the_legacy_wildcard_with_the_node() {
    let mut script = Script::new(Mode::Sotw);
    assert_eq!(script.connect(), ["cds v= n= [] node", "lds v= n= []"]);
}

#[test]
fn node_goes_with_every_request_unless_the_option_is_set() {
    let mut config = SourceConfig::aggregated(Mode::Sotw);
    config.mux.node_on_first_message_only = false;
    let mut script = Script::with(config, &[&CLUSTER, &LISTENER], 1);
    assert_eq!(script.connect(), ["cds v= n= [] node", "lds v= n= [] node"]);
}

#[test]
fn ack_repeats_version_nonce_and_names() {
    let mut script = connected();
    assert_eq!(
        script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x")])),
        ["cds v=1 n=c1 []"]
    );
}

#[test]
fn nack_has_the_last_accepted_version_the_new_nonce_and_the_reason() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x")]));
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "BAD")]));
    assert_eq!(sent, ["cds v=1 n=c2 [] NACK a: content: is bad"]);
}

#[test]
fn nack_of_the_first_response_has_no_version() {
    let mut script = connected();
    let sent = script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "BAD")]));
    assert_eq!(sent, ["cds v= n=c1 [] NACK a: content: is bad"]);
}

#[test]
fn nack_may_repeat_the_rejected_version_when_it_was_accepted_before() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x")]));
    let sent = script.receive(sotw(&CLUSTER, "1", "c2", &[res("a", "BAD")]));
    assert_eq!(sent, ["cds v=1 n=c2 [] NACK a: content: is bad"]);
}

#[test]
fn ack_leaves_before_the_subscriptions_it_causes_in_one_request() {
    let mut script = connected();
    let clusters = [res("b", "x").needs("eds:b"), res("a", "x").needs("eds:a")];
    let sent = script.receive(sotw(&CLUSTER, "1", "c1", &clusters));
    assert_eq!(sent, ["cds v=1 n=c1 []", "eds v= n= [a,b]"]);
}

#[test]
fn spontaneous_request_carries_the_newest_nonce_even_a_nacked_one() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").needs("eds:a")]));
    script.receive(sotw(&ASSIGNMENT, "7", "e1", &[res("a", "x")]));
    script.receive(sotw(&ASSIGNMENT, "8", "e2", &[res("a", "BAD")]));
    let clusters = [res("a", "x").needs("eds:a"), res("b", "x").needs("eds:b")];
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &clusters));
    assert_eq!(sent, ["cds v=2 n=c2 []", "eds v=7 n=e2 [a,b]"]);
}

#[test]
fn unsubscription_is_a_shorter_list_with_the_same_version_and_newest_nonce() {
    let mut script = connected();
    let both = [res("a", "x").needs("eds:a"), res("b", "x").needs("eds:b")];
    script.receive(sotw(&CLUSTER, "1", "c1", &both));
    script.receive(sotw(&ASSIGNMENT, "8", "e2", &[res("a", "x"), res("b", "x")]));
    let sent = script.receive(sotw(&CLUSTER, "3", "c3", &both[..1]));
    assert_eq!(sent, ["cds v=3 n=c3 []", "eds v=8 n=e2 [a]"]);
}

#[test]
fn an_emptied_list_is_said_once_names_were_sent() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").needs("eds:a")]));
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &[]));
    assert_eq!(sent, ["cds v=2 n=c2 []", "eds v= n= []"]);
}

#[test]
fn nothing_wanted_is_not_said_on_a_new_stream_where_it_would_mean_wildcard() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").needs("eds:a")]));
    script.receive(sotw(&CLUSTER, "2", "c2", &[]));
    assert_eq!(script.reconnect(), ["cds v=2 n= [] node"]);
}

#[test]
fn versions_survive_a_reconnect_and_nonces_do_not() {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    script.receive(sotw(&CLUSTER, "3", "c3", &[res("a", "x").needs("eds:a")]));
    script.receive(sotw(&ASSIGNMENT, "8", "e2", &[res("a", "x")]));
    script.receive(sotw(&LISTENER, "5", "l1", &[]));
    assert_eq!(
        script.reconnect(),
        ["cds v=3 n= [] node", "lds v=5 n= []", "eds v=8 n= [a]"]
    );
}

#[test]
fn answers_queued_when_the_stream_breaks_are_forgotten() {
    let mut script = connected();
    script.deliver(script.streams[0], sotw(&CLUSTER, "1", "c1", &[res("a", "x")]));
    assert_eq!(script.reconnect(), ["cds v=1 n= [] node"]);
}

#[test]
fn explicit_names_beside_a_wildcard_spell_it_out_and_end_legacy_mode() {
    let mut script = connected();
    script
        .engine
        .pin(&"static".into(), vec![Reference::new(&CLUSTER, "A")], script.now);
    assert_eq!(script.sent(), ["cds v= n= [*,A]"]);
    script.engine.unpin("static", script.now);
    assert_eq!(script.sent(), ["cds v= n= [*]"]);
}

#[test]
fn two_quick_responses_are_each_answered_and_in_order() {
    let mut script = connected();
    let ads = script.streams[0];
    script.deliver(ads, sotw(&CLUSTER, "1", "c1", &[res("a", "x")]));
    script.deliver(ads, sotw(&CLUSTER, "2", "c2", &[res("a", "BAD")]));
    assert_eq!(
        script.sent(),
        ["cds v=1 n=c1 []", "cds v=1 n=c2 [] NACK a: content: is bad"]
    );
}

#[test]
fn a_type_nobody_asked_for_is_ignored_and_not_answered() {
    let mut script = connected();
    assert!(script.receive(sotw(&ROUTE, "1", "r1", &[res("r", "x")])).is_empty());
    assert!(script.has("rds").is_empty());
}

#[test]
fn nack_reasons_keep_their_order_and_are_cut_at_4096_bytes_between_characters() {
    let mut script = connected();
    let bad = [res("z", "BAD"), res("a", "BAD"), res("m", "BAD LONG"), res("n", "BAD")];
    let sent = script.receive(sotw(&CLUSTER, "1", "c1", &bad)).remove(0);
    let reason = sent.split_once("NACK ").unwrap().1;
    assert!(
        reason.starts_with("z: content: is bad; a: content: is bad; m: üü"),
        "{reason}"
    );
    assert!((4040..=4096).contains(&reason.len()), "{}", reason.len());
    assert!(reason.ends_with("ü (cut; 1 more resources refused)"), "{reason}");
}

#[test]
fn bytes_that_are_no_response_are_an_error_of_the_stream() {
    let mut script = connected();
    let garbage = Bytes::from_static(&[0x0a, 0xff, 0x01]);
    assert!(
        script
            .engine
            .on_message(script.streams[0], garbage, script.now)
            .is_err()
    );
}

#[test]
fn the_wire_form_is_what_prost_reads() {
    use prost::Message;
    use remora_proto::pb::envoy::config::core::v3::Node;
    use remora_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
    let node: Bytes = Node {
        id: "me".into(),
        ..Node::default()
    }
    .encode_to_vec()
    .into();
    let mut script = connected();
    script.deliver(
        script.streams[0],
        sotw(&CLUSTER, "1", "c1", &[res("a", "BAD").needs("eds:a")]),
    );
    let request = script.requests().remove(0).encode(&node);
    let request = DiscoveryRequest::decode(request).unwrap();
    let error = request.error_detail.unwrap();
    assert_eq!((error.code, error.message.as_str()), (13, "a: content: is bad"));
    assert_eq!(
        (request.type_url.as_str(), request.response_nonce.as_str()),
        (CLUSTER.url, "c1")
    );

    let mut script = Script::with(SourceConfig::aggregated(Mode::Delta), &[&CLUSTER], 1);
    script.connect();
    script.receive(delta(&CLUSTER, "1", &[res("a", "v1")], &[]));
    script.engine.on_disconnected(script.streams[0], script.now);
    script.advance(30);
    script.engine.on_connected(script.streams[0], script.now);
    let request = DeltaDiscoveryRequest::decode(script.requests().remove(0).encode(&node)).unwrap();
    assert_eq!(request.node.unwrap().id, "me");
    assert_eq!(
        request.initial_resource_versions.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), "v1".to_owned())]
    );
}
