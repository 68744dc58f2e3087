//! What does it cost to ask who may do what? The same requests to a server that asks and to one that was built without asking.
//!
//! ```text
//! cargo bench -p lazuli --bench authorization -- ON OFF [--assignments N] [--roles N] [--requests N] [--rounds N]
//! ```
//! ON and OFF are two binaries; `benches/authorization` builds them. Both servers get the same identities: principals with
//! assignments of custom roles, a tenth of them the caller's own. The rounds alternate, and the best of each counts, since whatever
//! else runs on the machine only ever takes time away. Client and server share the cores; TLS and parsing are in the figures.

use anyhow::{Context as _, ensure};
use lazuli_meta::Db;
use lazuli_meta::model::{Change, CustomRole, Principal, RoleAssignment, Write};
use lazuli_testkit::{Arm, TestServer};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;
use uuid::Uuid;

const HOME: &str = "eastus";
const CLIENTS: usize = 4;
const PRINCIPALS: usize = 50;

struct Arguments {
    binaries: Vec<PathBuf>,
    assignments: usize,
    roles: usize,
    requests: usize,
    rounds: usize,
}

impl Arguments {
    fn parse() -> anyhow::Result<Self> {
        let mut parsed = Self { binaries: vec![], assignments: 1000, roles: 100, requests: 4000, rounds: 5 };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let field = match name.as_str() {
                "--assignments" => &mut parsed.assignments,
                "--roles" => &mut parsed.roles,
                "--requests" => &mut parsed.requests,
                "--rounds" => &mut parsed.rounds,
                // Given by cargo itself.
                "--bench" | "--test" => continue,
                path => {
                    parsed.binaries.push(path.into());
                    continue;
                }
            };
            *field = arguments.next().with_context(|| format!("{name} needs a number"))?.parse()?;
        }
        ensure!(parsed.binaries.len() == 2, "two binaries are wanted: one that asks and one that does not");
        Ok(parsed)
    }
}

/// A kind of request and its path.
struct Load {
    what: &'static str,
    path: String,
}

struct Site {
    server: TestServer,
    arm: Arm,
    loads: Vec<Load>,
}

impl Site {
    async fn start(binary: PathBuf, arguments: &Arguments) -> anyhow::Result<Self> {
        let mut server = TestServer::start_program(binary, &["--no-host"]).await?;
        let arm = server.arm().await?;
        let group = arm.group_path("bench", "");
        arm.put(&group, &json!({"location": HOME})).await?;
        let gallery = format!("{group}/providers/Microsoft.Compute/galleries/gallery");
        arm.put(&gallery, &json!({"location": HOME})).await?;
        let definition = format!("{gallery}/images/definition");
        let identifier = json!({"publisher": "bench", "offer": "linux", "sku": "sku"});
        let properties =
            json!({"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2", "identifier": identifier});
        arm.put(&definition, &json!({"location": HOME, "properties": properties})).await?;
        for n in 0..20 {
            let disk = json!({"diskSizeGB": 1, "creationData": {"createOption": "Empty"}});
            let path = format!("{group}/providers/Microsoft.Compute/disks/disk-{n}");
            arm.put(&path, &json!({"location": HOME, "properties": disk})).await?;
        }
        let disks = format!("{group}/providers/Microsoft.Compute/disks");
        populate(&mut server, arguments).await?;
        let arm = server.arm().await?;
        let loads = vec![
            Load { what: "GET an image definition", path: definition },
            Load { what: "list 20 disks", path: disks },
        ];
        Ok(Self { server, arm, loads })
    }

    /// Requests a second, each client's next one after the answer to its last.
    async fn rate(&self, load: &Load, requests: usize) -> anyhow::Result<f64> {
        let begin = Instant::now();
        let clients = (0..CLIENTS).map(async |client| {
            for _ in (client..requests).step_by(CLIENTS) {
                let reply = self.arm.send(Method::GET, &load.path, None).await?;
                ensure!(reply.status == StatusCode::OK, "{}: {} {}", load.path, reply.status, reply.body);
            }
            Ok(())
        });
        futures::future::try_join_all(clients).await?;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        Ok(requests as f64 / begin.elapsed().as_secs_f64())
    }
}

/// Roles and assignments, written while the server is down.
async fn populate(server: &mut TestServer, arguments: &Arguments) -> anyhow::Result<()> {
    server.stop().await?;
    let db = Db::open(&format!("sqlite:{}", server.dir().join("lazuli.db").display())).await?;
    let (tenant, subscription) = (server.credential("tenantId"), server.credential("subscriptionId"));
    let caller =
        db.principal_by_app(tenant, server.credential("clientId")).await?.context("the caller is not there")?;
    let scope = format!("/subscriptions/{subscription}");
    let mut changes = Vec::new();
    let mut principals = vec![caller.id];
    for n in 0..PRINCIPALS {
        let id = Uuid::new_v4().to_string();
        changes.push(Change::PutPrincipal(Principal {
            id: id.clone(),
            tenant: tenant.to_owned(),
            app_id: Uuid::new_v4().to_string(),
            display_name: format!("client {n}"),
            kind: "ServicePrincipal".into(),
            secret_hash: String::new(),
            login: String::new(),
            body: json!({}),
        }));
        principals.push(id);
    }
    let mut roles = Vec::new();
    for n in 0..arguments.roles {
        let id = Uuid::new_v4().to_string();
        let permissions = json!([{
            "actions": ["Microsoft.Compute/*/read", format!("Microsoft.Compute/kind{n}/*"), "Microsoft.Network/*/join/action"],
            "notActions": ["Microsoft.Compute/galleries/*/delete"],
        }]);
        let role = json!({"name": id, "roleName": format!("role {n}"), "description": "", "builtIn": false,
            "permissions": permissions, "assignableScopes": [scope]});
        changes.push(Change::PutCustomRole(CustomRole {
            id: id.clone(),
            tenant: tenant.to_owned(),
            body: json!({"role": role}),
        }));
        roles.push(id);
    }
    for n in 0..arguments.assignments {
        // Every tenth is the caller's own.
        let principal = if n % 10 == 0 { &principals[0] } else { &principals[1 + n % PRINCIPALS] };
        let scope = format!("{scope}/resourcegroups/group-{n}");
        changes.push(Change::PutRoleAssignment(RoleAssignment {
            id: Uuid::new_v4().to_string(),
            scope,
            role: roles[n % roles.len()].clone(),
            principal: principal.clone(),
            body: json!({}),
        }));
    }
    db.write(Write { fence: None, changes }).await?;
    db.close().await;
    server.restart().await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse()?;
    let mut sites = Vec::new();
    for binary in &arguments.binaries {
        sites.push(Site::start(binary.clone(), &arguments).await?);
    }
    println!(
        "{} assignments, {} custom roles; {} requests a round, {} rounds, {CLIENTS} clients",
        arguments.assignments, arguments.roles, arguments.requests, arguments.rounds
    );
    for load in 0..sites[0].loads.len() {
        let mut best = [0_f64; 2];
        for _ in 0..=arguments.rounds {
            for (site, best) in sites.iter().zip(&mut best) {
                *best = best.max(site.rate(&site.loads[load], arguments.requests).await?);
            }
        }
        let [on, off] = best;
        println!("{:<28} on {on:>7.0}/s   off {off:>7.0}/s   on / off {:.3}", sites[0].loads[load].what, on / off);
    }
    for site in &mut sites {
        site.server.stop().await?;
    }
    Ok(())
}
