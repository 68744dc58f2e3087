//! Runs what an extension's settings ask for in the guest, by the guest's own agent (`qemu-guest-agent`), and keeps how it ended.
//!
//! At most once for each set of settings: a run that was interrupted is told of and not repeated, as nobody knows what it did.

use super::virtual_machine_run_command as run_command;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine_extension::ExtensionInternal;
use crate::stored::{change_internal, internal};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::virtual_machine_extension::{
    CUSTOM_SCRIPT, CustomScript, Run, command_failed, custom_script, failed, provisioning_error, succeeded,
};
use lazuli_meta::model::Resource;
use serde_json::Value;
use uuid::Uuid;

/// Where the handler of Azure works in the guest; a folder below it for each set of settings.
const FOLDER: &str = "/var/lib/waagent/custom-script/download";
/// Makes the folder, fetches the files, then runs the command or the script from its input, in that folder. The arguments: folder,
/// `command` or `script`, addresses.
const RUNNER: &str = r#"d=$1; kind=$2; shift 2
mkdir -p "$d" && chmod 700 "$d" && cd "$d" || exit 125
case $kind in
  script)
    base64 -d > script.sh || { echo "failed to decode the script" >&2; exit 125; }
    if gzip -t script.sh 2>/dev/null; then gzip -dc < script.sh > plain && mv plain script.sh || exit 125; fi
    chmod 700 script.sh; set_command() { ./script.sh; } ;;
  *) cat > command.sh || exit 125; chmod 700 command.sh; set_command() { /bin/sh ./command.sh; } ;;
esac
n=0
for uri; do
  name=${uri%%\?*}; name=${name##*/}
  case $name in ''|script.sh|command.sh) name=file$n ;; esac
  fetch "$uri" "$name" || { echo "failed to download file[$n]" >&2; exit 124; }
  chmod 700 "$name"; n=$((n + 1))
done
set_command < /dev/null"#;

pub(crate) struct VirtualMachineExtensionPut;

#[async_trait]
impl Operation for VirtualMachineExtensionPut {
    fn kind(&self) -> &'static str {
        "virtual_machine_extension.put"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let extension: ExtensionInternal = internal(&row)?;
        let protected = extension.protected(&cx.engine, &row.key).map_err(OpError::Failed)?;
        let machine =
            cx.engine.db().resource(row.parent.as_deref().unwrap_or_default()).await.map_err(crate::db_error)?;
        let machine =
            machine.ok_or_else(|| ArmError::new(404, "NotFound", "The virtual machine was removed meanwhile."))?;
        run_command::wait_for_agent(cx, &machine).await?;
        let this = Uuid::new_v4();
        let first: Uuid = cx.step("begin", async { Ok(this) }).await?;
        let status: Value = cx
            .step("run", async {
                if first != this {
                    return Ok(failed(
                        "the server was restarted while the command ran: whether it ended is not known. It is not run again",
                    ));
                }
                match custom_script(&row.body["properties"]["settings"], &protected) {
                    Ok(script) => run(cx, &machine, extension.number, &script).await,
                    Err(why) => Ok(failed(&format!("invalid configuration: {why}"))),
                }
            })
            .await?;
        let suppressed = row.body["properties"]["suppressFailures"] == true;
        if status["level"] == "Error" && !suppressed {
            return Err(OpError::Failed(provisioning_error(&row.name, CUSTOM_SCRIPT, &status)));
        }
        Ok(with_status(status))
    }

    /// What the guest said is shown whatever becomes of the operation.
    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let status = cx.done_step("run").unwrap_or_else(|| {
            let why = cx.done_step(crate::operation::FAILED);
            let why = why.as_ref().and_then(|e| e["message"].as_str()).unwrap_or("the operation was canceled");
            failed(why)
        });
        Ok(with_status(status))
    }
}

fn with_status(mut status: Value) -> Outcome {
    status["time"] = crate::time_text(crate::now_ms()).into();
    Outcome::update(move |row| {
        change_internal(row, |state: &mut ExtensionInternal| state.status.clone_from(&status));
    })
}

/// The status at the end.
async fn run(cx: &OpContext, machine: &Resource, number: u64, script: &CustomScript) -> Result<Value, OpError> {
    let (kind, input) = match &script.run {
        Run::Command(line) => ("command", line),
        Run::Script(encoded) => ("script", encoded),
    };
    let mut arguments = run_command::fetching(RUNNER, "custom-script");
    arguments.extend([format!("{FOLDER}/{number}"), kind.to_owned()]);
    arguments.extend(script.files.iter().cloned());
    let ended = run_command::in_guest(cx, machine, arguments, input).await?;
    Ok(match ended.exit_code {
        Some(0) => succeeded(&ended.stdout, &ended.stderr),
        code => failed(&command_failed(code, &ended.stdout, &ended.stderr)),
    })
}

#[cfg(test)]
mod tests {
    use super::{RUNNER, run_command};
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    /// As the guest's agent runs it.
    fn run(folder: &Path, kind: &str, input: &str, files: &[String]) -> Output {
        let mut shell = Command::new("/bin/sh");
        shell.args(run_command::fetching(RUNNER, "custom-script")).arg(folder).arg(kind).args(files);
        let mut child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    #[test]
    fn a_command_runs_in_its_folder_and_a_script_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("download/0");
        let out = run(&folder, "command", "pwd; echo bad >&2; exit 7", &[]);
        assert_eq!(out.status.code(), Some(7));
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), folder.canonicalize().unwrap().to_string_lossy());
        assert_eq!(out.stderr, b"bad\n");
        // `#!/bin/sh` and `echo done`, plain and by gzip.
        let plain = "IyEvYmluL3NoCmVjaG8gZG9uZQo=";
        let out = run(&dir.path().join("download/1"), "script", plain, &[]);
        assert_eq!(
            (out.status.code(), out.stdout),
            (Some(0), b"done\n".to_vec()),
            "{:?}",
            String::from_utf8_lossy(&out.stderr)
        );
        let packed =
            Command::new("sh").args(["-c", "printf '#!/bin/sh\necho packed\n' | gzip -c | base64"]).output().unwrap();
        let out = run(&dir.path().join("download/2"), "script", &String::from_utf8_lossy(&packed.stdout), &[]);
        assert_eq!((out.status.code(), out.stdout), (Some(0), b"packed\n".to_vec()));
    }

    #[test]
    fn a_file_that_cannot_be_fetched_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let out = run(&dir.path().join("0"), "command", "echo ran", &["http://127.0.0.1:1/a.sh".into()]);
        assert_eq!((out.status.code(), out.stdout), (Some(124), vec![]));
        assert!(String::from_utf8_lossy(&out.stderr).contains("failed to download file[0]"));
    }
}
