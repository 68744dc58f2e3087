//! `lazuli admin`: tenants, subscriptions, users, clients, their passwords and secrets, first roles. Beside a running server,
//! which heeds every change at once, or without one.
//!
//! Answers are JSON on stdout; a secret is in the answer that made it and nowhere else. Secrets are never taken as arguments, which
//! other users of the machine could read.

use crate::activity_log::{self, ActivityLog};
use crate::credentials::Credentials;
use crate::data_dir::DataDir;
use crate::site;
use anyhow::{Context, bail};
use lazuli_engine::{Engine, KeyRotation, KeyView, NewUser, PUBLISHED_BEFORE};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

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
    /// People, who sign in with a login and a password.
    #[command(subcommand)]
    User(User),
    /// Who may change everything in a tenant's directory: users, groups, applications (Entra's Global Administrator).
    #[command(subcommand)]
    Administrator(Administrator),
    /// Gives a client or a user a role, such as a new subscription's first owner.
    Grant {
        /// Client id, object id, or a user's login.
        #[arg(long, visible_alias = "user")]
        client: String,
        /// Name or id.
        #[arg(long, default_value = "Owner")]
        role: String,
        /// Subscription, the whole id of something in it, or `/`: all of the tenant.
        #[arg(long)]
        scope: String,
    },
    /// Makes a new key for tokens. It is shown in the JWKS document before it signs; the old one verifies until its tokens ended.
    RotateSigningKey {
        /// How long the new key is shown before it signs.
        #[arg(long, value_name = "SECONDS", default_value_t = PUBLISHED_BEFORE.as_secs())]
        signs_after: u64,
        /// The old keys end at once, and with them every token: if somebody else may have them.
        #[arg(long, conflicts_with = "signs_after")]
        revoke_others: bool,
    },
    /// The keys that tokens are signed with, and when.
    SigningKeys,
    /// The log of every write.
    #[command(subcommand)]
    ActivityLog(ActivityLog),
    /// The computers that run virtual machines beside the server's own, and their machines.
    Workers,
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
    /// A certificate with whose key the client signs in (az login --service-principal --certificate).
    AddCertificate {
        #[arg(long)]
        client: String,
        /// PEM; only the certificate in it is read.
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
    },
}

#[derive(Debug, clap::Subcommand)]
enum Administrator {
    Add(Principal),
    Remove(Principal),
    List,
}

#[derive(Debug, clap::Args)]
struct Principal {
    /// Client id, object id, or a user's login.
    #[arg(long)]
    principal: String,
    /// Where several tenants know it.
    #[arg(long)]
    tenant: Option<String>,
}

/// A user, and who that is to another OpenID provider.
#[derive(Debug, clap::Args)]
struct Linked {
    #[arg(long)]
    user: String,
    #[arg(long)]
    tenant: Option<String>,
    /// As the provider names itself.
    #[arg(long)]
    issuer: String,
    /// The provider's own id of the person (`sub`).
    #[arg(long)]
    subject: String,
}

#[derive(Debug, clap::Subcommand)]
enum User {
    Create {
        #[arg(long)]
        tenant: String,
        /// NAME@DOMAIN, any domain.
        #[arg(long)]
        login: String,
        /// As shown to others [default: the login]
        #[arg(long)]
        name: Option<String>,
        /// Read the password from the first line of stdin, instead of making one.
        #[arg(long)]
        password_stdin: bool,
        /// No password: another OpenID provider signs the user in, which names itself so.
        #[arg(long, requires = "subject", conflicts_with = "password_stdin")]
        issuer: Option<String>,
        /// The provider's own id of the person (`sub`).
        #[arg(long, requires = "issuer")]
        subject: Option<String>,
    },
    /// Makes a user of another tenant a guest in this one: one person, one password, rights of its own here.
    Invite {
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        user: String,
        /// The user's own tenant, where several have this login.
        #[arg(long, value_name = "TENANT")]
        home: Option<String>,
    },
    List,
    /// Lets another OpenID provider sign this user in.
    Link(Linked),
    /// The provider signs this user in no longer, and what it began ends.
    Unlink(Linked),
    /// A new password; what was signed in with the old one ends.
    ResetPassword {
        #[arg(long)]
        user: String,
        /// Where several tenants have this login.
        #[arg(long)]
        tenant: Option<String>,
        #[arg(long)]
        password_stdin: bool,
    },
    Disable {
        #[arg(long)]
        user: String,
        #[arg(long)]
        tenant: Option<String>,
    },
    Enable {
        #[arg(long)]
        user: String,
        #[arg(long)]
        tenant: Option<String>,
    },
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let (config, dir) = site::find(args.config.as_deref(), args.data_dir.as_deref())?;
    if Credentials::read(&dir)?.is_none() && config.database.is_none() {
        bail!("no server was started in {0}; start one with `lazuli serve --data-dir {0}`", dir.path().display());
    }
    let at = || format!("cannot open the database of {}", dir.path().display());
    let engine = Engine::open(site::engine_config(&dir, &config)).await.with_context(at)?;
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
        What::Client(Client::AddCertificate { client, certificate }) => {
            let pem = std::fs::read_to_string(&certificate);
            let pem = pem.with_context(|| format!("cannot read {}", certificate.display()))?;
            let thumbprint = engine.add_certificate(&client, &pem).await?;
            json!({"clientId": client, "thumbprint": thumbprint})
        }
        What::User(what) => act_on_users(engine, what).await?,
        What::Administrator(Administrator::List) => {
            engine.administrators().await?.iter().map(|p| shown_principal(p, true)).collect()
        }
        What::Administrator(Administrator::Add(which)) => set_administrator(engine, &which, true).await?,
        What::Administrator(Administrator::Remove(which)) => set_administrator(engine, &which, false).await?,
        What::Grant { client, role, scope } => {
            engine.grant_role(&client, &role, &scope).await?;
            json!({"client": client, "role": role, "scope": scope})
        }
        What::RotateSigningKey { signs_after, revoke_others } => {
            let rotation = KeyRotation { signs_after: Duration::from_secs(signs_after), revoke_others };
            shown_key(&engine.rotate_signing_key(rotation).await?)
        }
        What::Workers => serde_json::to_value(engine.workers().await?)?,
        What::SigningKeys => engine.signing_key_views().await?.iter().map(shown_key).collect(),
        What::ActivityLog(what) => activity_log::run(engine, what).await?,
    })
}

async fn set_administrator(engine: &Engine, which: &Principal, administers: bool) -> anyhow::Result<Value> {
    let changed = engine.set_administrator(which.tenant.as_deref(), &which.principal, administers).await?;
    Ok(shown_principal(&changed, administers))
}

fn shown_key(key: &KeyView) -> Value {
    let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default();
    json!({
        "keyId": key.id, "created": time(key.created_ms), "signsFrom": key.signs_from_ms.map(time),
        "ends": key.ends_ms.map(time),
    })
}

fn shown_principal(principal: &lazuli_engine::Principal, administers: bool) -> Value {
    json!({
        "objectId": principal.id, "tenantId": principal.tenant, "displayName": principal.display_name,
        "administrator": administers,
    })
}

fn shown_user(user: &NewUser, made_up: Option<String>) -> Value {
    let mut answer = json!({"login": user.login, "objectId": user.object_id, "tenantId": user.tenant_id});
    if let Some(password) = made_up {
        answer["password"] = json!(password);
    }
    answer
}

async fn link(engine: &Engine, who: &Linked, linked: bool) -> anyhow::Result<Value> {
    let user = engine.link_user(who.tenant.as_deref(), &who.user, &who.issuer, &who.subject, linked).await?;
    Ok(shown_user(&user, None))
}

async fn act_on_users(engine: &Engine, what: User) -> anyhow::Result<Value> {
    Ok(match what {
        User::Create { tenant, login, name, issuer: Some(issuer), subject: Some(subject), .. } => {
            let name = name.as_deref().unwrap_or(&login);
            shown_user(&engine.create_external_user(&tenant, &login, name, &issuer, &subject).await?, None)
        }
        User::Invite { tenant, user, home } => {
            shown_user(&engine.invite_user(&tenant, &user, home.as_deref()).await?, None)
        }
        User::Link(who) => link(engine, &who, true).await?,
        User::Unlink(who) => link(engine, &who, false).await?,
        User::Create { tenant, login, name, password_stdin, .. } => {
            let (password, made_up) = password(password_stdin)?;
            let made = engine.create_user(&tenant, &login, name.as_deref().unwrap_or(&login), &password).await?;
            shown_user(&made, made_up)
        }
        User::ResetPassword { user, tenant, password_stdin } => {
            let (password, made_up) = password(password_stdin)?;
            let made = engine.reset_password(tenant.as_deref(), &user, &password).await?;
            shown_user(&made, made_up)
        }
        User::List => {
            let value = |p: lazuli_engine::Principal| {
                json!({
                    "login": p.login, "objectId": p.id, "tenantId": p.tenant, "displayName": p.display_name,
                    "enabled": p.body["accountEnabled"] != false, "externalIdentities": p.body["externalIdentities"],
                })
            };
            engine.all_users().await?.into_iter().map(value).collect()
        }
        User::Disable { user, tenant } => {
            engine.enable_user(tenant.as_deref(), &user, false).await?;
            json!({"user": user, "enabled": false})
        }
        User::Enable { user, tenant } => {
            engine.enable_user(tenant.as_deref(), &user, true).await?;
            json!({"user": user, "enabled": true})
        }
    })
}

/// From stdin, or made up; then it is shown once.
fn password(from_stdin: bool) -> anyhow::Result<(String, Option<String>)> {
    if from_stdin {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).context("cannot read the password from stdin")?;
        return Ok((line.trim_end_matches(['\r', '\n']).to_owned(), None));
    }
    let made_up = lazuli_engine::generate_secret()?;
    Ok((made_up.clone(), Some(made_up)))
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
