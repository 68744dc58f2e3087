//! `lazuli reseal`: everything in the regions that have encryption keys under the newest of them. What is plain, because it was
//! there before the keys, or is sealed with an older key, is written anew; older keys can then be taken away.
//!
//! Exit status: 0 everything is, 2 some packs stay as they were, 1 it failed.

use crate::site;
use anyhow::{Context, bail};
use indicatif::BinaryBytes;
use lazuli_chunks::{Progress, Resealed};
use serde_json::{Value, json};
use std::process::ExitCode;

pub use crate::site::Regions as Args;

const LEFT: u8 = 2;

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (config, dir) = args.site.find()?;
    let _lock = dir.lock().context("packs are sealed anew while no server runs on the folder")?;
    let engine = site::open(&dir, &config).await?;
    let known = site::regions(&engine)?;
    let cancel = crate::signals::shutdown()?;
    let mut done = Vec::new();
    for name in args.chosen(&known)? {
        if !engine.regions().stores().is_encrypted(name) {
            if !args.asked.is_empty() {
                bail!("the region {name} has no encryption_keys in the configuration");
            }
            continue;
        }
        let at = || format!("cannot seal the region {name}");
        for store in engine.regions().all(name).await.with_context(at)? {
            let resealed = store.region.reseal(&Progress::new(), &cancel).await.with_context(at)?;
            if !args.json {
                println!("{}", line(store.region.name(), &resealed));
            }
            done.push((store.region.name().to_owned(), resealed));
        }
    }
    if args.json {
        println!("{:#}", Value::from_iter(done.iter().map(|(name, r)| as_json(name, r))));
    }
    let all = done.iter().all(|(_, r)| r.left == 0);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(LEFT) })
}

fn as_json(name: &str, r: &Resealed) -> Value {
    json!({ "region": name, "packs": r.packs, "bytes": r.bytes, "left": r.left })
}

fn line(name: &str, r: &Resealed) -> String {
    let end = match r.left {
        0 => "older keys are no longer needed".to_owned(),
        left => format!("{left} packs stay as they were and need the older keys; `lazuli scrub` tells why"),
    };
    format!("{name}: {} packs ({}) sealed with the newest key; {end}", r.packs, BinaryBytes(r.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_older_keys_may_go() {
        let done = Resealed { packs: 3, bytes: 2 << 20, left: 0 };
        assert_eq!(
            line("eastus", &done),
            "eastus: 3 packs (2.00 MiB) sealed with the newest key; older keys are no longer needed"
        );
        assert!(line("eastus", &Resealed { left: 2, ..done }).contains("2 packs stay as they were"));
    }
}
