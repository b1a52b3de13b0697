use super::*;

#[test]
fn finds_messages_and_fields_by_both_names() {
    let cluster = message("envoy.config.cluster.v3.Cluster").expect("known");
    let timeout = cluster.field_by_name("connect_timeout").expect("known");
    assert_eq!(cluster.field_by_name("connectTimeout"), Some(timeout));
    assert_eq!(cluster.field(4), Some(timeout));
    assert_eq!(timeout.kind(), Kind::Message);
    assert_eq!(timeout.message().map(Message::well_known), Some(WellKnown::Duration));
    assert_eq!(timeout.parent(), cluster);
    assert_eq!(cluster.field_by_name("connect_timeou"), None);
    assert_eq!(cluster.field(9999), None);
    assert!(message("envoy.config.cluster.v3.Cluste").is_none());
}

#[test]
fn every_message_is_found_by_name_and_every_field_by_each_of_its_handles() {
    let mut fields = 0;
    for known in messages() {
        assert_eq!(message(known.name()), Some(known));
        for field in known.fields() {
            fields += 1;
            assert_eq!(known.field(field.number()), Some(field), "{field:?}");
            assert_eq!(known.field_by_name(field.name()), Some(field), "{field:?}");
            assert_eq!(known.field_by_name(field.json_name()), Some(field), "{field:?}");
            assert_eq!(known.field_at(field.position()), Some(field));
            assert_eq!(field.parent(), known);
        }
        assert!(
            known.field_count() <= 128,
            "{} has more fields than the walker's bit set",
            known.name()
        );
    }
    assert_eq!(fields, field_count());
}

#[test]
fn istio_messages_are_in_the_same_table() {
    let config = message("stats.PluginConfig").expect("known");
    let metrics = config
        .field_by_name("metrics")
        .and_then(Field::message)
        .expect("a message");
    let dimensions = metrics.field_by_name("dimensions").expect("known");
    assert!(dimensions.is_map());
    assert!(
        message("io.istio.http.peer_metadata.Config.PropagationMethod").is_some_and(|method| method.oneof_count() == 1)
    );
}

#[test]
fn enums_map_both_ways() {
    let cluster = message("envoy.config.cluster.v3.Cluster").expect("known");
    let policy = cluster
        .field_by_name("lb_policy")
        .and_then(Field::enumeration)
        .expect("an enum");
    assert_eq!(policy.number("RING_HASH"), Some(2));
    assert_eq!(policy.value_name(2), Some("RING_HASH"));
    assert_eq!(policy.number("ring_hash"), None);
}
