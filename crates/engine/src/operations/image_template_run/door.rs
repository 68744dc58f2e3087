//! How the machines of a run are reached: SSH with a key that was made for the run, or WinRM with a password and with the certificate that
//! the guest reported to the platform. Both come from the run's seed, and neither goes into a log.

use super::Run;
use super::machine::require;
use super::names::Machine;
use crate::operation::OpError;
use crate::providers::public_ip_address::PublicIpInternal;
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::internal;
use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use lazuli_builder::communicator::ssh::{HostKey, SshCommunicator, UserKey};
use lazuli_builder::communicator::winrm::{self, Dial, Login, WinrmCommunicator, Wire};
use lazuli_builder::{Communicator, CommunicatorError, Connect};
use lazuli_vmm::HostClient;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use uuid::Uuid;

/// The user that scripts are run as (Packer's name for it; `sudo` asks it no password).
pub(super) const USER: &str = "packer";
const SSH: u16 = 22;
const CONNECT: Duration = Duration::from_secs(10);

/// Where a machine listens.
pub(super) fn port(windows: bool) -> u16 {
    if windows { winrm::PORT } else { SSH }
}

/// The password of a run's build user: long enough that nobody guesses it, with every kind of character that Windows asks for.
pub(super) fn password(seed: &[u8; 32]) -> String {
    let mut digest = Context::new(&SHA256);
    digest.update(b"winrm password");
    digest.update(seed);
    format!("Lz-{}", hex::encode(&digest.finish().as_ref()[..16]))
}

/// Bytes to a port of a machine: through its public address, or by a private link where it has none.
#[derive(Clone)]
struct Line {
    host: HostClient,
    vm: Uuid,
    public: Option<Ipv4Addr>,
    port: u16,
}

#[async_trait]
impl Dial for Line {
    async fn dial(&self) -> io::Result<Box<dyn Wire>> {
        match self.public {
            Some(address) => {
                let stream = tokio::time::timeout(CONNECT, TcpStream::connect((address, self.port))).await;
                Ok(Box::new(stream.map_err(io::Error::other)??))
            }
            None => Ok(Box::new(self.host.connect(self.vm, self.port).await.map_err(io::Error::other)?)),
        }
    }
}

/// Who comes.
enum Proof {
    Key(UserKey, HostKey),
    /// The certificate is that of the first connection, whatever the guest reports later.
    Password(String, Mutex<Option<Vec<u8>>>),
}

pub(super) struct Door {
    line: Line,
    proof: Proof,
}

impl Door {
    async fn of(run: &Run<'_>, machine: &Machine) -> Result<Self, OpError> {
        let row = require(run, &machine.machine).await?;
        let state: MachineInternal = internal(&row)?;
        let home = run.cx.engine.home_of(&row, &state).await?;
        // A public address leads to a machine from its own computer only.
        let public = match run.template.vm_profile.network.is_some() || home.worker.is_some() {
            true => None,
            false => Some(internal::<PublicIpInternal>(&require(run, &machine.address).await?)?.address),
        };
        let windows = run.prepared.source.windows;
        let seed = run.seed()?;
        let proof = if windows {
            Proof::Password(password(&seed), Mutex::default())
        } else {
            Proof::Key(UserKey::from_seed(&seed), HostKey::default())
        };
        let line = Line { host: home.host, vm: state.vm_id, public, port: port(windows) };
        Ok(Self { line, proof })
    }

    /// What the guest told the platform of its listener.
    async fn certificate(&self, known: &Mutex<Option<Vec<u8>>>) -> Result<Vec<u8>, CommunicatorError> {
        if let Some(certificate) = known.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(certificate);
        }
        let status = self.line.host.status(self.line.vm).await.map_err(|e| CommunicatorError::Unreachable(e.into()))?;
        let reported = status.agent.as_ref().and_then(lazuli_vmm::spec::AgentStatus::winrm_certificate);
        let certificate = reported.ok_or_else(|| {
            CommunicatorError::Unreachable("it has not reported the certificate of its listener".into())
        })?;
        *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.clone());
        Ok(certificate)
    }
}

#[async_trait]
impl Connect for Door {
    async fn connect(&self) -> Result<Box<dyn Communicator>, CommunicatorError> {
        match &self.proof {
            Proof::Key(key, host_key) => {
                let stream = self.line.dial().await.map_err(|e| CommunicatorError::Unreachable(e.into()))?;
                Ok(Box::new(SshCommunicator::connect(stream, USER, key, host_key).await?))
            }
            Proof::Password(password, known) => {
                let certificate = self.certificate(known).await?;
                let login = Login { user: USER.to_owned(), password: password.clone(), certificate };
                Ok(Box::new(WinrmCommunicator::connect(Arc::new(self.line.clone()), &login).await?))
            }
        }
    }
}

/// The connection that steps are run over.
pub(super) async fn open(run: &Run<'_>, machine: &Machine) -> Result<Arc<dyn Connect>, OpError> {
    Ok(Arc::new(Door::of(run, machine).await?))
}

/// How somebody gets into a machine that is kept: the key or the password lies beside the log.
pub(super) async fn entrance(run: &Run<'_>, machine: &Machine) -> Result<String, OpError> {
    let door = Door::of(run, machine).await?;
    let address = match door.line.public {
        Some(address) => address.to_string(),
        None => "(its private address, from within its virtual network)".to_owned(),
    };
    let (file, secret, way) = match &door.proof {
        Proof::Key(key, _) => ("id_ed25519", key.private_pem(), format!("ssh -i id_ed25519 {USER}@{address}")),
        Proof::Password(password, _) => {
            let options = "(New-PSSessionOption -SkipCACheck -SkipCNCheck)";
            let way = format!(
                "Enter-PSSession {address} -UseSSL -Authentication Basic -Credential {USER} -SessionOption {options}"
            );
            ("password.txt", password.clone(), way)
        }
    };
    let place = run.journal.put(file, secret.into_bytes()).await?;
    Ok(format!(
        "The machine {} was kept, as errorHandling asks for: enter it by `{way}` with what lies at {place}. It is removed with the next \
         run or with the template.",
        machine.machine
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_of_their_run_and_strong() {
        let (one, other) = (password(&[1; 32]), password(&[2; 32]));
        assert_ne!(one, other);
        assert!(one.len() >= 32 && one.starts_with("Lz-") && one.chars().any(|c| c.is_ascii_digit()), "{one}");
    }
}
