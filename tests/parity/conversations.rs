//! The same scripted control plane in front of the real Envoy and of Remora, and what each of them says to it compared: every request, with
//! its version, nonce, names, and whether it is an ACK or a NACK.

mod files;
mod play;
mod scripts;
mod stage;

use control_plane_mock::resources::Variant;
use play::compare;
use stage::Form;

#[tokio::test]
async fn sotw_ads() {
    compare("sotw", Form::Ads, Variant::Sotw, scripts::life(Variant::Sotw)).await;
}

#[tokio::test]
async fn delta_ads() {
    compare("delta", Form::Ads, Variant::Delta, scripts::life(Variant::Delta)).await;
}

#[tokio::test]
async fn sotw_streams_of_single_types() {
    compare(
        "sotw-separate",
        Form::Separate,
        Variant::Sotw,
        scripts::separate_lives(Variant::Sotw),
    )
    .await;
}

#[tokio::test]
async fn delta_streams_of_single_types() {
    compare(
        "delta-separate",
        Form::Separate,
        Variant::Delta,
        scripts::separate_lives(Variant::Delta),
    )
    .await;
}

#[tokio::test]
async fn sotw_times_to_live_and_heartbeats() {
    compare("sotw-ttl", Form::Ads, Variant::Sotw, scripts::mortal(Variant::Sotw)).await;
}

#[tokio::test]
async fn delta_times_to_live_and_heartbeats() {
    compare("delta-ttl", Form::Ads, Variant::Delta, scripts::mortal(Variant::Delta)).await;
}

#[tokio::test]
async fn delta_removals_of_what_is_in_use() {
    compare("delta-withdrawn", Form::Ads, Variant::Delta, scripts::withdrawn()).await;
}

#[tokio::test]
async fn sotw_endpoints_and_secrets_from_sources_of_their_own() {
    compare("sotw-own", Form::Own, Variant::Sotw, scripts::own()).await;
}

#[tokio::test]
async fn delta_endpoints_and_secrets_from_sources_of_their_own() {
    compare("delta-own", Form::Own, Variant::Delta, scripts::own()).await;
}
