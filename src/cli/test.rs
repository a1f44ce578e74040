//! `hearth test`: boots a board, runs test definitions on it, and reports.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hearth::error::{self, Class, Fault};
use hearth::job::suites::suite_names;
use hearth::job::{
    CaseName, Criterion, Judgement, Loaded, Loader, Parameter, Report, Verdict, report,
};
use hearth::lab::client::Client;
use hearth::lab::network;
use hearth::lab::queue::Submission;
use hearth::lab::service::BoardStatus;
use hearth::ops::prepared::{Prepared, Settings};
use hearth::ops::target::Target;
use hearth::ops::test_board::{keep_report, report_directory, test_board};
use hearth::recipe::Board;

use super::board_actions::again_reserved;
use super::board_arguments::{TargetArguments, cancelled_by_signal, host};
use super::companion;
use super::follow::{self, Followed, Interrupt, follow};
use super::live::Live;
use super::submit::{show_end, submit};
use super::terminal::Terminal;

/// Boot a board, run test definitions on it, and report
///
/// BOARD is a board of the lab, or a board type, of which an emulated board
/// is made. What is missing is built first. A definition is a LAVA test
/// definition: FILE, DIRECTORY, DIRECTORY#PATH or REPOSITORY#PATH[@REVISION],
/// with NAME= before it to name its suite.
/// While `hearth serve` runs for the lab, the job goes through its queue.
/// Exits with 0 if all tests passed, 1 if one did not, 4 if the board failed.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Test definitions
    #[arg(required = true, value_name = "DEFINITION")]
    definitions: Vec<String>,
    /// Set a parameter of all definitions, or of the one that is named NAME
    #[arg(short, long = "parameter", value_name = "[NAME:]KEY=VALUE")]
    parameters: Vec<Parameter>,
    /// Let definitions fetch repositories over other ways than https and ssh
    #[arg(long)]
    allow_local: bool,
    /// Report only what LAVA's own dispatcher would: no KTAP, nothing malformed
    #[arg(long)]
    strict_lava: bool,
    /// Where the report goes [default: out/test/BOARD-TIME]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// How often to boot again when the board fails before the tests begin
    ///
    /// Counts for each stage of the boot by itself; without it the lab file's
    /// `retries` hold, or 1.
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// How long all tests together may take, in seconds [default: 3600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<f64>,
    /// End as `git bisect run` expects: see docs/bisect.md
    ///
    /// 0 for good, 1 for bad, 125 where board, network or host failed, more
    /// than 127 for a mistake in the command. With `--bisect=boot` a boot that
    /// fails once the kernel has started is bad, too.
    #[arg(long, value_enum, value_name = "HUNTED", num_args = 0..=1, require_equals = true, default_missing_value = "tests")]
    bisect: Option<Hunted>,
    /// With --bisect: let this case alone decide
    #[arg(long, value_name = "SUITE/CASE", requires = "bisect")]
    case: Option<CaseName>,
    /// Ends with this process, which started it
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
    /// Run it from here though a lab runs, with the board reserved meanwhile
    #[arg(long)]
    direct: bool,
}

/// What is bad when a change is hunted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hunted {
    Tests,
    Boot,
}

pub fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
        .ok_or_else(|| "a time-out is a number of seconds above 0".into())
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let Some(hunted) = arguments.bisect else {
        return match in_lab(arguments, terminal)? {
            Some(code) => Ok(code),
            None => Ok(exit_code(&test(arguments, None, terminal)?)),
        };
    };
    let criterion = arguments.criterion(hunted);
    let ended = match in_lab(arguments, terminal) {
        Ok(Some(code)) => return Ok(code),
        Ok(None) => test(arguments, Some(&criterion), terminal),
        Err(error) => Err(error),
    };
    let judgement = match ended {
        Ok(report) => criterion.judge(&report),
        Err(error) => {
            // What it said has been printed; its exit code is not git's.
            let _ = super::report::failure(&error);
            Judgement::of_error(error::class_of(&error), format!("{error:#}"))
        }
    };
    terminal.say(&format!("bisect: {}", judgement.sentence()));
    Ok(ExitCode::from(judgement.exit_code()))
}

/// The exit code, if a lab runs that has the board: it runs the job, or lends the board to this very command.
fn in_lab(arguments: &Arguments, terminal: &Terminal) -> Result<Option<ExitCode>> {
    let Some((client, board)) = arguments.target.lab()? else {
        return Ok(None);
    };
    let is_direct = arguments.direct
        || arguments.allow_local
        || arguments.bisect.is_some()
        || arguments.target.is_special();
    if is_direct {
        let wait = arguments.target.waits();
        return again_reserved(&client, &board.name, "hearth test", wait, terminal).map(Some);
    }
    let definitions = definitions(arguments, &mut Loader::default(), terminal)?;
    through_lab(arguments, &client, &board, &definitions, terminal).map(Some)
}

/// 0 if all tests passed; else whose fault it was.
pub fn exit_code(report: &Report) -> ExitCode {
    match report.verdict() {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed(class) => ExitCode::from(class.exit_class().exit_code()),
    }
}

/// Runs the definitions and tells the results.
fn test(
    arguments: &Arguments,
    criterion: Option<&Criterion>,
    terminal: &Terminal,
) -> Result<Report> {
    companion::end_with(arguments.parent)?;
    // Everything is read before anything is built or switched on.
    let mut loader = Loader::default();
    let definitions = definitions(arguments, &mut loader, terminal)?;
    let target = arguments.target.ready(terminal)?;
    // Entering a network of its own makes a process forget its parent.
    companion::end_with(arguments.parent)?;
    let job = Prepared::new(arguments.settings(), &mut loader, &definitions, &target)?;
    if let Some(criterion) = criterion {
        criterion.check(job.suites())?;
    }
    let directory = report_directory(arguments.output.as_deref(), &target)?;
    let _ours = target.reserve(&directory, arguments.target.waits(), terminal)?;
    run_job(&target, &job, &directory, terminal)
}

/// Runs a job that is ready, keeps the report in `directory` and tells the results.
pub fn run_job(
    target: &Target,
    job: &Prepared,
    directory: &Path,
    terminal: &Terminal,
) -> Result<Report> {
    let cancelled = cancelled_by_signal()?;
    let mut live = Live::new(terminal);
    let report = test_board(target, job, directory, host()?, &cancelled, &mut live)?;
    let kept = keep_report(&report, directory);
    // A terminal that was closed must not change how the run ends; and where no disk takes the report, this is all of it.
    if let Err(error) = io::stdout().write_all(format!("\n{}", report::table(&report)).as_bytes()) {
        log::warn!("the results cannot be shown: {error}");
    }
    terminal.say(&format!("report in {}", kept?.display()));
    Ok(report)
}

/// Has the lab run the job; shows it, and keeps its report, as if it ran here.
fn through_lab(
    arguments: &Arguments,
    client: &Client,
    board: &BoardStatus,
    definitions: &[Loaded],
    terminal: &Terminal,
) -> Result<ExitCode> {
    if !arguments.target.waits() && board.state != "idle" {
        return Err(Fault::infrastructure(format!(
            "another run has board `{}`: it is {}",
            board.name, board.state
        ))
        .into());
    }
    let target = arguments.target.built(terminal)?;
    let directory = report_directory(arguments.output.as_deref(), &target)?;
    let image = target.build.canonicalize()?;
    let interrupted = cancelled_by_signal()?;
    let spec = Submission {
        board: Some(board.name.clone()),
        image: Some(image.display().to_string()),
        parameters: arguments.parameters.iter().map(Parameter::text).collect(),
        strict_lava: arguments.strict_lava,
        retries: arguments.retries,
        timeout: arguments.timeout,
        ..Submission::default()
    };
    let job = submit(client, definitions, spec)?;
    let id = job.job.id;
    terminal.say(&format!("job {id} of the lab: {}", client.address_of(id)));
    copy_log(client, id, &directory);
    match follow(client, id, Interrupt::Cancel, &interrupted, terminal)? {
        Followed::Ended(job) => {
            show_end(client, &job, Some(&directory), terminal)?;
            Ok(ExitCode::from(follow::exit_code(&job)))
        }
        Followed::Left => Ok(ExitCode::from(Class::Infrastructure.exit_code())),
    }
}

/// Copies the console's log as it grows; the whole one comes with the report.
fn copy_log(client: &Client, job: i64, directory: &Path) {
    let (client, path) = (client.clone(), directory.join("console.log"));
    std::thread::spawn(move || {
        if let Ok(mut file) = File::create(path) {
            let _ = client.log(job, true, &mut file);
        }
    });
}

impl Arguments {
    /// What decides for a bisection; of a command without --bisect as with it.
    fn criterion(&self, hunted: Hunted) -> Criterion {
        Criterion {
            case: self.case.clone(),
            boot: hunted == Hunted::Boot,
        }
    }

    /// For `hearth bisect`, which runs this command for each step: what decides, after a look at all definitions. Gives
    /// their texts too.
    pub fn for_bisecting(&self, terminal: &Terminal) -> Result<(Criterion, Vec<String>)> {
        let criterion = self.criterion(self.bisect.unwrap_or(Hunted::Tests));
        let definitions = definitions(self, &mut Loader::default(), terminal)?;
        criterion.check(&suite_names(&definitions))?;
        let texts = definitions.into_iter().map(|loaded| loaded.definition.text);
        Ok((criterion, texts.collect()))
    }

    /// The board and the recipe that it boots.
    pub fn board(&self) -> Result<Board> {
        self.target.board()
    }

    fn settings(&self) -> Settings {
        Settings {
            parameters: self.parameters.clone(),
            allow_local: self.allow_local,
            strict_lava: self.strict_lava,
            retries: self.retries,
            timeout: self.timeout,
        }
    }
}

fn definitions(
    arguments: &Arguments,
    loader: &mut Loader,
    terminal: &Terminal,
) -> Result<Vec<Loaded>> {
    let mut definitions = Vec::new();
    for argument in &arguments.definitions {
        definitions.extend(loader.load(argument)?);
    }
    // Once, though hearth runs itself again for an emulated board.
    if !network::is_inside() {
        for warning in definitions.iter().flat_map(|loaded| &loaded.warnings) {
            terminal.say(&format!("warning: {warning}"));
        }
    }
    Ok(definitions)
}
