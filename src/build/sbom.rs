//! Owns the software bill of materials: SPDX 2.3 as JSON
//! (<https://spdx.github.io/spdx-spec/v2.3/>).
//! Never guesses a licence: packages carry their copyright files in the image.

use serde_json::{Value, json};

use crate::clock::rfc3339;
use crate::recipe::{LockedPackage, Role};

/// The subject of the document.
pub struct Subject<'a> {
    /// The image id.
    pub image: &'a str,
    /// SHA-256 of `rootfs.tar`, in hex.
    pub sha256: &'a str,
    /// Unix seconds.
    pub epoch: i64,
    pub packages: &'a [LockedPackage],
}

/// The document as text; deterministic.
pub fn document(subject: &Subject<'_>) -> String {
    let image_id = "SPDXRef-image";
    let mut packages = vec![json!({
        "SPDXID": image_id,
        "name": subject.image,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "checksums": [{"algorithm": "SHA256", "checksumValue": subject.sha256}],
    })];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": image_id,
    })];
    for package in subject.packages {
        let id = reference(package);
        let (element, relationship, related) = match package.role {
            Role::Root => (image_id, "CONTAINS", id.as_str()),
            // Not installed in the image: boards only start from it.
            Role::Bootloader => (image_id, "DEPENDS_ON", id.as_str()),
            Role::Tool => (id.as_str(), "BUILD_TOOL_OF", image_id),
        };
        relationships.push(json!({
            "spdxElementId": element,
            "relationshipType": relationship,
            "relatedSpdxElement": related,
        }));
        packages.push(entry(package, &id));
    }
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.image,
        "documentNamespace": format!("urn:hearth:sbom:{}:{}", subject.image, subject.sha256),
        "creationInfo": {
            "created": rfc3339(subject.epoch),
            "creators": [concat!("Tool: hearth-", env!("CARGO_PKG_VERSION"))],
        },
        "documentDescribes": [image_id],
        "packages": packages,
        "relationships": relationships,
    });
    let mut text = serde_json::to_string_pretty(&document).expect("a JSON value is always JSON");
    text.push('\n');
    text
}

fn entry(package: &LockedPackage, id: &str) -> Value {
    json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "packageFileName": package.path.rsplit('/').next(),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": package.sha256}],
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!(
                "pkg:deb/debian/{}@{}?arch={}",
                percent(&package.name),
                percent(&package.version),
                package.arch
            ),
        }],
    })
}

/// An SPDX identifier: letters, digits, `.` and `-` only (clause 7.2).
fn reference(package: &LockedPackage) -> String {
    let clean: String = format!("{}-{}-{}", package.name, package.version, package.arch)
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    // `a+b` and `a-b` are different packages.
    format!(
        "SPDXRef-package-{clean}-{}",
        package.sha256.get(..8).unwrap_or_default()
    )
}

/// Percent-encoding of package URLs.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, role: Role) -> LockedPackage {
        LockedPackage {
            name: name.into(),
            version: version.into(),
            arch: "armhf".into(),
            path: format!("pool/main/{name}.deb"),
            size: 1,
            sha256: "0a".repeat(32),
            suite: "trixie".into(),
            role,
            local: false,
            auto: false,
        }
    }

    /// The whole document is `tests/snapshots/sbom.snap`.
    #[test]
    fn a_package_of_each_role_has_its_relation_to_the_image() {
        let document = document(&Subject {
            image: "trixie-armhf-0c0c0c0c0c0c",
            sha256: &"0c".repeat(32),
            epoch: 1_700_000_000,
            packages: &[
                package("libstdc++6", "1:14.2.0-19~deb13u1", Role::Root),
                package("u-boot-sunxi", "2025.01", Role::Bootloader),
                package("perl-base", "5.40.1", Role::Tool),
            ],
        });
        let hearth = concat!("hearth-", env!("CARGO_PKG_VERSION"));
        let document = document.replace(hearth, "hearth-VERSION");
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.bind(|| insta::assert_snapshot!("sbom", document));
    }
}
