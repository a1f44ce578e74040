//! Owns the stages that fill a tree with packages, as they run inside the namespaces, where files have their true owners.
//! Never decides what is to be made: see `build`.

use std::fs;

use anyhow::Result;

use super::install::configure;
use super::merged_usr::merged_usr;
use super::package::{PackagesInput, order, pick, read_all};
use super::tree::Tree;
use super::unpack::unpack_first;
use super::{dpkg, tools};
use crate::progress::{Progress, Unit};
use crate::sandbox::steps;

steps! {
    /// Unpacks what needs no script to have run before.
    pub(crate) UNPACK = "unpack": unpack, PackagesInput => ();
    /// Unpacks the native programs for scripts.
    pub(crate) TOOLS = "tools": tools::unpack, PackagesInput => ();
    /// Unpacks the rest and runs the maintainer scripts.
    pub(crate) CONFIGURE = "configure": configure, PackagesInput => ();
}

/// Unpacks the packages that need no script to have run before, into `tree`.
fn unpack(input: PackagesInput, progress: &dyn Progress) -> Result<()> {
    let packages = read_all(&input.files, input.threads)?;
    let order = order(&packages)?;
    let root = input.directory.join("tree");
    fs::create_dir(&root)?;
    merged_usr(&mut Tree::open(&root)?)?;
    let first = pick(&packages, &order.first);
    let stage = progress.stage("unpack", Some(first.len() as u64), Unit::Items);
    let unpacked = unpack_first(&root, &first, |_| true, input.threads, &*stage)?;
    let mut tree = Tree::open(&root)?;
    dpkg::create(&mut tree, input.arch, input.epoch)?;
    let pairs: Vec<_> = first.iter().copied().zip(&unpacked).collect();
    dpkg::add(&mut tree, &pairs, input.epoch)?;
    stage.finish(&format!(
        "{} packages, {} files",
        first.len(),
        unpacked.iter().map(|one| one.list.len()).sum::<usize>()
    ));
    Ok(())
}
