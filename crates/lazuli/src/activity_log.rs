//! `lazuli admin activity-log verify`: whether the linked lines of the activity log are as they were written.
//!
//! The answer is JSON on stdout, also where a line is wrong; kept elsewhere, it is what a later run is given as `--since`.

use anyhow::{Context, bail};
use lazuli_engine::{ChainAnchor, ChainReport, Engine};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub enum ActivityLog {
    /// Reads every linked line, and names the first of each chain that was changed, put in or taken away.
    Verify {
        /// What an earlier run printed: those lines must be here still.
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
    },
}

/// The part of an earlier answer that is compared.
#[derive(Deserialize)]
struct Earlier {
    chain: String,
    end: i64,
    link: String,
}

/// The answer; one that names a wrong line is printed here, and is an error too.
pub async fn run(engine: &Engine, what: ActivityLog) -> anyhow::Result<Value> {
    let ActivityLog::Verify { since } = what;
    let earlier = since.as_deref().map(read).transpose()?.unwrap_or_default();
    let chains = engine.verify_activity_log(&earlier).await.context("cannot read the activity log")?;
    let answer: Value = chains.iter().map(shown).collect();
    let broken: Vec<String> =
        chains.iter().filter_map(|c| Some(format!("{}: {}", c.chain, c.broken.as_ref()?))).collect();
    if !broken.is_empty() {
        println!("{answer:#}");
        bail!("the activity log is not as it was written: {}", broken.join("; "));
    }
    if chains.is_empty() {
        bail!("no line of the activity log is linked: set `activity_log_chain = true` in the server's configuration");
    }
    Ok(answer)
}

fn shown(chain: &ChainReport) -> Value {
    json!({
        "chain": chain.chain, "forgottenUpTo": chain.purged_n, "end": chain.n, "link": chain.link,
        "broken": chain.broken.as_ref().map(ToString::to_string),
    })
}

fn read(file: &Path) -> anyhow::Result<Vec<ChainAnchor>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let earlier: Vec<Earlier> =
        serde_json::from_str(&text).with_context(|| format!("{} is no answer of an earlier run", file.display()))?;
    Ok(earlier.into_iter().map(|e| ChainAnchor { chain: e.chain, n: e.end, link: e.link }).collect())
}
