//! The table of wire shapes: which status, which headers and which poll URL a write of each type answers with.
//!
//! Clients refuse a status that is not on their list (az-cli.md §2.3), and read results from the place that the type's
//! shape says (§2.6). The rows are what real Azure was recorded to send (az-cli.md §3, recorded-lro-shapes.txt).

use http::StatusCode;

/// What is done to the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb<'a> {
    Create,
    Update,
    Patch,
    Delete,
    /// Name of the action in lower case.
    Action(&'a str),
}

/// Which headers lead to the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Headers {
    /// The write is done when it is answered.
    None,
    /// `Azure-AsyncOperation`
    Async,
    /// `Azure-AsyncOperation` and `Location`
    Both,
    /// `Location`
    Location,
}

/// Which service's poll URLs are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Galleries: `…/Microsoft.Compute/locations/L/capsOperations/ID`
    Caps,
    /// Disks, snapshots: `…/Microsoft.Compute/locations/L/DiskOperations/ID?p=…`, result inside.
    Disk,
    /// Virtual machines, images: `…/Microsoft.Compute/locations/L/operations/ID?p=…`
    Compute,
    /// `…/Microsoft.Network/locations/L/operations/ID`
    Network,
    /// `…/Microsoft.VirtualMachineImages/locations/L/operations/ID`, one URL for both headers.
    ImageBuilder,
    /// `…/deployments/NAME/operationStatuses/ID`
    Deployment,
    /// `/subscriptions/S/operationresults/ID`, and other types' `…/locations/L/operationresults/ID`.
    Results,
}

/// What the body of the answer shows of the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The resource as a GET shows it.
    Settled,
    /// The same, and what it shows of its children, in state `Creating` or `Updating`.
    InProgress,
    /// The same in state `Updating`, new or not.
    Updating,
    /// What was sent, in state `Updating` where it has properties.
    Echo,
}

/// The first answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub status: StatusCode,
    pub headers: Headers,
    pub family: Family,
    /// Whether the resource (or the action's result) is in the body.
    pub body: bool,
    pub answer: Answer,
}

const fn shape(status: StatusCode, headers: Headers, family: Family, body: bool) -> Shape {
    Shape { status, headers, family, body, answer: Answer::Settled }
}

impl Shape {
    const fn showing(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }
}

/// The row for a type (lower case, `namespace/type/…`) and what is done to it.
pub(crate) fn shape_of(kind: &str, verb: Verb<'_>) -> Shape {
    let kind = kind.to_ascii_lowercase();
    match kind.as_str() {
        "microsoft.resources/resourcegroups" => resource_group(verb),
        "microsoft.resources/deployments" => deployment(verb),
        "microsoft.compute/galleries/applications" => synchronous(verb),
        k if k.starts_with("microsoft.compute/galleries") => standard(verb, Family::Caps),
        k if is_disk_like(k) => disk_like(k, verb),
        // Never 201 (Swagger).
        "microsoft.compute/availabilitysets" if verb == Verb::Create => synchronous(Verb::Update),
        "microsoft.compute/sshpublickeys"
        | "microsoft.compute/availabilitysets"
        | "microsoft.compute/proximityplacementgroups"
        | "microsoft.compute/hostgroups"
        | "microsoft.compute/restorepointcollections" => synchronous(verb),
        "lazuli.images/platformimages" => standard(verb, Family::Compute),
        k if k.starts_with("microsoft.compute/") => compute(verb),
        k if k.starts_with("microsoft.virtualmachineimages/") => image_builder(verb),
        "microsoft.network/networkinterfaces" => network_interface(verb),
        k if k.starts_with("microsoft.network/") => network(verb),
        "microsoft.storage/storageaccounts" => storage_account(verb),
        _ => synchronous(verb),
    }
}

fn is_disk_like(kind: &str) -> bool {
    let types = ["disks", "snapshots", "diskencryptionsets", "diskaccesses"];
    kind.strip_prefix("microsoft.compute/").is_some_and(|k| types.contains(&k.split('/').next().unwrap_or_default()))
}

/// 201/200 with the body and one header, 202 with both for what has no body.
fn standard(verb: Verb<'_>, family: Family) -> Shape {
    match verb {
        Verb::Create => shape(StatusCode::CREATED, Headers::Async, family, true).showing(Answer::InProgress),
        Verb::Update | Verb::Patch => shape(StatusCode::OK, Headers::Async, family, true).showing(Answer::InProgress),
        Verb::Delete | Verb::Action(_) => shape(StatusCode::ACCEPTED, Headers::Both, family, false),
    }
}

/// Never 201: the clients refuse it. A PATCH shows the whole resource (the Swagger's examples), a PUT what was sent (recorded).
/// A disk access is echoed either way.
fn disk_like(kind: &str, verb: Verb<'_>) -> Shape {
    let write = |answer| shape(StatusCode::ACCEPTED, Headers::Both, Family::Disk, true).showing(answer);
    match verb {
        Verb::Patch if kind != "microsoft.compute/diskaccesses" => write(Answer::Updating),
        Verb::Create | Verb::Update | Verb::Patch => write(Answer::Echo),
        Verb::Delete | Verb::Action(_) => shape(StatusCode::ACCEPTED, Headers::Both, Family::Disk, false),
    }
}

fn compute(verb: Verb<'_>) -> Shape {
    match verb {
        Verb::Action("attachdetachdatadisks") => shape(StatusCode::OK, Headers::Async, Family::Compute, true),
        Verb::Action("generalize") => shape(StatusCode::OK, Headers::None, Family::Compute, false),
        _ => standard(verb, Family::Compute),
    }
}

fn image_builder(verb: Verb<'_>) -> Shape {
    match verb {
        Verb::Patch => shape(StatusCode::ACCEPTED, Headers::Both, Family::ImageBuilder, false),
        _ => standard(verb, Family::ImageBuilder),
    }
}

/// New or not, what is not ready is `Updating` (recorded).
fn network(verb: Verb<'_>) -> Shape {
    match verb {
        Verb::Create | Verb::Update | Verb::Patch => standard(verb, Family::Network).showing(Answer::Updating),
        _ => standard(verb, Family::Network),
    }
}

fn network_interface(verb: Verb<'_>) -> Shape {
    match verb {
        Verb::Create => shape(StatusCode::CREATED, Headers::None, Family::Network, true),
        Verb::Update | Verb::Patch => shape(StatusCode::OK, Headers::None, Family::Network, true),
        _ => standard(verb, Family::Network),
    }
}

fn storage_account(verb: Verb<'_>) -> Shape {
    match verb {
        Verb::Create => shape(StatusCode::ACCEPTED, Headers::Location, Family::Results, false),
        Verb::Update | Verb::Patch => shape(StatusCode::OK, Headers::None, Family::Results, true),
        _ => synchronous(verb),
    }
}

fn resource_group(verb: Verb<'_>) -> Shape {
    match verb {
        Verb::Delete => shape(StatusCode::ACCEPTED, Headers::Location, Family::Results, false),
        _ => synchronous(verb),
    }
}

fn deployment(verb: Verb<'_>) -> Shape {
    match verb {
        Verb::Create => shape(StatusCode::CREATED, Headers::Async, Family::Deployment, true),
        Verb::Update => shape(StatusCode::OK, Headers::Async, Family::Deployment, true),
        Verb::Delete => shape(StatusCode::ACCEPTED, Headers::Location, Family::Results, false),
        Verb::Patch | Verb::Action(_) => synchronous(verb),
    }
}

fn synchronous(verb: Verb<'_>) -> Shape {
    match verb {
        Verb::Create => shape(StatusCode::CREATED, Headers::None, Family::Results, true),
        Verb::Update | Verb::Patch => shape(StatusCode::OK, Headers::None, Family::Results, true),
        Verb::Delete => shape(StatusCode::OK, Headers::None, Family::Results, false),
        // An action that started something all the same is polled at its location.
        Verb::Action(_) => shape(StatusCode::ACCEPTED, Headers::Location, Family::Results, false),
    }
}

/// Status of an action that is done when it is answered and has no result.
pub(crate) fn done_without_result(kind: &str, action: &str) -> StatusCode {
    let no_content = [
        ("microsoft.virtualmachineimages/imagetemplates", "cancel"),
        ("microsoft.compute/virtualmachines", "simulateeviction"),
        ("microsoft.resources/deployments", "cancel"),
    ];
    let found = no_content.iter().any(|(k, a)| k.eq_ignore_ascii_case(kind) && a.eq_ignore_ascii_case(action));
    if found { StatusCode::NO_CONTENT } else { StatusCode::OK }
}

/// Where an operation is polled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PollUrls<'a> {
    /// `https://host[:port]`
    pub base: &'a str,
    /// Empty for what is above subscriptions: deployments alone.
    pub subscription: &'a str,
    /// Short name of the resource's region.
    pub location: &'a str,
    /// Id of the resource, for deployments.
    pub resource: &'a str,
    /// Namespace of the resource, for types without a family of their own.
    pub namespace: &'a str,
    pub operation: &'a str,
    pub api_version: &'a str,
}

impl PollUrls<'_> {
    /// Value of `Azure-AsyncOperation`.
    pub fn status(&self, family: Family) -> String {
        let Self { base, subscription, location, resource, operation, api_version, .. } = self;
        let at = |namespace: &str, segment: &str| {
            format!("{base}/subscriptions/{subscription}/providers/{namespace}/locations/{location}/{segment}")
        };
        match family {
            Family::Caps => {
                format!("{}/{operation}?api-version={api_version}", at("Microsoft.Compute", "capsOperations"))
            }
            Family::Disk => {
                let segment = at("Microsoft.Compute", "DiskOperations");
                format!("{segment}/{operation}?p={subscription}&api-version={api_version}")
            }
            Family::Compute => {
                let segment = at("Microsoft.Compute", "operations");
                format!("{segment}/{operation}?p={subscription}&api-version={api_version}")
            }
            Family::Network => {
                format!("{}/{operation}?api-version={api_version}", at("Microsoft.Network", "operations"))
            }
            Family::ImageBuilder => {
                format!("{}/{operation}?api-version={api_version}", at("Microsoft.VirtualMachineImages", "operations"))
            }
            Family::Deployment => {
                format!("{base}{resource}/operationStatuses/{operation}?api-version={api_version}")
            }
            Family::Results => self.result(Family::Results),
        }
    }

    /// Value of `Location`.
    pub fn result(&self, family: Family) -> String {
        let Self { base, subscription, location, namespace, operation, api_version, .. } = self;
        match family {
            Family::Caps | Family::Disk | Family::Compute => format!("{}&monitor=true", self.status(family)),
            Family::ImageBuilder => self.status(family),
            Family::Network => format!(
                "{base}/subscriptions/{subscription}/providers/Microsoft.Network/locations/{location}\
                 /operationResults/{operation}?api-version={api_version}"
            ),
            Family::Results if *namespace == "Microsoft.Storage" => format!(
                "{base}/subscriptions/{subscription}/providers/Microsoft.Storage/locations/{location}\
                 /asyncoperations/{operation}?monitor=true&api-version={api_version}"
            ),
            Family::Results | Family::Deployment if subscription.is_empty() => {
                format!("{base}/providers/Microsoft.Resources/operationresults/{operation}?api-version={api_version}")
            }
            Family::Results | Family::Deployment => {
                format!("{base}/subscriptions/{subscription}/operationresults/{operation}?api-version={api_version}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, verb: Verb<'_>) -> String {
        let shape = shape_of(&kind.to_ascii_lowercase(), verb);
        let urls = PollUrls {
            base: "",
            subscription: "S",
            location: "L",
            resource: "/D",
            namespace: kind.split('/').next().unwrap(),
            operation: "OP",
            api_version: "V",
        };
        let body = match (shape.body, shape.answer) {
            (false, _) => "empty".to_owned(),
            (true, Answer::Settled) => "body".to_owned(),
            (true, answer) => format!("body {answer:?}"),
        };
        let status = || format!("\n    azure-asyncoperation: {}", urls.status(shape.family));
        let result = || format!("\n    location: {}", urls.result(shape.family));
        let headers = match shape.headers {
            Headers::None => String::new(),
            Headers::Async => status(),
            Headers::Both => status() + &result(),
            Headers::Location => result(),
        };
        format!("{verb:?} {kind} -> {} {body}{headers}\n", shape.status.as_u16())
    }

    /// Reviewed against az-cli.md §3.
    #[test]
    fn table() {
        let writes = [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete];
        let kinds = [
            "Microsoft.Resources/resourceGroups",
            "Microsoft.Resources/deployments",
            "Microsoft.Compute/galleries",
            "Microsoft.Compute/galleries/images",
            "Microsoft.Compute/galleries/images/versions",
            "Microsoft.Compute/galleries/applications",
            "Microsoft.Compute/disks",
            "Microsoft.Compute/snapshots",
            "Microsoft.Compute/diskAccesses",
            "Microsoft.Compute/images",
            "Microsoft.Compute/virtualMachines",
            "Microsoft.Compute/virtualMachines/extensions",
            "Microsoft.Compute/sshPublicKeys",
            "Microsoft.VirtualMachineImages/imageTemplates",
            "Microsoft.VirtualMachineImages/imageTemplates/triggers",
            "Microsoft.Network/virtualNetworks",
            "Microsoft.Network/virtualNetworks/subnets",
            "Microsoft.Network/networkInterfaces",
            "Microsoft.Network/publicIPAddresses",
            "Microsoft.Storage/storageAccounts",
            "Microsoft.ManagedIdentity/userAssignedIdentities",
            "Microsoft.Authorization/roleAssignments",
        ];
        let actions = [
            ("Microsoft.Compute/galleries", "share"),
            ("Microsoft.Compute/disks", "begingetaccess"),
            ("Microsoft.Compute/snapshots", "endgetaccess"),
            ("Microsoft.Compute/virtualMachines", "deallocate"),
            ("Microsoft.Compute/virtualMachines", "generalize"),
            ("Microsoft.Compute/virtualMachines", "capture"),
            ("Microsoft.Compute/virtualMachines", "attachdetachdatadisks"),
            ("Microsoft.VirtualMachineImages/imageTemplates", "run"),
        ];
        let mut table = String::new();
        for kind in kinds {
            for verb in writes {
                table.push_str(&line(kind, verb));
            }
        }
        for (kind, action) in actions {
            table.push_str(&line(kind, Verb::Action(action)));
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn some_actions_answer_204() {
        assert_eq!(done_without_result("Microsoft.VirtualMachineImages/imageTemplates", "cancel"), 204);
        assert_eq!(done_without_result("microsoft.compute/virtualmachines", "generalize"), 200);
    }
}
