//! Secrets by name.
/// One secret, swapped in place.
pub struct SecretCell;
/// All secrets by name.
#[derive(Default)]
pub struct SecretStore;
