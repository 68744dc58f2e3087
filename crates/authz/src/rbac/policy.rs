//! The evaluator for many questions: roles and assignments are made ready once, a question then costs some comparisons for each
//! assignment of its principals. It decides as [`super::is_allowed`] does.

use super::{Assignment, Permissions, Plane, Question, RoleDefinition};
use std::collections::HashMap;
use std::sync::Arc;

/// Everything that decisions rest on, at one moment.
#[derive(Debug, Default)]
pub struct Policy {
    by_principal: HashMap<String, Vec<Given>>,
    /// Lower-case subscription id → scopes above it (`/providers/microsoft.management/managementgroups/x`), in lower case.
    above: HashMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Given {
    /// In lower case, without a slash at the end; empty for `/`.
    scope: String,
    role: Arc<Role>,
}

#[derive(Debug)]
struct Role {
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    actions: Vec<Pattern>,
    not_actions: Vec<Pattern>,
    data_actions: Vec<Pattern>,
    not_data_actions: Vec<Pattern>,
}

#[derive(Debug)]
enum Pattern {
    Exact(String),
    Around {
        head: String,
        tail: String,
    },
    /// More than one wildcard: matches nothing.
    Never,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.split_once('*') {
            None => Self::Exact(text),
            Some((_, tail)) if tail.contains('*') => Self::Never,
            Some((head, tail)) => Self::Around { head: head.to_owned(), tail: tail.to_owned() },
        }
    }

    fn matches(&self, action: &str) -> bool {
        match self {
            Self::Exact(text) => text == action,
            Self::Around { head, tail } => {
                action.len() >= head.len() + tail.len() && action.starts_with(head) && action.ends_with(tail)
            }
            Self::Never => false,
        }
    }
}

impl Block {
    fn new(permissions: &Permissions) -> Self {
        let patterns = |texts: &[String]| texts.iter().map(|t| Pattern::new(t)).collect();
        Self {
            actions: patterns(&permissions.actions),
            not_actions: patterns(&permissions.not_actions),
            data_actions: patterns(&permissions.data_actions),
            not_data_actions: patterns(&permissions.not_data_actions),
        }
    }

    fn allows(&self, action: &str, plane: Plane) -> bool {
        let (give, leave_out) = match plane {
            Plane::Control => (&self.actions, &self.not_actions),
            Plane::Data => (&self.data_actions, &self.not_data_actions),
        };
        give.iter().any(|p| p.matches(action)) && !leave_out.iter().any(|p| p.matches(action))
    }
}

impl Role {
    fn allows(&self, action: &str, plane: Plane) -> bool {
        self.blocks.iter().any(|b| b.allows(action, plane))
    }
}

/// In lower case, without doubled slashes and slashes at the end; `None` for what is no scope.
fn normal(scope: &str) -> Option<String> {
    if !scope.starts_with('/') {
        return None;
    }
    let mut out = String::with_capacity(scope.len());
    for segment in scope.split('/').filter(|s| !s.is_empty()) {
        out.push('/');
        out.push_str(segment);
    }
    out.make_ascii_lowercase();
    Some(out)
}

fn covers(at: &str, scope: &str) -> bool {
    scope.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Policy {
    /// Assignments of roles that are not among `roles` give nothing. `above`: (subscription, scope above it).
    pub fn new<'a>(
        roles: impl IntoIterator<Item = &'a RoleDefinition>,
        assignments: impl IntoIterator<Item = &'a Assignment>,
        above: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Self {
        let role = |r: &RoleDefinition| {
            let blocks = r.permissions.iter().map(Block::new).collect();
            (r.name.to_ascii_lowercase(), Arc::new(Role { blocks }))
        };
        let roles: HashMap<String, Arc<Role>> = roles.into_iter().map(role).collect();
        let mut policy = Self::default();
        for assignment in assignments {
            let role = roles.get(&assignment.role.to_ascii_lowercase());
            if let (Some(role), Some(scope)) = (role, normal(&assignment.scope)) {
                let given = policy.by_principal.entry(assignment.principal.to_ascii_lowercase()).or_default();
                given.push(Given { scope, role: role.clone() });
            }
        }
        for (subscription, scope) in above {
            let scopes = policy.above.entry(subscription.to_ascii_lowercase()).or_default();
            scopes.extend(normal(&scope));
        }
        policy
    }

    /// Whether the assignments allow what is asked.
    pub fn allows(&self, question: &Question<'_>) -> bool {
        let Some(scope) = normal(question.scope) else { return false };
        let action = question.action.to_ascii_lowercase();
        let above = self.above(&scope);
        self.given(question.principals).any(|given| {
            (covers(&given.scope, &scope) || above.contains(&given.scope)) && given.role.allows(&action, question.plane)
        })
    }

    /// Whether they allow it at the scope or at anything below it: who may read one disk of a group may ask for the list.
    pub fn allows_below(&self, question: &Question<'_>) -> bool {
        let Some(scope) = normal(question.scope) else { return false };
        let action = question.action.to_ascii_lowercase();
        let above = self.above(&scope);
        self.given(question.principals).any(|given| {
            let near = covers(&given.scope, &scope) || covers(&scope, &given.scope) || above.contains(&given.scope);
            near && given.role.allows(&action, question.plane)
        })
    }

    /// Whether the principals have any role at, above or below the scope.
    pub fn reaches(&self, principals: &[&str], scope: &str) -> bool {
        let Some(scope) = normal(scope) else { return false };
        let above = self.above(&scope);
        self.given(principals)
            .any(|given| covers(&given.scope, &scope) || covers(&scope, &given.scope) || above.contains(&given.scope))
    }

    fn given(&self, principals: &[&str]) -> impl Iterator<Item = &Given> {
        principals.iter().filter_map(|p| self.by_principal.get(&p.to_ascii_lowercase())).flatten()
    }

    fn above(&self, scope: &str) -> &[String] {
        let subscription = scope.strip_prefix("/subscriptions/").and_then(|rest| rest.split('/').next());
        subscription.and_then(|s| self.above.get(s)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{built_in_roles, is_allowed, role_allows};
    use super::*;
    use proptest::prelude::*;

    /// The slow, obvious model: all ways to let the star stand for some text, all prefixes of the scope.
    fn model_matches(pattern: &str, action: &str) -> bool {
        let (pattern, action) = (pattern.to_lowercase(), action.to_lowercase());
        match pattern.matches('*').count() {
            0 => pattern == action,
            1 => (0..=action.len())
                .flat_map(|a| (a..=action.len()).map(move |b| (a, b)))
                .any(|(a, b)| pattern.replace('*', &action[a..b]) == action),
            _ => false,
        }
    }

    fn model(roles: &[RoleDefinition], assignments: &[Assignment], question: &Question<'_>) -> bool {
        let segments: Vec<String> =
            question.scope.split('/').filter(|s| !s.is_empty()).map(str::to_lowercase).collect();
        let scopes: Vec<Vec<String>> = (0..=segments.len()).map(|n| segments[..n].to_vec()).collect();
        for assignment in assignments {
            let at: Vec<String> =
                assignment.scope.split('/').filter(|s| !s.is_empty()).map(str::to_lowercase).collect();
            let mine = question.principals.iter().any(|p| p.to_lowercase() == assignment.principal.to_lowercase());
            if !mine || !assignment.scope.starts_with('/') || !scopes.contains(&at) {
                continue;
            }
            for role in roles.iter().filter(|r| r.name.to_lowercase() == assignment.role.to_lowercase()) {
                for block in &role.permissions {
                    let (give, take) = match question.plane {
                        Plane::Control => (&block.actions, &block.not_actions),
                        Plane::Data => (&block.data_actions, &block.not_data_actions),
                    };
                    let given = give.iter().any(|p| model_matches(p, question.action));
                    if given && !take.iter().any(|p| model_matches(p, question.action)) {
                        return true;
                    }
                }
            }
        }
        false
    }

    fn patterns() -> impl Strategy<Value = Vec<String>> {
        let pattern =
            prop_oneof![Just("*".to_owned()), "[aA]/[bc*]{0,3}/?(read|write|\\*)?", "\\*/(read|write)", "[ab*/]{1,5}",];
        prop::collection::vec(pattern, 0..3)
    }

    fn roles() -> impl Strategy<Value = Vec<RoleDefinition>> {
        let block = (patterns(), patterns(), patterns(), patterns()).prop_map(|(a, b, c, d)| Permissions {
            actions: a,
            not_actions: b,
            data_actions: c,
            not_data_actions: d,
        });
        let role = (prop::collection::vec(block, 0..3), "[rR][12]").prop_map(|(permissions, name)| RoleDefinition {
            role_name: name.clone(),
            name,
            description: String::new(),
            built_in: false,
            permissions,
            assignable_scopes: vec![],
        });
        // Ids are unique whatever their case.
        prop::collection::vec(role, 0..4).prop_map(|mut roles| {
            roles.sort_by_key(|r| r.name.to_lowercase());
            roles.dedup_by_key(|r| r.name.to_lowercase());
            roles
        })
    }

    fn scope() -> impl Strategy<Value = String> {
        prop_oneof![Just("/".to_owned()), "(/[sSt](/[gh]{1,2}(//x)?)?)?/?", "[a/]{0,4}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn decides_as_the_model_does(
            roles in roles(),
            assignments in prop::collection::vec(("[pPq]", "[rR][123]", scope()), 0..5),
            principals in prop::collection::vec("[pq]", 0..3),
            action in prop_oneof!["[aA]/[bc]{0,2}/?(read|write)?", "[ab/]{1,5}"],
            scope in scope(),
            data in any::<bool>(),
        ) {
            let assignments: Vec<Assignment> =
                assignments.into_iter().map(|(principal, role, scope)| Assignment { principal, role, scope }).collect();
            let principals: Vec<&str> = principals.iter().map(String::as_str).collect();
            let plane = if data { Plane::Data } else { Plane::Control };
            prop_assume!(scope.starts_with('/'));
            let question = Question { principals: &principals, action: &action, plane, scope: &scope };
            let policy = Policy::new(&roles, &assignments, []);
            let wanted = model(&roles, &assignments, &question);
            prop_assert_eq!(policy.allows(&question), wanted);
            prop_assert_eq!(is_allowed(&roles, &assignments, &question), wanted);
            prop_assert!(!wanted || policy.allows_below(&question));
            prop_assert!(!policy.allows_below(&question) || policy.reaches(&principals, &scope));
        }
    }

    #[test]
    fn management_groups_cover_their_subscriptions() {
        let group = "/providers/Microsoft.Management/managementGroups/T";
        let assignment = Assignment { principal: "p".into(), role: super::super::READER.into(), scope: group.into() };
        let policy = Policy::new(&built_in_roles(), &[assignment], [("S1", group.to_owned())]);
        let asks = |scope| Question { principals: &["p"], action: "a/b/read", plane: Plane::Control, scope };
        assert!(policy.allows(&asks("/subscriptions/s1/resourceGroups/g")));
        assert!(policy.allows(&asks(group)));
        assert!(!policy.allows(&asks("/subscriptions/s2/resourceGroups/g")));
        assert!(!policy.allows(&asks("/")));
    }

    #[test]
    fn built_in_roles_keep_azures_rules() {
        for role in built_in_roles() {
            super::super::check_role(&role).unwrap();
            assert!(role.name.parse::<uuid::Uuid>().is_ok());
        }
        let publisher =
            built_in_roles().into_iter().find(|r| r.name == super::super::COMPUTE_GALLERY_ARTIFACTS_PUBLISHER);
        let publisher = publisher.unwrap();
        assert!(role_allows(&publisher, "Microsoft.Compute/galleries/images/versions/write", Plane::Control));
        assert!(!role_allows(&publisher, "Microsoft.Compute/galleries/share/action", Plane::Control));
    }
}
