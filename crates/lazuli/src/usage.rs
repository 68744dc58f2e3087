//! `lazuli usage`: what the content stores hold, region by region, and tenant by tenant where these are kept apart. Beside a running server or without one.

use crate::site::Site;
use anyhow::Context;
use indicatif::BinaryBytes;
use lazuli_chunks::{Cache, Usage};
use lazuli_engine::{OpenStores, RegionStores};
use serde_json::{Value, json};

const CACHE_BYTES: u64 = 8 << 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    site: Site,
    /// A JSON list instead of a table.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let (config, dir) = args.site.find()?;
    let stores = RegionStores::new(dir.regions(), config.regions()?);
    let open = OpenStores::for_reading(stores, Cache::new(CACHE_BYTES));
    let mut regions = Vec::new();
    for name in open.stores().known().with_context(|| format!("cannot read {}", dir.regions().display()))? {
        let at = || format!("cannot read the store of the region {name}");
        for store in open.all(&name).await.with_context(at)? {
            let usage = store.region.usage().await.with_context(at)?;
            regions.push((store.region.name().to_owned(), usage));
        }
    }
    if args.json {
        println!("{:#}", Value::from_iter(regions.iter().map(|(name, usage)| as_json(name, usage))));
    } else {
        print!("{}", table(&regions));
    }
    Ok(())
}

fn as_json(name: &str, usage: &Usage) -> Value {
    json!({
        "region": name, "disks": usage.manifests, "logicalBytes": usage.logical_bytes, "dataBytes": usage.data_bytes,
        "uniqueBytes": usage.unique_bytes, "storedBytes": usage.stored_bytes, "chunks": usage.chunks,
        "packs": usage.packs,
    })
}

/// `logical` are the disks' sizes, `data` what of them is not zeros, `unique` what of that is kept once, `stored` what
/// that takes compressed.
fn table(regions: &[(String, Usage)]) -> String {
    let size = |bytes: u64| BinaryBytes(bytes).to_string();
    let head = ["region", "disks", "logical", "data", "unique", "stored"].map(str::to_owned);
    let rows = regions.iter().map(|(name, u)| {
        let [logical, data, unique, stored] = [u.logical_bytes, u.data_bytes, u.unique_bytes, u.stored_bytes].map(size);
        [name.clone(), u.manifests.to_string(), logical, data, unique, stored]
    });
    let lines = std::iter::once(head).chain(rows);
    lines.map(|[n, d, l, a, u, s]| format!("{n:<20} {d:>6} {l:>12} {a:>12} {u:>12} {s:>12}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_stores_is_an_empty_table() {
        let stores = RegionStores::new("/nonexistent/regions".into(), Default::default());
        assert!(stores.known().unwrap().is_empty());
        assert_eq!(table(&[]).lines().count(), 1);
        let usage = Usage { manifests: 2, logical_bytes: 1 << 30, stored_bytes: 1 << 20, ..Usage::default() };
        let text = table(&[("eastus".into(), usage)]);
        assert!(text.contains("1.00 GiB") && text.contains("1.00 MiB"), "{text}");
    }
}
