//! `lazuli admin`: tenants, subscriptions, clients, their secrets and first roles. Beside a running server, which heeds every change
//! at once, or without one.
//!
//! Answers are JSON on stdout; a secret is in the answer that made it and nowhere else. Secrets are never taken as arguments, which
//! other users of the machine could read.

use crate::config::Config;
use crate::credentials::Credentials;
use crate::data_dir::DataDir;
use anyhow::{Context, bail};
use lazuli_engine::{Engine, EngineConfig};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server's data folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// The server's configuration file (TOML), where its database is named there.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Directories, each with its own users, clients and subscriptions.
    #[command(subcommand)]
    Tenant(Tenant),
    #[command(subcommand)]
    Subscription(Subscription),
    /// Clients (service principals): what signs in with an id and a secret.
    #[command(subcommand)]
    Client(Client),
    /// Gives a client a role, such as a new subscription's first owner.
    Grant {
        /// Client id, or object id.
        #[arg(long)]
        client: String,
        /// Name or id.
        #[arg(long, default_value = "Owner")]
        role: String,
        /// Subscription, or the whole id of something in it.
        #[arg(long)]
        scope: String,
    },
}

#[derive(Debug, clap::Subcommand)]
enum Tenant {
    Create {
        #[arg(long)]
        name: String,
    },
    List,
}

#[derive(Debug, clap::Subcommand)]
enum Subscription {
    Create {
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        name: String,
        /// A client of that tenant that becomes its owner.
        #[arg(long, value_name = "CLIENT")]
        owner: Option<String>,
    },
    List,
}

#[derive(Debug, clap::Subcommand)]
enum Client {
    Create {
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        name: String,
        /// A client of another tenant, which may then sign in to this one too.
        #[arg(long, value_name = "CLIENT")]
        existing: Option<String>,
    },
    List,
    /// A new secret; the old ones end.
    ResetSecret {
        #[arg(long)]
        client: String,
        /// The old secrets stay valid: for a change without interruption.
        #[arg(long)]
        keep: bool,
    },
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::read(args.config.as_deref())?;
    let dir = DataDir::find(args.data_dir.as_deref().or(config.data_dir.as_deref()))?;
    if Credentials::read(&dir)?.is_none() && config.database.is_none() {
        bail!("no server was started in {0}; start one with `lazuli serve --data-dir {0}`", dir.path().display());
    }
    let mut engine = EngineConfig::local(dir.path());
    if let Some(database) = config.database {
        engine.database = database;
    }
    let at = || format!("cannot open the database of {}", dir.path().display());
    let engine = Engine::open(engine).await.with_context(at)?;
    let answer = act(&engine, &dir, args.what).await?;
    println!("{answer:#}");
    Ok(())
}

async fn act(engine: &Engine, dir: &DataDir, what: What) -> anyhow::Result<Value> {
    Ok(match what {
        What::Tenant(Tenant::Create { name }) => {
            let made = engine.create_tenant(&name).await?;
            json!({"tenantId": made.id, "displayName": made.display_name})
        }
        What::Tenant(Tenant::List) => {
            let all = engine.all_tenants().await?;
            all.into_iter().map(|t| json!({"tenantId": t.id, "displayName": t.display_name})).collect()
        }
        What::Subscription(Subscription::Create { tenant, name, owner }) => {
            let made = engine.create_subscription(&tenant, &name).await?;
            if let Some(owner) = owner {
                for role in ["Owner", "Storage Blob Data Owner"] {
                    engine.grant_role(&owner, role, &made.id).await?;
                }
            }
            json!({"subscriptionId": made.id, "tenantId": made.tenant, "displayName": made.display_name})
        }
        What::Subscription(Subscription::List) => {
            let all = engine.all_subscriptions().await?;
            let value = |s: lazuli_engine::Subscription| json!({"subscriptionId": s.id, "tenantId": s.tenant, "displayName": s.display_name, "state": s.state});
            all.into_iter().map(value).collect()
        }
        What::Client(Client::Create { tenant, name, existing }) => {
            let made = engine.create_client(&tenant, &name, existing.as_deref()).await?;
            let mut answer =
                json!({"clientId": made.client_id, "objectId": made.object_id, "tenantId": made.tenant_id});
            if let Some(secret) = made.client_secret {
                answer["clientSecret"] = json!(secret);
            }
            answer
        }
        What::Client(Client::List) => {
            let all = engine.all_clients().await?;
            let mut shown = Vec::new();
            for p in all {
                shown.push(json!({
                    "clientId": p.app_id, "objectId": p.id, "tenantId": p.tenant, "displayName": p.display_name,
                }));
            }
            Value::from(shown)
        }
        What::Client(Client::ResetSecret { client, keep }) => {
            let secret = engine.reset_secret(&client, keep).await?;
            keep_owner(dir, &client, &secret)?;
            json!({"clientId": client, "clientSecret": secret})
        }
        What::Grant { client, role, scope } => {
            engine.grant_role(&client, &role, &scope).await?;
            json!({"client": client, "role": role, "scope": scope})
        }
    })
}

/// The first owner's secret is in a file of its own, which what starts from it must find right.
fn keep_owner(dir: &DataDir, client: &str, secret: &str) -> anyhow::Result<()> {
    let Some(mut credentials) = Credentials::read(dir)? else { return Ok(()) };
    let own = [&credentials.client_id, &credentials.object_id].iter().any(|id| id.eq_ignore_ascii_case(client));
    if !own {
        return Ok(());
    }
    secret.clone_into(&mut credentials.client_secret);
    credentials.write(dir)
}
