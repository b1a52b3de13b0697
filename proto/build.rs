//! Turns the descriptor set that `envoy-types` ships into one compact table that the crate includes as bytes.
//!
//! In: `types.bin` of the very `envoy-types` that is linked, and the descriptors of Istio's own messages (`build/istio.rs`).
//! Out, in `OUT_DIR`: `schema.bin` (records and strings), `layout.rs` (where each table starts) and `descriptors.bin` (for tests).

#[path = "build/istio.rs"]
mod istio;
#[path = "src/schema/ops.rs"]
mod ops;
#[path = "build/rules.rs"]
mod rules;
#[path = "build/tables.rs"]
mod tables;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error::Error, fs};

use prost_reflect::DescriptorPool;

fn main() -> Result<(), Box<dyn Error>> {
    for input in ["build.rs", "build", "src/schema/ops.rs", "../Cargo.lock"] {
        println!("cargo:rerun-if-changed={input}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let types = locate_types()?;
    println!("cargo:rerun-if-changed={}", types.display());
    let mut pool = DescriptorPool::decode(fs::read(&types)?.as_slice())?;
    for file in istio::files() {
        pool.add_file_descriptor_proto(file)?;
    }
    let (blob, layout) = tables::build(&pool)?;
    fs::write(out.join("schema.bin"), blob)?;
    fs::write(out.join("layout.rs"), layout)?;
    fs::write(out.join("descriptors.bin"), pool.encode_to_vec())?;
    Ok(())
}

/// Asks cargo where the crate's source is (this is right with vendoring and path overrides too), then falls back to
/// the registry folder, for the case that cargo cannot answer offline.
fn locate_types() -> Result<PathBuf, Box<dyn Error>> {
    for offline in [true, false] {
        if let Some(found) = ask_cargo(offline) {
            return Ok(found);
        }
    }
    search_registry()
        .ok_or_else(|| "the source of envoy-types was not found (is `src/generated/types.bin` there?)".into())
}

fn ask_cargo(offline: bool) -> Option<PathBuf> {
    let mut command = Command::new(env::var_os("CARGO")?);
    command.args(["metadata", "--format-version", "1", "--manifest-path"]);
    command.arg(Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).join("Cargo.toml"));
    // Without the filter cargo wants the crates of all platforms to be downloaded.
    command.arg("--filter-platform").arg(env::var_os("TARGET")?);
    if offline {
        command.arg("--offline");
    }
    let output = command.output().ok().filter(|output| output.status.success())?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let package = metadata["packages"]
        .as_array()?
        .iter()
        .find(|package| package["name"] == "envoy-types")?;
    types_under(Path::new(package["manifest_path"].as_str()?).parent()?)
}

fn search_registry() -> Option<PathBuf> {
    let lock = fs::read_to_string(Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).join("../Cargo.lock")).ok()?;
    let after_name = lock.split_once("name = \"envoy-types\"\nversion = \"")?.1;
    let folder = format!("envoy-types-{}", after_name.split_once('"')?.0);
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?;
    registries
        .flatten()
        .find_map(|registry| types_under(&registry.path().join(&folder)))
}

fn types_under(folder: &Path) -> Option<PathBuf> {
    Some(folder.join("src/generated/types.bin")).filter(|path| path.is_file())
}
