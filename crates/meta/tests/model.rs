//! Random commands against a plain model of the tables: the same answers, and the same rows at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lazuli_meta::model::{
    Change, Conflict, ContentRef, Expect, Grant, NewOperation, OperationQuery, OperationState, Resource, ResourceQuery,
    Write,
};
use lazuli_meta::{Db, ManualClock, WriteError};
use proptest::prelude::*;
use serde_json::{Value, json};

const LEASE_MS: i64 = 10;

#[derive(Debug, Clone)]
enum Command {
    Write(Write),
    Claim,
    Renew(String, i64),
    Release(String, i64),
    Cancel(String),
    Advance(i64),
}

#[derive(Debug, Clone, PartialEq)]
struct ModelOperation {
    state: OperationState,
    started_ms: i64,
    fence: i64,
    attempt: i64,
    lease_until_ms: Option<i64>,
    cancel: bool,
    steps: Vec<(String, Value)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    now_ms: i64,
    resources: BTreeMap<String, Resource>,
    operations: BTreeMap<String, ModelOperation>,
    refs: BTreeSet<ContentRef>,
    grants: BTreeMap<String, Grant>,
}

impl Model {
    fn write(&mut self, write: &Write) -> Result<(), Conflict> {
        // What needs a fence is looked at before anything else.
        for change in &write.changes {
            if let Change::EndOperation { id, .. } | Change::PutStep { operation: id, .. } = change
                && write.fence.as_ref().map(|(operation, _)| operation) != Some(id)
            {
                return Err(Conflict::Fenced { operation: id.clone() });
            }
        }
        let mut next = self.clone();
        if let Some((id, fence)) = &write.fence {
            next.held(id, Some(*fence))?;
        }
        for change in &write.changes {
            next.change(change)?;
        }
        *self = next;
        Ok(())
    }

    fn held(&mut self, id: &str, fence: Option<i64>) -> Result<&mut ModelOperation, Conflict> {
        match self.operations.get_mut(id) {
            Some(found) if found.state == OperationState::Running && fence.is_none_or(|fence| fence == found.fence) => {
                Ok(found)
            }
            _ => Err(Conflict::Fenced { operation: id.to_owned() }),
        }
    }

    fn expect(&self, key: &str, expect: &Expect) -> Result<(), Conflict> {
        let key = key.to_owned();
        match (expect, self.resources.get(&key)) {
            (Expect::Absent, Some(_)) => Err(Conflict::Exists { key }),
            (Expect::Present | Expect::Etag(_), None) => Err(Conflict::Missing { key }),
            (Expect::Etag(etag), Some(found)) if *etag != found.etag => Err(Conflict::Etag { key }),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: &Change) -> Result<(), Conflict> {
        match change {
            Change::PutResource { resource, expect } => {
                self.expect(&resource.key, expect)?;
                let mut resource = resource.clone();
                if let Some(old) = self.resources.get(&resource.key) {
                    resource.created_ms = old.created_ms;
                }
                self.resources.insert(resource.key.clone(), resource);
            }
            Change::DeleteResource { key, expect } => {
                self.expect(key, expect)?;
                self.resources.remove(key);
            }
            Change::RequireResource { key } => match self.resources.get(key) {
                None => return Err(Conflict::Missing { key: key.clone() }),
                Some(found) if found.provisioning_state == "Deleting" => {
                    return Err(Conflict::Deleting { key: key.clone() });
                }
                Some(_) => {}
            },
            Change::RequireNoChildren { key } => {
                let children: Vec<String> = self
                    .resources
                    .values()
                    .filter(|found| found.parent.as_ref() == Some(key))
                    .map(|found| found.id.clone())
                    .collect();
                if !children.is_empty() {
                    return Err(Conflict::HasChildren { key: key.clone(), children });
                }
            }
            Change::StartOperation(new) => {
                if self.operations.contains_key(&new.id) {
                    return Err(Conflict::Exists { key: new.id.clone() });
                }
                let started = ModelOperation {
                    state: new.state,
                    started_ms: self.now_ms,
                    fence: 0,
                    attempt: 0,
                    lease_until_ms: None,
                    cancel: false,
                    steps: vec![],
                };
                self.operations.insert(new.id.clone(), started);
            }
            Change::EndOperation { id, state, .. } => {
                let held = self.held(id, None)?;
                held.state = *state;
                held.lease_until_ms = None;
            }
            Change::PutStep { operation, step, output } => {
                // Also after an end within the same write: the fence was held when it began.
                let steps = &mut self.operations.get_mut(operation).expect("fenced").steps;
                match steps.iter_mut().find(|(name, _)| name == step) {
                    Some((_, old)) => *old = output.clone(),
                    None => steps.push((step.clone(), output.clone())),
                }
            }
            Change::PutContentRef(content) => {
                self.refs.insert(content.clone());
            }
            Change::DeleteContentRef(content) => {
                self.refs.remove(content);
            }
            Change::DeleteContentRefs { resource_key } => {
                self.refs.retain(|content| content.resource_key != *resource_key);
            }
            Change::PutGrant(grant) => {
                if self.grants.values().any(|other| other.account == grant.account && other.id != grant.id) {
                    return Err(Conflict::Exists { key: grant.account.clone() });
                }
                self.grants.insert(grant.id.clone(), grant.clone());
            }
            Change::DeleteGrant { id } => {
                self.grants.remove(id);
            }
            Change::DeleteGrantsOf { resource_key } => {
                self.grants.retain(|_, grant| grant.resource_key != *resource_key);
            }
            other => unreachable!("{other:?} is not generated"),
        }
        Ok(())
    }

    fn claim(&mut self) -> Option<(String, i64, i64)> {
        let now_ms = self.now_ms;
        let free = |found: &ModelOperation| {
            found.state == OperationState::Running && found.lease_until_ms.is_none_or(|until| until <= now_ms)
        };
        let (id, found) = self
            .operations
            .iter_mut()
            .filter(|(_, found)| free(found))
            .min_by_key(|(id, found)| (found.started_ms, (*id).clone()))?;
        found.fence += 1;
        found.attempt += 1;
        found.lease_until_ms = Some(now_ms + LEASE_MS);
        Some((id.clone(), found.fence, found.attempt))
    }
}

const KEYS: [&str; 5] = ["/a", "/a/b", "/a/b/c", "/a-b", "/é"];

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(&KEYS[..]).prop_map(str::to_owned)
}

fn operation_id() -> impl Strategy<Value = String> {
    prop::sample::select(&["o1", "o2", "o3"][..]).prop_map(str::to_owned)
}

fn etag() -> impl Strategy<Value = String> {
    prop::sample::select(&["e1", "e2"][..]).prop_map(str::to_owned)
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        2 => Just(Expect::Absent),
        2 => etag().prop_map(Expect::Etag),
        1 => Just(Expect::Present),
        2 => Just(Expect::Any),
    ]
}

fn resource() -> impl Strategy<Value = Resource> {
    let state = prop_oneof![3 => Just("Succeeded"), 1 => Just("Deleting")];
    (key(), etag(), state, any::<String>(), 0..100_i64).prop_map(|(key, etag, state, text, time)| Resource {
        id: key.to_uppercase(),
        kind: "kind".to_owned(),
        subscription: "sub".to_owned(),
        resource_group: "group".to_owned(),
        parent: key.rsplit_once('/').map(|(parent, _)| parent.to_owned()).filter(|parent| !parent.is_empty()),
        name: text.replace('\0', ""),
        location: String::new(),
        body: json!({"text": text}),
        internal: json!(time),
        provisioning_state: state.to_owned(),
        etag,
        created_ms: time,
        changed_ms: time,
        sort_key: key.clone(),
        key,
    })
}

fn content() -> impl Strategy<Value = ContentRef> {
    let region = prop::sample::select(&["eastus", "westus"][..]);
    let manifest = prop::sample::select(&["m1", "m2"][..]);
    (key(), region, manifest).prop_map(|(resource_key, region, manifest)| ContentRef {
        resource_key,
        region: region.to_owned(),
        manifest: manifest.to_owned(),
    })
}

fn grant() -> impl Strategy<Value = Grant> {
    (0..3_u8, 0..3_u8, key()).prop_map(|(id, account, resource_key)| Grant {
        id: id.to_string(),
        resource_key,
        access: "Read".to_owned(),
        account: account.to_string(),
        container: "c".to_owned(),
        secret: "s".to_owned(),
        expires_ms: 0,
        detail: json!(account),
    })
}

fn new_operation() -> impl Strategy<Value = NewOperation> {
    let state = prop_oneof![4 => Just(OperationState::Running), 1 => Just(OperationState::Succeeded)];
    (operation_id(), state).prop_map(|(id, state)| NewOperation {
        id,
        kind: "k".to_owned(),
        resource_key: "/a".to_owned(),
        subscription: "sub".to_owned(),
        location: String::new(),
        params: json!({}),
        state,
        output: None,
    })
}

fn change() -> impl Strategy<Value = Change> {
    let ended =
        prop::sample::select(&[OperationState::Succeeded, OperationState::Failed, OperationState::Canceled][..]);
    let step = prop::sample::select(&["s1", "s2"][..]);
    prop_oneof![
        6 => (resource(), expect()).prop_map(|(resource, expect)| Change::PutResource { resource, expect }),
        2 => (key(), expect().prop_filter("a deletion of what is absent", |expect| *expect != Expect::Absent))
            .prop_map(|(key, expect)| Change::DeleteResource { key, expect }),
        1 => key().prop_map(|key| Change::RequireResource { key }),
        1 => key().prop_map(|key| Change::RequireNoChildren { key }),
        2 => new_operation().prop_map(Change::StartOperation),
        1 => (operation_id(), ended)
            .prop_map(|(id, state)| Change::EndOperation { id, state, output: None, error: None }),
        2 => (operation_id(), step, any::<i32>()).prop_map(|(operation, step, output)| Change::PutStep {
            operation,
            step: step.to_owned(),
            output: json!(output),
        }),
        2 => content().prop_map(Change::PutContentRef),
        1 => content().prop_map(Change::DeleteContentRef),
        1 => key().prop_map(|resource_key| Change::DeleteContentRefs { resource_key }),
        2 => grant().prop_map(Change::PutGrant),
        1 => (0..3_u8).prop_map(|id| Change::DeleteGrant { id: id.to_string() }),
        1 => key().prop_map(|resource_key| Change::DeleteGrantsOf { resource_key }),
    ]
}

/// Changes of operations get the fence of one of them in most cases; else they would nearly always be refused.
fn write() -> impl Strategy<Value = Write> {
    let fence = prop::option::weighted(0.4, (operation_id(), 0..3_i64));
    let matching = prop::bool::weighted(0.8);
    (fence, matching, prop::collection::vec(change(), 0..4)).prop_map(|(mut fence, matching, changes)| {
        let named = changes.iter().find_map(|change| match change {
            Change::EndOperation { id, .. } | Change::PutStep { operation: id, .. } => Some(id.clone()),
            _ => None,
        });
        if let (true, Some(named)) = (matching, named) {
            fence = Some((named, fence.map_or(1, |(_, fence)| fence)));
        }
        Write { fence, changes }
    })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        10 => write().prop_map(Command::Write),
        3 => Just(Command::Claim),
        1 => (operation_id(), 0..4_i64).prop_map(|(id, fence)| Command::Renew(id, fence)),
        1 => (operation_id(), 0..4_i64).prop_map(|(id, fence)| Command::Release(id, fence)),
        1 => operation_id().prop_map(Command::Cancel),
        2 => (1..12_i64).prop_map(Command::Advance),
    ]
}

/// Does one command on both sides and compares the answers.
async fn step(db: &Db, clock: &ManualClock, model: &mut Model, command: Command) {
    let lease = Duration::from_millis(LEASE_MS.unsigned_abs());
    match command {
        Command::Write(write) => {
            let expected = model.write(&write);
            match db.write(write.clone()).await {
                Ok(()) => assert_eq!(expected, Ok(()), "{write:?}"),
                Err(WriteError::Conflict(conflict)) => assert_eq!(expected, Err(conflict), "{write:?}"),
                Err(error) => panic!("{error:?}"),
            }
        }
        Command::Claim => {
            let claimed = db.claim("w", None, lease).await.unwrap();
            assert_eq!(claimed.map(|found| (found.id, found.fence, found.attempt)), model.claim());
        }
        Command::Renew(id, fence) => {
            let until = model.now_ms + LEASE_MS;
            let expected = model.held(&id, Some(fence)).map(|held| held.lease_until_ms = Some(until)).is_ok();
            assert_eq!(db.renew(&id, fence, lease).await.unwrap(), expected);
        }
        Command::Release(id, fence) => {
            let release = |held: &mut ModelOperation| {
                held.lease_until_ms = None;
                held.fence += 1;
            };
            let expected = model.held(&id, Some(fence)).map(release).is_ok();
            assert_eq!(db.release(&id, fence).await.unwrap(), expected);
        }
        Command::Cancel(id) => {
            let expected = model.held(&id, None).map(|held| held.cancel = true).is_ok();
            assert_eq!(db.request_cancel(&id).await.unwrap(), expected);
        }
        Command::Advance(by) => {
            model.now_ms += by;
            clock.advance(Duration::from_millis(by.unsigned_abs()));
        }
    }
}

/// Everything that is stored.
async fn stored(db: &Db, now_ms: i64) -> Model {
    let resources = db.resources(&ResourceQuery::default()).await.unwrap();
    let mut operations = BTreeMap::new();
    for found in db.operations(&OperationQuery::default()).await.unwrap() {
        let steps = db.steps(&found.id).await.unwrap();
        let operation = ModelOperation {
            state: found.state,
            started_ms: found.started_ms,
            fence: found.fence,
            attempt: found.attempt,
            lease_until_ms: found.lease_until_ms,
            cancel: found.cancel_requested,
            steps,
        };
        operations.insert(found.id, operation);
    }
    let mut refs = BTreeSet::new();
    for region in ["eastus", "westus"] {
        refs.extend(db.content_refs(region).await.unwrap());
    }
    let grants = db.expired_grants(i64::MAX).await.unwrap();
    Model {
        now_ms,
        resources: resources.into_iter().map(|found| (found.key.clone(), found)).collect(),
        operations,
        refs,
        grants: grants.into_iter().map(|grant| (grant.id.clone(), grant)).collect(),
    }
}

/// Lists agree with the model's idea of order.
async fn check_lists(db: &Db, model: &Model) {
    let all = db.resources(&ResourceQuery::default()).await.unwrap();
    assert!(all.iter().map(|found| &found.key).eq(model.resources.keys()));
    for key in KEYS {
        let query = ResourceQuery { under: Some(key.to_owned()), ..ResourceQuery::default() };
        let below = db.resources(&query).await.unwrap();
        let prefix = format!("{key}/");
        assert!(below.iter().map(|found| &found.key).eq(model.resources.keys().filter(|k| k.starts_with(&prefix))));
        let query = ResourceQuery { after: Some(key.to_owned()), limit: Some(2), ..ResourceQuery::default() };
        let after = db.resources(&query).await.unwrap();
        let expected = model.resources.keys().filter(|other| other.as_str() > key).take(2);
        assert!(after.iter().map(|found| &found.key).eq(expected));
        let query = ResourceQuery { descending: true, ..query };
        let before = db.resources(&query).await.unwrap();
        let expected = model.resources.keys().rev().filter(|other| other.as_str() < key).take(2);
        assert!(before.iter().map(|found| &found.key).eq(expected));
        let children = db.children(key, 1000).await.unwrap();
        let expected = model.resources.values().filter(|found| found.parent.as_deref() == Some(key));
        assert!(children.iter().eq(expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_answers_as_the_model_does(commands in prop::collection::vec(command(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let directory = tempfile::tempdir().unwrap();
            let clock = ManualClock::default();
            let url = format!("sqlite:{}", directory.path().join("meta.db").display());
            let db = Db::open(&url).await.unwrap().with_clock(clock.clock());
            let mut model = Model::default();
            for command in commands {
                step(&db, &clock, &mut model, command).await;
            }
            assert_eq!(stored(&db, model.now_ms).await, model);
            check_lists(&db, &model).await;
            db.close().await;
        });
    }
}
