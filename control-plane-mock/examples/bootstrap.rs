//! Prints a bootstrap that points a sidecar at a control plane:
//! `cargo run -p control-plane-mock --example bootstrap -- 127.0.0.1:18000 127.0.0.1:9901 delta > bootstrap.yaml`

use std::env;

use control_plane_mock::Listen;
use control_plane_mock::resources::{Variant, bootstrap_ads};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let xds = arguments
        .next()
        .ok_or("the first argument is the address of the control plane")?;
    let admin = arguments
        .next()
        .ok_or("the second argument is the address of the admin listener")?;
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
