//! The staging group of a template: names of all that is in it.
//!
//! ```text
//! IT_{group}_{template}_{guid}              or the group that the template names
//! └─ it{20 of the guid}                     storage account
//!    ├─ scripts/customize/0/setup.sh        fetched when the template was submitted
//!    ├─ packerlogs/{run}/customization.log  one a run
//!    └─ vhds/{run output}.vhd               results of distributors of type VHD
//! ```
//! A run's machines, disks, interfaces and addresses are in the group as long as it lasts; only the account stays (IB-22, IB-26).

use crate::storage::Account;
use crate::{Engine, db_error};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Container of fetched scripts and files.
pub(crate) const SCRIPTS: &str = "scripts";
/// Container of logs.
pub(crate) const LOGS: &str = "packerlogs";
/// Container of results.
pub(crate) const VHDS: &str = "vhds";
pub(crate) const CONTAINERS: [&str; 3] = [SCRIPTS, LOGS, VHDS];
/// Names of resource groups are not longer.
const MAX_GROUP: usize = 90;
/// No name of a file is kept beyond this.
const MAX_FILE_NAME: usize = 100;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Staging {
    /// Id of the group.
    pub group: String,
    /// Name of the storage account, unique on the whole server.
    pub account: String,
    /// The user named it: it was there before, or stays by its name.
    pub named: bool,
    /// It was there before the template: emptied, not deleted, with it.
    pub existed: bool,
}

impl Staging {
    /// For a new template. `named`: the group that its body asks for.
    pub fn new(template: &ResourceId, named: Option<&str>, guid: Uuid) -> Self {
        let account = format!("it{}", &guid.simple().to_string()[..20]);
        let group = match named {
            Some(id) => id.to_owned(),
            None => {
                let own = template.resource_group.as_deref().unwrap_or_default();
                ResourceId::group(&template.subscription, &group_name(own, template.name(), guid)).to_string()
            }
        };
        Self { group, account, named: named.is_some(), existed: false }
    }

    /// # Errors
    /// If nothing was chosen yet.
    pub fn group_id(&self) -> Result<ResourceId, ArmError> {
        self.group.parse().map_err(ArmError::internal)
    }

    /// The storage account's id.
    ///
    /// # Errors
    /// As [`Staging::group_id`].
    pub fn account_id(&self) -> Result<ResourceId, ArmError> {
        Ok(self.group_id()?.resource("Microsoft.Storage", "storageAccounts", &self.account))
    }

    /// The account for the blob service, in a region.
    ///
    /// # Errors
    /// As [`Staging::group_id`].
    pub fn storage(&self, location: &str) -> Result<Account, ArmError> {
        Ok(Account { name: self.account.clone(), key: self.account_id()?.key(), location: location.to_owned() })
    }
}

/// `IT_{group}_{template}_{guid}`, where both names are cut to what a group's name can have.
fn group_name(group: &str, template: &str, guid: Uuid) -> String {
    let room = MAX_GROUP - "IT__".len() - guid.hyphenated().to_string().len();
    let names: String = format!("{group}_{template}").chars().take(room).collect();
    format!("IT_{}_{guid}", names.trim_end_matches(['_', '.']))
}

/// The blob of the file at a step's place: `customize/0/setup.sh`.
pub(crate) fn script_blob(place: &str, uri: &str) -> String {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let name: String = last.chars().map(safe).take(MAX_FILE_NAME).collect();
    let name = name.trim_matches('.');
    format!("{place}/{}", if name.is_empty() { "file" } else { name })
}

/// Tags that tell of whose template a staging group is (wire.md §4).
pub(crate) fn own_tags(template: &Resource) -> Map<String, Value> {
    Map::from_iter([
        ("createdBy".to_owned(), json!("AzureVMImageBuilder")),
        ("imageTemplateName".to_owned(), json!(template.name)),
        ("imageTemplateResourceGroupName".to_owned(), json!(template.id.split('/').nth(4).unwrap_or_default())),
    ])
}

/// Whether a group is this template's by its tags.
pub(crate) fn is_of(group: &Resource, template: &Resource) -> bool {
    let tags = &group.body["tags"];
    own_tags(template).iter().all(|(name, value)| {
        let (has, wanted) = (tags[name].as_str().unwrap_or_default(), value.as_str().unwrap_or_default());
        has.eq_ignore_ascii_case(wanted)
    })
}

/// Whether a template's staging group is there already. One that is must be empty, in the template's region, and nobody else's.
///
/// # Errors
/// 400 `BadStagingResourceGroup`.
pub(crate) async fn looked(engine: &Engine, template: &Resource, staging: &Staging) -> Result<bool, ArmError> {
    if !staging.named {
        return Ok(false);
    }
    let id = staging.group_id()?;
    let bad = |why: &str| {
        let message = format!("The staging resource group '{}' {why}", id.name());
        Err(ArmError::bad_request("BadStagingResourceGroup", message))
    };
    let Some(group) = engine.db().resource(&id.key()).await.map_err(db_error)? else { return Ok(false) };
    if group.provisioning_state == "Deleting" {
        return bad("is being deleted.");
    }
    if group.location != template.location {
        return bad(&format!("is in '{}', not in the template's region '{}'.", group.location, template.location));
    }
    if is_of(&group, template) {
        // Of an earlier body of this template.
        return Ok(group.body["tags"]["usedBy"].is_string());
    }
    let used_by = group.body["tags"]["usedBy"].as_str();
    if used_by.is_some_and(|id| !id.eq_ignore_ascii_case(&template.id)) {
        return bad("is used by another template (tag usedBy).");
    }
    let query = ResourceQuery { under: Some(group.key.clone()), limit: Some(1), ..ResourceQuery::default() };
    if !engine.db().resources(&query).await.map_err(db_error)?.is_empty() {
        return bad("is not empty.");
    }
    Ok(true)
}

/// The log of a run, in [`LOGS`].
pub(crate) fn log_blob(run: &str) -> String {
    format!("{run}/customization.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_bear_the_names_of_their_templates() {
        let guid = Uuid::from_u128(0x8c56_1502_0eeb_4973_8699_1433_6a26_b575);
        let template: ResourceId =
            "/subscriptions/S/resourceGroups/rg1/providers/Microsoft.VirtualMachineImages/imageTemplates/t1"
                .parse()
                .unwrap();
        let staging = Staging::new(&template, None, guid);
        assert_eq!(staging.group, "/subscriptions/S/resourceGroups/IT_rg1_t1_8c561502-0eeb-4973-8699-14336a26b575");
        assert!(lazuli_arm::bodies::storage_account::is_valid_name(&staging.account), "{}", staging.account);
        let long = group_name(&"g".repeat(90), "t", guid);
        assert!(long.len() <= MAX_GROUP && long.ends_with(&format!("g_{guid}")), "{long}");
    }

    #[test]
    fn files_keep_their_names_as_far_as_they_are_safe() {
        for (uri, blob) in [
            ("https://example.com/a/setup.sh?sig=secret", "customize/0/setup.sh"),
            ("https://example.com/", "customize/0/example.com"),
            ("https://example.com/a%20b c/..", "customize/0/file"),
            ("https://example.com/ü.sh", "customize/0/_.sh"),
        ] {
            assert_eq!(script_blob("customize/0", uri), blob, "{uri}");
        }
    }
}
