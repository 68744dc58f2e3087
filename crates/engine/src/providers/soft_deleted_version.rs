//! `Microsoft.Compute/galleries/softDeletedArtifactTypes/artifacts/versions`: image versions that were deleted in a gallery with
//! soft deletion, and can be restored until their time is over.
//!
//! ```text
//!                      DELETE (gallery's policy)
//!  …/images/i/versions/1.0.0  ──────────────────>  …/softDeletedArtifactTypes/Images/artifacts/i/versions/1.0.0
//!                             <──────────────────       │
//!                      PUT with a location,             └──> gone: DELETE of this id, or the end of the retention
//!                      PATCH with restore
//! ```
//! The row moves with its content references, in one transaction; not a byte does. Its parent is the definition, which
//! therefore cannot be deleted as long as it has such versions.

use super::{arm_context, by_number};
use crate::provider::{Context, DeletePlan, Plan, Provider, Start};
use crate::stored::{ImageVersionInternal, internal, to_internal};
use crate::{Engine, db_error, new_etag};
use async_trait::async_trait;
use lazuli_arm::bodies::format_time;
use lazuli_arm::bodies::gallery::SoftDelete;
use lazuli_arm::bodies::image_version;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, ContentRef, Expect, Resource, ResourceQuery};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) const KIND: &str = "Microsoft.Compute/galleries/softDeletedArtifactTypes/artifacts/versions";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// `internal` of a soft-deleted version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SoftDeletedInternal {
    pub version: ImageVersionInternal,
    /// As it was shown.
    pub version_id: String,
    pub deleted_ms: i64,
    /// When it goes for good.
    pub purge_ms: i64,
}

pub(crate) struct SoftDeletedVersion;

#[async_trait]
impl Provider for SoftDeletedVersion {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    fn not_written(&self, id: &ResourceId) -> ArmError {
        ArmError::new(
            405,
            "OperationNotAllowed",
            format!(
                "A soft-deleted image version cannot be written. To restore it, PUT the image version '{}' with nothing but its \
                 location.",
                id.name()
            ),
        )
    }

    async fn delete(&self, _cx: Context<'_>, _old: &Resource) -> Result<DeletePlan, ArmError> {
        Ok(DeletePlan { start: Some(Start { kind: "image_version.delete", params: json!({}) }), changes: vec![] })
    }

    /// As in the swagger's example; when it will be purged is shown from the api-version on that has a word for it.
    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let state: SoftDeletedInternal = internal(row)?;
        let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).map(format_time).map_err(ArmError::internal);
        let mut view = json!({
            "name": row.name,
            "id": row.id,
            "type": KIND,
            "location": row.location,
            "properties": {
                "resourceArmId": state.version_id,
                "softDeletedArtifactType": "Images",
                "softDeletedTime": time(state.deleted_ms)?,
            },
        });
        if let Some(tags) = row.body.get("tags") {
            view["tags"] = tags.clone();
        }
        if cx.call.api_version.at_least("2026-03-03") {
            view["properties"]["hardDeletionTargetTime"] = time(state.purge_ms)?.into();
        }
        Ok(view)
    }

    fn sort_key(&self, key: &str) -> String {
        by_number(key)
    }

    fn is_tracked(&self) -> bool {
        false
    }

    /// `galleries/g/softDeletedArtifactTypes/Images/artifacts/i` stands for `galleries/g/images/i`.
    fn list_parent(&self, parent: &ResourceId) -> ResourceId {
        let mut definition = parent.clone();
        if let [_, (_, artifact_type), (_, name)] = parent.segments.as_slice()
            && artifact_type.eq_ignore_ascii_case("Images")
        {
            let name = name.clone();
            definition.segments.truncate(1);
            definition.segments.push(("images".to_owned(), name));
        }
        definition
    }

    fn delete_rank(&self) -> u8 {
        20
    }
}

/// The soft-deleted twin of an image version's id.
pub(crate) fn id_of(version: &ResourceId) -> ResourceId {
    let mut id = version.clone();
    if let [gallery, (_, definition), (_, name)] = version.segments.as_slice() {
        id.segments = vec![
            gallery.clone(),
            ("softDeletedArtifactTypes".to_owned(), "Images".to_owned()),
            ("artifacts".to_owned(), definition.clone()),
            ("versions".to_owned(), name.clone()),
        ];
    }
    id
}

/// The policy of the gallery that this definition or version is in.
pub(crate) async fn policy(engine: &Engine, id: &str) -> Result<SoftDelete, ArmError> {
    let mut gallery: ResourceId = id.parse().map_err(ArmError::internal)?;
    gallery.segments.truncate(1);
    let row = engine.db().resource(&gallery.key()).await.map_err(db_error)?;
    Ok(SoftDelete::of(&row.map(|r| r.body).unwrap_or_default()))
}

/// What turns a version into a soft-deleted one; the version's own row and references go with the operation that commits this.
/// `None`: there is nothing in it that could be restored.
pub(crate) async fn keep(
    engine: &Engine,
    version: &Resource,
    retention_days: i64,
    now_ms: i64,
) -> Result<Option<Vec<Change>>, ArmError> {
    let state: ImageVersionInternal = internal(version)?;
    let whole = state.regions.get(&version.location).is_some_and(|r| r.state == "Completed");
    if state.os_disk.is_none() || !whole {
        return Ok(None);
    }
    let id = id_of(&version.id.parse().map_err(ArmError::internal)?);
    let deleted = SoftDeletedInternal {
        version: state,
        version_id: version.id.clone(),
        deleted_ms: now_ms,
        purge_ms: now_ms.saturating_add(retention_days.saturating_mul(DAY_MS)),
    };
    let row = Resource {
        key: id.key(),
        sort_key: by_number(&id.key()),
        id: crate::write::canonical(&id, KIND),
        kind: KIND.to_ascii_lowercase(),
        internal: to_internal(&deleted),
        provisioning_state: "Succeeded".to_owned(),
        etag: new_etag(),
        changed_ms: now_ms,
        ..version.clone()
    };
    let mut changes = references(engine, &version.key, &row.key).await?;
    changes.push(Change::PutResource { resource: row, expect: Expect::Any });
    Ok(Some(changes))
}

/// The same bytes in the name of another row.
async fn references(engine: &Engine, from: &str, to: &str) -> Result<Vec<Change>, ArmError> {
    let held = engine.db().content_refs_of(from).await.map_err(db_error)?;
    Ok(held.into_iter().map(|r| Change::PutContentRef(ContentRef { resource_key: to.to_owned(), ..r })).collect())
}

/// What a PUT of a version that is not there meets.
pub(crate) async fn find(cx: Context<'_>, version: &ResourceId) -> Result<Option<Resource>, ArmError> {
    cx.engine.db().resource(&id_of(version).key()).await.map_err(db_error)
}

/// Brings a deleted version back as it was (with other tags, if the body has some); its regions are looked at again.
pub(crate) async fn restore(
    cx: Context<'_>,
    version: &ResourceId,
    deleted: Resource,
    body: &Value,
) -> Result<Plan, ArmError> {
    if deleted.provisioning_state == "Deleting" {
        return Err(crate::write::busy(&deleted));
    }
    let state: SoftDeletedInternal = internal(&deleted)?;
    if let Some(location) = body["location"].as_str().filter(|l| !l.is_empty()) {
        let here = arm_context(cx).regions.find(location).map(|r| r.name);
        if here.as_deref() != Some(deleted.location.as_str()) {
            return Err(ArmError::conflict(
                "InvalidResourceLocation",
                format!(
                    "The resource '{}' was deleted in location '{}' and can be restored only there, not in location \
                     '{location}'.",
                    version.name(),
                    deleted.location
                ),
            ));
        }
    }
    let mut restored = deleted.body.clone();
    if let Some(tags) = image_version::tags(body)? {
        restored["tags"] = tags;
    }
    let mut changes = references(cx.engine, &deleted.key, &version.key()).await?;
    changes.push(Change::DeleteContentRefs { resource_key: deleted.key.clone() });
    changes.push(Change::DeleteResource { key: deleted.key, expect: Expect::Etag(deleted.etag) });
    let start = Start { kind: "image_version.update", params: json!({}) };
    Ok(Plan { body: restored, internal: to_internal(&state.version), start: Some(start), changes })
}

/// The error when a version is made anew under the name of one that can still be restored.
pub(crate) fn name_kept(deleted: &Resource) -> ArmError {
    ArmError::conflict(
        "Conflict",
        format!(
            "The gallery image version '{}' is soft-deleted. Restore it (PUT with nothing but its location), or delete it for \
             good (DELETE {}), then retry.",
            deleted.name, deleted.id
        ),
    )
}

/// What removes all soft-deleted versions of a definition.
pub(crate) async fn purge_all(engine: &Engine, definition: &str) -> Result<Vec<Change>, ArmError> {
    let query = ResourceQuery {
        kind: Some(KIND.to_ascii_lowercase()),
        parent: Some(definition.to_owned()),
        ..ResourceQuery::default()
    };
    let purge = |row: Resource| {
        [
            Change::DeleteContentRefs { resource_key: row.key.clone() },
            Change::DeleteResource { key: row.key, expect: Expect::Etag(row.etag) },
        ]
    };
    Ok(engine.all_rows(query).await?.into_iter().flat_map(purge).collect())
}
