//! The bootstrap file.
