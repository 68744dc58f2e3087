//! `Microsoft.Storage/storageAccounts`.
//!
//! Accounts serve blobs and nothing else: what Azure offers beyond that (files, queues, tables, hierarchical namespaces,
//! customer-managed keys, private endpoints, virtual-network rules) is refused where it is asked for. Redundancy beyond the
//! region is accepted, because clients ask for it by default, and shown as it is: there is no secondary
//! (`statusOfSecondary: "unavailable"`, no secondary endpoints).
//!
//! Sources: Swagger Microsoft.Storage, az-cli.md §4 (`az storage account create`).

use super::{Context, Fields, Head, merge_patch, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;

const KINDS: &[&str] = &["StorageV2", "Storage", "BlobStorage", "BlockBlobStorage", "FileStorage"];
const SKUS: &[&str] = &[
    "Standard_LRS",
    "Standard_ZRS",
    "Standard_GRS",
    "Standard_RAGRS",
    "Standard_GZRS",
    "Standard_RAGZRS",
    "Premium_LRS",
    "Premium_ZRS",
];
/// Names that stand for something else where the account is the first segment of a path.
const RESERVED: &[&str] = &[
    "adfs",
    "common",
    "consumers",
    "healthz",
    "metadata",
    "organizations",
    "portal",
    "providers",
    "subscriptions",
    "tenants",
];
const MAX_RULES: usize = 200;

/// Whether `name` may be an account's: 3 to 24 lower-case letters and digits.
pub fn is_valid_name(name: &str) -> bool {
    (3..=24).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && !RESERVED.contains(&name)
}

/// What is wrong with a name for which [`is_valid_name`] is false.
pub fn name_problem(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("{name} is not a valid storage account name: it is a reserved word.");
    }
    format!(
        "{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and \
         use numbers and lower-case letters only."
    )
}

/// 400 `AccountNameInvalid`.
pub fn check_name(name: &str) -> Result<(), ArmError> {
    if is_valid_name(name) { Ok(()) } else { Err(ArmError::bad_request("AccountNameInvalid", name_problem(name))) }
}

/// What `checkNameAvailability` says of a name that another account has.
pub fn taken(name: &str) -> String {
    format!("The storage account named {name} is already taken.")
}

/// Updatable: `tags`, `sku` within its tier, `kind` up to `StorageV2`, and all properties that are not refused. A PUT on an
/// existing account changes what it names and keeps the rest.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let merged = old.map(|old| merge_patch(old, new));
    let body = Fields::root("storageAccount", merged.as_ref().unwrap_or(new))?;
    let head = Head::read(id, &body, old, ctx)?;
    refuse_foreign(&body)?;
    let sku = sku(&body, old)?;
    let kind = kind(&body, sku, old)?;
    let properties = properties(&body.object("properties")?, kind, sku)?;
    let tier = if sku.starts_with("Premium") { "Premium" } else { "Standard" };
    Ok(head.body(vec![("sku", json!({"name": sku, "tier": tier})), ("kind", kind.into())], properties))
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let merged = merge_patch(old, patch);
    put(id, &merged, Some(old), ctx)
}

fn refuse_foreign(body: &Fields<'_>) -> Result<(), ArmError> {
    if body.get("extendedLocation").is_some() {
        return Err(not_offered("storageAccount.extendedLocation", "this server has no edge zones"));
    }
    match body.object("identity")?.str("type")?.as_deref() {
        None | Some("None") => Ok(()),
        Some(_) => Err(not_offered("storageAccount.identity", "storage accounts have no identities here")),
    }
}

fn sku(body: &Fields<'_>, old: Option<&Value>) -> Result<&'static str, ArmError> {
    let given = body.object("sku")?;
    let sku = given.one_of("name", SKUS)?.ok_or_else(|| given.missing("name"))?;
    let family = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
    match old.and_then(|o| o["sku"]["name"].as_str()) {
        Some(old) if family(old) != family(sku) => Err(read_only("sku.tier")),
        _ => Ok(sku),
    }
}

fn kind(body: &Fields<'_>, sku: &str, old: Option<&Value>) -> Result<&'static str, ArmError> {
    let kind = body.one_of("kind", KINDS)?.ok_or_else(|| body.missing("kind"))?;
    if kind == "FileStorage" {
        return Err(not_offered("storageAccount.kind", "accounts of this server hold blobs, not files"));
    }
    let premium = sku.starts_with("Premium");
    if (kind == "BlockBlobStorage" && !premium) || (kind == "BlobStorage" && premium) {
        return Err(ArmError::bad_request(
            "InvalidAccountType",
            format!("The AccountType {sku} is invalid. For more information, see - https://aka.ms/storageaccountskus"),
        ));
    }
    match old.and_then(|o| o["kind"].as_str()) {
        Some(old) if old != kind && !(kind == "StorageV2" && matches!(old, "Storage" | "BlobStorage")) => {
            Err(read_only("kind"))
        }
        _ => Ok(kind),
    }
}

/// Azure's words for what is decided when the account is made.
fn read_only(property: &str) -> ArmError {
    ArmError::bad_request(
        "AccountPropertyCannotBeUpdated",
        format!(
            "The property '{property}' was specified in the input, but it cannot be updated as it is read-only. For more \
             information, see - https://aka.ms/storageaccountupdate"
        ),
    )
    .target(property)
}

fn properties(given: &Fields<'_>, kind: &str, sku: &str) -> Result<Map<String, Value>, ArmError> {
    refuse_switches(given)?;
    let mut out = Map::new();
    for name in ["defaultToOAuthAuthentication", "allowSharedKeyAccess"] {
        if let Some(value) = given.bool(name)? {
            out.insert(name.into(), value.into());
        }
    }
    match given.one_of("publicNetworkAccess", &["Enabled", "Disabled", "SecuredByPerimeter"])? {
        Some("SecuredByPerimeter") => {
            return Err(not_offered(&given.path("publicNetworkAccess"), "this server has no security perimeters"));
        }
        Some(access) => drop(out.insert("publicNetworkAccess".into(), access.into())),
        None => {}
    }
    out.insert(
        "allowCrossTenantReplication".into(),
        given.bool("allowCrossTenantReplication")?.unwrap_or_default().into(),
    );
    let tls = given.one_of("minimumTlsVersion", &["TLS1_0", "TLS1_1", "TLS1_2", "TLS1_3"])?.unwrap_or("TLS1_2");
    if tls == "TLS1_3" {
        return Err(not_offered(&given.path("minimumTlsVersion"), "clients with TLS 1.2 are always let in"));
    }
    out.insert("minimumTlsVersion".into(), tls.into());
    out.insert("allowBlobPublicAccess".into(), given.bool("allowBlobPublicAccess")?.unwrap_or_default().into());
    out.insert("networkAcls".into(), network_rules(&given.object("networkAcls")?)?);
    out.insert("supportsHttpsTrafficOnly".into(), given.bool("supportsHttpsTrafficOnly")?.unwrap_or(true).into());
    out.insert("encryption".into(), encryption(&given.object("encryption")?)?);
    if let Some(tier) = access_tier(given, kind, sku)? {
        out.insert("accessTier".into(), tier.into());
    }
    if let Some(days) = given.object("keyPolicy")?.int_within("keyExpirationPeriodInDays", 0, 365)? {
        out.insert("keyPolicy".into(), json!({"keyExpirationPeriodInDays": days}));
    }
    Ok(out)
}

/// Switches that are accepted when they are off.
fn refuse_switches(given: &Fields<'_>) -> Result<(), ArmError> {
    for name in ["isHnsEnabled", "isNfsV3Enabled", "isSftpEnabled", "isLocalUserEnabled", "enableExtendedGroups"] {
        if given.bool(name)? == Some(true) {
            return Err(not_offered(&given.path(name), "accounts of this server hold blobs in a flat namespace"));
        }
    }
    for name in ["customDomain", "sasPolicy", "immutableStorageWithVersioning", "allowedCopyScope"] {
        if given.get(name).is_some_and(|v| v.as_object().is_none_or(|o| !o.is_empty())) {
            return Err(not_offered(&given.path(name), "this server does not enforce it"));
        }
    }
    if given.one_of("dnsEndpointType", &["Standard", "AzureDnsZone"])? == Some("AzureDnsZone") {
        return Err(not_offered(&given.path("dnsEndpointType"), "endpoints are of type Standard"));
    }
    let routing = given.object("routingPreference")?;
    if routing.one_of("routingChoice", &["MicrosoftRouting", "InternetRouting"])? == Some("InternetRouting")
        || routing.bool("publishMicrosoftEndpoints")? == Some(true)
        || routing.bool("publishInternetEndpoints")? == Some(true)
    {
        return Err(not_offered(&given.path("routingPreference"), "there is one way to this server"));
    }
    Ok(())
}

fn access_tier(given: &Fields<'_>, kind: &str, sku: &str) -> Result<Option<&'static str>, ArmError> {
    let asked = given.one_of("accessTier", &["Hot", "Cool", "Cold", "Premium"])?;
    Ok(match kind {
        "Storage" => None,
        _ if sku.starts_with("Premium") => Some("Premium"),
        _ => Some(asked.filter(|tier| *tier != "Premium").unwrap_or("Hot")),
    })
}

fn encryption(given: &Fields<'_>) -> Result<Value, ArmError> {
    if given.one_of("keySource", &["Microsoft.Storage", "Microsoft.Keyvault"])? == Some("Microsoft.Keyvault") {
        return Err(not_offered(&given.path("keySource"), "this server has no key vaults"));
    }
    if given.bool("requireInfrastructureEncryption")? == Some(true) {
        return Err(not_offered(&given.path("requireInfrastructureEncryption"), "bytes are not encrypted twice"));
    }
    Ok(json!({"services": {"blob": {"keyType": "Account"}}, "keySource": "Microsoft.Storage"}))
}

/// Who is let in is decided by the caller's address alone.
fn network_rules(given: &Fields<'_>) -> Result<Value, ArmError> {
    for name in ["virtualNetworkRules", "resourceAccessRules"] {
        let rules = given.get(name).and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        if rules {
            return Err(not_offered(&given.path(name), "addresses (ipRules) are what this server can tell apart"));
        }
    }
    let mut rules = Vec::new();
    for (i, rule) in given.get("ipRules").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let rule = Fields::root(&given.path(&format!("ipRules[{i}]")), rule)?;
        let value = rule.required_str("value")?;
        if address_range(&value).is_none() {
            return Err(ArmError::bad_request(
                "InvalidValuesForRequestParameters",
                format!("Values for request parameters are invalid: networkAcls.ipRule[*].value. ({value})"),
            ));
        }
        rules.push(json!({"value": value, "action": "Allow"}));
    }
    if rules.len() > MAX_RULES {
        return Err(ArmError::bad_request(
            "NetworkAclsTooManyRules",
            format!("An account has at most {MAX_RULES} IP rules."),
        ));
    }
    let bypass = given.str("bypass")?.unwrap_or_else(|| "AzureServices".to_owned());
    let action = given.one_of("defaultAction", &["Allow", "Deny"])?.unwrap_or("Allow");
    Ok(json!({"bypass": bypass, "virtualNetworkRules": [], "ipRules": rules, "defaultAction": action}))
}

/// First and last address of an IP rule: `16.17.18.19`, `16.17.18.0/24`, `16.17.18.0-16.17.18.9`.
pub fn address_range(text: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    if let Some((low, high)) = text.split_once('-') {
        let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        return (low <= high).then_some((low, high));
    }
    let Some((address, bits)) = text.split_once('/') else {
        let one = text.trim().parse().ok()?;
        return Some((one, one));
    };
    let (address, bits): (Ipv4Addr, u32) = (address.trim().parse().ok()?, bits.trim().parse().ok()?);
    let host = if bits == 0 { u32::MAX } else { u32::MAX.checked_shr(bits).filter(|_| bits <= 32).unwrap_or(0) };
    (bits <= 32).then(|| (Ipv4Addr::from(address.to_bits() & !host), Ipv4Addr::from(address.to_bits() | host)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, version};
    use super::*;
    use proptest::prelude::*;

    fn id(name: &str) -> ResourceId {
        format!("/subscriptions/0/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/{name}").parse().unwrap()
    }

    fn with(properties: &Value) -> Value {
        json!({"sku": {"name": "standard_lrs"}, "kind": "StorageV2", "location": "East US", "properties": properties})
    }

    /// `az storage account create -g rg1 -n acct1 -l eastus --sku Standard_LRS`
    #[test]
    fn az_storage_account_create() {
        let api = version("2025-08-01");
        let ctx = context(&api);
        let sent = with(&json!({"encryption": {"keySource": "Microsoft.Storage", "services": {"blob": {}}}}));
        let body = put(&id("acct1"), &sent, None, &ctx).unwrap();
        assert_eq!(body["sku"], json!({"name": "Standard_LRS", "tier": "Standard"}));
        assert_eq!((&body["location"], &body["kind"]), (&json!("eastus"), &json!("StorageV2")));
        assert_eq!(
            body["properties"],
            json!({
                "allowCrossTenantReplication": false,
                "minimumTlsVersion": "TLS1_2",
                "allowBlobPublicAccess": false,
                "networkAcls": {"bypass": "AzureServices", "virtualNetworkRules": [], "ipRules": [], "defaultAction": "Allow"},
                "supportsHttpsTrafficOnly": true,
                "encryption": {"services": {"blob": {"keyType": "Account"}}, "keySource": "Microsoft.Storage"},
                "accessTier": "Hot",
            })
        );
        let change = json!({"tags": {"a": "1"}, "sku": {"name": "Standard_ZRS"}, "properties": {"accessTier": "cool"}});
        let patched = patch(&id("acct1"), &change, &body, &ctx).unwrap();
        assert_eq!(
            (&patched["sku"]["name"], &patched["properties"]["accessTier"]),
            (&json!("Standard_ZRS"), &json!("Cool"))
        );
        let again = put(&id("acct1"), &sent, Some(&patched), &ctx).unwrap();
        assert_eq!((&again["tags"], &again["properties"]["accessTier"]), (&json!({"a": "1"}), &json!("Cool")));
    }

    #[test]
    fn refuses_what_it_does_not_do() {
        let api = version("2025-08-01");
        let ctx = context(&api);
        for refused in [
            json!({"isHnsEnabled": true}),
            json!({"isNfsV3Enabled": "true"}),
            json!({"encryption": {"keySource": "Microsoft.Keyvault"}}),
            json!({"encryption": {"requireInfrastructureEncryption": true}}),
            json!({"minimumTlsVersion": "TLS1_3"}),
            json!({"networkAcls": {"virtualNetworkRules": [{"id": "x"}]}}),
            json!({"publicNetworkAccess": "SecuredByPerimeter"}),
            json!({"sasPolicy": {"sasExpirationPeriod": "1.00:00:00"}}),
            json!({"dnsEndpointType": "AzureDnsZone"}),
            json!({"routingPreference": {"routingChoice": "InternetRouting"}}),
        ] {
            let error = put(&id("acct1"), &with(&refused), None, &ctx).unwrap_err();
            assert_eq!((error.status, error.code.as_str()), (400, "OperationNotSupported"), "{refused}");
        }
        let off = json!({"isHnsEnabled": false, "isSftpEnabled": null, "dnsEndpointType": "Standard",
            "routingPreference": {"routingChoice": "MicrosoftRouting", "publishInternetEndpoints": false}});
        put(&id("acct1"), &with(&off), None, &ctx).unwrap();
        for (body, code) in [
            (json!({"location": "eastus", "kind": "StorageV2"}), "InvalidParameter"),
            (
                json!({"location": "eastus", "kind": "FileStorage", "sku": {"name": "Premium_LRS"}}),
                "OperationNotSupported",
            ),
            (
                json!({"location": "eastus", "kind": "BlobStorage", "sku": {"name": "Premium_LRS"}}),
                "InvalidAccountType",
            ),
            (json!({"kind": "StorageV2", "sku": {"name": "Standard_LRS"}}), "LocationRequired"),
            (
                with(&json!({"networkAcls": {"ipRules": [{"value": "10.0.0.0/33"}]}})),
                "InvalidValuesForRequestParameters",
            ),
        ] {
            assert_eq!(put(&id("acct1"), &body, None, &ctx).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn kind_and_tier_stay() {
        let api = version("2025-08-01");
        let ctx = context(&api);
        let old = put(&id("acct1"), &with(&json!({})), None, &ctx).unwrap();
        for change in [json!({"sku": {"name": "Premium_LRS"}}), json!({"kind": "BlobStorage"})] {
            let error = patch(&id("acct1"), &change, &old, &ctx).unwrap_err();
            assert_eq!(error.code, "AccountPropertyCannotBeUpdated", "{change}");
        }
        let mut first = with(&json!({}));
        first["kind"] = json!("Storage");
        let old = put(&id("acct1"), &first, None, &ctx).unwrap();
        assert!(old["properties"].get("accessTier").is_none());
        let upgraded = patch(&id("acct1"), &json!({"kind": "StorageV2"}), &old, &ctx).unwrap();
        assert_eq!(upgraded["properties"]["accessTier"], "Hot");
    }

    #[test]
    fn names() {
        for bad in ["ab", "a-b", "Abc", "a_b", "äbc", &"a".repeat(25), "subscriptions", "providers"] {
            assert_eq!(check_name(bad).unwrap_err().code, "AccountNameInvalid", "{bad}");
        }
        for good in ["abc", "0ab", &"a".repeat(24)] {
            check_name(good).unwrap();
        }
    }

    proptest! {
        #[test]
        fn an_address_is_in_its_own_ranges(ip: u32, bits in 0..=32_u32, other: u32) {
            let ip = Ipv4Addr::from(ip);
            prop_assert_eq!(address_range(&ip.to_string()), Some((ip, ip)));
            let (low, high) = address_range(&format!("{ip}/{bits}")).unwrap();
            prop_assert!((low..=high).contains(&ip));
            prop_assert_eq!(u64::from(high.to_bits() - low.to_bits()) + 1, 1_u64 << (32 - bits));
            let same = u64::from(ip.to_bits() ^ other) >> (32 - bits) == 0;
            prop_assert_eq!((low..=high).contains(&Ipv4Addr::from(other)), same);
        }

        #[test]
        fn never_panics(text in "[0-9./-]{0,20}") {
            let _ = address_range(&text);
        }
    }
}
