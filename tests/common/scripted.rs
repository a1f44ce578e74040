//! Owns boards that a script plays on a console, each in a lab of its own; the agent is the real one.
//! Never emulates a board: that is `emulator`.

use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Process, spawn};
use super::tarball::{dir, tar};
use super::{MAC, agent, interfaces, repository, set_agent_paths, wait_for};

/// What every board's script may use. `power` is a file in the working directory; the script ends when it is gone.
const PRELUDE: &str = r#"
# A run that was killed has left it on.
while [ -e power ]; do sleep 0.05; done
touch ready
until [ -e power ]; do sleep 0.05; done
( while [ -e power ]; do sleep 0.1; done; kill -9 -$$ ) >/dev/null 2>&1 &
uboot() { echo; echo 'U-Boot 2025.01 (Apr 01 2025)'; echo "hearth: ${1:-fake1} boots ${2:-$IMAGE} from $LAB"; }
linux() { echo '[    0.000000] Linux version 6.12.0 (debian)'; }
systemd() { echo '[    1.000000] systemd[1]: systemd 257 running in system mode (+X)'; }
# agent [NAME [IMAGE]]: the real one, in the place of this script.
command_line() { echo "hearth.board=${1:-fake1} hearth.lab=http://$LAB:8420 hearth.image=${2:-$IMAGE}" >cmdline; }
agent() { command_line "$@"; exec sh "$AGENT"; }
boot() { uboot; linux; systemd; agent; }
"#;

pub struct Board {
    dir: TempDir,
    pub image: String,
    address: Ipv4Addr,
}

/// How a run ended, and what it left behind.
pub struct Run {
    pub code: i32,
    pub said: String,
    pub report: Value,
    pub directory: PathBuf,
}

impl Board {
    /// A board whose console shows what `script` prints. It runs in the directory of the lab, in which `power`
    /// is a file while the board has power.
    pub fn new(script: &str) -> Board {
        Board::with(script, "")
    }

    /// The same with further lines for the board's entry in the lab file.
    pub fn with(script: &str, entry: &str) -> Board {
        let dir = tempfile::tempdir().unwrap();
        let image = build(&dir.path().join("out/img"));
        let board = Board {
            dir,
            image,
            address: address(),
        };
        interfaces(board.dir.path());
        fs::write(board.path("board.sh"), format!("{PRELUDE}\n{script}\n")).unwrap();
        board.write_lab(
            "{ driver = 'command', run = ['setsid', 'sh', 'board.sh'] }",
            // The script may start late on a busy machine: it must have seen the power off before it is on.
            "{ driver = 'command', off = ['rm', '-f', 'power'], on = ['sh', '-c', \
             'for i in $(seq 200); do [ -e ready ] && break; sleep 0.05; done; rm -f ready; touch power'] }",
            entry,
        );
        board
    }

    /// Writes the lab file with other ways to the board's console and power.
    pub fn write_lab(&self, console: &str, power: &str, entry: &str) {
        let text = format!(
            "[lab]\nname = 'faults'\naddress = '{}'\nrecipe = 'img'\nidle = 1\n\
             ports = {{ tftp = 6969, nfs = 20049, mount = 20049, portmap = 0, http = 8420 }}\n\
             [[board]]\nname = 'fake1'\ntype = 'qemu-virt-arm'\nmac = '{MAC}'\n\
             console = {console}\npower = {power}\nretries = {RETRIES}\n{entry}\n",
            self.address
        );
        fs::write(self.path("lab.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn has_power(&self) -> bool {
        self.path("power").exists()
    }

    /// hearth in this lab.
    pub fn hearth(&self) -> Command {
        let mut command = super::hearth();
        self.prepare(&mut command);
        command
    }

    /// The agent, for a board that somebody else has switched on.
    pub fn agent(&self) -> Command {
        let mut command = Command::new("sh");
        command.arg(agent());
        self.prepare(&mut command);
        command
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// `hearth serve`, when it answers.
    pub fn serve(&self) -> Process {
        let child = spawn(self.hearth().args(["serve", "--lab", "lab.toml"]));
        wait_for("the lab", || {
            std::net::TcpStream::connect((self.address, 8420)).is_ok()
        });
        child
    }

    fn prepare(&self, command: &mut Command) {
        set_agent_paths(command, self.dir.path());
        command
            .current_dir(self.dir.path())
            .env("HEARTH_STATE", self.path("state"))
            .env("HEARTH_DATA", repository())
            .env("IMAGE", &self.image)
            .env("LAB", self.address.to_string())
            .env("AGENT", agent())
            .env("HEARTH_CONSOLE", "/dev/stdout")
            .env("HEARTH_POWEROFF", "echo reboot: Power down");
    }

    /// Writes a test definition with these steps, and gives the command that runs it on the board.
    pub fn command(&self, steps: &str) -> Command {
        let steps: String = steps
            .lines()
            .map(|line| format!("    - |\n      {line}\n"))
            .collect();
        fs::write(
            self.path("t.yaml"),
            format!("metadata: {{format: Lava-Test Test Definition 1.0, name: t}}\nrun:\n  steps:\n{steps}"),
        )
        .unwrap();
        let mut command = self.hearth();
        command.args([
            "test", "fake1", "t.yaml", "--image", "out/img", "-o", "report",
        ]);
        command
    }

    /// Runs a definition with these steps, a line each, to its end; the board has no power then.
    pub fn test(&self, steps: &str) -> Run {
        self.run(&mut self.command(steps))
    }

    pub fn run(&self, command: &mut Command) -> Run {
        self.ended(super::run(command))
    }

    pub fn ended(&self, output: Output) -> Run {
        assert!(!self.has_power(), "the board was left on");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        let report = fs::read_to_string(self.path("report/report.json")).unwrap_or_default();
        Run {
            code: output.status.code().unwrap_or(-1),
            said,
            report: serde_json::from_str(&report).unwrap_or_default(),
            directory: self.path("report"),
        }
    }
}

/// A failed boot is not tried again, so that a test sees one attempt.
const RETRIES: &str = "{ power = 0, bootloader = 0, kernel = 0, userspace = 0, checked-in = 0 }";

impl Run {
    /// Asserts that the run failed for this reason: exit code, class, stage, and a part of the message.
    #[track_caller]
    pub fn failed(&self, code: i32, class: &str, stage: &str, message: &str) {
        let failure = self.failure();
        assert_eq!(
            (failure["class"].as_str(), failure["stage"].as_str()),
            (Some(class), Some(stage)),
            "{}",
            self.said
        );
        let said = failure["message"].as_str().unwrap();
        assert!(said.contains(message), "{message:?} is not in: {said}");
        assert!(self.said.contains(&format!("{class} failure in {stage}: ")));
        assert_eq!(self.code, code, "{}", self.said);
    }

    #[track_caller]
    pub fn passed(&self) {
        assert_eq!(self.code, 0, "{}", self.said);
        assert!(self.failure().is_null());
    }

    /// The last attempt's.
    pub fn failure(&self) -> &Value {
        let attempts = self.report["attempts"]
            .as_array()
            .unwrap_or_else(|| panic!("there is no report: {}", self.said));
        &attempts[attempts.len() - 1]["failure"]
    }

    /// `id=outcome` of every case.
    pub fn cases(&self) -> Vec<String> {
        self.report["suites"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|suite| suite["cases"].as_array().unwrap())
            .map(|case| {
                format!(
                    "{}={}",
                    case["id"].as_str().unwrap(),
                    case["outcome"].as_str().unwrap()
                )
            })
            .collect()
    }
}

/// Whether a file that may not be there yet has this text in it.
pub fn shows(file: &Path, text: &str) -> bool {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(file) {
        file.read_to_end(&mut bytes).unwrap();
    }
    String::from_utf8_lossy(&bytes).contains(text)
}

/// A build whose image is an empty root directory. Gives the image's id.
fn build(directory: &Path) -> String {
    use sha2::{Digest, Sha256};
    fs::create_dir_all(directory).unwrap();
    let rootfs = tar(&[dir("./", 0o755).mtime(0)]);
    let hash = hex::encode(Sha256::digest(&rootfs));
    let image = format!("img-{}", &hash[..12]);
    let manifest = serde_json::json!({
        "hearth": "0", "recipe": {"name": "img", "sha256": hash}, "lock": {"sha256": hash}, "arch": "armhf",
        "epoch": 0, "kernel": null, "image": image,
        "artifacts": {"rootfs.tar": {"sha256": hash, "size": rootfs.len()}},
    });
    fs::write(directory.join("rootfs.tar"), rootfs).unwrap();
    fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
    image
}

/// An address of the loopback device that no other test uses.
fn address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    Ipv4Addr::new(
        127,
        high | 1,
        low,
        NEXT.fetch_add(1, Ordering::Relaxed) as u8,
    )
}
