//! `hearth bisect`: finds the package, or the commit, that turned a test bad.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hearth::error::{Class, Fault};
use hearth::ops::bisect::git::{self, GitBisection, Hands};
use hearth::ops::bisect::journal::Try;
use hearth::ops::bisect::packages::{self, PackageBisection, Trial};
use hearth::ops::bisect::search::Finding;
use hearth::recipe::RecipeFile;
use hearth::sanitise;

use super::build::NetworkArguments;
use super::companion;
use super::steps::{Signals, TestCommand};
use super::table::Table;
use super::terminal::Terminal;

/// Find the package, or the commit, that turned a test bad
///
/// What was tried is kept: the same command goes on after it was stopped. All
/// options of `hearth test` may follow BOARD; those of `hearth bisect` come
/// before it.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Packages(Packages),
    Git(Git),
}

/// Find the package between two locks of a recipe
///
/// Builds images from locks between the two and tests them. The packages that
/// can only be installed together are taken over together.
#[derive(Debug, Args)]
struct Packages {
    /// The lock whose image is good
    #[arg(value_name = "GOOD.lock")]
    good: PathBuf,
    /// The lock whose image is bad
    #[arg(value_name = "BAD.lock")]
    bad: PathBuf,
    /// The recipe of both locks [default: the board's]
    #[arg(long)]
    recipe: Option<String>,
    #[command(flatten)]
    journal: JournalArguments,
    #[command(flatten)]
    network: NetworkArguments,
    /// A board and definitions, with options, as for `hearth test`
    #[arg(required = true, num_args = 2.., value_names = ["BOARD", "DEFINITION"], trailing_var_arg = true, allow_hyphen_values = true)]
    test: Vec<OsString>,
}

/// Find the commit of a repository, by `git bisect`
///
/// Each commit is built by COMMAND, in the repository; one that does not build
/// is skipped. The work tree is put back in the end.
#[derive(Debug, Args)]
struct Git {
    /// The work tree
    #[arg(value_name = "DIR")]
    tree: PathBuf,
    /// A commit that is good
    #[arg(long, value_name = "REV")]
    good: String,
    /// A commit that is bad
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    bad: String,
    /// A line for the shell that builds what is to be tested
    #[arg(long, value_name = "COMMAND")]
    build: String,
    #[command(flatten)]
    journal: JournalArguments,
    /// A board and definitions, with options, as for `hearth test`
    #[arg(required = true, num_args = 2.., value_names = ["BOARD", "DEFINITION"], trailing_var_arg = true, allow_hyphen_values = true)]
    test: Vec<OsString>,
}

/// Where the tries are kept
#[derive(Debug, Args)]
struct JournalArguments {
    /// Where tries and reports go [default: one below out/bisect]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Forget what an earlier run of the same command has tried
    #[arg(long)]
    restart: bool,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    match &arguments.action {
        Action::Packages(arguments) => by_packages(arguments, terminal),
        Action::Git(arguments) => by_git(arguments, terminal),
    }
}

fn by_packages(arguments: &Packages, terminal: &Terminal) -> Result<ExitCode> {
    let command = TestCommand::understand(&arguments.test, true);
    let (criterion, definitions) = command.arguments.for_bisecting(terminal)?;
    let recipe = match &arguments.recipe {
        Some(recipe) => recipe.clone(),
        None => command.arguments.board()?.recipe.ok_or_else(|| {
            Fault::input("the board has no recipe").remedy("name it with --recipe")
        })?,
    };
    let words = definitions.into_iter().map(String::into_bytes);
    let test: Vec<Vec<u8>> = command.bytes().chain(words).collect();
    let request = packages::Request {
        good: &arguments.good,
        bad: &arguments.bad,
        recipe: RecipeFile::open(&recipe)?,
        test: &test,
        directory: arguments.journal.output.as_deref(),
        restart: arguments.journal.restart,
    };
    let signals = Signals::catch()?;
    arguments.network.with_sources(terminal, |sources| {
        let mut bisection = PackageBisection::open(request, sources, terminal)?;
        going_on(
            bisection.journal.tries(),
            &bisection.journal.directory,
            terminal,
        );
        terminal.say(&bisection.outlook());
        let mut tester = |trial: &Trial<'_>| {
            command.run(Some(trial.image), trial.directory, &criterion, &signals)
        };
        let told = |tried: &Try| tell(tried, terminal);
        let outcome = bisection.run(sources, &mut tester, terminal, &told)?;
        let mut text = chain(bisection.journal.tries());
        text += &verdict(&outcome.culprits, outcome.is_vague, "package");
        text += &format!(
            "good: {}\nbad:  {}\n",
            outcome.good.display(),
            outcome.bad.display()
        );
        io::stdout().write_all(text.as_bytes())?;
        Ok(exit_code(outcome.is_vague))
    })
}

fn by_git(arguments: &Git, terminal: &Terminal) -> Result<ExitCode> {
    let command = TestCommand::understand(&arguments.test, false);
    let (criterion, definitions) = command.arguments.for_bisecting(terminal)?;
    command.arguments.board()?;
    let words = definitions.into_iter().map(String::into_bytes);
    let test: Vec<Vec<u8>> = command.bytes().chain(words).collect();
    let signals = Signals::catch()?;
    let mut bisection = GitBisection::open(git::Request {
        tree: &arguments.tree,
        good: &arguments.good,
        bad: &arguments.bad,
        build: &arguments.build,
        test: &test,
        directory: arguments.journal.output.as_deref(),
        restart: arguments.journal.restart,
    })?;
    going_on(
        bisection.journal.tries(),
        &bisection.journal.directory,
        terminal,
    );
    let outcome = bisection.run(&mut Hands {
        launcher: companion::launcher(),
        run: &mut |command| signals.run(command),
        test: &mut |directory: &Path| command.run(None, directory, &criterion, &signals),
        told: &|tried: &Try| tell(tried, terminal),
    })?;
    let is_vague = outcome.culprits.len() > 1;
    let mut text = chain(bisection.journal.tries());
    text += &verdict(&outcome.culprits, is_vague, "commit");
    io::stdout().write_all(text.as_bytes())?;
    Ok(exit_code(is_vague))
}

fn going_on(tries: &[Try], directory: &Path, terminal: &Terminal) {
    let place = directory.display();
    terminal.say(&match tries.len() {
        0 => format!("tries are kept in {place}"),
        count => format!("going on after {count} tries, which are in {place}"),
    });
}

fn tell(tried: &Try, terminal: &Terminal) {
    let why = match tried.why.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    terminal.say(&format!(
        "{} {}{why}  ({:.1} s)",
        tried.what,
        name(tried.finding),
        tried.seconds
    ));
}

const fn name(finding: Finding) -> &'static str {
    match finding {
        Finding::Good => "is good",
        Finding::Bad => "is bad",
        Finding::Skip => "is skipped",
    }
}

/// The tries, a line each.
fn chain(tries: &[Try]) -> String {
    let mut table = Table::new(["TRY", "WHAT", "FINDING", "SECONDS", "WHY"]);
    for (number, tried) in tries.iter().enumerate() {
        table.row([
            &(number + 1).to_string(),
            &tried.what,
            name(tried.finding).trim_start_matches("is "),
            &format!("{:.1}", tried.seconds),
            &tried.why,
        ]);
    }
    table.to_string()
}

fn verdict(culprits: &[String], is_vague: bool, noun: &str) -> String {
    let list: String = culprits
        .iter()
        .map(|culprit| format!("  {}\n", sanitise::line(culprit)))
        .collect();
    let title = match (is_vague, culprits.len()) {
        (true, count) => format!(
            "one of these {count} {noun}s is the first bad one; those between could not be tested"
        ),
        (false, 1) => format!("the first bad {noun}"),
        (false, count) => {
            format!("the first bad {noun}s: these {count} can only be installed together")
        }
    };
    format!("\n{title}:\n{list}")
}

fn exit_code(is_vague: bool) -> ExitCode {
    match is_vague {
        true => ExitCode::from(Class::Infrastructure.exit_code()),
        false => ExitCode::SUCCESS,
    }
}
