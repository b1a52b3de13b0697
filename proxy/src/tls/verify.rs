//! Certificate verification: chains, SANs, SPIFFE.
