//! `hearth submit`: gives a job to a lab.

use std::io::{self, Seek, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hearth::error::Class;
use hearth::job::{Loaded, Loader, Parameter, report};
use hearth::lab::client::{Client, JobShown, pack};
use hearth::lab::queue::{Job, JobPhase, Priority, Submission};

use super::board_arguments::cancelled_by_signal;
use super::follow::{Followed, Interrupt, exit_code, follow};
use super::lab_arguments::LabArguments;
use super::terminal::Terminal;

/// Give a lab a job: test definitions for one of its boards
///
/// The lab is a running `hearth serve`. Definitions are written as for
/// `hearth test`; they and their files go to the lab as they are now.
/// Says the job's number. With --follow shows what `hearth test` shows, and
/// ends with its exit codes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Test definitions
    #[arg(required = true, value_name = "DEFINITION")]
    definitions: Vec<String>,
    /// The board that is to run it
    #[arg(long, value_name = "NAME", required_unless_present = "board_type")]
    board: Option<String>,
    /// Any board of this type
    #[arg(long = "type", value_name = "TYPE")]
    board_type: Option<String>,
    /// Only a board with this tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// low, medium, high, or a number from 0 to 100
    #[arg(long, value_name = "PRIORITY", default_value = "medium")]
    priority: Priority,
    /// Boot this build of the lab's images instead of the board's own
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Boot the image of this recipe, which the lab builds if it has none
    #[arg(long, value_name = "RECIPE", conflicts_with = "image")]
    recipe: Option<String>,
    /// Set a parameter of all definitions, or of the one that is named NAME
    #[arg(short, long = "parameter", value_name = "[NAME:]KEY=VALUE")]
    parameters: Vec<Parameter>,
    /// The job's name [default: the first definition's]
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Report only what LAVA's own dispatcher would
    #[arg(long)]
    strict_lava: bool,
    /// How often to boot again when the board fails before the tests begin
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// How long all tests together may take, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = super::test::seconds)]
    timeout: Option<f64>,
    /// Show the job to its end
    #[arg(short, long)]
    follow: bool,
    /// Keep the job though the lab has no board that fits it
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    lab: LabArguments,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let mut loader = Loader::default();
    let mut definitions = Vec::new();
    for argument in &arguments.definitions {
        definitions.extend(loader.load(argument)?);
    }
    for warning in definitions.iter().flat_map(|loaded| &loaded.warnings) {
        terminal.say(&format!("warning: {warning}"));
    }
    let client = arguments.lab.client()?;
    let interrupted = arguments.follow.then(cancelled_by_signal).transpose()?;
    let job = submit(&client, &definitions, arguments.submission())?;
    tell(&client, &job, terminal);
    let Some(interrupted) = interrupted else {
        writeln!(io::stdout(), "{}", job.job.id)?;
        return Ok(ExitCode::SUCCESS);
    };
    let id = job.job.id;
    match follow(&client, id, Interrupt::Ask, &interrupted, terminal)? {
        Followed::Ended(job) => {
            show_end(&client, &job, None, terminal)?;
            Ok(ExitCode::from(exit_code(&job)))
        }
        Followed::Left => {
            terminal.say(&format!(
                "job {id} goes on: `hearth jobs show {id}`, `hearth jobs cancel {id}`"
            ));
            // Nothing is known of its tests.
            Ok(ExitCode::from(Class::Infrastructure.exit_code()))
        }
    }
}

impl Arguments {
    fn submission(&self) -> Submission {
        Submission {
            definitions: Vec::new(),
            name: self.name.clone(),
            board: self.board.clone(),
            board_type: self.board_type.clone(),
            tags: self.tags.clone(),
            priority: self.priority,
            image: self.image.as_deref().map(place_of),
            recipe: self.recipe.clone(),
            parameters: self.parameters.iter().map(Parameter::text).collect(),
            strict_lava: self.strict_lava,
            retries: self.retries,
            timeout: self.timeout,
            wait: self.wait,
        }
    }
}

/// A directory of this host, for a lab on it, by its whole path; else the name.
pub fn place_of(image: &str) -> String {
    let path = Path::new(image).canonicalize();
    path.map_or_else(|_| image.into(), |path| path.display().to_string())
}

/// Submits the definitions.
pub fn submit(client: &Client, definitions: &[Loaded], spec: Submission) -> Result<JobShown> {
    let mut tar = tempfile::tempfile().context("cannot make a temporary file")?;
    pack(&mut tar, definitions, spec)?;
    tar.rewind()?;
    client.submit(tar)
}

fn tell(client: &Client, job: &JobShown, terminal: &Terminal) {
    let id = job.job.id;
    terminal.say(&format!(
        "job {id} ({}): {}",
        job.job.name,
        client.address_of(id)
    ));
    if job.job.state == JobPhase::Submitted
        && let Some(what) = &job.waits_for
    {
        terminal.say(&format!("it waits: {what}"));
    }
}

/// Shows the results of a job that has ended. Its report goes to `directory`, or is only read.
pub fn show_end(
    client: &Client,
    job: &Job,
    directory: Option<&Path>,
    terminal: &Terminal,
) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let place = directory.unwrap_or(scratch.path());
    let files = match job.attempts.is_empty() {
        true => Vec::new(),
        false => client.report(job.id, place)?,
    };
    if files.iter().any(|name| name == "report.json") {
        let table = report::table(&report::load(place)?);
        if let Err(error) = io::stdout().write_all(format!("\n{table}").as_bytes()) {
            log::warn!("the results cannot be shown: {error}");
        }
    } else if let Some(message) = &job.message {
        terminal.say(&format!("job {} is {}: {message}", job.id, job.health));
    }
    match directory {
        Some(directory) => terminal.say(&format!("report in {}", directory.display())),
        None => terminal.say(&format!(
            "job {} is {}; `hearth jobs report {} -o DIR` fetches its report",
            job.id, job.health, job.id
        )),
    }
    Ok(())
}
