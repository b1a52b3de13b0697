//! Streams that share the connection's window and its output: nobody waits for what is there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::*;

/// Whether a task was woken.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream's task: it sends what it holds, or waits for more to send.
struct Task {
    stream: Option<SendStream>,
    id: u32,
    held: Bytes,
    flag: Arc<Flag>,
}

impl Task {
    fn new(machine: &Shared, id: u32) -> Self {
        tell(machine, &[headers(id, true, &GET)]);
        let mut incoming = accept(machine);
        let fields = http::HeaderMap::new();
        incoming
            .respond
            .send_response(http::StatusCode::OK, &fields, false)
            .unwrap();
        Self {
            stream: Some(incoming.respond.into_stream()),
            id,
            held: Bytes::new(),
            flag: Arc::new(Flag(AtomicBool::new(true))),
        }
    }

    fn is_woken(&self) -> bool {
        self.flag.0.load(Ordering::Relaxed)
    }

    fn give(&mut self, bytes: usize) {
        if self.held.is_empty() {
            self.held = vec![0; bytes].into();
            self.wake();
        }
    }

    /// For a reason of its own.
    fn wake(&self) {
        self.flag.0.store(true, Ordering::Relaxed);
    }

    fn run(&mut self) {
        let is_woken = self.flag.0.swap(false, Ordering::Relaxed);
        let Some(stream) = self.stream.as_mut().filter(|_| is_woken) else {
            return;
        };
        let waker = Waker::from(self.flag.clone());
        let mut cx = Context::from_waker(&waker);
        if self.held.is_empty() || stream.poll_send(&mut self.held, false, &mut cx).is_ready() {
            let _ = stream.poll_reset(&mut cx);
        }
    }

    fn end(&mut self) {
        self.stream = None;
        self.held = Bytes::new();
    }
}

#[test]
fn a_turn_is_not_kept_by_who_has_nothing_to_send() {
    let machine = server(&H2Options::default());
    let [mut first, mut second, mut eater] = [1, 3, 5].map(|id| Task::new(&machine, id));
    said(&machine);
    tell(&machine, &[1, 3, 5].map(|id| window_update(id, 100_000)));
    eater.give(65_535);
    for _ in 0..9 {
        eater.run();
        said(&machine);
    }
    second.give(100);
    second.run();
    first.give(100);
    first.run();
    tell(&machine, &[window_update(0, 100)]);
    first.wake();
    for task in [&mut first, &mut second] {
        task.run();
        said(&machine);
    }
    assert!(first.held.is_empty() && second.held.len() == 100);
    tell(&machine, &[window_update(0, 16_000)]);
    for _ in 0..9 {
        first.run();
        second.run();
        said(&machine);
    }
    assert!(second.held.is_empty());
}

/// Bytes that are to be written. What is cut anywhere cannot be read as frames.
fn waiting(machine: &Shared) -> usize {
    machine.lock().out.bytes().len()
}

fn step(machine: &Shared, tasks: &mut [Task], random: &mut fastrand::Rng) {
    let some = random.usize(0..tasks.len());
    let size = [1, 100, 16_384, 100_000][random.usize(0..4)];
    match random.u32(0..60) {
        0..10 => tasks[some].give([1, 100, 16_384, 70_000, 200_000][random.usize(0..5)]),
        10..15 => tell(machine, &[window_update(0, size)]),
        15..20 => tell(machine, &[window_update(tasks[some].id, size)]),
        20..25 => {
            let window = [0, 1, 1000, 65_535, 300_000][random.usize(0..5)];
            tell(machine, &[settings(&[(frame::INITIAL_WINDOW_SIZE, window)])]);
        }
        25..35 => tasks[some].run(),
        35..40 => {
            tasks[some].wake();
            tasks[some].run();
        }
        40..45 => {
            let all = waiting(machine);
            if all > 0 {
                machine.lock().wrote(random.usize(1..=all));
            }
        }
        45 => tasks[some].end(),
        46 => {
            tell(machine, &[reset(tasks[some].id, Reason::CANCEL)]);
            tasks[some].end();
        }
        _ => tasks.iter_mut().for_each(Task::run),
    }
}

#[test]
fn whatever_came_before_nobody_waits_for_what_is_there() {
    for seed in 0..3_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut options = H2Options::default();
        options.floods.window_updates_per_data_frame = 1_000_000;
        options.floods.outbound_frames = 1_000_000;
        let machine = server(&options);
        let count = random.u32(2..10);
        let mut tasks: Vec<Task> = (0..count).map(|index| Task::new(&machine, 2 * index + 1)).collect();
        said(&machine);
        for _ in 0..random.usize(1..120) {
            step(&machine, &mut tasks, &mut random);
        }
        // Whoever was woken runs, and all is written, until nothing moves.
        while tasks.iter().any(Task::is_woken) || waiting(&machine) > 0 {
            tasks.iter_mut().for_each(Task::run);
            let all = waiting(&machine);
            machine.lock().wrote(all);
        }
        let machine = machine.lock();
        machine.check();
        // So many window updates are a flood, and then all is over.
        let has_more = |task: &&Task| task.stream.is_some() && !task.held.is_empty() && machine.end.is_none();
        for task in tasks.iter().filter(has_more) {
            assert_eq!(machine.capacity(task.id), 0, "seed {seed}: stream {}", task.id);
        }
    }
}
