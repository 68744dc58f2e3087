//! Look-ups in a large index of made-up chunks: memory a chunk, look-ups in a second of one core.
//!
//! ```text
//! cargo bench -p lazuli-chunks --bench index -- [--chunks N]     default 1,000,000; 50,000,000 take about 1.8 GiB
//! ```

use anyhow::{Context, Result, bail};
use lazuli_chunks::bench;

fn main() -> Result<()> {
    let mut chunks = 1_000_000;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--chunks" => chunks = args.next().context("--chunks N")?.replace(['_', ','], "").parse()?,
            "--bench" => {}
            "--test" => chunks = 20_000,
            other => bail!("unknown option {other}"),
        }
    }
    bench::reset_peak_memory();
    let r = bench::index(chunks);
    println!("{} chunks, {} bytes each, {} MiB in all", r.chunks, r.bytes / r.chunks.max(1), r.bytes >> 20);
    println!("filled at {:.0} chunks a processor second", r.filled_per_second);
    println!("{:.0} look-ups a processor second that find, {:.0} that do not", r.found_per_second, r.missed_per_second);
    if let Some(peak) = bench::peak_memory() {
        println!("peak memory of the process: {} MiB", peak >> 20);
    }
    Ok(())
}
