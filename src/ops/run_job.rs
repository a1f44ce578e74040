//! Owns one attempt at a lab's job, in the process that the lab has started for it: the same run as `hearth test`, with
//! its events and its end in files. Never talks to the lab.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::unistd::{dup2_stdin, getpid};
use serde_json::json;

use super::lab_runs::PID;
use super::plan::Sources;
use super::prepared::{Prepared, Settings};
use super::target::{Choice, Host, Target};
use super::test_board::{keep_report, test_board};
use crate::board::{BootState, FailureClass};
use crate::error::{self, Class, Fault};
use crate::image::Manifest;
use crate::job::{Case, Loader};
use crate::lab::Observer;
use crate::lab::service::{END, EVENTS, End, ORDER, Order, image_directory, resolved};
use crate::output::write_atomically;
use crate::progress::Progress;
use crate::recipe::{LoadedLab, Own};

/// Runs the job whose order is in `directory`, and says in its `end.json` what it came to. `cancelled` ends it.
///
/// # Errors
/// If the order cannot be read or the end cannot be written. What fails in the run is in its end.
pub fn run_job(
    directory: &Path,
    host: Host,
    cancelled: impl FnOnce() -> Result<Arc<AtomicBool>>,
    sources: &Sources<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    fs::write(directory.join(PID), getpid().to_string())
        .context("cannot write the run's number")?;
    let order: Order = serde_json::from_slice(&fs::read(directory.join(ORDER))?)?;
    let run = || attempt(&order, host, cancelled, sources, progress);
    let end = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(report)) => End {
            report: Some(report),
            class: None,
            message: None,
        },
        Ok(Err(error)) => {
            log::error!("{error:#}");
            failed(&error)
        }
        // Its message and place are in the log already.
        Err(_) => End {
            report: None,
            class: Some(FailureClass::Bug),
            message: Some("hearth crashed while it ran the job: see runner.log".into()),
        },
    };
    write_atomically(&directory.join(END), &serde_json::to_vec(&end)?)
}

fn failed(error: &anyhow::Error) -> End {
    let help = error::help_of(error).map(|help| format!(" ({help})"));
    End {
        report: None,
        class: Some(match error::class_of(error) {
            Class::Input => FailureClass::Job,
            // The lab's host is not made ready: no board can help that.
            Class::Host => FailureClass::Configuration,
            Class::Infrastructure => FailureClass::Infrastructure,
            Class::Tests | Class::Internal => FailureClass::Bug,
        }),
        message: Some(format!("{error:#}{}", help.unwrap_or_default())),
    }
}

/// The run itself; gives where its report is.
fn attempt(
    order: &Order,
    host: Host,
    cancelled: impl FnOnce() -> Result<Arc<AtomicBool>>,
    sources: &Sources<'_>,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let spec = &order.spec;
    let mut loader = Loader::default();
    let mut definitions = Vec::new();
    for argument in &spec.definitions {
        definitions.extend(loader.load(&resolved(argument, &order.files))?);
    }
    let image = image(order)?;
    let choice = Choice {
        board: &order.board,
        lab: Some(&order.lab),
        recipe: spec.recipe.as_deref().filter(|_| image.is_none()),
        image: image.as_deref(),
        own: Own::default(),
        exactly: None,
        boot: None,
        login: None,
        builds: &order.images,
    };
    // For an emulated board hearth runs itself again in here.
    let mut target = Target::ready(&choice, sources, progress)?;
    // The lab may have been killed meanwhile: when it is started again it needs its ports.
    target.served = !target.emulated;
    let _lock = keep_lock()?;
    let cancelled = cancelled()?;
    let job = Prepared::new(settings(order)?, &mut loader, &definitions, &target)?;
    let _ours = target.reserve(&order.directory, true, progress)?;
    let mut events = Events::create(&order.directory)?;
    for warning in definitions.iter().flat_map(|loaded| &loaded.warnings) {
        events.note(&format!("warning: {warning}"));
    }
    let report = test_board(
        &target,
        &job,
        &order.directory,
        host,
        &cancelled,
        &mut events,
    )?;
    keep_report(&report, &order.directory)
}

fn settings(order: &Order) -> Result<Settings> {
    let spec = &order.spec;
    let parameters = spec.parameters.iter().map(|text| text.parse());
    Ok(Settings {
        parameters: parameters
            .collect::<Result<_, String>>()
            .map_err(Fault::input)?,
        allow_local: false,
        strict_lava: spec.strict_lava,
        retries: spec.retries,
        timeout: spec.timeout,
    })
}

/// The build that the board boots: the one that the job names, or the newest of the recipe that the lab serves. `None` if
/// it has to be built first.
fn image(order: &Order) -> Result<Option<PathBuf>> {
    if let Some(name) = &order.spec.image {
        return Ok(Some(
            image_directory(&order.images, name).map_err(Fault::input)?,
        ));
    }
    let recipe = match &order.spec.recipe {
        Some(recipe) => Some(recipe.clone()),
        None => LoadedLab::load(&order.lab)?
            .board(&order.board)?
            .recipe
            .clone(),
    };
    let recipe =
        recipe.ok_or_else(|| Fault::input(format!("board `{}` has no recipe", order.board)))?;
    Ok(newest_build(&order.images, &recipe_name(&recipe)))
}

/// The name that a recipe's builds carry.
fn recipe_name(recipe: &str) -> String {
    let path = Path::new(recipe.strip_suffix(".toml").unwrap_or(recipe));
    path.file_name()
        .map_or_else(|| recipe.into(), |name| name.to_string_lossy().into_owned())
}

/// As the lab's servers choose it.
fn newest_build(images: &Path, recipe: &str) -> Option<PathBuf> {
    let builds = fs::read_dir(images).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            return None;
        }
        let manifest = Manifest::load(&entry.path()).ok()?;
        let written = fs::metadata(entry.path().join(Manifest::FILE))
            .ok()?
            .modified()
            .ok()?;
        (manifest.recipe.name == recipe).then(|| (written, entry.path()))
    });
    let newest: Option<(SystemTime, PathBuf)> = builds.max();
    newest.map(|(_, path)| path)
}

/// Takes the lock out of standard input, so that no program that the run starts keeps it.
fn keep_lock() -> Result<File> {
    let lock = std::io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?).context("cannot close standard input")?;
    Ok(lock.into())
}

/// What followers of the job see: one JSON object on each line.
struct Events(File);

impl Events {
    fn create(directory: &Path) -> Result<Self> {
        let path = directory.join(EVENTS);
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Events(file))
    }

    fn write(&mut self, event: &serde_json::Value) {
        // In one piece. What a full disk does not take costs no result: the report has it.
        if let Err(error) = self.0.write_all(format!("{event}\n").as_bytes()) {
            log::warn!("the job's followers miss an event: {error}");
        }
    }
}

impl Observer for Events {
    fn stage(&mut self, state: BootState, at: f64) {
        self.write(&json!({ "event": "stage", "stage": state.name(), "at": at }));
    }

    fn case(&mut self, suite: &str, case: &Case) {
        self.write(&json!({ "event": "case", "suite": suite, "case": case }));
    }

    fn note(&mut self, text: &str) {
        self.write(&json!({ "event": "note", "text": text }));
    }
}
