//! `Microsoft.Network/networkInterfaces`: one or more IP configurations in a subnet. Addresses are the engine's to give.

use super::{Context, Fields, Head};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

/// Checks an interface's PUT. `privateIPAddress` is kept only where the client asks for one.
///
/// # Errors
/// Missing subnet, several primaries, malformed ids.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let root = Fields::root("networkInterface", new)?;
    let head = Head::read(id, &root, old, ctx)?;
    let properties = root.object("properties")?;
    let given = properties.objects("ipConfigurations")?.unwrap_or_default();
    if given.is_empty() {
        return Err(ArmError::bad_request(
            "NetworkInterfaceMustHaveOneIpConfiguration",
            format!("Network interface {} must have at least one IP configuration.", id.name()),
        ));
    }
    if given.len() > 1 {
        return Err(super::not_offered(
            "networkInterface.properties.ipConfigurations",
            "one IP configuration per interface",
        ));
    }
    let configurations: Vec<Value> = given.iter().map(configuration).collect::<Result<_, _>>()?;
    let mut body = Map::new();
    body.insert("ipConfigurations".into(), configurations.into());
    if let Some(nsg) = properties.object("networkSecurityGroup")?.str("id")? {
        body.insert("networkSecurityGroup".into(), json!({"id": id_of(&nsg)?.to_string()}));
    }
    body.insert(
        "enableAcceleratedNetworking".into(),
        properties.bool("enableAcceleratedNetworking")?.unwrap_or(false).into(),
    );
    body.insert("enableIPForwarding".into(), properties.bool("enableIPForwarding")?.unwrap_or(false).into());
    Ok(head.body(vec![], body))
}

fn configuration(fields: &Fields<'_>) -> Result<Value, ArmError> {
    let properties = fields.object("properties")?;
    let subnet = properties.object("subnet")?;
    let subnet = id_of(&subnet.required_str("id")?)?;
    let method = properties.one_of("privateIPAllocationMethod", &["Dynamic", "Static"])?.unwrap_or("Dynamic");
    let mut body = Map::new();
    if let Some(address) = properties.str("privateIPAddress")?.filter(|a| !a.is_empty()) {
        let parsed: std::net::Ipv4Addr = address.parse().map_err(|_| {
            ArmError::bad_request(
                "InvalidIPAddressFormat",
                format!("IP address '{address}' is not correctly formatted."),
            )
        })?;
        body.insert("privateIPAddress".into(), parsed.to_string().into());
    } else if method == "Static" {
        return Err(properties.missing("privateIPAddress"));
    }
    body.insert("privateIPAllocationMethod".into(), method.into());
    body.insert("privateIPAddressVersion".into(), "IPv4".into());
    body.insert("primary".into(), true.into());
    body.insert("subnet".into(), json!({"id": subnet.to_string()}));
    if let Some(public) = properties.object("publicIPAddress")?.str("id")? {
        body.insert("publicIPAddress".into(), json!({"id": id_of(&public)?.to_string()}));
    }
    Ok(json!({"name": fields.required_str("name")?, "properties": body}))
}

fn id_of(text: &str) -> Result<ResourceId, ArmError> {
    text.parse()
        .map_err(|e| ArmError::bad_request("LinkedInvalidPropertyId", format!("Property id '{text}' is invalid: {e}.")))
}
