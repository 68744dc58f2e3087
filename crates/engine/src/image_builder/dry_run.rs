//! A dry run of a template (Lazuli's own; the wish of many, and not in Azure): everything that its creation and its run would look at,
//! each told, nothing made.
//!
//! ```text
//! {"status": "Succeeded" | "Failed", "checks": [{"name", "status", "message", "code"?}, …]}
//! ```
//! It goes on after a failure as far as it can, so that one look shows all that is wrong.

use super::fetch::{probe, shown};
use super::quota;
use super::rights::{self, SourceFacts};
use super::staging::{Staging, looked};
use super::{KIND, TemplateInternal, service_call};
use crate::call::Call;
use crate::provider::Context;
use crate::providers::arm_context;
use crate::providers::image_template::{check_group, identity_changes};
use crate::providers::virtual_machine::ImageSource;
use crate::shared_galleries::VERSIONS;
use crate::stored::{internal, to_internal};
use crate::{Engine, db_error};
use lazuli_arm::bodies::image_template::{self as body, Distributor, ImageTemplate, Target, Versioning, next_version};
use lazuli_arm::bodies::image_version::{VersionName, parse_name};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Value, json};
use uuid::Uuid;

#[derive(Default)]
struct Report {
    checks: Vec<Value>,
    failed: bool,
}

impl Report {
    fn passed(&mut self, name: &str, message: impl Into<String>) {
        self.checks.push(json!({"name": name, "status": "Succeeded", "message": message.into()}));
    }

    fn failed(&mut self, name: &str, code: &str, message: impl Into<String>) {
        self.failed = true;
        self.checks.push(json!({"name": name, "status": "Failed", "code": code, "message": message.into()}));
    }

    /// An error of the server's own is none of the template.
    fn take<T>(&mut self, name: &str, result: Result<T, ArmError>) -> Result<Option<T>, ArmError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.status >= 500 => Err(error),
            Err(error) => {
                self.failed(name, &error.code, error.message);
                Ok(None)
            }
        }
    }

    fn into_value(self) -> Value {
        json!({"status": if self.failed { "Failed" } else { "Succeeded" }, "checks": self.checks})
    }
}

/// `given`: a template's body; null: the template that is there.
///
/// # Errors
/// 404 where neither is; what the database says.
pub(crate) async fn dry_run(cx: Context<'_>, id: &ResourceId, given: &Value) -> Result<Value, ArmError> {
    let mut report = Report::default();
    let stored = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    let body = match (given.is_null(), &stored) {
        (true, Some(row)) => row.body.clone(),
        (true, None) => return Err(crate::write::not_found(KIND, id)),
        (false, _) => match report.take("template", body::put(id, given, &arm_context(cx)))? {
            Some(body) => body,
            None => return Ok(report.into_value()),
        },
    };
    let template = ImageTemplate::parse(&body)?;
    report.passed("template", "The body is in order.");
    let row = row_of(cx, id, body);
    if report.take("identity", identity_changes(cx, &template, stored.as_ref()).await)?.is_some() {
        report.passed("identity", "It is there, and you may assign it.");
    }
    staging(cx, &mut report, &template, &row, stored.as_ref()).await?;
    let call = service_call(cx.engine, &row).await?;
    if let Some((image, facts)) = source(cx.engine, &mut report, &call, &template, &row).await? {
        if let Some(said) = report.take("quota/machine", quota::machine(cx.engine, &template, &image).await)? {
            report.passed("quota/machine", said);
        }
        if let Some(said) = report.take("quota/disk", quota::disk(cx.engine, &template, &image))? {
            report.passed("quota/disk", said);
        }
        for distributor in &template.distribute {
            distribute(cx.engine, &mut report, &call, distributor, &facts).await?;
        }
    }
    if report.take("vmProfile", rights::machines(cx.engine, &call, &template).await)?.is_some() {
        report.passed("vmProfile", "The network and the identities of the machines can be used.");
    }
    for (place, remote) in template.remotes() {
        let (name, url) = (format!("files/{place}"), shown(&remote.uri));
        match probe(cx.engine, &call, remote).await {
            Ok((sha256, bytes)) => report.passed(&name, format!("'{url}' has {bytes} bytes, SHA-256 {sha256}.")),
            Err(error) => report.failed(&name, "NoScript", error.to_string()),
        }
    }
    Ok(report.into_value())
}

/// What the template's row would be, for who acts for it.
fn row_of(cx: Context<'_>, id: &ResourceId, body: Value) -> Resource {
    let state = TemplateInternal {
        arm: cx.call.urls.arm.clone(),
        blob_suffix: cx.call.urls.blob_suffix.clone(),
        ..TemplateInternal::default()
    };
    Resource {
        key: id.key(),
        sort_key: id.key(),
        id: crate::write::canonical(id, KIND),
        kind: KIND.to_ascii_lowercase(),
        subscription: id.subscription.to_ascii_lowercase(),
        resource_group: id.resource_group.as_deref().unwrap_or_default().to_ascii_lowercase(),
        parent: None,
        name: id.name().to_owned(),
        location: body["location"].as_str().unwrap_or_default().to_owned(),
        body,
        internal: to_internal(&state),
        provisioning_state: "Creating".into(),
        etag: String::new(),
        created_ms: cx.now_ms,
        changed_ms: cx.now_ms,
    }
}

/// The group that the template names for its machines and files, if it does.
async fn staging(
    cx: Context<'_>,
    report: &mut Report,
    template: &ImageTemplate,
    row: &Resource,
    stored: Option<&Resource>,
) -> Result<(), ArmError> {
    let Some(named) = template.staging_resource_group.as_deref() else { return Ok(()) };
    let name = "stagingResourceGroup";
    let of_stored = stored.map(internal::<TemplateInternal>).transpose()?.map(|state| state.staging.group);
    if of_stored.is_some_and(|own| own.eq_ignore_ascii_case(named)) {
        report.passed(name, "It is the template's own.");
        return Ok(());
    }
    let id: ResourceId = row.id.parse().map_err(ArmError::internal)?;
    let chosen = Staging::new(&id, Some(named), Uuid::nil());
    let looked = async {
        check_group(cx, &chosen).await?;
        looked(cx.engine, row, &chosen).await
    };
    match report.take(name, looked.await)? {
        Some(true) => report.passed(name, "It is empty, in the template's region and nobody else's."),
        Some(false) => report.passed(name, "It would be made."),
        None => {}
    }
    Ok(())
}

async fn source(
    engine: &Engine,
    report: &mut Report,
    call: &Call,
    template: &ImageTemplate,
    row: &Resource,
) -> Result<Option<(ImageSource, SourceFacts)>, ArmError> {
    let Some(image) = report.take("source", rights::source(engine, call, template, &row.subscription).await)? else {
        return Ok(None);
    };
    let facts = SourceFacts::of(&image);
    report.passed("source", format!("It is '{}' now.", facts.exact_version.as_deref().unwrap_or(&image.shown_id)));
    match template.check_os(facts.windows) {
        Ok(()) => report.passed("steps", "The source supports all of them."),
        Err((code, message)) => report.failed("steps", code, message),
    }
    Ok(Some((image, facts)))
}

async fn distribute(
    engine: &Engine,
    report: &mut Report,
    call: &Call,
    distributor: &Distributor,
    facts: &SourceFacts,
) -> Result<(), ArmError> {
    let name = format!("distribute/{}", distributor.run_output_name);
    let checked = rights::target(engine, call, &distributor.target, facts).await;
    if report.take(&name, checked)?.is_none() {
        return Ok(());
    }
    match number(engine, &distributor.target, facts).await? {
        None => report.passed(&name, "It can be written."),
        Some(Ok(number)) => report.passed(&name, format!("Version {number} would be published.")),
        Some(Err(why)) => report.failed(&name, "BadSharedImageDistribute", why),
    }
    Ok(())
}

/// The version that a run would publish now, or why there is none.
async fn number(
    engine: &Engine,
    target: &Target,
    facts: &SourceFacts,
) -> Result<Option<Result<String, String>>, ArmError> {
    let Target::Gallery { definition, version, versioning, .. } = target else { return Ok(None) };
    let query = ResourceQuery {
        kind: Some(VERSIONS.to_owned()),
        under: Some(definition.to_ascii_lowercase()),
        ..ResourceQuery::default()
    };
    let existing: Vec<VersionName> =
        engine.all_rows(query).await?.iter().filter_map(|row| parse_name(&row.name)).collect();
    if let Some(named) = version {
        let taken = parse_name(named).is_some_and(|n| existing.contains(&n));
        return Ok(Some(if taken { Err(format!("Version {named} exists already.")) } else { Ok(named.clone()) }));
    }
    let scheme = versioning.unwrap_or(Versioning::Latest { major: None });
    let source = facts.exact_version.as_deref().and_then(|v| parse_name(v.rsplit('/').next().unwrap_or(v)));
    let none =
        || "The versioning scheme gives no number: the source has none of the form Major.Minor.Patch.".to_owned();
    Ok(Some(next_version(&existing, scheme, source).map(|n| n.to_string()).ok_or_else(none)))
}
