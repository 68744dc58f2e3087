//! Brings a scale set's machines to what its model says: as many as it asks for, of what it is made of.
//!
//! ```text
//! Scale    fewer than the capacity: new machines, side by side ─ more: the newest go ─ then upgrades, as the policy says
//! Delete   these go, and the capacity with them
//! Upgrade  one after the other: a machine that is not of the model as it is now goes and comes again, under its name; if only
//!          its extensions and applications are not, they are put
//! Roll     the same in batches, under the set's rolling upgrade policy (`virtual_machine_scale_set/rolling.rs`)
//! Reimage  each goes and comes again, of the image and the size that it has
//! Power    start, powerOff, restart or deallocate each
//! Remove   all go, then the set
//! ```
//! A machine takes a public address and interfaces along, which are made before it and removed with it. All of them are ordinary
//! resources, written under the rights of whoever asked; what failed stays for them to look at.

mod rolling;

use crate::call::Call;
use crate::deployments::Who;
use crate::on_behalf;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine_scale_set::rolling::Code;
use crate::providers::virtual_machine_scale_set::{Model, ScaleSetInternal, members, number, outdated};
use crate::stored::{change_internal, internal};
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use lazuli_arm::bodies::virtual_machine_scale_set::{self as body, Member, Upgrades};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Machines that are worked on at the same time.
const SIDE_BY_SIDE: usize = 8;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Params {
    pub who: Who,
    pub work: Work,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    Scale,
    Delete {
        machines: Vec<String>,
    },
    Upgrade {
        machines: Vec<String>,
    },
    Reimage {
        machines: Vec<String>,
    },
    Power {
        machines: Vec<String>,
        action: String,
    },
    /// A rolling upgrade that somebody asked for.
    Roll {
        what: What,
    },
    /// Ends when the rolling upgrade that runs has.
    CancelRolling,
    Remove,
}

/// What an upgrade changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Machines,
    /// And applications, of machines that stay.
    Extensions,
}

impl Work {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scale => "virtual_machine_scale_set.scale",
            Self::Delete { .. } => "virtual_machine_scale_set.delete_instances",
            Self::Upgrade { .. } => "virtual_machine_scale_set.upgrade",
            Self::Reimage { .. } => "virtual_machine_scale_set.reimage",
            Self::Power { .. } => "virtual_machine_scale_set.power",
            Self::Roll { .. } => "virtual_machine_scale_set.roll",
            Self::CancelRolling => "virtual_machine_scale_set.cancel_rolling",
            Self::Remove => "virtual_machine_scale_set.delete",
        }
    }
}

/// All of [`Work`], each under its kind.
pub(crate) struct VirtualMachineScaleSet(pub &'static str);

#[async_trait]
impl Operation for VirtualMachineScaleSet {
    fn kind(&self) -> &'static str {
        self.0
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let Params { who, work } = cx.params()?;
        let row = cx.resource().await?;
        let set = Set { cx, call: who.call("")?, id: row.id.parse().map_err(ArmError::internal)?, row };
        match work {
            Work::Scale => {
                set.scale().await?;
                set.upgrade_by_policy().await?;
            }
            Work::Delete { machines } => set.remove(&machines).await?,
            Work::Upgrade { machines } => set.upgrade(&machines, 1).await?,
            Work::Reimage { machines } => set.reimage(&machines).await?,
            Work::Roll { what } => set.roll_what(what).await?,
            Work::CancelRolling => {
                set.rolling_ended().await?;
                return Ok(Outcome::default());
            }
            Work::Power { machines, action } => set.power(&machines, &action).await?,
            Work::Remove => {
                let all: Vec<String> = members(&cx.engine, &set.row).await?.into_iter().map(|m| m.name).collect();
                set.remove(&all).await?;
                return Ok(Outcome::deleted());
            }
        }
        let now = members(&cx.engine, &set.row).await?;
        let (count, next) = (now.len(), set.next(&now)?);
        Ok(Outcome::update(move |row| {
            body::set_capacity(&mut row.body, count);
            change_internal(row, |state: &mut ScaleSetInternal| state.next = state.next.max(next));
        }))
    }

    /// What was made or changed stays; a rolling upgrade that did not come to its end is shown as such.
    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let error = cx.done_step(crate::operation::FAILED).unwrap_or_default();
        let code = if error.is_null() { Code::Cancelled } else { Code::Faulted };
        Ok(Outcome::update(move |row| {
            change_internal(row, |state: &mut ScaleSetInternal| {
                if let Some(upgrade) = state.rolling.as_mut().filter(|upgrade| upgrade.runs()) {
                    upgrade.end(code, error.clone());
                }
            });
        }))
    }
}

struct Set<'a> {
    cx: &'a OpContext,
    call: Call,
    id: ResourceId,
    row: Resource,
}

/// A machine to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct New {
    suffix: String,
    index: usize,
}

impl Set<'_> {
    async fn scale(&self) -> Result<(), OpError> {
        let wanted = body::capacity(&self.row.body);
        let now = members(&self.cx.engine, &self.row).await?;
        // Decided once: a second attempt makes the same machines.
        let missing: Vec<New> = self
            .cx
            .step("plan", async {
                let mut numbers = self.next(&now)?..;
                let mut suffix = || match body::is_uniform(&self.row.body) {
                    true => numbers.next().unwrap_or_default().to_string(),
                    false => random_suffix(),
                };
                Ok((now.len()..wanted).map(|index| New { suffix: suffix(), index }).collect::<Vec<_>>())
            })
            .await?;
        if missing.is_empty() {
            let names: Vec<String> = now.into_iter().map(|m| m.name).collect();
            return self.remove(&names[wanted.min(names.len())..]).await;
        }
        let model = self.model()?;
        let making = missing.iter().map(|new| {
            let body = &model.body;
            async move { self.cx.step(&format!("made/{}", new.suffix), self.make(body, new)).await }.boxed()
        });
        self.side_by_side(making.collect(), "making machines").await
    }

    fn model(&self) -> Result<Model, OpError> {
        Ok(Model::of(&self.cx.engine, &self.row)?)
    }

    /// The number of the next machine of a Uniform set.
    fn next(&self, now: &[Resource]) -> Result<u64, OpError> {
        let state: ScaleSetInternal = internal(&self.row)?;
        let above = now.iter().filter_map(|m| number(&self.row.name, &m.name)).max().map_or(0, |n| n + 1);
        Ok(state.next.max(above))
    }

    /// All are tried; the first failure is told.
    async fn side_by_side(&self, work: Vec<BoxFuture<'_, Result<(), OpError>>>, phase: &str) -> Result<(), OpError> {
        let (mut done, all) = (0, work.len() as u64);
        let mut first = Ok(());
        let mut running = stream::iter(work).buffer_unordered(SIDE_BY_SIDE);
        while let Some(ended) = running.next().await {
            done += 1;
            self.cx.progress(done, all, phase).await;
            first = first.and(ended);
        }
        first
    }

    /// Addresses, interfaces, the machine itself and its extensions. Each is a PUT: what an earlier attempt made stays as it is.
    async fn make(&self, set: &Value, new: &New) -> Result<(), OpError> {
        let shown = self.row.id.clone();
        let member = Member { set: &shown, suffix: &new.suffix, index: new.index };
        let mut nics = Vec::new();
        for nic in body::interfaces(set) {
            let address = match (body::public_address_name(set, &nic, member), body::public_address_body(set, &nic)) {
                (Some(name), Some(address)) => {
                    let id = self.network("publicIPAddresses", &name);
                    on_behalf::put(self.cx, &self.call, &id, &address).await?;
                    Some(id.to_string())
                }
                _ => None,
            };
            let id = self.network("networkInterfaces", &body::interface_name(set, &nic, member));
            let interface = body::interface_body(set, &nic, address.as_deref());
            on_behalf::put(self.cx, &self.call, &id, &interface).await?;
            nics.push(id.to_string());
        }
        let machine = self.machine(&body::machine_name(self.id.name(), &new.suffix));
        on_behalf::put(self.cx, &self.call, &machine, &body::machine_body(set, member, &nics)).await?;
        self.put_extensions(set, &machine).await
    }

    /// In their order: one that fails keeps those behind it away.
    async fn put_extensions(&self, set: &Value, machine: &ResourceId) -> Result<(), OpError> {
        for extension in body::extensions(set) {
            let id = machine.child("extensions", extension["name"].as_str().unwrap_or_default());
            on_behalf::put(self.cx, &self.call, &id, &body::extension_body(set, extension)).await?;
        }
        Ok(())
    }

    async fn remove(&self, machines: &[String]) -> Result<(), OpError> {
        let removing = machines.iter().map(|name| self.remove_one(name).boxed());
        self.side_by_side(removing.collect(), "removing machines").await
    }

    /// Disks and interfaces go with the machine (`deleteOption`), public addresses after it.
    async fn remove_one(&self, name: &str) -> Result<(), OpError> {
        on_behalf::delete(self.cx, &self.call, &self.machine(name)).await?;
        let Some(suffix) = self.suffix_of(name) else { return Ok(()) };
        let member = Member { set: &self.row.id, suffix, index: 0 };
        for nic in body::interfaces(&self.row.body) {
            // Of a machine that was never made.
            let id = self.network("networkInterfaces", &body::interface_name(&self.row.body, &nic, member));
            on_behalf::delete(self.cx, &self.call, &id).await?;
            if let Some(address) = body::public_address_name(&self.row.body, &nic, member) {
                on_behalf::delete(self.cx, &self.call, &self.network("publicIPAddresses", &address)).await?;
            }
        }
        Ok(())
    }

    /// What is not of the model as it is now, where that is not left to somebody's asking.
    async fn upgrade_by_policy(&self) -> Result<(), OpError> {
        match body::upgrades(&self.row.body) {
            Upgrades::Manual => Ok(()),
            Upgrades::Automatic => {
                let model = self.model()?;
                let old: Vec<String> = self
                    .cx
                    .step("outdated", async {
                        let mut old = Vec::new();
                        for machine in members(&self.cx.engine, &self.row).await? {
                            if outdated(&self.cx.engine, &model, &machine).await?.is_some() {
                                old.push(machine.name);
                            }
                        }
                        Ok(old)
                    })
                    .await?;
                self.upgrade(&old, SIDE_BY_SIDE).await
            }
            Upgrades::Rolling => self.roll_by_policy().await,
        }
    }

    /// Brings machines to the model, so many of them at a time.
    async fn upgrade(&self, machines: &[String], batch: usize) -> Result<(), OpError> {
        let model = self.model()?;
        for (n, names) in machines.chunks(batch.max(1)).enumerate() {
            let work = names.iter().enumerate().map(|(i, name)| {
                let model = &model;
                async move { self.bring(name, n * batch + i, model, None).await }.boxed()
            });
            self.side_by_side(work.collect(), "upgrading machines").await?;
        }
        Ok(())
    }

    /// Brings a machine to the model. `what`: known already, and decided once.
    async fn bring(&self, name: &str, index: usize, model: &Model, what: Option<What>) -> Result<(), OpError> {
        let machine = self.machine(name);
        let what: Option<What> = self
            .cx
            .step(&format!("outdated/{name}"), async {
                if what.is_some() {
                    return Ok(what);
                }
                match self.cx.engine.db().resource(&machine.key()).await.map_err(crate::db_error)? {
                    Some(row) if row.provisioning_state == "Failed" => Ok(Some(What::Machines)),
                    Some(row) => Ok(outdated(&self.cx.engine, model, &row).await?),
                    None => Ok(None),
                }
            })
            .await?;
        match what {
            None => Ok(()),
            Some(What::Machines) => self.one_again(name, index, &model.body, false).await,
            Some(What::Extensions) => {
                let row = self.cx.engine.db().resource(&machine.key()).await.map_err(crate::db_error)?;
                if let Some(body) = row.and_then(|row| body::with_applications(&model.body, &row.body)) {
                    on_behalf::put(self.cx, &self.call, &machine, &body).await?;
                }
                for gone in &model.former_extensions {
                    on_behalf::delete(self.cx, &self.call, &machine.child("extensions", gone)).await?;
                }
                self.put_extensions(&model.body, &machine).await
            }
        }
    }

    /// Machines go and come again as they are, side by side.
    async fn reimage(&self, machines: &[String]) -> Result<(), OpError> {
        let model = self.model()?;
        let work = machines.iter().enumerate().map(|(index, name)| {
            let body = &model.body;
            async move { self.one_again(name, index, body, true).await }.boxed()
        });
        self.side_by_side(work.collect(), "replacing machines").await
    }

    /// A machine goes and comes again. `as_it_is`: not of the model's image and size, but of its own.
    async fn one_again(&self, name: &str, index: usize, model: &Value, as_it_is: bool) -> Result<(), OpError> {
        let Some(suffix) = self.suffix_of(name) else { return Ok(()) };
        let mut model = model.clone();
        if as_it_is {
            // Known as long as the machine is there, needed when it is not any more.
            let had: Value = self
                .cx
                .step(&format!("had/{name}"), async {
                    let row = self.cx.engine.db().resource(&self.machine(name).key()).await.map_err(crate::db_error)?;
                    let properties = row.map_or(Value::Null, |r| r.body["properties"].clone());
                    let mut image = properties["storageProfile"]["imageReference"].clone();
                    if let Some(image) = image.as_object_mut() {
                        image.shift_remove("exactVersion");
                    }
                    Ok(serde_json::json!({"image": image, "size": properties["hardwareProfile"]["vmSize"]}))
                })
                .await?;
            if had["image"].is_object() {
                model["properties"]["virtualMachineProfile"]["storageProfile"]["imageReference"] = had["image"].clone();
                model["sku"]["name"] = had["size"].clone();
            }
        }
        // Its interfaces and addresses go with it: the new one gets what the model says now.
        self.cx.step(&format!("removed/{name}"), self.remove_one(name)).await?;
        let new = New { suffix: suffix.to_owned(), index };
        self.cx.step(&format!("made/{name}"), self.make(&model, &new)).await
    }

    async fn power(&self, machines: &[String], action: &str) -> Result<(), OpError> {
        let asked = machines.iter().map(|name| {
            let machine = self.machine(name);
            async move { on_behalf::action(self.cx, &self.call, &machine, action).await }.boxed()
        });
        self.side_by_side(asked.collect(), "asking machines").await
    }

    /// `None`: the machine was put into the set by somebody.
    fn suffix_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.id.name())?.strip_prefix('_')
    }

    fn group(&self) -> ResourceId {
        ResourceId::group(&self.id.subscription, self.id.resource_group.as_deref().unwrap_or_default())
    }

    fn machine(&self, name: &str) -> ResourceId {
        self.group().resource("Microsoft.Compute", "virtualMachines", name)
    }

    fn network(&self, kind: &str, name: &str) -> ResourceId {
        self.group().resource("Microsoft.Network", kind, name)
    }
}

fn random_suffix() -> String {
    Uuid::new_v4().simple().to_string()[..8].to_owned()
}
