//! Every operation of the management endpoint, as paths: made of the providers and of the places that have no rows, so that what
//! is asked of every route (does it authorize?) is asked of a new one too.

use crate::Engine;
use lazuli_arm::bodies::shared_gallery::SharedGalleryKind;

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
/// Lists of a location that are no type of any provider.
const OF_LOCATION: [&str; 4] = ["vmSizes", "publishers", "virtualMachines", "vmImages"];

impl Engine {
    /// All of them.
    pub fn routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        let mut add = |method: &'static str, path: String| routes.push(Route { method, path });
        for namespace in self.providers() {
            for provider in self.providers_of(&namespace.namespace) {
                let kind = provider.resource_type();
                let Paths { path, at_subscription, collections } = paths(kind);
                for path in at_subscription.iter().chain([&path]) {
                    for method in ["GET", "PUT", "PATCH", "DELETE"] {
                        add(method, path.clone());
                    }
                }
                add("GET", format!("{path}/usage"));
                if matches!(
                    kind,
                    crate::providers::virtual_machine::KIND | crate::providers::virtual_machine_scale_set::INSTANCE
                ) {
                    add("GET", format!("{path}/instanceView"));
                }
                if kind == crate::providers::virtual_machine::KIND {
                    add("POST", format!("{path}/providers/Microsoft.SerialConsole/serialPorts/0/connect"));
                }
                if kind == crate::image_builder::KIND {
                    add("GET", format!("{path}/log"));
                }
                for action in provider.actions() {
                    add("POST", format!("{path}/{action}"));
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
        add("GET", SUBSCRIPTION.to_owned());
        add("GET", format!("{SUBSCRIPTION}/locations"));
        add("GET", format!("{SUBSCRIPTION}/providers"));
        add("GET", format!("{SUBSCRIPTION}/providers/Microsoft.Compute"));
        add("POST", format!("{SUBSCRIPTION}/providers/Microsoft.Compute/register"));
        add("GET", format!("{SUBSCRIPTION}/operationresults/{{operation}}"));
        add("GET", format!("{SUBSCRIPTION}/providers/Microsoft.Compute/skus"));
        let location = format!("{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{{location}}");
        for operations in ["capsOperations", "DiskOperations", "operations"] {
            add("GET", format!("{location}/{operations}/{{operation}}"));
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
                add("GET", path.clone());
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
