//! `lazuli console`: the serial console of a virtual machine on this terminal, as `az serial-console connect` would have it.

use crate::client::Client;
use crate::credentials::Credentials;
use crate::data_dir::DataDir;
use anyhow::{Context, bail};
use lazuli_api::websocket::{Decoder, Kind, Message, frame};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

/// Ctrl-], as with telnet and virsh.
const LEAVE: u8 = 0x1d;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server's data folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[arg(long, short = 'g')]
    resource_group: String,
    /// Name of the virtual machine.
    machine: String,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let dir = DataDir::find(args.data_dir.as_deref())?;
    let (credentials, endpoint) = Credentials::of_server(&dir)?;
    let client = Client::sign_in(&credentials, &endpoint).await?;
    let below =
        format!("/resourceGroups/{}/providers/Microsoft.Compute/virtualMachines/{}", args.resource_group, args.machine);
    let port =
        client.path(&format!("{below}/providers/Microsoft.SerialConsole/serialPorts/0/connect?api-version=2018-05-01"));
    let told = client.post(&port, &json!({})).await.with_context(|| format!("no console of {}", args.machine))?;
    let address = told["connectionString"].as_str().context("the server told no address of the console")?;
    let connected = client.websocket(address).await?;
    let terminal = Raw::enter()?;
    if terminal.is_some() {
        eprintln!("Connected to {}; Ctrl-] ends it.\r", args.machine);
    }
    let ended = talk(connected).await;
    drop(terminal);
    ended
}

/// Until the console or the user ends it. Input that ends leaves the console shown.
async fn talk(mut console: reqwest::Upgraded) -> anyhow::Result<()> {
    let (mut keys, mut screen) = (tokio::io::stdin(), tokio::io::stdout());
    let (mut typed, mut said) = (vec![0; 4096], vec![0; 16 << 10]);
    let (mut decoder, mut open) = (Decoder::default(), true);
    loop {
        tokio::select! {
            read = keys.read(&mut typed), if open => {
                let typed = &typed[..read?];
                open = !typed.is_empty();
                if typed.contains(&LEAVE) {
                    console.write_all(&masked(Kind::Close, &[])).await?;
                    return Ok(());
                }
                if open {
                    console.write_all(&masked(Kind::Text, typed)).await?;
                }
            }
            read = console.read(&mut said) => {
                let read = read?;
                if read == 0 {
                    bail!("the server has ended the connection");
                }
                decoder.push(&said[..read]);
                while let Some(message) = decoder.message()? {
                    match message {
                        Message::Data(text) => {
                            screen.write_all(&text).await?;
                            screen.flush().await?;
                        }
                        Message::Ping(payload) => console.write_all(&masked(Kind::Pong, &payload)).await?,
                        Message::Pong => {}
                        Message::Close => return Ok(()),
                    }
                }
            }
        }
    }
}

/// Clients mask what they send.
fn masked(kind: Kind, payload: &[u8]) -> Vec<u8> {
    frame(kind, payload, Some(*Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 4])))
}

/// A terminal that gives each key as it is typed, until it is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    /// `None`: it is no terminal.
    fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
        eprintln!();
    }
}
