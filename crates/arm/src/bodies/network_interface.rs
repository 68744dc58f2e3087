//! `Microsoft.Network/networkInterfaces`: one or more IP configurations in a subnet. Addresses are the engine's to give.

use super::offered::{self, Refusal};
use super::{Context, Fields, Head};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const BALANCERS: &str = "there are no load balancers";

const REFUSED: &[Refusal] = &[
    (&["extendedLocation"], &[], "there are no edge zones"),
    (&["properties", "enableIPForwarding"], &[], "a guest sends with its own addresses alone"),
    (&["properties", "dnsSettings", "dnsServers"], &["AzureProvidedDNS"], "guests ask the platform's DNS"),
    (&["properties", "dnsSettings", "internalDnsNameLabel"], &[], "guests are known by their host names"),
    (&["properties", "disableTcpStateTracking"], &[], "connections are always followed"),
    (&["properties", "auxiliaryMode"], &["None"], "interfaces have no auxiliary mode"),
    (&["properties", "auxiliarySku"], &["None"], "interfaces have no auxiliary mode"),
];

const CONFIGURATION: &[Refusal] = &[
    (&["properties", "applicationSecurityGroups"], &[], "there are no application security groups"),
    (&["properties", "loadBalancerBackendAddressPools"], &[], BALANCERS),
    (&["properties", "loadBalancerInboundNatRules"], &[], BALANCERS),
    (&["properties", "applicationGatewayBackendAddressPools"], &[], BALANCERS),
    (&["properties", "gatewayLoadBalancer"], &[], BALANCERS),
    (&["properties", "privateIPAddressVersion"], &["IPv4"], "only IPv4 is offered"),
];

/// Checks an interface's PUT. `privateIPAddress` is kept only where the client asks for one.
///
/// # Errors
/// Missing subnet, several primaries, malformed ids.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let root = Fields::root("networkInterface", new)?;
    let head = Head::read(id, &root, old, ctx)?;
    let properties = root.object("properties")?;
    let given = check_offered(&root)?;
    if given.is_empty() {
        return Err(ArmError::bad_request(
            "NetworkInterfaceMustHaveOneIpConfiguration",
            format!("Network interface {} must have at least one IP configuration.", id.name()),
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
    body.insert("enableIPForwarding".into(), false.into());
    Ok(head.body(vec![], body))
}

/// The IP configurations of an interface, or of the model of one.
///
/// # Errors
/// `OperationNotSupported` for what interfaces may ask for in Azure and not here.
pub(super) fn check_offered<'a>(interface: &Fields<'a>) -> Result<Vec<Fields<'a>>, ArmError> {
    offered::check(interface, REFUSED)?;
    let properties = interface.object("properties")?;
    let configurations = properties.objects("ipConfigurations")?.unwrap_or_default();
    if configurations.len() > 1 {
        return Err(super::not_offered(&properties.path("ipConfigurations"), "one IP configuration per interface"));
    }
    configurations.iter().try_for_each(|configuration| offered::check(configuration, CONFIGURATION))?;
    Ok(configurations)
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

#[cfg(test)]
mod tests {
    use super::super::merge_patch;
    use super::super::offered::tests::hold;
    use super::super::testing::{context, version};
    use super::*;

    #[test]
    fn what_is_asked_for_and_not_done_is_named() {
        let subnet = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/s";
        let configuration = json!({"name": "c", "properties": {"subnet": {"id": subnet}}});
        let whole =
            |configuration: Value| json!({"location": "eastus", "properties": {"ipConfigurations": [configuration]}});
        let api = version("2024-05-01");
        let id = ResourceId::group("0", "g").resource("Microsoft.Network", "networkInterfaces", "n");
        let write = |body: &Value| put(&id, body, None, &context(&api)).map(drop);
        write(&whole(configuration.clone())).unwrap();
        hold(REFUSED, |change| merge_patch(&whole(configuration.clone()), &change), write);
        hold(CONFIGURATION, |change| whole(merge_patch(&configuration, &change)), write);
    }
}
