//! The files of the world: written by somebody who mostly moves them into place, and sometimes writes into one that is being read.

use std::collections::BTreeMap;

use super::super::{Bytes, sotw};
use super::model::Judged;
use super::{Flight, Sim, key};
use crate::client::mux::Mode;
use crate::client::wire::Reader;
use crate::engine::StreamId;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ResourceType, SECRET};

/// The files of roots, where those are files, and those of one resource each, which is called as its file is.
const PATHS: [&str; 6] = [
    "/cds",
    "/lds",
    "/file-eds-0",
    "/file-eds-1",
    "/file-sds-0",
    "/file-sds-1",
];

fn type_of(path: &str) -> ResourceType {
    match path {
        "/cds" => &CLUSTER,
        "/lds" => &LISTENER,
        path if path.starts_with("/file-eds") => &ASSIGNMENT,
        _ => &SECRET,
    }
}

/// What is there to be read.
#[derive(Clone, Default)]
enum Content {
    #[default]
    Missing,
    /// What is written so far: no message, or no YAML.
    Torn(Bytes),
    Whole(Flight),
}

#[derive(Default)]
struct File {
    content: Content,
    /// Who reads it.
    reader: Option<StreamId>,
    /// It is to be read.
    due: bool,
    /// It has changed since it was read last, and nobody was told.
    unseen: bool,
}

#[derive(Default)]
pub(super) struct Disk {
    files: BTreeMap<&'static str, File>,
    /// There is no inotify: every change is noticed, not only moves.
    polled: bool,
}

impl Disk {
    pub(super) fn new(polled: bool) -> Self {
        let files = PATHS.iter().map(|path| (*path, File::default())).collect();
        Self { files, polled }
    }

    /// A watch begins with a first look.
    pub(super) fn opened(&mut self, id: StreamId, path: &str) {
        let file = self.files.get_mut(path).unwrap();
        file.reader = Some(id);
        file.due = true;
    }

    pub(super) fn closed(&mut self, id: StreamId) {
        for file in self.files.values_mut().filter(|file| file.reader == Some(id)) {
            file.reader = None;
            file.due = false;
        }
    }

    /// The client wants more of it than it did.
    pub(super) fn reread(&mut self, id: StreamId) {
        let mut files = self.files.values_mut();
        files
            .find(|file| file.reader == Some(id))
            .into_iter()
            .for_each(|file| file.due = true);
    }

    fn read_paths(&self) -> Vec<&'static str> {
        let read = self.files.iter().filter(|(_, file)| file.reader.is_some());
        read.map(|(path, _)| *path).collect()
    }

    pub(super) fn due(&self) -> Vec<&'static str> {
        let due = self.files.iter().filter(|(_, file)| file.due);
        due.map(|(path, _)| *path).collect()
    }

    /// Changes a file; `moved` says whether by a move, which is what a watch notices.
    fn put(&mut self, path: &str, content: Content, moved: bool) {
        let file = self.files.get_mut(path).unwrap();
        file.content = content;
        let noticed = (moved || self.polled) && file.reader.is_some();
        file.due |= noticed;
        file.unseen = !noticed;
    }

    /// Whether what is there is `flight`, and the client knows or is about to.
    fn says(&self, path: &str, flight: &Flight) -> bool {
        let file = &self.files[path];
        let same = match &file.content {
            Content::Whole(whole) => !whole.twice && whole.resources == flight.resources,
            Content::Missing | Content::Torn(_) => false,
        };
        same && !file.unseen
    }

    /// Reads what is there now.
    fn read(&mut self, path: &str) -> (StreamId, Content) {
        let file = self.files.get_mut(path).unwrap();
        file.due = false;
        file.unseen = false;
        (file.reader.unwrap(), file.content.clone())
    }
}

/// The bytes of a file.
fn encoded(flight: &Flight) -> Bytes {
    sotw(flight.ty, &flight.version, "", &flight.all())
}

/// The beginning of a file that is being written: what ends between two fields is a message, and nobody could tell that it is not all.
fn torn(whole: &Bytes, rng: &mut fastrand::Rng) -> Bytes {
    let reads = |bytes: &Bytes| {
        let mut reader = Reader::new(bytes);
        loop {
            match reader.field() {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    let cuts = std::iter::repeat_with(|| whole.slice(..rng.usize(0..whole.len())));
    let mut cuts = cuts.filter(|cut| !reads(cut));
    cuts.next().unwrap()
}

impl Sim {
    /// Somebody writes a file: moves a good or bad one into place, mostly, or leaves it half written, or takes it away.
    pub(super) fn write(&mut self) {
        let path = PATHS[self.rng.usize(0..PATHS.len())];
        let mut flight = self.on_file(path);
        let how = self.rng.u32(0..10);
        self.spoil(&mut flight.resources);
        if flight.resources.is_empty() && !flight.ty.full_state {
            return;
        }
        if let Some(resource) = flight.resources.first_mut().filter(|_| self.rng.bool()) {
            *resource = resource.clone().ttl(self.rng.u64(1..40));
        }
        flight.twice = self.repeats(Mode::Sotw, flight.ty, &flight.resources);
        let content = match how {
            0 => Content::Missing,
            1..=3 => Content::Torn(torn(&encoded(&flight), &mut self.rng)),
            _ => Content::Whole(flight),
        };
        // What is written in place is not noticed, and read all the same if there is another reason to.
        self.disk.put(path, content, how > 4);
    }

    /// What a file should say.
    pub(super) fn on_file(&mut self, path: &str) -> Flight {
        self.count += 1;
        Flight {
            ty: type_of(path),
            nonce: String::new(),
            version: format!("v{}", self.count),
            resources: self.server.on_file(path),
            removed: Vec::new(),
            twice: false,
        }
    }

    /// Lets the client read a file, as its driver does.
    pub(super) fn read(&mut self, path: &str) {
        let (id, content) = self.disk.read(path);
        let (ty, wanted) = (type_of(path), self.wanted());
        let read = match &content {
            Content::Missing => Err("no such file".to_owned()),
            // What is no message is told by whoever decodes it, or by the client.
            Content::Torn(_) if self.rng.bool() => Err("no YAML".to_owned()),
            Content::Torn(bytes) => Ok(bytes.clone()),
            Content::Whole(flight) => {
                let asked = |name: &str| ty.full_state || wanted.contains(&key(ty, name));
                // Nothing of a file is mortal.
                let mut lasting = flight.clone();
                lasting.resources.iter_mut().for_each(|resource| resource.ttl = None);
                let judged: Judged<'_> = lasting.judge(Mode::Sotw, asked, |_| None);
                self.model.take(&lasting, &judged, ty.full_state);
                Ok(encoded(flight))
            }
        };
        let applied = read.and_then(|bytes| self.script.engine.on_message(id, bytes, self.script.now));
        if let Err(reason) = applied {
            self.script.engine.on_unreadable(id, reason, self.script.now);
            let here = self.server.on_file(path).into_iter().map(|resource| resource.name);
            self.model.excuse(ty, here);
        }
        self.script.look();
        self.landed(ty, &wanted);
    }

    /// Moves every file into place that is not as it should be. What is, is not touched: a client that needs more of it has to look again.
    pub(super) fn write_all(&mut self) {
        for path in self.disk.read_paths() {
            let flight = self.on_file(path);
            if !self.disk.says(path, &flight) {
                self.disk.put(path, Content::Whole(flight), true);
            }
        }
        while let Some(path) = self.disk.due().first() {
            self.read(path);
            self.listen();
            self.check();
        }
    }
}
