//! `Microsoft.Compute/virtualMachineScaleSets`: a model, and how many machines there are to be of it.
//!
//! ```text
//! model (sku, virtualMachineProfile) ── machine_body ──> PUT of a virtual machine
//!                                    └─ interface_body, public_address_body ──> what it needs of the network
//! ```
//! The model's machines are ordinary ones: what theirs may say (`virtual_machine.rs`) is what a model may say. Those of Flexible
//! sets are known by their names, those of Uniform sets by numbers, which are never given twice while the highest one lives.

mod extensions;
mod upgrade_policy;

use super::offered::{self, Refusal};
use super::{
    Context, Fields, Head, check_zones, merge_patch, network_interface, not_offered, unchanged, virtual_machine,
};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

pub use extensions::{extension_body, extensions, extensions_mut, is_applied};
pub use upgrade_policy::{Rolling, Upgrades, rolling, upgrades};

const ROOT: &str = "virtualMachineScaleSet";
/// As in Azure.
const MOST_MACHINES: i64 = 1000;
/// Of the profile, taken over as they are into each machine's properties.
const KEPT: [&str; 7] = [
    "securityProfile",
    "diagnosticsProfile",
    "applicationProfile",
    "priority",
    "evictionPolicy",
    "billingProfile",
    "licenseType",
];

/// Of the set; what its model may say is that of a machine.
const REFUSED: &[Refusal] = &[
    (&["properties", "scaleInPolicy", "rules"], &["Default"], "the newest machines go first"),
    (&["properties", "scaleInPolicy", "prioritizeUnhealthyVMs"], &[], "the newest machines go first"),
    (&["properties", "spotRestorePolicy"], &[], "there are no spot machines"),
    (&["properties", "resiliencyPolicy"], &[], "machines are not made again by themselves"),
    (&["properties", "skuProfile"], &[], "the machines of a set are of one size"),
    (&["properties", "additionalCapabilities", "hibernationEnabled"], &[], "machines do not hibernate"),
];

const PROFILE: &[Refusal] = &[
    (&["scheduledEventsProfile"], &[], "guests are not told of events before they come"),
    (&["hardwareProfile", "vmSizeProperties"], &[], "a machine has the processors of its size"),
    (&["capacityReservation"], &[], "capacity cannot be reserved"),
    (&["serviceArtifactReference"], &[], "there are no service artifacts"),
    (&["securityPostureReference"], &[], "there are no security postures"),
];

/// One machine to be made of a model.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Id of its scale set.
    pub set: &'a str,
    /// Tells it from the others: letters and digits, of a Uniform set its number.
    pub suffix: &'a str,
    /// Zones are given to machines in turn.
    pub index: usize,
}

/// A new body, or an update: what a PUT leaves out of the model stays (clients scale with a PUT of `sku` alone).
///
/// # Errors
/// As [`virtual_machine::create`] for the model; `OperationNotSupported` for load balancers;
/// `PropertyChangeNotAllowed`.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    virtual_machine::check_name(id.name())?;
    let root = Fields::root(ROOT, new)?;
    let mut head = Head::read(id, &root, old, ctx)?;
    if root.get("tags").is_none() {
        head.tags = old.and_then(|o| o["tags"].as_object()).cloned();
    }
    let properties = root.object("properties")?;
    let stored = old.map(|o| &o["properties"]);
    check_offered(&root, &properties)?;
    unchanged_zones(&root, old)?;
    if let Some(zones) = root.strings("zones")?.filter(|z| old.is_none() && !z.is_empty()) {
        check_zones(id, &zones, 3, &head.region)?;
    }
    let mut body = Map::new();
    // Uniform is Azure's default where a new body names none.
    let given = properties.one_of("orchestrationMode", &["Flexible", "Uniform"])?;
    let known = stored.and_then(|s| s["orchestrationMode"].as_str());
    if let (Some(given), Some(known)) = (given, known)
        && given != known
    {
        unchanged(&properties.path("orchestrationMode"), Some(&given.into()), Some(&known.into()))?;
    }
    let mode = given.or(known).unwrap_or("Uniform").to_owned();
    let uniform = mode == "Uniform";
    body.insert("orchestrationMode".into(), mode.into());
    body.insert("upgradePolicy".into(), upgrade_policy::settled(&properties, stored)?);
    let overprovision = properties.bool("overprovision")?.map(Value::from);
    if let Some(value) = overprovision.or_else(|| stored?.get("overprovision").cloned()) {
        body.insert("overprovision".into(), value);
    }
    let domains = properties.int_within("platformFaultDomainCount", 1, 5)?;
    let domains = domains.map(Value::from).or_else(|| stored.map(|s| s["platformFaultDomainCount"].clone()));
    body.insert("platformFaultDomainCount".into(), domains.unwrap_or_else(|| 1.into()));
    let single = properties.bool("singlePlacementGroup")?.map(Value::from);
    let single = single.or_else(|| stored?.get("singlePlacementGroup").cloned());
    body.insert("singlePlacementGroup".into(), single.unwrap_or_else(|| uniform.into()));
    let given = properties.get("virtualMachineProfile").cloned().unwrap_or_else(|| json!({}));
    let before = stored.map_or(Value::Null, |s| s["virtualMachineProfile"].clone());
    let mut profile = merge_patch(&before, &given);
    let settled = extensions::settled(&Fields::root("virtualMachineProfile", &profile)?, &before)?;
    let applications = virtual_machine::application_profile(&Fields::root("virtualMachineProfile", &profile)?)?;
    for (name, settled) in [("extensionProfile", settled), ("applicationProfile", applications)] {
        if let (Some(settled), Some(profile)) = (settled, profile.as_object_mut()) {
            profile.retain(|given, _| !given.eq_ignore_ascii_case(name));
            profile.insert(name.into(), settled);
        }
    }
    if profile.as_object().is_some_and(|p| !p.is_empty()) {
        check_profile(&Fields::root("virtualMachineProfile", &profile)?)?;
        body.insert("virtualMachineProfile".into(), profile);
    }
    let sku = sku(&root, old)?;
    let mut middle = vec![];
    if let Some(zones) = root.strings("zones")?.map(Value::from).or_else(|| old.and_then(|o| o.get("zones")).cloned()) {
        middle.push(("zones", zones));
    }
    middle.push(("sku", sku));
    let body = head.body(middle, body);
    check_model(id, &body, ctx)?;
    Ok(body)
}

/// How many machines a stored body asks for.
pub fn capacity(body: &Value) -> usize {
    body["sku"]["capacity"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

pub fn set_capacity(body: &mut Value, machines: usize) {
    body["sku"]["capacity"] = machines.into();
}

/// Whether its machines are known by numbers.
pub fn is_uniform(body: &Value) -> bool {
    body["properties"]["orchestrationMode"] == "Uniform"
}

fn check_offered(root: &Fields<'_>, properties: &Fields<'_>) -> Result<(), ArmError> {
    let identity = root.object("identity")?.str("type")?;
    if identity.is_some_and(|t| !t.eq_ignore_ascii_case("None")) {
        return Err(not_offered(&root.path("identity"), "machines of scale sets have no managed identities here yet"));
    }
    offered::check(root, REFUSED)?;
    for (name, why) in [
        ("automaticRepairsPolicy", "machines are not replaced by themselves"),
        ("hostGroup", "there are no dedicated hosts"),
        ("proximityPlacementGroup", "there are no placement groups"),
        ("priorityMixPolicy", "there are no spot machines"),
    ] {
        if !properties.object(name)?.is_empty() {
            return Err(not_offered(&properties.path(name), why));
        }
    }
    Ok(())
}

fn unchanged_zones(root: &Fields<'_>, old: Option<&Value>) -> Result<(), ArmError> {
    match old {
        Some(old) => unchanged(&root.path("zones"), root.get("zones"), old.get("zones")),
        None => Ok(()),
    }
}

fn check_profile(profile: &Fields<'_>) -> Result<(), ArmError> {
    offered::check(profile, PROFILE)?;
    let network = profile.object("networkProfile")?;
    if !network.object("healthProbe")?.is_empty() {
        return Err(not_offered(&network.path("healthProbe"), "there are no load balancers"));
    }
    for nic in network.objects("networkInterfaceConfigurations")?.unwrap_or_default() {
        nic.required_str("name")?;
        for ip in nic.object("properties")?.objects("ipConfigurations")?.unwrap_or_default() {
            let ip = ip.object("properties")?;
            for name in [
                "loadBalancerBackendAddressPools",
                "loadBalancerInboundNatPools",
                "applicationGatewayBackendAddressPools",
            ] {
                if ip.objects(name)?.is_some_and(|pools| !pools.is_empty()) {
                    let why = "there are no load balancers; leave it out (az vmss create --load-balancer \"\")";
                    return Err(not_offered(&ip.path(name), why));
                }
            }
        }
        network_interface::check_offered(&nic)?;
    }
    Ok(())
}

/// What is not given stays; a size is needed for the first machine.
fn sku(root: &Fields<'_>, old: Option<&Value>) -> Result<Value, ArmError> {
    let given = root.object("sku")?;
    let stored = old.map(|o| &o["sku"]);
    let name = given.str("name")?.or_else(|| stored.and_then(|s| s["name"].as_str()).map(str::to_owned));
    let capacity =
        given.int_within("capacity", 0, MOST_MACHINES)?.or_else(|| stored?["capacity"].as_i64()).unwrap_or(0);
    let mut sku = json!({"tier": "Standard", "capacity": capacity});
    match name {
        Some(name) => {
            let size = virtual_machine::size(&name).ok_or_else(|| virtual_machine::unknown_size(&name))?;
            sku["name"] = size.0.into();
        }
        None if capacity > 0 => return Err(given.missing("name")),
        None => {}
    }
    Ok(sku)
}

/// The model is good if a machine of it would be.
fn check_model(id: &ResourceId, body: &Value, ctx: &Context<'_>) -> Result<(), ArmError> {
    if body["properties"].get("virtualMachineProfile").is_none() {
        if capacity(body) == 0 {
            return Ok(());
        }
        return Err(ArmError::invalid_parameter(
            "virtualMachineProfile",
            "Required parameter 'virtualMachineProfile' is missing (null).",
        ));
    }
    let set = id.to_string();
    let member = Member { set: &set, suffix: if is_uniform(body) { "0" } else { "abc123" }, index: 0 };
    let group = ResourceId::group(&id.subscription, id.resource_group.as_deref().unwrap_or_default());
    let nics: Vec<String> = interfaces(body)
        .iter()
        .map(|nic| {
            group.resource("Microsoft.Network", "networkInterfaces", &interface_name(body, nic, member)).to_string()
        })
        .collect();
    let machine = group.resource("Microsoft.Compute", "virtualMachines", &machine_name(id.name(), member.suffix));
    virtual_machine::create(&machine, &machine_body(body, member, &nics), ctx).map(drop)
}

/// As Azure names them: the set's name and something random, or the machine's number.
pub fn machine_name(set: &str, suffix: &str) -> String {
    format!("{set}_{suffix}")
}

/// The interfaces that each machine has, as the model describes them.
pub fn interfaces(body: &Value) -> Vec<Value> {
    let network = &body["properties"]["virtualMachineProfile"]["networkProfile"];
    network["networkInterfaceConfigurations"].as_array().cloned().unwrap_or_default()
}

/// Name of a machine's interface of this description.
pub fn interface_name(body: &Value, nic: &Value, member: Member<'_>) -> String {
    format!("{}-{}", nic["name"].as_str().unwrap_or_default(), own_suffix(body, member))
}

/// What tells the parts of a machine from those of all others in the group: numbers are not enough.
fn own_suffix(body: &Value, member: Member<'_>) -> String {
    match is_uniform(body) {
        true => machine_name(member.set.rsplit('/').next().unwrap_or_default(), member.suffix),
        false => member.suffix.to_owned(),
    }
}

/// The end of a machine's host name: of a Uniform set's the number with six digits to base 36, as in Azure.
fn host_suffix(body: &Value, member: Member<'_>) -> String {
    let Some(mut number) = member.suffix.parse::<u64>().ok().filter(|_| is_uniform(body)) else {
        return member.suffix.to_owned();
    };
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[usize::try_from(number % 36).unwrap_or(0)];
        number /= 36;
    }
    digits.map(char::from).iter().collect()
}

/// Name of the public address of a machine's interface; `None`: it has none.
pub fn public_address_name(body: &Value, nic: &Value, member: Member<'_>) -> Option<String> {
    let address = public_address(nic)?;
    Some(format!("{}-{}", address["name"].as_str().unwrap_or("instancepublicip"), own_suffix(body, member)))
}

fn ip_configuration(nic: &Value) -> &Value {
    &nic["properties"]["ipConfigurations"][0]
}

/// Clients write the name in their own letter case.
fn public_address(nic: &Value) -> Option<&Value> {
    let properties = ip_configuration(nic)["properties"].as_object()?;
    let found = properties.iter().find(|(name, _)| name.eq_ignore_ascii_case("publicIPAddressConfiguration"))?.1;
    found.is_object().then_some(found)
}

/// PUT of the public address of a machine's interface.
pub fn public_address_body(body: &Value, nic: &Value) -> Option<Value> {
    let address = public_address(nic)?;
    let sku = address["sku"]["name"].as_str().unwrap_or("Standard");
    Some(json!({"location": body["location"], "sku": {"name": sku},
        "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"}}))
}

/// PUT of a machine's interface; `address`: id of its public address.
pub fn interface_body(body: &Value, nic: &Value, address: Option<&str>) -> Value {
    let ip = ip_configuration(nic);
    let mut properties = json!({"subnet": {"id": ip["properties"]["subnet"]["id"]}});
    if let Some(address) = address {
        properties["publicIPAddress"] = json!({ "id": address });
    }
    let name = ip["name"].as_str().unwrap_or("ipconfig");
    let mut made = json!({"location": body["location"],
        "properties": {"ipConfigurations": [{"name": name, "properties": properties}]}});
    if let Some(group) = nic["properties"]["networkSecurityGroup"]["id"].as_str() {
        made["properties"]["networkSecurityGroup"] = json!({ "id": group });
    }
    made
}

/// PUT of a machine of the model with these interfaces. What belongs to it goes with it, unless the model says otherwise.
pub fn machine_body(body: &Value, member: Member<'_>, nics: &[String]) -> Value {
    let profile = &body["properties"]["virtualMachineProfile"];
    let mut properties = json!({
        "hardwareProfile": {"vmSize": body["sku"]["name"]},
        "virtualMachineScaleSet": {"id": member.set},
        "storageProfile": storage(&profile["storageProfile"]),
        "networkProfile": {"networkInterfaces": nics.iter().enumerate().map(|(i, id)| {
            json!({"id": id, "properties": {"primary": i == 0, "deleteOption": "Delete"}})
        }).collect::<Vec<_>>()},
    });
    if let Some(os) = profile["osProfile"].as_object() {
        let mut os = os.clone();
        let prefix = os.shift_remove("computerNamePrefix");
        let prefix = prefix.as_ref().and_then(Value::as_str).unwrap_or("vm");
        os.insert("computerName".into(), format!("{prefix}{}", host_suffix(body, member)).into());
        properties["osProfile"] = os.into();
    }
    for name in KEPT.into_iter().chain(["userData"]) {
        if let Some(value) = profile.get(name) {
            properties[name] = value.clone();
        }
    }
    let mut machine = json!({"location": body["location"], "tags": body["tags"], "properties": properties});
    let zones = body["zones"].as_array().map_or(&[][..], Vec::as_slice);
    if !zones.is_empty() {
        machine["zones"] = json!([zones[member.index % zones.len()]]);
    }
    machine
}

/// PUT of a machine of the model with the applications that the model names now; `None`: it has them.
pub fn with_applications(set: &Value, machine: &Value) -> Option<Value> {
    let profile = &set["properties"]["virtualMachineProfile"];
    let wanted = virtual_machine::applications(profile);
    if wanted == virtual_machine::applications(&machine["properties"]) {
        return None;
    }
    let mut machine = machine.clone();
    machine["properties"]["applicationProfile"] = json!({"galleryApplications": wanted});
    Some(machine)
}

fn storage(model: &Value) -> Value {
    let mut profile = model.clone();
    let goes = |disk: &mut Value| {
        if let Some(disk) = disk.as_object_mut() {
            // Each machine has disks of its own.
            disk.shift_remove("name");
            disk.entry("deleteOption").or_insert_with(|| "Delete".into());
        }
    };
    if let Some(os) = profile.get_mut("osDisk") {
        goes(os);
    }
    profile.get_mut("dataDisks").and_then(Value::as_array_mut).into_iter().flatten().for_each(goes);
    profile
}

/// Ids that an action on a set's machines names; `None`: all of them (`*`, or no list at all).
///
/// # Errors
/// `InvalidParameter`.
pub fn instance_ids(request: &Value, required: bool) -> Result<Option<Vec<String>>, ArmError> {
    let given = Fields::root("vmInstanceIDs", request)?;
    match given.strings("instanceIds")? {
        None if required => Err(given.missing("instanceIds")),
        Some(ids) if ids.is_empty() && required => Err(given.missing("instanceIds")),
        None => Ok(None),
        Some(ids) if ids.iter().any(|id| id == "*") => Ok(None),
        Some(ids) => Ok(Some(ids)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, id, version};
    use super::*;

    const GROUP: &str = "/subscriptions/0000/resourceGroups/rg1/providers";

    /// As `az vmss create --orchestration-mode Flexible --load-balancer ""` writes it into its template.
    fn of_az() -> Value {
        let ip = json!({"name": "vmss1IPConfig", "properties": {
            "subnet": {"id": format!("{GROUP}/Microsoft.Network/virtualNetworks/v/subnets/s")},
            "publicipaddressconfiguration": {"name": "instancepublicip", "properties": {"idleTimeoutInMinutes": 10}}}});
        let nic = json!({"name": "vmss1Nic", "properties": {"primary": "true", "ipConfigurations": [ip]}});
        json!({"location": "eastus", "tags": {}, "sku": {"name": "standard_b1s", "capacity": 2}, "properties": {
            "orchestrationMode": "Flexible", "singlePlacementGroup": null, "platformFaultDomainCount": 1,
            "virtualMachineProfile": {
                "storageProfile": {"osDisk": {"createOption": "FromImage", "caching": "ReadWrite",
                        "managedDisk": {"storageAccountType": null}},
                    "imageReference": {"id": format!("{GROUP}/Microsoft.Compute/galleries/g/images/d/versions/1.0.0")}},
                "osProfile": {"computerNamePrefix": "vmss1", "adminUsername": "azureuser", "linuxConfiguration": {
                    "disablePasswordAuthentication": true, "ssh": {"publicKeys": [{"keyData": "ssh-rsa AAAA",
                        "path": "/home/azureuser/.ssh/authorized_keys"}]}}},
                "networkProfile": {"networkInterfaceConfigurations": [nic], "networkApiVersion": "2020-11-01"}}}})
    }

    fn made(body: &Value, old: Option<&Value>) -> Result<Value, ArmError> {
        let api = version("2024-11-01");
        put(&id("virtualMachineScaleSets/vmss1"), body, old, &context(&api))
    }

    #[test]
    fn what_is_asked_for_and_not_done_is_named() {
        use super::super::offered::tests::hold;
        let checked = |body: &Value| made(body, None).map(drop);
        hold(REFUSED, |change| merge_patch(&of_az(), &change), checked);
        let profile = |change: Value| json!({"properties": {"virtualMachineProfile": change}});
        hold(PROFILE, |change| merge_patch(&of_az(), &profile(change)), checked);
        let in_order = json!({"properties": {"scaleInPolicy": {"rules": ["Default"], "forceDeletion": false}}});
        checked(&merge_patch(&of_az(), &in_order)).unwrap();
        let mut forwards = of_az();
        forwards["properties"]["virtualMachineProfile"]["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]
            ["enableIPForwarding"] = json!(true);
        assert_eq!(checked(&forwards).unwrap_err().code, "OperationNotSupported");
    }

    #[test]
    fn a_model_becomes_machines() {
        let set = made(&of_az(), None).unwrap();
        assert_eq!(set["sku"], json!({"tier": "Standard", "capacity": 2, "name": "Standard_B1s"}));
        let member = Member { set: "/set", suffix: "aB3", index: 1 };
        let nic = &interfaces(&set)[0];
        assert_eq!(interface_name(&set, nic, member), "vmss1Nic-aB3");
        assert_eq!(public_address_name(&set, nic, member).as_deref(), Some("instancepublicip-aB3"));
        assert!(public_address_body(&set, nic).is_some());
        let interface = interface_body(&set, nic, Some("/address"));
        let ip = &interface["properties"]["ipConfigurations"][0];
        assert_eq!(
            (&ip["name"], &ip["properties"]["publicIPAddress"]["id"]),
            (&json!("vmss1IPConfig"), &json!("/address"))
        );
        let machine = machine_body(&set, member, &["/nic".into()]);
        assert_eq!(machine["properties"]["osProfile"]["computerName"], "vmss1aB3");
        assert_eq!(machine["properties"]["virtualMachineScaleSet"]["id"], "/set");
        assert_eq!(machine["properties"]["storageProfile"]["osDisk"]["deleteOption"], "Delete");
        assert_eq!(machine["properties"]["hardwareProfile"]["vmSize"], "Standard_B1s");
    }

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let set = made(&of_az(), None).unwrap();
        let scaled =
            made(&json!({"location": "eastus", "sku": {"name": "Standard_B1s", "capacity": 5}}), Some(&set)).unwrap();
        let mut expected = set.clone();
        set_capacity(&mut expected, 5);
        assert_eq!(scaled, expected);
        let image =
            json!({"imageReference": {"id": format!("{GROUP}/Microsoft.Compute/galleries/g/images/d/versions/2.0.0")}});
        let other = json!({"properties": {"virtualMachineProfile": {"storageProfile": image}}});
        let other = made(&other, Some(&set)).unwrap();
        let profile = &other["properties"]["virtualMachineProfile"];
        assert!(profile["storageProfile"]["imageReference"]["id"].as_str().unwrap().ends_with("/2.0.0"));
        assert_eq!(profile["osProfile"], set["properties"]["virtualMachineProfile"]["osProfile"]);
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        type Change<'a> = &'a dyn Fn(&mut Value);
        let cases: [(&str, &str, Change<'_>); 5] = [
            ("InvalidParameter", "orchestrationMode", &|b| b["properties"]["orchestrationMode"] = json!("Other")),
            ("OperationNotSupported", "loadBalancerBackendAddressPools", &|b| {
                let nic = &mut b["properties"]["virtualMachineProfile"]["networkProfile"]["networkInterfaceConfigurations"]
                    [0];
                nic["properties"]["ipConfigurations"][0]["properties"]["loadBalancerBackendAddressPools"] =
                    json!([{"id": "/x"}]);
            }),
            ("InvalidParameter", "capacity", &|b| b["sku"]["capacity"] = json!(1001)),
            ("InvalidParameter", "vmSize", &|b| b["sku"]["name"] = json!("Huge")),
            ("InvalidParameter", "adminUsername", &|b| {
                b["properties"]["virtualMachineProfile"]["osProfile"]["adminUsername"] = json!("root");
            }),
        ];
        for (code, target, change) in cases {
            let mut body = of_az();
            change(&mut body);
            let error = made(&body, None).unwrap_err();
            assert_eq!(error.code, code, "{target}: {error}");
            assert!(error.target.as_deref().unwrap_or_default().ends_with(target), "{target}: {error:?}");
        }
        assert_eq!(
            capacity(
                &made(&json!({"location": "eastus", "properties": {"orchestrationMode": "Flexible"}}), None).unwrap()
            ),
            0
        );
    }

    #[test]
    fn machines_of_uniform_sets_have_numbers() {
        let mut new = of_az();
        new["properties"]["orchestrationMode"] = json!("uniform");
        new["properties"]["upgradePolicy"] = json!({"mode": "automatic"});
        let set = made(&new, None).unwrap();
        assert!(is_uniform(&set));
        assert_eq!(set["properties"]["singlePlacementGroup"], true);
        let set_id = format!("{GROUP}/Microsoft.Compute/virtualMachineScaleSets/vmss1");
        let member = Member { set: &set_id, suffix: "37", index: 0 };
        assert_eq!(interface_name(&set, &interfaces(&set)[0], member), "vmss1Nic-vmss1_37");
        let machine = machine_body(&set, member, &["/nic".into()]);
        assert_eq!(machine["properties"]["osProfile"]["computerName"], "vmss1000011");
        let mut none = of_az();
        none["properties"].as_object_mut().unwrap().shift_remove("orchestrationMode");
        assert!(is_uniform(&made(&none, None).unwrap()), "Azure's default");
        // What it is stays.
        let scaled =
            made(&json!({"location": "eastus", "sku": {"name": "Standard_B1s", "capacity": 3}}), Some(&set)).unwrap();
        assert!(is_uniform(&scaled));
        assert_eq!(upgrades(&scaled), Upgrades::Automatic);
        assert_eq!(made(&of_az(), Some(&set)).unwrap_err().code, "PropertyChangeNotAllowed");
    }

    #[test]
    fn some_machines_or_all() {
        assert_eq!(
            instance_ids(&json!({"instanceIds": ["a", "b"]}), true).unwrap(),
            Some(vec!["a".into(), "b".into()])
        );
        assert_eq!(instance_ids(&json!({"instanceIds": ["*"]}), true).unwrap(), None);
        assert_eq!(instance_ids(&Value::Null, false).unwrap(), None);
        assert_eq!(instance_ids(&json!({}), true).unwrap_err().code, "InvalidParameter");
    }
}
