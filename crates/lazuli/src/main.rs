//! The binary: reads the command line, puts the pieces together, and leaves the work to them.
//!
//! One file a subcommand. What a user sees on stdout is part of the product (scripts read it); logs go to stderr.

mod activity_log;
mod admin;
mod bench;
mod build;
mod client;
mod config;
mod console;
mod credentials;
mod data_dir;
mod env;
mod files;
mod gc;
mod host;
mod image;
mod index;
mod keeper;
mod logging;
mod reseal;
mod scrub;
mod serve;
mod signals;
mod site;
mod stop;
mod usage;
mod worker;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Buffers of some MiB come and go with every range that is moved between stores; this allocator keeps their pages for a while, where
/// the C library's gives them back and has them cleared anew (RFD 2).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A self-hosted VM-image platform that speaks Azure's protocols.
#[derive(Debug, Parser)]
#[command(name = "lazuli", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// How log lines on stderr are written. What is logged is chosen by LAZULI_LOG, e.g. `info,lazuli_engine=debug`.
    #[arg(long, global = true, value_enum, default_value_t = logging::Format::Text, env = "LAZULI_LOG_FORMAT")]
    log_format: logging::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// API and workers in one process, with everything below one folder.
    Serve(serve::Args),
    /// Runs virtual machines of a server on this computer: docs/fleet.md.
    Worker(worker::Args),
    /// The virtual machines of this computer; `serve` starts one where none runs.
    Host(host::Args),
    /// Ends a server and its host process, and on request the virtual machines.
    Stop(stop::Args),
    /// Prints shell lines that point az, SDKs and azcopy at a server: eval "$(lazuli env)".
    Env(env::Args),
    /// Tenants, subscriptions, clients and their secrets: what only the server's operator may do.
    Admin(admin::Args),
    /// Images in and out of a server, and its catalogue of platform images.
    Image(image::Args),
    /// The serial console of a virtual machine, on this terminal.
    Console(console::Args),
    /// Image templates: dry runs, runs that are waited for, their logs.
    Build(build::Args),
    /// Shows what the content stores hold, region by region.
    Usage(usage::Args),
    /// Reads everything in the content stores, names what is damaged, and on request repairs it.
    Scrub(scrub::Args),
    /// Frees what no disk needs any more, or tells what it would free.
    Gc(gc::Args),
    /// Seals everything in the encrypted regions with their newest keys.
    Reseal(reseal::Args),
    /// Builds the indexes of the content stores again, from their packs.
    Index(index::Args),
    /// Measures the content store alone, without a server.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.log_format);
    // The one TLS provider of the process; a second installation would be a defect, but not one to die of.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed already");
    }
    match run(cli.command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("lazuli: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    if let Command::Env(args) = command {
        return env::run(&args).map(|()| ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let done = match command {
            Command::Serve(args) => serve::run(args).await,
            Command::Worker(args) => worker::run(args).await,
            Command::Host(args) => host::run(args).await,
            Command::Stop(args) => stop::run(args).await,
            Command::Admin(args) => admin::run(args).await,
            Command::Image(args) => image::run(args).await,
            Command::Console(args) => console::run(args).await,
            Command::Build(args) => return build::run(args).await,
            Command::Usage(args) => usage::run(args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::Gc(args) => gc::run(args).await,
            Command::Reseal(args) => return reseal::run(args).await,
            Command::Index(args) => return index::run(args).await,
            Command::Scrub(args) => return scrub::run(args).await,
            Command::Env(_) => Ok(()),
        };
        done.map(|()| ExitCode::SUCCESS)
    });
    // Blocking work that nobody waits for any more must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// An error and its causes; a cause that its parent already quotes is not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}
