//! Owns bisecting between two locks of one recipe: each step is built from a mixed lock and tested.
//! Never runs a test itself: the caller's tester does.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use super::journal::{Journal, Try, finding_of, subject};
use super::mixed_lock::MixedLock;
use super::search::{Finding, Next, Search};
use crate::build;
use crate::error::{Class, Fault, class_of};
use crate::job::Judgement;
use crate::ops::plan::{Sources, plan_of};
use crate::progress::Progress;
use crate::recipe::{Lock, RecipeFile};

/// What is to be bisected.
pub struct Request<'a> {
    pub good: &'a Path,
    pub bad: &'a Path,
    pub recipe: RecipeFile,
    /// All that decides what a test says: arguments, definitions.
    pub test: &'a [Vec<u8>],
    /// Where the journal goes.
    pub directory: Option<&'a Path>,
    /// Forget what was tried.
    pub restart: bool,
}

/// An image that is to be tested.
pub struct Trial<'a> {
    /// The build's output directory.
    pub image: &'a Path,
    /// For the report.
    pub directory: &'a Path,
}

/// Tests an image.
pub type Tester<'a> = dyn FnMut(&Trial<'_>) -> Result<Judgement> + 'a;

/// What a bisection came to.
pub struct Outcome {
    /// The packages of which one, or all together, turned the test bad: name and both versions.
    pub culprits: Vec<String>,
    /// Whether there are steps between the neighbours that could not be tested.
    pub is_vague: bool,
    /// The locks before and after them.
    pub good: PathBuf,
    pub bad: PathBuf,
}

/// A bisection between two locks.
pub struct PackageBisection<'a> {
    request: Request<'a>,
    mixed: MixedLock,
    search: Search,
    pub journal: Journal,
}

impl<'a> PackageBisection<'a> {
    /// Reads the locks, fetches the packages of both, and finds the steps between them.
    ///
    /// # Errors
    /// If a lock is not the recipe's; if a package cannot be fetched; as [`Journal::open`].
    pub fn open(
        request: Request<'a>,
        sources: &Sources<'_>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let read = |path: &Path| -> Result<(Lock, Vec<PathBuf>)> {
            let lock = Lock::load(path)?;
            if !lock.is_of(&request.recipe.recipe) {
                return Err(Fault::input(format!(
                    "{} is not a lock of the recipe {}",
                    path.display(),
                    request.recipe.name
                ))
                .remedy("name the recipe that it is of with --recipe")
                .into());
            }
            let directory = request.recipe.directory();
            let debs = sources.fetcher.packages(&lock, directory, progress)?;
            Ok((lock, debs))
        };
        let (good, bad) = (read(request.good)?, read(request.bad)?);
        let digests = [good.0.digest(), bad.0.digest(), request.recipe.digest()];
        let parts = digests.iter().map(String::as_bytes);
        let subject = subject(parts.chain(request.test.iter().map(Vec::as_slice)));
        let journal = Journal::open(request.directory, "packages", &subject, request.restart)?;
        let mixed = MixedLock::new(good, bad)?;
        let mut bisection = PackageBisection {
            search: Search::new(mixed.last()),
            request,
            mixed,
            journal,
        };
        for tried in bisection.journal.tries() {
            let candidate: usize = tried.candidate.parse().context("the journal is damaged")?;
            let is_end = candidate == 0 || candidate == bisection.mixed.last();
            // An end that could not be tested is tried again.
            if !is_end || tried.finding != Finding::Skip {
                bisection.search.note(candidate, tried.finding);
            }
        }
        Ok(bisection)
    }

    /// A sentence about what is ahead.
    pub fn outlook(&self) -> String {
        let (good, bad) = self.search.bounds();
        format!(
            "{} packages differ, in {} steps; {} of them are left, about {} tests",
            self.mixed.differing(),
            self.mixed.last(),
            bad - good,
            self.search.remaining()
        )
    }

    /// Goes on to the end; `told` hears of each try.
    ///
    /// # Errors
    /// If the good lock is not good or the bad one not bad; if the tester says that it makes no sense to go on; if the
    /// host lacks what each build needs. What was tried stays in the journal.
    pub fn run(
        &mut self,
        sources: &Sources<'_>,
        tester: &mut Tester<'_>,
        progress: &dyn Progress,
        told: &dyn Fn(&Try),
    ) -> Result<Outcome> {
        loop {
            match self.search.next() {
                Next::Test(candidate) => {
                    let tried = self.attempt(candidate, sources, tester, progress)?;
                    self.search.note(candidate, tried.finding);
                    told(&tried);
                    self.journal.add(tried)?;
                }
                Next::Contradiction(end, finding) => return Err(self.contradiction(end, finding)),
                Next::Found { good, bad } => return self.outcome(good, bad),
            }
        }
    }

    fn attempt(
        &self,
        candidate: usize,
        sources: &Sources<'_>,
        tester: &mut Tester<'_>,
        progress: &dyn Progress,
    ) -> Result<Try> {
        let begun = Instant::now();
        let what = self.describe(candidate);
        progress.note(&format!("{}: {what}", self.journal.tries().len() + 1));
        let directory = self.journal.next_directory()?;
        let judgement = match self.build(candidate, &directory, sources, progress) {
            Ok(image) => tester(&Trial {
                image: &image,
                directory: &directory,
            })?,
            Err(error) if class_of(&error) == Class::Host => return Err(error),
            Err(error) => Judgement::Untestable(format!("it cannot be built: {error:#}")),
        };
        let (finding, why) = finding_of(judgement)?;
        Ok(Try {
            candidate: candidate.to_string(),
            what,
            finding,
            why,
            seconds: begun.elapsed().as_secs_f64(),
            directory,
        })
    }

    /// What is in a candidate.
    fn describe(&self, candidate: usize) -> String {
        match candidate {
            0 => format!("all of {}", self.request.good.display()),
            all if all == self.mixed.last() => format!("all of {}", self.request.bad.display()),
            some => {
                let newest = self.mixed.changes(some - 1, some).join(", ");
                format!("{some} of {} steps, up to {newest}", self.mixed.last())
            }
        }
    }

    /// Builds a candidate; gives its output directory, which is the next one's as well.
    fn build(
        &self,
        candidate: usize,
        directory: &Path,
        sources: &Sources<'_>,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        let lock = self.mixed.after(candidate);
        lock.save(&directory.join("image.lock"))?;
        let file = &self.request.recipe;
        let mut plan = plan_of(file, &lock, &sources.fetcher, progress)?;
        // The recipe's own last build stays in the cache, and of these the last one.
        plan.owner = std::path::absolute(&self.journal.directory)?;
        let out = self.journal.directory.join("image").join(&file.name);
        build::build(&plan, &out, progress)?;
        Ok(out)
    }

    fn contradiction(&self, end: usize, finding: Finding) -> anyhow::Error {
        let tries = self.journal.tries().iter().rev();
        let why = tries
            .filter(|tried| tried.candidate == end.to_string())
            .map(|tried| tried.why.as_str())
            .next()
            .unwrap_or_default();
        let (path, name) = match end {
            0 => (self.request.good, "good"),
            _ => (self.request.bad, "bad"),
        };
        let path = path.display();
        let fault = match finding {
            Finding::Skip => Fault::infrastructure(format!(
                "{path} could not be tested, and without that there is nothing to look for: {why}"
            ))
            .remedy("put right what failed; the same command then goes on"),
            Finding::Bad => Fault::input(format!("{path} is not {name}: {why}"))
                .remedy("name a lock whose image passes, or another case; --restart tests again"),
            Finding::Good => Fault::input(format!("{path} is not {name}: its test passes"))
                .remedy("name a lock whose image fails, or another case; --restart tests again"),
        };
        fault.into()
    }

    /// Writes the neighbouring locks.
    fn outcome(&self, good: usize, bad: usize) -> Result<Outcome> {
        let write = |name: &str, steps: usize| -> Result<PathBuf> {
            let path = self.journal.directory.join(name);
            self.mixed.after(steps).save(&path)?;
            Ok(path)
        };
        Ok(Outcome {
            culprits: self.mixed.changes(good, bad),
            is_vague: bad > good + 1,
            good: write("good.lock", good)?,
            bad: write("bad.lock", bad)?,
        })
    }
}
