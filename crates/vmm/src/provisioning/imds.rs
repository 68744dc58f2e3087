//! The instance metadata service, 169.254.169.254:80. Pure: a request in, an answer out.
//!
//! Serves `/metadata/instance` (whole or any part of it) and `/metadata/versions`. Asks for the `Metadata: true` header
//! and for a known `api-version`, and refuses forwarded requests, as the guard against server-side request forgery that
//! Azure's clients rely on; cloud-init takes 400 for "try an older version".

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Ask};
use crate::spec::{DiskSpec, Generation, NicSpec, VmSpec};

/// The api-versions answered; the same document for all of them, clients ignore what they do not know.
const VERSIONS: &[&str] = &[
    "2017-03-01",
    "2017-04-02",
    "2017-08-01",
    "2017-10-01",
    "2017-12-01",
    "2018-02-01",
    "2018-04-02",
    "2018-10-01",
    "2019-02-01",
    "2019-03-11",
    "2019-04-30",
    "2019-06-01",
    "2019-06-04",
    "2019-08-01",
    "2019-08-15",
    "2019-11-01",
    "2020-06-01",
    "2020-07-15",
    "2020-09-01",
    "2020-10-01",
    "2020-12-01",
    "2021-01-01",
    "2021-02-01",
    "2021-03-01",
    "2021-05-01",
    "2021-08-01",
    "2021-10-01",
    "2021-11-01",
    "2021-11-15",
    "2021-12-13",
    "2023-07-01",
];

/// Answers a request to 169.254.169.254:80.
pub fn imds(spec: &VmSpec, ask: &Ask) -> Answer {
    if !ask.header("metadata").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return error(StatusCode::BAD_REQUEST, "Bad request. Required metadata header not specified");
    }
    if ask.header("x-forwarded-for").is_some() {
        return error(StatusCode::BAD_REQUEST, "Bad request. Forwarded requests are not answered");
    }
    if ask.method != Method::GET {
        return error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    }
    let path: Vec<&str> = ask.path.split('/').filter(|s| !s.is_empty()).collect();
    match path.as_slice() {
        ["metadata", "versions"] => Answer::json(json!({ "apiVersions": VERSIONS }).to_string()),
        ["metadata", "instance", rest @ ..] => match ask.query("api-version") {
            Some(v) if VERSIONS.contains(&v) => part(&instance(spec), rest, ask),
            Some(_) => bad_version("Bad request. api-version is invalid or was not specified in the request."),
            None => bad_version("Bad request. api-version was not specified in the request."),
        },
        _ => error(StatusCode::NOT_FOUND, "Not found"),
    }
}

fn error(status: StatusCode, message: &str) -> Answer {
    Answer { status, ..Answer::json(json!({ "error": message }).to_string()) }
}

fn bad_version(message: &str) -> Answer {
    let newest: Vec<_> = VERSIONS.iter().rev().take(3).collect();
    Answer {
        status: StatusCode::BAD_REQUEST,
        ..Answer::json(json!({ "error": message, "newest-versions": newest }).to_string())
    }
}

/// The part of the document a path names: keys of objects, positions in lists. `format=text` shows a leaf bare.
fn part(document: &Value, path: &[&str], ask: &Ask) -> Answer {
    let found = path.iter().try_fold(document, |value, key| match value {
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        Value::Object(fields) => fields.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v),
        _ => None,
    });
    let text = ask.query("format").is_some_and(|f| f.eq_ignore_ascii_case("text"));
    match found {
        None => error(StatusCode::NOT_FOUND, "Not found"),
        Some(Value::Object(fields)) if text => {
            let names = |(k, v): (&String, &Value)| match v {
                Value::Object(_) | Value::Array(_) => format!("{k}/"),
                _ => k.clone(),
            };
            Answer::text(fields.iter().map(names).collect::<Vec<_>>().join("\n"))
        }
        Some(Value::Array(items)) if text => {
            Answer::text((0..items.len()).map(|i| format!("{i}/")).collect::<Vec<_>>().join("\n"))
        }
        Some(Value::String(leaf)) if text => Answer::text(leaf.clone()),
        Some(leaf) if text => Answer::text(leaf.to_string()),
        Some(value) => Answer::json(value.to_string()),
    }
}

/// The whole document.
pub fn instance(spec: &VmSpec) -> Value {
    json!({
        "compute": compute(spec),
        "network": { "interface": spec.nics.iter().map(interface).collect::<Vec<_>>() },
    })
}

fn compute(spec: &VmSpec) -> Value {
    let keys = spec.provisioning.iter().flat_map(|p| &p.ssh_keys);
    let keys: Vec<_> = keys.map(|k| json!({ "keyData": k.key_data.trim(), "path": k.path })).collect();
    let tags: Vec<_> = spec.tags.iter().map(|(k, v)| format!("{k}:{v}")).collect();
    let tag_list: Vec<_> = spec.tags.iter().map(|(k, v)| json!({ "name": k, "value": v })).collect();
    let windows = spec.provisioning.as_ref().is_some_and(|p| p.windows.is_some());
    let mut compute = json!({
        "azEnvironment": "AzurePublicCloud",
        "location": spec.location,
        "name": spec.name,
        "offer": spec.image.offer,
        "osType": if windows { "Windows" } else { "Linux" },
        "placementGroupId": "",
        "plan": { "name": "", "product": "", "publisher": "" },
        "platformFaultDomain": "0",
        "platformUpdateDomain": "0",
        "provider": "Microsoft.Compute",
        "publicKeys": keys,
        "publisher": spec.image.publisher,
        "resourceGroupName": spec.resource_group,
        "resourceId": spec.resource_id,
        "sku": spec.image.sku,
        "storageProfile": {
            "dataDisks": spec.data_disks.iter().map(data_disk).collect::<Vec<_>>(),
            "imageReference": {
                "id": spec.image.id, "offer": spec.image.offer, "publisher": spec.image.publisher,
                "sku": spec.image.sku, "version": spec.image.version,
            },
            "osDisk": disk(&spec.os_disk),
        },
        "subscriptionId": spec.subscription_id,
        "tags": tags.join(";"),
        "tagsList": tag_list,
        "version": spec.image.version,
        "vmId": spec.id,
        "vmScaleSetName": "",
        "vmSize": spec.vm_size,
        "zone": spec.zone,
    });
    // A machine without a first boot to configure has no osProfile; cloud-init would act on one.
    if let Some(p) = &spec.provisioning {
        compute["osProfile"] = json!({
            "adminUsername": p.admin_user,
            "computerName": p.host_name,
            "disablePasswordAuthentication": p.disable_password.to_string(),
        });
    }
    if let Some(data) = &spec.user_data {
        compute["userData"] = json!(data);
    }
    compute["securityProfile"] = json!({
        "secureBootEnabled": spec.trusted_launch.as_ref().is_some_and(|l| l.secure_boot).to_string(),
        "virtualTpmEnabled": spec.trusted_launch.as_ref().is_some_and(|l| l.vtpm).to_string(),
    });
    compute["hyperVGeneration"] = json!(match spec.generation {
        Generation::V1 => "V1",
        Generation::V2 => "V2",
    });
    compute
}

fn disk(disk: &DiskSpec) -> Value {
    json!({ "diskSizeGB": disk.size_bytes.div_ceil(1 << 30).to_string() })
}

fn data_disk(spec: &DiskSpec) -> Value {
    let mut value = disk(spec);
    value["lun"] = json!(spec.lun.unwrap_or_default().to_string());
    value
}

fn interface(nic: &NicSpec) -> Value {
    let mask = u32::MAX.checked_shl(32 - u32::from(nic.prefix_len)).unwrap_or(0);
    let subnet = std::net::Ipv4Addr::from(u32::from(nic.address) & mask);
    let public = nic.public.as_ref().map_or_else(String::new, |p| p.address.to_string());
    json!({
        "macAddress": nic.mac.plain(),
        "ipv4": {
            "ipAddress": [{ "privateIpAddress": nic.address, "publicIpAddress": public }],
            "subnet": [{ "address": subnet, "prefix": nic.prefix_len.to_string() }],
        },
        "ipv6": { "ipAddress": [] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provisioning::tests::{ask, example};

    const CLOUD_INIT: &str = "/metadata/instance?api-version=2021-08-01&extended=true";

    fn get(path: &str) -> Answer {
        let mut request = ask("GET", path, "");
        request.headers.insert("metadata", "true".parse().unwrap());
        imds(&example(), &request)
    }

    fn text(path: &str) -> String {
        let answer = get(path);
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        String::from_utf8(answer.body).unwrap()
    }

    #[test]
    fn the_whole_document() {
        let value: Value = serde_json::from_str(&text(CLOUD_INIT)).unwrap();
        insta::assert_json_snapshot!(value);
    }

    #[test]
    fn a_specialized_machine_has_no_os_profile() {
        let spec = VmSpec { provisioning: None, ..example() };
        let document = instance(&spec);
        assert_eq!(document["compute"].get("osProfile"), None);
        assert_eq!(document["compute"]["publicKeys"], json!([]));
    }

    #[test]
    fn parts_and_leaves() {
        assert_eq!(text("/metadata/instance/compute/name?api-version=2018-02-01&format=text"), "web01");
        assert_eq!(text("/metadata/instance/compute/name?api-version=2018-02-01"), "\"web01\"");
        let path = "/metadata/instance/network/interface/0/ipv4/ipAddress/0/privateIpAddress";
        assert_eq!(text(&format!("{path}?api-version=2017-08-01&format=text")), "10.0.0.4");
        assert_eq!(text("/metadata/instance?api-version=2021-02-01&format=text"), "compute/\nnetwork/");
        let compute: Value = serde_json::from_str(&text("/metadata/instance/compute?api-version=2018-02-01")).unwrap();
        assert_eq!(compute["vmId"], json!(example().id));
        assert_eq!(get("/metadata/instance/compute/none?api-version=2018-02-01").status, StatusCode::NOT_FOUND);
        assert_eq!(get("/metadata/identity/oauth2/token?api-version=2018-02-01").status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_guards() {
        assert_eq!(imds(&example(), &ask("GET", CLOUD_INIT, "")).status, StatusCode::BAD_REQUEST);
        assert_eq!(get("/metadata/instance").status, StatusCode::BAD_REQUEST);
        assert_eq!(get("/metadata/instance?api-version=2099-01-01").status, StatusCode::BAD_REQUEST);
        let mut forwarded = ask("GET", CLOUD_INIT, "");
        forwarded.headers.insert("metadata", "true".parse().unwrap());
        forwarded.headers.insert("x-forwarded-for", "10.0.0.9".parse().unwrap());
        assert_eq!(imds(&example(), &forwarded).status, StatusCode::BAD_REQUEST);
    }
}
