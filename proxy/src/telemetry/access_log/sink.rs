//! Sinks: one buffer and one file per path, written by a thread of their own.
//!
//! A worker copies a finished line into the buffer. The thread takes whole buffers, every flush interval or when one is full enough, and
//! writes them; a buffer that the disk does not keep up with stops growing and lines are dropped and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::telemetry::stats::Stats;

/// Standard output, whatever `/dev/stdout` leads to.
pub(super) const STDOUT: &str = "/dev/stdout";
pub(super) const STDERR: &str = "/dev/stderr";
/// `--file-flush-interval-msec`
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);
/// `--file-flush-min-size-kb`
const FLUSH_SIZE: usize = 64 * 1024;
/// Bytes of one sink that may wait for the disk.
const BUFFER_LIMIT: usize = 16 * 1024 * 1024;

crate::stat_group! {
    /// Envoy's `filesystem.*`, and lines dropped because the disk was too slow.
    pub struct FilesystemStats {
        counters: { write_buffered, write_completed, write_failed, flushed_by_timer, reopen_failed, write_dropped }
        gauges: { write_total_buffered }
        histograms: {}
    }
}

/// Every open log file by path, shared by the logs that write to it. Dropping it flushes and ends the thread.
pub struct Sinks(Arc<Shared>);

struct Shared {
    sinks: Mutex<BTreeMap<String, Arc<Sink>>>,
    bell: Arc<Bell>,
    interval: Duration,
    flush_size: usize,
}

/// Wakes the thread.
#[derive(Default)]
struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Rung {
    flush: bool,
    stop: bool,
    running: bool,
}

/// One log file.
pub struct Sink {
    path: String,
    buffer: Mutex<Vec<u8>>,
    file: Mutex<Target>,
    reopen: AtomicBool,
    flush_size: usize,
    bell: Arc<Bell>,
    stats: Arc<FilesystemStats>,
}

enum Target {
    File(File),
    Stdout,
    Stderr,
}

impl Default for Sinks {
    fn default() -> Self {
        Self::new(FLUSH_INTERVAL, FLUSH_SIZE)
    }
}

impl Sinks {
    /// `interval` between flushes, and bytes in a buffer that call for one at once.
    pub fn new(interval: Duration, flush_size: usize) -> Self {
        Self(Arc::new(Shared {
            sinks: Mutex::default(),
            bell: Arc::default(),
            interval,
            flush_size,
        }))
    }

    /// The sink for `path`, opened if it is not yet.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the writing thread cannot start.
    pub fn open(&self, path: &str, stats: &Stats) -> std::io::Result<Arc<Sink>> {
        let mut sinks = self.0.sinks.lock();
        if let Some(sink) = sinks.get(path) {
            return Ok(sink.clone());
        }
        let sink = Arc::new(Sink {
            path: path.to_owned(),
            buffer: Mutex::default(),
            file: Mutex::new(Target::open(path)?),
            reopen: AtomicBool::new(false),
            flush_size: self.0.flush_size,
            bell: self.0.bell.clone(),
            stats: stats.group("filesystem."),
        });
        self.0.start()?;
        sinks.insert(path.to_owned(), sink.clone());
        Ok(sink)
    }

    /// Opens every file anew before its next write (log rotation: `/reopen_logs`, SIGUSR1).
    pub fn reopen(&self) {
        for sink in self.0.all() {
            sink.reopen.store(true, Ordering::Relaxed);
        }
        self.0.bell.ring();
    }

    /// Writes what is buffered, before it returns. For the end of the process.
    pub fn flush(&self) {
        self.0.flush();
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.0.bell.rung.lock().stop = true;
        self.0.bell.changed.notify_all();
        self.0.flush();
    }
}

impl Shared {
    /// Starts the writing thread, once.
    fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let mut rung = self.bell.rung.lock();
        if rung.running {
            return Ok(());
        }
        let shared = self.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || shared.run())?;
        rung.running = true;
        Ok(())
    }

    fn run(&self) {
        loop {
            let mut rung = self.bell.rung.lock();
            let mut by_timer = false;
            if !rung.stop && !rung.flush {
                by_timer = self.bell.changed.wait_for(&mut rung, self.interval).timed_out();
            }
            rung.flush = false;
            let stop = rung.stop;
            drop(rung);
            for sink in self.all() {
                sink.flush(by_timer);
            }
            if stop {
                return;
            }
        }
    }

    fn flush(&self) {
        for sink in self.all() {
            sink.flush(false);
        }
    }

    fn all(&self) -> Vec<Arc<Sink>> {
        self.sinks.lock().values().cloned().collect()
    }
}

impl Bell {
    fn ring(&self) {
        self.rung.lock().flush = true;
        self.changed.notify_one();
    }
}

impl Sink {
    /// Buffers a line; never waits for the disk.
    pub fn write(&self, line: &[u8]) {
        let mut buffer = self.buffer.lock();
        let before = buffer.len();
        if before + line.len() > BUFFER_LIMIT {
            drop(buffer);
            self.stats.write_dropped.inc();
            return;
        }
        buffer.extend_from_slice(line);
        let is_due = before < self.flush_size && buffer.len() >= self.flush_size;
        drop(buffer);
        self.stats.write_buffered.inc();
        self.stats.write_total_buffered.add(line.len() as u64);
        if is_due {
            self.bell.ring();
        }
    }

    fn flush(&self, by_timer: bool) {
        // Taking the file first keeps buffers in order when two flush at once.
        let mut file = self.file.lock();
        if self.reopen.swap(false, Ordering::Relaxed) {
            match Target::open(&self.path) {
                Ok(reopened) => *file = reopened,
                Err(error) => {
                    self.stats.reopen_failed.inc();
                    tracing::warn!(path = self.path, %error, "access log could not be opened again");
                }
            }
        }
        let full = std::mem::take(&mut *self.buffer.lock());
        if full.is_empty() {
            return;
        }
        self.stats.write_total_buffered.sub(full.len() as u64);
        if by_timer {
            self.stats.flushed_by_timer.inc();
        }
        match file.write(&full) {
            Ok(()) => self.stats.write_completed.inc(),
            Err(error) => {
                self.stats.write_failed.inc();
                tracing::warn!(path = self.path, %error, "access log could not be written");
            }
        }
        self.reuse(full);
    }

    /// A buffer that was written takes the next lines, once one of the usual size is empty: each would grow to it by copying otherwise.
    fn reuse(&self, mut written: Vec<u8>) {
        written.clear();
        let mut buffer = self.buffer.lock();
        if written.capacity() <= self.flush_size.saturating_mul(4) && written.capacity() > buffer.capacity() {
            written.extend_from_slice(&buffer);
            *buffer = written;
        }
    }
}

impl Target {
    fn open(path: &str) -> std::io::Result<Self> {
        Ok(match path {
            STDOUT => Self::Stdout,
            STDERR => Self::Stderr,
            path => Self::File(File::options().append(true).create(true).open(path)?),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::Stderr => std::io::stderr().lock().write_all(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_file_in_order_and_a_rotated_file_is_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("access.log");
        let stats = Stats::new();
        let sinks = Sinks::default();
        let sink = sinks.open(path.to_str().expect("a path"), &stats).expect("opens");
        sink.write(b"one\n");
        sink.write(b"two\n");
        sinks.flush();
        let rotated = directory.path().join("old.log");
        std::fs::rename(&path, &rotated).expect("renames");
        sinks.reopen();
        sink.write(b"three\n");
        sinks.flush();
        assert!(
            std::fs::read_to_string(&rotated)
                .expect("reads")
                .starts_with("one\ntwo\n")
        );
        drop(sinks);
        let both = [rotated, path]
            .map(|path| std::fs::read_to_string(path).expect("reads"))
            .concat();
        assert_eq!(both, "one\ntwo\nthree\n");
    }

    #[test]
    fn a_buffer_that_nobody_empties_stops_growing() {
        let stats = Stats::new();
        let sinks = Sinks::new(Duration::from_secs(3600), usize::MAX);
        let sink = sinks.open("/dev/null", &stats).expect("opens");
        let line = vec![b'x'; BUFFER_LIMIT / 2];
        for _ in 0..3 {
            sink.write(&line);
        }
        assert_eq!(sink.stats.write_dropped.value(), 1);
        assert_eq!(sink.stats.write_total_buffered.value(), BUFFER_LIMIT as u64);
        sinks.flush();
        assert_eq!(sink.stats.write_total_buffered.value(), 0);
    }
}
