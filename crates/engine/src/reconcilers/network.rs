//! Tells the host processes of changed network rules: which public address a running machine has, and which ports are open.

use crate::Engine;
use crate::operations::virtual_machine::nics_of;
use crate::providers::virtual_machine::{KIND, MachineInternal};
use crate::stored::internal;
use lazuli_meta::model::{Resource, ResourceQuery};
use lazuli_vmm::spec::NicSpec;
use std::collections::HashMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A signal comes with every write to a network resource of this process; other processes' writes are found by the timer.
const TIMER: Duration = Duration::from_secs(15);

/// Runs until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    let mut told: HashMap<Uuid, Vec<NicSpec>> = HashMap::new();
    let mut changed = engine.network_changes();
    while !shutdown.is_cancelled() {
        match reconcile(&engine, &mut told).await {
            Ok(0) => {}
            Ok(updated) => tracing::info!(machines = updated, "network rules of running machines were updated"),
            Err(error) => tracing::warn!(%error, "network rules were not compared; they are looked at again"),
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = tokio::time::timeout(TIMER, changed.changed()) => {}
        }
    }
}

/// Compares every running machine with what its host was told last. Returns how many were updated.
pub(crate) async fn reconcile(
    engine: &Engine,
    told: &mut HashMap<Uuid, Vec<NicSpec>>,
) -> Result<usize, lazuli_arm::ArmError> {
    let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
    let machines = engine.all_rows(query).await?;
    let mut updated = 0;
    let mut present = Vec::new();
    for row in machines.iter().filter(|r| r.provisioning_state == "Succeeded") {
        let state: MachineInternal = internal(row)?;
        if state.deallocated {
            continue;
        }
        present.push(state.vm_id);
        let nics = match nics_of(engine, row, &state).await {
            Ok(nics) => nics,
            Err(error) => {
                // One machine must not keep the others from their rules.
                tracing::warn!(machine = row.id, %error, "a machine's network rules could not be found");
                continue;
            }
        };
        if told.get(&state.vm_id) == Some(&nics) {
            continue;
        }
        if tell(engine, row, &state, &nics).await {
            told.insert(state.vm_id, nics);
            updated += 1;
        }
    }
    told.retain(|id, _| present.contains(id));
    Ok(updated)
}

async fn tell(engine: &Engine, row: &Resource, state: &MachineInternal, nics: &[NicSpec]) -> bool {
    let home = match engine.home_of(row, state).await {
        Ok(home) => home,
        Err(error) => {
            tracing::debug!(machine = row.id, %error, "network rules wait until the machine's worker is back");
            return false;
        }
    };
    match home.host.update_network(state.vm_id, nics).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(machine = row.id, %error, "the host did not take the network rules; it is told again");
            false
        }
    }
}
