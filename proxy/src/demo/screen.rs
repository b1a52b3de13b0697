//! The demo on a terminal, or in a log: progress is only shown where it can be overwritten.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use super::report::{Report, SceneReport};
use super::tally::{Counts, Kind};
use super::tour::{DemoError, Event};

/// Erases the line that the cursor stands in.
const ERASE: &str = "\r\x1b[2K";

/// Where everything is written to.
pub struct Screen {
    out: Box<dyn Write>,
    /// Progress is shown.
    live: bool,
    scene: &'static str,
    number: usize,
}

impl Screen {
    pub fn stdout() -> Self {
        let out = std::io::stdout();
        let live = out.is_terminal();
        Self {
            out: Box::new(out),
            live,
            scene: "",
            number: 0,
        }
    }

    pub fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Ready {
                admin: [client, server],
                http,
                tcp,
            } => {
                self.line(
                    "app ─▶ client sidecar ─ mTLS ─▶ server sidecar ─▶ replicas a b (priority 0), c d (priority 1)",
                );
                self.line(&format!(
                    "  app's traffic goes to http://{http} (HTTP/1, gRPC) and {tcp} (TCP)"
                ));
                self.line(&format!(
                    "  admin: http://{client} (client sidecar), http://{server} (server sidecar)"
                ));
                self.line("");
            }
            Event::Started(title) => {
                self.number += 1;
                self.scene = title;
            }
            Event::Progress(counts) => self.progress(counts),
            Event::Ended(scene) => self.ended(scene),
        }
    }

    /// The table at the end, and what it means for the process.
    pub fn summary(&mut self, report: &Report) -> ExitCode {
        self.line("");
        self.line(&format!(
            "{:<46} {:>8} {:>7} {:>7}",
            "scene", "requests", "failed", "held"
        ));
        for scene in &report.scenes {
            let held = if scene.held { "yes" } else { "NO" };
            self.line(&format!(
                "{:<46} {:>8} {:>7} {held:>7}",
                scene.title, scene.requests, scene.failed
            ));
        }
        self.line("");
        for failure in &report.failures {
            self.line(&format!("failed: {failure}"));
        }
        for kind in Kind::ALL {
            self.line(&format!("{:<24}{:>8} answered", kind.name(), report.counts.of(kind)));
        }
        self.line(&format!(
            "requests {}, failed {}, late (> 1 s) {}, in {:.1} s",
            report.requests(),
            report.failed(),
            report.counts.late,
            report.took.as_secs_f64()
        ));
        if report.is_good() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// The end of a demo that served until it was interrupted.
    pub fn served(&mut self, counts: &Counts) -> ExitCode {
        self.line(&format!(
            "requests {}, failed {}, late (> 1 s) {}",
            counts.requests(),
            counts.failed,
            counts.late
        ));
        if counts.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// The last words of a demo that could not go on.
    pub fn failed(&mut self, error: &DemoError) -> ExitCode {
        self.line(&format!("remora demo: {error}"));
        ExitCode::FAILURE
    }

    fn ended(&mut self, scene: &SceneReport) {
        let mark = if scene.held { "✓" } else { "✗" };
        let (number, seconds) = (self.number, scene.took.as_secs_f64());
        self.line(&format!(
            "{mark} {number}. {} ({seconds:.1} s, {} requests, {} failed)",
            scene.title, scene.requests, scene.failed
        ));
        for evidence in &scene.evidence {
            self.line(&format!("     {evidence}"));
        }
        self.scene = "";
    }

    fn progress(&mut self, counts: &Counts) {
        if !self.live {
            return;
        }
        let (requests, failed) = (counts.requests(), counts.failed);
        let text = format!("{ERASE}  … {} | requests {requests}, failed {failed}", self.scene);
        self.write(&text);
    }

    fn line(&mut self, text: &str) {
        let erase = if self.live { ERASE } else { "" };
        self.write(&format!("{erase}{text}\n"));
    }

    fn write(&mut self, text: &str) {
        // Whoever closed standard output does not want to know.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}
