//! The order of resources: who waits for whom, and that nobody waits for itself.

use crate::plan::Planned;
use crate::validation;
use lazuli_arm::ArmError;

/// Refuses cycles.
///
/// # Errors
/// `InvalidTemplate`, naming a resource of the cycle.
pub(crate) fn check(resources: &[Planned]) -> Result<(), ArmError> {
    let mut waiting: Vec<usize> = resources.iter().map(|r| r.depends_on.len()).collect();
    let mut users: Vec<Vec<usize>> = vec![vec![]; resources.len()];
    for (index, resource) in resources.iter().enumerate() {
        for on in &resource.depends_on {
            users[*on].push(index);
        }
    }
    let mut ready: Vec<usize> = (0..resources.len()).filter(|i| waiting[*i] == 0).collect();
    let mut ordered = 0;
    while let Some(next) = ready.pop() {
        ordered += 1;
        for user in &users[next] {
            waiting[*user] -= 1;
            if waiting[*user] == 0 {
                ready.push(*user);
            }
        }
    }
    if ordered == resources.len() {
        return Ok(());
    }
    let stuck = (0..resources.len())
        .find(|i| waiting[*i] > 0)
        .map_or("", |i| resources[on_cycle(resources, &waiting, i)].id.as_str());
    Err(validation(format!(
        "Circular dependency detected on resource: '{stuck}'. Please see https://aka.ms/arm-template/#resources for usage details."
    )))
}

/// From a resource that waits for ever, one that is on a cycle itself.
fn on_cycle(resources: &[Planned], waiting: &[usize], start: usize) -> usize {
    let mut at = start;
    for _ in 0..resources.len() {
        match resources[at].depends_on.iter().find(|d| waiting[**d] > 0) {
            Some(next) => at = *next,
            None => break,
        }
    }
    at
}
