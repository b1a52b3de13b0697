//! Files in place of streams: `path_config_source`.
//!
//! As in Envoy a file counts as changed when something is moved onto its path (a rename over it, a swapped symlink), or anything into
//! `watched_directory` (Kubernetes' `..data`); what is written in place does not. Where inotify is not to be had, which file it is is polled.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::store::PathSource;

/// How often it is looked at without inotify which file there is.
const POLL: Duration = Duration::from_millis(250);

/// Yields each time the file of `source` is to be read: at once, and after each change. Never ends.
pub fn watch(source: &PathSource) -> BoxStream<'static, ()> {
    let watch = Watch::new(source);
    let changes = stream::unfold(watch, |mut watch| async move {
        watch.changed().await;
        Some(((), watch))
    });
    stream::once(async {}).chain(changes).boxed()
}

/// Whether moves into a `watched_directory` can be told of.
///
/// # Errors
/// They cannot, in Envoy's words.
pub fn check_directory(directory: &str) -> Result<(), String> {
    let access = rustix::fs::access(directory, rustix::fs::Access::READ_OK);
    access.map_err(|error| {
        let reason = std::io::Error::from(error).to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default();
        format!("unable to add filesystem watch for file {directory}/: {reason}")
    })
}

/// The largest file that is read: far above any configuration, far below what would take the process down.
const MAX_SIZE: u64 = 512 << 20;

/// Reads a configuration file. Whoever names it may be a control plane, so nothing that could block or never end is read.
///
/// # Errors
/// It cannot be read, is no regular file, or is larger than 512 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    // Opening a FIFO would wait for a writer otherwise.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .map_err(|error| std::io::Error::from(error).to_string())?;
    let file = std::fs::File::from(file);
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("is no regular file".to_owned());
    }
    let mut content = Vec::with_capacity(usize::try_from(meta.len().min(MAX_SIZE)).unwrap_or(0) + 1);
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut content)
        .map_err(|error| error.to_string())?;
    if content.len() as u64 > MAX_SIZE {
        return Err("is larger than 512 MiB".to_owned());
    }
    Ok(content)
}

struct Watch {
    file: PathBuf,
    /// What something must be moved onto; `None`: any move into the directory counts.
    name: Option<OsString>,
    inotify: Option<AsyncFd<OwnedFd>>,
    /// The file when it was last told of, for polling.
    last: Option<Identity>,
}

impl Watch {
    fn new(source: &PathSource) -> Self {
        let file = PathBuf::from(&*source.path);
        let (directory, name) = match &source.watched_directory {
            Some(directory) => (PathBuf::from(&**directory), None),
            None => (parent(&file), file.file_name().map(OsStr::to_owned)),
        };
        let inotify = subscribe(&directory);
        if let Err(error) = &inotify {
            tracing::info!(directory = %directory.display(), %error, "no inotify, polling");
        }
        let last = identity(&file);
        Self {
            file,
            name,
            inotify: inotify.ok(),
            last,
        }
    }

    async fn changed(&mut self) {
        loop {
            let moved = match &self.inotify {
                Some(inotify) => next_moves(inotify, self.name.as_deref()).await,
                None => {
                    tokio::time::sleep(POLL).await;
                    let now = identity(&self.file);
                    Ok(now.is_some() && now != self.last)
                }
            };
            match moved {
                Ok(true) => {
                    self.last = identity(&self.file);
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(file = %self.file.display(), %error, "watch is lost, polling");
                    self.inotify = None;
                }
            }
        }
    }
}

/// What tells a file that was moved onto a path from the one before: device and inode. One that is written in place stays the same.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn parent(file: &Path) -> PathBuf {
    let parent = file.parent().map(Path::as_os_str).filter(|parent| !parent.is_empty());
    PathBuf::from(parent.unwrap_or(OsStr::from_bytes(b".")))
}

fn subscribe(directory: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&fd, directory, WatchFlags::MOVED_TO)?;
    // Deprecated for types that do not own what they register; an `OwnedFd` does.
    #[allow(deprecated)]
    AsyncFd::new(fd)
}

/// Waits for events and drains them. Returns whether one of them was a move into the directory, of what is to be called `name` if one is given.
async fn next_moves(inotify: &AsyncFd<OwnedFd>, name: Option<&OsStr>) -> std::io::Result<bool> {
    let mut guard = inotify.readable().await?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify.get_ref(), &mut buffer);
    let mut moved = false;
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(inotify::ReadFlags::IGNORED) => {
                return Err(std::io::Error::other("the directory is gone"));
            }
            // Too much happened to be told: anything may have.
            Ok(event) if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => moved = true,
            Ok(event) if event.events().contains(inotify::ReadFlags::MOVED_TO) => {
                let is_named = |name: &OsStr| {
                    event
                        .file_name()
                        .is_some_and(|moved| moved.to_bytes() == name.as_bytes())
                };
                moved |= name.is_none_or(is_named);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                guard.clear_ready();
                return Ok(moved);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
