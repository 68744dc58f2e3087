//! Runs a script in a machine's guest, by the guest's own agent. At most once: a run that was interrupted is not repeated.

use super::virtual_machine::host_error;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::internal;
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::virtual_machine::{Script, run_command_result};
use lazuli_meta::model::Resource;
use lazuli_vmm::guest_agent::Ended;
use lazuli_vmm::host::HostErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

/// As in Azure.
const TIME: Duration = Duration::from_secs(90 * 60);
/// How long an agent may take over nothing at all.
const PROBE: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Writes the script from its input into a file and runs that, so that its first line says what runs it.
const RUNNER: &str = "d=$(mktemp -d -p /var/tmp) && cat > \"$d/script.sh\" && chmod 700 \"$d/script.sh\" || exit 125
\"$d/script.sh\" \"$@\" < /dev/null
s=$?
rm -rf \"$d\"
exit $s";

/// `fetch URL FILE` by whatever of this the guest has: every one with cloud-init or waagent has Python.
const FETCH: &str = r#"fetch() {
  if command -v curl >/dev/null; then curl -fsSL --retry 3 --connect-timeout 30 -o "$2" "$1"
  elif command -v wget >/dev/null; then wget -q -O "$2" "$1"
  else python3 -c 'import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=30) as got, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(got, file)' "$1" "$2"; fi
}
"#;

/// The shell's first arguments for a script that fetches files; its own follow them.
pub(super) fn fetching(script: &str, name: &str) -> Vec<String> {
    vec!["-c".to_owned(), format!("{FETCH}{script}"), name.to_owned()]
}

/// Parameters. The script may hold secrets, and operations are kept after their end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunCommand {
    /// A [`Script`], sealed for [`context`].
    pub sealed: String,
    /// The machine's provisioning state, which a command does not change.
    pub state: String,
}

/// What a script is sealed for.
pub(crate) fn context(machine: &str) -> String {
    format!("{machine}/runCommand")
}

pub(crate) struct VirtualMachineRunCommand;

#[async_trait]
impl Operation for VirtualMachineRunCommand {
    fn kind(&self) -> &'static str {
        "virtual_machine.run_command"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let RunCommand { sealed, state: before } = cx.params()?;
        let row = cx.resource().await?;
        let text = cx.engine.secrets().unseal(&context(&row.key), &sealed).map_err(OpError::Failed)?;
        let script: Script = serde_json::from_str(&text).map_err(ArmError::internal)?;
        wait_for_agent(cx, &row).await?;
        let this = Uuid::new_v4();
        let first: Uuid = cx.step("begin", async { Ok(this) }).await?;
        let output: Value = cx
            .step("run", async {
                if first != this {
                    return Err(OpError::Failed(ArmError::conflict(
                        "OperationPreempted",
                        format!(
                            "The server was restarted while the command ran in VM '{}': whether it ended is not known. It is not \
                             run again.",
                            row.name
                        ),
                    )));
                }
                let mut arguments = vec!["-c".to_owned(), RUNNER.to_owned(), "run-command".to_owned()];
                arguments.extend(script.arguments.clone());
                let ended = in_guest(cx, &row, arguments, &script.text).await?;
                Ok(run_command_result(ended.exit_code, &ended.stdout, &ended.stderr))
            })
            .await?;
        Ok(Outcome { output: Some(output), ..as_before(before) })
    }

    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let RunCommand { state, .. } = cx.params()?;
        Ok(as_before(state))
    }
}

/// Returns when the guest's agent answers, or is not to be expected any more. Nothing has been run then: an operation that is
/// interrupted here can begin again.
pub(super) async fn wait_for_agent(cx: &OpContext, machine: &Resource) -> Result<(), OpError> {
    let state: MachineInternal = internal(machine)?;
    let time = i64::try_from(cx.engine.config().agent_time.as_millis()).unwrap_or(i64::MAX);
    let until = state.created_at_ms.saturating_add(time);
    while crate::now_ms() < until {
        cx.check()?;
        let host = cx.engine.home_of(machine, &state).await?.host;
        let asked = host.run_shell(state.vm_id, nothing(), String::new(), PROBE).await;
        if !asked.is_err_and(|e| e.code() == Some(HostErrorCode::NoAgent)) {
            return Ok(());
        }
        cx.progress(0, 0, "waiting for the guest's agent").await;
        tokio::select! {
            () = cx.stop.cancelled() => {}
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
    Ok(())
}

/// Whether anything can be run in the guest at all.
///
/// # Errors
/// As [`in_guest`], where not.
pub(super) async fn answers(cx: &OpContext, machine: &Resource) -> Result<(), OpError> {
    in_guest(cx, machine, nothing(), "").await.map(drop)
}

fn nothing() -> Vec<String> {
    ["-c", "exit 0"].map(str::to_owned).to_vec()
}

/// Runs a shell in a machine's guest.
pub(super) async fn in_guest(
    cx: &OpContext,
    machine: &Resource,
    arguments: Vec<String>,
    input: &str,
) -> Result<Ended, OpError> {
    let state: MachineInternal = internal(machine)?;
    let host = cx.engine.home_of(machine, &state).await?.host;
    let asked = host.run_shell(state.vm_id, arguments, input.to_owned(), TIME);
    let asked = tokio::select! {
        () = cx.stop.cancelled() => return Err(cx.check().err().unwrap_or(OpError::Interrupted)),
        asked = asked => asked,
    };
    asked.map_err(|error| failed(error, &machine.name))
}

/// The command failed, the machine did not.
fn as_before(state: String) -> Outcome {
    Outcome::update(move |row| {
        if row.provisioning_state != "Deleting" {
            row.provisioning_state.clone_from(&state);
        }
    })
}

/// Why the guest's agent did not run it to its end.
fn failed(error: lazuli_vmm::host::ClientError, name: &str) -> OpError {
    let arm = match error.code() {
        Some(HostErrorCode::NoAgent) => ArmError::conflict(
            "VMAgentStatusCommunicationError",
            format!(
                "VM '{name}' has not reported status for VM agent or extensions. Verify that the OS is up and healthy and that the \
                 VM has a running VM agent: commands are run by qemu-guest-agent, which the image must have."
            ),
        ),
        Some(HostErrorCode::Conflict | HostErrorCode::NotFound) => not_running(),
        Some(HostErrorCode::TimedOut) => ArmError::conflict(
            "VMExtensionProvisioningTimeout",
            format!("The command in VM '{name}' did not end within {} minutes.", TIME.as_secs() / 60),
        ),
        // The agent answers, and refuses: it knows nothing of a command that another agent was given before a restart.
        Some(HostErrorCode::Hypervisor) => ArmError::conflict(
            "VMExtensionProvisioningError",
            format!(
                "The agent of VM '{name}' did not run the command to its end ({error}). If the guest was restarted meanwhile, it is \
                 not known whether the command ended; it is not run again."
            ),
        ),
        _ => return host_error(error, name),
    };
    OpError::Failed(arm.caused_by(error))
}

/// Azure's words.
pub(crate) fn not_running() -> ArmError {
    ArmError::conflict("OperationNotAllowed", "Cannot modify extensions in the VM when the VM is not running.")
}
