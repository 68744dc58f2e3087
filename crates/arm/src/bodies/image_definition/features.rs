//! `features` of an image definition: what its versions can do, each from a version on.
//!
//! ```text
//! SecurityType                    TrustedLaunch, ConfidentialVM and their kin    generation 2 only
//! DiskControllerTypes             SCSI, NVMe or both
//! IsAcceleratedNetworkSupported   True or False
//! IsHibernateSupported            True or False
//! ```
//! Names that are not in the table are kept as they come: Azure adds some with every api-version.

use super::super::{Context, Fields};
use super::GEN2_DEFAULT;
use crate::ArmError;
use crate::bodies::image_version::VersionName;
use serde_json::{Value, json};

const SECURITY_TYPES: [&str; 6] = [
    "Standard",
    "TrustedLaunch",
    "TrustedLaunchSupported",
    "ConfidentialVM",
    "ConfidentialVMSupported",
    "TrustedLaunchAndConfidentialVmSupported",
];
const CONTROLLERS: [&str; 2] = ["SCSI", "NVMe"];
/// `allowUpdateImage` exists from here on.
const UPDATABLE: &str = "2024-03-03";

/// A change of an existing definition needs `allowUpdateImage`, and what is new or other than before needs the version from
/// which on it holds.
pub(super) fn features(
    given: &Fields<'_>,
    old: Option<&Value>,
    generation: &str,
    ctx: &Context<'_>,
) -> Result<Option<Value>, ArmError> {
    let path = given.path("features");
    let stored = old.and_then(|o| o.get("features"));
    let Some(items) = given.objects("features")? else {
        let default = old.is_none() && generation == "V2" && ctx.api_version.at_least(GEN2_DEFAULT);
        let supported = json!([{"name": "SecurityType", "value": "TrustedLaunchSupported"}]);
        return Ok(stored.cloned().or(default.then_some(supported)));
    };
    let before = stored.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut features: Vec<Value> = Vec::new();
    for item in &items {
        let feature = feature(item, generation)?;
        let same = |f: &Value| f["name"] == feature["name"] && f["startsAtVersion"] == feature["startsAtVersion"];
        if features.iter().any(same) {
            let message = format!("The feature {} is given more than once.", feature["name"]);
            return Err(ArmError::invalid_parameter(&path, message));
        }
        features.push(feature);
    }
    if old.is_some() && features != before {
        if !ctx.api_version.at_least(UPDATABLE) || given.bool("allowUpdateImage")? != Some(true) {
            return Err(ArmError::property_change_not_allowed(&path));
        }
        for (item, feature) in items.iter().zip(&features) {
            if !before.contains(feature) && feature.get("startsAtVersion").is_none() {
                return Err(item.missing("startsAtVersion"));
            }
        }
    }
    Ok((!features.is_empty()).then_some(Value::Array(features)))
}

fn feature(item: &Fields<'_>, generation: &str) -> Result<Value, ArmError> {
    let name = item.required_str("name")?;
    let value = item.required_str("value")?;
    let (name, value) = match name.to_ascii_lowercase().as_str() {
        "securitytype" => ("SecurityType".into(), security_type(item, generation)?),
        "diskcontrollertypes" => ("DiskControllerTypes".into(), controllers(item, &value)?),
        "isacceleratednetworksupported" => ("IsAcceleratedNetworkSupported".into(), truth(item)?),
        "ishibernatesupported" => ("IsHibernateSupported".into(), truth(item)?),
        _ => (name, value),
    };
    let mut shown = json!({"name": name, "value": value});
    if let Some(from) = item.str("startsAtVersion")? {
        from.parse::<VersionName>()?;
        shown["startsAtVersion"] = from.into();
    }
    Ok(shown)
}

fn security_type(item: &Fields<'_>, generation: &str) -> Result<String, ArmError> {
    let value = item.one_of("value", &SECURITY_TYPES)?.unwrap_or("Standard");
    if value != "Standard" && generation == "V1" {
        return Err(ArmError::invalid_parameter(
            &item.path("value"),
            format!("The feature SecurityType={value} requires hyperVGeneration 'V2', but the image has 'V1'."),
        ));
    }
    Ok(value.to_owned())
}

/// The security type of a version of a stored definition; `Standard` where its features name none. A feature holds from
/// the version on that it names.
pub fn security_type_of(body: &Value, version: &str) -> String {
    let version = version.parse::<VersionName>().ok();
    let features = body["properties"]["features"].as_array().into_iter().flatten();
    let starts = |f: &Value| f["startsAtVersion"].as_str().and_then(|v| v.parse::<VersionName>().ok());
    let holds = |f: &&Value| f["name"] == "SecurityType" && (starts(f).is_none() || starts(f) <= version);
    let newest = features.filter(holds).max_by_key(|f| starts(f));
    newest.and_then(|f| f["value"].as_str()).unwrap_or("Standard").to_owned()
}

fn truth(item: &Fields<'_>) -> Result<String, ArmError> {
    Ok(item.one_of("value", &["True", "False"])?.unwrap_or("False").to_owned())
}

/// `SCSI`, `SCSI, NVMe`: a list in one string.
fn controllers(item: &Fields<'_>, value: &str) -> Result<String, ArmError> {
    let known = |word: &str| CONTROLLERS.into_iter().find(|c| c.eq_ignore_ascii_case(word.trim()));
    let all: Option<Vec<&str>> = value.split(',').map(known).collect();
    let path = item.path("value");
    all.map(|all| all.join(", ")).ok_or_else(|| {
        ArmError::invalid_parameter(
            &path,
            format!("The value '{value}' of parameter {path} is invalid. It must be one of: SCSI; SCSI, NVMe; NVMe."),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::put;
    use crate::ArmError;
    use crate::bodies::testing::{context, id, version};
    use serde_json::{Value, json};

    fn body(generation: &str, features: Value) -> Value {
        json!({"location": "eastus2", "properties": {"osType": "Linux", "osState": "Generalized",
            "hyperVGeneration": generation, "features": features,
            "identifier": {"publisher": "p", "offer": "o", "sku": "s"}}})
    }

    fn create(generation: &str, features: Value) -> Result<Value, ArmError> {
        let api = version("2024-03-03");
        let stored = put(&id("galleries/g/images/i"), &body(generation, features), None, &context(&api))?;
        Ok(stored["properties"]["features"].clone())
    }

    fn update(api: &str, allow: bool, features: Value, old: &Value) -> Result<Value, ArmError> {
        let api = version(api);
        let mut new = body("V2", features);
        new["properties"]["allowUpdateImage"] = json!(allow);
        put(&id("galleries/g/images/i"), &new, Some(old), &context(&api))
    }

    #[test]
    fn values_are_normalised() {
        let given = json!([
            {"name": "securityType", "value": "trustedlaunch", "startsAtVersion": "1.0.0"},
            {"name": "DiskControllerTypes", "value": "scsi,nvme"},
            {"name": "IsHibernateSupported", "value": "true"},
            {"name": "isAcceleratedNetworkSupported", "value": "FALSE"},
            {"name": "SomethingNew", "value": "On"}]);
        let stored = json!([
            {"name": "SecurityType", "value": "TrustedLaunch", "startsAtVersion": "1.0.0"},
            {"name": "DiskControllerTypes", "value": "SCSI, NVMe"},
            {"name": "IsHibernateSupported", "value": "True"},
            {"name": "IsAcceleratedNetworkSupported", "value": "False"},
            {"name": "SomethingNew", "value": "On"}]);
        assert_eq!(create("V2", given).unwrap(), stored);
        assert_eq!(create("V2", json!([])).unwrap(), Value::Null);
    }

    #[test]
    fn bad_ones_are_refused() {
        for (generation, features, text) in [
            (
                "V1",
                json!([{"name": "SecurityType", "value": "TrustedLaunch"}]),
                "The feature SecurityType=TrustedLaunch requires",
            ),
            (
                "V2",
                json!([{"name": "SecurityType", "value": "Moat"}]),
                "The value 'Moat' of parameter galleryImage.properties.features.value",
            ),
            ("V2", json!([{"name": "IsHibernateSupported", "value": "perhaps"}]), "The value 'perhaps' of parameter"),
            (
                "V2",
                json!([{"name": "DiskControllerTypes", "value": "SCSI, IDE"}]),
                "The value 'SCSI, IDE' of parameter",
            ),
            (
                "V2",
                json!([{"name": "SecurityType"}]),
                "Required parameter 'galleryImage.properties.features.value' is missing (null).",
            ),
            (
                "V2",
                json!([{"value": "x"}]),
                "Required parameter 'galleryImage.properties.features.name' is missing (null).",
            ),
            (
                "V2",
                json!([{"name": "a", "value": "x", "startsAtVersion": "1.0"}]),
                "The image version name is invalid.",
            ),
            (
                "V2",
                json!([{"name": "a", "value": "x"}, {"name": "a", "value": "y"}]),
                "The feature \"a\" is given more than once.",
            ),
        ] {
            let error = create(generation, features).unwrap_err();
            assert!(error.message.starts_with(text), "{}", error.message);
        }
    }

    #[test]
    fn a_security_type_holds_from_its_version_on() {
        let of = |features: Value, version: &str| {
            super::security_type_of(&json!({"properties": {"features": features}}), version)
        };
        let feature =
            |value: &str, from: Option<&str>| json!({"name": "SecurityType", "value": value, "startsAtVersion": from});
        assert_eq!(of(json!(null), "1.0.0"), "Standard");
        let several = json!([feature("TrustedLaunch", Some("2.0.0")), feature("TrustedLaunchSupported", None)]);
        assert_eq!(of(several.clone(), "1.9.9"), "TrustedLaunchSupported");
        assert_eq!(of(several, "2.0.0"), "TrustedLaunch");
        assert_eq!(of(json!([feature("TrustedLaunch", Some("2.0.0"))]), "1.0.0"), "Standard");
    }

    /// Swagger example `GalleryImage_UpdateFeatures`.
    #[test]
    fn an_update_needs_leave_and_a_version() {
        let api = version("2024-03-03");
        let first = json!([{"name": "IsHibernateSupported", "value": "True"}]);
        let old = put(&id("galleries/g/images/i"), &body("V2", first.clone()), None, &context(&api)).unwrap();
        let launch = json!([{"name": "SecurityType", "value": "TrustedLaunch", "startsAtVersion": "2.0.0"}]);
        for (api, allow) in [("2024-03-03", false), ("2023-07-03", true)] {
            let error = update(api, allow, launch.clone(), &old).unwrap_err();
            assert_eq!(error.message, "Changing property 'galleryImage.properties.features' is not allowed.");
        }
        let endless = json!([{"name": "SecurityType", "value": "TrustedLaunch"}]);
        let error = update("2024-03-03", true, endless, &old).unwrap_err();
        assert_eq!(
            error.message,
            "Required parameter 'galleryImage.properties.features.startsAtVersion' is missing (null)."
        );
        let updated = update("2024-03-03", true, launch.clone(), &old).unwrap();
        assert_eq!(updated["properties"]["features"], launch);
        assert!(updated["properties"].get("allowUpdateImage").is_none());
        // What stays needs no version, and nothing to change needs no leave.
        assert_eq!(update("2023-07-03", false, first, &old).unwrap(), old);
    }
}
