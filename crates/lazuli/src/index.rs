//! `lazuli index rebuild`: the indexes of the content stores again, from the packs themselves. A server must not run,
//! for it would hold them.
//!
//! Exit status: 0 all packs are in the index again, 2 some could not be read and were left out, 1 it failed.

use crate::site::{self, Regions};
use anyhow::Context;
use lazuli_chunks::Rebuilt;
use serde_json::{Value, json};
use std::process::ExitCode;

const LEFT_OUT: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Reads the table of every pack and writes the index anew. No server may run on the folder.
    Rebuild(Regions),
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let What::Rebuild(args) = args.what;
    let (config, dir) = args.site.find()?;
    let _lock = dir.lock().context("an index is rebuilt while no server runs on the folder")?;
    let engine = site::open(&dir, &config).await?;
    let known = site::regions(&engine)?;
    let mut done = Vec::new();
    for name in args.chosen(&known)? {
        let at = || format!("cannot rebuild the index of the region {name}");
        for store in engine.regions().all(name).await.with_context(at)? {
            let rebuilt = store.region.rebuild_index().await.with_context(at)?;
            if !args.json {
                println!("{}", line(store.region.name(), &rebuilt));
            }
            done.push((store.region.name().to_owned(), rebuilt));
        }
    }
    if args.json {
        println!("{:#}", Value::from_iter(done.iter().map(|(name, r)| as_json(name, r))));
    }
    let whole = done.iter().all(|(_, r)| r.damaged.is_empty());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(LEFT_OUT) })
}

fn as_json(name: &str, rebuilt: &Rebuilt) -> Value {
    json!({"region": name, "packs": rebuilt.packs, "blobs": rebuilt.blobs, "damagedPacks": rebuilt.damaged})
}

fn line(name: &str, rebuilt: &Rebuilt) -> String {
    let damaged = match &rebuilt.damaged[..] {
        [] => String::new(),
        packs => {
            let packs = packs.join(", ");
            format!("; left out, their tables are damaged: {packs} (`lazuli scrub --repair` mends what it can)")
        }
    };
    format!("{name}: {} blobs in {} packs{damaged}", rebuilt.blobs, rebuilt.packs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_that_was_left_out_is_named() {
        let rebuilt = Rebuilt { packs: 2, blobs: 7, damaged: vec!["ab".into()] };
        assert_eq!(as_json("eastus", &rebuilt)["damagedPacks"], json!(["ab"]));
        let text = line("eastus", &rebuilt);
        assert!(text.starts_with("eastus: 7 blobs in 2 packs; left out") && text.contains("ab"), "{text}");
    }
}
