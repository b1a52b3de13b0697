//! Workers: one OS thread with a current-thread runtime each.
