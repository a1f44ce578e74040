//! Owns hearth's processes inside: the one that unshares, pid 1 of the namespaces, pid 1 of a root.
//! Never does what a step does.
//!
//! All are hearth itself with a hidden subcommand and run on a single thread until the namespaces are made, as unshare(2)
//! asks for.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    Gid, Pid, Uid, chroot, getppid, setgroups, sethostname, setresgid, setresuid, setsid,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::confine::{self, Guardian, Ward};
use super::events::{Event, Sender, StepFailure};
use super::pty::{self, Line};
use super::request::{EXECUTABLE, HIDDEN, StepName};
use super::root::{Program, Root, RootTask};
use super::step::AnyStep;
use super::{binfmt, environment, filter, ids, loopback, mounts, sys, terminal, watch};
use crate::arch::Arch;
use crate::error::Fault;

/// What to do inside the namespaces.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChildRequest {
    /// The pid of the process to die with.
    pub parent: u32,
    pub arch: Option<Arch>,
    pub job: ChildTask,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ChildTask {
    Step(StepName),
    Program(Box<(Root, Program)>),
}

/// The lists of steps of all rooms.
type Steps<'a> = &'a [&'a [&'a dyn AnyStep]];

/// What `main` calls before anything else: does the work of the hidden subcommand if that is what the
/// process was started for, and gives its exit code.
pub fn inside(steps: &[&[&dyn AnyStep]]) -> Option<Result<ExitCode>> {
    let arguments: Vec<OsString> = env::args_os().skip(1).take(4).collect();
    let (hidden, role, entry, ends) = match &arguments[..] {
        [hidden, role, entry] => (hidden, role, entry, None),
        [hidden, role, entry, ends] => (hidden, role, entry, ends.to_str()),
        _ => return None,
    };
    if hidden != HIDDEN {
        return None;
    }
    Some(match (role.to_str(), entry.to_str()) {
        (Some("outer"), Some(entry)) => parse(entry).and_then(|parsed| outer(&parsed)),
        (Some("init"), Some(entry)) => parse(entry).and_then(|parsed| init(parsed, steps)),
        (Some("ids"), Some(pid)) => give_ids(pid),
        (Some("terminal"), Some(_)) => terminal::guard().map(|()| ExitCode::SUCCESS),
        (Some("program"), Some(entry)) => unshare_for_program(entry),
        (Some("root"), Some(entry)) => parse(entry)
            .and_then(|(root, work)| in_root(&root, work, ends.unwrap_or_default(), steps)),
        _ => Err(anyhow!("hearth runs {HIDDEN} itself; it is not for people")),
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).context("a malformed request to the sandbox")
}

/// Unshares, and waits for pid 1 of the new namespaces.
fn outer(entry: &ChildRequest) -> Result<ExitCode> {
    let done = unshare_all(entry);
    match (&entry.job, done) {
        (ChildTask::Step(_), Err(error)) => {
            Sender::new(io::stdout()).send(&Event::Failed(StepFailure::from(&error)));
            Ok(ExitCode::FAILURE)
        }
        (_, done) => done,
    }
}

fn unshare_all(entry: &ChildRequest) -> Result<ExitCode> {
    confine::close_inherited()?;
    let mut helper = Command::new(EXECUTABLE)
        .arg0("hearth")
        .args([HIDDEN, "ids", &std::process::id().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run hearth again")?;
    unshare(CloneFlags::CLONE_NEWUSER).map_err(no_user_namespace)?;
    if let Some(mut go) = helper.stdin.take() {
        go.write_all(b"!")?;
    }
    let helper = helper.wait_with_output()?;
    if !helper.status.success() {
        return Err(serde_json::from_slice::<StepFailure>(&helper.stdout)
            .map_or_else(|_| anyhow!("the helper for user ids failed"), Into::into));
    }
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(root.1, root.1, root.1)?;
    setresuid(root.0, root.0, root.0)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .map_err(no_user_namespace)?;
    // Only now: a change of credentials clears it.
    die_with(entry.parent, getppid().as_raw())?;
    leave_keys();
    let inner = ChildRequest {
        parent: std::process::id(),
        arch: entry.arch,
        job: entry.job.clone(),
    };
    let status = Command::new(EXECUTABLE)
        .arg0("hearth")
        .args([HIDDEN, "init", &serde_json::to_string(&inner)?])
        .status()
        .context("cannot run hearth again")?;
    Ok(passed_on(status))
}

fn no_user_namespace(errno: Errno) -> anyhow::Error {
    let sentence = format!("the kernel allows no user namespace here: {}", errno.desc());
    let remedy = [
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
    ]
    .into_iter()
    .find(|(name, off, _)| {
        fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|value| value.trim() == *off)
    })
    .map_or_else(
        || "in a container, let it make user namespaces, or run hearth outside it".to_owned(),
        |(name, _, on)| format!("as root, run: sysctl -w {}={on}", name.replace('/', ".")),
    );
    Fault::host(sentence).remedy(remedy).into()
}

/// The helper, which stays in the caller's user namespace: waits until `pid` has unshared, then gives it its ids.
fn give_ids(pid: &str) -> Result<ExitCode> {
    let mut go = [0];
    if io::stdin().read(&mut go)? == 0 {
        return Ok(ExitCode::FAILURE);
    }
    match pid.parse().context("not a pid").and_then(ids::give) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            serde_json::to_writer(io::stdout(), &StepFailure::from(&error))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Asks to be killed when the parent dies, unless it has already: then `seen`, the parent's pid now, is another.
fn die_with(parent: u32, seen: i32) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if i64::from(seen) != i64::from(parent) {
        bail!("hearth has died");
    }
    Ok(())
}

/// The parent's pid, in the numbers of the host's `/proc`: getppid(2) gives 0 across a pid namespace.
fn parent_outside() -> Result<i32> {
    let status = fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
        .context("/proc/self/status names no parent")
}

/// Leaves the caller's keys behind. Where the kernel has none, or a container refuses the call, nothing else can be done: that
/// programs cannot use keys is the filter's work, that they cannot see them that of the mounts.
fn leave_keys() {
    if let Err(errno) = sys::join_new_session_keyring() {
        log::debug!("no session keyring for the sandbox: {}", errno.desc());
    }
}

/// Pid 1 of the namespaces: runs the step, or waits for the program.
fn init(entry: ChildRequest, steps: Steps<'_>) -> Result<ExitCode> {
    die_with(entry.parent, parent_outside()?)?;
    let prepare = || {
        umask(Mode::from_bits_truncate(0o022));
        mounts::make_private()?;
        sethostname("localhost")?;
        entry.arch.map_or(Ok(()), binfmt::register)
    };
    match &entry.job {
        ChildTask::Step(step) => {
            answer(step, steps, prepare);
            Ok(ExitCode::SUCCESS)
        }
        ChildTask::Program(job) => {
            let (root, program) = &**job;
            prepare()?;
            let child = root.command(program)?.spawn()?;
            let status = watch::stay_with(child, program.name(), &root.limits)?;
            Ok(passed_on(status))
        }
    }
}

/// Runs a step, with its input from standard input, after a preparation; tells the outcome on standard output.
fn answer(step: &StepName, steps: Steps<'_>, prepare: impl FnOnce() -> Result<()>) {
    let sender = Sender::new(io::stdout());
    sender.take_log(step.log.parse().unwrap_or(log::LevelFilter::Warn));
    let run = || {
        prepare()?;
        let found = steps
            .iter()
            .flat_map(|room| room.iter())
            .find(|known| known.name() == step.name)
            .with_context(|| format!("hearth has no step {}", step.name))?;
        let input =
            serde_json::from_reader(io::stdin()).context("a malformed request to the sandbox")?;
        found.call(input, &sender)
    };
    sender.send(&match run() {
        Ok(value) => Event::Done(value),
        Err(error) => Event::Failed(StepFailure::from(&error)),
    });
}

/// Makes the pid namespace of a program, in which nothing of hearth's or the host's is seen, and waits.
fn unshare_for_program(entry: &str) -> Result<ExitCode> {
    let (root, _): (Root, RootTask) = parse(entry)?;
    let mut flags = CloneFlags::CLONE_NEWPID;
    if !root.network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).context("cannot make a pid and network namespace")?;
    let guardian = Guardian::new()?;
    let mut child = Command::new(EXECUTABLE)
        .arg0("hearth")
        .args([HIDDEN, "root", entry, &guardian.argument()])
        .env_clear()
        .envs(env::var_os("TERM").map(|term| ("TERM", term)))
        .spawn()
        .context("cannot run hearth again")?;
    let made = guardian.serve()?;
    let status = child.wait()?;
    if made && !root.throw_away {
        mounts::give_back(&root.directory)?;
    }
    Ok(passed_on(status))
}

/// Pid 1 of a program's pid namespace: enters the root, and does the work. A step is hearth's own code and keeps its
/// ids; a program gets those of images only.
fn in_root(root: &Root, work: RootTask, ends: &str, steps: Steps<'_>) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let ward = Ward::take(ends)?;
    match work {
        RootTask::Program(program) => {
            let made = enter(root, program.terminal)?;
            let terminal = program.terminal.then(Line::open_terminal).transpose()?;
            // A session of its own: the caller's terminal is not its, whatever it opens.
            setsid().context("cannot leave the terminal")?;
            ward.confine(made, &root.limits)?;
            let line = match terminal {
                Some((line, slave)) => {
                    pty::attach(&slave)?;
                    Some(line)
                }
                None => None,
            };
            run_program(root, &program, line.as_ref())
        }
        RootTask::Step(step) => {
            drop(ward);
            answer(&step, steps, || enter(root, false).map(drop));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn enter(root: &Root, has_terminal: bool) -> Result<bool> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let made = mounts::enter(root, has_terminal)?;
    if !root.network {
        loopback::up()?;
    }
    umask(Mode::from_bits_truncate(0o022));
    setgroups(&[]).context("cannot leave the caller's groups")?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(1024), hard)?;
    if root.ignore_syncs {
        filter::ignore_syncs()?;
    }
    Ok(made)
}

/// Runs a program, and reaps what it leaves behind; `line` leads to hearth outside where the program has a terminal.
fn run_program(root: &Root, program: &Program, line: Option<&Line>) -> Result<ExitCode> {
    let term = program.terminal.then(|| env::var("TERM").ok()).flatten();
    let (name, arguments) = program
        .argv
        .split_first()
        .ok_or_else(|| Fault::input("there is no program to run"))?;
    if !program.directory.is_dir() {
        let directory = program.directory.display();
        return Err(Fault::input(format!("the image has no directory {directory}")).into());
    }
    let mut command = Command::new(name);
    if line.is_some() {
        command.process_group(0);
    }
    let child = command
        .args(arguments)
        .env_clear()
        .envs(environment::fixed(root, term))
        .envs(
            program
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .current_dir(&program.directory)
        .spawn()
        .map_err(|error| cannot_run(name, error))?;
    let child = Pid::from_raw(child.id().cast_signed());
    look_like_a_chroot()?;
    if line.is_some() {
        terminal::give_to(child)?;
    }
    wait_for(child, line)
}

/// Takes another root for pid 1 than the programs have. By this difference `ischroot`, `systemctl`, `udevadm` and
/// `systemd-detect-virt --chroot` know a chroot (they compare `/proc/1/root` with `/`), where they leave services and
/// devices alone. To compare, they must be able to look at pid 1, which by now has nothing that they have not.
fn look_like_a_chroot() -> Result<()> {
    chroot("/proc").context("cannot take another root for pid 1")?;
    prctl::set_dumpable(true).context("cannot let programs look at pid 1")
}

fn cannot_run(name: &str, error: io::Error) -> anyhow::Error {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ENOENT => Fault::input(format!("the image has no program {name}")).into(),
        Errno::ENOEXEC => Fault::host(format!("nothing on this host runs {name} of the image"))
            .remedy("check that the recipe's arch is that of its packages")
            .into(),
        _ => anyhow::Error::new(error).context(format!("cannot run {name} in the image")),
    }
}

/// Reaps all children until `program` has ended. One that is stopped at its terminal stops hearth outside, and runs on when
/// that does.
fn wait_for(program: Pid, line: Option<&Line>) -> Result<ExitCode> {
    let stops = line.map(|_| WaitPidFlag::WUNTRACED);
    loop {
        match waitpid(None::<Pid>, stops) {
            Ok(WaitStatus::Stopped(pid, _)) if pid == program => {
                if let Some(line) = line {
                    line.stopped()?;
                    terminal::give_to(program)?;
                }
            }
            Ok(WaitStatus::Exited(pid, code)) if pid == program => {
                return Ok(ExitCode::from(code.to_le_bytes()[0]));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                return Ok(ExitCode::from(killed_by(signal as i32)));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the program"),
        }
    }
}

/// A program's status as hearth's own, as shells do: 128 and the signal's number.
pub(super) fn passed_on(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(code.to_le_bytes()[0]),
        (None, Some(signal)) => ExitCode::from(killed_by(signal)),
        (None, None) => ExitCode::FAILURE,
    }
}

fn killed_by(signal: i32) -> u8 {
    128 + signal.to_le_bytes()[0]
}
