//! From an accepted socket to the terminal filter of its chain.
use crate::runtime::io::Io;
/// Serves one accepted connection to its end.
pub async fn serve(_io: Io) {}
