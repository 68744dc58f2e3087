//! `ovf-env.xml`, the file on the provisioning disc that cloud-init and waagent read at first boot.
//!
//! Both accept the default namespaces below; cloud-init refuses a file without `PlatformSettingsSection`. Everything a
//! user wrote is escaped by the XML writer, never pasted.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use crate::spec::Provisioning;

const OVF: &str = "http://schemas.dmtf.org/ovf/environment/1";
const AZURE: &str = "http://schemas.microsoft.com/windowsazure";
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

type Xml = Writer<Vec<u8>>;

/// The file's text. `provisioning` must have passed [`VmSpec::check`](crate::spec::VmSpec::check).
pub fn ovf_env(provisioning: &Provisioning) -> String {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    document(&mut xml, provisioning).expect("writing to memory cannot fail");
    let mut text = String::from_utf8(xml.into_inner()).expect("only text was written");
    text.push('\n');
    text
}

fn document(xml: &mut Xml, p: &Provisioning) -> io::Result<()> {
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("utf-8"), None)))?;
    xml.create_element("Environment")
        .with_attribute(("xmlns", OVF))
        .with_attribute(("xmlns:oe", OVF))
        .with_attribute(("xmlns:wa", AZURE))
        .with_attribute(("xmlns:xsi", XSI))
        .write_inner_content(|xml| {
            xml.create_element("wa:ProvisioningSection").write_inner_content(|xml| {
                leaf(xml, "wa:Version", "1.0")?;
                linux(xml, p)
            })?;
            xml.create_element("wa:PlatformSettingsSection").write_inner_content(|xml| {
                leaf(xml, "wa:Version", "1.0")?;
                platform(xml, p)
            })?;
            Ok(())
        })?;
    Ok(())
}

fn linux(xml: &mut Xml, p: &Provisioning) -> io::Result<()> {
    xml.create_element("LinuxProvisioningConfigurationSet")
        .with_attribute(("xmlns", AZURE))
        .with_attribute(("xmlns:i", XSI))
        .write_inner_content(|xml| {
            leaf(xml, "ConfigurationSetType", "LinuxProvisioningConfiguration")?;
            leaf(xml, "HostName", &p.host_name)?;
            leaf(xml, "UserName", &p.admin_user)?;
            if let Some(password) = &p.admin_password {
                leaf(xml, "UserPassword", password)?;
            }
            flag(xml, "DisableSshPasswordAuthentication", p.disable_password)?;
            if !p.ssh_keys.is_empty() {
                xml.create_element("SSH").write_inner_content(|xml| keys(xml, p))?;
            }
            match &p.custom_data {
                Some(data) => leaf(xml, "CustomData", data),
                None => Ok(()),
            }
        })?;
    Ok(())
}

fn keys(xml: &mut Xml, p: &Provisioning) -> io::Result<()> {
    xml.create_element("PublicKeys").write_inner_content(|xml| {
        for key in &p.ssh_keys {
            xml.create_element("PublicKey").write_inner_content(|xml| {
                leaf(xml, "Path", &key.path)?;
                leaf(xml, "Value", key.key_data.trim())
            })?;
        }
        Ok(())
    })?;
    Ok(())
}

fn platform(xml: &mut Xml, p: &Provisioning) -> io::Result<()> {
    xml.create_element("PlatformSettings")
        .with_attribute(("xmlns", AZURE))
        .with_attribute(("xmlns:i", XSI))
        .write_inner_content(|xml| {
            leaf(xml, "KmsServerHostname", "kms.core.windows.net")?;
            flag(xml, "ProvisionGuestAgent", p.provision_vm_agent)?;
            xml.create_element("GuestAgentPackageName").with_attribute(("i:nil", "true")).write_empty()?;
            flag(xml, "RetainWindowsPEPassInUnattend", true)?;
            flag(xml, "RetainOfflineServicingPassInUnattend", true)?;
            flag(xml, "PreprovisionedVm", false)?;
            flag(xml, "EnableTrustedImageIdentifier", false)
        })?;
    Ok(())
}

fn leaf(xml: &mut Xml, name: &str, text: &str) -> io::Result<()> {
    xml.create_element(name).write_text_content(BytesText::new(text))?;
    Ok(())
}

fn flag(xml: &mut Xml, name: &str, value: bool) -> io::Result<()> {
    leaf(xml, name, if value { "true" } else { "false" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SshKey;

    fn hostile() -> Provisioning {
        Provisioning {
            host_name: "web01".into(),
            admin_user: "azureuser".into(),
            admin_password: Some("a<b>&\"']]>${x}\u{e9}".into()),
            disable_password: false,
            ssh_keys: vec![SshKey {
                path: "/home/azureuser/.ssh/authorized_keys".into(),
                key_data: "ssh-ed25519 AAAAC3Nza you&me <x@y>\n".into(),
            }],
            custom_data: Some("I2Nsb3VkLWNvbmZpZwo=".into()),
            provision_vm_agent: true,
            windows: None,
        }
    }

    #[test]
    fn everything_written_by_users_is_escaped() {
        insta::assert_snapshot!(ovf_env(&hostile()));
    }

    #[test]
    fn what_was_not_given_is_not_there() {
        let bare = Provisioning {
            admin_password: None,
            disable_password: true,
            ssh_keys: Vec::new(),
            custom_data: None,
            provision_vm_agent: false,
            ..hostile()
        };
        insta::assert_snapshot!(ovf_env(&bare));
    }
}
