//! Owns the command line: arguments in, text and an exit code out. Holds no logic that a user of the library
//! would miss.

mod board_arguments;
mod boards;
mod boot;
mod bootscript;
mod build;
mod changes;
mod common;
mod companion;
mod completions;
mod console;
mod diff;
mod doctor;
mod files;
mod flash;
mod help;
mod image;
mod initrd;
mod lab;
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
mod results;
mod run;
mod serve;
mod shell;
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
    Run(run::Arguments),
    Serve(serve::Arguments),
    Shell(shell::Arguments),
    Verify(verify::Arguments),
    Test(test::Arguments),
}

/// Parses the arguments, runs the command, and tells what went wrong.
pub fn run() -> ExitCode {
    // Before any thread is started, and before arguments are looked at.
    if let Some(done) = hearth::inside() {
        return done.unwrap_or_else(|error| report::failure(&error));
    }
    let matches = help::grouped(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let terminal = Terminal::start(&cli.common);
    match dispatch(cli, &terminal) {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    }
}

fn dispatch(cli: Cli, terminal: &Terminal) -> Result<ExitCode> {
    match cli.command {
        Command::Boards(arguments) => boards::run(&arguments),
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
        Command::Mkimage(arguments) => mkimage::run(&arguments, cli.common.quiet),
        Command::Lab(arguments) => lab::run(&arguments, terminal),
        Command::Lock(arguments) => lock::run(&arguments, terminal),
        Command::Man(arguments) => man::run(&arguments, Cli::command(), terminal),
        Command::PrivateNetwork(arguments) => private_network::run(&arguments),
        Command::Netboot(arguments) => netboot::run(&arguments, terminal),
        Command::Provision(arguments) => provision::run(&arguments, terminal),
        Command::Run(arguments) => run::run(&arguments, terminal),
        Command::Initrd(arguments) => initrd::run(arguments, terminal),
        Command::Power(arguments) => power::run(&arguments),
        Command::Report(arguments) => results::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments, terminal),
        Command::Shell(arguments) => shell::run(&arguments, terminal),
        Command::Verify(arguments) => verify::run(&arguments, terminal),
        Command::Test(arguments) => test::run(&arguments, terminal),
    }
}
