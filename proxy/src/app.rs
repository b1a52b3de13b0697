//! Construction of every long-lived object, once.
