//! `jwt_authn` with key sets that are fetched, and every kind of signature.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get};

const MANAGER: &str = r#"route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /}, route: {cluster: a}}
"#;

/// A listener whose tokens are good by keys that are fetched like this.
fn checked(name: &str, keys: &str) -> String {
    let filter = format!(
        r#"          http_filters:
          - name: jwt
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                p:
                  issuer: https://remote.test
                  audiences: [shop]
                  remote_jwks: {{{keys}}}
                  claim_to_headers: [{{header_name: x-sub, claim_name: sub}}]
                  forward: true
              rules:
              - {{match: {{prefix: /free}}}}
              - {{match: {{prefix: /maybe}}, requires: {{requires_any: {{requirements: [{{provider_name: p}}, {{allow_missing: {{}}}}]}}}}}}
              - {{match: {{prefix: /}}, requires: {{provider_name: p}}}}
"#
    );
    listener(name, MANAGER).replace("          http_filters:\n", &filter)
}

pub fn world() -> World {
    let from = |what: &str| format!("http_uri: {{uri: \"http://keys.test/keys?do={what}\", cluster: a, timeout: 5s}}");
    let retried = "retry_policy: {num_retries: 2, retry_back_off: {base_interval: 0.001s}}";
    let closed = "http_uri: {uri: \"http://keys.test/\", cluster: closed, timeout: 5s}";
    let listeners = [
        checked("fetched", &from("keys")),
        checked("unavailable", &format!("{}, {retried}", from("status=503"))),
        checked("missing", &from("status=404")),
        checked("rubbish", &from("body=7")),
        checked("unreachable", closed),
    ];
    let clusters = [cluster("a", &["{{a}}"], ""), cluster("closed", &["{{closed}}"], "")];
    World {
        name: "tokens",
        yaml: bootstrap(&listeners, &clusters),
        cases: cases(),
        stats: &[
            "http.fetched.jwt_authn",
            "http.unavailable.jwt_authn",
            "http.missing.jwt_authn",
            "http.rubbish.jwt_authn",
            "http.unreachable.jwt_authn",
            "cluster.a.internal.upstream_rq_200",
            "cluster.a.internal.upstream_rq_404",
        ],
    }
}

fn bearer(name: &'static str, status: u16, listener: &'static str, token: &str) -> Case {
    get(name, status, "/x", &format!("authorization: Bearer {token}\n")).on(listener)
}

fn cases() -> Vec<Case> {
    let good = |name, token| bearer(name, 200, "fetched", token);
    vec![
        get("nothing is asked for", 200, "/free", "").on("fetched"),
        get(
            "a claim's header where nothing is asked for",
            200,
            "/free",
            "x-sub: root\n",
        )
        .on("fetched"),
        get("no token where none is needed", 200, "/maybe", "").on("fetched"),
        get("a claim's header without a token", 200, "/maybe", "x-sub: root\n").on("fetched"),
        get("no token, nothing fetched", 401, "/x", "").on("fetched"),
        good("RS256", RS256),
        good("RS384", RS384),
        good("RS512", RS512),
        good("PS256", PS256),
        good("PS384", PS384),
        good("PS512", PS512),
        good("ES256", ES256),
        good("ES384", ES384),
        good("ES512", ES512),
        good("EdDSA", EDDSA),
        bearer("signed with a public key", 401, "fetched", CONFUSED),
        bearer("another token's signature", 401, "fetched", OTHER),
        bearer("half of a signature", 401, "fetched", &RS256[..RS256.len() - 100]),
        bearer("keys unavailable", 401, "unavailable", RS256),
        bearer("keys missing", 401, "missing", RS256),
        bearer("keys are rubbish", 401, "rubbish", RS256),
        bearer("keys unreachable", 401, "unreachable", RS256),
        get("keys unreachable, and no token", 401, "/x", "").on("unreachable"),
        get("keys unreachable, and not needed", 200, "/free", "").on("unreachable"),
    ]
}

const RS256: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.cQWpSK1ODsh_alLVuAKnSAOqKJBlzxIUAOjUnKtnA3py4luoPb2mbeZ5l69gS3XWOP9StjXEJWU5IMB14Hjo8B9X-y5SFM4Yg8JUoVHPCo3_s53GOrLSsNFSI1zIrcjCbbhUZ08y8J8YUAzgDVUFtgqimNdV3E-hA2GrKWTMC7hVMVCOw6CvLiaBtmGtay_LHIFdGeeREnC_qUb7bYhWXHH2ckFrC6cMUWh6WtadLjxN4OsKCrueQoIjQdURpCY3x86Fe2nJuIiJSR6QCZyZVw5BcFNmlUX34PeCmEiGHkT70LPn-3Si2Z7_n7yDMMZjfCMWZmKqWj3sIwBEjm-HJA";
const RS384: &str = "eyJhbGciOiJSUzM4NCIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.XHGv2iBKCNQvJKatEeuZUHWj1dbZhWjHqR3DDsnZaYLaGq8UcW7expqjR2F_FwHHMq178BPSoAAr5BZ-iKe7pmqqNMIRxNq2mDvouY7vArztnFy6RIoQEGBt_Ee22gjjgXbYge4DjzqjyzikTv67r4JrIkWga4LIRur8ySMoOygxUzrn4356Gwyac_O-DRGTo9UErZREoSsTpPnNDEHmO52HB1jiKwSZ-aWHx6PB6I_8jDASKb3gxDXeoOTWJh1O9kI2nKmpfbwli3_UAuvOba4ormnZHWis2a5frUuOQ7D0H1udOlalFH-umkmG90ZNZmh58TzxaAvlq51hNDxq8g";
const RS512: &str = "eyJhbGciOiJSUzUxMiIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.LmSQd6C7sMuMfixuLPfxugDiUUItrycyfwn8jCXIaGy3tmL0TxygZxeqkO0ic8D9l0W0DObAoLHm_CAGviSWGOqtmp5Um9rT6kFYadCQBI1W454VmjqKZ6G5PJKomeKFFuYRWu9FGP_6XsoiWYn1eOBh2bY4q--81_PUKxuQ9SLsympt1oZhzqXT2OIWXj6wkvyOhdZIcbgWNGx_ywn2Dhz8lb2cUKZZg-safuCOPojAJOZX-jVXvDIXpXBc7u-gjN7Qgsjq9B13xDXDi69q3-HjvYRSNztDCxaMrjDO-PkXXlTOvD7JprtTHIPJQSofJx1QkJbBNg7uwddsuEGliw";
const PS256: &str = "eyJhbGciOiJQUzI1NiIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.OFCv2RXDUF0uGQ8fBurVO7_y2xoUwEU5YPcKcZaqg6nDHQE6azCDDgazu_6Z7meHr6224kdibdN0GYHcBHknUcxgUs_wrzBYCXeMWGZr-Vvsvv6zXQwzOdFj3kGlQnGWkXD_bd86Z-8ozUnkayLi2rbHQ0ZbigQE9mRzv1q-d9BIcV0GZjF7tu13b1xyRd1ljQnsW8YSJo8LJJ5TNwbGTK0KNCfdLzhmiRzgYHRXdV-KcADeMClrqRmgp8TdmTuMMLd7aG6bZfSHgdhSKRgjnEgBDTngZykjBsADq9iy7eZk19-wEHJUr70oYgxgfrT6jSR4JCUIQCoWqOT72l1ZiQ";
const PS384: &str = "eyJhbGciOiJQUzM4NCIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.k6kx28I_zszUoGelA5fse0pCbGO-V1XPvnimZAoCpUThUeNANhhMjl_geRdOH2RagcJ2dktDCcQtzyBZHWtpbz_IDG3_7c-38lSipZ0OpHGN2r18Svpan2_S-VB1X_oIkoMPp3elfpN-j2I7VaBnGWiYOL7edKIfR7NKce12omVNiMdpTat0KDlvj5viaE9HG-55YTPOQKb0xN2KCFDb_oCoCNP_xbM7jtfAhVLPOls_9q6rAjhu2SxWmiKPxJYTZTMuUQYv9W8lq4zOJLpuNjAdmBbCzus7DxQDzxtlYQOffvFYAjeDcGih8dztj-lZYRaVjZEBNLIAQn7hNgpEdw";
const PS512: &str = "eyJhbGciOiJQUzUxMiIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.OKvpfRO4mMTCd8BM2NbEmXIdt-zhDStOupnv15QvVfLpXeLIMxiI0cHAKHmcHymUqhOoO8R9YJ7WHmbiuY9eQXp_2-QSuFSJduubtqhRNzuOWM_nx8bOgrtIEq267Wgi7CoupEDKmH5w0yYdTSWSPfRaOvk0M272QecOz6vA0sJgsfDlZF6mgY9knFcyPf4OimlQoQzVx2oHQJEJ525b3IG1RsLO5QjE2lMH0k7IhFZf1wB3ksVhmYGGShUj1COeTkX4DRE1bcWNARTGMOLTQTLvOu7xaFKzU7vIh1aesaeTw7jln63eX3fSoqNwO5aThSjbtgzB4oUFXDxCjHameA";
const ES256: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImUyIn0.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.9C3h1n2EtXtxq3X8hHSLqyyWHvUFOeaQLjFWir1PyH-_nYjpSy68lH7baYqjiBO3KNIlltI060ajxT_kU1T4aQ";
const ES384: &str = "eyJhbGciOiJFUzM4NCIsImtpZCI6ImUzIn0.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.CELuJ3aY7FRDL9OyTbOn2GooRYvP7BRaocF6_scC2FQUpBcHEEAh8CJXIZi-rcfUj_c9t8wPvTk00itzxehcZx_etRzjSGasX7p8rK8_4rEI2fBcv4FZwuZoI2G7HTBW";
const ES512: &str = "eyJhbGciOiJFUzUxMiIsImtpZCI6ImU1In0.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.AaaZOGYDfA0G5PmAaGdy2PFsjJfwxXO9ubMsckHNFyLJJ4eKdjB-e06SyVsqwfc-2XVzUnWuZMGgmWO-W6Nhn7NQAJUc-MOYnc0qRW3bgp_RnfphLlOr5WTMe8ym-82ZNPGSac1fsoeYiCHak1M0BLA3b2o4wG_MZasw8ywlOSq37GpW";
const EDDSA: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6ImQifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.m0jiSYwCrYJIi5KDQHdDRU_6JZFTJXlbcrfEFBsr7NWp27_3oLwE6_2nDJ5ElXhqs6c2we_LX5z0c5_vwTIjAw";
const CONFUSED: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.bLF9v8P5yboI1YXld9iKT5zy_I5FzF0QY-s5YlB9osE";
const OTHER: &str = "eyJhbGciOiJSUzM4NCIsImtpZCI6InIifQ.eyJpc3MiOiJodHRwczovL3JlbW90ZS50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.cQWpSK1ODsh_alLVuAKnSAOqKJBlzxIUAOjUnKtnA3py4luoPb2mbeZ5l69gS3XWOP9StjXEJWU5IMB14Hjo8B9X-y5SFM4Yg8JUoVHPCo3_s53GOrLSsNFSI1zIrcjCbbhUZ08y8J8YUAzgDVUFtgqimNdV3E-hA2GrKWTMC7hVMVCOw6CvLiaBtmGtay_LHIFdGeeREnC_qUb7bYhWXHH2ckFrC6cMUWh6WtadLjxN4OsKCrueQoIjQdURpCY3x86Fe2nJuIiJSR6QCZyZVw5BcFNmlUX34PeCmEiGHkT70LPn-3Si2Z7_n7yDMMZjfCMWZmKqWj3sIwBEjm-HJA";
