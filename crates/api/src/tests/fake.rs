//! A small product in memory: resources with etags, operations that end after a given number of polls.

use crate::backend::ArmBackend;
use async_trait::async_trait;
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_engine::call::{ActionReply, Call, Caller, Deleted, Listing, OperationView, ProviderInfo, Written};
use lazuli_engine::{ClientProof, SignInError, Subscription, Tenant};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

pub const TENANT: &str = "11111111-1111-1111-1111-111111111111";
pub const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
pub const CLIENT: &str = "22222222-2222-2222-2222-222222222222";
pub const OBJECT: &str = "33333333-3333-3333-3333-333333333333";
pub const SECRET: &str = "top+secret&=%";

#[derive(Default)]
pub struct Fake {
    state: Mutex<State>,
    /// The principal was deleted.
    pub gone: AtomicBool,
    /// A PUT with `properties.wait` says that it has begun, waits to be released, and says when it is done.
    pub begun: Notify,
    pub release: Notify,
    pub done: Notify,
    pub log: Mutex<Log>,
}

/// What the view `logStream` of every resource tells, and how often it was asked for.
#[derive(Default)]
pub struct Log {
    pub text: String,
    pub ended: bool,
    pub refused: Option<ArmError>,
    pub asked: usize,
}

pub const RUN: &str = "44444444-4444-4444-4444-444444444444";
/// In one answer.
pub const PIECE: usize = 64 << 10;

#[derive(Default)]
struct State {
    resources: BTreeMap<String, Value>,
    operations: BTreeMap<String, Operation>,
    writes: u32,
    last_call: Option<Call>,
}

struct Operation {
    polls_left: u32,
    kind: String,
    resource: Option<Value>,
    output: Option<Value>,
    error: Option<Value>,
}

impl Fake {
    pub fn last_call(&self) -> Call {
        self.state.lock().unwrap().last_call.clone().expect("a call")
    }
}

impl Log {
    fn piece(&mut self, call: &Call) -> Result<Value, ArmError> {
        self.asked += 1;
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        let of_run = call.query.get("run").is_none_or(|run| run == RUN);
        assert!(of_run, "{:?}", call.query);
        let from: usize = call.query.get("offset").map_or(0, |offset| offset.parse().unwrap());
        let next = self.text.len().min(from + PIECE);
        let text = &self.text[from.min(next)..next];
        Ok(json!({"run": RUN, "offset": next, "text": text, "ended": self.ended && next == self.text.len()}))
    }
}

fn caller() -> Caller {
    Caller {
        tenant: TENANT.into(),
        principal: OBJECT.into(),
        app_id: CLIENT.into(),
        display_name: "owner".into(),
        ..Caller::default()
    }
}

fn absent(id: &ResourceId) -> ArmError {
    match &id.resource_group {
        Some(group) if id.is_group() => ArmError::group_not_found(group),
        group => {
            let path = format!("{}/{}", id.resource_type(), id.name());
            ArmError::resource_not_found(&path, group.as_deref().unwrap_or_default())
        }
    }
}

impl State {
    fn start(
        &mut self,
        id: &ResourceId,
        resource: Option<Value>,
        output: Option<Value>,
        error: Option<Value>,
    ) -> String {
        self.writes += 1;
        let operation = format!("op-{}", self.writes);
        let kind = id.resource_type().key();
        self.operations.insert(operation.clone(), Operation { polls_left: 1, kind, resource, output, error });
        operation
    }

    fn write(&mut self, call: &Call, id: &ResourceId, mut body: Value) -> Result<Written, ArmError> {
        self.last_call = Some(call.clone());
        let key = id.key();
        if body["properties"]["panic"].is_boolean() {
            panic!("as asked");
        }
        let old = self.resources.get(&key);
        if let (Some(wanted), Some(old)) = (&call.if_match, old)
            && wanted != "*"
            && old["etag"] != json!(wanted)
        {
            return Err(ArmError::new(412, "PreconditionFailed", "The resource was changed meanwhile."));
        }
        let created = old.is_none();
        let etag = format!("etag-{}", self.writes);
        body["id"] = json!(id.to_string());
        body["name"] = json!(id.name());
        body["type"] = json!(id.resource_type().to_string());
        body["etag"] = json!(etag);
        let fails = body["properties"]["fail"].is_boolean();
        body["properties"]["provisioningState"] = json!("Succeeded");
        self.resources.insert(key, body.clone());
        let error = fails.then(|| json!({"code": "ImageBroken", "message": "The image cannot be read."}));
        let operation = (!id.is_group()).then(|| self.start(id, Some(body.clone()), None, error));
        let mut shown = body;
        shown["properties"]["provisioningState"] = json!(if created { "Creating" } else { "Updating" });
        Ok(Written { resource: shown, created, operation, etag })
    }
}

#[async_trait]
impl ArmBackend for Fake {
    async fn put(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError> {
        let waits = body["properties"]["wait"].is_boolean();
        if waits {
            self.begun.notify_one();
            self.release.notified().await;
        }
        let written = self.state.lock().unwrap_or_else(|e| e.into_inner()).write(call, id, body);
        if waits {
            self.done.notify_one();
        }
        written
    }

    async fn patch(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError> {
        let mut state = self.state.lock().unwrap();
        let mut merged = state.resources.get(&id.key()).cloned().ok_or_else(|| absent(id))?;
        for (name, value) in body.as_object().into_iter().flatten() {
            merged[name] = value.clone();
        }
        state.write(call, id, merged)
    }

    async fn delete(&self, _: &Call, id: &ResourceId) -> Result<Deleted, ArmError> {
        let mut state = self.state.lock().unwrap();
        if state.resources.remove(&id.key()).is_none() {
            return Ok(Deleted::Absent);
        }
        let operation = state.start(id, None, None, None);
        Ok(Deleted::Started { operation })
    }

    async fn get(&self, _: &Call, id: &ResourceId) -> Result<(Value, String), ArmError> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let value = state.resources.get(&id.key()).cloned().ok_or_else(|| absent(id))?;
        let etag = value["etag"].as_str().unwrap_or_default().to_owned();
        Ok((value, etag))
    }

    async fn view(&self, call: &Call, id: &ResourceId, name: &str) -> Result<Option<Value>, ArmError> {
        if name == "logStream" {
            return self.log.lock().unwrap().piece(call).map(Some);
        }
        Ok((name == "instanceView").then(|| json!({"of": id.name()})))
    }

    async fn list(&self, call: &Call, parent: &ResourceId, collection: &ResourceType) -> Result<Listing, ArmError> {
        let state = self.state.lock().unwrap();
        let wanted = collection.key();
        let below = parent.key();
        let all = state.resources.iter().filter(|(key, value)| {
            key.starts_with(&below)
                && (wanted == "microsoft.resources/resources"
                    || value["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(&wanted)))
        });
        // Pages of two.
        let from: usize = call.query.get("$skiptoken").map_or(0, |t| t.parse().unwrap());
        let items: Vec<Value> = all.map(|(_, v)| v.clone()).skip(from).collect();
        let next = (items.len() > 2).then(|| (from + 2).to_string());
        Ok(Listing { items: items.into_iter().take(2).collect(), next })
    }

    async fn action(&self, _: &Call, id: &ResourceId, action: &str, _: Value) -> Result<ActionReply, ArmError> {
        match action {
            "beginGetAccess" => {
                let output = json!({"accessSAS": "https://md-1.z01.blob.storage.azure.net/c/abcd?sig=x"});
                let operation = self.state.lock().unwrap().start(id, None, Some(output), None);
                Ok(ActionReply::Started { operation })
            }
            "generalize" | "cancel" => Ok(ActionReply::Done(None)),
            "Microsoft.Storage/checkNameAvailability" => Ok(ActionReply::Done(Some(json!({"nameAvailable": true})))),
            "deallocate" => {
                Ok(ActionReply::Started { operation: self.state.lock().unwrap().start(id, None, None, None) })
            }
            other => Err(ArmError::bad_request("InvalidAction", format!("no action {other}"))),
        }
    }

    async fn operation(&self, _: &Call, _: &str, id: &str) -> Result<OperationView, ArmError> {
        let mut state = self.state.lock().unwrap();
        let missing = || ArmError::new(404, "OperationNotFound", "There is no such operation.");
        let operation = state.operations.get_mut(id).ok_or_else(missing)?;
        let running = operation.polls_left > 0;
        operation.polls_left = operation.polls_left.saturating_sub(1);
        let status = match (running, &operation.error) {
            (true, _) => "InProgress",
            (false, None) => "Succeeded",
            (false, Some(_)) => "Failed",
        };
        Ok(OperationView {
            id: id.to_owned(),
            status,
            start: "2026-01-01T00:00:00Z".into(),
            end: (!running).then(|| "2026-01-01T00:00:05Z".into()),
            percent: None,
            error: operation.error.clone().filter(|_| !running),
            output: operation.output.clone().filter(|_| !running),
            resource: operation.resource.clone().filter(|_| !running),
            resource_kind: operation.kind.clone(),
            operation_kind: "fake".into(),
        })
    }

    async fn resource_graph(&self, _: &Call, body: &Value) -> Result<Value, ArmError> {
        Ok(json!({"asked": body["query"]}))
    }

    fn providers(&self) -> Vec<ProviderInfo> {
        vec![ProviderInfo {
            namespace: "Microsoft.Compute".into(),
            types: vec!["disks".into(), "galleries/images".into()],
        }]
    }

    async fn tenants(&self, _: &Caller) -> Result<Vec<Tenant>, ArmError> {
        Ok(vec![Tenant { id: TENANT.into(), display_name: "Home".into() }])
    }

    async fn subscriptions(&self, _: &Caller) -> Result<Vec<Subscription>, ArmError> {
        let (id, tenant) = (SUBSCRIPTION.to_owned(), TENANT.to_owned());
        Ok(vec![Subscription { id, tenant, display_name: "First".into(), state: "Enabled".into() }])
    }

    async fn has_tenant(&self, tenant: &str) -> Result<bool, ArmError> {
        Ok(tenant == TENANT)
    }

    async fn sign_in_client(
        &self,
        tenant: &str,
        client_id: &str,
        proof: ClientProof<'_>,
    ) -> Result<Caller, SignInError> {
        let right = matches!(proof, ClientProof::Secret(secret) if secret == SECRET);
        match (tenant == TENANT, client_id == CLIENT, right) {
            (false, _, _) => Err(SignInError::UnknownTenant(tenant.into())),
            (_, false, _) => Err(SignInError::UnknownClient(client_id.into())),
            (_, _, false) => Err(SignInError::WrongSecret),
            _ => Ok(caller()),
        }
    }

    async fn caller(
        &self,
        tenant: &str,
        object_id: &str,
        _reads: Option<&ResourceId>,
    ) -> Result<Option<Caller>, ArmError> {
        let known = tenant == TENANT && object_id == OBJECT && !self.gone.load(Ordering::Relaxed);
        Ok(known.then(caller))
    }
}
