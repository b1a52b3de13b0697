//! The command line, flag for flag Envoy's.
