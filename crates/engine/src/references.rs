//! Which store of a region keeps a disk for whom.
//!
//! ```text
//! a resource of tenant T refers to a disk   T's store has it        T's store keeps it, whoever else has the same
//!                                           else                    every other store that has it keeps it
//!                                           no store has it         it is missing: it should be in T's
//! ```
//! So a tenant's own bytes go when the tenant lets go of them, also if another one brought in the same; and what is shared with
//! others stays where it is as long as one of them needs it.

use crate::content::manifest_id;
use crate::open_stores::Store;
use crate::region_stores::Boundary;
use crate::{Engine, db_error};
use lazuli_arm::ArmError;
use lazuli_chunks::ManifestId;
use lazuli_meta::model::ContentRef;
use std::collections::BTreeSet;

/// What resources refer to in a region, by its stores.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Referenced {
    /// What each store keeps, in the order of the stores.
    pub kept: Vec<BTreeSet<ManifestId>>,
    /// What no store has, by the stores where it should be.
    pub missing: Vec<BTreeSet<ManifestId>>,
}

impl Referenced {
    /// What each store is to have, whether it does or not.
    pub fn all(self) -> Vec<Vec<ManifestId>> {
        let both = self.kept.into_iter().zip(self.missing);
        both.map(|(kept, missing)| kept.into_iter().chain(missing).collect()).collect()
    }
}

/// Which of the stores keep a disk that a resource of `owner` refers to.
fn keepers(owner: Boundary, stores: &[Boundary], holds: impl Fn(usize) -> bool) -> Vec<usize> {
    let own = stores.iter().position(|s| *s == owner);
    match own.filter(|at| holds(*at)) {
        Some(own) => vec![own],
        None => (0..stores.len()).filter(|at| Some(*at) != own && holds(*at)).collect(),
    }
}

/// Which of the stores keep the disk of a reference; and where it should be, if none does.
pub(crate) enum Kept {
    In(Vec<usize>),
    Missing(usize),
}

/// The stores of a region, and whose is what.
pub(crate) struct Keeping<'a> {
    stores: &'a [Store],
    boundaries: Vec<Boundary>,
    owners: crate::regions::Owners,
}

impl<'a> Keeping<'a> {
    /// # Errors
    /// What the database says.
    pub async fn of(engine: &Engine, region: &str, stores: &'a [Store]) -> Result<Self, ArmError> {
        let boundaries = stores.iter().map(|s| s.boundary).collect();
        Ok(Self { stores, boundaries, owners: engine.regions().owners(region).await? })
    }

    /// # Errors
    /// A reference that cannot be read; a region that has no store at all.
    pub fn find(&self, reference: &ContentRef) -> Result<(ManifestId, Kept), ArmError> {
        let disk = manifest_id(&reference.manifest)?;
        let owner = self.owners.boundary(&reference.resource_key)?;
        let kept = keepers(owner, &self.boundaries, |at| self.stores[at].region.holds(disk));
        if !kept.is_empty() {
            return Ok((disk, Kept::In(kept)));
        }
        if self.stores.is_empty() {
            let region = &reference.region;
            return Err(ArmError::new(
                500,
                "StoredDataMissing",
                format!("Region '{region}' has none of its stores, and disks refer to them. Is its storage there?"),
            ));
        }
        Ok((disk, Kept::Missing(self.boundaries.iter().position(|b| *b == owner).unwrap_or(0))))
    }
}

/// Every manifest of a region that some resource refers to.
///
/// # Errors
/// What the database says.
pub(crate) async fn referenced(engine: &Engine, region: &str, stores: &[Store]) -> Result<Referenced, ArmError> {
    if let [Store { boundary: Boundary::Region, region: store }] = stores {
        // Whose they are is not asked.
        let disks = engine.db().content_manifests(region).await.map_err(db_error)?;
        let disks = disks.iter().map(|disk| manifest_id(disk)).collect::<Result<Vec<_>, _>>()?;
        let (kept, missing) = disks.into_iter().partition(|disk| store.holds(*disk));
        return Ok(Referenced { kept: vec![kept], missing: vec![missing] });
    }
    let references = engine.db().content_refs(region).await.map_err(db_error)?;
    let keeping = Keeping::of(engine, region, stores).await?;
    let none = vec![BTreeSet::new(); stores.len()];
    let mut referenced = Referenced { kept: none.clone(), missing: none };
    for reference in &references {
        let (disk, places, by_store) = match keeping.find(reference)? {
            (disk, Kept::In(stores)) => (disk, stores, &mut referenced.kept),
            (disk, Kept::Missing(store)) => (disk, vec![store], &mut referenced.missing),
        };
        for at in places {
            by_store[at].insert(disk);
        }
    }
    Ok(referenced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn tenant(n: usize) -> Boundary {
        Boundary::Tenant(Uuid::from_u128(n as u128))
    }

    #[test]
    fn ones_own_copy_counts_before_those_of_others() {
        let stores = [tenant(0), tenant(1), tenant(2)];
        let keep = |owner: usize, having: &[usize]| keepers(tenant(owner), &stores, |at| having.contains(&at));
        assert_eq!(keep(1, &[0, 1, 2]), [1]);
        assert_eq!(keep(1, &[0, 2]), [0, 2], "nobody knows which of them is meant");
        assert_eq!(keep(7, &[2]), [2], "a tenant without a store");
        assert_eq!(keep(1, &[]), [0; 0]);
        assert_eq!(keepers(Boundary::Region, &[Boundary::Region], |_| true), [0]);
    }

    proptest! {
        /// Whatever is swept in whichever order, a disk that somebody refers to is there afterwards, and one's own copy goes with
        /// one's own last reference.
        #[test]
        fn a_disk_that_is_referred_to_stays_somewhere(
            having in prop::collection::vec(any::<bool>(), 4),
            owners in prop::collection::btree_set(0usize..5, 1..5),
        ) {
            let stores = [0, 1, 2, 3].map(tenant);
            prop_assume!(having.contains(&true));
            let keeps = |at: usize| owners.iter().any(|o| keepers(tenant(*o), &stores, |s| having[s]).contains(&at));
            for owner in &owners {
                prop_assert!((0..4).any(|at| having[at] && keeps(at)), "{owner} finds it");
            }
            for at in (0..4).filter(|at| having[*at] && !owners.contains(at)) {
                let others_have_their_own = owners.iter().all(|o| having.get(*o).copied().unwrap_or(false));
                prop_assert_eq!(keeps(at), !others_have_their_own);
            }
        }
    }
}
