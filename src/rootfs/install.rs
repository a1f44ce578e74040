//! Owns the stage that configures packages: maintainer scripts in order, and in parallel, as they
//! keep only one processor busy, work that depends on none of them: unpacking packages ahead of
//! their preinst, and making indices.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::Result;

use super::ahead::{change, obstacle, unpack_ahead};
use super::configure::{Configure, INDEXED, Native};
use super::diversions::Diversions;
use super::dpkg;
use super::mounted::Mounted;
use super::package::{Order, Package, PackagesInput, order, pick, read_all};
use super::tools;
use super::tree::Tree;
use super::unpack::{Claims, Unpacked, unpack_more};
use crate::progress::{NoProgress, Progress, Stage, Unit};

/// Lowerdirs below the image's that the stage makes in its directory, topmost first; either may be
/// empty.
pub const LAYERS_BELOW: [&str; 2] = [AHEAD, INDEX_LAYER];
/// The layer of packages unpacked ahead of their preinst.
const AHEAD: &str = "ahead";
/// The mount point of an overlay over all packages' files, for making the indices.
const INDICES: &str = "indices";
/// The upperdir of that overlay.
const INDEX_LAYER: &str = "indices/upper";

/// Runs the maintainer scripts over an overlay whose upperdir is `upper`, and unpacks the packages
/// with a preinst.
pub fn configure(input: PackagesInput, progress: &dyn Progress) -> Result<()> {
    let packages = read_all(&input.files, input.threads)?;
    let order = order(&packages)?;
    let mounted = Mounted::with_tools(&input.directory, input.tools.as_deref(), &input.layers)?;
    for layer in LAYERS_BELOW {
        fs::create_dir_all(input.directory.join(layer))?;
    }
    let stage = progress.stage("configure", None, Unit::Items);
    let work = Work {
        ahead: input.directory.join(AHEAD),
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

struct Work<'a> {
    input: &'a PackagesInput,
    packages: &'a [Package],
    order: &'a Order,
    mounted: &'a Mounted,
    ahead: PathBuf,
    progress: &'a dyn Progress,
    stage: &'a dyn Stage,
}

impl Work<'_> {
    fn run(&self) -> Result<()> {
        let early = self.scripts(self.mounted, &self.input.layers, self.stage)?;
        let Some(next) = self.order.rounds.first() else {
            self.essential(&early)?;
            return early.configure_all(true);
        };
        let (sender, receiver) = channel();
        thread::scope(|scope| {
            let indices = scope.spawn(move || {
                let stage = NoProgress.stage("unpack", None, Unit::Items);
                let threads = self.input.threads.saturating_sub(1);
                let packages = pick(self.packages, &next.unpack);
                let unpacked = unpack_ahead(&self.ahead, &packages, threads, &*stage);
                let go_on = unpacked.is_ok();
                // After a failed script the result of the thread is not needed.
                if sender.send(unpacked).is_ok() && go_on {
                    self.indices()?;
                }
                Ok(())
            });
            self.essential(&early)?;
            self.rounds(&early, receiver)?;
            let below = self.below();
            let scripts = self.scripts(self.mounted, &below, self.stage)?;
            scripts.configure_all(false)?;
            let made: Result<()> = indices.join().expect("making indices does not panic");
            if let Err(reason) = made.and_then(|()| self.check_indices()) {
                log::debug!("making the indices again: {reason:#}");
                fs::remove_dir_all(self.input.directory.join(INDICES))?;
                fs::create_dir_all(self.input.directory.join(INDEX_LAYER))?;
                scripts.indices()?;
            }
            Ok(())
        })
    }

    fn scripts<'s>(
        &'s self,
        mounted: &'s Mounted,
        below: &'s [PathBuf],
        stage: &'s dyn Stage,
    ) -> Result<Configure<'s>> {
        let epoch = u64::try_from(self.input.epoch)?;
        let native = self.input.tools.as_deref().map(|tools| Native {
            tools,
            below,
            upper: mounted.upper(),
            emulated: &self.input.emulated,
        });
        Configure::new(&mounted.root, native, epoch, &self.input.limits, stage)
    }

    /// The image's layers below the changes, topmost first, with what may have been put there since.
    fn below(&self) -> Vec<PathBuf> {
        let layers = self.input.layers.iter().chain([&self.ahead]);
        layers.cloned().collect()
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

    /// Unpacks the packages with a preinst; `ahead` returns those of the first round.
    fn rounds(
        &self,
        scripts: &Configure<'_>,
        ahead: Receiver<Result<Vec<Unpacked>>>,
    ) -> Result<()> {
        let root = &self.mounted.root;
        for (number, round) in self.order.rounds.iter().enumerate() {
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
            let ready = match number {
                0 => self.place_ahead(&packages, ahead.recv()?, &claims, &diversions)?,
                _ => None,
            };
            let unpacked = match ready {
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

    /// The result of [`Self::place`]. A package that failed ahead may succeed now: a preinst can
    /// have diverted another package's file.
    fn place_ahead(
        &self,
        packages: &[&Package],
        ahead: Result<Vec<Unpacked>>,
        claims: &Claims,
        diversions: &Diversions,
    ) -> Result<Option<Vec<Unpacked>>> {
        match ahead {
            Ok(unpacked) => self.place(packages, unpacked, claims, diversions),
            Err(reason) => {
                log::debug!("unpacking again: {reason:#}");
                Tree::open(&self.ahead)?.clear()?;
                Ok(None)
            }
        }
    }

    /// Adds the layer of packages that were unpacked ahead. `None` if they have to be unpacked in
    /// order after all.
    fn place(
        &self,
        packages: &[&Package],
        unpacked: Vec<Unpacked>,
        claims: &Claims,
        diversions: &Diversions,
    ) -> Result<Option<Vec<Unpacked>>> {
        let diverted = packages
            .iter()
            .zip(&unpacked)
            .find_map(|(package, unpacked)| {
                let mut paths = unpacked.list.iter();
                paths.find(|path| diversions.place(path, package.name()).is_some())
            });
        let in_the_way = match diverted {
            Some(path) => Some(PathBuf::from(path)),
            None => self.obstacle(&self.ahead, claims)?,
        };
        let Some(path) = in_the_way else {
            self.mounted.lay_below(&self.ahead)?;
            return Ok(Some(unpacked));
        };
        log::debug!("{} is in the way: unpacking again", path.display());
        Tree::open(&self.ahead)?.clear()?;
        Ok(None)
    }

    fn obstacle(&self, layer: &Path, claims: &Claims) -> Result<Option<PathBuf>> {
        obstacle(layer, &self.mounted.root, self.mounted.upper(), claims)
    }

    /// Makes the indices of all packages unpacked so far, in a layer of its own.
    fn indices(&self) -> Result<()> {
        let directory = self.input.directory.join(INDICES);
        fs::remove_dir_all(&directory)?;
        fs::create_dir(&directory)?;
        let layers = self.below();
        let mounted = Mounted::with_tools(&directory, self.input.tools.as_deref(), &layers)?;
        let stage = NoProgress.stage("indices", None, Unit::Items);
        let made = self
            .scripts(&mounted, &layers, &*stage)
            .and_then(|scripts| scripts.indices());
        mounted.close()?;
        made
    }

    /// Checks that indices made in parallel are what they would be now.
    ///
    /// # Errors
    /// Names the path that hides them, or the input file that has changed.
    fn check_indices(&self) -> Result<()> {
        let layer = self.input.directory.join(INDEX_LAYER);
        let mut changed = self.obstacle(&layer, &Claims::default())?;
        for path in INDEXED.map(Path::new) {
            changed = changed.or(change(self.mounted.upper(), path)?);
        }
        if let Some(path) = changed {
            anyhow::bail!("a script has changed /{}", path.display());
        }
        if self.input.tools.is_some() {
            tools::check_absent(&layer)?;
        }
        Ok(())
    }
}
