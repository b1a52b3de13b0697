//! `ssl.` stats of a listener or a cluster.

use std::collections::BTreeMap;
use std::sync::Weak;

use parking_lot::Mutex;

use super::error::VerifyFailure;
use super::secret::Rebuild;
use super::{Handshaken, TlsError, signed};
use crate::telemetry::stats::{StatGroup, Value};

crate::stat_group! {
    /// Under `listener.<address>.ssl.` or `cluster.<name>.ssl.`.
    pub struct SslStats {
        counters: {
            connection_error, handshake, session_reused, no_certificate,
            fail_verify_no_cert, fail_verify_error, fail_verify_san, fail_verify_cert_hash,
        }
        gauges: {}
        histograms: {}
    }
}

crate::stat_group! {
    /// Under `listener.<address>.server_ssl_socket_factory.`.
    pub struct ServerSocketStats {
        counters: { ssl_context_update_by_sds, downstream_context_secrets_not_ready }
        gauges: {}
        histograms: {}
    }
}

crate::stat_group! {
    /// Under `cluster.<name>.client_ssl_socket_factory.`.
    pub struct ClientSocketStats {
        counters: { ssl_context_update_by_sds, upstream_context_secrets_not_ready }
        gauges: {}
        histograms: {}
    }
}

/// Under `….ssl.certificate.`: when the certificates expire of the contexts that live, asked when somebody looks.
#[derive(Default)]
pub struct Expirations(Mutex<Vec<Weak<dyn Rebuild>>>);

impl Expirations {
    /// Shows the certificates of `context` for as long as it lives.
    pub fn watch(&self, context: Weak<dyn Rebuild>) {
        let mut contexts = self.0.lock();
        contexts.retain(|known| known.strong_count() > 0 && !std::ptr::addr_eq(known.as_ptr(), context.as_ptr()));
        contexts.push(context);
    }
}

impl StatGroup for Expirations {
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        let contexts: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        // Two of a name have one gauge; the newest context is right.
        let mut gauges = BTreeMap::new();
        for context in contexts {
            context.expirations(&mut |name, at| {
                let gauge = format!("{}.expiration_unix_time_seconds", name.replace(':', "_"));
                gauges.insert(gauge, u64::try_from(at).unwrap_or(0));
            });
        }
        for (name, at) in gauges {
            visit(&name, Value::Gauge(at));
        }
    }
}

impl SslStats {
    /// Counts the outcome of one handshake.
    pub fn record(&self, outcome: &Result<Handshaken, TlsError>) {
        match outcome {
            Ok(done) => {
                self.handshake.inc();
                if done.resumed {
                    self.session_reused.inc();
                }
                if done.peer.certificate.is_none() {
                    self.no_certificate.inc();
                }
                self.dynamic.counter(&format!("versions.{}", done.peer.version)).inc();
                self.dynamic.counter(&format!("ciphers.{}", done.peer.cipher)).inc();
                if let Some(failure) = done.overlooked {
                    self.failed(failure);
                }
                if let Some(scheme) = done.signature {
                    self.dynamic.counter(&format!("sigalgs.{}", signed::name(scheme))).inc();
                }
                if !done.peer.group.is_empty() {
                    self.dynamic.counter(&format!("curves.{}", done.peer.group)).inc();
                }
            }
            Err(TlsError::Verify(failure, _)) => self.failed(*failure),
            Err(TlsError::Handshake(_)) => self.connection_error.inc(),
            Err(TlsError::Io(_) | TlsError::SecretNotReady) => {}
        }
    }

    fn failed(&self, failure: VerifyFailure) {
        match failure {
            VerifyFailure::NoCertificate => self.fail_verify_no_cert.inc(),
            VerifyFailure::Chain => self.fail_verify_error.inc(),
            VerifyFailure::San => self.fail_verify_san.inc(),
            VerifyFailure::Hash => self.fail_verify_cert_hash.inc(),
        }
    }
}
