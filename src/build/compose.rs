//! Owns output directories that are made out of another one: some of its artifacts replaced, layers added, an id of
//! their own. Never makes an artifact, and never copies one where a link does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::publish::link_or_copy;
use super::side_stages::SideStages;
use super::stages::{Key, Stored};
use crate::image::{Artifact, Manifest, Source};

/// Raised when the same inputs give another output directory.
const REVISION: u32 = 1;

/// The output directory below that of its stage.
const OUTPUT: &str = "image";

/// Artifacts that describe an image and are not part of what boots.
const DESCRIPTIONS: [&str; 1] = ["sbom.spdx.json"];

/// A file that becomes an artifact. It is linked, so it must not be written to any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub path: PathBuf,
    pub artifact: Artifact,
}

impl Part {
    /// Hashes the file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        Ok(Part {
            path: path.to_path_buf(),
            artifact: Artifact::of(path)?,
        })
    }
}

/// How an output directory differs from the one that it is made out of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Artifacts that are added or replaced, by name.
    pub parts: BTreeMap<String, Part>,
    /// Directories of artifacts that are left out, such as `dtb`; what `parts` has there comes in their place.
    pub without: Vec<String>,
    /// Tars that lie over the image, bottom first.
    pub layers: Vec<Part>,
    /// The kernel's release, if it is another.
    pub kernel: Option<String>,
    /// Kernel arguments in addition to those of the other directory.
    pub kernel_arguments: Vec<String>,
    /// Where the parts came from.
    pub sources: BTreeMap<String, Source>,
}

impl Change {
    /// Whether the other output directory will do.
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }
}

/// An output directory in the cache, which stays there while this lives.
#[derive(Debug)]
pub struct Derived {
    /// It is the only output directory in its parent, so that servers can be given that one.
    pub directory: PathBuf,
    pub manifest: Manifest,
    _stored: Stored,
}

/// Makes the output directory `base` with a change into another one, or finds it in the cache: the same base and change
/// give the same directory and id.
///
/// # Errors
/// If `base` is no output directory, or the cache cannot be written to.
pub fn derive(base: &Path, change: &Change, stages: &mut SideStages) -> Result<Derived> {
    let before = Manifest::load(base)?;
    let manifest = changed(&before, change, base)?;
    let key = Key::new("derived", REVISION).with("manifest", manifest.to_json());
    let stored = stages.stage(key, |directory| {
        let output = directory.join(OUTPUT);
        for name in manifest.artifacts.keys() {
            let target = output.join(name);
            let from = match source(change, name) {
                Some(part) => part.path.clone(),
                None => base.join(name),
            };
            put(&from, &target)?;
        }
        let path = output.join(Manifest::FILE);
        fs::create_dir_all(&output)
            .and_then(|()| fs::write(&path, manifest.to_json()))
            .with_context(|| format!("cannot write {}", path.display()))
    })?;
    Ok(Derived {
        directory: stored.path.join(OUTPUT),
        manifest,
        _stored: stored,
    })
}

fn put(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| link_or_copy(from, to))
        .with_context(|| format!("cannot take {} as {}", from.display(), to.display()))
}

/// The name of a layer's artifact: layers of other images are never called the same.
fn layer_name(layer: &Part) -> String {
    let digest = layer.artifact.sha256.get(..12).unwrap_or_default();
    format!("layers/{digest}.tar")
}

/// The new part with this name.
fn source<'a>(change: &'a Change, name: &str) -> Option<&'a Part> {
    let layer = || change.layers.iter().find(|layer| layer_name(layer) == name);
    change.parts.get(name).or_else(layer)
}

fn changed(before: &Manifest, change: &Change, base: &Path) -> Result<Manifest> {
    let mut after = before.clone();
    let is_left_out = |name: &str| {
        let mut directories = change.without.iter();
        directories.any(|directory| {
            let below = name.strip_prefix(directory.as_str());
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        })
    };
    after.artifacts.retain(|name, _| !is_left_out(name));
    for (name, part) in &change.parts {
        after.artifacts.insert(name.clone(), part.artifact.clone());
    }
    for layer in &change.layers {
        let name = layer_name(layer);
        after.artifacts.insert(name.clone(), layer.artifact.clone());
        after.layers.retain(|known| *known != name);
        after.layers.push(name);
    }
    if change.kernel.is_some() {
        after.kernel.clone_from(&change.kernel);
    }
    after
        .kernel_arguments
        .extend(change.kernel_arguments.iter().cloned());
    after.sources.extend(change.sources.clone());
    after.image = image_id(&after, base)?;
    Ok(after)
}

/// The id of an image that is not of a build alone: the recipe's name, and 12 hex digits of the SHA-256 of everything that
/// boots. Paths of TFTP and NFS contain it.
fn image_id(manifest: &Manifest, directory: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(manifest.root_digest(directory)?);
    let boots = |name: &&String| !DESCRIPTIONS.contains(&name.as_str());
    for name in manifest.artifacts.keys().filter(boots) {
        // Neither contains a NUL.
        hash.update(format!("{name}\0{}\0", manifest.artifacts[name].sha256));
    }
    for argument in &manifest.kernel_arguments {
        hash.update(format!("{argument}\0"));
    }
    let digest = hex::encode(hash.finalize());
    Ok(format!("{}-{}", manifest.recipe.name, &digest[..12]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::image::{RecipeReference, index::Image};
    use crate::progress::NoProgress;

    /// A directory with an output of a build and a cache, and files to change the output with.
    struct Bench {
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let bench = Bench {
                dir: tempfile::tempdir().unwrap(),
            };
            let base = bench.base();
            let tar = common::tarball::tar(&[common::tarball::file("etc/below", 0o644, "root")]);
            let mut artifacts = BTreeMap::new();
            for (name, data) in [
                ("rootfs.tar", tar.as_slice()),
                ("vmlinuz", b"kernel"),
                ("dtb/a.dtb", b"a"),
                ("dtb/sub/b.dtb", b"b"),
                ("dtbs", b"not a device tree"),
            ] {
                let path = base.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, data).unwrap();
                artifacts.insert(name.to_string(), Artifact::of(&path).unwrap());
            }
            let manifest = Manifest {
                hearth: "0".into(),
                recipe: RecipeReference {
                    name: "test".into(),
                    sha256: String::new(),
                },
                lock: None,
                arch: Arch::Armhf,
                epoch: 0,
                kernel: Some("1".into()),
                image: "test-000000000000".into(),
                artifacts,
                layers: Vec::new(),
                kernel_arguments: Vec::new(),
                sources: BTreeMap::new(),
            };
            fs::write(base.join(Manifest::FILE), manifest.to_json()).unwrap();
            bench
        }

        fn base(&self) -> PathBuf {
            self.dir.path().join("out/test")
        }

        fn file(&self, name: &str, data: &[u8]) -> Part {
            let path = self.dir.path().join(name);
            fs::write(&path, data).unwrap();
            Part::of(&path).unwrap()
        }

        fn stages(&self) -> SideStages<'_> {
            let cache = self.dir.path().join("cache");
            SideStages::open(&cache, &[self.base()], &NoProgress).unwrap()
        }

        fn derive(&self, change: &Change) -> Derived {
            let mut stages = self.stages();
            let derived = derive(&self.base(), change, &mut stages).unwrap();
            stages.finish().unwrap();
            derived
        }
    }

    #[test]
    fn parts_are_replaced_the_rest_is_linked_and_the_base_stays_as_it_was() {
        let bench = Bench::new();
        let before = fs::read(bench.base().join(Manifest::FILE)).unwrap();
        let mut change = Change {
            kernel: Some("2".into()),
            without: vec!["dtb".into()],
            ..Change::default()
        };
        for name in ["vmlinuz", "dtb/c.dtb"] {
            let file = bench.file(&name.replace('/', "-"), name.as_bytes());
            change.parts.insert(name.into(), file);
        }
        let derived = bench.derive(&change);
        let names: Vec<&String> = derived.manifest.artifacts.keys().collect();
        assert_eq!(names, ["dtb/c.dtb", "dtbs", "rootfs.tar", "vmlinuz"]);
        assert_eq!(
            fs::read(derived.directory.join("vmlinuz")).unwrap(),
            b"vmlinuz"
        );
        assert_eq!(derived.manifest.kernel.as_deref(), Some("2"));
        assert_eq!(
            Manifest::load(&derived.directory).unwrap(),
            derived.manifest
        );
        use std::os::unix::fs::MetadataExt;
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        assert_eq!(
            inode(derived.directory.join("rootfs.tar")),
            inode(bench.base().join("rootfs.tar"))
        );
        assert_eq!(fs::read(bench.base().join(Manifest::FILE)).unwrap(), before);
    }

    #[test]
    fn a_layer_lies_over_the_root_and_above_the_layers_that_are_there() {
        let bench = Bench::new();
        let layer = |name: &str, text: &str| {
            let entries = [common::tarball::file("etc/below", 0o644, text)];
            bench.file(name, &common::tarball::tar(&entries))
        };
        let with = |layers: &[&Part]| Change {
            layers: layers.iter().map(|part| (*part).clone()).collect(),
            ..Change::default()
        };
        let (first, second) = (layer("first.tar", "first"), layer("second.tar", "second"));
        let read = |directory: &Path| {
            let image: Image = Manifest::load(directory)
                .unwrap()
                .open_image(directory)
                .unwrap();
            let found = image.find("etc/below").unwrap();
            image.read(found.number).unwrap()
        };
        let one = bench.derive(&with(&[&first]));
        assert_eq!(read(&one.directory), b"first");
        let both = bench.derive(&with(&[&first, &second]));
        assert_eq!(read(&both.directory), b"second");
        let mut stages = bench.stages();
        let upon = derive(&one.directory, &with(&[&second]), &mut stages).unwrap();
        assert_eq!(read(&upon.directory), b"second");
        assert_eq!(upon.manifest.image, both.manifest.image);
    }

    #[test]
    fn everything_that_boots_has_its_say_in_the_id_and_the_same_gives_the_same() {
        let bench = Bench::new();
        let mut ids = std::collections::BTreeSet::from(["test-000000000000".to_string()]);
        let mut changes = vec![Change {
            kernel_arguments: vec!["quiet".into()],
            ..Change::default()
        }];
        for name in ["vmlinuz", "initrd.img", "dtb/a.dtb", "bootloader/x/u-boot"] {
            let file = bench.file("part", name.as_bytes());
            let kept = Part {
                path: bench.dir.path().join(name.replace('/', "-")),
                ..file
            };
            fs::rename(bench.dir.path().join("part"), &kept.path).unwrap();
            changes.push(Change {
                parts: BTreeMap::from([(name.to_string(), kept)]),
                ..Change::default()
            });
        }
        for change in &changes {
            let derived = bench.derive(change);
            let id = derived.manifest.image.clone();
            assert!(id.starts_with("test-") && id.len() == 17, "{id}");
            assert_eq!(bench.derive(change).directory, derived.directory);
            assert!(ids.insert(id), "two changes have one id");
        }
    }
}
