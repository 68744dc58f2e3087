//! `lazuli scrub`: reads everything in the content stores, names what is wrong, and with `--repair` mends it.
//!
//! Looking is safe beside a running server. A repair writes, so it wants the folder for itself. Exit status: 0 all is
//! sound, 2 something is wrong still, 1 the scrub itself failed.

use crate::data_dir::DataDir;
use crate::site::{self, Regions};
use anyhow::Context;
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use lazuli_chunks::{Finding, Outcome, Progress, RateLimit, Region, ScrubOptions, ScrubReport};
use lazuli_engine::Engine;
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const WRONG: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    regions: Regions,
    /// Unpack everything and verify every chunk; otherwise what is stored as it was written is taken for sound.
    #[arg(long)]
    deep: bool,
    /// Mend what another zone or region has sound. No server may run on the folder.
    #[arg(long)]
    repair: bool,
    /// Read at most so many MiB a second.
    #[arg(long, value_name = "MIB")]
    rate: Option<NonZeroU64>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (config, dir) = args.regions.site.find()?;
    let _lock = if args.repair { Some(alone(&dir)?) } else { None };
    let engine = site::open(&dir, &config).await?;
    let known = site::regions(&engine)?;
    let cancel = crate::signals::shutdown()?;
    let donors = if args.repair { donors(&engine, &known).await } else { Vec::new() };
    let mut reports = Vec::new();
    for name in args.regions.chosen(&known)? {
        let scrubbed = scrub_region(&engine, name, &donors, &args, &cancel).await;
        reports.extend(scrubbed.with_context(|| format!("cannot scrub the region {name}"))?);
    }
    if args.regions.json {
        println!("{:#}", serde_json::to_value(&reports)?);
    } else {
        reports.iter().for_each(|r| print!("{}", text(r, args.repair)));
    }
    let sound = reports.iter().all(ScrubReport::is_sound);
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(WRONG) })
}

fn alone(dir: &DataDir) -> anyhow::Result<crate::data_dir::ServeLock> {
    dir.lock().context("a repair wants the folder for itself; without --repair, scrub runs beside a server")
}

/// The stores that open, of all regions: what they have may help another.
async fn donors(engine: &Engine, known: &[String]) -> Vec<Region> {
    let mut donors = Vec::new();
    for name in known {
        match engine.regions().all(name).await {
            Ok(stores) => donors.extend(stores.into_iter().map(|s| s.region)),
            Err(error) => tracing::warn!(region = name, %error, "it cannot help"),
        }
    }
    donors
}

/// Every store of a region.
async fn scrub_region(
    engine: &Engine,
    name: &str,
    donors: &[Region],
    args: &Args,
    cancel: &CancellationToken,
) -> anyhow::Result<Vec<ScrubReport>> {
    let stores = if args.repair { engine.regions().all(name).await? } else { site::read_only(engine, name).await? };
    let manifests = engine.referenced(name, &stores).await.map_err(|e| site::told(e.message, e.cause))?.all();
    let rate = args.rate.and_then(|mib| NonZeroU64::new(mib.get() << 20)).map(RateLimit::new);
    let mut reports = Vec::new();
    for (store, manifests) in stores.iter().zip(manifests) {
        let options = ScrubOptions {
            manifests: Some(manifests),
            rate: rate.clone(),
            deep: args.deep,
            repair: args.repair,
            donors: donors.iter().filter(|d| d.name() != store.region.name()).cloned().collect(),
        };
        reports.push(scrub(&store.region, &options, cancel).await?);
    }
    Ok(reports)
}

async fn scrub(region: &Region, options: &ScrubOptions, cancel: &CancellationToken) -> anyhow::Result<ScrubReport> {
    let progress = Progress::new();
    let bar = bar(region.name());
    let shown = async {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            bar.set_length(progress.total());
            bar.set_position(progress.done());
        }
    };
    let report = tokio::select! {
        report = region.scrub(options, &progress, cancel) => report,
        () = shown => unreachable!("the bar is drawn until the scrub ends"),
    };
    bar.finish_and_clear();
    Ok(report?)
}

fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = "{msg:<20} {bar:30} {binary_bytes} of {binary_total_bytes} ({binary_bytes_per_sec}, {eta} left)";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(name.to_owned());
    bar
}

/// For people: one line a region, one a finding.
fn text(report: &ScrubReport, repair: bool) -> String {
    let verdict = if report.is_sound() { "sound" } else { "NOT SOUND" };
    let mut out = format!(
        "{}: {verdict}. {} disks, {} packs in {} zones, {} read.\n",
        report.region,
        report.manifests,
        report.packs,
        report.zones,
        BinaryBytes(report.read_bytes)
    );
    report.findings.iter().for_each(|f| out += &format!("  {}\n", line(f)));
    for disk in &report.unreadable {
        out += &format!("  the disk {disk} cannot be read in full\n");
    }
    if !report.is_sound() && !repair {
        out += "  `lazuli scrub --repair` mends what another zone or region has sound.\n";
    }
    out
}

fn line(finding: &Finding) -> String {
    let word = |v: &dyn std::fmt::Debug| format!("{v:?}").to_lowercase();
    let zone = finding.zone.map_or_else(String::new, |z| format!(" in zone {z}"));
    let end = match &finding.outcome {
        Outcome::Reported => String::new(),
        Outcome::Repaired { from } => format!("; repaired from {from}"),
        Outcome::Unrepairable { why } => format!("; not repaired: {why}"),
    };
    let (object, problem) = (word(&finding.object), word(&finding.problem));
    format!("{object} {}{zone}: {problem}: {}{end}", finding.name, finding.detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lazuli_chunks::{Object, Problem};

    #[test]
    fn a_report_says_what_is_wrong_and_what_to_do() {
        let finding = |problem, outcome| Finding {
            object: Object::Pack,
            name: "packs/7f/0198".into(),
            zone: Some(1),
            problem,
            detail: "its trailer is missing or torn".into(),
            outcome,
        };
        let mut report =
            ScrubReport { region: "eastus".into(), zones: 2, packs: 3, manifests: 2, ..Default::default() };
        assert!(text(&report, false).starts_with("eastus: sound. 2 disks, 3 packs in 2 zones"));
        report.findings = vec![finding(Problem::Damaged, Outcome::Reported)];
        let said = text(&report, false);
        assert!(said.contains("NOT SOUND") && said.contains("--repair"), "{said}");
        assert!(said.contains("pack packs/7f/0198 in zone 1: damaged: its trailer is missing or torn\n"), "{said}");
        report.findings = vec![finding(Problem::Damaged, Outcome::Repaired { from: "zone 0".into() })];
        assert!(text(&report, true).contains("repaired from zone 0"));
    }
}
