//! TLS contexts and secrets.

use remora_proto::ledger::{Allowed, MessageEntry, Verdict::*};

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.config.core.v3.TransportSocket": name typed_config),
    message!("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer":),
    message!("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext":
        common_tls_context require_client_certificate require_sni disable_stateful_session_resumption
        disable_stateless_session_resumption prefer_client_ciphers full_scan_certs_on_sni_mismatch;
        ocsp_staple_policy = OnlyDefaultAlways("only LENIENT_STAPLING is supported"),
        session_ticket_keys = RefusedAlways("ticket keys are the process's own"),
        session_ticket_keys_sds_secret_config = RefusedAlways("ticket keys are the process's own"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext":
        common_tls_context sni auto_host_sni auto_sni_san_validation max_session_keys;
        allow_renegotiation = OnlyDefaultAlways("renegotiation is not supported"),
        enforce_rsa_key_usage = OnlyDefaultAlways("key usage of RSA certificates is not enforced"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.CommonTlsContext":
        tls_params tls_certificates tls_certificate_sds_secret_configs validation_context
        validation_context_sds_secret_config combined_validation_context alpn_protocols;
        tls_certificate_provider_instance = RefusedAlways("certificate providers are not supported"),
        custom_tls_certificate_selector = RefusedAlways("certificate selectors are not supported"),
        tls_certificate_certificate_provider = RefusedAlways("certificate providers are not supported"),
        tls_certificate_certificate_provider_instance = RefusedAlways("certificate providers are not supported"),
        validation_context_certificate_provider = RefusedAlways("certificate providers are not supported"),
        validation_context_certificate_provider_instance = RefusedAlways("certificate providers are not supported"),
        custom_handshaker = RefusedAlways("the handshaker cannot be exchanged"),
        key_log = Refused("keys are not logged"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext":
        default_validation_context validation_context_sds_secret_config;
        validation_context_certificate_provider = RefusedAlways("certificate providers are not supported"),
        validation_context_certificate_provider_instance = RefusedAlways("certificate providers are not supported"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.TlsParameters":
        tls_maximum_protocol_version cipher_suites ecdh_curves;
        tls_minimum_protocol_version = NotValues(
            &[Allowed::Name("TLSv1_0"), Allowed::Name("TLSv1_1")],
            "accepted, and logged once: nothing below TLSv1_2 is spoken, so the minimum is that"
        ),
        compliance_policies = OnlyValuesAlways(&[Allowed::Name("FIPS_202205")], "only FIPS_202205 is supported"),
        signature_algorithms = RefusedAlways("signature algorithms are those of the TLS library"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.TlsCertificate":
        certificate_chain private_key ocsp_staple watched_directory;
        pkcs12 = RefusedAlways("only PEM is read"),
        private_key_provider = RefusedAlways("private keys are used in this process only"),
        password = RefusedAlways("encrypted keys are not read"),
        tls_params = RefusedAlways("parameters belong to a context, not to one of its certificates"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext":
        trusted_ca system_root_certs verify_certificate_spki verify_certificate_hash match_typed_subject_alt_names
        match_subject_alt_names crl allow_expired_certificate trust_chain_verification only_verify_leaf_cert_crl
        max_verify_depth suppress_client_ca_list custom_validator_config watched_directory;
        require_signed_certificate_timestamp = OnlyDefaultAlways("timestamps are not checked"),
        ca_certificate_provider_instance = RefusedAlways("certificate providers are not supported"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig":
        trust_domains;
        trust_bundles = RefusedAlways("bundles are given by trust domain"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.TrustDomain":
        name trust_bundle;
        workload_trust_domain = RefusedAlways("bundles are chosen by the peer's own name alone"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts":),
    message!("envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher":
        matcher oid;
        san_type = OnlyValuesAlways(
            &[Allowed::Name("EMAIL"), Allowed::Name("DNS"), Allowed::Name("URI"), Allowed::Name("IP_ADDRESS"), Allowed::Name("OTHER_NAME")],
            "only names of types EMAIL, DNS, URI, IP_ADDRESS and OTHER_NAME are matched"),
    ),
    message!("envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig": name sds_config),
    message!("envoy.extensions.transport_sockets.tls.v3.Secret":
        name tls_certificate validation_context;
        session_ticket_keys = RefusedAlways("ticket keys are the process's own"),
        generic_secret = RefusedAlways("no filter that is supported reads one"),
    ),
];
