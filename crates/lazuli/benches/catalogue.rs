//! A gallery of very many image versions: does the size of the whole show in the time of one request?
//!
//! ```text
//! cargo bench -p lazuli --bench catalogue -- [--definitions N] [--versions N] [--requests N]
//! ```
//! Makes one definition with one version through the API, multiplies both in the database while the server is down, and measures
//! the same requests over loopback TLS before and after. `--versions` are those of each definition. Client and server share the
//! machine's cores; the client's part (TLS, parsing) is in the figures. The binary is `LAZULI_BIN` or the one beside this bench.

use anyhow::{Context as _, ensure};
use lazuli_meta::Db;
use lazuli_meta::model::{Change, ContentRef, Expect, Resource, Write};
use lazuli_testkit::{Arm, TestServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const HOME: &str = "eastus";
/// Changes of one transaction while the database is filled.
const BATCH: usize = 4000;
const CLIENTS: usize = 4;

struct Size {
    definitions: usize,
    /// Of each definition.
    versions: usize,
    /// Of each kind that is measured.
    requests: usize,
}

impl Size {
    fn from_arguments() -> anyhow::Result<Self> {
        let mut size = Self { definitions: 1000, versions: 1000, requests: 2000 };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let field = match name.as_str() {
                "--definitions" => &mut size.definitions,
                "--versions" => &mut size.versions,
                "--requests" => &mut size.requests,
                // Given by cargo itself.
                "--bench" | "--test" => continue,
                _ => anyhow::bail!("unknown argument {name} (known: --definitions, --versions, --requests)"),
            };
            *field = arguments.next().with_context(|| format!("{name} needs a number"))?.parse()?;
        }
        Ok(size)
    }
}

fn definition_name(n: usize) -> String {
    format!("definition-{n:05}")
}

/// Versions in three places, so that their order is not that of their text.
fn version_name(n: usize) -> String {
    format!("{}.{}.{}", n / 10_000, n / 100 % 100, n % 100)
}

struct Catalogue {
    server: TestServer,
    arm: Arm,
    gallery: String,
    source: String,
}

impl Catalogue {
    /// A gallery with one definition and its version 0.0.0, made through the API.
    async fn start() -> anyhow::Result<Self> {
        let server = TestServer::start_with(&["--no-host"]).await?;
        let arm = server.arm().await?;
        let group = arm.group_path("bench", "");
        arm.put(&group, &json!({"location": HOME})).await?;
        let compute = |below: &str| format!("{group}/providers/Microsoft.Compute/{below}");
        let source = compute("disks/source");
        let empty = json!({"createOption": "Empty"});
        let disk = json!({"osType": "Linux", "hyperVGeneration": "V2", "diskSizeGB": 1, "creationData": empty});
        arm.put(&source, &json!({"location": HOME, "properties": disk})).await?;
        let gallery = compute("galleries/catalogue");
        arm.put(&gallery, &json!({"location": HOME})).await?;
        let catalogue = Self { server, arm, gallery, source };
        let definition = catalogue.definition(0);
        let identifier = json!({"publisher": "bench", "offer": "linux", "sku": definition_name(0)});
        let properties =
            json!({"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2", "identifier": identifier});
        catalogue.arm.put(&definition, &json!({"location": HOME, "properties": properties})).await?;
        catalogue.arm.put(&catalogue.version(0, 0), &catalogue.version_body()).await?;
        Ok(catalogue)
    }

    fn definition(&self, n: usize) -> String {
        format!("{}/images/{}", self.gallery, definition_name(n))
    }

    fn version(&self, definition: usize, n: usize) -> String {
        format!("{}/versions/{}", self.definition(definition), version_name(n))
    }

    fn version_body(&self) -> Value {
        let storage = json!({"osDiskImage": {"source": {"id": self.source}}});
        let targets = json!([{"name": HOME, "regionalReplicaCount": 1}]);
        json!({"location": HOME, "properties": {"publishingProfile": {"targetRegions": targets}, "storageProfile": storage}})
    }

    /// Stops the server, multiplies definition and version until there are as many as asked, and starts it again.
    async fn grow(&mut self, definitions: usize, versions: usize) -> anyhow::Result<()> {
        self.server.stop().await?;
        let db = Db::open(&format!("sqlite:{}", self.server.dir().join("lazuli.db").display())).await?;
        let row = async |path: &str| -> anyhow::Result<Resource> {
            db.resource(&path.to_lowercase()).await?.with_context(|| format!("{path} is not in the database"))
        };
        let (definition, version) = (row(&self.definition(0)).await?, row(&self.version(0, 0)).await?);
        let mut batch = Vec::with_capacity(BATCH);
        for d in 0..definitions {
            if d > 0 {
                batch.push(put(copy(&definition, &self.definition(d), &definition_name(d))));
            }
            for v in 0..versions {
                let row = copy(&version, &self.version(d, v), &version_name(v));
                batch.extend(references(&row));
                batch.push(put(row));
            }
            if batch.len() >= BATCH || d + 1 == definitions {
                let changes = std::mem::take(&mut batch);
                db.write(Write { fence: None, changes }).await?;
            }
        }
        db.close().await;
        // What the system still writes of it would be in the figures.
        for file in database_files(&self.server.dir())? {
            std::fs::File::open(file.path())?.sync_all()?;
        }
        let begin = Instant::now();
        self.server.restart().await?;
        self.arm = self.server.arm().await?;
        println!(
            "{:>10} versions: ready after {:.2} s, database {} MiB, memory {} MiB",
            definitions * versions,
            begin.elapsed().as_secs_f64(),
            database_bytes(&self.server.dir())? >> 20,
            self.server.resident_mib()?
        );
        Ok(())
    }

    async fn measure(&self, what: &str, size: &Size, definitions: usize) -> anyhow::Result<()> {
        let random = |n: usize, bound: usize| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_usize) % bound;
        let gets = size.requests;
        self.load(&format!("{what}: GET one version"), gets, |n| {
            (Method::GET, self.version(random(n, definitions), random(n / 7, size.versions)), None)
        })
        .await?;
        let lists = (size.requests / 20).max(20);
        self.load(&format!("{what}: list versions, $top=100"), lists, |n| {
            (Method::GET, format!("{}/versions?$top=100", self.definition(random(n, definitions))), None)
        })
        .await?;
        self.load(&format!("{what}: list definitions, $top=100"), lists, |_| {
            (Method::GET, format!("{}/images?$top=100", self.gallery), None)
        })
        .await?;
        self.load(&format!("{what}: list galleries"), lists, |_| {
            (Method::GET, self.arm.path("/providers/Microsoft.Compute/galleries"), None)
        })
        .await?;
        let creates = (size.requests / 10).max(20);
        self.load(&format!("{what}: create one version"), creates, |n| {
            let path = format!("{}/versions/99.{definitions}.{n}", self.definition(random(n, definitions)));
            (Method::PUT, path, Some(self.version_body()))
        })
        .await
    }

    /// Sends so many requests from a few clients, each after the answer to its last, and prints their times.
    async fn load(
        &self,
        what: &str,
        requests: usize,
        request: impl Fn(usize) -> (Method, String, Option<Value>),
    ) -> anyhow::Result<()> {
        let request = &request;
        // Connections and caches of a server that has just begun are not what is measured.
        for n in requests..requests + requests / 10 {
            let (method, path, body) = request(n);
            self.arm.send(method, &path, body.as_ref()).await?;
        }
        let begin = Instant::now();
        let clients = (0..CLIENTS).map(async |client| {
            let mut times = Vec::new();
            for n in (client..requests).step_by(CLIENTS) {
                let (method, path, body) = request(n);
                let begin = Instant::now();
                let reply = self.arm.send(method, &path, body.as_ref()).await?;
                times.push(begin.elapsed());
                let good = matches!(reply.status, StatusCode::OK | StatusCode::CREATED);
                ensure!(good, "{path}: {} {}", reply.status, reply.body);
            }
            Ok(times)
        });
        let times: Vec<Vec<Duration>> = futures::future::try_join_all(clients).await?;
        let mut times = times.concat();
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
        println!("{what:<55} p50 {:>8.2} ms   p99 {:>8.2} ms   {rate:>8.0}/s", at(50), at(99));
        Ok(())
    }
}

fn put(resource: Resource) -> Change {
    Change::PutResource { resource, expect: Expect::Any }
}

/// The same resource under another id.
fn copy(of: &Resource, id: &str, name: &str) -> Resource {
    let parent =
        id.rsplit_once('/').and_then(|(path, _)| path.rsplit_once('/')).map(|(parent, _)| parent.to_lowercase());
    let mut row = Resource { key: id.to_lowercase(), id: id.to_owned(), name: name.to_owned(), parent, ..of.clone() };
    if row.kind.ends_with("/images") {
        row.body["properties"]["identifier"]["sku"] = name.into();
    }
    row.sort_key.clone_from(&row.key);
    if row.kind.ends_with("/versions") {
        // As the provider of versions does it.
        let numbers: Vec<String> = name.split('.').map(|number| format!("{number:0>10}")).collect();
        let above = row.key.strip_suffix(name).unwrap_or_default();
        row.sort_key = format!("{above}{}/{name}", numbers.join("."));
    }
    row
}

/// As the version's own creation left them.
fn references(version: &Resource) -> Option<Change> {
    let manifest = version.internal["osDisk"]["manifest"].as_str()?.to_owned();
    Some(Change::PutContentRef(ContentRef { resource_key: version.key.clone(), region: HOME.into(), manifest }))
}

fn database_files(data_dir: &Path) -> anyhow::Result<Vec<std::fs::DirEntry>> {
    let files = std::fs::read_dir(data_dir)?.flatten();
    Ok(files.filter(|f| f.file_name().to_string_lossy().starts_with("lazuli.db")).collect())
}

fn database_bytes(data_dir: &Path) -> anyhow::Result<u64> {
    database_files(data_dir)?.iter().map(|f| Ok(f.metadata()?.len())).sum()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let size = Size::from_arguments()?;
    let mut catalogue = Catalogue::start().await?;
    catalogue.grow(1, size.versions).await?;
    catalogue.measure("one definition", &size, 1).await?;
    catalogue.grow(size.definitions, size.versions).await?;
    catalogue.measure("all definitions", &size, size.definitions).await?;
    println!("memory after the load: {} MiB", catalogue.server.resident_mib()?);
    Ok(())
}
