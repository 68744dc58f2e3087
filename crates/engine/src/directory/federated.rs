//! Federated credentials of applications: the tokens of another issuer that are taken for a client instead of a secret.

use super::properties::{self, Form, Table};
use super::{Directory, DirectoryError, Key};
use crate::db_error;
use crate::identity::{FEDERATED, MAX_FEDERATED, Trust};
use lazuli_meta::model::{Application, Change, Credential};
use serde_json::{Value, json};

const RESOURCE: &str = "FederatedIdentityCredential";
const PROPERTIES: Table = &[
    ("id", Form::Text),
    ("name", Form::Text),
    ("issuer", Form::Text),
    ("subject", Form::Text),
    ("description", Form::Text),
    ("audiences", Form::Texts),
    ("claimsMatchingExpression", Form::Unset),
];

fn shown(credential: &Credential) -> Value {
    let body = &credential.body;
    json!({
        "id": credential.id,
        "name": body["name"],
        "issuer": body["issuer"],
        "subject": body["subject"],
        "description": body["description"],
        "audiences": body["audiences"],
    })
}

fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (3..=120).contains(&name.len()) && name.chars().all(inner) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// What is given, over what is kept. A name stays.
fn trust(given: &Value, kept: Option<&Credential>) -> Result<Trust, DirectoryError> {
    let given = properties::take(given, PROPERTIES, RESOURCE)?;
    let text = |name: &str| {
        let new = given.get(name).and_then(Value::as_str);
        new.or_else(|| kept.and_then(|k| k.body[name].as_str())).unwrap_or_default().to_owned()
    };
    let required = |name: &str| {
        let text = text(name);
        if text.is_empty() { Err(DirectoryError::required(name, RESOURCE)) } else { Ok(text) }
    };
    let name = required("name")?;
    if !is_name(&name) || kept.is_some_and(|k| k.body["name"] != name) {
        return Err(DirectoryError::invalid("name", RESOURCE));
    }
    let audiences = given.get("audiences").or_else(|| kept.map(|k| &k.body["audiences"]));
    let audiences: Vec<String> = audiences.and_then(|a| serde_json::from_value(a.clone()).ok()).unwrap_or_default();
    if audiences.is_empty() || audiences.len() > 10 || audiences.iter().any(|a| a.is_empty() || a.len() > 600) {
        return Err(DirectoryError::invalid("audiences", RESOURCE));
    }
    Ok(Trust {
        name,
        issuer: required("issuer")?,
        subject: required("subject")?,
        audiences,
        description: Some(text("description")).filter(|d| !d.is_empty()),
    })
}

impl Directory<'_> {
    async fn trusted(&self, application: &Application) -> Result<Vec<Credential>, DirectoryError> {
        let kept = self.engine.db().credentials(&application.app_id).await.map_err(db_error)?;
        Ok(kept.into_iter().filter(|c| c.kind == FEDERATED).collect())
    }

    /// # Errors
    /// [`DirectoryError::NotFound`].
    pub async fn federated(&self, key: &Key) -> Result<Vec<Value>, DirectoryError> {
        let access = self.seen().await?;
        let application = self.application(&access, key)?;
        Ok(self.trusted(application).await?.iter().map(shown).collect())
    }

    /// Makes a federated credential, or (with its id or name) changes one.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn put_federated(&self, key: &Key, which: Option<&str>, body: &Value) -> Result<Value, DirectoryError> {
        loop {
            let access = self.now().await?;
            let application = self.application(&access, key)?;
            self.require_owner(&access, &application.body)?;
            let all = self.trusted(application).await?;
            let old = match which {
                Some(which) => Some(find(&all, which)?),
                None => None,
            };
            let trust = trust(body, old)?;
            if !self.engine.may_trust(&trust.issuer) {
                return Err(DirectoryError::invalid("issuer", RESOURCE));
            }
            let others: Vec<&Credential> = all.iter().filter(|c| old.is_none_or(|o| o.id != c.id)).collect();
            if others.len() >= MAX_FEDERATED {
                return Err(DirectoryError::bad(format!(
                    "No more than {MAX_FEDERATED} federated identity credentials can be added to an application."
                )));
            }
            let same = |field: &str, text: &str| others.iter().any(|c| c.body[field] == text);
            let twin = others.iter().any(|c| c.body["issuer"] == trust.issuer && c.body["subject"] == trust.subject);
            if same("name", &trust.name) || twin {
                return Err(DirectoryError::Refused {
                    status: 409,
                    code: "Request_MultipleObjectsWithSameKeyValue",
                    message:
                        "FederatedIdentityCredential with this name, or with this issuer and subject, already exists."
                            .to_owned(),
                });
            }
            let mut made = trust.credential(&application.app_id);
            if let Some(old) = old {
                old.id.clone_into(&mut made.id);
            }
            let changes = vec![Change::PutCredential(made.clone())];
            if self.commit(&access, changes, "applications/credentials/update", &application.id).await? {
                return Ok(shown(&made));
            }
        }
    }

    /// By its id or name.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn delete_federated(&self, key: &Key, which: &str) -> Result<(), DirectoryError> {
        loop {
            let access = self.now().await?;
            let application = self.application(&access, key)?;
            self.require_owner(&access, &application.body)?;
            let id = find(&self.trusted(application).await?, which)?.id.clone();
            let changes = vec![Change::DeleteCredential { id }];
            if self.commit(&access, changes, "applications/credentials/update", &application.id).await? {
                return Ok(());
            }
        }
    }
}

fn find<'a>(all: &'a [Credential], which: &str) -> Result<&'a Credential, DirectoryError> {
    let found = all.iter().find(|c| c.id.eq_ignore_ascii_case(which) || c.body["name"] == which);
    found.ok_or_else(|| DirectoryError::NotFound(which.to_owned()))
}
