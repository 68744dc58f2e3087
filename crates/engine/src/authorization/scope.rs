//! Where a role or a lock is given: `/`, a management group, a subscription, a group, a resource.

use crate::authorization::access::{Access, root_group};
use crate::call::Caller;
use lazuli_arm::{Above, ArmError, ResourceId};

/// A scope as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// `/`: the caller's whole tenant.
    Root,
    ManagementGroup(String),
    /// A subscription, a group or a resource.
    Resource(ResourceId),
}

const GROUPS: [&str; 3] = ["providers", "microsoft.management", "managementgroups"];

impl Scope {
    /// # Errors
    /// 400 `InvalidScope`.
    pub fn parse(text: &str) -> Result<Self, ArmError> {
        let segments: Vec<&str> = text.split('/').filter(|s| !s.is_empty()).collect();
        if segments.is_empty() {
            return Ok(Self::Root);
        }
        let is_group = segments.len() == 4 && segments.iter().zip(GROUPS).all(|(s, g)| s.eq_ignore_ascii_case(g));
        if is_group {
            return Ok(Self::ManagementGroup(segments[3].to_owned()));
        }
        let odd = segments.iter().any(|s| matches!(*s, "." | ".."));
        match text.parse::<ResourceId>() {
            Ok(id) if !odd => Ok(Self::Resource(id)),
            _ => Err(ArmError::bad_request("InvalidScope", format!("The scope '{text}' is invalid."))),
        }
    }

    /// As ids are shown; empty for the root, so that more can be appended.
    pub fn prefix(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::ManagementGroup(name) => format!("/providers/Microsoft.Management/managementGroups/{name}"),
            Self::Resource(id) => id.to_string(),
        }
    }

    pub fn shown(&self) -> String {
        match self {
            Self::Root => "/".to_owned(),
            _ => self.prefix(),
        }
    }

    /// To store and compare by.
    pub fn key(&self) -> String {
        self.shown().to_ascii_lowercase()
    }

    /// The scopes that it inherits from, and itself.
    pub fn with_ancestors(&self, tenant: &str) -> Vec<String> {
        let mut all = vec!["/".to_owned()];
        match self {
            Self::Root => {}
            Self::ManagementGroup(_) => all.push(self.key()),
            Self::Resource(id) => {
                if id.above.is_none() {
                    all.push(root_group(tenant));
                }
                let mut next = Some(id.clone());
                while let Some(id) = next {
                    all.push(id.key());
                    next = id.parent();
                }
            }
        }
        all
    }

    /// The tenant it is in, if the caller may know of it.
    ///
    /// # Errors
    /// As [`crate::Engine::require_subscription`]; 404 for a management group that is not there.
    pub fn tenant(&self, access: &Access, caller: &Caller) -> Result<String, ArmError> {
        match self {
            Self::Root => Ok(caller.tenant.clone()),
            // Each tenant has the one at its root.
            Self::ManagementGroup(name) if name.eq_ignore_ascii_case(&caller.tenant) => Ok(caller.tenant.clone()),
            Self::ManagementGroup(name) => Err(ArmError::new(
                404,
                "NotFound",
                format!("'/providers/Microsoft.Management/managementGroups/{name}' not found"),
            )),
            Self::Resource(id) => match &id.above {
                None => super::subscription_for(access, caller, &id.subscription).map(|s| s.tenant.clone()),
                Some(Above::ManagementGroup(name)) => Self::ManagementGroup(name.clone()).tenant(access, caller),
                Some(Above::Tenant(tenant)) if tenant.eq_ignore_ascii_case(&caller.tenant) => Ok(caller.tenant.clone()),
                Some(Above::Tenant(_)) => Err(super::missing_subscription()),
            },
        }
    }
}

/// Whether a stored scope lies at or below another (both in lower case).
pub(crate) fn is_within(scope: &str, at: &str) -> bool {
    at == "/" || scope.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_told_apart() {
        assert_eq!(Scope::parse("/").unwrap(), Scope::Root);
        assert_eq!(Scope::parse("").unwrap().shown(), "/");
        let group = Scope::parse("/providers/microsoft.management/ManagementGroups/T1").unwrap();
        assert_eq!(group.key(), "/providers/microsoft.management/managementgroups/t1");
        let disk = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d";
        let scope = Scope::parse(&disk.replace("/providers", "//providers")).unwrap();
        assert_eq!(scope.shown(), disk);
        let above = scope.with_ancestors("T");
        assert_eq!(above.len(), 5);
        assert!(above.contains(&"/subscriptions/s/resourcegroups/g".to_owned()), "{above:?}");
        for bad in ["x", "/tenants/t", "/subscriptions/s/../t", "/subscriptions/s/providers/Microsoft.Compute/disks"] {
            assert_eq!(Scope::parse(bad).unwrap_err().code, "InvalidScope", "{bad}");
        }
    }

    #[test]
    fn within_is_by_segments() {
        assert!(is_within("/subscriptions/s", "/") && is_within("/a/b", "/a"));
        assert!(!is_within("/ab", "/a") && !is_within("/a", "/a/b"));
    }
}
