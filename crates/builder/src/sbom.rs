//! The list of an image's parts as a CycloneDX 1.6 document (ECMA-424). Pure: the same inventory gives the same bytes.

use serde_json::{Value, json};

use crate::inventory::{Inventory, Manager, Package};

/// What the document is about.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Name of the image: the template's.
    pub name: &'a str,
    /// Version of the image, where it has one.
    pub version: Option<&'a str>,
    /// RFC 3339.
    pub time: &'a str,
}

/// The document.
pub fn cyclonedx(subject: &Subject<'_>, inventory: &Inventory) -> Value {
    let mut component = json!({"type": "operating-system", "bom-ref": "image", "name": subject.name});
    if let Some(version) = subject.version {
        component["version"] = json!(version);
    }
    if !inventory.os.is_empty() {
        component["properties"] = json!([
            {"name": "lazuli:os", "value": inventory.os},
            {"name": "lazuli:osVersion", "value": inventory.os_version},
        ]);
    }
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": subject.time,
            "tools": {"components": [
                {"type": "application", "name": "lazuli", "version": env!("CARGO_PKG_VERSION")},
            ]},
            "component": component,
        },
        "components": inventory.packages.iter().map(|p| part(p, inventory)).collect::<Vec<_>>(),
    })
}

fn part(package: &Package, inventory: &Inventory) -> Value {
    let purl = purl(package, inventory);
    json!({"type": "library", "bom-ref": purl, "name": package.name, "version": package.version, "purl": purl})
}

/// The package's URL (package-url/purl-spec).
fn purl(package: &Package, inventory: &Inventory) -> String {
    let (name, version) = (encoded(&package.name), encoded(&package.version));
    let distribution = match (inventory.os.as_str(), inventory.os_version.as_str()) {
        ("", _) | (_, "") => String::new(),
        (os, version) => format!("&distro={}-{}", encoded(os), encoded(version)),
    };
    let namespace = if inventory.os.is_empty() { "linux".to_owned() } else { encoded(&inventory.os) };
    let arch = encoded(&package.architecture);
    match package.manager {
        Manager::Dpkg => format!("pkg:deb/{namespace}/{name}@{version}?arch={arch}{distribution}"),
        Manager::Rpm => format!("pkg:rpm/{namespace}/{name}@{version}?arch={arch}{distribution}"),
        // There is no type of Windows' own.
        Manager::Windows if version.is_empty() => format!("pkg:generic/{name}"),
        Manager::Windows => format!("pkg:generic/{name}@{version}"),
        Manager::Pip => format!("pkg:pypi/{}@{version}", name.to_ascii_lowercase().replace('_', "-")),
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document() {
        let package = |manager, name: &str, version: &str, architecture: &str| Package {
            manager,
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
        };
        let inventory = Inventory {
            os: "debian".to_owned(),
            os_version: "12".to_owned(),
            packages: vec![
                package(Manager::Dpkg, "libstdc++6", "12.2.0-14", "amd64"),
                package(Manager::Dpkg, "bind9", "1:9.18.1~x+y", "amd64"),
                package(Manager::Pip, "Zope_Interface", "6.0", ""),
            ],
        };
        let subject = Subject { name: "web", version: Some("1.0.1"), time: "2026-03-01T12:00:00Z" };
        insta::assert_json_snapshot!(cyclonedx(&subject, &inventory), {".metadata.tools.components[0].version" => "[version]"});
    }
}
