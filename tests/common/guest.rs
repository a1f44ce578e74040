//! An emulated board whose console a test reads and types on; its log is kept as a test artifact.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long an emulated board may take for one step, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A running emulator; killed when dropped.
pub struct Guest {
    child: Child,
    input: ChildStdin,
    console: Arc<(Mutex<Console>, Condvar)>,
    /// How far the test has read.
    seen: usize,
}

#[derive(Default)]
struct Console {
    text: String,
    closed: bool,
}

impl Guest {
    /// Starts the emulator, whose standard input and output must be the console; its log goes to
    /// `target/test-artifacts/AREA/NAME.log`.
    pub fn start(command: &mut Command, area: &str, name: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("target/test-artifacts")
            .join(area);
        fs::create_dir_all(&directory).unwrap();
        let mut log = File::create(directory.join(format!("{name}.log"))).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let console = Arc::new((Mutex::new(Console::default()), Condvar::new()));
        let shared = console.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let length = output.read(&mut buffer).unwrap_or(0);
                log.write_all(&buffer[..length]).unwrap();
                let mut console = shared.0.lock().unwrap();
                console
                    .text
                    .push_str(&String::from_utf8_lossy(&buffer[..length]));
                console.closed = length == 0;
                shared.1.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
        Guest {
            child,
            input,
            console,
            seen: 0,
        }
    }

    /// Waits until the console says `text`, after what was waited for before.
    pub fn expect(&mut self, text: &str) {
        let found = self.wait_for(text, PATIENCE);
        assert!(found, "no `{text}` within {PATIENCE:?}:\n{}", self.tail());
    }

    /// Types a line until the console answers with `text`: a getty that has just started may drop what comes too
    /// early.
    pub fn insist(&mut self, line: &str, text: &str) {
        let begun = Instant::now();
        let mut pause = Duration::from_secs(10);
        while begun.elapsed() < PATIENCE {
            self.type_line(line);
            if self.wait_for(text, pause) {
                return;
            }
            pause *= 2;
        }
        panic!("no `{text}` after `{line}`:\n{}", self.tail());
    }

    fn wait_for(&mut self, text: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut console = self.console.0.lock().unwrap();
        loop {
            if let Some(at) = console.text[self.seen..].find(text) {
                self.seen += at + text.len();
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !console.closed,
                "the emulator ended before `{text}`:\n{}",
                tail(&console.text)
            );
            if left.is_zero() {
                return false;
            }
            console = self.console.1.wait_timeout(console, left).unwrap().0;
        }
    }

    fn tail(&self) -> String {
        tail(&self.console.0.lock().unwrap().text)
    }

    fn type_line(&mut self, line: &str) {
        self.input.write_all(line.as_bytes()).unwrap();
        self.input.write_all(b"\n").unwrap();
        self.input.flush().unwrap();
    }

    /// Waits until the emulator ends by itself.
    pub fn expect_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "the emulator: {status}");
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the emulator did not end within {PATIENCE:?}"
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// All that the console has said.
    pub fn text(&self) -> String {
        self.console.0.lock().unwrap().text.clone()
    }
}

/// The last of what a console has said.
fn tail(text: &str) -> String {
    let start = text.char_indices().rev().nth(3000);
    text[start.map_or(0, |(at, _)| at)..].to_owned()
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
