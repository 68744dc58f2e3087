//! KVM or TCG? Decided once per host folder, remembered in `accel.json` there, overridden by the operator.
//!
//! That `/dev/kvm` opens proves nothing: where it is PVM, stock guest kernels are interpreted instruction by instruction
//! and a Debian guest does not reach its init in minutes, while firmware runs well enough to fool a quick test. So KVM
//! is used only with one of the hardware's own modules (`kvm_intel`, `kvm_amd`) and without `kvm_pvm`.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How QEMU runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A decision and why it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub accelerator: Accelerator,
    pub reason: String,
}

/// What of the machine matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `None`: `/dev/kvm` opens for reading and writing; else why not.
    pub device_error: Option<String>,
    /// Names of the loaded modules that start with `kvm`.
    pub modules: Vec<String>,
}

impl Facts {
    pub fn gather() -> Self {
        let device = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        let modules = std::fs::read_dir("/sys/module").into_iter().flatten().flatten();
        let modules = modules.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with("kvm"));
        Self { device_error: device.err().map(|e| e.to_string()), modules: modules.collect() }
    }
}

/// The rule.
pub fn decide(facts: &Facts) -> Decision {
    let has = |name: &str| facts.modules.iter().any(|m| m == name);
    let tcg = |reason: String| Decision { accelerator: Accelerator::Tcg, reason };
    if let Some(error) = &facts.device_error {
        tcg(format!("/dev/kvm cannot be opened: {error}"))
    } else if has("kvm_pvm") {
        tcg("/dev/kvm is PVM, which does not run stock guests".into())
    } else if has("kvm_intel") || has("kvm_amd") {
        Decision { accelerator: Accelerator::Kvm, reason: "the processor's virtualization is available".into() }
    } else {
        tcg("neither kvm_intel nor kvm_amd is loaded".into())
    }
}

/// The operator's choice, or else what was remembered in `dir`, or else [`decide`], which is then remembered.
/// A remembered KVM that no longer holds is decided anew.
pub fn choose(dir: &Path, operator: Option<Accelerator>, facts: &Facts) -> io::Result<Decision> {
    if let Some(accelerator) = operator {
        return Ok(Decision { accelerator, reason: "chosen by the operator".into() });
    }
    let now = decide(facts);
    let path = dir.join("accel.json");
    let remembered = std::fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Decision>(&b).ok());
    match remembered {
        Some(before) if before.accelerator == Accelerator::Tcg || now.accelerator == Accelerator::Kvm => Ok(before),
        _ => {
            std::fs::write(&path, serde_json::to_vec_pretty(&now).map_err(io::Error::other)?)?;
            Ok(now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(device_error: Option<&str>, modules: &[&str]) -> Facts {
        Facts {
            device_error: device_error.map(str::to_owned),
            modules: modules.iter().map(|&m| m.to_owned()).collect(),
        }
    }

    #[test]
    fn kvm_needs_the_hardware_and_no_pvm() {
        let cases = [
            (facts(None, &["kvm", "kvm_intel"]), Accelerator::Kvm),
            (facts(None, &["kvm", "kvm_amd"]), Accelerator::Kvm),
            (facts(None, &["kvm", "kvm_pvm"]), Accelerator::Tcg),
            (facts(None, &["kvm", "kvm_intel", "kvm_pvm"]), Accelerator::Tcg),
            (facts(None, &["kvm"]), Accelerator::Tcg),
            (facts(Some("Permission denied"), &["kvm", "kvm_intel"]), Accelerator::Tcg),
        ];
        for (facts, expected) in cases {
            assert_eq!(decide(&facts).accelerator, expected, "{facts:?}");
        }
    }

    #[test]
    fn the_choice_is_remembered_and_the_operator_overrides_it() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (facts(None, &["kvm_intel"]), facts(None, &["kvm_pvm"]));
        let choose = |operator, facts| choose(dir.path(), operator, facts).unwrap().accelerator;
        assert_eq!(choose(Some(Accelerator::Kvm), &bad), Accelerator::Kvm);
        assert_eq!(choose(None, &bad), Accelerator::Tcg);
        assert_eq!(choose(None, &good), Accelerator::Tcg, "remembered");
        std::fs::remove_file(dir.path().join("accel.json")).unwrap();
        assert_eq!(choose(None, &good), Accelerator::Kvm);
        assert_eq!(choose(None, &bad), Accelerator::Tcg, "KVM that is gone is not believed");
    }
}
