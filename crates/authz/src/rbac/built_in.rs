//! The built-in roles of Azure that concern what this server offers, with Azure's own ids and actions
//! (learn.microsoft.com/azure/role-based-access-control/built-in-roles). Actions of services that are not offered here are kept:
//! clients compare what they read.

use super::{Permissions, RoleDefinition};

pub const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
pub const CONTRIBUTOR: &str = "b24988ac-6180-42a0-ab88-20f7382dd24c";
pub const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
pub const USER_ACCESS_ADMINISTRATOR: &str = "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9";
pub const ROLE_BASED_ACCESS_CONTROL_ADMINISTRATOR: &str = "f58310d9-a9f6-439a-9e8d-f62e7b41a168";
pub const COMPUTE_GALLERY_SHARING_ADMIN: &str = "1ef6a3be-d0ac-425d-8c01-acb62866290b";
pub const COMPUTE_GALLERY_IMAGE_READER: &str = "cf7c76d2-98a3-4358-a134-615aa78bf44d";
pub const COMPUTE_GALLERY_ARTIFACTS_PUBLISHER: &str = "85a2d0d9-2eba-4c9c-b355-11c2cc0788ab";
pub const DISK_SNAPSHOT_CONTRIBUTOR: &str = "7efff54f-a5b4-42b5-a1c5-5411624893ce";
pub const DATA_OPERATOR_FOR_MANAGED_DISKS: &str = "959f8984-c045-4866-89c7-12bf9737be2e";
pub const VIRTUAL_MACHINE_CONTRIBUTOR: &str = "9980e02c-c2be-4d73-94e8-173b1dc7cf3c";
pub const MANAGED_IDENTITY_OPERATOR: &str = "f1a07417-d97a-45cb-824c-7a7467783830";
pub const MANAGED_IDENTITY_CONTRIBUTOR: &str = "e40ec5ca-96e0-45a2-b4ff-59039f2c2b59";
pub const NETWORK_CONTRIBUTOR: &str = "4d97b98b-1d4f-4787-a291-c67834d212e7";
pub const STORAGE_BLOB_DATA_OWNER: &str = "b7e6dc6d-f1e8-4753-8033-0f276bb0955b";
pub const STORAGE_BLOB_DATA_CONTRIBUTOR: &str = "ba92f5b4-2d11-453d-a403-e96b0029c9fe";
pub const STORAGE_BLOB_DATA_READER: &str = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1";
pub const STORAGE_BLOB_DELEGATOR: &str = "db58b8e5-c6ad-4a2a-8342-4190687cbf4a";
pub const STORAGE_ACCOUNT_CONTRIBUTOR: &str = "17d1049b-9a84-46fb-8f53-869881c3d3ab";

fn built_in(name: &str, role_name: &str, description: &str, permissions: Permissions) -> RoleDefinition {
    RoleDefinition {
        name: name.to_owned(),
        role_name: role_name.to_owned(),
        description: description.to_owned(),
        built_in: true,
        permissions: vec![permissions],
        assignable_scopes: vec!["/".to_owned()],
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn control(actions: &[&str], not_actions: &[&str]) -> Permissions {
    Permissions { actions: words(actions), not_actions: words(not_actions), ..Permissions::default() }
}

/// Actions that most of Azure's service roles begin or end with.
const COMMON: [&str; 5] = [
    "Microsoft.Authorization/*/read",
    "Microsoft.Insights/alertRules/*",
    "Microsoft.Resources/deployments/*",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Support/*",
];

fn with_common(actions: &[&str]) -> Permissions {
    control(&[&COMMON, actions].concat(), &[])
}

/// All of them; the general ones first.
pub fn built_in_roles() -> Vec<RoleDefinition> {
    let mut roles = Vec::from(general_roles());
    roles.extend(compute_roles());
    roles.extend(other_roles());
    roles.extend(storage_data_roles());
    roles
}

fn general_roles() -> [RoleDefinition; 5] {
    [
        built_in(
            OWNER,
            "Owner",
            "Grants full access to manage all resources, including the ability to assign roles in Azure RBAC.",
            control(&["*"], &[]),
        ),
        built_in(
            CONTRIBUTOR,
            "Contributor",
            "Grants full access to manage all resources, but does not allow you to assign roles in Azure RBAC, manage \
             assignments in Azure Blueprints, or share image galleries.",
            control(
                &["*"],
                &[
                    "Microsoft.Authorization/*/Delete",
                    "Microsoft.Authorization/*/Write",
                    "Microsoft.Authorization/elevateAccess/Action",
                    "Microsoft.Blueprint/blueprintAssignments/write",
                    "Microsoft.Blueprint/blueprintAssignments/delete",
                    "Microsoft.Compute/galleries/share/action",
                    "Microsoft.Purview/consents/write",
                    "Microsoft.Purview/consents/delete",
                ],
            ),
        ),
        built_in(
            READER,
            "Reader",
            "View all resources, but does not allow you to make any changes.",
            control(&["*/read"], &[]),
        ),
        built_in(
            USER_ACCESS_ADMINISTRATOR,
            "User Access Administrator",
            "Lets you manage user access to Azure resources.",
            control(&["*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"], &[]),
        ),
        built_in(
            ROLE_BASED_ACCESS_CONTROL_ADMINISTRATOR,
            "Role Based Access Control Administrator",
            "Manage access to Azure resources by assigning roles using Azure RBAC. This role does not allow you to manage \
             access using other ways, such as Azure Policy.",
            control(
                &[
                    "Microsoft.Authorization/roleAssignments/write",
                    "Microsoft.Authorization/roleAssignments/delete",
                    "*/read",
                    "Microsoft.Support/*",
                ],
                &[],
            ),
        ),
    ]
}

fn compute_roles() -> [RoleDefinition; 6] {
    [
        built_in(
            COMPUTE_GALLERY_SHARING_ADMIN,
            "Compute Gallery Sharing Admin",
            "This role allows user to share gallery to another subscription/tenant or share it to the public.",
            control(&["Microsoft.Compute/galleries/share/action"], &[]),
        ),
        built_in(
            COMPUTE_GALLERY_IMAGE_READER,
            "Compute Gallery Image Reader",
            "This is the role for reading gallery images.",
            control(
                &["Microsoft.Compute/galleries/images/read", "Microsoft.Compute/galleries/images/versions/read"],
                &[],
            ),
        ),
        built_in(
            COMPUTE_GALLERY_ARTIFACTS_PUBLISHER,
            "Compute Gallery Artifacts Publisher",
            "This is the role for publishing gallery artifacts.",
            control(
                &[
                    "Microsoft.Compute/galleries/*",
                    "Microsoft.Compute/locations/capsOperations/read",
                    "Microsoft.Compute/locations/communityGalleries/*",
                    "Microsoft.Compute/locations/sharedGalleries/*",
                    "Microsoft.Compute/images/*",
                    "Microsoft.Compute/virtualMachines/write",
                    "Microsoft.Compute/disks/write",
                    "Microsoft.Authorization/*/read",
                    "Microsoft.Insights/alertRules/*",
                    "Microsoft.Resources/deployments/*",
                    "Microsoft.Resources/subscriptions/resourceGroups/read",
                ],
                &["Microsoft.Compute/galleries/share/action"],
            ),
        ),
        built_in(
            DISK_SNAPSHOT_CONTRIBUTOR,
            "Disk Snapshot Contributor",
            "Provides permission to backup vault to manage disk snapshots.",
            control(
                &[
                    "Microsoft.Authorization/*/read",
                    "Microsoft.Resources/subscriptions/resourceGroups/read",
                    "Microsoft.Compute/snapshots/delete",
                    "Microsoft.Compute/snapshots/write",
                    "Microsoft.Compute/snapshots/read",
                    "Microsoft.Compute/snapshots/beginGetAccess/action",
                    "Microsoft.Compute/snapshots/endGetAccess/action",
                    "Microsoft.Compute/disks/beginGetAccess/action",
                    "Microsoft.Storage/storageAccounts/listkeys/action",
                    "Microsoft.Storage/storageAccounts/write",
                    "Microsoft.Storage/storageAccounts/read",
                    "Microsoft.Storage/storageAccounts/delete",
                ],
                &[],
            ),
        ),
        built_in(
            DATA_OPERATOR_FOR_MANAGED_DISKS,
            "Data Operator for Managed Disks",
            "Provides permissions to upload data to empty managed disks, read, or export data of managed disks (not attached \
             to running VMs) and snapshots using SAS URIs and Azure AD authentication.",
            Permissions {
                data_actions: words(&[
                    "Microsoft.Compute/disks/download/action",
                    "Microsoft.Compute/disks/upload/action",
                    "Microsoft.Compute/snapshots/download/action",
                    "Microsoft.Compute/snapshots/upload/action",
                ]),
                ..Permissions::default()
            },
        ),
        built_in(
            VIRTUAL_MACHINE_CONTRIBUTOR,
            "Virtual Machine Contributor",
            "Lets you manage virtual machines, but not access to them, and not the virtual network or storage account \
             they're connected to.",
            with_common(&[
                "Microsoft.Compute/availabilitySets/*",
                "Microsoft.Compute/locations/*",
                "Microsoft.Compute/virtualMachines/*",
                "Microsoft.Compute/virtualMachineScaleSets/*",
                "Microsoft.Compute/cloudServices/*",
                "Microsoft.Compute/disks/write",
                "Microsoft.Compute/disks/read",
                "Microsoft.Compute/disks/delete",
                "Microsoft.Network/locations/*",
                "Microsoft.Network/networkInterfaces/*",
                "Microsoft.Network/networkSecurityGroups/join/action",
                "Microsoft.Network/networkSecurityGroups/read",
                "Microsoft.Network/publicIPAddresses/join/action",
                "Microsoft.Network/publicIPAddresses/read",
                "Microsoft.Network/virtualNetworks/read",
                "Microsoft.Network/virtualNetworks/subnets/join/action",
                "Microsoft.ResourceHealth/availabilityStatuses/read",
                "Microsoft.SerialConsole/serialPorts/connect/action",
                "Microsoft.Storage/storageAccounts/listKeys/action",
                "Microsoft.Storage/storageAccounts/read",
            ]),
        ),
    ]
}

fn other_roles() -> [RoleDefinition; 4] {
    [
        built_in(
            MANAGED_IDENTITY_OPERATOR,
            "Managed Identity Operator",
            "Read and Assign User Assigned Identity",
            with_common(&[
                "Microsoft.ManagedIdentity/userAssignedIdentities/*/read",
                "Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action",
            ]),
        ),
        built_in(
            MANAGED_IDENTITY_CONTRIBUTOR,
            "Managed Identity Contributor",
            "Create, Read, Update, and Delete User Assigned Identity",
            with_common(&[
                "Microsoft.ManagedIdentity/userAssignedIdentities/read",
                "Microsoft.ManagedIdentity/userAssignedIdentities/write",
                "Microsoft.ManagedIdentity/userAssignedIdentities/delete",
                "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/read",
                "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/write",
                "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/delete",
            ]),
        ),
        built_in(
            NETWORK_CONTRIBUTOR,
            "Network Contributor",
            "Lets you manage networks, but not access to them.",
            with_common(&["Microsoft.Network/*", "Microsoft.ResourceHealth/availabilityStatuses/read"]),
        ),
        built_in(
            STORAGE_ACCOUNT_CONTRIBUTOR,
            "Storage Account Contributor",
            "Lets you manage storage accounts, including accessing storage account keys which provide full access to storage \
             account data.",
            with_common(&[
                "Microsoft.Insights/diagnosticSettings/*",
                "Microsoft.Network/virtualNetworks/subnets/joinViaServiceEndpoint/action",
                "Microsoft.ResourceHealth/availabilityStatuses/read",
                "Microsoft.Storage/storageAccounts/*",
            ]),
        ),
    ]
}

/// The roles that open blobs to bearer tokens; Owner and Contributor do not.
fn storage_data_roles() -> [RoleDefinition; 4] {
    const DELEGATE: &str = "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action";
    const CONTAINERS: &str = "Microsoft.Storage/storageAccounts/blobServices/containers";
    let of = |control: &[&str], data: &[&str]| Permissions {
        actions: [control.iter().map(|a| format!("{CONTAINERS}/{a}")).collect(), vec![DELEGATE.to_owned()]].concat(),
        data_actions: data.iter().map(|a| format!("{CONTAINERS}/{a}")).collect(),
        ..Permissions::default()
    };
    let write = ["blobs/delete", "blobs/read", "blobs/write", "blobs/move/action", "blobs/add/action"];
    [
        built_in(
            STORAGE_BLOB_DATA_OWNER,
            "Storage Blob Data Owner",
            "Allows for full access to Azure Storage blob containers and data, including assigning POSIX access control.",
            of(&["*"], &["blobs/*"]),
        ),
        built_in(
            STORAGE_BLOB_DATA_CONTRIBUTOR,
            "Storage Blob Data Contributor",
            "Allows for read, write and delete access to Azure Storage blob containers and data",
            of(&["delete", "read", "write"], &write),
        ),
        built_in(
            STORAGE_BLOB_DATA_READER,
            "Storage Blob Data Reader",
            "Allows for read access to Azure Storage blob containers and data",
            of(&["read"], &["blobs/read"]),
        ),
        built_in(
            STORAGE_BLOB_DELEGATOR,
            "Storage Blob Delegator",
            "Allows for generation of a user delegation key which can be used to sign SAS tokens",
            of(&[], &[]),
        ),
    ]
}
