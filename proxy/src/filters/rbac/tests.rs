use remora_proto::pb::envoy::config::rbac::v3 as pb;
use remora_proto::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use remora_proto::pb::envoy::r#type::matcher::v3 as pbm;
use remora_proto::pb::google::protobuf::UInt32Value;

use super::*;
use crate::testing::{connection, exchange, exchange_over};
use crate::tls::PeerInfo;
use pb::permission::Rule;
use pb::principal::Identifier;

fn text(pattern: pbm::string_matcher::MatchPattern) -> pbm::StringMatcher {
    pbm::StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }
}

fn exact(value: &str) -> pbm::StringMatcher {
    text(pbm::string_matcher::MatchPattern::Exact(value.into()))
}

fn header(name: &str, value: &str, invert_match: bool) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        invert_match,
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(value))),
        ..Default::default()
    }
}

fn url(value: &str) -> pbm::PathMatcher {
    pbm::PathMatcher {
        rule: Some(path_matcher::Rule::Path(exact(value))),
    }
}

fn cidr(address: &str, length: u32) -> CidrRange {
    CidrRange {
        address_prefix: address.into(),
        prefix_len: Some(UInt32Value { value: length }),
    }
}

fn permission(rule: Rule) -> pb::Permission {
    pb::Permission { rule: Some(rule) }
}

fn principal(identifier: Identifier) -> pb::Principal {
    pb::Principal {
        identifier: Some(identifier),
    }
}

fn rules(action: Action, policies: Vec<(&str, Rule, Identifier)>) -> pb::Rbac {
    let policy = |(name, rule, id): (&str, Rule, Identifier)| {
        let policy = pb::Policy {
            permissions: vec![permission(rule)],
            principals: vec![principal(id)],
            ..Default::default()
        };
        (name.to_owned(), policy)
    };
    pb::Rbac {
        action: action as i32,
        policies: policies.into_iter().map(policy).collect(),
        ..Default::default()
    }
}

fn engine(action: Action, policies: Vec<(&str, Rule, Identifier)>) -> Engine {
    Engine::compile(&rules(action, policies)).expect("compiles")
}

fn permits(rule: Rule, exchange: &Exchange) -> bool {
    let engine = engine(Action::Allow, vec![("p", rule, Identifier::Any(true))]);
    engine.decide(&Subject::of(exchange)).allowed
}

fn knows(identifier: Identifier, exchange: &Exchange) -> bool {
    let engine = engine(Action::Allow, vec![("p", Rule::Any(true), identifier)]);
    engine.decide(&Subject::of(exchange)).allowed
}

#[test]
fn actions_decide_and_name_the_first_policy_by_name() {
    let get = exchange("GET", "/admin?x=/public", &[]);
    let subject = Subject::of(&get);
    let both = || {
        vec![
            ("b", Rule::UrlPath(url("/admin")), Identifier::Any(true)),
            ("a b", Rule::Any(true), Identifier::Any(true)),
        ]
    };
    let deny = engine(Action::Deny, both());
    let decision = deny.decide(&subject);
    assert_eq!((decision.allowed, decision.policy), (false, Some("a b")));
    assert_eq!(decision.denial_details(), "rbac_access_denied_matched_policy[a_b]");
    assert!(engine(Action::Allow, both()).decide(&subject).allowed);
    let nobody = engine(Action::Allow, Vec::new());
    assert_eq!(
        nobody.decide(&subject).denial_details(),
        "rbac_access_denied_matched_policy[none]"
    );
    assert_eq!(engine(Action::Log, both()).decide(&subject).log, Some(true));
    assert!(engine(Action::Deny, Vec::new()).decide(&subject).allowed);
}

#[test]
fn permissions_look_at_request_and_destination() {
    let get = exchange("GET", "/v1/a/items?q", &[("host", "orders.shop"), ("x-tenant", "a")]);
    assert!(permits(Rule::Header(header(":method", "GET", false)), &get));
    assert!(permits(Rule::Header(header(":authority", "orders.shop", false)), &get));
    assert!(permits(Rule::UrlPath(url("/v1/a/items")), &get));
    assert!(!permits(Rule::UrlPath(url("/v1/a/items?q")), &get));
    assert!(permits(Rule::DestinationPort(80), &get) && !permits(Rule::DestinationPort(81), &get));
    assert!(permits(Rule::DestinationIp(cidr("10.0.0.0", 24)), &get));
    let not = Rule::NotRule(Box::new(permission(Rule::RequestedServerName(exact("evil.test")))));
    assert!(permits(not, &get));
    let set = |paths: [&str; 2]| pb::permission::Set {
        rules: paths.map(|path| permission(Rule::UrlPath(url(path)))).into(),
    };
    assert!(permits(Rule::OrRules(set(["/", "/v1/a/items"])), &get));
    assert!(!permits(Rule::AndRules(set(["/", "/v1/a/items"])), &get));
}

#[test]
fn two_lines_of_a_header_evade_nothing() {
    let twice = exchange("GET", "/", &[("x-tenant", "evil"), ("x-tenant", "good")]);
    assert!(permits(Rule::Header(header("x-tenant", "evil", false)), &twice));
    assert!(!permits(Rule::Header(header("x-tenant", "evil", true)), &twice));
}

#[test]
fn principals_are_sans_addresses_and_headers() {
    let tls = PeerInfo {
        uri_sans: vec!["spiffe://cluster.local/ns/shop/sa/web".into()],
        ..PeerInfo::default()
    };
    let mutual = exchange_over(connection(Some(tls)), "GET", "/", &[]);
    let plain = exchange("GET", "/", &[("x-tenant", "a")]);
    let who = |name: Option<&str>| {
        Identifier::Authenticated(pb::principal::Authenticated {
            principal_name: name.map(exact),
        })
    };
    assert!(knows(who(Some("spiffe://cluster.local/ns/shop/sa/web")), &mutual));
    assert!(!knows(who(Some("spiffe://cluster.local/ns/shop/sa/other")), &mutual));
    assert!(knows(who(None), &mutual) && !knows(who(None), &plain));
    assert!(knows(Identifier::DirectRemoteIp(cidr("10.0.0.1", 32)), &plain));
    assert!(!knows(Identifier::RemoteIp(cidr("192.0.2.0", 24)), &plain));
    assert!(knows(Identifier::Header(header("x-tenant", "a", false)), &plain));
    let nobody = Identifier::NotId(Box::new(principal(Identifier::Any(true))));
    assert!(!knows(nobody, &plain));
}

#[test]
fn a_connection_without_http_has_no_headers() {
    let info = connection(None);
    let subject = Subject::of_connection(&info);
    let by_path = engine(
        Action::Allow,
        vec![("p", Rule::UrlPath(url("/")), Identifier::Any(true))],
    );
    assert!(!by_path.decide(&subject).allowed);
    let by_port = engine(
        Action::Allow,
        vec![("p", Rule::DestinationPort(80), Identifier::Any(true))],
    );
    assert!(by_port.decide(&subject).allowed);
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let path = |value: pb::Rbac| Engine::compile(&value).expect_err("refused").0[0].path.clone();
    let matcher = Rule::Matcher(Default::default());
    assert_eq!(
        path(rules(Action::Deny, vec![("p", matcher, Identifier::Any(true))])),
        "policies[\"p\"].permissions[0].matcher"
    );
    let mut conditional = rules(Action::Deny, vec![("p", Rule::Any(true), Identifier::Any(true))]);
    conditional.policies.get_mut("p").expect("a policy").condition = Some(Default::default());
    assert_eq!(path(conditional), "policies[\"p\"].condition");
    let mut bare = rules(Action::Allow, vec![("p", Rule::Any(true), Identifier::Any(true))]);
    bare.policies.get_mut("p").expect("a policy").principals.clear();
    assert_eq!(path(bare), "policies[\"p\"].principals");
    let nowhere = Identifier::RemoteIp(cidr("10.0.0", 8));
    assert_eq!(
        path(rules(Action::Allow, vec![("p", Rule::Any(true), nowhere)])),
        "policies[\"p\"].principals[0].remote_ip.address_prefix"
    );
    // As in Envoy.
    let wide = Identifier::RemoteIp(cidr("10.0.0.1", 33));
    assert!(Engine::compile(&rules(Action::Allow, vec![("p", Rule::Any(true), wide)])).is_ok());
}
