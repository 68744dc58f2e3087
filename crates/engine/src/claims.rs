//! Names that may be taken once, where the name is not that of a row: a gallery's in its subscription, an image's publisher,
//! offer and SKU in its gallery.
//!
//! A claim is a row without a provider, so that no list shows it. It is put, and expected to be absent, in the transaction that
//! creates its owner: of two writers that want the same name one loses, is decided anew, and finds the claim. It goes with its
//! owner.

use crate::hidden_rows::hidden_row;
use crate::{Engine, db_error};
use lazuli_arm::ArmError;
use lazuli_meta::model::{Change, Expect};

const KIND: &str = "lazuli.claims";

/// One name. The parts are compared ignoring case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    key: String,
}

impl Claim {
    /// `what` keeps kinds of names apart. Only the first part may have slashes in it.
    pub fn new(what: &str, parts: &[&str]) -> Self {
        Self { key: format!("{KIND}/{what}/{}", parts.join("/")).to_ascii_lowercase() }
    }

    /// Id of the owner, if there is one.
    pub async fn owner(&self, engine: &Engine) -> Result<Option<String>, ArmError> {
        let row = engine.db().resource(&self.key).await.map_err(db_error)?;
        Ok(row.map(|r| r.id))
    }

    /// To be committed with the new owner.
    pub fn take(self, owner_id: &str) -> Change {
        Change::PutResource { resource: hidden_row(KIND, &self.key, owner_id, ""), expect: Expect::Absent }
    }

    /// To be committed with the owner's end.
    pub fn give_up(self) -> Change {
        Change::DeleteResource { key: self.key, expect: Expect::Any }
    }
}
