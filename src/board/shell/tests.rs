//! Sessions with the shells that boards have, each on a terminal of its own and in a root that has busybox's programs alone,
//! over lines that lose, echo and tear what passes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::*;
use crate::board::{ConsoleEvent, ConsoleParser};
use crate::job::{Collector, JobSettings, Loader, Merger, NumberedLine, Trust, payload};

/// How much faster than a clock the session's time passes: its pauses are for boards.
const HASTE: f64 = 20.0;
/// How long a session may take, in seconds.
const PATIENCE: u64 = 60;

const STEPS: &str = "    - lava-test-case one --shell true
    - lava-test-case two --shell false
    - lava-test-case three --result skip
    - lava-test-case four --result pass --measurement 12.5 --units s
    - printf 'a\\rb \\\\ c\\303\\251\\n'
";

/// A shell on a terminal, in a root of its own.
struct Cell {
    child: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    root: tempfile::TempDir,
}

/// The programs of a small busybox.
const APPLETS: [&str; 20] = [
    "sh",
    "cat",
    "mkdir",
    "rm",
    "tar",
    "gzip",
    "base64",
    "sha256sum",
    "stty",
    "sync",
    "dirname",
    "sed",
    "tr",
    "df",
    "awk",
    "setsid",
    "printf",
    "wc",
    "head",
    "sleep",
];

impl Cell {
    /// Runs `command` in a root whose programs are these applets of busybox; the host's are out of reach but for `bash`.
    fn start(applets: &[&str], command: &str) -> Cell {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for directory in ["usr", "bin", "tmp", "proc", "dev", "etc"] {
            fs::create_dir(path(directory)).unwrap();
        }
        for directory in ["lib", "lib64"] {
            symlink(format!("usr/{directory}"), path(directory)).unwrap();
        }
        for applet in applets {
            symlink("/usr/bin/busybox", path("bin").join(applet)).unwrap();
        }
        fs::write(path("start"), format!("{command}\n")).unwrap();
        let enter = format!(
            "cd {} && mount --rbind /usr usr && mount --rbind /dev dev && mount --rbind /proc proc && \
             exec env -i PATH=/bin HEARTH_POWEROFF=true /usr/sbin/chroot . /bin/sh /start",
            root.path().display()
        );
        // `script` gives it a terminal.
        let mut child = Command::new("script")
            .args([
                "-qfec",
                &format!("unshare --user --map-root-user --mount sh -c '{enter}'"),
                "/dev/null",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Cell {
            keyboard: child.stdin.take().unwrap(),
            child,
            screen,
            root,
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a line does to what passes, by a count of its own that is the same in every run.
#[derive(Clone, Copy, Default)]
struct Line {
    /// Of so many bytes that are written one is lost; of none by default.
    loses: u64,
    /// Of so many bytes that the board shows one has a message of the kernel behind it.
    tears: u64,
}

impl Line {
    fn hits(every: u64, count: &mut u64) -> bool {
        *count = count
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        every > 0 && (*count >> 33).is_multiple_of(every)
    }
}

struct Outcome {
    state: ShellState,
    failure: Option<(FailureClass, String)>,
    cases: Vec<String>,
    lost: u64,
    screen: String,
}

fn job(steps: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.yaml");
    let text = format!(
        "metadata: {{format: Lava-Test Test Definition 1.0, name: t}}\nrun:\n  steps:\n{steps}"
    );
    fs::write(&file, text).unwrap();
    let mut loader = Loader::default();
    let loaded = loader.load(file.to_str().unwrap()).unwrap();
    let settings = JobSettings {
        parameters: Vec::new(),
        trust: Trust::Remote,
        board_type: "t".into(),
    };
    let mut tar = Vec::new();
    payload(&mut tar, &loaded, &mut loader, &settings).unwrap();
    tar
}

/// Runs a session to its end.
fn run(cell: &mut Cell, login: &Login, line: Line, steps: &str) -> Outcome {
    let begun = Instant::now();
    let mut session = ShellSession::new(login, &job(steps), "lava-1", 60.0).unwrap();
    let (mut parser, mut merger, mut collector) = (
        ConsoleParser::default(),
        Merger::default(),
        Collector::default(),
    );
    let (mut screen, mut chance) = (Vec::new(), 7);
    let mut failure = None;
    while begun.elapsed() < Duration::from_secs(PATIENCE)
        && session.state() != ShellState::Over
        && failure.is_none()
    {
        let at = begun.elapsed().as_secs_f64() * HASTE;
        let fresh = cell
            .screen
            .recv_timeout(Duration::from_millis(5))
            .unwrap_or_default();
        let mut shown = Vec::new();
        for byte in fresh {
            shown.push(byte);
            if Line::hits(line.tears, &mut chance) {
                shown.extend(b"[   12.345678] usb 1-1: new device\r\n");
            }
        }
        screen.extend(&shown);
        for event in parser.feed(&shown) {
            if let ConsoleEvent::Line { raw, .. } = event
                && let Some(numbered) = NumberedLine::from_console(&raw)
            {
                merger
                    .add(numbered)
                    .iter()
                    .for_each(|line| collector.line(line, at));
            }
        }
        session.heard(&shown, at);
        session.act(merger.gap(), at);
        failure = session.failure();
        let mut typed = session.take_output();
        typed.retain(|_| !Line::hits(line.loses, &mut chance));
        let _ = cell.keyboard.write_all(&typed);
        let _ = cell.keyboard.flush();
    }
    merger.finish();
    let (suites, _) = collector.finish(0.0);
    let cases = suites.iter().flat_map(|suite| &suite.cases);
    Outcome {
        state: session.state(),
        failure,
        cases: cases
            .map(|case| format!("{}={}", case.id, case.outcome.name()))
            .collect(),
        lost: merger.lost(),
        screen: String::from_utf8_lossy(&screen).into_owned(),
    }
}

const CASES: [&str; 4] = ["one=pass", "two=fail", "three=skip", "four=pass"];

#[track_caller]
fn has_run(cell: &mut Cell, login: &Login, line: Line) -> Outcome {
    let outcome = run(cell, login, line, STEPS);
    assert_eq!(
        (
            outcome.state,
            outcome.failure.as_ref(),
            &outcome.cases[..],
            outcome.lost
        ),
        (ShellState::Over, None, &CASES.map(String::from)[..], 0),
        "{}",
        outcome.screen
    );
    common::wait_for("the job to be removed", || {
        !["lava-1", "lava-1.in"]
            .iter()
            .any(|name| cell.root.path().join(name).exists())
    });
    outcome
}

#[test]
fn a_job_runs_in_every_shell_that_a_board_may_have() {
    for command in [
        "exec sh -i",
        "exec /usr/bin/bash -i",
        "exec /usr/bin/dash -i",
    ] {
        has_run(
            &mut Cell::start(&APPLETS, command),
            &Login::default(),
            Line::default(),
        );
    }
}

/// What a minimal busybox lacks: encodings, compression, sums, and programs that only change a terminal or a session.
#[test]
fn a_job_runs_where_there_is_hardly_more_than_a_shell_and_tar() {
    let few: Vec<&str> = APPLETS
        .into_iter()
        .filter(|name| {
            ![
                "base64",
                "gzip",
                "sha256sum",
                "stty",
                "setsid",
                "awk",
                "env",
                "head",
            ]
            .contains(name)
        })
        .collect();
    has_run(
        &mut Cell::start(&few, "exec sh -i"),
        &Login::default(),
        Line::default(),
    );
    let mut cell = Cell::start(&few[..4], "exec sh -i");
    let outcome = run(&mut cell, &Login::default(), Line::default(), STEPS);
    let told = "the board has no `tar`, which unpacks the job";
    assert_eq!(
        outcome.failure,
        Some((FailureClass::Configuration, told.into())),
        "{}",
        outcome.screen
    );
}

#[test]
fn bytes_that_are_lost_and_messages_in_between_cost_no_result() {
    for line in [
        Line {
            loses: 300,
            tears: 0,
        },
        Line {
            loses: 0,
            tears: 200,
        },
        Line {
            loses: 500,
            tears: 400,
        },
    ] {
        for command in ["exec sh -i", "exec /usr/bin/bash -i"] {
            has_run(&mut Cell::start(&APPLETS, command), &Login::default(), line);
        }
    }
}

/// A narrow terminal: what is typed is wrapped by the shell's editor, and shown again.
#[test]
fn a_line_that_is_wrapped_and_shown_again_confuses_nothing() {
    for shell in ["sh", "/usr/bin/bash"] {
        let command = format!("stty cols 20 rows 5\nexec {shell} -i");
        has_run(
            &mut Cell::start(&APPLETS, &command),
            &Login::default(),
            Line::default(),
        );
    }
}

/// A login as getty(8) and login(1) have it, for one user with a password.
const GETTY: &str = "
while :; do
printf '\\nneo1 login: '; read user
[ -n \"$user\" ] || continue
printf 'Password: '; stty -echo; read password; stty echo; echo
[ \"$user:$password\" != root:secret ] || break
sleep 1; echo 'Login incorrect'
done
echo 'Last login: never'
PS1='root@neo1:~# ' exec sh -i";

fn login(user: Option<&str>, password: Option<&str>, prompt: Option<&str>) -> Login {
    let own = |text: Option<&str>| text.map(String::from);
    Login {
        user: own(user),
        password: own(password),
        prompt: own(prompt),
    }
}

#[test]
fn a_user_with_a_password_gets_in() {
    let cell = || Cell::start(&APPLETS, GETTY);
    has_run(
        &mut cell(),
        &login(None, Some("secret"), Some("root@.*#")),
        Line::default(),
    );
    // A lost byte has the login refused, or asked for again.
    let lossy = Line {
        loses: 300,
        tears: 100,
    };
    let outcome = run(
        &mut cell(),
        &login(Some("root"), Some("secret"), None),
        Line {
            loses: 0,
            tears: 100,
        },
        STEPS,
    );
    assert_eq!(outcome.cases, CASES, "{}", outcome.screen);
    let outcome = run(
        &mut cell(),
        &login(Some("root"), Some("secret"), None),
        lossy,
        "    - lava-test-case one --shell true\n",
    );
    assert_eq!(
        (outcome.failure, &outcome.cases[..]),
        (None, &["one=pass".to_string()][..]),
        "{}",
        outcome.screen
    );
}

#[test]
fn a_login_that_is_refused_is_told_by_what_was_wrong() {
    for (password, told) in [
        (
            Some("wrong"),
            "the board refused the login of `root`: user or password is wrong",
        ),
        (
            None,
            "the board asks for the password of `root`, and none is given",
        ),
    ] {
        let outcome = run(
            &mut Cell::start(&APPLETS, GETTY),
            &login(Some("root"), password, None),
            Line::default(),
            STEPS,
        );
        let (class, message) = outcome.failure.expect(&outcome.screen);
        assert_eq!(class, FailureClass::Configuration);
        assert!(message.starts_with(told), "{message}");
        assert!(!outcome.screen.contains("wrong"), "the password was shown");
    }
}

#[test]
fn a_console_that_has_to_be_activated_is() {
    let command =
        "printf '\\nPlease press Enter to activate this console. '; read line; exec sh -i";
    has_run(
        &mut Cell::start(&APPLETS, command),
        &Login::default(),
        Line::default(),
    );
}

#[test]
fn what_is_no_shell_is_told() {
    let command = "while :; do printf 'menu # '; read line; done";
    let outcome = run(
        &mut Cell::start(&APPLETS, command),
        &Login::default(),
        Line::default(),
        STEPS,
    );
    let told = "what waits with `menu #` is no POSIX shell: it did not run `echo`";
    assert_eq!(
        outcome.failure,
        Some((FailureClass::Configuration, told.into())),
        "{}",
        outcome.screen
    );
    // Another prompt than the one that is described is none.
    let mut cell = Cell::start(&APPLETS, command);
    let mut session =
        ShellSession::new(&login(None, None, Some("root@.*#")), b"", "lava-1", 60.0).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    session.heard(&cell.screen.try_recv().unwrap(), 1.0);
    session.act((1, None), 2.0);
    assert!(session.take_output().is_empty());
    // A message of the kernel may have come behind it.
    session.act((1, None), 7.0);
    assert_eq!(session.take_output(), b"\n");
    cell.child.kill().unwrap();
}

#[test]
fn a_board_that_falls_silent_is_given_up_by_name() {
    let tar = job(STEPS);
    let mut session = ShellSession::new(&Login::default(), &tar, "lava-1", 60.0).unwrap();
    session.heard(b"/ # ", 1.0);
    session.act((1, None), 2.0);
    session.heard(b"echo hearth-$?-1-\r\nhearth-0-1-\r\n/ # ", 3.0);
    session.act((1, None), 3.0);
    assert_eq!(session.state(), ShellState::LoggedIn);
    for at in 3..200 {
        session.act((1, None), f64::from(at));
    }
    let (class, message) = session.failure().unwrap();
    assert_eq!(class, FailureClass::Infrastructure);
    assert!(
        message.starts_with("the board's shell does not answer: `mkdir -p /lava-1.in"),
        "{message}"
    );
}
