//! Owns the command line: arguments in, text and an exit code out. Holds no logic that a user of the library
//! would miss.

mod bisect;
mod bisecting;
mod board_actions;
mod board_arguments;
mod boards;
mod boot;
mod bootscript;
mod build;
mod changes;
mod common;
mod companion;
mod compared;
mod completions;
mod console;
mod diff;
mod doctor;
mod files;
mod flash;
mod follow;
mod help;
mod image;
mod import;
mod initrd;
mod jobs;
mod lab;
mod lab_arguments;
mod listing;
mod live;
mod lock;
mod man;
mod media;
mod mkimage;
mod netboot;
mod own;
mod power;
mod private_network;
mod provision;
mod report;
mod rerun;
mod results;
mod run;
mod run_job;
mod serve;
mod shell;
mod steps;
mod submit;
mod table;
mod terminal;
mod test;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use common::Common;
use terminal::Terminal;

/// Build master images for ARM boards, boot the boards from them, and test them
#[derive(Debug, Parser)]
#[command(
    name = "hearth",
    version,
    max_term_width = 80,
    subcommand_required = true,
    disable_help_subcommand = true,
    infer_long_args = false
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

// One variant a subcommand, each with its arguments in a file of its own.
#[derive(Debug, Subcommand)]
pub enum Command {
    Bisect(bisect::Arguments),
    Boards(boards::Arguments),
    Boot(boot::Arguments),
    Bootscript(bootscript::Arguments),
    Build(build::Arguments),
    #[command(name = "__companion", hide = true)]
    Companion(companion::Arguments),
    Completions(completions::Arguments),
    Diff(diff::Arguments),
    Console(console::Arguments),
    Doctor(doctor::Arguments),
    Files(files::Arguments),
    Flash(flash::Arguments),
    Image(image::Arguments),
    Import(import::Arguments),
    Jobs(jobs::Arguments),
    Lab(lab::Arguments),
    Lock(lock::Arguments),
    Media(media::Arguments),
    Mkimage(mkimage::Arguments),
    Netboot(netboot::Arguments),
    Provision(provision::Arguments),
    Man(man::Arguments),
    Initrd(initrd::Arguments),
    Power(power::Arguments),
    Report(results::Arguments),
    PrivateNetwork(private_network::Arguments),
    Rerun(rerun::Arguments),
    Run(run::Arguments),
    #[command(name = "__run-job", hide = true)]
    RunJob(run_job::Arguments),
    Serve(serve::Arguments),
    Shell(shell::Arguments),
    Submit(submit::Arguments),
    Verify(verify::Arguments),
    Test(test::Arguments),
}

/// Parses the arguments, runs the command, and tells what went wrong.
pub fn run() -> ExitCode {
    // Before any thread is started, and before arguments are looked at.
    if let Some(done) = hearth::inside() {
        return done.unwrap_or_else(|error| report::failure(&error));
    }
    let matches = help::grouped(Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return bisecting::usage(&error),
    };
    let terminal = Terminal::start(&cli.common);
    bisecting::guarded(|| match dispatch(cli, &terminal) {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    })
}

fn dispatch(cli: Cli, terminal: &Terminal) -> Result<ExitCode> {
    match cli.command {
        Command::Bisect(arguments) => bisect::run(&arguments, terminal),
        Command::Boards(arguments) => boards::run(&arguments, terminal),
        Command::Boot(arguments) => boot::run(&arguments, terminal),
        Command::Bootscript(arguments) => bootscript::run(&arguments, terminal),
        Command::Build(arguments) => build::run(&arguments, terminal),
        Command::Companion(arguments) => companion::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, Cli::command()),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Console(arguments) => console::run(&arguments, terminal),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Files(arguments) => files::run(&arguments, terminal),
        Command::Flash(arguments) => flash::run(&arguments, terminal),
        Command::Media(arguments) => media::run(&arguments, terminal),
        Command::Image(arguments) => image::run(&arguments),
        Command::Import(arguments) => import::run(&arguments, terminal),
        Command::Mkimage(arguments) => mkimage::run(&arguments, cli.common.quiet),
        Command::Jobs(arguments) => jobs::run(&arguments, terminal),
        Command::Lab(arguments) => lab::run(&arguments, terminal),
        Command::Lock(arguments) => lock::run(&arguments, terminal),
        Command::Man(arguments) => man::run(&arguments, Cli::command(), terminal),
        Command::PrivateNetwork(arguments) => private_network::run(&arguments),
        Command::Netboot(arguments) => netboot::run(&arguments, terminal),
        Command::Provision(arguments) => provision::run(&arguments, terminal),
        Command::Run(arguments) => run::run(&arguments, terminal),
        Command::RunJob(arguments) => run_job::run(&arguments, terminal),
        Command::Initrd(arguments) => initrd::run(arguments, terminal),
        Command::Power(arguments) => power::run(&arguments),
        Command::Rerun(arguments) => rerun::run(&arguments, terminal),
        Command::Report(arguments) => results::run(&arguments, terminal),
        Command::Serve(arguments) => serve::run(&arguments, terminal),
        Command::Shell(arguments) => shell::run(&arguments, terminal),
        Command::Submit(arguments) => submit::run(&arguments, terminal),
        Command::Verify(arguments) => verify::run(&arguments, terminal),
        Command::Test(arguments) => test::run(&arguments, terminal),
    }
}
