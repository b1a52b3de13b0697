//! Listeners inside the process (`envoy_internal_address`): connections by name, without a kernel.
//!
//! In: a name and what takes its connections. Out: the caller's end of a fresh stream. What accepts runs where the connect was made, so a
//! connection stays on its worker.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tokio::io::DuplexStream;

/// Takes one connection; must not block, and spawns what serves it.
pub type Accept = dyn Fn(DuplexStream) + Send + Sync;

/// Bytes in flight per direction; Envoy's `envoy.extensions.bootstrap.internal_listener.v3.InternalListener.buffer_size_kb` defaults to 1024,
/// which nothing here needs: a reader is woken on the first byte.
const BUFFER: usize = 64 * 1024;

/// One lock for the process: it is taken by connects to internal names alone.
static LISTENERS: LazyLock<Mutex<HashMap<Arc<str>, Arc<Accept>>>> = LazyLock::new(Mutex::default);

/// A name that accepts; dropped, it refuses.
pub struct Listening(Arc<str>);

/// Has `accept` take the connections to `name`.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`]: somebody accepts under that name.
pub fn listen(name: &str, accept: Arc<Accept>) -> io::Result<Listening> {
    let name: Arc<str> = Arc::from(name);
    let mut listeners = LISTENERS.lock();
    if listeners.contains_key(&name) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    listeners.insert(name.clone(), accept);
    Ok(Listening(name))
}

/// Connects to `name`.
///
/// # Errors
/// [`io::ErrorKind::ConnectionRefused`]: nobody accepts under that name.
pub fn connect(name: &str) -> io::Result<DuplexStream> {
    let accept = LISTENERS.lock().get(name).cloned();
    let Some(accept) = accept else {
        return Err(io::ErrorKind::ConnectionRefused.into());
    };
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    accept(theirs);
    Ok(ours)
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENERS.lock().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::spawn::spawn;

    #[tokio::test]
    async fn a_name_accepts_until_it_is_dropped_and_only_once() {
        let accept: Arc<Accept> = Arc::new(|mut stream| {
            spawn("test", async move { stream.write_all(b"hello").await });
        });
        let listening = listen("internal.test", accept.clone()).unwrap();
        let second = listen("internal.test", accept).err().map(|error| error.kind());
        assert_eq!(second, Some(io::ErrorKind::AddrInUse));
        let mut text = String::new();
        connect("internal.test")
            .unwrap()
            .read_to_string(&mut text)
            .await
            .unwrap();
        assert_eq!(text, "hello");
        drop(listening);
        let refused = connect("internal.test").err().map(|error| error.kind());
        assert_eq!(refused, Some(io::ErrorKind::ConnectionRefused));
    }
}
