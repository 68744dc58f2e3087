//! The files on the provisioning disc.

use lazuli_disks::media::RootFile;

use super::{ovf, windows};
use crate::spec::Provisioning;

/// What a guest of this system looks for. `provisioning` must have passed [`VmSpec::check`](crate::spec::VmSpec::check).
pub fn files(provisioning: &Provisioning) -> Vec<RootFile> {
    match &provisioning.windows {
        Some(settings) => windows::files(provisioning, settings),
        None => vec![("ovf-env.xml", ovf::ovf_env(provisioning))],
    }
}
