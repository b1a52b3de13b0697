use remora_proto::pb::envoy::config::bootstrap::v3::LayeredRuntime;

use super::*;

fn values(text: &str) -> Values {
    let name = "envoy.config.bootstrap.v3.LayeredRuntime";
    let encoded = remora_proto::json::encode_text(text, name, &Default::default()).expect("YAML");
    let message: LayeredRuntime = prost::Message::decode(encoded.bytes.as_slice()).expect("a message");
    let (layers, _) = RuntimeLayers::compile(Some(&message)).expect("layers");
    Values::new(layers, Arc::default())
}

fn share(key: &str) -> Share {
    let never = Fraction {
        numerator: 0,
        denominator: 100,
    };
    Share::new(never, key)
}

fn is(share: &Share) -> (u32, u32) {
    (share.now().numerator, share.now().denominator)
}

#[test]
fn every_spelling_of_a_share_is_read_as_envoy_reads_it() {
    let _values = values(
        "{layers: [{name: s, static_layer: {t1: {whole: {numerator: 7, denominator: MILLION}, int: 30, big: 250, half: 50.5, text: '40', \
         words: 'numerator: 100', yes: true, minus: -1, part: {denominator: HUNDRED}}}}]}",
    );
    let read = |key: &str| is(&share(&format!("t1.{key}")));
    assert_eq!(read("whole"), (7, 1_000_000));
    assert_eq!(read("int"), (30, 100));
    assert_eq!(read("big"), (100, 100));
    assert_eq!(read("half"), (50, 100));
    assert_eq!(read("text"), (40, 100));
    for not_a_share in ["words", "yes", "minus", "part", "unset"] {
        assert_eq!(read(not_a_share), (0, 100), "{not_a_share}");
    }
}

#[test]
fn an_operator_changes_what_is_compiled_already() {
    let values = values("{layers: [{name: s, static_layer: {t2.a: 10}}, {name: o, admin_layer: {}}]}");
    let (a, b) = (share("t2.a"), share("t2.b"));
    assert_eq!((is(&a), is(&b)), ((10, 100), (0, 100)));
    let modify = |key: &str, text: &str| values.modify(&[(key.to_owned(), text.to_owned())]).expect("a layer");
    modify("t2.a", "20");
    modify("t2.b", r#"{"numerator": 5, "denominator": "TEN_THOUSAND"}"#);
    assert_eq!((is(&a), is(&b)), ((20, 100), (5, 10_000)));
    modify("t2.b", "numerator: 6");
    assert_eq!(is(&b), (6, 100));
    modify("t2.a", "");
    assert_eq!(is(&a), (10, 100));
    assert_eq!(values.stats.num_keys.value(), 2);
    assert_eq!(values.stats.admin_overrides_active.value(), 1);
    drop(values);
    assert_eq!((is(&a), is(&b)), ((0, 100), (0, 100)), "the proxy is gone");
}

#[test]
fn switches_are_read_as_envoy_reads_them() {
    let values = values("{layers: [{name: o, admin_layer: {}}]}");
    let flag = pb::RuntimeFeatureFlag {
        default_value: None,
        runtime_key: "t3.k".to_owned(),
    };
    let switch = Switch::compile(Some(&flag), true);
    assert!(switch.is_on());
    let off = ["false", "FALSE", "False", "0", "no", "off", "0.0"];
    let on = ["1", "true", "{\"a\": 1}", "\"false\"", "words"];
    for (texts, expected) in [(off.as_slice(), false), (on.as_slice(), true)] {
        for text in texts {
            values
                .modify(&[("t3.k".to_owned(), (*text).to_owned())])
                .expect("a layer");
            assert_eq!(switch.is_on(), expected, "{text}");
        }
    }
}

#[test]
fn without_an_admin_layer_nothing_can_be_changed() {
    let values = values("{layers: [{name: s, static_layer: {t4: 1}}]}");
    let changes = [("t4".to_owned(), "2".to_owned())];
    assert_eq!(values.modify(&changes), Err(NoAdminLayer));
}

#[test]
fn of_two_proxies_the_later_one_decides() {
    let first = values("{layers: [{name: s, static_layer: {t5: 1}}]}");
    let share = share("t5");
    let second = values("{layers: [{name: s, static_layer: {t5: 2}}]}");
    assert_eq!(is(&share).0, 2);
    drop(second);
    assert_eq!(is(&share).0, 1);
    drop(first);
}

#[test]
fn what_an_operator_sets_cannot_refuse_what_was_accepted() {
    let _values = values("{layers: [{name: s, static_layer: {t4: {less: -1, none: 'nan', good: 2.5}}}]}");
    let double = |key: &str| {
        let value = pb::RuntimeDouble {
            default_value: 3.0,
            runtime_key: format!("t4.{key}"),
        };
        double(&value, |set| set >= 0.0)
    };
    assert_eq!(["less", "none", "good", "unset"].map(double), [1.0, 1.0, 2.5, 3.0]);
}
