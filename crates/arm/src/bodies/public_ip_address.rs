//! `Microsoft.Network/publicIPAddresses`. The address itself (one of this machine's loopback range) is the engine's to give.

use super::{Context, Fields, Head};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

/// Checks a public address's PUT.
///
/// # Errors
/// Unknown sku or method; `StandardSkuPublicIPAddressCannotBeDynamic`… in Azure's words.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let root = Fields::root("publicIPAddress", new)?;
    let head = Head::read(id, &root, old, ctx)?;
    let properties = root.object("properties")?;
    let sku = root.object("sku")?.one_of("name", &["Basic", "Standard"])?.unwrap_or("Basic");
    let default_method = if sku == "Standard" { "Static" } else { "Dynamic" };
    let method = properties.one_of("publicIPAllocationMethod", &["Static", "Dynamic"])?.unwrap_or(default_method);
    if sku == "Standard" && method == "Dynamic" {
        return Err(ArmError::bad_request(
            "StandardSkuPublicIPAddressesMustBeStatic",
            format!("Standard sku publicIp {id} must have AllocationMethod set to Static."),
        ));
    }
    let version = properties.one_of("publicIPAddressVersion", &["IPv4", "IPv6"])?.unwrap_or("IPv4");
    if version == "IPv6" {
        return Err(super::not_offered("publicIPAddress.properties.publicIPAddressVersion", "only IPv4 is offered"));
    }
    let mut body = Map::new();
    body.insert("publicIPAddressVersion".into(), version.into());
    body.insert("publicIPAllocationMethod".into(), method.into());
    body.insert(
        "idleTimeoutInMinutes".into(),
        properties.int_within("idleTimeoutInMinutes", 4, 30)?.unwrap_or(4).into(),
    );
    if let Some(label) = properties.object("dnsSettings")?.str("domainNameLabel")? {
        body.insert("dnsSettings".into(), json!({"domainNameLabel": label}));
    }
    body.insert("ipTags".into(), json!([]));
    let mut middle = vec![("sku", json!({"name": sku, "tier": "Regional"}))];
    if let Some(zones) = root.strings("zones")? {
        middle.push(("zones", json!(zones)));
    }
    Ok(head.body(middle, body))
}
