//! Secrets that were delivered by name but live in files: looked at again when something is moved into `watched_directory`, or else into the
//! directory of one of them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::select_all;
use remora_xds::PathSource;
use remora_xds::client::file;
use tokio::task::JoinHandle;

use crate::config::sources::ResourceKey;
use crate::runtime::spawn::spawn;
use crate::tls::SecretStore;
use crate::tls::secret::SecretFile;

/// The files of all delivered secrets; watches end with it.
pub(super) struct SecretFiles {
    store: Arc<SecretStore>,
    watched: HashMap<ResourceKey, Watched>,
}

/// One secret's files.
struct Watched {
    secret: Bytes,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SecretFiles {
    pub(super) fn new(store: Arc<SecretStore>) -> Self {
        Self {
            store,
            watched: HashMap::new(),
        }
    }

    /// Watches what the delivered secrets read now, and nothing else.
    pub(super) fn follow(&mut self) {
        let wanted = self.store.reading_files();
        self.watched.retain(|key, watched| {
            wanted
                .iter()
                .any(|(other, secret)| other == key && *secret == watched.secret)
        });
        for (key, secret) in wanted {
            if !self.watched.contains_key(&key) {
                let task = spawn("secret files", watch(self.store.clone(), key.clone(), secret.clone()));
                self.watched.insert(key, Watched { secret, task });
            }
        }
    }
}

async fn watch(store: Arc<SecretStore>, key: ResourceKey, secret: Bytes) {
    let files = SecretStore::files(&secret);
    // Each begins with an event that only says that it watches. What changed between the first reading and now is read with that.
    let mut changes = select_all(watched(&files).iter().map(file::watch));
    while changes.next().await.is_some() {
        let (store, key) = (store.clone(), key.clone());
        let read = tokio::task::spawn_blocking(move || {
            if let Err(problems) = store.reread(&key) {
                // Between the rename of a certificate and that of its key the two do not fit: the second event reads both.
                tracing::warn!(secret = %key.name, %problems, "files of a secret cannot be used: the last good ones stay");
            }
        });
        if read.await.is_err() {
            return;
        }
    }
}

/// What is watched for changes of files: the directory that they are to be found by, or that of each, as in Envoy.
fn watched(files: &[SecretFile]) -> Vec<PathSource> {
    let source = |file: &SecretFile| PathSource {
        path: Arc::from(file.path.as_str()),
        watched_directory: Some(match &file.watched_directory {
            Some(directory) => Arc::from(directory.as_str()),
            None => directory_of(&file.path),
        }),
    };
    let shared = files.iter().take_while(|file| file.watched_directory.is_some()).take(1);
    let own = files.iter().filter(|file| file.watched_directory.is_none());
    shared.chain(own).map(source).collect()
}

fn directory_of(path: &str) -> Arc<str> {
    let parent = Path::new(path).parent().and_then(Path::to_str);
    Arc::from(parent.filter(|parent| !parent.is_empty()).unwrap_or("."))
}
