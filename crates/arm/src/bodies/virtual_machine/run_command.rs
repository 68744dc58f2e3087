//! `POST …/runCommand`: a script for the guest (Swagger 2025-04-01, `RunCommandInput`), and what is said of its run.

use super::super::Fields;
use crate::ArmError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Bytes of each output that are shown, from its end; as in Azure.
const SHOWN: usize = 4096;

/// What the guest's shell is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    pub text: String,
    /// Values of the parameters, in their order.
    pub arguments: Vec<String>,
}

/// # Errors
/// `InvalidParameter`; `RunCommandNotFound` for any command but `RunShellScript`, the only one that runs a script in Linux.
pub fn run_command(request: &Value) -> Result<Script, ArmError> {
    let given = Fields::root("parameters", request)?;
    let command = given.required_str("commandId")?;
    if !command.eq_ignore_ascii_case("RunShellScript") {
        return Err(ArmError::new(
            404,
            "RunCommandNotFound",
            format!("The run command '{command}' is not found. This server knows RunShellScript, for Linux guests."),
        )
        .target("commandId"));
    }
    let lines = given.strings("script")?.filter(|lines| !lines.is_empty()).ok_or_else(|| given.missing("script"))?;
    let mut arguments = Vec::new();
    for parameter in given.objects("parameters")?.unwrap_or_default() {
        arguments.push(parameter.str("value")?.unwrap_or_default());
    }
    Ok(Script { text: lines.join("\n") + "\n", arguments })
}

/// The result of a run, whatever the script's exit status: Azure tells that in the message (azure-cli issue 14425).
pub fn run_command_result(exit_code: Option<i64>, stdout: &str, stderr: &str) -> Value {
    let head = match exit_code {
        Some(0) => "Enable succeeded: ".to_owned(),
        Some(code) => format!("Enable failed: failed to execute command: command terminated with exit status={code}"),
        None => "Enable failed: failed to execute command: command was terminated by a signal".to_owned(),
    };
    let message = format!("{head}\n[stdout]\n{}\n[stderr]\n{}", end_of(stdout), end_of(stderr));
    json!({"value": [{"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded",
        "message": message}]})
}

/// As much of an output as is shown.
pub(in super::super) fn end_of(text: &str) -> &str {
    let mut start = text.len().saturating_sub(SHOWN);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_values_in_their_order() {
        let request = json!({"commandId": "runshellscript", "script": ["echo $1", "exit"],
            "parameters": [{"name": "arg1", "value": "hello"}, {"name": "b", "value": "c d"}]});
        let script = run_command(&request).unwrap();
        assert_eq!(script, Script { text: "echo $1\nexit\n".into(), arguments: vec!["hello".into(), "c d".into()] });
        for (request, code) in [
            (json!({"script": ["x"]}), "InvalidParameter"),
            (json!({"commandId": "RunShellScript", "script": []}), "InvalidParameter"),
            (json!({"commandId": "RunPowerShellScript", "script": ["x"]}), "RunCommandNotFound"),
        ] {
            assert_eq!(run_command(&request).unwrap_err().code, code);
        }
    }

    #[test]
    fn a_result_says_how_it_ended() {
        let message = |code, out: &str| run_command_result(code, out, "e")["value"][0]["message"].clone();
        assert_eq!(message(Some(0), "o\n"), "Enable succeeded: \n[stdout]\no\n\n[stderr]\ne");
        assert!(message(Some(3), "").as_str().unwrap().contains("exit status=3\n[stdout]\n\n[stderr]\ne"));
        let long = "é".repeat(5000);
        let message = message(Some(0), &long);
        assert!(message.as_str().unwrap().len() < 4200);
    }
}
