//! One file a long-running operation; here is the list of all of them.

mod content_delete;
mod deployment_run;
pub(crate) mod disk_begin_access;
pub(crate) mod disk_copy;
mod disk_create;
mod disk_delete;
pub(crate) mod disk_end_access;
mod gallery_share;
mod image_template_create;
mod image_template_delete;
mod image_template_run;
pub(crate) mod image_version;
mod image_version_create;
mod image_version_delete;
mod image_version_update;
mod managed_image_create;
mod platform_image_create;
mod replicas;
mod resource_group_delete;
mod row_update;
pub(crate) mod virtual_machine;
mod virtual_machine_applications;
mod virtual_machine_create;
mod virtual_machine_delete;
mod virtual_machine_extension_put;
mod virtual_machine_power;
pub(crate) mod virtual_machine_run_command;
pub(crate) mod virtual_machine_scale_set;
pub(crate) mod virtual_machine_update;

use crate::operation::Operation;
use std::sync::Arc;

/// Every operation this server can run.
pub(crate) fn all() -> Vec<Arc<dyn Operation>> {
    use virtual_machine_power::{Action, VirtualMachinePower};
    vec![
        Arc::new(replicas::Replicas("application_version.create")),
        Arc::new(content_delete::ContentDelete("application_version.delete")),
        Arc::new(replicas::Replicas("application_version.update")),
        Arc::new(content_delete::ContentDelete("deployment.delete")),
        Arc::new(deployment_run::DeploymentRun),
        Arc::new(disk_begin_access::DiskBeginAccess),
        Arc::new(disk_copy::DiskCopy("disk.copy")),
        Arc::new(disk_copy::DiskCopy("snapshot.copy")),
        Arc::new(disk_create::DiskCreate("disk.create")),
        Arc::new(disk_create::DiskCreate("snapshot.create")),
        Arc::new(disk_delete::DiskDelete),
        Arc::new(disk_end_access::DiskEndAccess),
        Arc::new(gallery_share::GalleryShare),
        Arc::new(image_template_create::ImageTemplateCreate),
        Arc::new(image_template_delete::ImageTemplateDelete),
        Arc::new(row_update::RowUpdate("image_template.update")),
        Arc::new(row_update::RowUpdate("image_template_trigger.create")),
        Arc::new(image_template_run::ImageTemplateRun),
        Arc::new(image_version_create::ImageVersionCreate),
        Arc::new(image_version_delete::ImageVersionDelete),
        Arc::new(image_version_update::ImageVersionUpdate),
        Arc::new(managed_image_create::ManagedImageCreate),
        Arc::new(content_delete::ContentDelete("managed_image.delete")),
        Arc::new(row_update::RowUpdate("managed_image.update")),
        Arc::new(platform_image_create::PlatformImageCreate),
        Arc::new(content_delete::ContentDelete("platform_image.delete")),
        Arc::new(replicas::Replicas("platform_image.update")),
        Arc::new(resource_group_delete::ResourceGroupDelete),
        Arc::new(virtual_machine_create::VirtualMachineCreate),
        Arc::new(virtual_machine_delete::VirtualMachineDelete),
        Arc::new(virtual_machine_extension_put::VirtualMachineExtensionPut),
        Arc::new(VirtualMachinePower(Action::Start)),
        Arc::new(VirtualMachinePower(Action::PowerOff)),
        Arc::new(VirtualMachinePower(Action::Restart)),
        Arc::new(VirtualMachinePower(Action::Deallocate)),
        Arc::new(VirtualMachinePower(Action::Redeploy)),
        Arc::new(VirtualMachinePower(Action::Reapply)),
        Arc::new(virtual_machine_run_command::VirtualMachineRunCommand),
        Arc::new(virtual_machine_update::VirtualMachineUpdate),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet("virtual_machine_scale_set.cancel_rolling")),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet("virtual_machine_scale_set.delete")),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet("virtual_machine_scale_set.delete_instances")),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet("virtual_machine_scale_set.power")),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet("virtual_machine_scale_set.reimage")),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet("virtual_machine_scale_set.roll")),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet("virtual_machine_scale_set.scale")),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet("virtual_machine_scale_set.upgrade")),
    ]
}
