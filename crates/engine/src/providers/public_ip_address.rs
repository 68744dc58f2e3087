//! `Microsoft.Network/publicIPAddresses`: each is a loopback address of this machine of its own (127.x.y.z), so that
//! `ssh user@ADDRESS` works as printed, for everybody on this machine and for nobody else.

use super::arm_context;
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use crate::stored::internal;
use async_trait::async_trait;
use lazuli_arm::bodies::public_ip_address as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use uuid::Uuid;

const KIND: &str = "Microsoft.Network/publicIPAddresses";
/// The Swagger's first api-version with `sku.tier` (recorded: 2018-01-01 shows none).
const TIER_SINCE: &str = "2020-07-01";

pub(crate) struct PublicIpAddress;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublicIpInternal {
    pub guid: Uuid,
    pub address: Ipv4Addr,
    /// Id of the IP configuration that uses it.
    #[serde(default)]
    pub owner: Option<String>,
}

#[async_trait]
impl Provider for PublicIpAddress {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = body::put(id, &new, old.map(|o| &o.body), &arm_context(cx))?;
        let internal = match old {
            Some(old) => old.internal.clone(),
            None => {
                let new = PublicIpInternal { guid: Uuid::new_v4(), address: free_address(cx).await?, owner: None };
                crate::stored::to_internal(&new)
            }
        };
        Ok(Plan { body, internal, ..Plan::default() })
    }

    async fn delete(&self, _cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let state: PublicIpInternal = internal(old)?;
        match state.owner {
            None => Ok(DeletePlan::default()),
            Some(owner) => Err(ArmError::bad_request(
                "PublicIPAddressCannotBeDeleted",
                format!(
                    "Public IP address {} can not be deleted since it is still allocated to resource {owner}. In order to \
                     delete the public IP, disassociate/detach the Public IP address from the resource.",
                    old.id
                ),
            )),
        }
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let state: PublicIpInternal = internal(row)?;
        let mut view = standard_view(KIND, row);
        view["etag"] = json!(format!("W/\"{}\"", row.etag));
        view["properties"]["resourceGuid"] = json!(state.guid);
        view["properties"]["ipAddress"] = json!(state.address);
        if !cx.call.api_version.at_least(TIER_SINCE)
            && let Some(sku) = view["sku"].as_object_mut()
        {
            sku.shift_remove("tier");
        }
        if let Some(owner) = state.owner {
            view["properties"]["ipConfiguration"] = json!({"id": owner});
        }
        Ok(view)
    }

    fn delete_rank(&self) -> u8 {
        50
    }
}

/// An address of 127.64.0.0/10 that no other public address has: apart from what people use by hand (127.0.0.1, 127.0.1.1).
async fn free_address(cx: Context<'_>) -> Result<Ipv4Addr, ArmError> {
    let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
    let rows = cx.engine.all_rows(query).await?;
    let taken: Vec<Value> = rows.into_iter().map(|r| r.internal["address"].clone()).collect();
    loop {
        let random = Uuid::new_v4().into_bytes();
        let address = Ipv4Addr::new(127, 64 | (random[0] & 0x3f), random[1], random[2].clamp(1, 254));
        if !taken.contains(&json!(address)) {
            return Ok(address);
        }
    }
}
