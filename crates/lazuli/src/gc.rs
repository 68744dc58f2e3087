//! `lazuli gc`: frees what no disk needs any more. A server does this by itself; this is for when none runs, and with
//! `--preview` to see beforehand what it would free, also beside a running server.

use crate::site::{self, Site};
use anyhow::Context;
use indicatif::BinaryBytes;
use lazuli_chunks::Collected;
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    site: Site,
    /// Only tell what would be freed.
    #[arg(long)]
    preview: bool,
    /// A JSON list instead of text.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let (config, dir) = args.site.find()?;
    let alone = || dir.lock().context("a running server frees by itself; `lazuli gc --preview` runs beside it");
    let _lock = if args.preview { None } else { Some(alone()?) };
    let engine = site::open(&dir, &config).await?;
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for name in site::regions(&engine)? {
        let at = || format!("cannot collect the garbage of the region {name}");
        if args.preview {
            let stores = site::read_only(&engine, &name).await.with_context(at)?;
            let live = engine.referenced(&name, &stores).await.map_err(|e| site::told(e.message, e.cause))?;
            for (store, live) in stores.iter().zip(live.all()) {
                let preview = store.region.preview_garbage(&live).await.with_context(at)?;
                done.push((store.region.name().to_owned(), preview));
            }
            continue;
        }
        let swept = engine.sweep(&name).await.map_err(|e| site::told(e.message, e.cause)).with_context(at)?;
        for (store, collected) in swept {
            match collected {
                Ok(collected) => done.push((store, collected)),
                Err(e) => {
                    let at = format!("cannot collect the garbage of {store}");
                    failed.push(site::told(e.message, e.cause).context(at));
                }
            }
        }
    }
    if args.json {
        println!("{:#}", Value::from_iter(done.iter().map(|(name, c)| as_json(name, c))));
    } else {
        done.iter().for_each(|(name, c)| println!("{}", line(name, c, args.preview)));
    }
    failed.into_iter().next().map_or(Ok(()), Err)
}

fn as_json(name: &str, c: &Collected) -> Value {
    json!({
        "region": name, "freedBytes": c.freed_bytes, "deletedPacks": c.deleted_packs,
        "rewrittenPacks": c.rewritten_packs, "orphanPacks": c.orphan_packs, "forgotten": c.forgotten,
    })
}

fn line(name: &str, c: &Collected, preview: bool) -> String {
    let verb = if preview { "would free" } else { "freed" };
    let size = BinaryBytes(c.freed_bytes);
    let (gone, rewritten, orphans) = (c.deleted_packs, c.rewritten_packs, c.orphan_packs);
    format!(
        "{name}: {verb} {size} ({gone} packs deleted, of them {rewritten} after their rest was moved; {orphans} left by crashes)"
    )
}
