//! Which conversation shows which rule of the protocol (`rules.txt`), and the conversations that stand for nothing but their rule.

use tonic::server::NamedService;

use super::*;
use crate::client::mux::{Mux, MuxConfig};
use crate::types::{ALL, ASSIGNMENT, CLUSTER, LISTENER, ROUTE, SECRET};
use remora_proto::pb::envoy::service;

/// Each rule in words, and below it the tests of this crate that show it.
const RULES: &str = include_str!("rules.txt");

#[test]
fn every_rule_has_its_conversation() {
    let sources = [
        include_str!("../driver.rs"),
        include_str!("delta.rs"),
        include_str!("edges.rs"),
        include_str!("files.rs"),
        include_str!("pacing.rs"),
        include_str!("rules.rs"),
        include_str!("scale.rs"),
        include_str!("sim.rs"),
        include_str!("sotw.rs"),
        include_str!("sotw_apply.rs"),
        include_str!("store.rs"),
        include_str!("warming.rs"),
    ];
    let (mut rule, mut shown) = ("", true);
    for line in RULES.lines() {
        let Some(test) = line.strip_prefix("  ") else {
            assert!(shown, "nothing shows: {rule}");
            (rule, shown) = (line, false);
            continue;
        };
        let head = format!("fn {test}()");
        assert!(
            sources.iter().any(|source| source.contains(&head)),
            "{rule}: there is no test {test}"
        );
        shown = true;
    }
    assert!(shown, "nothing shows: {rule}");
}

#[test]
fn every_type_has_the_rpcs_of_its_own_service() {
    use service::cluster::v3::cluster_discovery_service_server::ClusterDiscoveryServiceServer as Clusters;
    use service::endpoint::v3::endpoint_discovery_service_server::EndpointDiscoveryServiceServer as Endpoints;
    use service::listener::v3::listener_discovery_service_server::ListenerDiscoveryServiceServer as Listeners;
    use service::route::v3::route_discovery_service_server::RouteDiscoveryServiceServer as Routes;
    use service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer as Secrets;
    let services = [
        (&CLUSTER, <Clusters<()> as NamedService>::NAME, "Clusters"),
        (&ASSIGNMENT, <Endpoints<()> as NamedService>::NAME, "Endpoints"),
        (&LISTENER, <Listeners<()> as NamedService>::NAME, "Listeners"),
        (&ROUTE, <Routes<()> as NamedService>::NAME, "Routes"),
        (&SECRET, <Secrets<()> as NamedService>::NAME, "Secrets"),
    ];
    for (ty, service, what) in services {
        assert_eq!(ty.sotw_path, format!("/{service}/Stream{what}"));
        assert_eq!(ty.delta_path, format!("/{service}/Delta{what}"));
    }
    let mut urls: Vec<_> = ALL.iter().map(|ty| ty.url).collect();
    urls.sort_unstable();
    urls.dedup();
    assert_eq!(urls.len(), ALL.len(), "a type is its url");
}

pub(super) fn connected(mode: Mode) -> Script {
    let mut script = Script::with(SourceConfig::aggregated(mode), &[&CLUSTER], 1);
    script.connect();
    script
}

#[test]
fn names_are_sorted_and_said_once() {
    let mut script = connected(Mode::Sotw);
    let clusters = [
        res("1", "x").needs("eds:b"),
        res("2", "x").needs("eds:a"),
        res("3", "x").needs("eds:b"),
    ];
    let sent = script.receive(sotw(&CLUSTER, "1", "c1", &clusters));
    assert_eq!(sent, ["cds v=1 n=c1 []", "eds v= n= [a,b]"]);
}

#[test]
fn the_reference_conversation_in_state_of_the_world() {
    let mut script = Script::new(Mode::Sotw);
    assert_eq!(script.connect(), ["cds v= n= [] node", "lds v= n= []"]);
    let cluster = |name: &str, content: &str| res(name, content).needs(&format!("eds:{name}"));
    let sent = script.receive(sotw(&CLUSTER, "1", "c1", &[cluster("a", "1"), cluster("b", "1")]));
    assert_eq!(sent, ["cds v=1 n=c1 []", "eds v= n= [a,b]"]);
    let sent = script.receive(sotw(&ASSIGNMENT, "7", "e1", &[res("a", "1")]));
    assert_eq!(sent, ["eds v=7 n=e1 [a,b]"]);
    assert_eq!(script.has("cds"), ["a=1"], "b waits");
    let partly = [cluster("a", "2"), cluster("b", "1"), cluster("c", "BAD")];
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &partly));
    assert_eq!(
        sent,
        ["cds v=1 n=c2 [] NACK c: content: is bad", "eds v=7 n=e1 [a,b]"],
        "a' is applied, and wants a fresh assignment"
    );
    let sent = script.receive(sotw(&ASSIGNMENT, "8", "e2", &[res("a", "1"), res("b", "2")]));
    assert_eq!(sent, ["eds v=8 n=e2 [a,b]"]);
    assert_eq!(script.has("cds"), ["a=2", "b=1"]);
    let sent = script.receive(sotw(&CLUSTER, "3", "c3", &[cluster("a", "2")]));
    assert_eq!(sent, ["cds v=3 n=c3 []", "eds v=8 n=e2 [a]"]);
    assert_eq!(
        script.reconnect(),
        ["cds v=3 n= [] node", "lds v= n= []", "eds v=8 n= [a]"]
    );
}

#[test]
fn the_identifier_of_the_control_plane_is_kept() {
    let mut script = connected(Mode::Sotw);
    let mut message = BytesMut::from(&sotw(&CLUSTER, "1", "c1", &[])[..]);
    let mut control_plane = BytesMut::new();
    wire::put_text(&mut control_plane, 1, "istiod-7");
    wire::put_bytes(&mut message, 6, &control_plane);
    script.receive(message.freeze());
    assert_eq!(script.stats.control_plane.identifier(), "istiod-7");
    // One that does not say so again is still the same.
    script.receive(sotw(&CLUSTER, "2", "c2", &[]));
    assert_eq!(script.stats.control_plane.identifier(), "istiod-7");
}

#[test]
fn a_delta_resource_nobody_asked_for_is_neither_published_nor_held() {
    let mut script = connected(Mode::Delta);
    script.receive(delta(&CLUSTER, "1", &[res("a", "1").needs("eds:a")], &[]));
    let sent = script.receive(delta(&ASSIGNMENT, "1", &[res("a", "1"), res("stranger", "BAD")], &[]));
    assert_eq!(sent, ["eds n=1 +[] -[] {}"]);
    assert_eq!(script.has("eds"), ["a=1"]);
    assert_eq!(script.reconnect()[1], "eds n= +[a] -[] {a:1}");
}

#[test]
fn a_bad_assignment_does_not_hold_up_those_beside_it() {
    let mut script = connected(Mode::Sotw);
    let clusters = ["a", "b", "c"].map(|name| res(name, "1").needs(&format!("eds:{name}")));
    script.receive(sotw(&CLUSTER, "1", "c1", &clusters));
    let assignments = [res("a", "1"), res("b", "BAD"), res("c", "1")];
    let sent = script.receive(sotw(&ASSIGNMENT, "1", "e1", &assignments));
    assert_eq!(sent, ["eds v= n=e1 [a,b,c] NACK b: content: is bad"]);
    assert_eq!(script.has("eds"), ["a=1", "c=1"]);
    assert_eq!(
        script.has("cds").len(),
        3,
        "a refused first assignment ends the wait for it"
    );
}

pub(super) fn mux(mode: Mode) -> Mux {
    Mux::new(MuxConfig::new(mode), fastrand::Rng::with_seed(1), Arc::default())
}

pub(super) fn said(mux: &mut Mux, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| mux.poll_transmit(now))
        .map(|request| line(&request))
        .collect()
}

#[test]
fn the_wildcard_is_given_up_by_not_naming_it() {
    let (mut mux, now) = (mux(Mode::Sotw), Instant::now());
    mux.subscribe_wildcard(&CLUSTER);
    mux.on_connected(now);
    assert_eq!(said(&mut mux, now), ["cds v= n= [] node"]);
    mux.subscribe(&CLUSTER, "A".into());
    assert_eq!(said(&mut mux, now), ["cds v= n= [*,A]"]);
    mux.unsubscribe_wildcard(&CLUSTER);
    assert_eq!(said(&mut mux, now), ["cds v= n= [A]"]);
    mux.unsubscribe(&CLUSTER, &"A".into());
    assert_eq!(
        said(&mut mux, now),
        ["cds v= n= []"],
        "and that is no wildcard any more"
    );
}

#[test]
fn the_delta_wildcard_is_given_up_by_unsubscribing_it() {
    let (mut mux, now) = (mux(Mode::Delta), Instant::now());
    mux.subscribe_wildcard(&CLUSTER);
    mux.on_connected(now);
    assert_eq!(said(&mut mux, now), ["cds n= +[] -[] {} node"]);
    mux.subscribe(&CLUSTER, "A".into());
    assert_eq!(said(&mut mux, now), ["cds n= +[A] -[] {}"]);
    mux.unsubscribe_wildcard(&CLUSTER);
    assert_eq!(said(&mut mux, now), ["cds n= +[] -[*] {}"]);
    mux.unsubscribe(&CLUSTER, &"A".into());
    assert_eq!(said(&mut mux, now), ["cds n= +[] -[A] {}"]);
    mux.on_disconnected(now);
    mux.on_connected(now);
    assert!(said(&mut mux, now).is_empty());
}

#[test]
fn dropped_and_wanted_again_in_one_breath_is_a_subscription() {
    let (mut mux, now) = (mux(Mode::Delta), Instant::now());
    mux.subscribe(&CLUSTER, "A".into());
    mux.on_connected(now);
    said(&mut mux, now);
    // The copy may be gone by now: the server has to send it again.
    mux.unsubscribe(&CLUSTER, &"A".into());
    mux.subscribe(&CLUSTER, "A".into());
    assert_eq!(said(&mut mux, now), ["cds n= +[A] -[] {}"]);
}

#[test]
fn wanted_and_dropped_in_one_breath_subscribes_to_nothing() {
    let (mut mux, now) = (mux(Mode::Delta), Instant::now());
    mux.subscribe(&CLUSTER, "A".into());
    mux.on_connected(now);
    said(&mut mux, now);
    mux.subscribe(&CLUSTER, "B".into());
    mux.unsubscribe(&CLUSTER, &"B".into());
    // Superfluous, and harmless.
    assert_eq!(said(&mut mux, now), ["cds n= +[] -[B] {}"]);
}

#[test]
fn a_new_stream_says_everything_in_the_order_of_first_wish() {
    let (mut mux, now) = (mux(Mode::Sotw), Instant::now());
    for ty in [&ROUTE, &CLUSTER, &SECRET] {
        mux.subscribe(ty, "x".into());
    }
    let order = |said: Vec<String>| -> Vec<String> { said.iter().map(|line| line[..3].to_owned()).collect() };
    mux.on_connected(now);
    assert_eq!(order(said(&mut mux, now)), ["rds", "cds", "sds"]);
    mux.subscribe(&SECRET, "y".into());
    mux.subscribe(&ROUTE, "y".into());
    assert_eq!(order(said(&mut mux, now)), ["rds", "sds"]);
    mux.on_disconnected(now);
    mux.on_connected(now);
    assert_eq!(order(said(&mut mux, now)), ["rds", "cds", "sds"]);
}

#[test]
fn a_push_of_listeners_costs_one_request_for_all_their_routes() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[&LISTENER], 1);
    script.connect();
    let listeners: Vec<Res> = (0..100)
        .map(|index| {
            res(&format!("l{index}"), "x")
                .needs(&format!("rds:r{index}"))
                .needs("sds:cert")
        })
        .collect();
    let sent = script.receive(sotw(&LISTENER, "1", "l1", &listeners));
    assert_eq!(sent.len(), 3, "ACK, routes, secrets: {sent:?}");
    assert_eq!(sent.iter().filter(|line| line.starts_with("rds")).count(), 1);
}

#[test]
fn connected_state_follows_the_stream() {
    let mut script = connected(Mode::Sotw);
    let state = script.stats.clone();
    let state = || state.control_plane.connected_state.value();
    assert_eq!(state(), 0, "a stream that is opened is not yet taken");
    script.engine.on_accepted(script.streams[0]);
    assert_eq!(state(), 1);
    script.engine.on_disconnected(script.streams[0], script.now);
    assert_eq!(state(), 0);
}

#[test]
fn after_the_first_answer_silence_deletes_nothing() {
    let mut script = connected(Mode::Sotw);
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a/15")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    script.advance(3600);
    assert_eq!(
        (script.has("cds"), script.has("eds")),
        (vec!["a=1".to_owned()], vec!["a=1".to_owned()])
    );
    assert_eq!(script.stats.of(&ASSIGNMENT).init_fetch_timeout.value(), 0);
}

#[test]
fn a_delta_ttl_runs_out_and_deletes() {
    let mut script = connected(Mode::Delta);
    script.receive(delta(&CLUSTER, "1", &[res("a", "x").ttl(10), res("b", "x")], &[]));
    script.advance(10);
    assert_eq!(script.has("cds"), ["b=x"]);
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {b:x} node"]);
}

#[test]
fn reported_errors_are_kept_and_change_nothing() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut script = connected(mode);
        let push = |nonce: &str, resources: &[Res]| match mode {
            Mode::Sotw => sotw(&ASSIGNMENT, nonce, nonce, resources),
            Mode::Delta => delta(&ASSIGNMENT, nonce, resources, &[]),
        };
        let cluster = res("a", "1").needs("eds:a");
        script.receive(match mode {
            Mode::Sotw => sotw(&CLUSTER, "1", "c1", &[cluster]),
            Mode::Delta => delta(&CLUSTER, "c1", &[cluster], &[]),
        });
        script.receive(push("1", &[res("a", "1")]));
        let sent = script.receive(reporting(mode, push("2", &[]), "a", "no such service"));
        assert!(sent[0].contains("n=2") && !sent[0].contains("NACK"), "{sent:?}");
        assert_eq!(script.has("eds"), ["a=1"], "{mode:?}");
        let reported = |script: &Script| {
            let status = script.engine.status();
            let status = status.types.iter().find(|status| status.ty == &ASSIGNMENT).unwrap();
            status.reported.clone()
        };
        assert_eq!(reported(&script), [("a".to_owned(), "no such service".to_owned())]);
        assert_eq!(script.stats.of(&ASSIGNMENT).resource_errors.value(), 1);
        script.receive(push("3", &[res("a", "2")]));
        assert!(reported(&script).is_empty(), "{mode:?}");
    }
}

/// A response with an entry in `resource_errors`.
fn reporting(mode: Mode, response: Bytes, name: &str, reason: &str) -> Bytes {
    let (mut resource, mut status, mut error) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    wire::put_text(&mut resource, 1, name);
    wire::put_number(&mut status, 1, 5);
    wire::put_text(&mut status, 2, reason);
    wire::put_bytes(&mut error, 1, &resource);
    wire::put_bytes(&mut error, 2, &status);
    let mut out = BytesMut::from(&response[..]);
    let number = match mode {
        Mode::Sotw => 7,
        Mode::Delta => 9,
    };
    wire::put_bytes(&mut out, number, &error);
    out.freeze()
}

#[test]
fn a_refused_version_leaves_the_last_good_one_its_own_ttl() {
    for mode in [Mode::Sotw, Mode::Delta] {
        for (good, bad, gone_after) in [(10, 60, 10), (60, 10, 60)] {
            let mut script = Script::new(mode);
            script.connect();
            let push = |version: &str, resource: Res| match mode {
                Mode::Sotw => sotw(&CLUSTER, version, version, &[resource]),
                Mode::Delta => delta(&CLUSTER, version, &[resource], &[]),
            };
            script.receive(push("1", res("a", "x").ttl(good)));
            script.receive(push("2", res("a", "BAD").ttl(bad)));
            script.advance(gone_after - 1);
            assert_eq!(script.has("cds"), ["a=x"], "{mode:?}");
            script.advance(1);
            assert!(script.has("cds").is_empty(), "{mode:?}");
        }
    }
}

#[test]
fn a_ttl_that_runs_out_does_not_take_an_assignment_from_its_cluster() {
    let mut script = connected(Mode::Delta);
    script.receive(delta(&CLUSTER, "1", &[res("a", "x").needs("eds:a")], &[]));
    script.receive(delta(&ASSIGNMENT, "1", &[res("a", "x").ttl(10)], &[]));
    script.advance(10);
    assert_eq!(script.has("eds"), ["a=x"]);
    // The name stays subscribed, and is not claimed to be held.
    assert_eq!(script.reconnect()[1], "eds n= +[a] -[] {}");
}

#[test]
fn a_listener_is_published_when_its_routes_and_secrets_are_there() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[&LISTENER], 1);
    script.connect();
    let listener = |content: &str, routes: &str| res("l", content).needs(&format!("rds:{routes}")).needs("sds:cert");
    script.receive(sotw(&LISTENER, "1", "l1", &[listener("1", "r")]));
    script.receive(sotw(&ROUTE, "1", "r1", &[res("r", "x")]));
    assert!(script.has("lds").is_empty());
    script.receive(sotw(&SECRET, "1", "s1", &[res("cert", "x")]));
    assert_eq!(script.has("lds"), ["l=1"]);
    // The old one serves until the new one has what it needs.
    script.receive(sotw(&LISTENER, "2", "l2", &[listener("2", "other")]));
    assert_eq!(script.has("lds"), ["l=1"]);
    script.receive(sotw(&ROUTE, "2", "r2", &[res("other", "x")]));
    assert_eq!(script.has("lds"), ["l=2"]);
}

#[test]
fn an_unsolicited_response_before_the_first_request_is_ignored_and_not_answered() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut script = Script::new(mode);
        let id = script.engine.streams_to_open(script.now.instant)[0].id;
        script.engine.on_connected(id, script.now);
        script.streams.push(id);
        script.deliver(
            id,
            match mode {
                Mode::Sotw => sotw(&CLUSTER, "1", "c1", &[res("a", "1")]),
                Mode::Delta => delta(&CLUSTER, "c1", &[res("a", "1")], &[]),
            },
        );
        assert!(script.published.is_empty(), "{mode:?}");
        let first = match mode {
            Mode::Sotw => "cds v= n= [] node",
            Mode::Delta => "cds n= +[] -[] {} node",
        };
        assert_eq!(script.sent()[0], first);
    }
}

/// Every reconnect to a control plane that is away fails for the reason that is known, and servers end streams as a matter of course.
#[test]
fn a_failure_is_news_once_and_the_usual_end_of_an_open_stream_is_none() {
    let mut script = Script::new(Mode::Delta);
    script.connect();
    let id = script.streams[0];
    let mut is_news = |reason: &str, usual| script.engine.note_failure(id, reason.to_owned(), usual);
    assert!(is_news("refused", true), "it never was open");
    assert!(!is_news("refused", true), "it is known");
    assert!(is_news("no route", false), "another reason");
    script.engine.on_accepted(id);
    let mut is_news = |reason: &str, usual| script.engine.note_failure(id, reason.to_owned(), usual);
    assert!(!is_news("age", true), "the usual end");
    assert!(is_news("broken", false), "a failure after all");
}
