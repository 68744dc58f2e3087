//! Names that a template may have: from 2024-02-01 one that is not known, or not spelled exactly so, is refused.

use super::{ArmError, Value};
use crate::ApiVersion;

enum Shape {
    Any,
    Object(&'static [(&'static str, Shape)]),
    List(&'static Shape),
    /// Which names there are is decided by `type`.
    Kinds(&'static [(&'static str, &'static [(&'static str, Shape)])]),
}

use Shape::{Any, Kinds, List, Object};

const STATE: Shape = Object(&[("state", Any)]);

const TEMPLATE: Shape = Object(&[
    ("id", Any),
    ("name", Any),
    ("type", Any),
    ("systemData", Any),
    ("location", Any),
    ("tags", Any),
    ("identity", Object(&[("type", Any), ("userAssignedIdentities", Any), ("principalId", Any), ("tenantId", Any)])),
    ("properties", PROPERTIES),
]);

const PROPERTIES: Shape = Object(&[
    ("source", SOURCE),
    ("customize", List(&CUSTOMIZER)),
    (
        "optimize",
        Object(&[
            ("vmBoot", STATE),
            ("workload", Object(&[("state", Any), ("scriptUri", Any), ("sha256Checksum", Any)])),
        ]),
    ),
    (
        "validate",
        Object(&[
            ("continueDistributeOnFailure", Any),
            ("sourceValidationOnly", Any),
            ("inVMValidations", List(&VALIDATOR)),
        ]),
    ),
    ("distribute", List(&DISTRIBUTOR)),
    ("errorHandling", Object(&[("onCustomizerError", Any), ("onValidationError", Any)])),
    ("provisioningState", Any),
    ("provisioningError", Any),
    ("lastRunStatus", Any),
    ("buildTimeoutInMinutes", Any),
    (
        "vmProfile",
        Object(&[
            ("vmSize", Any),
            ("osDiskSizeGB", Any),
            ("userAssignedIdentities", Any),
            ("vnetConfig", Object(&[("subnetId", Any), ("containerInstanceSubnetId", Any), ("proxyVmSize", Any)])),
        ]),
    ),
    ("stagingResourceGroup", Any),
    ("exactStagingResourceGroup", Any),
    ("autoRun", STATE),
    ("managedResourceTags", Any),
    ("additionalDataDisks", List(&Object(&[("sizeGB", Any)]))),
]);

const SOURCE: Shape = Kinds(&[
    (
        "PlatformImage",
        &[
            ("type", Any),
            ("publisher", Any),
            ("offer", Any),
            ("sku", Any),
            ("version", Any),
            ("exactVersion", Any),
            ("planInfo", Object(&[("planName", Any), ("planProduct", Any), ("planPublisher", Any)])),
        ],
    ),
    ("ManagedImage", &[("type", Any), ("imageId", Any)]),
    ("SharedImageVersion", &[("type", Any), ("imageVersionId", Any), ("exactVersion", Any)]),
]);

type Kind = (&'static str, &'static [(&'static str, Shape)]);

const SHELL: Kind =
    ("Shell", &[("type", Any), ("name", Any), ("scriptUri", Any), ("sha256Checksum", Any), ("inline", Any)]);
const POWER_SHELL: Kind = (
    "PowerShell",
    &[
        ("type", Any),
        ("name", Any),
        ("scriptUri", Any),
        ("sha256Checksum", Any),
        ("inline", Any),
        ("runElevated", Any),
        ("runAsSystem", Any),
        ("validExitCodes", Any),
    ],
);
const FILE: Kind =
    ("File", &[("type", Any), ("name", Any), ("sourceUri", Any), ("sha256Checksum", Any), ("destination", Any)]);

const VALIDATOR: Shape = Kinds(&[SHELL, POWER_SHELL, FILE]);
const CUSTOMIZER: Shape = Kinds(&[
    SHELL,
    POWER_SHELL,
    FILE,
    (
        "WindowsRestart",
        &[("type", Any), ("name", Any), ("restartCommand", Any), ("restartCheckCommand", Any), ("restartTimeout", Any)],
    ),
    ("WindowsUpdate", &[("type", Any), ("name", Any), ("searchCriteria", Any), ("filters", Any), ("updateLimit", Any)]),
    ("LinuxRestart", &[("type", Any), ("name", Any), ("restartTimeout", Any)]),
    (
        "Ansible",
        &[
            ("type", Any),
            ("name", Any),
            ("playbookUri", Any),
            ("sha256Checksum", Any),
            ("inline", Any),
            ("extraVars", Any),
        ],
    ),
]);

const DISTRIBUTOR: Shape = Kinds(&[
    (
        "ManagedImage",
        &[("type", Any), ("runOutputName", Any), ("artifactTags", Any), ("imageId", Any), ("location", Any)],
    ),
    (
        "SharedImage",
        &[
            ("type", Any),
            ("runOutputName", Any),
            ("artifactTags", Any),
            ("galleryImageId", Any),
            ("replicationRegions", Any),
            ("excludeFromLatest", Any),
            ("storageAccountType", Any),
            ("targetRegions", List(&Object(&[("name", Any), ("replicaCount", Any), ("storageAccountType", Any)]))),
            ("versioning", Object(&[("scheme", Any), ("major", Any)])),
            ("replicationMode", Any),
        ],
    ),
    ("VHD", &[("type", Any), ("runOutputName", Any), ("artifactTags", Any), ("uri", Any)]),
]);

/// # Errors
/// 400 `ValidationFailed`, in the words of wire.md §4.
pub(super) fn check(body: &Value, api_version: &ApiVersion) -> Result<(), ArmError> {
    let Err((path, name)) = check_shape(body, &TEMPLATE) else { return Ok(()) };
    let shown: String = name.chars().take(100).collect();
    let version = api_version.as_str().replace('-', "_");
    let fields: String = path.iter().rev().map(|field| format!("struct field {}: ", capital(field))).collect();
    Err(ArmError::bad_request(
        "ValidationFailed",
        format!(
            "Unmarshalling entity encountered error: unmarshalling type *v{version}.ImageTemplate: {fields}unknown field \"{shown}\". \
             There is an issue with the syntax with the JSON template you are submitting. Names are case-sensitive from api-version \
             2024-02-01 on. Please review http://aka.ms/azvmimagebuildertmplref for the fields of the Image Builder Template."
        ),
    ))
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// The fields that lead to the first unknown one, from the inside, and its name.
fn check_shape<'a>(value: &'a Value, shape: &Shape) -> Result<(), (Vec<&'a str>, &'a str)> {
    match (shape, value) {
        (Object(names), Value::Object(_)) => check_names(value, names),
        (List(item), Value::Array(items)) => items.iter().try_for_each(|v| check_shape(v, item)),
        (Kinds(kinds), Value::Object(_)) => {
            // What is of no known type is refused for that.
            match kinds.iter().find(|(kind, _)| value["type"] == *kind) {
                Some((_, names)) => check_names(value, names),
                None => Ok(()),
            }
        }
        // What is of the wrong type, and null, is for who reads it.
        _ => Ok(()),
    }
}

fn check_names<'a>(value: &'a Value, names: &[(&str, Shape)]) -> Result<(), (Vec<&'a str>, &'a str)> {
    for (name, member) in value.as_object().into_iter().flatten() {
        let Some((_, shape)) = names.iter().find(|(known, _)| known == name) else {
            return Err((vec![], name));
        };
        check_shape(member, shape).map_err(|(mut path, unknown)| {
            path.push(name.as_str());
            (path, unknown)
        })?;
    }
    Ok(())
}
