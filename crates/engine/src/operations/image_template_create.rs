//! Makes a template usable: its staging group, its source and rights looked at, its scripts fetched.
//!
//! ```text
//! look ─> group ─> account ─> source, rights ─> fetched/customize/0 … ─> Succeeded   (then the run, with autoRun)
//!                                    └──────────────── any refusal ─────> Failed, with provisioningError
//! ```
//! A template that failed stays to be looked at; deleting it removes what was made for it.

use crate::call::Call;
use crate::db_error;
use crate::image_builder::fetch::{FetchError, fetch};
use crate::image_builder::rights::{self, SourceFacts};
use crate::image_builder::rules::{Cause, LastRun};
use crate::image_builder::staging::{CONTAINERS, SCRIPTS, Staging, looked, own_tags, script_blob};
use crate::image_builder::{Fetched, ProvisioningError, RUN, TemplateInternal, service_call};
use crate::on_behalf;
use crate::operation::{FAILED, OpContext, OpError, Operation, Outcome};
use crate::provider::Start;
use crate::storage::{Code, Place, StorageError};
use crate::stored::{change_internal, internal};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::image_template::ImageTemplate;
use lazuli_meta::model::{Change, Resource};
use serde_json::json;
use std::collections::BTreeMap;

pub(crate) struct ImageTemplateCreate;

#[async_trait]
impl Operation for ImageTemplateCreate {
    fn kind(&self) -> &'static str {
        "image_template.create"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let template = ImageTemplate::parse(&row.body)?;
        let state: TemplateInternal = internal(&row)?;
        let call = service_call(&cx.engine, &row).await?;
        let mut work = Work { cx, row, template, staging: state.staging, call };
        let existed = cx.step("look", async { Ok(looked(&cx.engine, &work.row, &work.staging).await?) }).await?;
        work.staging.existed = existed;
        // Before anything is made: a deletion must know what was there.
        cx.update_resource(|row| change_internal::<TemplateInternal>(row, |s| s.staging.existed = existed)).await?;
        work.make_group().await?;
        let image = rights::source(&cx.engine, &work.call, &work.template, &work.row.subscription).await?;
        let facts = SourceFacts::of(&image);
        // Known even if the rest fails (recorded).
        cx.update_resource(|row| {
            change_internal::<TemplateInternal>(row, |s| s.exact_version.clone_from(&facts.exact_version));
        })
        .await?;
        let unsupported = |(code, message): (&str, String)| OpError::Failed(ArmError::bad_request(code, message));
        work.template.check_os(facts.windows).map_err(unsupported)?;
        rights::check(&cx.engine, &work.call, &work.template, &facts).await?;
        let files = work.fetch_all().await?;
        Ok(work.outcome(files))
    }

    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let error = cx.done_step(FAILED).unwrap_or_else(|| {
            json!({"code": "Canceled", "message": "The creation was canceled. Delete the template and create it again."})
        });
        let failure = ProvisioningError {
            code: rights::provisioning_code(&error).to_owned(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        };
        Ok(Outcome::update(move |row| {
            change_internal::<TemplateInternal>(row, |s| s.provisioning_error = Some(failure.clone()));
        }))
    }
}

struct Work<'a> {
    cx: &'a OpContext,
    row: Resource,
    template: ImageTemplate,
    staging: Staging,
    call: Call,
}

impl Work<'_> {
    /// The group with its storage account and containers; each is left as it is if an earlier attempt made it.
    async fn make_group(&self) -> Result<(), OpError> {
        let (cx, location) = (self.cx, &self.template.location);
        let id = self.staging.group_id()?;
        let make = async {
            let mut tags = self.template.managed_resource_tags.clone().unwrap_or_default();
            if self.staging.existed {
                let kept = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
                tags = kept.and_then(|row| row.body["tags"].as_object().cloned()).unwrap_or_default();
                tags.insert("usedBy".into(), json!(self.row.id));
            }
            tags.extend(own_tags(&self.row));
            on_behalf::put(cx, &self.call, &id, &json!({"location": location, "tags": tags})).await
        };
        cx.step("group", make).await?;
        let account = async {
            let body = json!({
                "location": location, "kind": "StorageV2", "sku": {"name": "Standard_LRS"},
                "tags": self.template.managed_resource_tags.clone().unwrap_or_default(),
                "properties": {"allowBlobPublicAccess": false, "minimumTlsVersion": "TLS1_2"},
            });
            on_behalf::put(cx, &self.call, &self.staging.account_id()?, &body).await?;
            let storage = self.staging.storage(location)?;
            for container in CONTAINERS {
                match cx.engine.storage().create_container(&storage, container, BTreeMap::new(), None).await {
                    Ok(_) => {}
                    Err(StorageError::Refused(Code::ContainerAlreadyExists)) => {}
                    Err(error) => return Err(OpError::Failed(error.into())),
                }
            }
            Ok(())
        };
        cx.step("account", account).await
    }

    async fn fetch_all(&self) -> Result<BTreeMap<String, Fetched>, OpError> {
        let remotes = self.template.remotes();
        let mut files = BTreeMap::new();
        for (done, (place, remote)) in remotes.iter().enumerate() {
            self.cx.progress(done as u64, remotes.len() as u64, "fetching scripts").await;
            let to = Place {
                account: self.staging.storage(&self.template.location)?,
                container: SCRIPTS.to_owned(),
                blob: script_blob(place, &remote.uri),
                snapshot: None,
            };
            let get = async {
                tokio::select! {
                    () = self.cx.stop.cancelled() => Err(OpError::Canceled),
                    fetched = fetch(&self.cx.engine, &self.call, remote, &to) => fetched.map_err(|e| failed(place, e)),
                }
            };
            let fetched: Fetched = self.cx.step(&format!("fetched/{place}"), get).await?;
            files.insert(place.clone(), fetched);
        }
        Ok(files)
    }

    /// With `autoRun`, the first run begins in the same moment.
    fn outcome(&self, files: BTreeMap<String, Fetched>) -> Outcome {
        let runs = self.template.auto_run == Some(true);
        let now = crate::now_ms();
        let mut outcome = Outcome::update(move |row| {
            change_internal::<TemplateInternal>(row, |s| {
                s.files.clone_from(&files);
                s.provisioning_error = None;
                if runs {
                    s.last_run = Some(LastRun::new(Cause::AutoRun, now));
                }
            });
        });
        if runs {
            let start = Start { kind: RUN, params: json!({}) };
            outcome.changes.push(Change::StartOperation(crate::write::operation_of(Some(start), &self.row, "run")));
        }
        outcome
    }
}

fn failed(place: &str, error: FetchError) -> OpError {
    match error {
        FetchError::Engine(error) => OpError::Failed(error),
        refused => {
            let code = if place.starts_with("validate") { "NoValidatorScript" } else { "NoCustomizerScript" };
            OpError::Failed(ArmError::bad_request(code, refused.to_string()))
        }
    }
}
