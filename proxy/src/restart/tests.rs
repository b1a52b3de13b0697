//! Two epochs in one process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::link::{Request, listen};
use super::*;
use crate::cli::{self, Command};
use crate::listener::Inherit;
use crate::runtime::io::Address;

struct Fake {
    listeners: Vec<TcpListener>,
    told: Mutex<Sender<String>>,
}

impl Fake {
    fn tell(&self, what: impl Into<String>) {
        self.told.lock().send(what.into()).unwrap();
    }
}

impl Handover for Fake {
    fn first_started_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(7)
    }

    fn stop_admin(&self) {
        self.tell("stop admin");
    }

    fn sockets(&self, listener: &str, address: &str) -> Vec<OwnedFd> {
        self.tell(format!("sockets {listener} {address}"));
        let copies = self
            .listeners
            .iter()
            .map(|socket| socket.as_fd().try_clone_to_owned().unwrap());
        copies.collect()
    }

    fn drain(&self) {
        self.tell("drain");
    }

    fn end(&self, asked: bool, drained: bool) {
        self.tell(format!("end asked={asked} drained={drained}"));
    }
}

/// Options of epoch `epoch` with a socket that nobody else has.
fn options(path: &str, epoch: u32, more: &[&str]) -> Options {
    let epoch = epoch.to_string();
    let mut arguments = vec!["remora", "--socket-path", path, "--restart-epoch", &epoch];
    arguments.extend(more);
    let Ok(Command::Run(options)) = cli::parse(arguments) else {
        panic!("flags");
    };
    *options
}

/// An epoch 0 that serves, and what it is told.
fn first(path: &str, listeners: Vec<TcpListener>) -> (Receiver<String>, std::thread::JoinHandle<()>) {
    let mut restart = Restart::begin(&options(path, 0, &[])).unwrap().unwrap();
    let socket = restart.take_socket().unwrap();
    let (told, receiver) = channel();
    let fake = Fake {
        listeners,
        told: Mutex::new(told),
    };
    (receiver, std::thread::spawn(move || serve(&socket, &fake)))
}

fn heard(told: &Receiver<String>) -> String {
    told.recv_timeout(Duration::from_secs(30)).unwrap()
}

#[test]
fn a_child_takes_sockets_and_what_waits_in_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("restart").display().to_string();
    // More than fit beside one message.
    let listeners: Vec<_> = (0..70).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = listeners[69].local_addr().unwrap();
    let (told, serving) = first(&path, listeners);

    // Connected before anybody accepts.
    let mut client = TcpStream::connect(address).unwrap();
    let restart = Restart::begin(&options(&path, 1, &[])).unwrap().unwrap();
    assert_eq!(
        restart.first_started_at(),
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7))
    );
    let parent = restart.parent().unwrap();
    parent.stop_admin();
    assert_eq!(heard(&told), "stop admin");
    let mut sockets = parent.sockets("web", &Address::Ip("127.0.0.1:0".parse().unwrap()));
    assert_eq!(heard(&told), "sockets web 127.0.0.1:0");
    assert_eq!(sockets.len(), 70);
    parent.drain();
    parent.terminate();
    assert_eq!(
        (heard(&told), heard(&told)),
        ("drain".to_owned(), "end asked=true drained=true".to_owned())
    );
    serving.join().unwrap();

    // The first epoch's sockets are closed now; the child's are the same ones.
    let inherited = TcpListener::from(sockets.pop().unwrap());
    let (mut accepted, _) = inherited.accept().unwrap();
    client.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    accepted.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
    // A parent that is gone has nothing more to give.
    assert!(parent.sockets("web", &Address::Ip(address)).is_empty());
}

#[test]
fn a_child_that_gives_up_leaves_its_parent_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("restart").display().to_string();
    let (told, serving) = first(&path, Vec::new());
    drop(Restart::begin(&options(&path, 1, &[])).unwrap());
    // The next one finds it willing. What it does after the drain tells that the first left no trace.
    let restart = Restart::begin(&options(&path, 1, &[])).unwrap().unwrap();
    restart.parent().unwrap().drain();
    drop(restart);
    assert_eq!(
        (heard(&told), heard(&told)),
        ("drain".to_owned(), "end asked=false drained=true".to_owned())
    );
    serving.join().unwrap();
}

#[test]
fn without_a_parent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("restart").display().to_string();
    let refused = Restart::begin(&options(&path, 3, &[])).err().unwrap().to_string();
    assert!(refused.starts_with("no epoch 2 to take over from"), "{refused}");
    let skipping = options(&path, 3, &["--skip-hot-restart-on-no-parent"]);
    assert!(Restart::begin(&skipping).unwrap().unwrap().parent().is_none());
    assert!(
        Restart::begin(&options(&path, 3, &["--disable-hot-restart"]))
            .unwrap()
            .is_none()
    );
}

#[test]
fn one_process_has_a_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("restart").display().to_string();
    let mut first = Restart::begin(&options(&path, 0, &[])).unwrap().unwrap();
    let place = first.take_socket();
    assert!(place.is_some());
    assert!(
        Restart::begin(&options(&path, 0, &[]))
            .unwrap()
            .unwrap()
            .take_socket()
            .is_none()
    );
    // What a dead process leaves on disk is no hindrance.
    drop((first, place));
    assert!(
        Restart::begin(&options(&path, 0, &[]))
            .unwrap()
            .unwrap()
            .take_socket()
            .is_some()
    );
    // A base id that nobody has, told in a file.
    let file = directory.path().join("base-id");
    let dynamic = ["--use-dynamic-base-id", "--base-id-path", file.to_str().unwrap()];
    let mut any = Restart::begin(&options(&path, 0, &dynamic)).unwrap().unwrap();
    assert!(any.take_socket().is_some());
    let told: u32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    assert!(told < 1 << 24);
}

#[test]
fn another_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("restart").display().to_string();
    let socket = listen(&format!("{path}_remora_0_0"), 0o600).unwrap();
    let old = std::thread::spawn(move || {
        let link = Link::accept(socket.as_fd()).unwrap();
        let (request, _) = link.receive::<Request>().unwrap().unwrap();
        let reply = link::Reply::Hello {
            version: "remora.0".to_owned(),
            first_started_at: 0,
        };
        link.send(&reply, &[]).unwrap();
        request
    });
    let refused = Restart::begin(&options(&path, 1, &[])).err().unwrap().to_string();
    assert!(refused.contains("remora.0") && refused.contains(VERSION), "{refused}");
    assert_eq!(
        old.join().unwrap(),
        Request::Hello {
            version: VERSION.to_owned()
        }
    );
}
