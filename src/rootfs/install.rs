//! Owns the stage that configures packages: maintainer scripts in order, and unpacking the packages
//! with a preinst. Never does anything beside a script: see `ahead`.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::ahead::{self, Ahead, Beside};
use super::configure::Configure;
use super::diversions::Diversions;
use super::dpkg;
use super::mounted::Mounted;
use super::package::{Order, Package, PackagesInput, order, pick, read_all};
use super::tools;
use super::tree::Tree;
use super::unpack::unpack_more;
use crate::progress::{Progress, Stage, Unit};

/// Runs the maintainer scripts over an overlay whose upperdir is `upper`, and unpacks the packages
/// with a preinst.
pub fn configure(input: PackagesInput, progress: &dyn Progress) -> Result<()> {
    let packages = read_all(&input.files, input.threads)?;
    let order = order(&packages)?;
    let mounted = Mounted::with_tools(&input.directory, input.tools.as_deref(), &input.layers)?;
    for layer in ahead::LAYERS_BELOW {
        fs::create_dir_all(input.directory.join(layer))?;
    }
    let stage = progress.stage("configure", None, Unit::Items);
    let work = Configuring {
        input: &input,
        packages: &packages,
        order: &order,
        mounted: &mounted,
        progress,
        stage: &*stage,
    };
    work.run()?;
    dpkg::check_configured(&mut Tree::open(&mounted.root)?)?;
    if input.tools.is_some() {
        tools::check_absent(mounted.upper())?;
    }
    mounted.close()?;
    stage.finish(&format!("{} packages", packages.len()));
    Ok(())
}

struct Configuring<'a> {
    input: &'a PackagesInput,
    packages: &'a [Package],
    order: &'a Order,
    mounted: &'a Mounted,
    progress: &'a dyn Progress,
    stage: &'a dyn Stage,
}

impl Configuring<'_> {
    fn run(&self) -> Result<()> {
        let Some(next) = self.order.rounds.first() else {
            let scripts = self.scripts(&self.input.layers)?;
            self.essential(&scripts)?;
            return scripts.configure_all(true);
        };
        let beside = Beside {
            input: self.input,
            mounted: self.mounted,
            packages: pick(self.packages, &next.unpack),
        };
        beside.run(|ahead| self.in_order(ahead))
    }

    /// The whole stage, one thing after the other. `ahead` may have done some of it already.
    fn in_order(&self, ahead: &mut Ahead<'_>) -> Result<()> {
        let scripts = self.scripts(&self.input.layers)?;
        self.essential(&scripts)?;
        self.rounds(&scripts, ahead)?;
        let below = ahead.layers();
        let scripts = self.scripts(&below)?;
        scripts.configure_all(false)?;
        if !ahead.has_made_indices()? {
            scripts.indices()?;
        }
        Ok(())
    }

    fn scripts<'s>(&'s self, below: &'s [PathBuf]) -> Result<Configure<'s>> {
        Configure::of(self.input, self.mounted, below, self.stage)
    }

    fn stems(&self, indices: &[usize]) -> Vec<String> {
        indices
            .iter()
            .map(|&index| self.packages[index].qualified_name())
            .collect()
    }

    /// Configures the packages that all other scripts may rely on.
    fn essential(&self, scripts: &Configure<'_>) -> Result<()> {
        let mut with_preinst = pick(self.packages, &self.order.first);
        with_preinst.retain(|package| package.control_file("preinst").is_some());
        // It creates /etc/passwd, which other scripts read.
        with_preinst.sort_by_key(|package| package.name() != "base-passwd");
        for package in with_preinst {
            scripts.preinst(&package.qualified_name(), &package.file.arch)?;
        }
        scripts.configure(&self.stems(&self.order.essential))
    }

    /// Unpacks the packages with a preinst, after it.
    fn rounds(&self, scripts: &Configure<'_>, ahead: &mut Ahead<'_>) -> Result<()> {
        let root = &self.mounted.root;
        for round in &self.order.rounds {
            if !round.configure.is_empty() {
                scripts.configure(&self.stems(&round.configure))?;
            }
            let packages = pick(self.packages, &round.unpack);
            for package in &packages {
                dpkg::add_preinst(&mut Tree::open(root)?, package, self.input.epoch)?;
                scripts.preinst(&package.qualified_name(), &package.file.arch)?;
            }
            // Closed before unmounting, which open descriptors would block.
            let diversions = Diversions::load(&mut Tree::open(root)?)?;
            let claims = dpkg::claims(&mut Tree::open(root)?)?;
            let stage = (self.progress).stage("unpack", Some(packages.len() as u64), Unit::Items);
            let unpacked = match ahead.take(&packages, &claims, &diversions)? {
                Some(unpacked) => unpacked,
                None => {
                    let threads = self.input.threads;
                    unpack_more(root, &packages, claims, &diversions, threads, &*stage)?
                }
            };
            let pairs: Vec<_> = packages.iter().copied().zip(&unpacked).collect();
            dpkg::add(&mut Tree::open(root)?, &pairs, self.input.epoch)?;
            stage.finish(&format!(
                "{} packages more, after their preinst",
                packages.len()
            ));
        }
        Ok(())
    }
}
