//! `osProfile` of a machine with Windows.

use super::{check_password, check_user, custom_data, extension_operations};
use crate::ArmError;
use crate::bodies::{Fields, not_offered};
use serde_json::{Map, Value, json};

/// Checks the profile and fills in defaults.
///
/// # Errors
/// `InvalidParameter` in Azure's words; `OperationNotSupported` for what this server does not do.
pub(super) fn os_profile(profile: &Fields<'_>) -> Result<Value, ArmError> {
    let windows = profile.object("windowsConfiguration")?;
    if !profile.object("linuxConfiguration")?.is_empty() {
        let what = "Only one of linuxConfiguration and windowsConfiguration can be given.";
        return Err(ArmError::invalid_parameter("windowsConfiguration", what));
    }
    let user = profile.required_str("adminUsername")?;
    check_user(&user)?;
    let computer = profile.required_str("computerName")?;
    check_computer(&computer)?;
    let password = profile.required_str("adminPassword")?;
    check_password(&password)?;
    if windows.objects("additionalUnattendContent")?.is_some_and(|c| !c.is_empty()) {
        let path = windows.path("additionalUnattendContent");
        return Err(not_offered(&path, "the answer file is this server's own; use custom data or a build of an image"));
    }
    let mut configuration = json!({
        "provisionVMAgent": windows.bool("provisionVMAgent")?.unwrap_or(true),
        "enableAutomaticUpdates": windows.bool("enableAutomaticUpdates")?.unwrap_or(true),
    });
    if let Some(zone) = windows.str("timeZone")?.filter(|z| !z.is_empty()) {
        configuration["timeZone"] = zone.into();
    }
    let patches = windows.get("patchSettings").filter(|p| p.is_object());
    configuration["patchSettings"] = patches.cloned().unwrap_or_else(|| json!({"patchMode": "AutomaticByOS"}));
    if let Some(listeners) = listeners(&windows)? {
        configuration["winRM"] = json!({"listeners": listeners});
    }
    let mut body = Map::new();
    body.insert("computerName".into(), computer.into());
    body.insert("adminUsername".into(), user.into());
    body.insert("adminPassword".into(), password.into());
    if let Some(data) = custom_data(profile)? {
        body.insert("customData".into(), data.into());
    }
    let agent = configuration["provisionVMAgent"] == true;
    body.insert("windowsConfiguration".into(), configuration);
    body.insert("secrets".into(), json!([]));
    body.insert("allowExtensionOperations".into(), extension_operations(profile, agent)?.into());
    body.insert("requireGuestProvisionSignal".into(), true.into());
    Ok(body.into())
}

/// One listener for HTTPS, whose certificate the guest makes itself: there is no key vault to take one from.
fn listeners(windows: &Fields<'_>) -> Result<Option<Vec<Value>>, ArmError> {
    let winrm = windows.object("winRM")?;
    let Some(given) = winrm.objects("listeners")?.filter(|l| !l.is_empty()) else { return Ok(None) };
    for listener in &given {
        if listener.one_of("protocol", &["Http", "Https"])? != Some("Https") {
            return Err(not_offered(&listener.path("protocol"), "WinRM is offered over Https alone"));
        }
        if listener.str("certificateUrl")?.is_some_and(|url| !url.is_empty()) {
            let why = "there is no key vault; without it the guest makes a certificate of its own";
            return Err(not_offered(&listener.path("certificateUrl"), why));
        }
    }
    Ok(Some(vec![json!({"protocol": "Https"})]))
}

fn check_computer(name: &str) -> Result<(), ArmError> {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (1..=15).contains(&name.len()) && name.chars().all(ok) && !name.chars().all(|c| c.is_ascii_digit()) {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(
        "computerName",
        "Windows computer name cannot be more than 15 characters long, be entirely numeric, or contain the following characters: ` ~ ! @ \
         # $ % ^ & * ( ) = + _ [ ] { } \\ | ; : . ' \" , < > / ?.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(change: Value) -> Result<Value, ArmError> {
        let given = json!({"computerName": "web01", "adminUsername": "azureuser", "adminPassword": "Correct-Horse-1",
            "windowsConfiguration": {"provisionVMAgent": true, "timeZone": "W. Europe Standard Time"}});
        let given = crate::bodies::merge_patch(&given, &change);
        os_profile(&Fields::root("osProfile", &given).unwrap())
    }

    #[test]
    fn a_profile_is_completed() {
        insta::assert_json_snapshot!(profile(json!({"customData": "aGVsbG8="})).unwrap());
        let shown =
            profile(json!({"windowsConfiguration": {"winRM": {"listeners": [{"protocol": "https"}]}}})).unwrap();
        assert_eq!(shown["windowsConfiguration"]["winRM"], json!({"listeners": [{"protocol": "Https"}]}));
    }

    #[test]
    fn what_is_wrong_or_not_offered_is_told() {
        let listener = |listener: Value| json!({"windowsConfiguration": {"winRM": {"listeners": [listener]}}});
        for (change, target) in [
            (json!({"computerName": "a-name-of-16-char"}), "computerName"),
            (json!({"computerName": "12345"}), "computerName"),
            (json!({"computerName": "a.b"}), "computerName"),
            (json!({"adminPassword": "short"}), "adminPassword"),
            (json!({"adminPassword": null}), "osProfile.adminPassword"),
            (json!({"adminUsername": "Administrator"}), "adminUsername"),
            (json!({"linuxConfiguration": {"provisionVMAgent": true}}), "windowsConfiguration"),
            (listener(json!({"protocol": "Http"})), "osProfile.windowsConfiguration.winRM.listeners.protocol"),
            (
                listener(json!({"protocol": "Https", "certificateUrl": "https://v.vault.azure.net/secrets/c/1"})),
                "osProfile.windowsConfiguration.winRM.listeners.certificateUrl",
            ),
            (
                json!({"windowsConfiguration": {"additionalUnattendContent": [{"passName": "OobeSystem"}]}}),
                "osProfile.windowsConfiguration.additionalUnattendContent",
            ),
        ] {
            let error = profile(change.clone()).expect_err(&change.to_string());
            assert_eq!(error.target.as_deref().unwrap_or(&error.message), target, "{change}: {}", error.message);
        }
    }
}
