//! `lazuli serve`: API and workers in one process.
//!
//! On the first start it makes a tenant, a subscription and an owner. It keeps a host process running, and never ends
//! it: virtual machines outlive the server.

use crate::config::Config;
use crate::credentials::{Credentials, keep_port};
use crate::data_dir::DataDir;
use crate::{files, keeper, signals, site};
use anyhow::Context;
use lazuli_api::{Running, ServeConfig, ServeError, StoragePlane};
use lazuli_engine::{Bootstrap, Engine};
use lazuli_vmm::HostConfig;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What requests and operations in flight may take to end when the server is asked to.
const DRAIN: Duration = Duration::from_secs(20);
const DEFAULT_PORT: u16 = 8443;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of everything that is local [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where to listen; port 0 picks one and keeps it for later starts [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where the CONNECT proxy listens, a loopback address [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDR:PORT")]
    proxy_listen: Option<SocketAddr>,
    /// No CONNECT proxy.
    #[arg(long, conflicts_with = "proxy_listen")]
    no_proxy: bool,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accept what Azure refuses but its printed samples need (end-of-life dates in the past).
    #[arg(long)]
    lenient: bool,
    /// Neither start nor watch a host process; virtual machines cannot be made until one runs.
    #[arg(long)]
    no_host: bool,
    /// Append every management exchange to FILE, one JSON object a line, without tokens, passwords, keys and signatures.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let (config, dir) = site::find(args.config.as_deref(), args.data_dir.as_deref())?;
    dir.create()?;
    if dir.is_workers() {
        anyhow::bail!("{} is the folder of a worker; choose another --data-dir for the server", dir.path().display());
    }
    let _lock = dir.lock()?;
    let shutdown = signals::shutdown()?;

    let engine = open_engine(&dir, &args, &config).await?;
    let mut credentials = first_start(&engine, &dir).await?;
    let running = listen(&engine, &dir, &args, &config, &credentials, &shutdown).await?;
    if let Some(credentials) = &mut credentials {
        credentials.arm_endpoint = Some(running.base_url.clone());
        credentials.proxy_endpoint = running.proxy_address.map(|a| format!("http://{a}"));
        credentials.ca_file = running.ca_file.clone();
        credentials.write(&dir)?;
    }

    let workers = tokio::spawn({
        let (engine, shutdown) = (engine.clone(), shutdown.clone());
        async move { engine.run(shutdown).await }
    });
    let keeper = (!args.no_host).then(|| {
        let config_file = args.config.as_deref().and_then(|p| std::path::absolute(p).ok());
        tokio::spawn(keeper::keep(dir.clone(), config_file, shutdown.clone()))
    });
    tell_ready(&running)?;

    shutdown.cancelled().await;
    let drained = async {
        running.stopped().await;
        let workers = workers.await;
        if let Some(keeper) = keeper {
            // It only watches; what it started lives on.
            let _ = keeper.await;
        }
        workers
    };
    match tokio::time::timeout(DRAIN, drained).await {
        Ok(workers) => workers.context("the workers ended badly")?,
        Err(_) => tracing::warn!("some requests or operations did not end in time; operations go on at the next start"),
    }
    Ok(())
}

async fn open_engine(dir: &DataDir, args: &Args, config: &Config) -> anyhow::Result<Engine> {
    let mut engine = site::engine_config(dir, config);
    engine.lenient = args.lenient || config.lenient;
    engine.regions = config.regions()?;
    engine.bridges = config.bridges()?;
    let at = || format!("cannot open the database of {}", dir.path().display());
    let engine = Engine::open(engine).await.with_context(at)?;
    engine.regions().stores().check().await?;
    engine.check_identity_providers()?;
    // The folder is locked: nobody else uses the database in it. A database elsewhere may have more servers.
    if config.database.is_none() {
        let interrupted = engine.take_over().await.with_context(at)?;
        if interrupted > 0 {
            tracing::info!(operations = interrupted, "the last server was killed; its operations go on");
        }
    }
    Ok(engine)
}

/// Makes the first identities. `None`: they were made, but their file is gone.
async fn first_start(engine: &Engine, dir: &DataDir) -> anyhow::Result<Option<Credentials>> {
    let stored = Credentials::read(dir)?;
    if engine.is_bootstrapped().await? {
        if stored.is_none() {
            tracing::warn!(
                "{} is gone, and with it the owner's secret; the server runs on, restore the file from a backup",
                dir.credentials().display()
            );
        }
        return Ok(stored);
    }
    let credentials = match stored {
        // An earlier first start was cut short here.
        Some(credentials) => credentials,
        None => {
            let credentials = new_credentials(dir)?;
            credentials.write(dir)?;
            credentials
        }
    };
    engine.bootstrap(&identities(&credentials)).await.context("the first tenant cannot be made")?;
    tracing::info!(tenant = %credentials.tenant_id, subscription = %credentials.subscription_id, "first start");
    Ok(Some(credentials))
}

fn new_credentials(dir: &DataDir) -> anyhow::Result<Credentials> {
    let new = Bootstrap::generate()?;
    Ok(Credentials {
        tenant_id: new.tenant_id,
        subscription_id: new.subscription_id,
        object_id: new.object_id,
        client_id: new.client_id,
        client_secret: new.client_secret,
        arm_endpoint: None,
        proxy_endpoint: None,
        ca_file: dir.path().join("ca.pem"),
    })
}

fn identities(credentials: &Credentials) -> Bootstrap {
    Bootstrap {
        tenant_id: credentials.tenant_id.clone(),
        subscription_id: credentials.subscription_id.clone(),
        object_id: credentials.object_id.clone(),
        client_id: credentials.client_id.clone(),
        client_secret: credentials.client_secret.clone(),
    }
}

/// Listens on the wanted addresses. A port kept from an earlier start that others use now is given up.
async fn listen(
    engine: &Engine,
    dir: &DataDir,
    args: &Args,
    config: &Config,
    credentials: &Option<Credentials>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Running> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let wanted = args.listen.or(config.listen).unwrap_or_else(|| loopback(DEFAULT_PORT));
    let wanted_proxy =
        (!args.no_proxy).then(|| args.proxy_listen.or(config.proxy_listen).unwrap_or_else(|| loopback(0)));
    let last_arm = credentials.as_ref().and_then(|c| c.arm_endpoint.as_deref());
    let last_proxy = credentials.as_ref().and_then(|c| c.proxy_endpoint.as_deref());
    // The host process may not have made it yet; the server listens in it for the tokens of machines.
    files::private_dir(&dir.host())?;
    let mut address = keep_port(wanted, last_arm);
    let mut proxy_address = wanted_proxy.map(|w| keep_port(w, last_proxy));
    loop {
        let mut serve = ServeConfig::new(dir.path(), Arc::new(engine.clone()));
        serve.blobs = Some(Arc::new(StoragePlane::new(engine.clone())));
        serve.directory = Some(engine.clone());
        serve.token_socket = Some(HostConfig::token_socket(&dir.host()));
        serve.listen = address;
        serve.proxy_listen = proxy_address;
        serve.proxy_passthrough = config.proxy_passthrough;
        serve.host_names.clone_from(&config.host_names);
        serve.record.clone_from(&args.record);
        serve.home_tenant = credentials.as_ref().map(|c| c.tenant_id.clone());
        serve.token_lifetime = engine.config().token_lifetime;
        match lazuli_api::serve(serve, shutdown.clone()).await {
            Err(ServeError::Listen { address: taken, .. }) if taken == address && address != wanted => address = wanted,
            Err(ServeError::Listen { address: taken, .. })
                if Some(taken) == proxy_address && proxy_address != wanted_proxy =>
            {
                proxy_address = wanted_proxy;
            }
            other => return Ok(other?),
        }
    }
}

/// The one line on stdout; scripts wait for it. That nobody reads it is no reason to end.
fn tell_ready(running: &Running) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "lazuli ready: {} (portal, ARM, tokens)", running.base_url).and_then(|()| out.flush());
    if let Err(error) = said {
        tracing::warn!(%error, "the ready line cannot be printed");
    }
    Ok(())
}
