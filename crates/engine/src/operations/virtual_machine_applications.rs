//! Installs, updates and removes a machine's VM applications in its guest, by the guest's own agent, as the end of the operation that
//! makes or changes the machine (`vm_applications.rs` decides what and in what order).
//!
//! The guest fetches packages and configurations from the host agent's plugin, where only it can. Each command is run at most once:
//! one that was interrupted is told of and not repeated, as nobody knows what it did.

use super::virtual_machine_run_command as run_command;
use crate::now_ms;
use crate::operation::{OpContext, OpError};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{StoredFile, change_internal, internal};
use crate::vm_applications::{Action, Applications, EXTENSION, Ended, What, is_skipped};
use lazuli_arm::bodies::virtual_machine_extension::{VM_APPLICATIONS, how_it_ended, provisioning_error};
use lazuli_meta::model::Resource;
use lazuli_vmm::net::WIRE_SERVER;
use lazuli_vmm::provisioning::PLUGIN_PORT;
use uuid::Uuid;

/// Where Azure's handler keeps packages; below it one folder an application, in it one a version.
const FOLDER: &str = "/var/lib/waagent/Microsoft.CPlat.Core.VMApplicationManagerLinux";
/// Lines of each output that are told of a failure.
const TOLD: usize = 10;
/// Makes the folder, fetches into it, then runs the command from its input there. The arguments: folder, `keep` or `drop` it
/// afterwards, then each file's URL, name and size.
const RUNNER: &str = r#"d=$1; after=$2; shift 2; command=$(cat)
mkdir -p "$d" && chmod 700 "$d" && cd "$d" || exit 125
while [ $# -ge 3 ]; do
  (no_proxy=168.63.129.16 NO_PROXY=168.63.129.16; export no_proxy NO_PROXY; fetch "$1" "$2") &&
    [ "$(wc -c < "$2")" -eq "$3" ] || { echo "failed to download $2" >&2; exit 124; }
  shift 3
done
shell=/bin/bash; [ -x $shell ] || shell=/bin/sh
$shell -c "$command" < /dev/null
status=$?
[ "$after" = keep ] || { cd / && rm -rf "$d"; }
exit $status"#;

/// Brings the guest to what the machine's profile names. What became of each is kept with the machine as it happens.
///
/// # Errors
/// Where nothing can be run in the guest at all, and where what failed is to fail the deployment.
pub(super) async fn bring(cx: &OpContext) -> Result<(), OpError> {
    let machine = cx.resource().await?;
    let plan: Vec<Action> = cx.step("applications", async { Ok(applications(&machine)?.due()) }).await?;
    run_command::wait_for_agent(cx, &machine).await?;
    cx.step("agent", async { run_command::answers(cx, &machine).await }).await?;
    let mut ended: Vec<Ended> = Vec::new();
    while let Some(action) = plan.get(ended.len()) {
        let end =
            if is_skipped(&plan, &ended) { Ended::Skipped } else { run(cx, &machine, ended.len(), action).await? };
        record(cx, ended.len(), action, &end).await?;
        ended.push(end);
    }
    let state = applications(&cx.resource().await?)?;
    if state.is_fatal() {
        return Err(OpError::Failed(provisioning_error(EXTENSION, VM_APPLICATIONS, &state.status())));
    }
    Ok(())
}

fn applications(machine: &Resource) -> Result<Applications, OpError> {
    Ok(internal::<MachineInternal>(machine)?.applications)
}

async fn record(cx: &OpContext, index: usize, action: &Action, end: &Ended) -> Result<(), OpError> {
    let now = now_ms();
    cx.update_resource(|row| {
        change_internal(row, |state: &mut MachineInternal| state.applications.record(index, action, end, now));
    })
    .await
}

/// At most once.
async fn run(cx: &OpContext, machine: &Resource, index: usize, action: &Action) -> Result<Ended, OpError> {
    let this = Uuid::new_v4();
    let first: Uuid = cx.step(&format!("begin/{index}"), async { Ok(this) }).await?;
    let failed = |why: &str| Ended::Failed(format!("Error executing command '{}': {why}", action.command));
    let running = async {
        if first != this {
            return Ok(failed(
                "the server was restarted while it ran: whether it ended is not known. It is not run again",
            ));
        }
        let wanted = applications(machine)?.wanted(&action.name).map(files).unwrap_or_default();
        let folder = format!("{FOLDER}/{}/{}", action.name, action.version);
        let mut arguments = run_command::fetching(RUNNER, "vm-application");
        match action.what {
            What::Install | What::Update => {
                arguments.extend([folder, "keep".to_owned()]);
                arguments.extend(wanted);
            }
            What::Remove | What::RemoveForUpdate => arguments.extend([folder, "drop".to_owned()]),
        }
        match run_command::in_guest(cx, machine, arguments, &action.command).await {
            Ok(ended) if ended.exit_code == Some(0) => Ok(Ended::Succeeded),
            Ok(ended) => {
                Ok(failed(&how_it_ended(ended.exit_code, last_lines(&ended.stdout), last_lines(&ended.stderr))))
            }
            Err(OpError::Failed(error)) => Ok(failed(&error.message)),
            Err(other) => Err(other),
        }
    };
    let end = cx.step(&format!("run/{index}"), running).await;
    if matches!(end, Err(OpError::Canceled)) {
        record(cx, index, action, &failed("the operation was canceled while it ran: how it ended is not known"))
            .await?;
    }
    end
}

/// Arguments of [`RUNNER`] for what an application brings along.
fn files(wanted: &crate::vm_applications::Wanted) -> Vec<String> {
    let of = |which: &str, name: &str, file: &StoredFile| {
        let uri = format!("http://{WIRE_SERVER}:{PLUGIN_PORT}/applications/{}/{which}", wanted.name);
        [uri, name.to_owned(), file.size_bytes.to_string()]
    };
    let mut files = of("package", &wanted.package_name, &wanted.package).to_vec();
    files.extend(wanted.config.iter().flat_map(|config| of("config", &wanted.config_name, &config.file)));
    files
}

fn last_lines(text: &str) -> &str {
    let start = text.trim_end().rmatch_indices('\n').nth(TOLD - 1).map_or(0, |(at, _)| at + 1);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    /// As the guest's agent runs it.
    fn run(folder: &Path, after: &str, files: &[String], command: &str) -> Output {
        let mut shell = Command::new("/bin/sh");
        shell.args(run_command::fetching(RUNNER, "vm-application")).arg(folder).arg(after).args(files);
        let mut child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        child.stdin.take().unwrap().write_all(command.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// `file:` URLs: no server is needed.
    fn file(at: &Path, name: &str, size: usize) -> Vec<String> {
        vec![format!("file://{}", at.display()), name.to_owned(), size.to_string()]
    }

    #[test]
    fn a_command_runs_beside_its_files_which_go_when_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::write(&source, "a package\n").unwrap();
        let folder = dir.path().join("app1/1.0.0");
        let out =
            run(&folder, "keep", &file(&source, "the package", 10), "cat 'the package'; echo \"$PWD\" >&2; exit 7");
        assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(7), &b"a package\n"[..]));
        assert_eq!(String::from_utf8_lossy(&out.stderr).trim(), folder.canonicalize().unwrap().to_string_lossy());
        let out = run(&folder, "drop", &[], "ls");
        assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(0), &b"the package\n"[..]));
        assert!(!folder.exists());
    }

    #[test]
    fn nothing_is_run_without_its_whole_package() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::write(&source, "a part").unwrap();
        let missing = dir.path().join("missing");
        for files in [file(&source, "package", 10), file(&missing, "package", 10)] {
            let out = run(&dir.path().join("app"), "keep", &files, "echo ran");
            assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(124), &b""[..]));
            assert!(String::from_utf8_lossy(&out.stderr).contains("failed to download package"));
        }
    }

    #[test]
    fn the_last_lines_are_told() {
        let many: String = (0..30).map(|n| format!("{n}\n")).collect();
        assert_eq!(last_lines(&many).lines().next(), Some("20"));
        assert_eq!(last_lines("one\ntwo\n"), "one\ntwo\n");
        assert_eq!(last_lines(""), "");
    }
}
