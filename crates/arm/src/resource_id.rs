//! ARM resource ids: parsing, canonical form, look-up keys.
//!
//! Ids are case-insensitive and clients mix cases (`resourcegroups`, `//` before a type, percent-encoding): see
//! `wire.md` and az-cli.md §2.1–2.2. [`ResourceId::key`] is the one form to compare and to store by.

use std::fmt;
use std::str::FromStr;

/// A resource type as written, e.g. `Microsoft.Compute/galleries/images`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourceType {
    pub namespace: String,
    /// One per level: `["galleries", "images"]`.
    pub types: Vec<String>,
}

impl ResourceType {
    /// Lower-case `namespace/type/type`.
    pub fn key(&self) -> String {
        self.to_string().to_ascii_lowercase()
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.namespace)?;
        for t in &self.types {
            write!(f, "/{t}")?;
        }
        Ok(())
    }
}

/// What holds a resource that is in no subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Above {
    /// A tenant. Ids do not name it: whoever asks means their own. Keys do.
    Tenant(String),
    /// A management group of this name.
    ManagementGroup(String),
}

/// The id of a subscription, a resource group, or a resource at any depth.
///
/// ```text
/// /subscriptions/S
/// /subscriptions/S/resourceGroups/G
/// /subscriptions/S[/resourceGroups/G]/providers/NAMESPACE/TYPE/NAME[/TYPE/NAME…]
/// /providers/NAMESPACE/TYPE/NAME                                                        of a tenant; key: /tenants/T/providers/…
/// /providers/Microsoft.Management/managementGroups/M/providers/NAMESPACE/TYPE/NAME      of a management group
/// ```
/// Only [`ResourceId::parse_in`] reads the last two: no id in a body leads above subscriptions by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourceId {
    /// Empty where there is something above.
    pub subscription: String,
    pub above: Option<Above>,
    pub resource_group: Option<String>,
    /// Namespace, empty for a subscription or a group.
    pub namespace: String,
    /// `(type, name)` from the outermost.
    pub segments: Vec<(String, String)>,
}

/// Why a text is no resource id. The text of the message may be shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    #[error("the id '{0}' must start with /subscriptions/")]
    NoSubscription(String),
    #[error("the id '{0}' has a type without a name")]
    Odd(String),
    #[error("the id '{0}' names no provider namespace")]
    NoNamespace(String),
    #[error("the id '{0}' has an unexpected segment")]
    Unexpected(String),
}

/// Where a request path points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A single resource (or subscription, or group).
    Resource(ResourceId),
    /// All resources of a type below a scope: `{scope}/providers/NS/TYPE` or `{parent}/TYPE`.
    Collection { parent: ResourceId, collection: ResourceType },
}

/// Namespace and type of management groups.
const MANAGEMENT_GROUPS: [&str; 2] = ["Microsoft.Management", "managementGroups"];
/// What the keys begin with of what is a tenant's own.
const TENANTS: &str = "/tenants/";

impl ResourceId {
    pub fn subscription(subscription: &str) -> Self {
        Self {
            subscription: subscription.to_owned(),
            above: None,
            resource_group: None,
            namespace: String::new(),
            segments: vec![],
        }
    }

    /// What is above all subscriptions.
    pub fn above(above: Above) -> Self {
        Self { above: Some(above), ..Self::subscription("") }
    }

    pub fn group(subscription: &str, group: &str) -> Self {
        Self { resource_group: Some(group.to_owned()), ..Self::subscription(subscription) }
    }

    /// A top-level resource below this group (or subscription).
    #[must_use]
    pub fn resource(&self, namespace: &str, kind: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), segments: vec![(kind.to_owned(), name.to_owned())], ..self.clone() }
    }

    /// A child of this resource.
    #[must_use]
    pub fn child(&self, kind: &str, name: &str) -> Self {
        let mut id = self.clone();
        id.segments.push((kind.to_owned(), name.to_owned()));
        id
    }

    /// The enclosing resource; for a top-level one the group; for a group the subscription; else `None`.
    pub fn parent(&self) -> Option<Self> {
        let mut id = self.clone();
        if id.segments.pop().is_some() {
            if id.segments.is_empty() {
                id.namespace.clear();
            }
            return Some(id);
        }
        id.resource_group.take().map(|_| id)
    }

    /// Last segment: the resource's own name, the group's name, or the subscription.
    pub fn name(&self) -> &str {
        match (self.segments.last(), &self.resource_group) {
            (Some((_, name)), _) => name,
            (None, Some(group)) => group,
            (None, None) => &self.subscription,
        }
    }

    /// Name of the enclosing resource of that type, ignoring case.
    pub fn ancestor_name(&self, kind: &str) -> Option<&str> {
        self.segments.iter().find(|(k, _)| k.eq_ignore_ascii_case(kind)).map(|(_, n)| n.as_str())
    }

    /// `Microsoft.Resources/resourceGroups` and `Microsoft.Resources/subscriptions` for groups and subscriptions.
    pub fn resource_type(&self) -> ResourceType {
        if self.segments.is_empty() {
            let own = match (&self.above, &self.resource_group) {
                (Some(Above::ManagementGroup(_)), _) => {
                    let [namespace, kind] = MANAGEMENT_GROUPS.map(str::to_owned);
                    return ResourceType { namespace, types: vec![kind] };
                }
                (Some(Above::Tenant(_)), _) => "tenants",
                (None, Some(_)) => "resourceGroups",
                (None, None) => "subscriptions",
            };
            return ResourceType { namespace: "Microsoft.Resources".to_owned(), types: vec![own.to_owned()] };
        }
        ResourceType {
            namespace: self.namespace.clone(),
            types: self.segments.iter().map(|(k, _)| k.clone()).collect(),
        }
    }

    /// Lower-cased id, with its tenant where it names none: the form to store and compare by.
    pub fn key(&self) -> String {
        let shown = self.to_string().to_ascii_lowercase();
        match &self.above {
            Some(Above::Tenant(tenant)) => {
                format!("{TENANTS}{}{}", tenant.to_ascii_lowercase(), shown.trim_end_matches('/'))
            }
            Some(Above::ManagementGroup(_)) | None => shown,
        }
    }

    /// The id in a key.
    ///
    /// # Errors
    /// [`ParseIdError`] for what is no key of a resource.
    pub fn of_key(key: &str) -> Result<Self, ParseIdError> {
        match key.strip_prefix(TENANTS).and_then(|rest| rest.split_at_checked(rest.find('/')?)) {
            Some((tenant, path)) => Self::parse_in(path, tenant),
            None => Self::parse_in(key, ""),
        }
    }

    /// Parses an id as somebody of this tenant means it.
    ///
    /// # Errors
    /// [`ParseIdError`]
    pub fn parse_in(text: &str, tenant: &str) -> Result<Self, ParseIdError> {
        match parse_target_in(text, tenant)? {
            Target::Resource(id) => Ok(id),
            Target::Collection { .. } => Err(ParseIdError::Odd(text.to_owned())),
        }
    }

    pub fn is_group(&self) -> bool {
        self.segments.is_empty() && self.resource_group.is_some()
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.above {
            None => write!(f, "/subscriptions/{}", self.subscription)?,
            Some(Above::Tenant(_)) if self.segments.is_empty() => f.write_str("/")?,
            Some(Above::Tenant(_)) => {}
            Some(Above::ManagementGroup(name)) => {
                write!(f, "/providers/{}/{}/{name}", MANAGEMENT_GROUPS[0], MANAGEMENT_GROUPS[1])?;
            }
        }
        if let Some(group) = &self.resource_group {
            write!(f, "/resourceGroups/{group}")?;
        }
        if !self.segments.is_empty() {
            write!(f, "/providers/{}", self.namespace)?;
            for (kind, name) in &self.segments {
                write!(f, "/{kind}/{name}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for ResourceId {
    type Err = ParseIdError;

    /// Parses an id that is already percent-decoded; empty segments (`//`) are skipped.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match parse_target(text)? {
            Target::Resource(id) => Ok(id),
            Target::Collection { .. } => Err(ParseIdError::Odd(text.to_owned())),
        }
    }
}

/// Parses a request path (already percent-decoded) that begins with `/subscriptions/`.
pub fn parse_target(text: &str) -> Result<Target, ParseIdError> {
    let mut parts = text.split('/').filter(|s| !s.is_empty());
    let mut next_is = |word: &str| parts.next().filter(|p| p.eq_ignore_ascii_case(word)).is_some();
    if !next_is("subscriptions") {
        return Err(ParseIdError::NoSubscription(text.to_owned()));
    }
    let Some(subscription) = parts.next() else {
        return Err(ParseIdError::NoSubscription(text.to_owned()));
    };
    let mut id = ResourceId::subscription(subscription);
    let mut rest: Vec<&str> = parts.collect();
    if rest.first().is_some_and(|p| p.eq_ignore_ascii_case("resourceGroups")) {
        match rest.get(1) {
            Some(group) => id.resource_group = Some((*group).to_owned()),
            None => {
                let collection =
                    ResourceType { namespace: "Microsoft.Resources".into(), types: vec!["resourceGroups".into()] };
                return Ok(Target::Collection { parent: id, collection });
            }
        }
        rest.drain(..2);
    }
    below(text, id, &rest)
}

/// As [`parse_target`], by somebody of this tenant: what begins with `/providers/` is the tenant's own, or a management group's.
pub fn parse_target_in(text: &str, tenant: &str) -> Result<Target, ParseIdError> {
    let parts: Vec<&str> = text.split('/').filter(|s| !s.is_empty()).collect();
    let is = |(part, word): (&&str, &str)| part.eq_ignore_ascii_case(word);
    match parts.as_slice() {
        [providers, namespace, kind, name, rest @ ..]
            if is((providers, "providers")) && [namespace, kind].into_iter().zip(MANAGEMENT_GROUPS).all(is) =>
        {
            below(text, ResourceId::above(Above::ManagementGroup((*name).to_owned())), rest)
        }
        [providers, ..] if is((providers, "providers")) => {
            below(text, ResourceId::above(Above::Tenant(tenant.to_owned())), &parts)
        }
        _ => parse_target(text),
    }
}

/// What follows a subscription, a group, or something above.
fn below(text: &str, id: ResourceId, rest: &[&str]) -> Result<Target, ParseIdError> {
    if rest.is_empty() {
        return Ok(Target::Resource(id));
    }
    if !rest[0].eq_ignore_ascii_case("providers") {
        return Err(ParseIdError::Unexpected(text.to_owned()));
    }
    let Some(namespace) = rest.get(1) else {
        return Err(ParseIdError::NoNamespace(text.to_owned()));
    };
    let names = &rest[2..];
    let mut pairs = names.chunks_exact(2);
    let segments: Vec<(String, String)> = pairs.by_ref().map(|p| (p[0].to_owned(), p[1].to_owned())).collect();
    match pairs.remainder() {
        [] if segments.is_empty() => Err(ParseIdError::Odd(text.to_owned())),
        [] => Ok(Target::Resource(ResourceId { namespace: (*namespace).to_owned(), segments, ..id })),
        [kind, ..] => {
            let mut types: Vec<String> = segments.iter().map(|(k, _)| k.clone()).collect();
            types.push((*kind).to_owned());
            let collection = ResourceType { namespace: (*namespace).to_owned(), types };
            let namespace = if segments.is_empty() { String::new() } else { (*namespace).to_owned() };
            Ok(Target::Collection { parent: ResourceId { namespace, segments, ..id }, collection })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GALLERY: &str = "/subscriptions/s/resourcegroups/RG/providers/Microsoft.Compute//galleries/g";

    #[test]
    fn tolerates_case_and_double_slashes() {
        let id: ResourceId = GALLERY.parse().unwrap();
        assert_eq!(id.to_string(), "/subscriptions/s/resourceGroups/RG/providers/Microsoft.Compute/galleries/g");
        assert_eq!(id.resource_type().key(), "microsoft.compute/galleries");
        assert_eq!(id.parent().unwrap(), ResourceId::group("s", "RG"));
    }

    #[test]
    fn tells_collections_from_resources() {
        let Target::Collection { parent, collection } = parse_target(&format!("{GALLERY}/images")).unwrap() else {
            panic!("a collection was expected");
        };
        assert_eq!(parent, GALLERY.parse().unwrap());
        assert_eq!(collection.key(), "microsoft.compute/galleries/images");
        let Target::Collection { parent, collection } =
            parse_target("/subscriptions/s/providers/Microsoft.Compute/disks").unwrap()
        else {
            panic!("a collection was expected");
        };
        assert_eq!(parent, ResourceId::subscription("s"));
        assert_eq!(collection.to_string(), "Microsoft.Compute/disks");
    }

    #[test]
    fn refuses_what_is_no_id() {
        for bad in ["", "/", "/tenants/x", "/subscriptions", "/subscriptions/s/x/y", "/subscriptions/s/providers"] {
            assert!(parse_target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn above_subscriptions_ids_are_read_for_somebody() {
        let path = "/providers/Microsoft.Resources/deployments/D";
        let id = ResourceId::parse_in(path, "T1").unwrap();
        assert_eq!((id.to_string().as_str(), id.subscription.as_str()), (path, ""));
        assert_eq!(id.key(), "/tenants/t1/providers/microsoft.resources/deployments/d");
        let own = ResourceId::above(Above::Tenant("T1".into()));
        assert_eq!(id.parent().unwrap(), own);
        assert_eq!((own.to_string(), own.key(), own.parent()), ("/".into(), "/tenants/t1".into(), None));
        assert_ne!(id.key(), ResourceId::parse_in(path, "T2").unwrap().key(), "each tenant has its own");

        let group = "/providers/microsoft.management/managementgroups/T1";
        let id = ResourceId::parse_in(&format!("{group}{path}"), "").unwrap();
        let shown = format!("/providers/Microsoft.Management/managementGroups/T1{path}");
        assert_eq!((id.to_string(), id.key()), (shown.clone(), shown.to_ascii_lowercase()));
        assert_eq!(id.parent().unwrap(), ResourceId::above(Above::ManagementGroup("T1".into())));
        let Target::Collection { parent, collection } = parse_target_in(&format!("{path}/operations"), "T1").unwrap()
        else {
            panic!("a collection was expected");
        };
        assert_eq!(
            (parent.key(), collection.types),
            (ResourceId::parse_in(path, "T1").unwrap().key(), vec!["deployments".into(), "operations".into()])
        );

        for text in [path.to_owned(), format!("{group}{path}"), format!("/tenants/T1{path}")] {
            assert!(text.parse::<ResourceId>().is_err(), "{text}");
        }
        assert!(ResourceId::parse_in(&format!("/tenants/T1{path}"), "T1").is_err(), "only keys name tenants");
        assert_eq!(ResourceId::parse_in(GALLERY, "T1"), Ok(GALLERY.parse().unwrap()));
        for key in
            [id.key(), ResourceId::parse_in(path, "t1").unwrap().key(), GALLERY.parse::<ResourceId>().unwrap().key()]
        {
            assert_eq!(ResourceId::of_key(&key).unwrap().key(), key);
        }
        for bad in ["/tenants/t1", "/tenants/t1/", "/tenants//providers/x"] {
            assert!(ResourceId::of_key(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn display_round_trips(group in "[a-zA-Z0-9_.-]{1,20}", names in prop::collection::vec(("[a-z]{1,8}", "[A-Za-z0-9.]{1,8}"), 1..4)) {
            let id = ResourceId { namespace: "Microsoft.Compute".into(), segments: names, ..ResourceId::group("S", &group) };
            let again: ResourceId = id.to_string().parse().unwrap();
            prop_assert_eq!(&again, &id);
            let upper: ResourceId = id.to_string().to_uppercase().parse().unwrap();
            prop_assert_eq!(upper.key(), id.key());
        }

        #[test]
        fn never_panics(text in "\\PC{0,80}") {
            let _ = parse_target(&text);
            let _ = parse_target_in(&text, "t");
            let _ = ResourceId::of_key(&text);
        }
    }
}
