//! The iptables programs: which to use, what is there, and changing it.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use super::plan::Family;
use super::rules::RuleSet;
use crate::cli::IptablesKind;

/// What went wrong with a program.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    #[error("{program}: {error}")]
    Start { program: String, error: io::Error },
    #[error("{command} failed: {output}")]
    Failed { command: String, output: String },
    #[error("no usable iptables: {}", .0.join("; "))]
    None(Vec<String>),
}

/// A set of programs that the kernel supports.
pub struct Tables {
    /// `iptables-nft`: `-save` and `-restore` stand beside it.
    program: String,
    /// The variant takes a lock for all namespaces.
    locks: bool,
}

impl Tables {
    /// The variant that holds rules already: the kernel applies the rules of both, so they must not be mixed. Else nf_tables.
    ///
    /// # Errors
    /// None works: of each, why.
    pub fn find(family: Family, wanted: Option<IptablesKind>) -> Result<Self, TablesError> {
        let plain = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let legacy = Self {
            program: format!("{plain}-legacy"),
            locks: true,
        };
        let nft = Self {
            program: format!("{plain}-nft"),
            locks: false,
        };
        match wanted {
            Some(IptablesKind::Legacy) => return legacy.usable().map(|()| legacy),
            Some(IptablesKind::Nft) => return nft.usable().map(|()| nft),
            None => {}
        }
        // It prints tables that exist, and makes none.
        if legacy.save().is_ok_and(|saved| saved.lines().count() >= 3) {
            return Ok(legacy);
        }
        let mut reasons = Vec::new();
        let plain = Self {
            program: plain.to_owned(),
            locks: false,
        };
        for candidate in [nft, plain, legacy] {
            match candidate.usable() {
                Ok(()) => return Ok(candidate),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(TablesError::None(reasons))
    }

    /// Every variant that holds rules of `family`: what is to go may be in either.
    pub fn all(family: Family, wanted: Option<IptablesKind>) -> Vec<Self> {
        if wanted.is_some() {
            return Self::find(family, wanted).into_iter().collect();
        }
        let plain = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let of = |suffix: &str, locks| Self {
            program: format!("{plain}{suffix}"),
            locks,
        };
        let mut found = vec![of("-legacy", true), of("-nft", false)];
        // It prints tables that exist, and makes none.
        found.retain(|tables| tables.save().is_ok_and(|saved| saved.lines().count() >= 3));
        if found.is_empty() {
            found.extend(Self::find(family, None));
        }
        found
    }

    fn usable(&self) -> Result<(), TablesError> {
        let listing = ["-t", "nat", "-S"];
        run(Command::new(&self.program).args(listing).args(self.wait()), "").map(drop)
    }

    fn wait(&self) -> Option<&'static str> {
        self.locks.then_some("--wait=30")
    }

    fn save(&self) -> Result<String, TablesError> {
        run(&mut Command::new(format!("{}-save", self.program)), "")
    }

    /// All rules that exist.
    ///
    /// # Errors
    /// What the program says.
    pub fn current(&self) -> Result<RuleSet, TablesError> {
        self.save().map(|saved| RuleSet::parse(&saved))
    }

    /// Applies a transaction, each of its tables whole or not at all.
    ///
    /// # Errors
    /// What the program says.
    pub fn apply(&self, transaction: &str) -> Result<(), TablesError> {
        let mut command = Command::new(format!("{}-restore", self.program));
        run(command.arg("--noflush").args(self.wait()), transaction).map(drop)
    }

    pub fn name(&self) -> &str {
        &self.program
    }
}

fn run(command: &mut Command, input: &str) -> Result<String, TablesError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = piped(command, input).map_err(|error| TablesError::Start { program, error })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(TablesError::Failed {
        command: format!("{command:?}").replace('"', ""),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn piped(command: &mut Command, input: &str) -> io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It ended early: its own words say why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}
