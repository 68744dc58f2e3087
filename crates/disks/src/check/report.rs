//! What a check found, in order of weight, and how people read it.

use std::fmt;

use super::{Filesystem, Partition, Scheme};
use crate::Format;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// A machine will not boot, or not be provisioned.
    Error,
    /// It may boot, but something will be missing or wrong.
    Warning,
    /// Good to know.
    Info,
}

impl Severity {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// Something about a disk that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// A stable name, for scripts.
    pub code: &'static str,
    pub message: String,
    /// What to do; empty where there is nothing.
    pub advice: String,
}

/// All that a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes of the disk.
    pub size: u64,
    pub format: Option<Format>,
    pub scheme: Option<Scheme>,
    pub partitions: Vec<(Partition, Option<Filesystem>)>,
    /// Can it boot with BIOS, with UEFI?
    pub bios: bool,
    pub uefi: bool,
    pub os: Option<Os>,
    pub kernels: Vec<String>,
    /// `cloud-init`, `waagent`.
    pub agents: Vec<&'static str>,
    /// The weightiest first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing was found that keeps a machine from booting or from being provisioned.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }
}

/// What os-release says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Os {
    pub id: String,
    pub version: String,
    pub name: String,
}

#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn error(&mut self, code: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Error, code, message.into(), advice.into());
    }

    pub(super) fn warning(&mut self, code: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Warning, code, message.into(), advice.into());
    }

    pub(super) fn info(&mut self, code: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Info, code, message.into(), advice.into());
    }

    fn add(&mut self, severity: Severity, code: &'static str, message: String, advice: String) {
        self.0.push(Finding { severity, code, message, advice });
    }

    /// The weightiest first, else in the order in which they were found.
    pub(super) fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.severity);
        self.0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.map_or("no partition table", Scheme::name);
        let format = self.format.map_or_else(String::new, |format| format!("{format}, "));
        writeln!(f, "disk        {format}{}, {scheme}", bytes(self.size))?;
        for (partition, filesystem) in &self.partitions {
            let filesystem = filesystem.map_or("unknown content", Filesystem::name);
            let number = partition.number;
            writeln!(
                f,
                "partition   {number:<3} {:<10} {:<12} {filesystem}",
                bytes(partition.len),
                partition.kind.name()
            )?;
        }
        let boots = match (self.bios, self.uefi) {
            (true, true) => "BIOS (V1) and UEFI (V2)",
            (true, false) => "BIOS (V1)",
            (false, true) => "UEFI (V2)",
            (false, false) => "no boot loader found",
        };
        writeln!(f, "boots with  {boots}")?;
        if let Some(os) = &self.os {
            writeln!(f, "system      {}", os.name)?;
        }
        if !self.kernels.is_empty() {
            writeln!(f, "kernel      {}", self.kernels.join(", "))?;
        }
        writeln!(
            f,
            "agents      {}",
            if self.agents.is_empty() { "none found".to_owned() } else { self.agents.join(", ") }
        )?;
        for finding in &self.findings {
            writeln!(f, "{:<11} {}", finding.severity.name(), finding.message)?;
            if !finding.advice.is_empty() {
                writeln!(f, "            ({})", finding.advice)?;
            }
        }
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        writeln!(
            f,
            "result      {}, {errors} errors, {warnings} warnings",
            if errors == 0 { "usable" } else { "not usable as it is" }
        )
    }
}

fn bytes(size: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| size >= *unit) {
        Some((unit, name)) if size.is_multiple_of(unit) => format!("{} {name}", size / unit),
        Some((unit, name)) => {
            let tenths = size.saturating_mul(10) / unit;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{size} bytes"),
    }
}
