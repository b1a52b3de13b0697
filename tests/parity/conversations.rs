//! The same scripted control plane in front of the real Envoy and of Remora, and what each of them says to it compared: every request, with
//! its version, nonce, names, and whether it is an ACK or a NACK.

mod play;
mod scripts;

use control_plane_mock::resources::Variant;
use play::compare;

#[tokio::test]
async fn sotw_ads() {
    compare("sotw", Variant::Sotw, scripts::ads(Variant::Sotw)).await;
}

#[tokio::test]
async fn delta_ads() {
    compare("delta", Variant::Delta, scripts::ads(Variant::Delta)).await;
}
