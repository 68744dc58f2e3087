//! OpenID discovery (v1, v2, AD FS form), instance discovery, and the key set.

use crate::app::App;
use crate::context::Context;
use crate::identity::refusal::Refusal;
use crate::respond::{self, Reply};
use http::StatusCode;
use lazuli_authz::TokenVersion;
use serde_json::{Value, json};

/// `/{tenant}[/v2.0]/.well-known/openid-configuration`; `adfs` stands for a tenant of its own form.
pub(crate) async fn configuration(app: &App, context: &Context, tenant: &str, version: TokenVersion) -> Reply {
    let authority = context.authority();
    if tenant.eq_ignore_ascii_case("adfs") {
        return respond::json(StatusCode::OK, &adfs(&authority));
    }
    if !is_shared(tenant) {
        match app.backend.has_tenant(tenant).await {
            Ok(true) => {}
            Ok(false) => return Refusal::unknown_tenant(tenant).reply(context),
            Err(error) => return respond::error(&error),
        }
    }
    respond::json(StatusCode::OK, &document(&authority, tenant, version))
}

/// Names that stand for any tenant.
pub(crate) fn is_shared(tenant: &str) -> bool {
    ["common", "organizations", "consumers"].iter().any(|t| tenant.eq_ignore_ascii_case(t))
}

fn document(authority: &str, tenant: &str, version: TokenVersion) -> Value {
    let base = format!("{authority}/{tenant}");
    let (oauth, keys) = match version {
        TokenVersion::V1 => ("oauth2", "discovery/keys"),
        TokenVersion::V2 => ("oauth2/v2.0", "discovery/v2.0/keys"),
    };
    let issued_for = if is_shared(tenant) { "{tenantid}" } else { tenant };
    json!({
        "issuer": lazuli_authz::token::issuer(authority, issued_for, version),
        "authorization_endpoint": format!("{base}/{oauth}/authorize"),
        "token_endpoint": format!("{base}/{oauth}/token"),
        "device_authorization_endpoint": format!("{base}/{oauth}/devicecode"),
        "jwks_uri": format!("{base}/{keys}"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid", "profile", "offline_access"],
        "claims_supported": [
            "sub", "iss", "aud", "exp", "iat", "nbf", "nonce", "tid", "oid", "appid", "ver", "name", "preferred_username",
        ],
        "tenant_region_scope": null,
    })
}

fn adfs(authority: &str) -> Value {
    json!({
        "issuer": format!("{authority}/adfs"),
        "authorization_endpoint": format!("{authority}/adfs/oauth2/authorize"),
        "token_endpoint": format!("{authority}/adfs/oauth2/token"),
        "device_authorization_endpoint": format!("{authority}/adfs/oauth2/devicecode"),
        "jwks_uri": format!("{authority}/adfs/discovery/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })
}

/// `/common/userrealm/{login}`: where a login's password is checked, which is here; whether there is such a login is not told.
pub(crate) fn user_realm(context: &Context, login: &str) -> Reply {
    let domain = login.rsplit_once('@').map_or("", |(_, domain)| domain);
    let authority = context.authority();
    respond::json(
        StatusCode::OK,
        &json!({
            "ver": "1.0", "account_type": "Managed", "domain_name": domain,
            "cloud_instance_name": authority.trim_start_matches("https://"),
            "cloud_audience_urn": "urn:federation:MicrosoftOnline",
        }),
    )
}

/// `/common/discovery/instance?authorization_endpoint=…`: this server vouches for the authority that is asked about.
pub(crate) fn instance(context: &Context) -> Reply {
    let asked = context.query.get("authorization_endpoint").map_or("", String::as_str);
    let tenant = url::Url::parse(asked)
        .ok()
        .and_then(|u| u.path_segments()?.next().map(str::to_owned))
        .filter(|t| !t.is_empty())
        .unwrap_or_else(|| "common".to_owned());
    let authority = context.authority();
    let network =
        |names: &[&str]| json!({"preferred_network": names[0], "preferred_cache": names[1], "aliases": names});
    let own = context.base.trim_start_matches("https://");
    let mut metadata = vec![
        network(&["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"]),
        network(&["login.partner.microsoftonline.cn", "login.partner.microsoftonline.cn", "login.chinacloudapi.cn"]),
    ];
    if context.cloud().is_none() {
        metadata.push(json!({"preferred_network": own, "preferred_cache": own, "aliases": [own]}));
    }
    respond::json(
        StatusCode::OK,
        &json!({
            "tenant_discovery_endpoint": format!("{authority}/{tenant}/v2.0/.well-known/openid-configuration"),
            "api-version": "1.1",
            "metadata": metadata,
        }),
    )
}
