//! Role assignments, role definitions and locks in templates: they hang on any scope and have no provider, so that their requests go
//! through [`Engine::extension`], as those of clients do.

use crate::Engine;
use crate::call::{Call, Extension, Method};
use lazuli_arm::ArmError;
use serde_json::Value;

const NAMESPACE: &str = "Microsoft.Authorization";
const KINDS: [&str; 3] = ["roleAssignments", "roleDefinitions", "locks"];

/// `{scope}/providers/Microsoft.Authorization/{kind}/{name}`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hanging {
    scope: String,
    kind: &'static str,
    name: String,
}

impl Hanging {
    /// `None`: the id is that of a resource with a provider.
    pub fn parse(id: &str) -> Option<Self> {
        let mut from_end = id.rsplit('/');
        let (name, kind, namespace, providers) =
            (from_end.next()?, from_end.next()?, from_end.next()?, from_end.next()?);
        let kind = KINDS.into_iter().find(|k| k.eq_ignore_ascii_case(kind))?;
        if !namespace.eq_ignore_ascii_case(NAMESPACE) || !providers.eq_ignore_ascii_case("providers") {
            return None;
        }
        let tail = [providers, namespace, kind, name].iter().map(|s| s.len() + 1).sum::<usize>();
        Some(Self { scope: id[..id.len() - tail].to_owned(), kind, name: name.to_owned() })
    }

    /// The right to write it, and where it is needed.
    pub fn right(&self) -> (String, &str) {
        let scope = if self.scope.is_empty() { "/" } else { &self.scope };
        (format!("{NAMESPACE}/{}/write", self.kind), scope)
    }

    /// # Errors
    /// As the request itself.
    pub async fn get(&self, engine: &Engine, call: &Call) -> Result<Value, ArmError> {
        Ok(self.ask(engine, call, Method::Get, Value::Null).await?.1)
    }

    /// Whether it is new.
    ///
    /// # Errors
    /// As the request itself.
    pub async fn put(&self, engine: &Engine, call: &Call, body: Value) -> Result<bool, ArmError> {
        Ok(self.ask(engine, call, Method::Put, body).await?.0 == 201)
    }

    async fn ask(&self, engine: &Engine, call: &Call, method: Method, body: Value) -> Result<(u16, Value), ArmError> {
        let asked = Extension {
            scope: self.scope.clone(),
            namespace: NAMESPACE.to_owned(),
            path: vec![self.kind.to_owned(), self.name.clone()],
            method,
            body,
        };
        let reply = engine.extension(call, &asked).await?;
        let reply = reply.ok_or_else(|| ArmError::internal(format!("{} are not known", self.kind)))?;
        Ok((reply.status, reply.body.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_on_a_scope_is_told_by_its_id() {
        let group = "/subscriptions/s/resourceGroups/g";
        let disk = format!("{group}/providers/Microsoft.Compute/disks/d");
        for scope in ["", "/subscriptions/s", group, &disk] {
            let found =
                Hanging::parse(&format!("{scope}/providers/microsoft.authorization/roleassignments/n")).unwrap();
            assert_eq!(found, Hanging { scope: scope.to_owned(), kind: "roleAssignments", name: "n".into() });
        }
        let policy = format!("{group}/providers/Microsoft.Authorization/policyAssignments/n");
        let child = format!("{group}/providers/Microsoft.Authorization/locks/n/locks/m");
        for other in ["", "/locks/n", group, &disk, &policy, &child] {
            assert_eq!(Hanging::parse(other), None, "{other}");
        }
        assert_eq!(Hanging::parse("/providers/Microsoft.Authorization/locks/l").unwrap().right().1, "/");
    }
}
