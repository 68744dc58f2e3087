//! `lazuli image check`: what would keep an image from booting here or from being provisioned, as text or as JSON.

use super::remote;
use super::report::Report;
use super::source::{self, Source};
use crate::client::Client;
use crate::credentials::Credentials;
use crate::data_dir::DataDir;
use anyhow::{Context, bail};
use clap::ValueEnum;
use lazuli_disks::check::{self, Date, Generation, OsState, Report as Checked, Severity, Wanted};
use lazuli_disks::{DiskSource, Format};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Args)]
pub struct Check {
    /// How machines will boot: V1 with BIOS, V2 with UEFI. Without it either will do.
    #[arg(long, value_parser = ["V1", "V2"])]
    generation: Option<String>,
    /// Generalized: an agent sets each machine up. Specialized: it is switched on as it is.
    #[arg(long, value_enum)]
    os_state: Option<State>,
    /// JSON instead of text; also when stdout is no terminal.
    #[arg(long)]
    json: bool,
    /// A file of any format that `lazuli image import` takes; or the resource id of a disk, a snapshot or an image version.
    #[arg(value_name = "FILE|ID")]
    what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    Generalized,
    Specialized,
}

impl State {
    fn wanted(self) -> OsState {
        match self {
            Self::Generalized => OsState::Generalized,
            Self::Specialized => OsState::Specialized,
        }
    }

    /// From a definition's `osState`.
    pub fn parse(text: &str) -> Option<Self> {
        [("generalized", Self::Generalized), ("specialized", Self::Specialized)]
            .into_iter()
            .find(|(name, _)| text.eq_ignore_ascii_case(name))
            .map(|(_, state)| state)
    }
}

pub async fn run(dir: &DataDir, args: &Check) -> anyhow::Result<()> {
    let report = Report::new();
    let state = args.os_state;
    let checked = if remote::is_id(&args.what) {
        let (credentials, endpoint) = Credentials::of_server(dir)?;
        let client = Client::sign_in(&credentials, &endpoint).await?;
        let access = remote::Access::open(&client, &args.what).await?;
        // What the resource says of itself, unless told otherwise.
        let generation = args.generation.clone().or_else(|| access.generation.clone());
        let state = state.or(access.state);
        let checked = look(access.disk(), None, generation.as_deref(), state).await;
        access.close(&client).await;
        checked?
    } else {
        let Source { format, disk } =
            source::open(Path::new(&args.what), None).with_context(|| format!("cannot use {}", args.what))?;
        look(disk, Some(format), args.generation.as_deref(), state).await?
    };
    if args.json || !std::io::stdout().is_terminal() {
        report.done(&event(&checked));
    } else {
        print!("{checked}");
    }
    if !checked.passed() {
        bail!("{} is not usable as it is", args.what);
    }
    Ok(())
}

/// Checks a disk off the runtime's threads.
pub async fn look(
    disk: Arc<dyn DiskSource>,
    format: Option<Format>,
    generation: Option<&str>,
    state: Option<State>,
) -> anyhow::Result<Checked> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let wanted = Wanted {
        generation: generation.map(|g| if g == "V2" { Generation::V2 } else { Generation::V1 }),
        state: state.map(State::wanted),
        format,
        today: Date::of_unix(i64::try_from(now)?),
    };
    let checked = tokio::task::spawn_blocking(move || check::check(&disk, &wanted)).await?;
    checked.context("cannot read the disk")
}

/// Shows what was found on the way of an import: text on a terminal, a line of JSON else.
pub fn show(checked: &Checked, report: &Report) {
    if std::io::stdout().is_terminal() {
        report.clear();
        print!("{checked}");
    } else {
        report.line(&event(checked));
    }
}

/// What was found, as scripts read it.
pub fn event(checked: &Checked) -> Value {
    let partitions = checked.partitions.iter().map(|(partition, filesystem)| {
        json!({"number": partition.number, "startBytes": partition.start, "sizeBytes": partition.len, "use": partition.kind.name(),
            "filesystem": filesystem.map(|f| f.name())})
    });
    let findings = checked.findings.iter().map(|finding| {
        json!({"severity": finding.severity.name(), "code": finding.code, "message": finding.message, "advice": finding.advice})
    });
    let count = |severity| checked.findings.iter().filter(|f| f.severity == severity).count();
    json!({
        "event": "check",
        "passed": checked.passed(),
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "format": checked.format.map(Format::name),
        "sizeBytes": checked.size,
        "partitionTable": checked.scheme.map(check::Scheme::name),
        "partitions": partitions.collect::<Vec<_>>(),
        "bootsWith": {"V1": checked.bios, "V2": checked.uefi},
        "os": checked.os.as_ref().map(|os| json!({"id": os.id, "version": os.version, "name": os.name})),
        "kernels": checked.kernels,
        "agents": checked.agents,
        "findings": findings.collect::<Vec<_>>(),
    })
}
