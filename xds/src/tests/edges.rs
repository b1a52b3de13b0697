//! Conversations at the edges of the rules: what is superfluous, comes late or twice, or is nobody's.

use prost::Message;
use remora_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::rules::{connected, mux, said};
use super::*;
use crate::client::Mux;
use crate::client::message::Response;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ROUTE, SECRET, VIRTUAL_HOST};

/// A response in either form; what is named in `version` is the nonce, too.
fn push(mode: Mode, ty: ResourceType, version: &str, resources: &[Res]) -> Bytes {
    match mode {
        Mode::Sotw => sotw(ty, version, version, resources),
        Mode::Delta => delta(ty, version, resources, &[]),
    }
}

/// A response that is taken as it is.
fn take(mux: &mut Mux, message: &Bytes, now: Instant) {
    let parsed = match mux.mode() {
        Mode::Sotw => Response::parse_sotw(message),
        Mode::Delta => Response::parse_delta(message),
    };
    let batch = mux.on_response(parsed.unwrap(), now).unwrap();
    mux.finish(batch, &[]);
}

/// As Envoy says it; `INVALID_ARGUMENT` (3) is what the client of gRPC says.
#[test]
fn a_nack_has_the_code_of_an_internal_error_whatever_was_wrong() {
    let same = [res("a", "1"), res("a", "1")];
    let bad = [res("a", "BAD"), res("a", "1").foreign(), res("", "1")];
    for mode in [Mode::Sotw, Mode::Delta] {
        let code = |resources: &[Res]| {
            let mut script = connected(mode);
            script.deliver(script.streams[0], push(mode, &CLUSTER, "1", resources));
            let request = script.requests().remove(0).encode(&Bytes::new());
            let error = match mode {
                Mode::Sotw => DiscoveryRequest::decode(request).unwrap().error_detail,
                Mode::Delta => DeltaDiscoveryRequest::decode(request).unwrap().error_detail,
            };
            error.map(|error| error.code)
        };
        for bad in bad.iter().map(std::slice::from_ref).chain([&same[..]]) {
            assert_eq!(code(bad), Some(13), "{mode:?} {bad:?}");
        }
        assert_eq!(code(&same[..1]), None, "an ACK");
    }
}

#[test]
fn a_nonce_is_repeated_as_it_came() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut script = connected(mode);
        for nonce in ["7", "6", "no number", "ü|:"] {
            let message = match mode {
                Mode::Sotw => sotw(&CLUSTER, "1", nonce, &[]),
                Mode::Delta => delta(&CLUSTER, nonce, &[], &[]),
            };
            assert!(script.receive(message)[0].contains(&format!(" n={nonce} ")), "{mode:?}");
        }
    }
}

#[test]
fn what_was_never_subscribed_is_not_unsubscribed() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let (mut mux, now) = (mux(mode), Instant::now());
        mux.subscribe(&ASSIGNMENT, "a".into());
        mux.on_connected(now);
        said(&mut mux, now);
        mux.unsubscribe(&ASSIGNMENT, &"stranger".into());
        mux.unsubscribe(&ROUTE, &"a".into());
        assert!(said(&mut mux, now).is_empty(), "{mode:?}");
        mux.unsubscribe(&ASSIGNMENT, &"a".into());
        assert_eq!(said(&mut mux, now).len(), 1, "{mode:?}");
        mux.unsubscribe(&ASSIGNMENT, &"a".into());
        assert!(said(&mut mux, now).is_empty(), "{mode:?}: it is unsubscribed already");
    }
}

#[test]
fn what_is_unsubscribed_may_be_removed_or_sent_once_more() {
    let mut script = connected(Mode::Delta);
    let both = ["a", "b"].map(|name| res(name, "1").needs(&format!("eds:{name}")));
    script.receive(delta(&CLUSTER, "1", &both, &[]));
    script.receive(delta(&ASSIGNMENT, "1", &[res("a", "1"), res("b", "1")], &[]));
    let sent = script.receive(delta(&CLUSTER, "2", &[], &["b"]));
    assert_eq!(sent, ["cds n=2 +[] -[] {}", "eds n= +[] -[b] {}"]);
    // It was on its way, or is what the server makes of the request.
    for message in [
        delta(&ASSIGNMENT, "2", &[], &["b", "stranger"]),
        delta(&ASSIGNMENT, "3", &[res("b", "2")], &[]),
    ] {
        assert!(script.receive(message)[0].ends_with(" +[] -[] {}"));
        assert_eq!(script.has("eds"), ["a=1"]);
    }
    assert_eq!(script.reconnect()[1], "eds n= +[a] -[] {a:1}");
}

#[test]
fn giving_the_wildcard_up_forgets_at_once_what_only_it_covered() {
    let (mut mux, now) = (mux(Mode::Delta), Instant::now());
    mux.subscribe_wildcard(&CLUSTER);
    mux.subscribe(&CLUSTER, "A".into());
    mux.subscribe(&CLUSTER, "C".into());
    mux.on_connected(now);
    assert_eq!(said(&mut mux, now), ["cds n= +[*,A,C] -[] {} node"]);
    let all = ["A", "B", "C"].map(|name| res(name, "1"));
    take(&mut mux, &delta(&CLUSTER, "1", &all, &[]), now);
    // C may still be part of the wildcard; with that it goes.
    mux.unsubscribe(&CLUSTER, &"C".into());
    mux.unsubscribe_wildcard(&CLUSTER);
    assert_eq!(said(&mut mux, now), ["cds n=1 +[] -[] {}", "cds n= +[] -[*,C] {}"]);
    mux.check_invariants();
    mux.on_disconnected(now);
    mux.on_connected(now);
    assert_eq!(said(&mut mux, now), ["cds n= +[A] -[] {A:1} node"]);
}

#[test]
fn initial_versions_go_with_the_first_request_of_a_stream_and_no_other() {
    let mut script = connected(Mode::Delta);
    let cluster = |name: &str| res(name, "1").needs(&format!("eds:{name}"));
    script.receive(delta(&CLUSTER, "1", &[cluster("a")], &[]));
    script.receive(delta(&ASSIGNMENT, "1", &[res("a", "1")], &[]));
    assert_eq!(
        script.reconnect(),
        ["cds n= +[] -[] {a:1} node", "eds n= +[a] -[] {a:1}"]
    );
    let sent = script.receive(delta(&CLUSTER, "1", &[cluster("b")], &[]));
    assert_eq!(sent, ["cds n=1 +[] -[] {}", "eds n= +[b] -[] {}"]);
}

#[test]
fn a_delta_resource_of_another_type_fails_alone() {
    let mut script = connected(Mode::Delta);
    script.receive(delta(&CLUSTER, "1", &[res("a", "1"), res("b", "1")], &[]));
    let sent = script.receive(delta(&CLUSTER, "2", &[res("a", "2"), res("b", "2").foreign()], &[]));
    assert!(
        sent[0].contains("NACK b: type URL type.googleapis.com/other does not match"),
        "{sent:?}"
    );
    assert_eq!(script.has("cds"), ["a=2", "b=1"]);
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {a:2,b:1} node"]);
}

#[test]
fn removed_routes_and_secrets_stay_until_their_owner_goes() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Delta), &[&LISTENER], 1);
    script.connect();
    let listener = res("l", "1").needs("rds:r").needs("sds:s");
    script.receive(delta(&LISTENER, "1", &[listener], &[]));
    script.receive(delta(&ROUTE, "1", &[res("r", "1")], &[]));
    script.receive(delta(&SECRET, "1", &[res("s", "1")], &[]));
    assert_eq!(script.receive(delta(&ROUTE, "2", &[], &["r"])), ["rds n=2 +[] -[] {}"]);
    assert_eq!(script.receive(delta(&SECRET, "2", &[], &["s"])), ["sds n=2 +[] -[] {}"]);
    assert_eq!(
        [script.has("lds"), script.has("rds"), script.has("sds")],
        [["l=1"], ["r=1"], ["s=1"]]
    );
    let mut again = script.reconnect().split_off(1);
    again.sort_unstable();
    assert_eq!(
        again,
        ["rds n= +[r] -[] {}", "sds n= +[s] -[] {}"],
        "they are asked for, and not said to be held"
    );
    script.receive(delta(&LISTENER, "2", &[], &["l"]));
    assert!(script.published.is_empty());
}

#[test]
fn what_does_not_exist_or_is_late_may_still_come() {
    let mut script = connected(Mode::Delta);
    let cluster = |name: &str| res(name, "1").needs(&format!("eds:{name}/15"));
    script.receive(delta(&CLUSTER, "1", &[cluster("none"), cluster("late")], &[]));
    script.receive(delta(&ASSIGNMENT, "1", &[], &["none"]));
    assert_eq!(script.has("cds"), ["none=1"]);
    script.advance(15);
    assert_eq!(script.has("cds"), ["late=1", "none=1"]);
    assert!(script.sent().is_empty(), "both stay subscribed");
    let both = [res("none", "2"), res("late", "2")];
    script.receive(delta(&ASSIGNMENT, "2", &both, &[]));
    assert_eq!(script.has("eds"), ["late=2", "none=2"]);
}

#[test]
fn an_answer_of_a_paused_type_waits_and_lets_others_pass() {
    let (mut mux, now) = (mux(Mode::Sotw), Instant::now());
    mux.subscribe_wildcard(&CLUSTER);
    mux.subscribe(&ASSIGNMENT, "a".into());
    mux.on_connected(now);
    said(&mut mux, now);
    mux.pause(&ASSIGNMENT);
    take(&mut mux, &sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]), now);
    take(&mut mux, &sotw(&CLUSTER, "1", "c1", &[]), now);
    assert_eq!(said(&mut mux, now), ["cds v=1 n=c1 []"]);
    mux.resume(&ASSIGNMENT);
    assert_eq!(said(&mut mux, now), ["eds v=1 n=e1 [a]"]);
}

#[test]
fn a_time_to_live_runs_on_while_the_stream_is_away() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut script = connected(mode);
        script.receive(push(mode, &CLUSTER, "1", &[res("a", "x").ttl(40)]));
        script.reconnect();
        script.advance(9);
        assert_eq!(script.has("cds"), ["a=x"], "{mode:?}: thirty seconds and nine");
        script.advance(1);
        assert!(script.has("cds").is_empty(), "{mode:?}");
    }
}

#[test]
fn a_virtual_host_has_no_heartbeats() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Delta), &[], 1);
    let reference = Reference::new(&VIRTUAL_HOST, "rc/a.test");
    script.engine.pin(&"routes".into(), vec![reference], script.now);
    script.connect();
    script.receive(delta(
        &VIRTUAL_HOST,
        "1",
        &[res("rc/a.test", "x").version("4").ttl(10)],
        &[],
    ));
    let beat = res("rc/a.test", "").absent().version("4").ttl(10);
    let sent = script.receive(delta(&VIRTUAL_HOST, "2", &[beat], &[]));
    assert!(sent[0].contains("NACK rc/a.test: resource: must be set"), "{sent:?}");
    script.advance(10);
    assert!(script.has("vhds").is_empty());
}
