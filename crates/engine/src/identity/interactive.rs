//! The clients that may ask people to sign in, and where they may be sent back to.

use super::SignInError;
use crate::{Engine, db_error};
use serde_json::Value;

/// Clients that exist in every directory of Azure: they have no secret, and listen on the person's own machine.
const WELL_KNOWN: &[(&str, &str)] = &[
    ("04b07795-8ddb-461a-bbee-02f9e1bf7b46", "Microsoft Azure CLI"),
    ("1950a258-227b-4e31-a9cf-717495945fc2", "Microsoft Azure PowerShell"),
    ("14d82eec-204b-4c2f-b7e8-296a70dab67e", "Microsoft Graph Command Line Tools"),
    ("579a7132-0e58-4d80-b1e1-7a1e2d337859", "AzCopy"),
    ("aebc6443-996d-45c2-90f0-388ff96faa56", "Visual Studio Code"),
];

/// A client that people may sign in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InteractiveClient {
    pub id: String,
    pub name: String,
    /// It can keep no secret: a code is given to it with a challenge only, and it redeems it without a secret.
    pub public: bool,
    /// It may be sent back to any port and path of the person's own machine.
    pub any_loopback: bool,
    pub redirect_uris: Vec<String>,
}

impl Engine {
    /// # Errors
    /// [`SignInError::UnknownClient`].
    pub async fn interactive_client(
        &self,
        tenant: Option<&str>,
        client: &str,
    ) -> Result<InteractiveClient, SignInError> {
        let id = client.to_ascii_lowercase();
        if let Some((id, name)) = WELL_KNOWN.iter().find(|(known, _)| *known == id) {
            return Ok(InteractiveClient {
                id: (*id).to_owned(),
                name: (*name).to_owned(),
                public: true,
                any_loopback: true,
                redirect_uris: vec![],
            });
        }
        let access = self.access().await?;
        let of_tenant = |t: &str| tenant.is_none_or(|wanted| t.eq_ignore_ascii_case(wanted));
        let principal = access.principals.values().find(|p| p.app_id == id && !id.is_empty() && of_tenant(&p.tenant));
        let Some(principal) = principal else { return Err(SignInError::UnknownClient(id)) };
        let application = self.db().application_by_app(&id).await.map_err(db_error)?;
        let registered = application.map(|a| a.body).unwrap_or(Value::Null);
        let uris = |kind: &str| -> Vec<String> {
            let listed = registered[kind]["redirectUris"].as_array().into_iter().flatten();
            listed.filter_map(|u| u.as_str().map(str::to_owned)).collect()
        };
        let native = uris("publicClient");
        Ok(InteractiveClient {
            name: principal.display_name.clone(),
            public: registered["isFallbackPublicClient"] == true || !native.is_empty(),
            any_loopback: false,
            redirect_uris: [native, uris("web"), uris("spa")].concat(),
            id,
        })
    }
}
