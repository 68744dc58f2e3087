use super::Server;
use super::site::{Site, VM, link, network, nic, nic_body, rule};
use crate::operations::virtual_machine::nics_of;
use crate::providers::virtual_machine::MachineInternal;
use crate::{Engine, EngineConfig};
use lazuli_vmm::spec::Protocol;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

const NET: &str = "virtualNetworks/v";
const SUBNETS: &str = "Microsoft.Network/virtualNetworks/subnets";

async fn with_network() -> Server {
    let server = Server::start_without_worker().await;
    network(&server).await;
    server
}

async fn code(server: &Server, tail: &str, body: Value) -> String {
    server.put(tail, body).await.unwrap_err().code
}

fn address(nic: &Value) -> String {
    nic["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"].as_str().unwrap().to_owned()
}

fn prefix(text: &str) -> Value {
    json!({"properties": {"addressPrefix": text}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_shows_its_subnets_however_they_came() {
    let server = with_network().await;
    server.put("virtualNetworks/v/subnets/t", prefix("10.0.1.0/24")).await.unwrap();
    let view = server.get(NET).await.unwrap();
    assert_eq!(view["type"], "Microsoft.Network/virtualNetworks");
    assert!(view["etag"].as_str().unwrap().starts_with("W/\""));
    assert!(view["properties"]["resourceGuid"].as_str().unwrap().parse::<Uuid>().is_ok());
    let subnets = view["properties"]["subnets"].as_array().unwrap();
    let shown: Vec<_> = subnets.iter().map(|s| (&s["name"], &s["properties"]["addressPrefix"])).collect();
    assert_eq!(shown, [(&json!("s"), &json!("10.0.0.0/24")), (&json!("t"), &json!("10.0.1.0/24"))]);
    assert_eq!(subnets[0]["id"], json!(server.id("virtualNetworks/v/subnets/s").to_string()));
    assert_eq!(subnets[0]["properties"]["provisioningState"], "Succeeded");
    assert_eq!(server.list(NET, SUBNETS).await, ["s", "t"]);

    let overlapping = code(&server, "virtualNetworks/v/subnets/u", prefix("10.0.1.128/25")).await;
    assert_eq!(overlapping, "NetcfgSubnetRangesOverlap");
    let outside = code(&server, "virtualNetworks/v/subnets/u", prefix("10.1.0.0/24")).await;
    assert_eq!(outside, "NetcfgSubnetRangeOutsideVnet");
    let orphan = code(&server, "virtualNetworks/w/subnets/u", prefix("10.1.0.0/24")).await;
    assert_eq!(orphan, "ParentResourceNotFound");

    // Recorded: the front names the outermost resource that is missing, the network service what is missing inside of it.
    let missing = server.get("virtualNetworks/w/subnets/u").await.unwrap_err();
    assert_eq!((missing.status, missing.code.as_str()), (404, "ResourceNotFound"));
    assert!(missing.message.starts_with("The Resource 'Microsoft.Network/virtualNetworks/w' under"), "{missing}");
    assert_eq!(server.get("virtualNetworks/v/subnets/u").await.unwrap_err().code, "NotFound");

    // A PUT that names subnets names all of them; one that does not leaves them alone, if they still fit.
    let space = |subnets: Option<Value>, range: &str| {
        let mut body = json!({"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": [range]}}});
        if let Some(subnets) = subnets {
            body["properties"]["subnets"] = subnets;
        }
        body
    };
    server.put(NET, space(None, "10.0.0.0/16")).await.unwrap();
    assert_eq!(server.list(NET, SUBNETS).await, ["s", "t"]);
    assert_eq!(code(&server, NET, space(None, "10.9.0.0/16")).await, "NetcfgSubnetRangeOutsideVnet");
    let only = json!([{"name": "t", "properties": {"addressPrefix": "10.0.1.0/24"}}]);
    server.put(NET, space(Some(only), "10.0.0.0/16")).await.unwrap();
    assert_eq!(server.list(NET, SUBNETS).await, ["t"]);
    server.delete(NET).await.unwrap();
    assert_eq!(server.get("virtualNetworks/v/subnets/t").await.unwrap_err().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn subnets_put_at_once_do_not_overlap() {
    let server = with_network().await;
    let put = async |name: &str| server.put(&format!("virtualNetworks/v/subnets/{name}"), prefix("10.0.7.0/24")).await;
    let results = tokio::join!(put("a"), put("b"), put("c"));
    let won = [&results.0, &results.1, &results.2].iter().filter(|r| r.is_ok()).count();
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_in_use_stays() {
    let server = with_network().await;
    let n1 = nic(&server, "n1", json!({})).await.unwrap();
    let used = &server.get("virtualNetworks/v/subnets/s").await.unwrap()["properties"]["ipConfigurations"];
    assert_eq!(used[0]["id"], n1["properties"]["ipConfigurations"][0]["id"]);
    for tail in [NET, "virtualNetworks/v/subnets/s"] {
        let error = server.delete(tail).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (400, "InUseSubnetCannotBeDeleted"), "{tail}");
        assert!(error.message.contains("networkInterfaces/n1"), "{error}");
    }
    assert_eq!(code(&server, "virtualNetworks/v/subnets/s", prefix("10.0.0.0/25")).await, "InUseSubnetCannotBeDeleted");
    for subnets in [json!([]), json!([{"name": "s", "properties": {"addressPrefix": "10.0.0.0/25"}}])] {
        let body = json!({"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "subnets": subnets}});
        assert_eq!(code(&server, NET, body).await, "InUseSubnetCannotBeDeleted");
    }
    // Putting it again as it is keeps who has which address.
    network(&server).await;
    assert_eq!(address(&nic(&server, "n2", json!({})).await.unwrap()), "10.0.0.5");
    server.delete("networkInterfaces/n1").await.unwrap();
    server.delete("networkInterfaces/n2").await.unwrap();
    server.delete(NET).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_interfaces_at_once_get_twenty_addresses() {
    let server = with_network().await;
    let names: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    let put = names.iter().map(|name| nic(&server, name, json!({})));
    let nics = futures::future::join_all(put).await;
    let addresses: BTreeSet<String> = nics.into_iter().map(|n| address(&n.unwrap())).collect();
    assert_eq!(addresses.len(), 20);
    assert!(!addresses.contains("10.0.0.3") && addresses.contains("10.0.0.4") && addresses.contains("10.0.0.23"));
    let macs: BTreeSet<String> = futures::future::join_all(names.iter().map(async |n| {
        server.get(&format!("networkInterfaces/{n}")).await.unwrap()["properties"]["macAddress"].to_string()
    }))
    .await
    .into_iter()
    .collect();
    assert_eq!(macs.len(), 20);
    let delete = names.iter().map(async |name| server.delete(&format!("networkInterfaces/{name}")).await.unwrap());
    futures::future::join_all(delete).await;
    assert_eq!(server.internal("virtualNetworks/v/subnets/s").await["allocations"], json!({}));
    server.delete(NET).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_on_a_lan_have_mac_addresses_that_no_card_has() {
    let mut server = with_network().await;
    let mac = async |server: &Server, name: &str, more: Value| {
        nic(server, name, more).await.unwrap()["properties"]["macAddress"].as_str().unwrap().to_owned()
    };
    let is_local = |mac: &str| u8::from_str_radix(&mac[..2], 16).unwrap() & 3 == 2;
    let before = mac(&server, "n1", json!({})).await;
    assert!(before.starts_with("00-0D-3A-"));
    let bridge = lazuli_vmm::net::Bridge {
        network: server.id(NET).to_string().to_uppercase(),
        bridge: None,
        tap: None,
        lan: "10.0.0.0/16".parse().unwrap(),
        gateway: None,
        addresses: "10.0.0.0/20".parse().unwrap(),
    };
    let bridges = lazuli_vmm::net::Bridges::new(vec![bridge]).unwrap();
    server.engine =
        Engine::open(EngineConfig { bridges, ..server.engine.config().clone() }).await.expect("the same folder");
    let (one, other) = (mac(&server, "n2", json!({})).await, mac(&server, "n3", json!({})).await);
    assert!(is_local(&one) && is_local(&other) && one != other, "{one} {other}");
    assert_eq!(mac(&server, "n2", json!({})).await, one);
    assert!(is_local(&mac(&server, "n1", json!({})).await), "made before the network was on the LAN: {before}");
    // Other networks are as they were.
    let body = json!({"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": ["10.2.0.0/16"]},
        "subnets": [{"name": "s", "properties": {"addressPrefix": "10.2.0.0/24"}}]}});
    server.put("virtualNetworks/w", body).await.unwrap();
    let there = json!({"subnet": link(&server, "virtualNetworks/w/subnets/s")});
    assert!(mac(&server, "n4", there).await.starts_with("00-0D-3A-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_can_be_chosen_and_are_kept() {
    let server = with_network().await;
    let fixed = |a: &str| json!({"privateIPAllocationMethod": "Static", "privateIPAddress": a});
    assert_eq!(address(&nic(&server, "n1", fixed("10.0.0.50")).await.unwrap()), "10.0.0.50");
    let refused = async |a: &str| nic(&server, "n2", fixed(a)).await.unwrap_err().code;
    assert_eq!(refused("10.0.0.50").await, "PrivateIPAddressIsAllocated");
    for outside in ["10.0.1.4", "10.0.0.0", "10.0.0.3", "10.0.0.255"] {
        assert_eq!(refused(outside).await, "PrivateIPAddressNotInSubnet", "{outside}");
    }
    let shown = nic(&server, "n2", json!({})).await.unwrap();
    assert_eq!(address(&shown), "10.0.0.4");
    // What a GET showed can be put again, under another spelling of its id and with its configuration renamed.
    let mut again = shown.clone();
    again["properties"]["ipConfigurations"][0]["name"] = json!("renamed");
    let spelled = server.id("networkInterfaces/n2").to_string().replace("networkInterfaces", "NETWORKinterfaces");
    server.engine.put(&server.call, &spelled.parse().unwrap(), again).await.unwrap();
    let renamed = server.get("networkInterfaces/n2").await.unwrap();
    assert_eq!(address(&renamed), "10.0.0.4");
    assert_eq!(renamed["properties"]["macAddress"], shown["properties"]["macAddress"]);
    let allocations = server.internal("virtualNetworks/v/subnets/s").await["allocations"].clone();
    assert_eq!(allocations.as_object().unwrap().len(), 2, "{allocations}");

    // To another subnet and back out.
    server.put("virtualNetworks/v/subnets/t", prefix("10.0.1.0/29")).await.unwrap();
    let there = json!({"subnet": link(&server, "virtualNetworks/v/subnets/t")});
    assert_eq!(address(&nic(&server, "n2", there.clone()).await.unwrap()), "10.0.1.4");
    for name in ["n3", "n4"] {
        nic(&server, name, there.clone()).await.unwrap();
    }
    assert_eq!(nic(&server, "n5", there).await.unwrap_err().code, "SubnetIsFull");
    server.delete("networkInterfaces/n1").await.unwrap();
    assert_eq!(server.internal("virtualNetworks/v/subnets/s").await["allocations"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_is_shown_as_azure_shows_it() {
    let server = with_network().await;
    server.put("publicIPAddresses/p1", json!({"location": "eastus"})).await.unwrap();
    server.put("networkSecurityGroups/g1", json!({"location": "eastus"})).await.unwrap();
    let more = json!({"publicIPAddress": link(&server, "publicIPAddresses/p1"),
        "networkSecurityGroup": link(&server, "networkSecurityGroups/g1")});
    let view = nic(&server, "n1", more).await.unwrap();
    let p = &view["properties"];
    assert_eq!(view["type"], "Microsoft.Network/networkInterfaces");
    assert_eq!(p["networkSecurityGroup"], link(&server, "networkSecurityGroups/g1"));
    let c = &p["ipConfigurations"][0];
    assert_eq!(c["id"], json!(format!("{}/ipConfigurations/ipc", server.id("networkInterfaces/n1"))));
    assert_eq!(c["properties"]["privateIPAllocationMethod"], "Dynamic");
    assert_eq!(c["properties"]["publicIPAddress"], link(&server, "publicIPAddresses/p1"));
    assert_eq!(c["properties"]["primary"], true);
    assert!(p["dnsSettings"]["internalDomainNameSuffix"].as_str().unwrap().ends_with(".bx.internal.cloudapp.net"));
    assert!(p["macAddress"].as_str().unwrap().starts_with("00-0D-3A-"));
    assert!(p.get("virtualMachine").is_none());

    for (more, what) in [
        (json!({"subnet": link(&server, "virtualNetworks/v/subnets/none")}), "no such subnet"),
        (json!({"subnet": link(&server, NET)}), "a network is no subnet"),
        (json!({"publicIPAddress": link(&server, "networkInterfaces/n1")}), "an interface is no address"),
        (json!({"networkSecurityGroup": link(&server, "networkSecurityGroups/none")}), "no such group"),
    ] {
        assert_eq!(nic(&server, "n2", more).await.unwrap_err().code, "InvalidResourceReference", "{what}");
    }
    let mut elsewhere = nic_body(&server, json!({}));
    elsewhere["location"] = json!("westus");
    assert_eq!(code(&server, "networkInterfaces/n2", elsewhere).await, "InvalidResourceReference");

    let error = server.delete("networkSecurityGroups/g1").await.unwrap_err();
    assert_eq!(error.code, "InUseNetworkSecurityGroupCannotBeDeleted");
    server.delete("networkInterfaces/n1").await.unwrap();
    server.delete("networkSecurityGroups/g1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_address_has_one_owner() {
    let server = with_network().await;
    let mut seen = BTreeSet::new();
    for name in ["p1", "p2", "p3"] {
        let body = json!({"location": "eastus", "sku": {"name": "Standard"}});
        let view = server.put(&format!("publicIPAddresses/{name}"), body).await.unwrap();
        assert_eq!(view["properties"]["publicIPAllocationMethod"], "Static");
        assert!(view["properties"].get("ipConfiguration").is_none());
        let ip: std::net::Ipv4Addr = view["properties"]["ipAddress"].as_str().unwrap().parse().unwrap();
        assert!(ip.is_loopback() && ip.octets()[1] >= 64);
        assert!(seen.insert(ip));
    }
    let with = |name: &str| json!({"publicIPAddress": link(&server, &format!("publicIPAddresses/{name}"))});
    let n1 = nic(&server, "n1", with("p1")).await.unwrap();
    let owner = async |name: &str| {
        let view = server.get(&format!("publicIPAddresses/{name}")).await.unwrap();
        view["properties"]["ipConfiguration"]["id"].clone()
    };
    assert_eq!(owner("p1").await, n1["properties"]["ipConfigurations"][0]["id"]);
    assert_eq!(nic(&server, "n2", with("p1")).await.unwrap_err().code, "PublicIPAddressInUse");
    assert_eq!(server.delete("publicIPAddresses/p1").await.unwrap_err().code, "PublicIPAddressCannotBeDeleted");
    // Of two that want it at once one gets it.
    let both = tokio::join!(nic(&server, "n2", with("p2")), nic(&server, "n3", with("p2")));
    assert_eq!([both.0.is_ok(), both.1.is_ok()].iter().filter(|ok| **ok).count(), 1);

    nic(&server, "n1", with("p3")).await.unwrap();
    assert_eq!(owner("p1").await, Value::Null);
    assert_eq!(owner("p3").await, n1["properties"]["ipConfigurations"][0]["id"]);
    server.delete("publicIPAddresses/p1").await.unwrap();
    nic(&server, "n1", json!({})).await.unwrap();
    server.delete("publicIPAddresses/p3").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_security_group_shows_its_rules_however_they_came() {
    let server = Server::start_without_worker().await;
    let mut ssh = rule(300, "Allow", "22");
    ssh["name"] = json!("ssh");
    let body = json!({"location": "eastus", "properties": {"securityRules": [ssh]}});
    server.put("networkSecurityGroups/g1", body.clone()).await.unwrap();
    server.put("networkSecurityGroups/g1/securityRules/web", rule(310, "Allow", "80")).await.unwrap();
    assert_eq!(
        code(&server, "networkSecurityGroups/g1/securityRules/twin", rule(310, "Deny", "81")).await,
        "SecurityRuleConflict"
    );
    let view = server.get("networkSecurityGroups/g1").await.unwrap();
    let rules = view["properties"]["securityRules"].as_array().unwrap();
    assert_eq!(rules.iter().map(|r| &r["name"]).collect::<Vec<_>>(), ["ssh", "web"]);
    assert_eq!(rules[0]["type"], "Microsoft.Network/networkSecurityGroups/securityRules");
    assert_eq!(rules[0]["properties"]["provisioningState"], "Succeeded");
    let defaults = view["properties"]["defaultSecurityRules"].as_array().unwrap();
    assert_eq!(defaults.len(), 6);
    assert_eq!(
        (&defaults[2]["name"], &defaults[2]["properties"]["priority"]),
        (&json!("DenyAllInBound"), &json!(65500))
    );

    // Two of one priority at once: one of them is refused.
    let put = async |name: &str| {
        server.put(&format!("networkSecurityGroups/g1/securityRules/{name}"), rule(400, "Allow", "90")).await
    };
    let both = tokio::join!(put("x"), put("y"));
    assert!(both.0.is_ok() != both.1.is_ok());
    server.put("networkSecurityGroups/g1", body).await.unwrap();
    let all = server.list("networkSecurityGroups/g1", "Microsoft.Network/networkSecurityGroups/securityRules").await;
    assert_eq!(all, ["ssh"]);
    server.delete("networkSecurityGroups/g1").await.unwrap();
    assert_eq!(server.get("networkSecurityGroups/g1/securityRules/ssh").await.unwrap_err().status, 404);
}

/// TCP ports that the host is told to open for an interface.
async fn open(server: &Server, name: &str) -> Option<Vec<u16>> {
    let row =
        server.engine.db().resource(&server.id(&format!("networkInterfaces/{name}")).key()).await.unwrap().unwrap();
    let machine = MachineInternal {
        diagnostics_account: None,
        vm_id: Uuid::nil(),
        generation: "V2".into(),
        os_disk: String::new(),
        data_disks: vec![],
        leaving: vec![],
        nics: vec![row.key.clone()],
        provision: false,
        admin_password: None,
        custom_data: None,
        created: true,
        created_at_ms: 0,
        namesake: None,
        deallocated: false,
        generalized: false,
        place: None,
        lost: None,
        applications: Default::default(),
    };
    let mut nics = nics_of(&server.engine, &row, &machine).await.unwrap();
    let public = nics.remove(0).public?;
    Some(public.ports.into_iter().filter(|p| p.protocol == Protocol::Tcp).map(|p| p.port).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_open_as_the_groups_and_the_sku_say() {
    let server = with_network().await;
    for (name, sku) in [("basic", "Basic"), ("standard", "Standard")] {
        let body = json!({"location": "eastus", "sku": {"name": sku}});
        server.put(&format!("publicIPAddresses/{name}"), body).await.unwrap();
        let more = json!({"publicIPAddress": link(&server, &format!("publicIPAddresses/{name}"))});
        nic(&server, name, more).await.unwrap();
    }
    nic(&server, "private", json!({})).await.unwrap();
    assert_eq!(open(&server, "private").await, None);
    assert!(open(&server, "basic").await.unwrap().contains(&22), "Basic without a group is open");
    assert_eq!(open(&server, "standard").await.unwrap(), [0; 0], "Standard without a group is closed");

    let mut web = rule(300, "Allow", "8080-8081");
    web["name"] = json!("web");
    let group = json!({"location": "eastus", "properties": {"securityRules": [web]}});
    server.put("networkSecurityGroups/g1", group).await.unwrap();
    let more = json!({"publicIPAddress": link(&server, "publicIPAddresses/standard"),
        "networkSecurityGroup": link(&server, "networkSecurityGroups/g1")});
    nic(&server, "standard", more).await.unwrap();
    assert_eq!(open(&server, "standard").await.unwrap(), [8080, 8081]);
    server.put("networkSecurityGroups/g1/securityRules/no", rule(200, "Deny", "8081")).await.unwrap();
    assert_eq!(open(&server, "standard").await.unwrap(), [8080]);

    // The subnet's group counts too, for every interface in it.
    server.put("networkSecurityGroups/g2", json!({"location": "eastus"})).await.unwrap();
    let mut subnet = prefix("10.0.0.0/24");
    subnet["properties"]["networkSecurityGroup"] = link(&server, "networkSecurityGroups/g2");
    server.put("virtualNetworks/v/subnets/s", subnet).await.unwrap();
    assert_eq!(open(&server, "standard").await.unwrap(), [0; 0]);
    assert_eq!(open(&server, "basic").await.unwrap(), [0; 0]);
    server.put("networkSecurityGroups/g2/securityRules/a", rule(300, "Allow", "*")).await.unwrap();
    assert_eq!(open(&server, "standard").await.unwrap(), [8080]);
    let error = server.delete("networkSecurityGroups/g2").await.unwrap_err();
    assert_eq!(error.code, "InUseNetworkSecurityGroupCannotBeDeleted");
}

/// GS-9
#[tokio::test(flavor = "multi_thread")]
async fn a_second_machine_of_a_name_is_told() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    let warning = async |tail: &str| {
        let view = server.engine.view(&server.call, &server.id(tail), "instanceView").await.unwrap().unwrap();
        let statuses = view["statuses"].as_array().unwrap().clone();
        statuses.into_iter().find(|s| s["level"] == "Warning").map(|s| s["message"].to_string())
    };
    let second = async |name: &str| {
        nic(server, name, json!({})).await.unwrap();
        let body = site.body(|b| {
            b["properties"]["storageProfile"]["osDisk"]["name"] = json!(format!("{name}-os"));
            b["properties"]["osProfile"]["computerName"] = json!(if name == "n2" { "VM1" } else { name });
            b["properties"]["networkProfile"]["networkInterfaces"] =
                json!([link(server, &format!("networkInterfaces/{name}"))]);
        });
        let tail = format!("virtualMachines/{name}");
        server.put(&tail, body).await.unwrap();
        tail
    };
    let same = second("n2").await;
    assert!(warning(&same).await.unwrap().contains("The VM 'vm1' has the host name 'VM1' too"));
    assert_eq!(warning(&second("n3").await).await, None);
    assert_eq!(warning(VM).await, None, "it was there before");
    server.delete(VM).await.unwrap();
    assert_eq!(warning(&same).await, None);
}
