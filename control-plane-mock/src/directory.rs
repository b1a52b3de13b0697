//! A directory of YAML and JSON files served as resources, followed while it changes.
//!
//! In: the files `*.yaml`, `*.yml` and `*.json` directly in the directory. Out: one snapshot per change. A file that cannot be read as
//! resources is reported, and what it held when it last could is served on.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use remora_proto::pb::google::protobuf::Any;

use crate::handle::Handle;
use crate::store::{self, Snapshot};
use crate::{text, types};

/// How often the directory is looked at.
pub const POLL: Duration = Duration::from_millis(200);

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The file.
    pub path: PathBuf,
    /// Why it is not served as it stands.
    pub reason: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// The files of a directory as they were last seen.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Debug)]
struct File {
    seen: Stamp,
    /// Content when it was last good.
    resources: Vec<Any>,
}

/// Tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// What one look at the directory found.
#[derive(Debug, Default)]
pub struct Look {
    /// Something differs from the look before.
    pub changed: bool,
    /// Files that changed and are bad.
    pub problems: Vec<FileProblem>,
}

impl Directory {
    /// A directory that was not looked at yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            files: BTreeMap::new(),
        }
    }

    /// Reads what changed since the last look.
    ///
    /// # Errors
    /// The directory itself cannot be listed; what is known of it stays.
    pub fn look(&mut self) -> io::Result<Look> {
        let mut stamps = BTreeMap::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            if !is_resource_file(&path) {
                continue;
            }
            // Follows links (Kubernetes mounts are made of them); a file that vanished in between is simply not there.
            if let Ok(metadata) = std::fs::metadata(&path)
                && metadata.is_file()
            {
                stamps.insert(path, Stamp::of(&metadata));
            }
        }
        let mut look = Look::default();
        let known = self.files.len();
        self.files.retain(|path, _| stamps.contains_key(path));
        look.changed = self.files.len() != known;
        for (path, stamp) in stamps {
            if self.files.get(&path).is_some_and(|file| file.seen == stamp) {
                continue;
            }
            look.changed = true;
            let file = self.files.entry(path.clone()).or_insert(File {
                seen: stamp,
                resources: Vec::new(),
            });
            file.seen = stamp;
            match read(&path) {
                Ok(resources) => file.resources = resources,
                Err(reason) => look.problems.push(FileProblem { path, reason }),
            }
        }
        if look.changed {
            look.problems.extend(self.duplicates());
        }
        Ok(look)
    }

    /// All resources, in the order of file names; of two with the same type and name the first counts.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for any in self.files.values().flat_map(|file| &file.resources) {
            if !snapshot.has_one_like(any) {
                snapshot.add_any(any.clone());
            }
        }
        snapshot
    }

    /// Serves the directory through `handle` for ever: a look at once, then one each [`POLL`]. What was found by a look before this call is
    /// taken as served already; resources pushed by others stay. `report` hears of every bad file, once per change of it.
    ///
    /// # Cancel safety
    /// Stops between two looks.
    pub async fn follow(mut self, handle: Handle, mut report: impl FnMut(&FileProblem)) {
        let mut served = self.snapshot();
        loop {
            match self.look() {
                Ok(look) => {
                    if look.changed {
                        let snapshot = self.snapshot();
                        handle.exchange(&served, &snapshot);
                        served = snapshot;
                    }
                    look.problems.iter().for_each(&mut report);
                }
                // Said at each look, for as long as it lasts: nothing can be served from a directory that cannot be listed.
                Err(error) => report(&FileProblem {
                    path: self.path.clone(),
                    reason: error.to_string(),
                }),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn duplicates(&self) -> Vec<FileProblem> {
        let mut owners: BTreeMap<(String, String), &Path> = BTreeMap::new();
        let mut problems = Vec::new();
        for (path, file) in &self.files {
            for any in &file.resources {
                let (type_url, name) = store::key_of(any);
                let kind = types::short(&type_url).to_owned();
                if let Some(owner) = owners.get(&(kind.clone(), name.clone())) {
                    let reason = format!("{kind} resource {name:?} stands in {} already", owner.display());
                    problems.push(FileProblem {
                        path: path.clone(),
                        reason,
                    });
                } else {
                    owners.insert((kind, name), path);
                }
            }
        }
        problems
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

fn is_resource_file(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn read(path: &Path) -> Result<Vec<Any>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text::resources(&text)
}
