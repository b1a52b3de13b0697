//! Prints a bootstrap that points a sidecar at a control plane. The arguments are the control plane's address, that of the admin listener, and
//! `delta`; these two addresses and state-of-the-world streams are what it takes without:
//! `cargo run -p control-plane-mock --example bootstrap -- 127.0.0.1:18000 127.0.0.1:9901 > bootstrap.yaml`

use std::env;

use control_plane_mock::Listen;
use control_plane_mock::resources::{Variant, bootstrap_ads};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let xds = arguments.next().unwrap_or_else(|| "127.0.0.1:18000".to_owned());
    let admin = arguments.next().unwrap_or_else(|| "127.0.0.1:9901".to_owned());
    let variant = if arguments.next().as_deref() == Some("delta") {
        Variant::Delta
    } else {
        Variant::Sotw
    };
    println!(
        "{}",
        bootstrap_ads("node-1", &Listen::Tcp(xds.parse()?), admin.parse()?, variant)
    );
    Ok(())
}
