use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use pb::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
use pb::jwt_requirement::RequiresType;
use remora_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use remora_proto::pb::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use remora_proto::pb::google::protobuf::value::Kind;

use super::*;
use crate::config::BuildContext;
use crate::filters::http::tests;
use crate::http::exchange::DynamicMetadata;
use crate::testing::exchange;

const SECRET: &[u8] = b"secret-secret-secret-secret";
const GOOD: &str = r#"{"iss":"https://issuer.test","aud":["https://shop/","x"],"sub":"me","scope":"read write","n":3}"#;

fn signed(header: &str, payload: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let text = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
    let signature = sign(text.as_bytes());
    format!("{text}.{}", BASE64.encode(signature))
}

fn hs256(payload: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    signed(r#"{"alg":"HS256","kid":"1"}"#, payload, |text| {
        hmac::sign(&key, text).as_ref().to_vec()
    })
}

fn secret_set() -> String {
    format!(
        r#"{{"keys":[{{"kty":"oct","kid":"1","alg":"HS256","k":"{}"}}]}}"#,
        BASE64.encode(SECRET)
    )
}

fn provider(jwks: &str) -> pb::JwtProvider {
    let source = DataSource {
        specifier: Some(Specifier::InlineString(jwks.into())),
        ..Default::default()
    };
    pb::JwtProvider {
        issuer: "https://issuer.test".into(),
        audiences: vec!["shop".into()],
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(source)),
        payload_in_metadata: "payload".into(),
        forward_payload_header: "x-payload".into(),
        claim_to_headers: vec![pb::JwtClaimToHeader {
            header_name: "x-sub".into(),
            claim_name: "sub".into(),
            ..Default::default()
        }],
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: vec!["scope".into()],
        }),
        ..Default::default()
    }
}

fn named() -> pb::JwtRequirement {
    pb::JwtRequirement {
        requires_type: Some(RequiresType::ProviderName("p".into())),
    }
}

fn or_missing() -> pb::JwtRequirement {
    let missing = pb::JwtRequirement {
        requires_type: Some(RequiresType::AllowMissing(Default::default())),
    };
    pb::JwtRequirement {
        requires_type: Some(RequiresType::RequiresAny(pb::JwtRequirementOrList {
            requirements: vec![named(), missing],
        })),
    }
}

fn config(provider: pb::JwtProvider, requires: pb::JwtRequirement) -> pb::JwtAuthentication {
    pb::JwtAuthentication {
        providers: [("p".to_owned(), provider)].into(),
        rules: vec![pb::RequirementRule {
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".into())),
                ..Default::default()
            }),
            requirement_type: Some(RequirementType::Requires(requires)),
        }],
        bypass_cors_preflight: true,
        ..Default::default()
    }
}

fn filter(config: &pb::JwtAuthentication) -> Arc<dyn Filter> {
    tests::compile(REGISTRATION, config, &BuildContext::default()).expect("compiles")
}

/// Status and body details of a refusal, or `None`.
fn refused(filter: &Arc<dyn Filter>, exchange: &mut Exchange) -> Option<(u16, String)> {
    match filter.request_headers(exchange) {
        Flow::Respond(response) => Some((response.status().as_u16(), exchange.details.to_string())),
        _ => None,
    }
}

fn with_token(token: &str) -> Exchange {
    exchange(
        "GET",
        "/",
        &[("host", "h"), ("authorization", &format!("Bearer {token}"))],
    )
}

#[test]
fn a_good_token_passes_and_its_claims_go_on() {
    let filter = filter(&config(provider(&secret_set()), named()));
    let mut request = with_token(&hs256(GOOD));
    request
        .request
        .headers_mut()
        .insert("x-sub", HeaderValue::from_static("forged"));
    assert_eq!(refused(&filter, &mut request), None);
    assert_eq!(request.headers()["x-sub"], "me");
    assert_eq!(request.headers()["x-payload"], BASE64.encode(GOOD));
    assert!(!request.headers().contains_key("authorization"));
    let metadata = request.extensions.get::<DynamicMetadata>().expect("metadata");
    let claim = |path: &[&str]| {
        let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
        metadata
            .value("envoy.filters.http.jwt_authn", &path)
            .and_then(|value| value.kind.clone())
    };
    assert_eq!(claim(&["payload", "sub"]), Some(Kind::StringValue("me".into())));
    assert!(matches!(claim(&["payload", "scope"]), Some(Kind::ListValue(list)) if list.values.len() == 2));
}

#[test]
fn what_claims_would_say_is_never_a_clients_word() {
    let own = pb::RequirementRule {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/free".into())),
            ..Default::default()
        }),
        requirement_type: None,
    };
    let mut config = config(provider(&secret_set()), named());
    config.rules.insert(0, own);
    config.rules[1].r#match.as_mut().expect("a match").path_specifier = Some(PathSpecifier::Prefix("/asked".into()));
    let filter = filter(&config);
    let preflight = [("origin", "o"), ("access-control-request-method", "GET")];
    for (method, path, more) in [
        ("OPTIONS", "/asked", &preflight[..]),
        ("GET", "/free", &[]),
        ("GET", "/nowhere", &[]),
    ] {
        let forged = [("host", "h"), ("x-sub", "root"), ("x-payload", "forged")];
        let headers: Vec<_> = forged.iter().chain(more).copied().collect();
        let mut request = exchange(method, path, &headers);
        assert_eq!(refused(&filter, &mut request), None, "{path}");
        let headers = request.headers();
        assert!(
            !headers.contains_key("x-sub") && !headers.contains_key("x-payload"),
            "{path}"
        );
    }
}

#[test]
fn claims_are_what_the_standard_says_and_there_once() {
    let filter = filter(&config(provider(&secret_set()), named()));
    let with = |claim: &str| GOOD.replace("\"n\":3", claim);
    let rows = [
        (with(r#""iss":"https://other.test""#), "Jwt_payload_is_an_invalid_JSON"),
        (with(r#""deep":[{"a":1,"a":2}]"#), "Jwt_payload_is_an_invalid_JSON"),
        (
            with(r#""exp":1e30"#),
            "Jwt_payload_[exp]_field_is_not_a_positive_64_bit_integer",
        ),
        (
            with(r#""nbf":-5"#),
            "Jwt_payload_[nbf]_field_is_not_a_positive_64_bit_integer",
        ),
        (with(r#""iat":"x""#), "Jwt_payload_[iat]_field_is_not_an_integer"),
        (with(r#""jti":1"#), "Jwt_payload_[jti]_field_is_not_a_string"),
        (GOOD.replace("\"me\"", "1"), "Jwt_payload_[sub]_field_is_not_a_string"),
        (
            GOOD.replace("\"x\"]", "1]"),
            "Jwt_payload_[aud]_field_is_not_a_string_or_string_list",
        ),
    ];
    for (payload, words) in rows {
        let details = format!("jwt_authn_access_denied{{{words}}}");
        assert_eq!(
            refused(&filter, &mut with_token(&hs256(&payload))),
            Some((401, details)),
            "{payload}"
        );
    }
    let numbered = signed(r#"{"alg":"HS256","kid":1}"#, GOOD, |_| Vec::new());
    let details = "jwt_authn_access_denied{Jwt_header_[kid]_field_is_not_a_string}".to_owned();
    assert_eq!(refused(&filter, &mut with_token(&numbered)), Some((401, details)));
}

#[test]
fn bad_tokens_are_refused_in_envoys_words() {
    let filter = filter(&config(provider(&secret_set()), named()));
    let cases = [
        (GOOD.replace("issuer", "other"), 401, "Jwt_issuer_is_not_configured"),
        (GOOD.replace("shop", "else"), 403, "Audiences_in_Jwt_are_not_allowed"),
        (GOOD.replace("\"n\"", "\"exp\""), 401, "Jwt_is_expired"),
        (GOOD.replace("\"n\":3", "\"nbf\":99999999999"), 401, "Jwt_not_yet_valid"),
    ];
    for (payload, status, words) in cases {
        let details = format!("jwt_authn_access_denied{{{words}}}");
        assert_eq!(
            refused(&filter, &mut with_token(&hs256(&payload))),
            Some((status, details))
        );
    }
    let good = hs256(GOOD);
    let tampered = format!("{}A{}", &good[..good.len() - 10], &good[good.len() - 9..]);
    let unsigned = signed(r#"{"alg":"none"}"#, GOOD, |_| Vec::new());
    for (token, words) in [
        (tampered.as_str(), "Jwt_verification_fails"),
        (unsigned.as_str(), "Jwt_header_[alg]_is_not_supported"),
        (
            "a.b",
            "Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections",
        ),
    ] {
        let details = format!("jwt_authn_access_denied{{{words}}}");
        assert_eq!(refused(&filter, &mut with_token(token)), Some((401, details)));
    }
}

#[test]
fn a_missing_token_is_refused_with_a_challenge_unless_it_may_be_missing() {
    let strict = filter(&config(provider(&secret_set()), named()));
    let mut bare = exchange("GET", "/a", &[("host", "h")]);
    let Flow::Respond(response) = strict.request_headers(&mut bare) else {
        panic!("an answer");
    };
    assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"http://h/a\"");
    let lenient = filter(&config(provider(&secret_set()), or_missing()));
    assert_eq!(refused(&lenient, &mut exchange("GET", "/", &[])), None);
    assert!(refused(&lenient, &mut with_token("a.b.c")).is_some());
    let foreign = hs256(&GOOD.replace("issuer", "other"));
    assert!(refused(&lenient, &mut with_token(&foreign)).is_some());
    let preflight = [("origin", "o"), ("access-control-request-method", "GET")];
    assert_eq!(refused(&strict, &mut exchange("OPTIONS", "/", &preflight)), None);
}

#[test]
fn tokens_are_found_where_they_are_configured_to_be() {
    let provider = pb::JwtProvider {
        from_headers: vec![pb::JwtHeader {
            name: "x-token".into(),
            value_prefix: "Token ".into(),
        }],
        from_params: vec!["token".into()],
        ..provider(&secret_set())
    };
    let filter = filter(&config(provider, named()));
    let good = hs256(GOOD);
    assert!(refused(&filter, &mut with_token(&good)).is_some());
    let header = format!("Token {good}");
    assert_eq!(
        refused(&filter, &mut exchange("GET", "/", &[("x-token", &header)])),
        None
    );
    let mut in_query = exchange("GET", &format!("/p?a=1&token={good}&b=2"), &[]);
    assert_eq!(refused(&filter, &mut in_query), None);
    assert_eq!(
        in_query.request.uri().path_and_query().map(|path| path.as_str()),
        Some("/p?a=1&b=2")
    );
}

/// Each row is what Envoy makes of it.
#[test]
fn a_token_with_company_is_no_good_token() {
    let filter = filter(&config(provider(&secret_set()), named()));
    let good = format!("Bearer {}", hs256(GOOD));
    let (comma, semicolon, blank, basic) = (
        format!("{good},x"),
        format!("{good};a"),
        format!("{good} x"),
        format!("Basic a, {good}"),
    );
    let rows: [(&[&str], bool); 9] = [
        (&[&good], true),
        (&[&good, "Bearer rubbish"], false),
        (&["Bearer rubbish", &good], false),
        (&[&good, &good], false),
        (&[&comma], false),
        (&[&semicolon], false),
        (&[&blank], false),
        (&[&basic], true),
        (&["Basic a", &good, "Basic b"], false),
    ];
    for (values, passes) in rows {
        let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        let refusal = refused(&filter, &mut exchange("GET", "/", &headers));
        assert_eq!(refusal.is_none(), passes, "{values:?}");
    }
    let mut in_query = exchange("GET", &format!("/?access_token={},x", hs256(GOOD)), &[]);
    assert!(refused(&filter, &mut in_query).is_some());
}

#[test]
fn public_keys_verify_and_are_not_taken_for_secrets() {
    let random = aws_lc_rs::rand::SystemRandom::new();
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let point = ec.public_key().as_ref();
    let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..65]));
    let ed = Ed25519KeyPair::generate().expect("a key");
    let ed_public = BASE64.encode(ed.public_key().as_ref());
    let set = format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}},{{"kty":"OKP","crv":"Ed25519","kid":"e","x":"{ed_public}"}},{{"kty":"odd"}}]}}"#
    );
    let filter = filter(&config(provider(&set), named()));
    let es256 = signed(r#"{"alg":"ES256"}"#, GOOD, |text| {
        ec.sign(&random, text).expect("signs").as_ref().to_vec()
    });
    let eddsa = signed(r#"{"alg":"EdDSA","kid":"e"}"#, GOOD, |text| {
        ed.sign(text).as_ref().to_vec()
    });
    assert_eq!(refused(&filter, &mut with_token(&es256)), None);
    assert_eq!(refused(&filter, &mut with_token(&eddsa)), None);
    let forged = hmac::Key::new(hmac::HMAC_SHA256, point);
    let confused = signed(r#"{"alg":"HS256"}"#, GOOD, |text| {
        hmac::sign(&forged, text).as_ref().to_vec()
    });
    let details = "jwt_authn_access_denied{Jwt_verification_fails}".to_owned();
    assert_eq!(refused(&filter, &mut with_token(&confused)), Some((401, details)));
}

#[test]
fn what_would_authenticate_nobody_or_anybody_is_refused() {
    let problem = |config: &pb::JwtAuthentication| {
        let problems = tests::compile(REGISTRATION, config, &BuildContext::default()).err();
        problems.expect("refused").0[0].path.clone()
    };
    assert_eq!(problem(&config(provider("{}"), named())), "providers[\"p\"].local_jwks");
    let remote = pb::JwtProvider {
        jwks_source_specifier: Some(JwksSourceSpecifier::RemoteJwks(Default::default())),
        ..provider("")
    };
    assert_eq!(
        problem(&config(remote, named())),
        "providers[\"p\"].remote_jwks.http_uri"
    );
    let unknown = pb::JwtRequirement {
        requires_type: Some(RequiresType::ProviderName("q".into())),
    };
    assert_eq!(
        problem(&config(provider(&secret_set()), unknown)),
        "rules[0].requires.provider_name"
    );
}
