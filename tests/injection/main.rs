//! Rung 6: injection. Network namespaces as pods, redirect rules by `remora inject`, real traffic through Remora as the sidecar.
//!
//! Needs root, iproute2 and iptables. Without them nothing is tested and a visible line says so; `REMORA_REQUIRE_ALL=1` makes that a failure.
//! With `PILOT_AGENT`, the path of Istio's pilot-agent, or `LAB_BIN`, a directory that it is in, the recorded rule sets of istio-iptables are compared with the real one.

#![allow(clippy::unwrap_used, clippy::panic)]

mod config;
mod failover;
mod pod;
mod rules;
mod space;
mod traffic;
