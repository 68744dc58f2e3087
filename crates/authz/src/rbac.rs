//! Azure RBAC: may this principal do this action at this scope?
//!
//! Allowed is what any assignment allows: its scope is the asked scope or an ancestor of it, and the role's `actions`
//! match while its `notActions` do not. `notActions` only narrow their own role; they never take away what another
//! assignment gives. Everything compares without case, `*` spans slashes, and a string holds at most one `*`
//! (mission RB-1 to RB-3; Azure's documented rules).

mod built_in;
mod policy;

pub use built_in::*;
pub use policy::Policy;

use serde::{Deserialize, Serialize};

/// One block of a role: what it gives, minus what it leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Permissions {
    pub actions: Vec<String>,
    pub not_actions: Vec<String>,
    pub data_actions: Vec<String>,
    pub not_data_actions: Vec<String>,
}

/// A built-in or custom role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleDefinition {
    /// The id's last segment, a GUID.
    pub name: String,
    pub role_name: String,
    pub description: String,
    pub built_in: bool,
    pub permissions: Vec<Permissions>,
    pub assignable_scopes: Vec<String>,
}

/// A principal has a role at a scope and everywhere below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Object id.
    pub principal: String,
    /// [`RoleDefinition::name`].
    pub role: String,
    /// `/`, `/subscriptions/S`, `/subscriptions/S/resourceGroups/G`, or a resource id.
    pub scope: String,
}

/// Whether control-plane actions or data actions are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    Control,
    Data,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Object ids: the principal and the groups it belongs to.
    pub principals: &'a [&'a str],
    /// `Microsoft.Compute/galleries/write`.
    pub action: &'a str,
    pub plane: Plane,
    /// Id of the resource, group or subscription that is acted on.
    pub scope: &'a str,
}

/// A custom role that cannot be stored. The text may be shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    #[error("The action '{0}' contains multiple wildcards. Only one is allowed.")]
    MultipleWildcards(String),
    #[error(
        "The action '{0}' is not a valid action. It must look like 'Microsoft.Compute/galleries/read' or be a '*'."
    )]
    NotAnAction(String),
}

/// Checks the action strings of a custom role.
pub fn check_role(role: &RoleDefinition) -> Result<(), RoleError> {
    let all = role.permissions.iter().flat_map(|p| [&p.actions, &p.not_actions, &p.data_actions, &p.not_data_actions]);
    for action in all.flatten() {
        if action.matches('*').count() > 1 {
            return Err(RoleError::MultipleWildcards(action.clone()));
        }
        let valid = !action.is_empty()
            && !action.contains(|c: char| c.is_whitespace() || c.is_control())
            && (action.contains('/') || action.contains('*'));
        if !valid {
            return Err(RoleError::NotAnAction(action.clone()));
        }
    }
    Ok(())
}

/// Whether the assignments allow what is asked.
pub fn is_allowed(roles: &[RoleDefinition], assignments: &[Assignment], question: &Question<'_>) -> bool {
    assignments.iter().any(|a| {
        question.principals.iter().any(|p| p.eq_ignore_ascii_case(&a.principal))
            && scope_covers(&a.scope, question.scope)
            && roles
                .iter()
                .filter(|r| r.name.eq_ignore_ascii_case(&a.role))
                .any(|r| role_allows(r, question.action, question.plane))
    })
}

/// Whether a role gives an action, wherever it is assigned.
pub fn role_allows(role: &RoleDefinition, action: &str, plane: Plane) -> bool {
    role.permissions.iter().any(|p| {
        let (give, leave_out) = match plane {
            Plane::Control => (&p.actions, &p.not_actions),
            Plane::Data => (&p.data_actions, &p.not_data_actions),
        };
        let any = |patterns: &[String]| patterns.iter().any(|pattern| action_matches(pattern, action));
        any(give) && !any(leave_out)
    })
}

/// Whether an action matches a pattern with at most one `*`; a pattern with more matches nothing.
pub fn action_matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    match pattern.split_once('*') {
        None => pattern == action,
        Some((head, tail)) => {
            !tail.contains('*')
                && action.len() >= head.len() + tail.len()
                && action.starts_with(head)
                && action.ends_with(tail)
        }
    }
}

/// Whether `scope` is `at` or lies below it. Segments compare without case; doubled and trailing slashes do not count.
pub fn scope_covers(at: &str, scope: &str) -> bool {
    if !at.starts_with('/') {
        return false;
    }
    let mut below = scope.split('/').filter(|s| !s.is_empty());
    at.split('/').filter(|s| !s.is_empty()).all(|want| below.next().is_some_and(|got| got.eq_ignore_ascii_case(want)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GALLERY: &str = "/subscriptions/S/resourceGroups/rg/providers/Microsoft.Compute/galleries/g";

    fn allowed(role: &str, at: &str, action: &str, scope: &str) -> bool {
        let assignment = Assignment { principal: "P".into(), role: role.into(), scope: at.into() };
        let question = Question { principals: &["p"], action, plane: Plane::Control, scope };
        is_allowed(&built_in_roles(), &[assignment], &question)
    }

    /// RB-2, RB-3: what the built-in roles may do, reviewed like code.
    #[test]
    fn built_in_matrix() {
        let actions = [
            "Microsoft.Compute/galleries/read",
            "Microsoft.Compute/galleries/write",
            "Microsoft.Compute/galleries/images/versions/delete",
            "Microsoft.Compute/galleries/share/action",
            "Microsoft.Compute/disks/beginGetAccess/action",
            "Microsoft.Authorization/roleAssignments/read",
            "Microsoft.Authorization/roleAssignments/write",
            "Microsoft.Authorization/roleAssignments/delete",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
        ];
        let roles = built_in_roles();
        let mut table = String::new();
        for action in actions {
            let marks: Vec<&str> =
                roles[..3].iter().map(|r| if role_allows(r, action, Plane::Control) { "yes" } else { "-" }).collect();
            table.push_str(&format!("{action:55} {:5} {:11} {}\n", marks[0], marks[1], marks[2]));
        }
        insta::assert_snapshot!(table, @r"
        Microsoft.Compute/galleries/read                        yes   yes         yes
        Microsoft.Compute/galleries/write                       yes   yes         -
        Microsoft.Compute/galleries/images/versions/delete      yes   yes         -
        Microsoft.Compute/galleries/share/action                yes   -           -
        Microsoft.Compute/disks/beginGetAccess/action           yes   yes         -
        Microsoft.Authorization/roleAssignments/read            yes   yes         yes
        Microsoft.Authorization/roleAssignments/write           yes   -           -
        Microsoft.Authorization/roleAssignments/delete          yes   -           -
        Microsoft.Resources/subscriptions/resourceGroups/read   yes   yes         yes
        ");
    }

    #[test]
    fn assignments_are_inherited_downwards_only() {
        let write = "microsoft.compute/GALLERIES/write";
        for at in ["/", "/subscriptions/s", "/subscriptions/S/resourcegroups/RG/", GALLERY] {
            assert!(allowed(OWNER, at, write, GALLERY), "{at}");
        }
        let others =
            ["", "/subscriptions/other", "/subscriptions/S/resourceGroups/r", "/subscriptions/S/resourceGroups/rg2"];
        for at in others {
            assert!(!allowed(OWNER, at, write, GALLERY), "{at}");
        }
        assert!(!allowed(OWNER, GALLERY, write, "/subscriptions/S/resourceGroups/rg"));
        assert!(!allowed("unknown-role", "/", write, GALLERY));
    }

    #[test]
    fn not_actions_narrow_their_own_role_only() {
        let scope = "/subscriptions/s";
        let both = [CONTRIBUTOR, OWNER].map(|role| Assignment {
            principal: "p".into(),
            role: role.into(),
            scope: "/subscriptions/s".into(),
        });
        let question = |principals| Question {
            principals,
            action: "Microsoft.Authorization/roleAssignments/write",
            plane: Plane::Control,
            scope,
        };
        assert!(!is_allowed(&built_in_roles(), &both[..1], &question(&["p"])));
        assert!(is_allowed(&built_in_roles(), &both, &question(&["p"])));
        assert!(!is_allowed(&built_in_roles(), &both, &question(&["q"])));
        assert!(is_allowed(&built_in_roles(), &both, &question(&["q", "p"])), "through a group");
    }

    #[test]
    fn data_actions_are_apart() {
        let owner = &built_in_roles()[0];
        let read = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read";
        assert!(role_allows(owner, read, Plane::Control) && !role_allows(owner, read, Plane::Data));
    }

    /// RB-6: what opens blobs to bearer tokens.
    #[test]
    fn storage_matrix() {
        let container = "Microsoft.Storage/storageAccounts/blobServices/containers";
        let questions = [
            (Plane::Data, format!("{container}/blobs/read")),
            (Plane::Data, format!("{container}/blobs/write")),
            (Plane::Data, format!("{container}/blobs/delete")),
            (Plane::Data, format!("{container}/blobs/tags/write")),
            (Plane::Control, format!("{container}/read")),
            (Plane::Control, format!("{container}/write")),
            (
                Plane::Control,
                "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action".to_owned(),
            ),
            (Plane::Control, "Microsoft.Storage/storageAccounts/listKeys/action".to_owned()),
        ];
        let mut table = String::new();
        for (plane, action) in questions {
            let allowed = built_in_roles().into_iter().filter(|r| role_allows(r, &action, plane));
            let names: Vec<String> =
                allowed.map(|r| r.role_name.replace("Storage ", "").replace("Blob ", "")).collect();
            let action = action.replace("Microsoft.Storage/storageAccounts/", "").replace("blobServices/", "");
            table.push_str(&format!("{plane:?} {action}: {}\n", names.join(", ")));
        }
        insta::assert_snapshot!(table, @r"
        Data containers/blobs/read: Data Owner, Data Contributor, Data Reader
        Data containers/blobs/write: Data Owner, Data Contributor
        Data containers/blobs/delete: Data Owner, Data Contributor
        Data containers/blobs/tags/write: Data Owner
        Control containers/read: Owner, Contributor, Reader, User Access Administrator, Role Based Access Control Administrator, Account Contributor, Data Owner, Data Contributor, Data Reader
        Control containers/write: Owner, Contributor, Account Contributor, Data Owner, Data Contributor
        Control generateUserDelegationKey/action: Owner, Contributor, Account Contributor, Data Owner, Data Contributor, Data Reader, Delegator
        Control listKeys/action: Owner, Contributor, Disk Snapshot Contributor, Virtual Machine Contributor, Account Contributor
        ");
    }

    #[test]
    fn custom_roles_are_checked() {
        let mut role = built_in_roles().remove(2);
        for bad in ["Microsoft.*/x/*", "", "read", "Microsoft.Compute/a b"] {
            role.permissions[0].actions = vec![bad.to_owned()];
            assert!(check_role(&role).is_err(), "{bad}");
        }
        for good in ["*", "*/read", "Microsoft.Compute/*", "Microsoft.Compute/galleries/*/read"] {
            role.permissions[0].actions = vec![good.to_owned()];
            assert_eq!(check_role(&role), Ok(()), "{good}");
        }
    }

    proptest! {
        #[test]
        fn one_star_spans_anything(head in "[a-z./]{0,8}", middle in "[a-z./]{0,8}", tail in "[a-z./]{0,8}") {
            let (pattern, action) = (format!("{head}*{tail}"), format!("{head}{middle}{tail}"));
            prop_assert!(action_matches(&pattern, &action));
            let (upper_pattern, upper_action) = (pattern.to_uppercase(), action.to_uppercase());
            prop_assert!(action_matches(&upper_pattern, &action));
            prop_assert!(action_matches(&pattern, &upper_action));
        }

        #[test]
        fn a_star_never_overlaps(text in "[a-z]{1,8}") {
            // "ab*b" must not match "ab": head and tail may not share letters.
            let pattern = format!("{text}*{}", &text[text.len() - 1..]);
            prop_assert!(!action_matches(&pattern, &text));
        }

        #[test]
        fn a_pattern_without_star_matches_itself_only(pattern in "[a-z/]{1,12}", action in "[a-z/]{1,12}") {
            prop_assert_eq!(action_matches(&pattern, &action), pattern == action);
        }

        #[test]
        fn scopes_cover_themselves_and_what_is_below(at in "(/[a-zA-Z0-9.]{1,5}){1,6}", below in "(/[a-z]{1,5}){1,3}") {
            prop_assert!(scope_covers(&at, &at.to_uppercase()));
            let (deeper, longer_name) = (format!("{at}{below}"), format!("{at}x"));
            prop_assert!(scope_covers(&at, &deeper));
            prop_assert!(!scope_covers(&deeper, &at));
            prop_assert!(!scope_covers(&at, &longer_name), "a longer name is another name");
        }
    }
}
