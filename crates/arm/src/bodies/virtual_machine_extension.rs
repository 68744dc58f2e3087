//! `Microsoft.Compute/virtualMachines/extensions`: what is to be done in a machine's guest after it is provisioned.
//!
//! The one that is offered is `Microsoft.Azure.Extensions` / `CustomScript` 2.x: files that are fetched by the guest, and a command
//! or a script that is run beside them. The texts of its failures are those of Azure's own handler
//! (custom-script-extension-linux, `cmd/handlersettings.go`).

use super::virtual_machine::end_of;
use super::{Context, Fields, Head, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const ROOT: &str = "virtualMachineExtension";
/// Publisher, type and the newest version of what is offered, as the catalogue of extensions lists it.
pub const CUSTOM_SCRIPT: (&str, &str, &str) = ("Microsoft.Azure.Extensions", "CustomScript", "2.1.10");
/// The same of what installs VM applications: Azure puts it into a machine by itself, it cannot be asked for.
pub const VM_APPLICATIONS: (&str, &str, &str) = ("Microsoft.CPlat.Core", "VMApplicationManagerLinux", "1.0.9");

/// A new or changed body in its settled form; the protected settings are in it, and are for the engine to take out.
///
/// # Errors
/// `InvalidParameter`; 404 `ArtifactNotFound` and `ArtifactVersionNotFound` for what is no extension here; `OperationNotSupported`
/// for settings from a key vault.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    Ok(head.body(vec![], properties(&new.object("properties")?)?))
}

/// The properties of an extension in their settled form, of a machine's own or of a model's.
pub(super) fn properties(given: &Fields<'_>) -> Result<Map<String, Value>, ArmError> {
    let (publisher, kind) = (given.required_str("publisher")?, given.required_str("type")?);
    let (offered_publisher, offered_kind, newest) = CUSTOM_SCRIPT;
    if !publisher.eq_ignore_ascii_case(offered_publisher) || !kind.eq_ignore_ascii_case(offered_kind) {
        return Err(ArmError::new(
            404,
            "ArtifactNotFound",
            format!(
                "The VM extension with publisher '{publisher}' and type '{kind}' could not be found. This server has \
                 '{offered_publisher}' and '{offered_kind}'."
            ),
        ));
    }
    let version = given.required_str("typeHandlerVersion")?;
    if version.split('.').next() != Some("2") {
        return Err(ArmError::new(
            404,
            "ArtifactVersionNotFound",
            format!(
                "The VM extension with publisher '{publisher}', type '{kind}' and version '{version}' could not be found. The newest \
                 version is {newest}."
            ),
        ));
    }
    if !given.object("protectedSettingsFromKeyVault")?.is_empty() {
        let why = "there are no key vaults; give the settings as protectedSettings";
        return Err(not_offered(&given.path("protectedSettingsFromKeyVault"), why));
    }
    let mut properties = Map::new();
    properties.insert("autoUpgradeMinorVersion".into(), given.bool("autoUpgradeMinorVersion")?.unwrap_or(false).into());
    for name in ["enableAutomaticUpgrade", "suppressFailures"] {
        if let Some(value) = given.bool(name)? {
            properties.insert(name.into(), value.into());
        }
    }
    if let Some(tag) = given.str("forceUpdateTag")? {
        properties.insert("forceUpdateTag".into(), tag.into());
    }
    properties.insert("publisher".into(), offered_publisher.into());
    properties.insert("type".into(), offered_kind.into());
    properties.insert("typeHandlerVersion".into(), version.into());
    for name in ["settings", "protectedSettings"] {
        // Only that they are objects: what is in them is the handler's affair.
        given.object(name)?;
        if let Some(settings) = given.get(name).filter(|s| s.is_object()) {
            properties.insert(name.into(), settings.clone());
        }
    }
    Ok(properties)
}

/// The second extension of a type on a machine or in a model (Azure's text).
pub fn one_per_handler(name: &str) -> ArmError {
    let (publisher, kind, _) = CUSTOM_SCRIPT;
    ArmError::bad_request(
        "BadRequest",
        format!(
            "Multiple VMExtensions per handler not supported for OS type 'Linux'. VMExtension '{name}' with handler '{publisher}.{kind}' \
             already added or specified in input."
        ),
    )
}

/// What the handler does in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomScript {
    /// Fetched before, each under the last name of its path.
    pub files: Vec<String>,
    pub run: Run,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// A line for the shell.
    Command(String),
    /// Base64 of a script, which may be compressed with gzip.
    Script(String),
}

/// Reads the settings as the handler would in the guest; what is wrong with them, in its words.
///
/// # Errors
/// The text of a failure.
pub fn custom_script(settings: &Value, protected: &Value) -> Result<CustomScript, String> {
    let text = |name: &str| -> Result<Option<String>, String> {
        let of = |from: &Value| from[name].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        match (of(settings), of(protected)) {
            (Some(_), Some(_)) => Err(format!(
                "'{name}' was specified both in public and protected settings; it must be specified only once"
            )),
            (public, protected) => Ok(public.or(protected)),
        }
    };
    let run = match (text("commandToExecute")?, text("script")?) {
        (Some(command), None) => Run::Command(command),
        (None, Some(script)) => Run::Script(script),
        (None, None) => return Err("'commandToExecute' is not specified".to_owned()),
        (Some(_), Some(_)) => {
            return Err("'commandToExecute' and 'script' were both specified, but only one is allowed".to_owned());
        }
    };
    let mut files = Vec::new();
    for from in [settings, protected] {
        for file in from["fileUris"].as_array().into_iter().flatten() {
            let uri = file.as_str().filter(|u| u.starts_with("https://") || u.starts_with("http://"));
            files.push(
                uri.ok_or_else(|| format!("'fileUris' holds {file}, which is no http or https address"))?.to_owned(),
            );
        }
    }
    let credentials = ["storageAccountName", "storageAccountKey", "managedIdentity"];
    if let Some(name) = credentials.into_iter().find(|name| !protected[*name].is_null()) {
        return Err(format!("'{name}' is not supported by this server: give 'fileUris' with a SAS"));
    }
    Ok(CustomScript { files, run })
}

/// How a run ended: the status of an extension's instance view.
pub fn succeeded(stdout: &str, stderr: &str) -> Value {
    let message = format!("Enable succeeded: \n[stdout]\n{}\n[stderr]\n{}", end_of(stdout), end_of(stderr));
    json!({"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded", "message": message})
}

/// The same of a run that failed; `why` follows `Enable failed: `.
pub fn failed(why: &str) -> Value {
    json!({"code": "ProvisioningState/failed/1", "level": "Error", "displayStatus": "Provisioning failed",
        "message": format!("Enable failed: {why}")})
}

/// How a command ended badly, with what it said last.
pub fn how_it_ended(exit_code: Option<i64>, stdout: &str, stderr: &str) -> String {
    let how = match exit_code {
        Some(code) => format!("command terminated with exit status={code}"),
        None => "command was terminated by a signal".to_owned(),
    };
    format!("{how}\n[stdout]\n{}\n[stderr]\n{}", end_of(stdout), end_of(stderr))
}

/// Why a command that ended badly did so.
pub fn command_failed(exit_code: Option<i64>, stdout: &str, stderr: &str) -> String {
    format!("failed to execute command: {}", how_it_ended(exit_code, stdout, stderr))
}

/// The error of the operation of an extension with this handler (as [`CUSTOM_SCRIPT`]), as Azure words it.
pub fn provisioning_error(name: &str, handler: (&str, &str, &str), status: &Value) -> ArmError {
    let (publisher, kind, _) = handler;
    let message = status["message"].as_str().unwrap_or_default();
    let about =
        if handler == CUSTOM_SCRIPT { "VMExtensionCSELinuxTroubleshoot" } else { "vmextensionlinuxtroubleshoot" };
    ArmError::conflict(
        "VMExtensionProvisioningError",
        format!(
            "VM has reported a failure when processing extension '{name}' (publisher '{publisher}' and type '{kind}'). Error \
             message: '{message}'. More information on troubleshooting is available at https://aka.ms/{about}."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, version};
    use super::*;

    fn put(properties: Value) -> Result<Value, ArmError> {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v/extensions/e";
        let new = json!({"location": "eastus", "properties": properties});
        super::put(&id.parse().unwrap(), &new, None, &context(&version("2024-07-01")))
    }

    #[test]
    fn what_is_offered_is_kept_and_all_else_refused() {
        let good = json!({"publisher": "microsoft.azure.extensions", "type": "customScript", "typeHandlerVersion": "2.1",
            "settings": {"commandToExecute": "true"}, "protectedSettings": {"x": 1}});
        let body = put(good.clone()).unwrap();
        assert_eq!(body["properties"]["type"], "CustomScript");
        assert_eq!(body["properties"]["settings"]["commandToExecute"], "true");
        for (name, value, code) in [
            ("type", json!("AADSSHLoginForLinux"), "ArtifactNotFound"),
            ("publisher", json!("Microsoft.OSTCExtensions"), "ArtifactNotFound"),
            ("typeHandlerVersion", json!("3.0"), "ArtifactVersionNotFound"),
            ("typeHandlerVersion", Value::Null, "InvalidParameter"),
            ("settings", json!("text"), "InvalidParameter"),
            ("protectedSettingsFromKeyVault", json!({"secretUrl": "x"}), "OperationNotSupported"),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            assert_eq!(put(bad).unwrap_err().code, code, "{name}");
        }
    }

    #[test]
    fn one_thing_is_run() {
        let command = json!({"commandToExecute": "sh a.sh", "fileUris": ["https://h/a.sh?sig=x"]});
        let found = custom_script(&command, &json!({})).unwrap();
        assert_eq!(
            found,
            CustomScript { files: vec!["https://h/a.sh?sig=x".into()], run: Run::Command("sh a.sh".into()) }
        );
        let script = custom_script(&json!({"fileUris": []}), &json!({"script": "dHJ1ZQ=="})).unwrap();
        assert_eq!(script.run, Run::Script("dHJ1ZQ==".into()));
        for (settings, protected, why) in [
            (json!({}), json!({}), "'commandToExecute' is not specified"),
            (command.clone(), command.clone(), "both in public and protected"),
            (command.clone(), json!({"script": "eA=="}), "only one is allowed"),
            (
                json!({"commandToExecute": "x", "fileUris": ["file:///etc/passwd"]}),
                json!({}),
                "no http or https address",
            ),
            (command, json!({"managedIdentity": {}}), "not supported by this server"),
        ] {
            let error = custom_script(&settings, &protected).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_failure_is_told_as_azure_does() {
        let status = failed(&command_failed(Some(7), "out", "err"));
        let error = provisioning_error("e", CUSTOM_SCRIPT, &status);
        assert_eq!(error.code, "VMExtensionProvisioningError");
        assert!(
            error
                .message
                .contains("'Enable failed: failed to execute command: command terminated with exit status=7\n[stdout]")
        );
        assert!(succeeded(&"é".repeat(5000), "")["message"].as_str().unwrap().len() < 4200);
    }
}
