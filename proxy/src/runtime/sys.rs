//! The only file with `unsafe`: socket options that `socket2` and `rustix` do not offer (D13).
