//! Objects as Graph shows them, with every property. Nothing here tells a secret: of credentials, only what they are known by.

use super::{Kind, MANAGED_IDENTITY};
use crate::authorization::access::Access;
use crate::identity::{CERTIFICATE, SECRET};
use lazuli_meta::model::{Application, Credential, Principal};
use serde_json::{Value, json};

/// `2026-03-01T12:00:00Z`
pub(super) fn time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn time_of(value: &Value) -> Value {
    value.as_i64().map_or(Value::Null, |ms| json!(time(ms)))
}

/// Lays what is kept over the defaults.
fn over(mut defaults: Value, kept: &Value) -> Value {
    if let Some(kept) = kept.as_object() {
        super::properties::merge(&mut defaults, kept);
    }
    defaults
}

/// `kept`: its credentials; `None` leaves them out.
pub(super) fn principal(access: &Access, principal: &Principal, kept: Option<&[Credential]>) -> Value {
    match Kind::of(principal) {
        Kind::User => user(principal),
        Kind::Group => group(principal),
        _ => service_principal(principal, access.application(&principal.app_id), kept),
    }
}

fn user(user: &Principal) -> Value {
    let kept = &user.body["directory"];
    // As it was written, as long as it is the login.
    let name = kept["userPrincipalName"].as_str().filter(|n| n.to_lowercase() == user.login).unwrap_or(&user.login);
    let defaults = json!({
        "id": user.id,
        "businessPhones": [], "displayName": null, "givenName": null, "jobTitle": null, "mail": null,
        "mobilePhone": null, "officeLocation": null, "preferredLanguage": null, "surname": null,
        "userPrincipalName": null,
        "accountEnabled": user.body["accountEnabled"] != false,
        "ageGroup": null, "city": null, "companyName": null, "country": null,
        "createdDateTime": time_of(&user.body["createdMs"]),
        "creationType": null, "department": null, "employeeId": null, "faxNumber": null,
        "mailNickname": user.login.split('@').next(),
        "onPremisesImmutableId": null, "otherMails": [], "postalCode": null, "proxyAddresses": [],
        "securityIdentifier": null, "state": null, "streetAddress": null, "usageLocation": null,
        "userType": if crate::identity::is_guest(user) { "Guest" } else { "Member" },
    });
    let mut shown = over(defaults, kept);
    shown["displayName"] = json!(user.display_name);
    shown["userPrincipalName"] = json!(name);
    shown
}

fn group(group: &Principal) -> Value {
    let defaults = json!({
        "id": group.id,
        "deletedDateTime": null, "classification": null,
        "createdDateTime": time_of(&group.body["createdMs"]),
        "description": null, "displayName": null, "expirationDateTime": null, "groupTypes": [],
        "isAssignableToRole": null, "mail": null, "mailEnabled": false, "mailNickname": null, "membershipRule": null,
        "membershipRuleProcessingState": null, "onPremisesSyncEnabled": null, "preferredDataLocation": null,
        "preferredLanguage": null, "proxyAddresses": [], "securityEnabled": true, "theme": null, "visibility": null,
    });
    let mut shown = over(defaults, &group.body["directory"]);
    shown["displayName"] = json!(group.display_name);
    shown
}

pub(super) fn application(application: &Application, kept: Option<&[Credential]>) -> Value {
    let body = &application.body;
    let defaults = json!({
        "id": application.id,
        "deletedDateTime": null,
        "appId": application.app_id,
        "applicationTemplateId": null, "disabledByMicrosoftStatus": null,
        "createdDateTime": time_of(&body["createdMs"]),
        "displayName": application.app_id, "description": null, "groupMembershipClaims": null, "identifierUris": [],
        "isDeviceOnlyAuthSupported": null, "isFallbackPublicClient": null, "notes": null, "publisherDomain": null,
        "serviceManagementReference": null, "signInAudience": SINGLE_TENANT, "tags": [],
        "tokenEncryptionKeyId": null, "samlMetadataUrl": null, "defaultRedirectUri": null, "certification": null,
        "optionalClaims": null, "servicePrincipalLockConfiguration": null, "requestSignatureVerification": null,
        "addIns": [],
        "api": {
            "acceptMappedClaims": null, "knownClientApplications": [], "requestedAccessTokenVersion": null,
            "oauth2PermissionScopes": [], "preAuthorizedApplications": [],
        },
        "appRoles": [],
        "info": {
            "logoUrl": null, "marketingUrl": null, "privacyStatementUrl": null, "supportUrl": null,
            "termsOfServiceUrl": null,
        },
        "parentalControlSettings": {"countriesBlockedForMinors": [], "legalAgeGroupRule": "Allow"},
        "publicClient": {"redirectUris": []},
        "requiredResourceAccess": [],
        "verifiedPublisher": {"displayName": null, "verifiedPublisherId": null, "addedDateTime": null},
        "web": {
            "homePageUrl": null, "logoutUrl": null, "redirectUris": [],
            "implicitGrantSettings": {"enableAccessTokenIssuance": false, "enableIdTokenIssuance": false},
        },
        "spa": {"redirectUris": []},
    });
    let mut shown = over(defaults, body);
    if let Some(fields) = shown.as_object_mut() {
        fields.retain(|name, _| !["owners", "createdMs"].contains(&name.as_str()));
    }
    with_credentials(&mut shown, kept);
    shown
}

/// [`Application`]s whose service principals other tenants may not have, and those they may.
pub(super) const SINGLE_TENANT: &str = "AzureADMyOrg";
pub(super) const SEVERAL_TENANTS: &str = "AzureADMultipleOrgs";

fn service_principal(principal: &Principal, of: Option<&Application>, kept: Option<&[Credential]>) -> Value {
    let body = &principal.body;
    let registered = of.map(|a| &a.body).unwrap_or(&Value::Null);
    let managed = principal.kind == MANAGED_IDENTITY;
    let mut names = vec![json!(principal.app_id)];
    names.extend(registered["identifierUris"].as_array().into_iter().flatten().cloned());
    let list = |value: &Value| if value.is_array() { value.clone() } else { json!([]) };
    let defaults = json!({
        "id": principal.id,
        "deletedDateTime": null,
        "accountEnabled": body["accountEnabled"] != false,
        "alternativeNames": [],
        "appDisplayName": registered["displayName"].as_str().unwrap_or(&principal.display_name),
        "appDescription": registered["description"],
        "appId": principal.app_id,
        "applicationTemplateId": null,
        "appOwnerOrganizationId": of.map(|a| a.tenant.as_str()).filter(|_| !managed),
        "appRoleAssignmentRequired": false,
        "createdDateTime": time_of(&body["createdMs"]),
        "description": null, "disabledByMicrosoftStatus": null, "displayName": null,
        "homepage": registered["web"]["homePageUrl"],
        "loginUrl": null,
        "logoutUrl": registered["web"]["logoutUrl"],
        "notes": null, "notificationEmailAddresses": [], "preferredSingleSignOnMode": null,
        "preferredTokenSigningKeyThumbprint": null,
        "replyUrls": list(&registered["web"]["redirectUris"]),
        "servicePrincipalNames": names,
        "servicePrincipalType": if managed { "ManagedIdentity" } else { "Application" },
        "signInAudience": if managed { Value::Null } else { json!(registered["signInAudience"].as_str().unwrap_or(SINGLE_TENANT)) },
        "tags": [], "tokenEncryptionKeyId": null, "samlSingleSignOnSettings": null, "addIns": [],
        "appRoles": list(&registered["appRoles"]),
        "info": {
            "logoUrl": null, "marketingUrl": null, "privacyStatementUrl": null, "supportUrl": null,
            "termsOfServiceUrl": null,
        },
        "oauth2PermissionScopes": list(&registered["api"]["oauth2PermissionScopes"]),
        "resourceSpecificApplicationPermissions": [],
        "verifiedPublisher": {"displayName": null, "verifiedPublisherId": null, "addedDateTime": null},
    });
    let mut shown = over(defaults, &body["directory"]);
    shown["displayName"] = json!(principal.display_name);
    with_credentials(&mut shown, kept);
    shown
}

fn with_credentials(shown: &mut Value, kept: Option<&[Credential]>) {
    let Some(kept) = kept else { return };
    let of = |kind: &str, show: fn(&Credential) -> Value| -> Value {
        kept.iter().filter(|c| c.kind == kind).map(show).collect()
    };
    shown["keyCredentials"] = of(CERTIFICATE, key);
    shown["passwordCredentials"] = of(SECRET, password);
}

pub(super) fn password(credential: &Credential) -> Value {
    json!({
        "customKeyIdentifier": null,
        "displayName": credential.body["displayName"],
        "endDateTime": time(credential.expires_ms),
        "hint": credential.body["hint"],
        "keyId": credential.id,
        "secretText": null,
        "startDateTime": time_of(&credential.body["startMs"]),
    })
}

fn key(credential: &Credential) -> Value {
    json!({
        "customKeyIdentifier": credential.body["thumbprint"],
        "displayName": credential.body["displayName"],
        "endDateTime": time(credential.expires_ms),
        "key": null,
        "keyId": credential.id,
        "startDateTime": time_of(&credential.body["startMs"]),
        "type": "AsymmetricX509Cert",
        "usage": "Verify",
    })
}
