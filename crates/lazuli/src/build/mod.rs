//! `lazuli build`: image templates for people and pipelines.
//!
//! | exit code | `check` | `run --wait` |
//! |---|---|---|
//! | 0 | all is in order | Succeeded |
//! | 1 | something is wrong, or the command failed | Failed, or the command failed |
//! | 2 | | PartiallySucceeded |
//! | 3 | | Canceled |
//! | 4 | | it did not end within `--timeout` |

mod junit;

use crate::client::Client;
use crate::credentials::Credentials;
use crate::data_dir::DataDir;
use anyhow::{Context as _, bail};
use clap::Subcommand;
use indicatif::BinaryBytes;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const API_VERSION: &str = "2024-02-01";
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server's data folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Looks at a template as its creation and its run would, and makes nothing. Fails where something is wrong.
    Check {
        #[command(flatten)]
        template: Template,
        /// The template's JSON; without it, the template that is on the server.
        file: Option<PathBuf>,
        /// The report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Runs a template.
    Run {
        #[command(flatten)]
        template: Template,
        /// Shows the log until the run ends; the exit code says how.
        #[arg(long)]
        wait: bool,
        /// Writes what became of the run, its validators and outputs as a JUnit report; implies --wait.
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
        /// Minutes to wait; the run goes on after that.
        #[arg(long, default_value_t = 960)]
        timeout: u64,
    },
    /// Prints the log of the last run.
    Logs {
        #[command(flatten)]
        template: Template,
        /// Goes on until the run ends.
        #[arg(short, long)]
        follow: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Template {
    #[arg(short = 'g', long)]
    resource_group: String,
    #[arg(short, long)]
    name: String,
}

impl Template {
    fn path(&self, client: &Client, below: &str) -> String {
        let Self { resource_group, name } = self;
        let kind = "Microsoft.VirtualMachineImages/imageTemplates";
        client
            .path(&format!("/resourceGroups/{resource_group}/providers/{kind}/{name}{below}?api-version={API_VERSION}"))
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = DataDir::find(args.data_dir.as_deref())?;
    let (credentials, endpoint) = Credentials::of_server(&dir)?;
    let client = Client::sign_in(&credentials, &endpoint).await?;
    match args.command {
        Command::Check { template, file, json } => check(&client, &template, file.as_deref(), json).await,
        Command::Run { template, wait, junit, timeout } => {
            start(&client, &template).await?;
            if !wait && junit.is_none() {
                return Ok(ExitCode::SUCCESS);
            }
            follow(&client, &template, junit.as_deref(), Duration::from_secs(timeout.saturating_mul(60))).await
        }
        Command::Logs { template, follow } => {
            Log::new(&client, &template).print(follow, None).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn check(client: &Client, template: &Template, file: Option<&Path>, as_json: bool) -> anyhow::Result<ExitCode> {
    let body = match file {
        Some(file) => {
            let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))?
        }
        None => Value::Null,
    };
    let report = client.begin(&template.path(client, "/dryRun"), &body).await?;
    if as_json {
        println!("{report:#}");
    } else {
        print!("{}", table(&report));
    }
    Ok(if report["status"] == "Succeeded" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(report: &Value) -> String {
    let mut text = String::new();
    for check in report["checks"].as_array().into_iter().flatten() {
        let of = |name: &str| check[name].as_str().unwrap_or_default();
        let word = if of("status") == "Succeeded" { "ok" } else { "WRONG" };
        text.push_str(&format!("{word:<6} {:<24} {}\n", of("name"), of("message")));
    }
    text
}

async fn start(client: &Client, template: &Template) -> anyhow::Result<()> {
    client.begin(&template.path(client, "/run"), &json!({})).await?;
    eprintln!("lazuli: the run of {} has begun", template.name);
    Ok(())
}

async fn follow(
    client: &Client,
    template: &Template,
    junit: Option<&Path>,
    patience: Duration,
) -> anyhow::Result<ExitCode> {
    let ended = Log::new(client, template).print(true, Some(Instant::now() + patience)).await?;
    if !ended {
        eprintln!("lazuli: the run goes on; this command has waited as long as it was told to");
        return Ok(ExitCode::from(4));
    }
    let shown = client.get(&template.path(client, "")).await?;
    let outputs = client.list(&template.path(client, "/runOutputs")).await?;
    if let Some(file) = junit {
        let report = junit::report(&shown, &outputs);
        std::fs::write(file, report).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let last = &shown["properties"]["lastRunStatus"];
    let (state, message) =
        (last["runState"].as_str().unwrap_or_default(), last["message"].as_str().unwrap_or_default());
    for output in &outputs {
        let properties = &output["properties"];
        let artifact = properties["artifactId"].as_str().or(properties["artifactUri"].as_str()).unwrap_or_default();
        eprintln!("lazuli: {}: {artifact}", output["name"].as_str().unwrap_or_default());
        if artifact.contains("/versions/") {
            // Only for people: a run is not told to have failed because its version is gone already.
            let usage = client.get(&format!("{artifact}/usage")).await.unwrap_or_default();
            eprint!("{}", own_bytes(&usage));
        }
    }
    eprintln!("lazuli: {state}{}{message}", if message.is_empty() { "" } else { ": " });
    exit_code(state)
}

/// What a version has that nothing else in its regions has, a line a region: of a build from a baseline, what the build changed.
fn own_bytes(usage: &Value) -> String {
    let line = |region: &Value| {
        let size = |bytes: &Value| BinaryBytes(bytes.as_u64().unwrap_or_default()).to_string();
        let (own, name) = (&region["freedByDelete"], region["region"].as_str().unwrap_or_default());
        let [new, stored, data] = [&own["uniqueBytes"], &own["storedBytes"], &region["dataBytes"]].map(size);
        format!("lazuli:   {name}: {new} of its own ({stored} stored) of {data} of data\n")
    };
    usage["regions"].as_array().into_iter().flatten().map(line).collect()
}

fn exit_code(state: &str) -> anyhow::Result<ExitCode> {
    Ok(match state {
        "Succeeded" => ExitCode::SUCCESS,
        "Failed" => ExitCode::FAILURE,
        "PartiallySucceeded" => ExitCode::from(2),
        "Canceled" => ExitCode::from(3),
        other => bail!("the server tells of a run in the state '{other}'"),
    })
}

/// The log of the last run, as far as it was printed.
struct Log<'a> {
    client: &'a Client,
    template: &'a Template,
    /// Once it is known: another may begin before this one was printed.
    run: Option<String>,
    offset: u64,
}

impl<'a> Log<'a> {
    fn new(client: &'a Client, template: &'a Template) -> Self {
        Self { client, template, run: None, offset: 0 }
    }

    /// Prints what there is, and with `follow` what comes until the run ends. Whether it has ended.
    async fn print(&mut self, follow: bool, until: Option<Instant>) -> anyhow::Result<bool> {
        loop {
            let run = self.run.as_ref().map_or_else(String::new, |run| format!("&run={run}"));
            let path = format!("{}&offset={}{run}", self.template.path(self.client, "/log"), self.offset);
            let piece = self.client.get(&path).await?;
            let text = piece["text"].as_str().unwrap_or_default();
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
            drop(out);
            self.offset = piece["offset"].as_u64().unwrap_or(self.offset);
            self.run = self.run.take().or_else(|| piece["run"].as_str().map(str::to_owned));
            if piece["ended"] == true {
                return Ok(true);
            }
            if !text.is_empty() {
                continue;
            }
            if !follow || until.is_some_and(|until| Instant::now() >= until) {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table() {
        let report = json!({"status": "Failed", "checks": [
            {"name": "source", "status": "Succeeded", "message": "It is 1.0.0 now."},
            {"name": "files/customize/0", "status": "Failed", "code": "NoScript", "message": "'https://example.com/a' cannot be fetched."}]});
        insta::assert_snapshot!(table(&report));
    }

    #[test]
    fn a_version_tells_what_it_has_alone() {
        let region = |name: &str, new: u64| json!({"region": name, "dataBytes": 48 << 20, "freedByDelete": {"uniqueBytes": new, "storedBytes": new / 4}});
        let usage = json!({"regions": [region("eastus", 3 << 20), region("westus2", 0)], "localBytes": 0});
        insta::assert_snapshot!(own_bytes(&usage), @r"
        lazuli:   eastus: 3.00 MiB of its own (768.00 KiB stored) of 48.00 MiB of data
        lazuli:   westus2: 0 B of its own (0 B stored) of 48.00 MiB of data
        ");
        assert_eq!(own_bytes(&Value::Null), "");
    }

    #[test]
    fn every_end_has_a_code_of_its_own() {
        let all: Vec<String> = ["Succeeded", "Failed", "PartiallySucceeded", "Canceled"]
            .map(|state| format!("{:?}", exit_code(state).unwrap()))
            .to_vec();
        let mut once = all.clone();
        once.dedup();
        assert_eq!(all, once);
        assert!(exit_code("Running").is_err());
    }
}
