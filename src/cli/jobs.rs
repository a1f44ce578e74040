//! `hearth jobs`: a lab's jobs: lists, one of them, its log and report, cancellation.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hearth::error::Fault;
use hearth::lab::client::{Client, JobShown};
use hearth::lab::queue::{AttemptInfo, Job};

use super::lab_arguments::LabArguments;
use super::table::{Table, time};
use super::terminal::Terminal;

/// List a lab's jobs, show one, cancel one, fetch its report
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Debug, Args)]
struct ListArguments {
    /// submitted, scheduled, running, canceling or finished
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// unknown, complete, incomplete or canceled
    #[arg(long, value_name = "HEALTH")]
    health: Option<String>,
    /// For this board, or run on it
    #[arg(long, value_name = "NAME")]
    board: Option<String>,
    /// For this board type
    #[arg(long = "type", value_name = "TYPE")]
    board_type: Option<String>,
    /// Of this submitter
    #[arg(long, value_name = "NAME")]
    submitter: Option<String>,
    /// Only older ones than this number
    #[arg(long, value_name = "N")]
    before: Option<i64>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    lab: LabArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show a job: its state, what it waits for, its attempts
    Show {
        /// Its number
        job: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        lab: LabArguments,
    },
    /// Show the console of a job's last attempt
    Log {
        /// Its number
        job: i64,
        /// Go on to the attempt's end
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        lab: LabArguments,
    },
    /// Cancel a job: its board is switched off
    Cancel {
        /// Its number
        job: i64,
        #[command(flatten)]
        lab: LabArguments,
    },
    /// Submit a job that has ended once more; prints the new number
    Retry {
        /// Its number
        job: i64,
        #[command(flatten)]
        lab: LabArguments,
    },
    /// Fetch the report of a job's last attempt
    Report {
        /// Its number
        job: i64,
        /// Where it goes
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        lab: LabArguments,
    },
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let Some(action) = &arguments.action else {
        list(&arguments.list)?;
        return Ok(ExitCode::SUCCESS);
    };
    match action {
        Action::Show { job, json, lab } => show(&lab.client()?.job(*job)?, *json)?,
        Action::Log { job, follow, lab } => {
            let client = lab.client()?;
            client.job(*job)?;
            client.log(*job, *follow, &mut io::stdout())?;
        }
        Action::Cancel { job, lab } => {
            let shown = lab.client()?.cancel(*job)?;
            terminal.say(&format!("job {job} is {}", shown.job.state));
        }
        Action::Retry { job, lab } => {
            let new = lab.client()?.retry(*job)?;
            writeln!(io::stdout(), "{}", new.job.id)?;
        }
        Action::Report { job, output, lab } => fetch(&lab.client()?, *job, output, terminal)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(arguments: &ListArguments) -> Result<()> {
    let client = arguments.lab.client()?;
    let jobs = client.jobs(&query(arguments))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&jobs)?);
        return Ok(());
    }
    let mut table = Table::new([
        "JOB",
        "STATE",
        "HEALTH",
        "EXIT",
        "BOARD",
        "SUBMITTER",
        "PRIORITY",
        "SUBMITTED",
        "NAME",
    ]);
    for job in &jobs {
        table.row([
            &job.id.to_string(),
            job.state.name(),
            job.health.name(),
            &job.exit.map_or("-".into(), |exit| exit.to_string()),
            &board_of(job),
            &job.submitter,
            &job.spec.priority.to_string(),
            &time(job.submitted),
            &job.name,
        ]);
    }
    write!(io::stdout(), "{table}")?;
    Ok(())
}

fn query(arguments: &ListArguments) -> String {
    let pairs = [
        ("state", arguments.state.clone()),
        ("health", arguments.health.clone()),
        ("board", arguments.board.clone()),
        ("type", arguments.board_type.clone()),
        ("submitter", arguments.submitter.clone()),
        ("before", arguments.before.map(|it| it.to_string())),
        ("limit", Some(arguments.limit.to_string())),
    ];
    let given = pairs
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", Client::escaped(&value?))));
    given.collect::<Vec<_>>().join("&")
}

/// The board that has it, or what it asks for.
fn board_of(job: &Job) -> String {
    let wanted = job.spec.board.clone();
    let of_type = || {
        job.spec
            .board_type
            .as_ref()
            .map(|name| format!("type {name}"))
    };
    let known = job.ran_on.clone().or(wanted).or_else(of_type);
    known.unwrap_or_default()
}

fn show(shown: &JobShown, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(shown)?);
        return Ok(());
    }
    let job = &shown.job;
    let mut table = Table::new(["", ""]).without_heading();
    let mut row = |key: &str, value: &str| table.row([key, value]);
    row("job", &job.id.to_string());
    row("name", &job.name);
    row("state", job.state.name());
    row("health", job.health.name());
    if let Some(what) = &shown.waits_for {
        row("waits for", what);
    }
    if let Some(message) = &job.message {
        row("message", message);
    }
    if let Some(exit) = job.exit {
        row("exit code", &exit.to_string());
    }
    row("for", &board_of(job));
    if !job.spec.tags.is_empty() {
        row("tags", &job.spec.tags.join(", "));
    }
    row("submitter", &job.submitter);
    row("priority", &job.spec.priority.to_string());
    row("submitted", &time(job.submitted));
    if let Some(ended) = job.ended {
        row("ended", &time(ended));
    }
    row("definitions", &job.spec.definitions.join(", "));
    for attempt in &job.attempts {
        let key = format!("attempt {}", attempt.number);
        row(&key, &told(attempt));
        row("", &attempt.reason);
    }
    write!(io::stdout(), "{table}")?;
    Ok(())
}

fn told(attempt: &AttemptInfo) -> String {
    let mut text = format!("on {} at {}", attempt.board, time(attempt.begun));
    match (&attempt.outcome, attempt.ended) {
        (Some(outcome), Some(ended)) => {
            text.push_str(&format!(
                ", {outcome} after {:.0} s",
                (ended - attempt.begun).max(0.0)
            ));
        }
        _ => text.push_str(", runs"),
    }
    if let Some(message) = &attempt.message {
        text.push_str(&format!(": {message}"));
    }
    text
}

fn fetch(client: &Client, job: i64, output: &std::path::Path, terminal: &Terminal) -> Result<()> {
    let names = client.report(job, output)?;
    if names.is_empty() {
        return Err(Fault::input(format!("job {job} has no report"))
            .remedy(format!("`hearth jobs show {job}` says why"))
            .into());
    }
    terminal.say(&format!(
        "wrote {} to {}",
        names.join(", "),
        output.display()
    ));
    Ok(())
}
