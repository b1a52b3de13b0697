//! `ssl.` stats of a listener or a cluster.

use super::error::VerifyFailure;
use super::{Handshaken, TlsError};

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
                if !done.peer.group.is_empty() {
                    self.dynamic.counter(&format!("curves.{}", done.peer.group)).inc();
                }
            }
            Err(TlsError::Verify(VerifyFailure::NoCertificate, _)) => self.fail_verify_no_cert.inc(),
            Err(TlsError::Verify(VerifyFailure::Chain, _)) => self.fail_verify_error.inc(),
            Err(TlsError::Verify(VerifyFailure::San, _)) => self.fail_verify_san.inc(),
            Err(TlsError::Verify(VerifyFailure::Hash, _)) => self.fail_verify_cert_hash.inc(),
            Err(TlsError::Handshake(_)) => self.connection_error.inc(),
            Err(TlsError::Io(_) | TlsError::SecretNotReady) => {}
        }
    }
}
