//! `Microsoft.Network/networkInterfaces`: takes an address out of its subnet and a public address along.
//!
//! The subnet's row holds who has which address (`internal.allocations`); it is written in the same transaction, so that two
//! interfaces never get one address.

use super::arm_context;
use super::public_ip_address::PublicIpInternal;
use super::virtual_network::allocations;
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use crate::stored::{internal, to_internal};
use crate::write::canonical;
use crate::{db_error, new_etag};
use async_trait::async_trait;
use lazuli_arm::bodies::network_interface as body;
use lazuli_arm::bodies::virtual_network::prefix_of;
use lazuli_arm::{ArmError, ResourceId, locations};
use lazuli_meta::model::{Change, Expect, Resource};
use lazuli_vmm::spec::MacAddress;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use uuid::Uuid;

const KIND: &str = "Microsoft.Network/networkInterfaces";
const NETWORK: &str = "Microsoft.Network/virtualNetworks";
const SUBNET: &str = "Microsoft.Network/virtualNetworks/subnets";
const GROUP: &str = "Microsoft.Network/networkSecurityGroups";
const PUBLIC: &str = "Microsoft.Network/publicIPAddresses";
/// Recorded: 2018-01-01 does not show what the fabric has to say of an interface, 2022-01-01 does.
const FABRIC_SINCE: &str = "2019-02-01";

pub(crate) struct NetworkInterface;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NicInternal {
    pub guid: Uuid,
    /// `00-0D-3A-…`, Azure's prefix; on a LAN a locally administered one, see [`mac`].
    pub mac: String,
    pub address: Ipv4Addr,
    /// Key of the subnet the address is from.
    pub subnet: String,
    /// Key of the public address.
    #[serde(default)]
    pub public: Option<String>,
    /// Id of the virtual machine it belongs to.
    #[serde(default)]
    pub machine: Option<String>,
}

#[async_trait]
impl Provider for NetworkInterface {
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
        let before: Option<NicInternal> = old.map(internal).transpose()?;
        let configuration = &body["properties"]["ipConfigurations"][0];
        // As a GET shows it, however this request spells it.
        let shown = old.map_or_else(|| canonical(id, KIND), |o| o.id.clone());
        let owner = format!("{shown}/ipConfigurations/{}", configuration["name"].as_str().unwrap_or_default());
        let location = place(&body["location"]);
        let subnet_id = link(configuration, "subnet").unwrap_or_default();
        let subnet = require(cx, &owner, &subnet_id, SUBNET, None).await?;
        let network = subnet_id.rsplitn(3, '/').last().unwrap_or_default();
        require(cx, &owner, network, NETWORK, Some(location)).await?;
        // A dynamic address that the body names is the one that a GET had shown.
        let fixed = configuration["properties"]["privateIPAllocationMethod"] == "Static";
        let wanted = configuration["properties"]["privateIPAddress"].as_str().filter(|_| fixed);
        let address = choose_address(&subnet, &owner, wanted, before.as_ref())?;
        let mut changes = Vec::new();
        changes.extend(allocate(&subnet, &owner, Some(address)));
        if let Some(before) = &before
            && before.subnet != subnet.key
        {
            if before.machine.is_some() {
                return Err(ArmError::conflict(
                    "NicInUse",
                    format!("Network interface {id} is used by a virtual machine: its subnet cannot be changed."),
                ));
            }
            if let Some(row) = cx.engine.db().resource(&before.subnet).await.map_err(db_error)? {
                changes.extend(allocate(&row, &owner, None));
            }
        }
        let public = link(configuration, "publicIPAddress");
        changes.extend(take_public(cx, public.as_deref(), before.as_ref(), &owner, location).await?);
        if let Some(nsg) = body["properties"]["networkSecurityGroup"]["id"].as_str() {
            let nsg = require(cx, &owner, nsg, GROUP, Some(location)).await?;
            changes.push(Change::RequireResource { key: nsg.key });
        }
        let guid = before.as_ref().map_or_else(Uuid::new_v4, |b| b.guid);
        let state = NicInternal {
            guid,
            mac: mac(guid, before.as_ref(), is_bridged(cx, network)),
            address,
            subnet: subnet.key,
            public: public.map(|p| p.to_ascii_lowercase()),
            machine: before.and_then(|b| b.machine),
        };
        Ok(Plan { body, internal: to_internal(&state), start: None, changes })
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let state: NicInternal = internal(old)?;
        if let Some(machine) = &state.machine {
            return Err(ArmError::bad_request(
                "NicInUse",
                format!(
                    "Network Interface {} is used by existing resource {machine}. In order to delete the network interface, \
                     it must be dissociated from the resource.",
                    old.id
                ),
            ));
        }
        let owner = owner_of(old);
        let mut changes = Vec::new();
        if let Some(subnet) = cx.engine.db().resource(&state.subnet).await.map_err(db_error)? {
            changes.extend(allocate(&subnet, &owner, None));
        }
        changes.extend(take_public(cx, None, Some(&state), &owner, &old.location).await?);
        Ok(DeletePlan { start: None, changes })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let state: NicInternal = internal(row)?;
        let mut view = standard_view(KIND, row);
        let etag = format!("W/\"{}\"", row.etag);
        view["etag"] = json!(etag);
        let newer = cx.call.api_version.at_least(FABRIC_SINCE);
        if newer {
            view["kind"] = json!("Regular");
        }
        let properties = &mut view["properties"];
        properties["resourceGuid"] = json!(state.guid);
        properties["macAddress"] = json!(state.mac);
        let configuration = &mut properties["ipConfigurations"][0];
        configuration["id"] = json!(owner_of(row));
        configuration["type"] = json!("Microsoft.Network/networkInterfaces/ipConfigurations");
        configuration["etag"] = json!(etag);
        configuration["properties"]["provisioningState"] = json!("Succeeded");
        configuration["properties"]["privateIPAddress"] = json!(state.address);
        let suffix = network_of(cx, &state).await?.map(|n| n.internal["dnsSuffix"].clone());
        properties["dnsSettings"] =
            json!({"dnsServers": [], "appliedDnsServers": [], "internalDomainNameSuffix": suffix});
        if newer {
            // An interface of this server has none of what these tell of, and mail may leave it.
            properties["vnetEncryptionSupported"] = json!(false);
            properties["hostedWorkloads"] = json!([]);
            properties["tapConfigurations"] = json!([]);
            properties["nicType"] = json!("Standard");
            properties["allowPort25Out"] = json!(true);
            properties["auxiliaryMode"] = json!("None");
        }
        if let Some(machine) = state.machine {
            properties["virtualMachine"] = json!({"id": machine});
            properties["primary"] = json!(true);
        }
        Ok(view)
    }

    fn delete_rank(&self) -> u8 {
        40
    }
}

/// The virtual network of an interface.
pub(crate) async fn network_of(cx: Context<'_>, nic: &NicInternal) -> Result<Option<Resource>, ArmError> {
    let subnet: Option<ResourceId> = nic.subnet.parse().ok();
    let Some(network) = subnet.and_then(|s| s.parent()) else { return Ok(None) };
    cx.engine.db().resource(&network.key()).await.map_err(db_error)
}

fn owner_of(row: &Resource) -> String {
    let name = row.body["properties"]["ipConfigurations"][0]["name"].as_str().unwrap_or_default();
    format!("{}/ipConfigurations/{name}", row.id)
}

fn link(configuration: &Value, name: &str) -> Option<String> {
    configuration["properties"][name]["id"].as_str().map(str::to_owned)
}

/// Canonical name of a body's location.
fn place(location: &Value) -> &str {
    let text = location.as_str().unwrap_or_default();
    locations::normalize(text).map_or(text, |l| l.name)
}

/// A resource of this type, in this location, that `by` refers to.
pub(super) async fn require(
    cx: Context<'_>,
    by: &str,
    id: &str,
    kind: &str,
    location: Option<&str>,
) -> Result<Resource, ArmError> {
    // A network is joined through its subnets.
    if kind != NETWORK {
        cx.engine.authorize_link(&cx.call.caller, id, &format!("{kind}/join/action")).await?;
    }
    let row = cx.engine.db().resource(&id.to_ascii_lowercase()).await.map_err(db_error)?;
    let fits = |r: &Resource| r.kind.eq_ignore_ascii_case(kind) && location.is_none_or(|l| r.location == l);
    row.filter(fits).ok_or_else(|| {
        ArmError::bad_request(
            "InvalidResourceReference",
            format!(
                "Resource {id} referenced by resource {by} was not found. Please make sure that the referenced resource \
                 exists, and that both resources are in the same region."
            ),
        )
    })
}

/// Whether two ids of IP configurations are of one interface (the configuration may have been renamed).
fn same_nic(a: &str, b: &str) -> bool {
    let nic = |id: &str| id.rsplitn(3, '/').last().unwrap_or_default().to_ascii_lowercase();
    nic(a) == nic(b)
}

/// What was asked for if it is free, else what it had, else the first free one.
fn choose_address(
    subnet: &Resource,
    owner: &str,
    wanted: Option<&str>,
    before: Option<&NicInternal>,
) -> Result<Ipv4Addr, ArmError> {
    let taken = allocations(subnet);
    let free = |a: &Ipv4Addr| taken.get(&a.to_string()).and_then(Value::as_str).is_none_or(|o| same_nic(o, owner));
    let prefix = prefix_of(&subnet.body).ok_or_else(|| ArmError::internal("a stored subnet has no prefix"))?;
    if let Some(wanted) = wanted {
        let address: Ipv4Addr = wanted.parse().map_err(ArmError::internal)?;
        if !prefix.is_host(address) {
            return Err(ArmError::bad_request(
                "PrivateIPAddressNotInSubnet",
                format!("Private static IP address {address} does not belong to the range of subnet prefix {prefix}."),
            ));
        }
        if !free(&address) {
            return Err(ArmError::bad_request(
                "PrivateIPAddressIsAllocated",
                format!(
                    "IP configuration {owner} is using the private IP address {address} which is already allocated."
                ),
            ));
        }
        return Ok(address);
    }
    if let Some(before) = before.filter(|b| b.subnet == subnet.key && free(&b.address)) {
        return Ok(before.address);
    }
    prefix.hosts().find(free).ok_or_else(|| {
        ArmError::bad_request(
            "SubnetIsFull",
            format!(
                "Subnet {} with address prefix {prefix} does not have enough capacity for 1 IP addresses.",
                subnet.name
            ),
        )
    })
}

/// The subnet's row with `owner` holding exactly this address; nothing if it is so already.
fn allocate(subnet: &Resource, owner: &str, address: Option<Ipv4Addr>) -> Option<Change> {
    let before = allocations(subnet);
    let mut after = before.clone();
    after.retain(|_, o| o.as_str().is_none_or(|o| !same_nic(o, owner)));
    if let Some(address) = address {
        after.insert(address.to_string(), owner.into());
    }
    if before == after {
        return None;
    }
    let mut row = subnet.clone();
    row.internal["allocations"] = after.into();
    row.etag = new_etag();
    Some(Change::PutResource { resource: row, expect: Expect::Etag(subnet.etag.clone()) })
}

/// Moves the public addresses' ownership.
async fn take_public(
    cx: Context<'_>,
    wanted: Option<&str>,
    before: Option<&NicInternal>,
    owner: &str,
    location: &str,
) -> Result<Vec<Change>, ArmError> {
    let mut changes = Vec::new();
    let old = before.and_then(|b| b.public.as_deref());
    if let Some(old) = old.filter(|o| wanted.is_none_or(|w| !w.eq_ignore_ascii_case(o)))
        && let Some(row) = cx.engine.db().resource(old).await.map_err(db_error)?
    {
        changes.push(own(row, None)?);
    }
    if let Some(wanted) = wanted {
        let row = require(cx, owner, wanted, PUBLIC, Some(location)).await?;
        let state: PublicIpInternal = internal(&row)?;
        match state.owner {
            Some(other) if !same_nic(&other, owner) => {
                return Err(ArmError::bad_request(
                    "PublicIPAddressInUse",
                    format!(
                        "Resource {owner} is referencing public IP address {wanted} that is already allocated to resource {other}."
                    ),
                ));
            }
            Some(same) if same == owner => {}
            _ => changes.push(own(row, Some(owner))?),
        }
    }
    Ok(changes)
}

fn own(row: Resource, owner: Option<&str>) -> Result<Change, ArmError> {
    let mut state: PublicIpInternal = internal(&row)?;
    state.owner = owner.map(str::to_owned);
    let expect = Expect::Etag(row.etag.clone());
    Ok(Change::PutResource { resource: Resource { internal: to_internal(&state), etag: new_etag(), ..row }, expect })
}

fn is_bridged(cx: Context<'_>, network: &str) -> bool {
    cx.engine.config().bridges.of(network).is_some()
}

/// Azure's prefix leaves 24 bits, which do among interfaces that meet no other device. On a LAN they are locally administered, with 46
/// bits by chance: neither another server's interface nor a real card has the same. An interface that a machine has keeps its own.
fn mac(guid: Uuid, before: Option<&NicInternal>, bridged: bool) -> String {
    let b = guid.as_bytes();
    let is_local = |mac: &str| matches!(mac.as_bytes().get(1), Some(b'2' | b'6' | b'A' | b'E'));
    match before {
        Some(before) if before.machine.is_some() || is_local(&before.mac) || !bridged => before.mac.clone(),
        _ if bridged => MacAddress([b[0] & 0xfc | 2, b[1], b[2], b[3], b[4], b[5]]).to_string(),
        _ => MacAddress([0x00, 0x0d, 0x3a, b[0], b[1], b[2]]).to_string(),
    }
}
