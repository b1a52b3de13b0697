//! `x-forwarded-client-cert` (spec C.9).

use base64::Engine;
use http::{HeaderName, HeaderValue};

use super::append_list_tight;
use crate::http::exchange::Exchange;
use crate::tls::PeerInfo;

/// `forward_client_cert_details` and what of the certificate is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xfcc {
    pub mode: Mode,
    pub cert: bool,
    pub chain: bool,
    pub subject: bool,
    pub uri: bool,
    pub dns: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

/// What is said of a connection's peer, and by which policy. `None`: nothing that a header can hold.
#[derive(Debug)]
pub struct Told {
    policy: Xfcc,
    value: Option<HeaderValue>,
}

const NAME: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

impl Xfcc {
    pub(super) fn apply(self, exchange: &mut Exchange) {
        if self.mode == Mode::AlwaysForwardOnly {
            return;
        }
        let peer = exchange.connection.tls.clone().filter(|tls| tls.certificate.is_some());
        let headers = exchange.request.headers_mut();
        let Some(peer) = peer.filter(|_| self.mode != Mode::Sanitize) else {
            headers.remove(NAME);
            return;
        };
        let sets = match self.mode {
            Mode::AppendForward => false,
            Mode::SanitizeSet => true,
            Mode::Sanitize | Mode::ForwardOnly | Mode::AlwaysForwardOnly => return,
        };
        let told = exchange.connection.xfcc.get_or_init(|| Box::new(self.told(&peer)));
        // Another policy than that of the connection's other requests finds its own words.
        let told = match told.policy == self {
            true => told.value.clone(),
            false => self.told(&peer).value,
        };
        match told {
            Some(value) if sets || !headers.contains_key(NAME) => {
                headers.insert(NAME, value);
            }
            Some(value) => append_list_tight(headers, &NAME, value.as_bytes()),
            None if sets => {
                headers.remove(NAME);
            }
            None => {}
        }
    }

    fn told(self, peer: &PeerInfo) -> Told {
        Told {
            policy: self,
            value: HeaderValue::try_from(self.element(peer)).ok(),
        }
    }

    /// What is said of the peer.
    fn element(self, peer: &PeerInfo) -> String {
        let mut parts: Vec<String> = peer.local_uri_sans.iter().map(|uri| format!("By={uri}")).collect();
        parts.extend(peer.sha256.as_ref().map(|hash| format!("Hash={hash}")));
        if self.cert {
            parts.extend(
                peer.certificate
                    .as_ref()
                    .map(|der| format!("Cert=\"{}\"", url_encoded_pem(der))),
            );
        }
        if self.chain && !peer.chain.is_empty() {
            let chain: String = peer.chain.iter().map(|der| url_encoded_pem(der)).collect();
            parts.push(format!("Chain=\"{chain}\""));
        }
        if self.subject {
            parts.push(format!("Subject=\"{}\"", peer.subject.as_deref().unwrap_or_default()));
        }
        if self.uri {
            // The key stands there even without a value.
            match peer.uri_sans.as_slice() {
                [] => parts.push("URI=".to_owned()),
                uris => parts.extend(uris.iter().map(|uri| format!("URI={uri}"))),
            }
        }
        if self.dns {
            parts.extend(peer.dns_sans.iter().map(|dns| format!("DNS={dns}")));
        }
        parts.join(";")
    }
}

/// A certificate as PEM.
pub fn pem(der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 64);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// PEM in which what may not stand in a header or URL is escaped, as Envoy writes it.
pub fn url_encoded_pem(der: &[u8]) -> String {
    let pem = pem(der);
    let mut out = String::with_capacity(pem.len() + pem.len() / 16);
    for character in pem.chars() {
        match character {
            '\n' => out.push_str("%0A"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::Body;
    use crate::http::exchange::Protocol;

    #[test]
    fn an_element_is_what_istio_expects() {
        let peer = PeerInfo {
            uri_sans: vec!["spiffe://td/ns/a/sa/client".into()],
            dns_sans: vec!["client.a".into()],
            sha256: Some("ab12".into()),
            local_uri_sans: vec!["spiffe://td/ns/b/sa/server".into()],
            subject: Some(String::new()),
            ..PeerInfo::default()
        };
        let xfcc = Xfcc {
            mode: Mode::AppendForward,
            subject: true,
            uri: true,
            dns: true,
            ..Xfcc::default()
        };
        let expected =
            "By=spiffe://td/ns/b/sa/server;Hash=ab12;Subject=\"\";URI=spiffe://td/ns/a/sa/client;DNS=client.a";
        assert_eq!(xfcc.element(&peer), expected);
    }

    #[test]
    fn a_connection_is_described_once_but_for_each_policy_in_its_own_words() {
        let peer = PeerInfo {
            certificate: Some([0; 4].as_slice().into()),
            subject: Some("CN=one".into()),
            sha256: Some("ab12".into()),
            ..PeerInfo::default()
        };
        let short = Xfcc {
            mode: Mode::AppendForward,
            ..Xfcc::default()
        };
        let long = Xfcc { subject: true, ..short };
        let connection = std::sync::Arc::new(crate::testing::connection(Some(peer)));
        let told = |xfcc: Xfcc, before: Option<&'static str>| {
            let request = http::Request::new(Body::Empty);
            let mut exchange = Exchange::new(request, connection.clone(), Protocol::Http11);
            let before = before.map(|value| (NAME, HeaderValue::from_static(value)));
            exchange.request.headers_mut().extend(before);
            xfcc.apply(&mut exchange);
            exchange.request.headers()[NAME].to_str().expect("text").to_owned()
        };
        assert_eq!(told(short, None), "Hash=ab12");
        assert_eq!(told(short, Some("Hash=ff")), "Hash=ff,Hash=ab12");
        assert_eq!(told(long, None), "Hash=ab12;Subject=\"CN=one\"");
        let sets = Xfcc {
            mode: Mode::SanitizeSet,
            ..short
        };
        assert_eq!(told(sets, Some("Hash=ff")), "Hash=ab12");
    }
}
