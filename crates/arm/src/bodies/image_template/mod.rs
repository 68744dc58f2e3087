//! `Microsoft.VirtualMachineImages/imageTemplates`: what an image is made of, what is done to it, and where the result goes.
//!
//! ```text
//! source       what it starts from                   source.rs
//! customize    steps on the build machine, in order  step.rs
//! validate     steps on a machine of the result      step.rs
//! distribute   where the result goes                 distribute.rs, version.rs
//! vmProfile    the machines that do it               vm_profile.rs
//! ```
//! A body is read into an [`ImageTemplate`], and stored and shown as that says it ([`ImageTemplate::body`]); reading the stored body
//! gives the same value again. A template never changes but in what a PATCH may say ([`patch`]). What only the service knows (the
//! exact version of the source, checksums, the staging group, states) is no part of it.
//!
//! Shapes: Swagger imagebuilder.json, 2020-02-14 to 2025-10-01. Words of refusals: wire.md §4. `LinuxRestart` is Lazuli's own.

mod distribute;
mod schema;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod version;
mod vm_profile;

pub use distribute::{Distributor, Target, TargetRegion, Versioning};
pub use source::{PlanInfo, Source};
pub use step::{Remote, Script, Step, Work};
pub use version::next_version;
pub use vm_profile::{Network, VmProfile};

use super::{Context, Fields, Head, check_tags, merge_patch};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

pub(super) const ROOT: &str = "ImageTemplate";
const PROPERTIES: &str = "ImageTemplate.properties";
const USER_ASSIGNED: &str = "microsoft.managedidentity/userassignedidentities";
/// Where nothing is said (Swagger).
const DEFAULT_TIMEOUT_MINUTES: u32 = 240;
const MIN_TIMEOUT_MINUTES: i64 = 6;
const MAX_TIMEOUT_MINUTES: i64 = 960;
/// Steps and distributors of a template, each; far more than anybody writes.
const MAX_ITEMS: usize = 200;

/// What happens to the build machine when a step fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// It goes, with all that was made for it.
    #[default]
    Cleanup,
    /// It stays, so that somebody can look at it.
    Abort,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validate {
    /// The result is distributed even if it is found wanting; the run has failed all the same.
    pub continue_distribute_on_failure: bool,
    /// The source itself is validated, nothing is built.
    pub source_validation_only: bool,
    pub steps: Vec<Step>,
}

/// A template, checked and in canonical form.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTemplate {
    /// Canonical short name.
    pub location: String,
    pub tags: Option<Map<String, Value>>,
    /// Id of the identity under which sources are read and results are written; `None` once a PATCH has taken it away.
    pub identity: Option<String>,
    pub source: Source,
    pub customize: Vec<Step>,
    pub validate: Option<Validate>,
    pub distribute: Vec<Distributor>,
    /// `Some(true)`: the result's boot is traced so that later boots fetch ahead.
    pub optimize_vm_boot: Option<bool>,
    pub on_customizer_error: Option<OnError>,
    pub on_validation_error: Option<OnError>,
    /// As it was given; 0: the default.
    pub build_timeout_minutes: u32,
    pub vm_profile: VmProfile,
    /// A group that the user wants to be used.
    pub staging_resource_group: Option<String>,
    pub auto_run: Option<bool>,
    /// On the staging group and what is made in it.
    pub managed_resource_tags: Option<Map<String, Value>>,
    /// Sizes in GB of empty data disks of the build machine, in the order of their LUNs.
    pub additional_data_disks: Vec<u32>,
}

/// A new template, as it is to be stored.
///
/// # Errors
/// 400 `ValidationFailed` in Azure's words; from 2024-02-01 also for a field that is not known or not spelled exactly so.
pub fn put(id: &ResourceId, new: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name(), "name", ROOT)?;
    if ctx.api_version.at_least("2024-02-01") {
        schema::check(new, ctx.api_version)?;
    }
    let root = Fields::root(ROOT, new)?;
    let head = Head::read(id, &root, None, ctx)?;
    let template = ImageTemplate::read(&root, head, Reading::New)?;
    template.check_ids(id)?;
    Ok(template.body())
}

/// What a PATCH makes of a stored template: `tags`, `identity`, `properties.distribute` and `properties.vmProfile` may change
/// (Swagger 2024-02-01: `ImageTemplateUpdateParameters`). Lists are replaced, objects are merged.
///
/// # Errors
/// 400 `ValidationFailed`; 409 `Conflict` for anything else that the patch names.
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let given = Fields::root(ROOT, patch)?;
    only(patch, &["tags", "identity", "properties"])?;
    if let Some(properties) = given.get("properties") {
        only(properties, &["distribute", "vmProfile"])?;
    }
    let mut merged = merge_patch(old, patch);
    if let Some(identity) = super::managed_identity::patched(&old["identity"], given.get("identity")) {
        merged["identity"] = identity;
    }
    let root = Fields::root(ROOT, &merged)?;
    let head = Head::read(id, &root, Some(old), ctx)?;
    let template = ImageTemplate::read(&root, head, Reading::Stored)?;
    template.check_ids(id)?;
    Ok(template.body())
}

fn only(patch: &Value, allowed: &[&str]) -> Result<(), ArmError> {
    let names = patch.as_object().into_iter().flat_map(Map::keys);
    match names.into_iter().find(|n| !allowed.iter().any(|a| a.eq_ignore_ascii_case(n))) {
        Some(_) => Err(immutable()),
        None => Ok(()),
    }
}

/// The answer to a write that would change what a template does (IB-27).
pub fn immutable() -> ArmError {
    ArmError::conflict("Conflict", "Update/Upgrade of image templates is currently not supported")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// From a client: an identity is asked for.
    New,
    Stored,
}

impl ImageTemplate {
    /// A template from its stored body.
    ///
    /// # Errors
    /// If the body was stored by something else.
    pub fn parse(body: &Value) -> Result<Self, ArmError> {
        let root = Fields::root(ROOT, body)?;
        let location = root.required_str("location")?;
        let region = super::RegionFacts { name: location.clone(), display_name: location, zones: false };
        let head = Head { region, tags: check_tags(root.get("tags"))? };
        Self::read(&root, head, Reading::Stored)
    }

    fn read(root: &Fields<'_>, head: Head, reading: Reading) -> Result<Self, ArmError> {
        let identity = identity(root)?;
        if identity.is_none() && reading == Reading::New {
            return Err(missing(ROOT, "identity"));
        }
        let properties = root.object("properties").map_err(validation)?;
        let optimize = properties.object("optimize").map_err(validation)?;
        let handling = properties.object("errorHandling").map_err(validation)?;
        let timeout = properties.int("buildTimeoutInMinutes").map_err(validation)?.unwrap_or(0);
        if timeout != 0 && !(MIN_TIMEOUT_MINUTES..=MAX_TIMEOUT_MINUTES).contains(&timeout) {
            return Err(bad_value(
                PROPERTIES,
                "buildTimeoutInMinutes",
                &timeout.to_string(),
                "It is 0 (for the default of 240) or between 6 and 960.",
            ));
        }
        let tags = properties.get("managedResourceTags");
        let template = Self {
            location: head.region.name,
            tags: head.tags,
            identity,
            source: Source::read(&properties)?,
            customize: step::read_list(&properties, "customize", step::Phase::Customize)?.unwrap_or_default(),
            validate: validate(&properties)?,
            distribute: distribute::read_list(&properties)?,
            optimize_vm_boot: state(&optimize.object("vmBoot").map_err(validation)?)?,
            on_customizer_error: on_error(&handling, "onCustomizerError")?,
            on_validation_error: on_error(&handling, "onValidationError")?,
            build_timeout_minutes: u32::try_from(timeout).unwrap_or(0),
            vm_profile: VmProfile::read(&properties)?,
            staging_resource_group: text(&properties, "stagingResourceGroup")?,
            auto_run: state(&properties.object("autoRun").map_err(validation)?)?,
            managed_resource_tags: check_tags(tags)?,
            additional_data_disks: data_disks(&properties)?,
        };
        if state(&optimize.object("workload").map_err(validation)?)? == Some(true) {
            return Err(super::not_offered(
                "properties.optimize.workload",
                "images are not optimized for a workload here; leave it out or set its state to Disabled",
            ));
        }
        Ok(template)
    }

    /// As it is stored: `{location, tags?, identity, properties}` in the order in which Azure shows them.
    pub fn body(&self) -> Value {
        let mut properties = Map::new();
        properties.insert("source".into(), self.source.body());
        if !self.customize.is_empty() {
            properties.insert("customize".into(), self.customize.iter().map(Step::body).collect());
        }
        if let Some(enabled) = self.optimize_vm_boot {
            properties.insert("optimize".into(), json!({"vmBoot": {"state": state_text(enabled)}}));
        }
        if let Some(validate) = &self.validate {
            let mut shown = json!({
                "continueDistributeOnFailure": validate.continue_distribute_on_failure,
                "sourceValidationOnly": validate.source_validation_only,
            });
            if !validate.steps.is_empty() {
                shown["inVMValidations"] = validate.steps.iter().map(Step::body).collect();
            }
            properties.insert("validate".into(), shown);
        }
        properties.insert("distribute".into(), self.distribute.iter().map(Distributor::body).collect());
        if self.on_customizer_error.is_some() || self.on_validation_error.is_some() {
            properties.insert(
                "errorHandling".into(),
                json!({
                    "onCustomizerError": self.on_customizer_error.unwrap_or_default().text(),
                    "onValidationError": self.on_validation_error.unwrap_or_default().text(),
                }),
            );
        }
        properties.insert("buildTimeoutInMinutes".into(), self.build_timeout_minutes.into());
        properties.insert("vmProfile".into(), self.vm_profile.body());
        properties
            .insert("stagingResourceGroup".into(), self.staging_resource_group.clone().unwrap_or_default().into());
        if let Some(enabled) = self.auto_run {
            properties.insert("autoRun".into(), json!({"state": state_text(enabled)}));
        }
        if let Some(tags) = &self.managed_resource_tags {
            properties.insert("managedResourceTags".into(), Value::Object(tags.clone()));
        }
        if !self.additional_data_disks.is_empty() {
            let disks = self.additional_data_disks.iter().map(|size| json!({"sizeGB": size})).collect();
            properties.insert("additionalDataDisks".into(), disks);
        }
        let identity = match &self.identity {
            Some(id) => json!({"type": "UserAssigned", "userAssignedIdentities": {id.as_str(): {}}}),
            None => json!({"type": "None"}),
        };
        let mut body = Map::new();
        body.insert("location".into(), self.location.clone().into());
        if let Some(tags) = &self.tags {
            body.insert("tags".into(), Value::Object(tags.clone()));
        }
        body.insert("identity".into(), identity);
        body.insert("properties".into(), Value::Object(properties));
        Value::Object(body)
    }

    /// How long a run may take.
    pub fn timeout(&self) -> std::time::Duration {
        let minutes = match self.build_timeout_minutes {
            0 => DEFAULT_TIMEOUT_MINUTES,
            given => given,
        };
        std::time::Duration::from_secs(u64::from(minutes) * 60)
    }

    /// Scripts and files that are fetched when the template is submitted, each with its place: `customize/0`, `validate/2`.
    pub fn remotes(&self) -> Vec<(String, &Remote)> {
        let validators = self.validate.iter().flat_map(|v| &v.steps);
        let customize = self.customize.iter().enumerate().map(|(i, step)| (format!("customize/{i}"), step));
        let validate = validators.enumerate().map(|(i, step)| (format!("validate/{i}"), step));
        customize.chain(validate).filter_map(|(place, step)| Some((place, step.remote()?))).collect()
    }

    /// Whether the steps can be done on such a source; asked once it is known what it is.
    ///
    /// # Errors
    /// The code of `provisioningError` and its message.
    pub fn check_os(&self, windows: bool) -> Result<(), (&'static str, String)> {
        for (index, step) in self.customize.iter().enumerate() {
            step.check_os(windows, &format!("customize[{index}]")).map_err(|m| ("UnsupportedCustomizerType", m))?;
        }
        for (index, step) in self.validate.iter().flat_map(|v| &v.steps).enumerate() {
            let place = format!("validate.inVMValidations[{index}]");
            step.check_os(windows, &place).map_err(|m| ("UnsupportedValidatorType", m))?;
        }
        Ok(())
    }

    /// What an id of the template's own says about others in it.
    fn check_ids(&self, id: &ResourceId) -> Result<(), ArmError> {
        if let Source::ManagedImage { id: image } = &self.source
            && let Ok(image) = image.parse::<ResourceId>()
            && !image.subscription.eq_ignore_ascii_case(&id.subscription)
        {
            let why = "A managed image must be in the subscription of the template.";
            return Err(bad_value("ImageTemplate.properties.source", "imageId", &image.to_string(), why));
        }
        if let Some(group) = &self.staging_resource_group {
            let ok = group.parse::<ResourceId>().is_ok_and(|g| {
                g.is_group()
                    && g.subscription.eq_ignore_ascii_case(&id.subscription)
                    && id.resource_group.as_deref().is_none_or(|own| !own.eq_ignore_ascii_case(g.name()))
            });
            if !ok {
                let why = "The id of a resource group in the template's subscription is expected, other than the template's own.";
                return Err(bad_value(PROPERTIES, "stagingResourceGroup", group, why));
            }
        }
        Ok(())
    }
}

impl OnError {
    fn text(self) -> &'static str {
        match self {
            Self::Cleanup => "cleanup",
            Self::Abort => "abort",
        }
    }
}

fn on_error(handling: &Fields<'_>, name: &str) -> Result<Option<OnError>, ArmError> {
    match handling.str(name).map_err(validation)?.as_deref() {
        None => Ok(None),
        Some(t) if t.eq_ignore_ascii_case("cleanup") => Ok(Some(OnError::Cleanup)),
        Some(t) if t.eq_ignore_ascii_case("abort") => Ok(Some(OnError::Abort)),
        Some(other) => {
            let why = "It is 'cleanup' or 'abort'.";
            Err(bad_value("ImageTemplate.properties.errorHandling", name, other, why))
        }
    }
}

/// `{state: Enabled | Disabled}`
fn state(holder: &Fields<'_>) -> Result<Option<bool>, ArmError> {
    match holder.str("state").map_err(validation)?.as_deref() {
        None => Ok(None),
        Some(t) if t.eq_ignore_ascii_case("Enabled") => Ok(Some(true)),
        Some(t) if t.eq_ignore_ascii_case("Disabled") => Ok(Some(false)),
        Some(other) => {
            let path = holder.path("state");
            let (above, name) = path.rsplit_once('.').unwrap_or((ROOT, "state"));
            Err(bad_value(above, name, other, "It is 'Enabled' or 'Disabled'."))
        }
    }
}

fn state_text(enabled: bool) -> &'static str {
    if enabled { "Enabled" } else { "Disabled" }
}

fn validate(properties: &Fields<'_>) -> Result<Option<Validate>, ArmError> {
    if properties.get("validate").is_none() {
        return Ok(None);
    }
    let given = properties.object("validate").map_err(validation)?;
    let flag = |name: &str| Ok::<_, ArmError>(given.bool(name).map_err(validation)?.unwrap_or(false));
    let validate = Validate {
        continue_distribute_on_failure: flag("continueDistributeOnFailure")?,
        source_validation_only: flag("sourceValidationOnly")?,
        steps: step::read_list(&given, "inVMValidations", step::Phase::Validate)?.unwrap_or_default(),
    };
    Ok(Some(validate))
}

fn data_disks(properties: &Fields<'_>) -> Result<Vec<u32>, ArmError> {
    let disks = properties.objects("additionalDataDisks").map_err(validation)?.unwrap_or_default();
    if disks.len() > 16 {
        let why = "At most 16 data disks can be added.";
        return Err(bad_value(PROPERTIES, "additionalDataDisks", &disks.len().to_string(), why));
    }
    let sizes = disks.iter().enumerate().map(|(i, disk)| {
        let size = disk.int("sizeGB").map_err(validation)?.unwrap_or(0);
        u32::try_from(size).ok().filter(|s| (1..=32767).contains(s)).ok_or_else(|| {
            let why = "A size between 1 and 32767 is expected.";
            bad_value(PROPERTIES, &format!("additionalDataDisks[{i}].sizeGB"), &size.to_string(), why)
        })
    });
    sizes.collect()
}

/// `None` for none; more than one is refused: a run acts as one identity [D].
fn identity(root: &Fields<'_>) -> Result<Option<String>, ArmError> {
    let given = root.object("identity").map_err(validation)?;
    let kind = given.str("type").map_err(validation)?.unwrap_or_default();
    let ids: Vec<&String> =
        given.get("userAssignedIdentities").and_then(Value::as_object).into_iter().flat_map(Map::keys).collect();
    match kind.as_str() {
        "" if ids.is_empty() => return Ok(None),
        k if k.eq_ignore_ascii_case("None") && ids.is_empty() => return Ok(None),
        k if k.eq_ignore_ascii_case("UserAssigned") => {}
        other => {
            let why = "The identity of an image template is 'UserAssigned'.";
            return Err(bad_value("ImageTemplate.identity", "type", other, why));
        }
    }
    let [id] = ids.as_slice() else {
        let why = "Exactly one user-assigned identity is expected.";
        return Err(bad_value("ImageTemplate.identity", "userAssignedIdentities", &ids.len().to_string(), why));
    };
    identity_id(id, "ImageTemplate.identity", "userAssignedIdentities").map(Some)
}

/// The canonical id of a user-assigned identity.
fn identity_id(id: &str, path: &str, field: &str) -> Result<String, ArmError> {
    let parsed = id.parse::<ResourceId>().ok().filter(|i| i.resource_type().key() == USER_ASSIGNED);
    let Some(mut parsed) = parsed else {
        return Err(bad_value(path, field, id, "The id of a user-assigned identity is expected."));
    };
    parsed.namespace = "Microsoft.ManagedIdentity".into();
    parsed.segments[0].0 = "userAssignedIdentities".into();
    Ok(parsed.to_string())
}

/// A text that is there and not empty.
fn text(fields: &Fields<'_>, name: &str) -> Result<Option<String>, ArmError> {
    Ok(fields.str(name).map_err(validation)?.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()))
}

/// Names of templates, run outputs and triggers: `^[A-Za-z0-9-_.]{1,64}$` (Swagger).
fn check_name(name: &str, field: &str, path: &str) -> Result<(), ArmError> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(ok) {
        return Ok(());
    }
    let why = "A name has 1 to 64 letters, digits, '-', '_' and '.'.";
    Err(bad_value(path, field, name, why))
}

const REVIEW: &str = "Please review  http://aka.ms/azvmimagebuildertmplref  for details on fields requirements in the Image Builder Template.";
/// No text of a user's is repeated beyond this.
const SHOWN: usize = 300;

/// `Validation failed: '{path}': Field '{field}' has a bad value: '{value}'. {why} Please review …`
fn bad_value(path: &str, field: &str, value: &str, why: &str) -> ArmError {
    let shown: String = value.chars().take(SHOWN).collect();
    let why = if why.is_empty() { String::new() } else { format!(" {why}") };
    failed(format!("'{path}': Field '{field}' has a bad value: '{shown}'.{why}"))
}

fn missing(path: &str, field: &str) -> ArmError {
    failed(format!("'{path}': Missing field '{field}'."))
}

fn failed(what: String) -> ArmError {
    ArmError::bad_request("ValidationFailed", format!("Validation failed: {what} {REVIEW}"))
}

/// What is of the wrong type, in this service's words.
fn validation(error: ArmError) -> ArmError {
    failed(error.message)
}

/// A trigger or a run output of this name.
///
/// # Errors
/// 400 `ValidationFailed`.
pub fn check_child_name(name: &str) -> Result<(), ArmError> {
    check_name(name, "name", ROOT)
}
