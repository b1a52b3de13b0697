//! `HttpConnectionManager` → [`ConnectionManager`](crate::http::pipeline::ConnectionManager).

use std::sync::Arc;

use super::{BuildContext, Compiled};
use crate::http::pipeline::ConnectionManager;

/// Compiles an encoded `HttpConnectionManager`.
pub fn compile(_bytes: &[u8], _cx: &BuildContext) -> Compiled<Arc<ConnectionManager>> {
    Ok(Arc::new(ConnectionManager))
}
