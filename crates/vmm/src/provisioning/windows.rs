//! The provisioning disc of a machine with Windows. Azure's own agent for it is Microsoft's and comes on Azure's disc, so that this one
//! does without: `Unattend.xml` is what Windows Setup itself looks for on every disc when a generalized system starts for the first time,
//! and what it names runs `provision.ps1`, which does the rest and reports.
//!
//! ```text
//! specialize   computer name, time zone; the scripts are copied to %WINDIR%\Setup\Scripts
//! oobeSystem   no questions; the administrator with the password
//! at the end   SetupComplete.cmd ─▶ provision.ps1: custom data, WinRM where asked for, status with its certificate, Ready
//! ```
//! No Windows was there to try it on (`docs/image-builder.md`). Everything that a user wrote is escaped by the XML writer or quoted for
//! PowerShell, never pasted.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lazuli_disks::media::RootFile;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use crate::spec::{Provisioning, WindowsSettings};

const UNATTEND: &str = "urn:schemas-microsoft-com:unattend";
const CONFIG: &str = "http://schemas.microsoft.com/WMIConfig/2002/State";
const PROVISION: &str = include_str!("provision.ps1");
const SETUP_COMPLETE: &str = "@echo off\r\npowershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -File \
                              \"%WINDIR%\\Setup\\Scripts\\provision.ps1\"\r\n";
/// Setup takes no longer paths than 259 characters, and knows no variables for the disc's letter.
const COPY: &str = "cmd.exe /c mkdir %WINDIR%\\Setup\\Scripts & for %d in (D E F G H) do if exist %d:\\provision.ps1 copy /y \
                    %d:\\*.* %WINDIR%\\Setup\\Scripts";

type Xml = Writer<Vec<u8>>;

/// Everything on the disc.
pub fn files(p: &Provisioning, settings: &WindowsSettings) -> Vec<RootFile> {
    vec![
        ("Unattend.xml", unattend(p, settings)),
        ("SetupComplete.cmd", SETUP_COMPLETE.to_owned()),
        ("provision.ps1", provision(p, settings)),
    ]
}

fn unattend(p: &Provisioning, settings: &WindowsSettings) -> String {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    document(&mut xml, p, settings).expect("writing to memory cannot fail");
    let mut text = String::from_utf8(xml.into_inner()).expect("only text was written");
    text.push('\n');
    text
}

fn document(xml: &mut Xml, p: &Provisioning, settings: &WindowsSettings) -> io::Result<()> {
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("utf-8"), None)))?;
    xml.create_element("unattend")
        .with_attribute(("xmlns", UNATTEND))
        .with_attribute(("xmlns:wcm", CONFIG))
        .write_inner_content(|xml| {
            xml.create_element("settings")
                .with_attribute(("pass", "specialize"))
                .write_inner_content(|xml| specialize(xml, p, settings))?;
            xml.create_element("settings")
                .with_attribute(("pass", "oobeSystem"))
                .write_inner_content(|xml| oobe(xml, p))?;
            Ok(())
        })?;
    Ok(())
}

fn component(xml: &mut Xml, name: &str, content: impl FnOnce(&mut Xml) -> io::Result<()>) -> io::Result<()> {
    xml.create_element("component")
        .with_attribute(("name", name))
        .with_attribute(("processorArchitecture", "amd64"))
        .with_attribute(("publicKeyToken", "31bf3856ad364e35"))
        .with_attribute(("language", "neutral"))
        .with_attribute(("versionScope", "nonSxS"))
        .write_inner_content(content)?;
    Ok(())
}

fn specialize(xml: &mut Xml, p: &Provisioning, settings: &WindowsSettings) -> io::Result<()> {
    component(xml, "Microsoft-Windows-Shell-Setup", |xml| {
        leaf(xml, "ComputerName", &p.host_name)?;
        leaf(xml, "TimeZone", settings.time_zone.as_deref().unwrap_or("UTC"))
    })?;
    component(xml, "Microsoft-Windows-Deployment", |xml| {
        within(xml, "RunSynchronous", |xml| {
            xml.create_element("RunSynchronousCommand").with_attribute(("wcm:action", "add")).write_inner_content(
                |xml| {
                    leaf(xml, "Order", "1")?;
                    leaf(xml, "Path", COPY)
                },
            )?;
            Ok(())
        })
    })
}

fn oobe(xml: &mut Xml, p: &Provisioning) -> io::Result<()> {
    component(xml, "Microsoft-Windows-International-Core", |xml| {
        for name in ["InputLocale", "SystemLocale", "UILanguage", "UserLocale"] {
            leaf(xml, name, "en-US")?;
        }
        Ok(())
    })?;
    component(xml, "Microsoft-Windows-Shell-Setup", |xml| {
        within(xml, "OOBE", |xml| {
            for name in
                ["HideEULAPage", "HideLocalAccountScreen", "HideOnlineAccountScreens", "HideWirelessSetupInOOBE"]
            {
                leaf(xml, name, "true")?;
            }
            leaf(xml, "ProtectYourPC", "3")
        })?;
        within(xml, "UserAccounts", |xml| {
            within(xml, "LocalAccounts", |xml| {
                xml.create_element("LocalAccount").with_attribute(("wcm:action", "add")).write_inner_content(
                    |xml| {
                        leaf(xml, "Name", &p.admin_user)?;
                        leaf(xml, "Group", "Administrators")?;
                        within(xml, "Password", |xml| {
                            leaf(xml, "Value", &hidden(p.admin_password.as_deref().unwrap_or_default()))?;
                            leaf(xml, "PlainText", "false")
                        })
                    },
                )?;
                Ok(())
            })
        })
    })
}

/// As Setup writes passwords down: the element's name behind it, UTF-16, base64. It hides nothing; the disc is the machine's alone, and
/// goes when it has reported.
fn hidden(password: &str) -> String {
    let bytes: Vec<u8> = format!("{password}Password").encode_utf16().flat_map(u16::to_le_bytes).collect();
    BASE64.encode(bytes)
}

fn within(xml: &mut Xml, name: &str, content: impl FnOnce(&mut Xml) -> io::Result<()>) -> io::Result<()> {
    xml.create_element(name).write_inner_content(content)?;
    Ok(())
}

fn leaf(xml: &mut Xml, name: &str, text: &str) -> io::Result<()> {
    xml.create_element(name).write_text_content(BytesText::new(text))?;
    Ok(())
}

/// The script with what it is to do.
fn provision(p: &Provisioning, settings: &WindowsSettings) -> String {
    let (custom, admin) = (quoted(p.custom_data.as_deref().unwrap_or_default()), quoted(&p.admin_user));
    let winrm = if settings.winrm_https { "$true" } else { "$false" };
    format!("\u{feff}$customData = {custom}\n$admin = {admin}\n$winrm = {winrm}\n{PROVISION}").replace('\n', "\r\n")
}

/// A literal of PowerShell, which takes typographic quotes for quotes.
fn quoted(text: &str) -> String {
    let double = |c: char| if matches!(c, '\'' | '\u{2018}'..='\u{201b}') { vec![c, c] } else { vec![c] };
    format!("'{}'", text.chars().flat_map(double).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> WindowsSettings {
        WindowsSettings { time_zone: None, winrm_https: true }
    }

    fn provisioning() -> Provisioning {
        Provisioning {
            host_name: "web01".into(),
            admin_user: "azureuser".into(),
            admin_password: Some("a<b>&\"']]>\u{e9}".into()),
            disable_password: false,
            ssh_keys: Vec::new(),
            custom_data: Some("aGVsbG8=".into()),
            provision_vm_agent: false,
            windows: Some(settings()),
        }
    }

    #[test]
    fn setup_is_told() {
        insta::assert_snapshot!(unattend(&provisioning(), &settings()));
        assert!(COPY.len() < 259, "{}", COPY.len());
    }

    #[test]
    fn everything_written_by_users_is_escaped() {
        let hostile = Provisioning { host_name: "<b>&".into(), admin_user: "</Name>".into(), ..provisioning() };
        let text = unattend(&hostile, &WindowsSettings { time_zone: Some("<i>".into()), ..settings() });
        let mut reader = quick_xml::Reader::from_str(&text);
        loop {
            match reader.read_event().expect("well-formed") {
                Event::Start(e) | Event::Empty(e) => assert!(e.name().as_ref().len() > 1, "{text}"),
                Event::Eof => break,
                _ => {}
            }
        }
    }

    /// As Microsoft's System Image Manager writes it.
    #[test]
    fn passwords_are_written_as_setup_reads_them() {
        assert_eq!(hidden("pw"), "cAB3AFAAYQBzAHMAdwBvAHIAZAA=");
    }

    #[test]
    fn the_script_knows_what_to_do() {
        let text = provision(&provisioning(), &settings());
        assert!(
            text.starts_with("\u{feff}$customData = 'aGVsbG8='\r\n$admin = 'azureuser'\r\n$winrm = $true\r\n"),
            "{text}"
        );
        let plain = Provisioning { custom_data: None, admin_user: "o'b".into(), ..provisioning() };
        let text = provision(&plain, &WindowsSettings { winrm_https: false, ..settings() });
        assert!(text.starts_with("\u{feff}$customData = ''\r\n$admin = 'o''b'\r\n$winrm = $false\r\n"), "{text}");
    }
}
