//! Every operation of the management endpoint, as paths: made of the providers and of the places that have no rows, so that what
//! is asked of every route (does it authorize?) is asked of a new one too.
//!
//! The endpoint of a debug build refuses to answer on a path that is not here ([`Engine::has_route`]).

use crate::Engine;
use lazuli_arm::bodies::shared_gallery::SharedGalleryKind;
use std::sync::OnceLock;

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `GET`, `PUT`, `PATCH`, `DELETE`, `POST`.
    pub method: &'static str,
    /// `/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/disks/{disks}`: what stands for a
    /// name bears that of its type.
    pub path: String,
}

const SUBSCRIPTION: &str = "/subscriptions/{subscription}";
const GROUP: &str = "/subscriptions/{subscription}/resourceGroups/{group}";
/// Where deployments are above subscriptions: the caller's tenant, and the management group at its root.
const ABOVE: [&str; 2] = ["", "/providers/Microsoft.Management/managementGroups/{managementGroup}"];
/// What hangs on any scope (`authorization/extension.rs`).
const EXTENSIONS: [(&str, &[&str]); 10] = [
    ("Microsoft.Authorization/roleDefinitions", &["GET"]),
    ("Microsoft.Authorization/roleDefinitions/{id}", &["GET", "PUT", "DELETE"]),
    ("Microsoft.Authorization/roleAssignments", &["GET"]),
    ("Microsoft.Authorization/roleAssignments/{id}", &["GET", "PUT", "DELETE"]),
    ("Microsoft.Authorization/permissions", &["GET"]),
    ("Microsoft.Authorization/checkAccess", &["POST"]),
    ("Microsoft.Authorization/locks", &["GET"]),
    ("Microsoft.Authorization/locks/{id}", &["GET", "PUT", "DELETE"]),
    ("Microsoft.Insights/eventtypes/management/values", &["GET"]),
    ("Microsoft.Storage/checkNameAvailability", &["POST"]),
];
/// What a location has that is no type of any provider.
const OF_LOCATION: [&str; 16] = [
    "vmSizes",
    "virtualMachines",
    "vmImages",
    "edgeZones/{zone}/vmImages",
    "edgeZones/{zone}/publishers",
    "edgeZones/{zone}/publishers/{publisher}/artifacttypes/vmimage/offers",
    "edgeZones/{zone}/publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus",
    "edgeZones/{zone}/publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions",
    "publishers",
    "publishers/{publisher}/artifacttypes/vmimage/offers",
    "publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus",
    "publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions",
    "publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions/{version}",
    "publishers/{extensionPublisher}/artifacttypes/vmextension/types",
    "publishers/{extensionPublisher}/artifacttypes/vmextension/types/{extensionType}/versions",
    "publishers/{extensionPublisher}/artifacttypes/vmextension/types/{extensionType}/versions/{extensionVersion}",
];
/// Where operations are polled, in a location.
const POLLS: [(&str, &str); 7] = [
    ("Microsoft.Compute", "capsOperations"),
    ("Microsoft.Compute", "DiskOperations"),
    ("Microsoft.Compute", "operations"),
    ("Microsoft.Network", "operations"),
    ("Microsoft.Network", "operationResults"),
    ("Microsoft.Storage", "asyncoperations"),
    ("Microsoft.VirtualMachineImages", "operations"),
];
/// What whoever signed in may ask, wherever; the answers hold only what the caller may see.
const OPEN: [(&str, &str); 5] = [
    ("GET", "/tenants"),
    ("GET", "/subscriptions"),
    ("GET", "/providers"),
    ("GET", "/providers/{namespace}"),
    ("POST", "/providers/Microsoft.ResourceGraph/resources"),
];

/// Whether a request asks for a route. `HEAD` asks for what `GET` does.
fn is(route: (&str, &str), (method, path): (&str, &str)) -> bool {
    let segments = |path| str::split(path, '/').filter(|s| !s.is_empty()).collect::<Vec<_>>();
    let (own, asked) = (segments(route.1), segments(path));
    let same = |(own, asked): (&&str, &&str)| own.starts_with('{') || own.eq_ignore_ascii_case(asked);
    let method = if method == "HEAD" { "GET" } else { method };
    route.0 == method && own.len() == asked.len() && own.iter().zip(&asked).all(same)
}

impl Engine {
    /// Whether a request is one of [`Engine::routes`], or one that is open to everybody.
    pub fn has_route(&self, method: &str, path: &str) -> bool {
        static ALL: OnceLock<Vec<Route>> = OnceLock::new();
        let all = ALL.get_or_init(|| self.routes());
        let extension =
            path.to_ascii_lowercase().rfind("/providers/").map_or("", |at| &path[at + "/providers/".len()..]);
        let mut extensions = EXTENSIONS.iter().flat_map(|(path, methods)| methods.iter().map(move |m| (*m, *path)));
        extensions.any(|route| is(route, (method, extension)))
            || OPEN.iter().any(|route| is(*route, (method, path)))
            || all.iter().any(|route| is((route.method, &route.path), (method, path)))
    }

    /// All that are asked at a subscription, or above.
    pub fn routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        let mut add = |method: &'static str, path: String| routes.push(Route { method, path });
        for namespace in self.providers() {
            for provider in self.providers_of(&namespace.namespace) {
                let kind = provider.resource_type();
                let Paths { path, at_subscription, mut collections } = paths(kind);
                let mut above = Vec::new();
                if kind == crate::deployments::KIND {
                    above.extend(ABOVE.map(|scope| path.replacen(GROUP, scope, 1)));
                    collections.extend(ABOVE.map(|scope| format!("{scope}/providers/{kind}")));
                }
                for path in at_subscription.iter().chain([&path]).chain(&above) {
                    for method in ["GET", "PUT", "PATCH", "DELETE"] {
                        add(method, path.clone());
                    }
                }
                let in_no_group = [crate::deployments::KIND, crate::platform_images::KIND].contains(&kind);
                for path in at_subscription.iter().filter(|_| in_no_group).chain([&path]).chain(&above) {
                    // Of groups nothing is stored.
                    let usage = ["usage"];
                    let usage = usage.iter().filter(|_| path != GROUP);
                    for view in provider.views().iter().chain(usage) {
                        add("GET", format!("{path}/{view}"));
                    }
                    for action in provider.actions() {
                        add("POST", format!("{path}/{action}"));
                    }
                    if kind == crate::deployments::KIND {
                        add("GET", format!("{path}/operationStatuses/{{operation}}"));
                    }
                }
                if kind == crate::providers::virtual_machine::KIND {
                    add("POST", format!("{path}/providers/Microsoft.SerialConsole/serialPorts/0/connect"));
                }
                for collection in collections {
                    add("GET", collection);
                }
            }
        }
        for scope in [SUBSCRIPTION, GROUP] {
            add("GET", format!("{scope}/resources"));
            for (path, methods) in EXTENSIONS {
                for method in methods {
                    add(method, format!("{scope}/providers/{path}"));
                }
            }
        }
        add("GET", "/providers/Microsoft.Resources/operationresults/{operation}".to_owned());
        add("GET", SUBSCRIPTION.to_owned());
        add("GET", format!("{SUBSCRIPTION}/locations"));
        add("GET", format!("{SUBSCRIPTION}/providers"));
        add("GET", format!("{SUBSCRIPTION}/providers/{{namespace}}"));
        add("POST", format!("{SUBSCRIPTION}/providers/{{namespace}}/register"));
        add("GET", format!("{SUBSCRIPTION}/operationresults/{{operation}}"));
        add("GET", format!("{SUBSCRIPTION}/providers/Microsoft.Compute/skus"));
        let location = format!("{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{{location}}");
        for (namespace, polls) in POLLS {
            add("GET", format!("{SUBSCRIPTION}/providers/{namespace}/locations/{{location}}/{polls}/{{operation}}"));
        }
        for list in OF_LOCATION {
            add("GET", format!("{location}/{list}"));
        }
        for kind in SharedGalleryKind::ALL {
            let mut path = format!("{location}/{}", kind.collection());
            for name in ["{shared}", "images/{images}", "versions/{versions}"] {
                let (list, one) = name.split_once('/').map_or(("", name), |(list, one)| (list, one));
                if !list.is_empty() {
                    path = format!("{path}/{list}");
                }
                // Those that are shared with everybody are found by Resource Graph.
                if kind != SharedGalleryKind::Community || !list.is_empty() {
                    add("GET", path.clone());
                }
                path = format!("{path}/{one}");
                add("GET", path.clone());
            }
        }
        routes
    }
}

struct Paths {
    path: String,
    /// Some types (deployments, platform images) are in no group.
    at_subscription: Option<String>,
    collections: Vec<String>,
}

/// Where one resource of a type is, and the lists that it is in.
fn paths(kind: &str) -> Paths {
    if kind == "Microsoft.Resources/resourceGroups" {
        let collections = vec![format!("{SUBSCRIPTION}/resourceGroups")];
        return Paths { path: GROUP.to_owned(), at_subscription: None, collections };
    }
    let (namespace, types) = kind.split_once('/').unwrap_or((kind, ""));
    let mut path = format!("{GROUP}/providers/{namespace}");
    let mut list = path.clone();
    for word in types.split('/') {
        list = format!("{path}/{word}");
        path = format!("{list}/{{{word}}}");
    }
    let top = !types.contains('/');
    let above = |path: &str| top.then(|| path.replacen(GROUP, SUBSCRIPTION, 1));
    let collections = above(&list).into_iter().chain([list.clone()]).collect();
    Paths { at_subscription: above(&path), path, collections }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_of_a_route() {
        let route = format!("{SUBSCRIPTION}/resources");
        let is = |method, path| is(("GET", &route), (method, path));
        assert!(is("GET", "/Subscriptions/s/RESOURCES") && is("HEAD", "/subscriptions//s/resources/"));
        assert!(!is("PUT", "/subscriptions/s/resources"));
        for path in ["/subscriptions/s/resources/x", "/subscriptions/s", "/subscriptions/s/resourceGroups"] {
            assert!(!is("GET", path), "{path}");
        }
    }

    #[test]
    fn a_type_is_a_path_and_its_lists() {
        let images = paths("Microsoft.Compute/galleries/images");
        let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/{{galleries}}");
        assert_eq!(images.path, format!("{gallery}/images/{{images}}"));
        assert_eq!((images.collections, images.at_subscription), (vec![format!("{gallery}/images")], None));
        let disks = paths("Microsoft.Compute/disks");
        let disk = format!("{SUBSCRIPTION}/providers/Microsoft.Compute/disks/{{disks}}");
        assert_eq!(disks.at_subscription, Some(disk));
        assert_eq!(disks.collections.len(), 2);
    }
}
