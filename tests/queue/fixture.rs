//! Owns a lab of boards that scripts play, served by the real `hearth serve`; the boards' agents are the real ones.
//! Never looks into the lab's store but through its API.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use common::process::Process;
use common::tarball::{dir, tar};
use common::{agent, hearth, repository, run, sha256, succeed, wait_for};
use serde_json::Value;
use tempfile::TempDir;

/// What a board does when it is switched on: `power` is a file in its directory while it has power, `broken` one while it
/// is silent, `boots` counts how often it was switched on.
const BOARD: &str = r#"
cd "$1" || exit 1
while [ -e power ]; do sleep 0.05; done
touch ready
until [ -e power ]; do sleep 0.05; done
( while [ -e power ]; do sleep 0.1; done; kill -9 -$$ ) >/dev/null 2>&1 &
echo on >>boots
[ -e broken ] && exec sleep 600
echo; echo 'U-Boot 2025.01 (Apr 01 2025)'; echo "hearth: $1 boots $IMAGE from $LAB"
echo '[    0.000000] Linux version 6.12.0 (debian)'
echo '[    1.000000] systemd[1]: systemd 257 running in system mode (+X)'
echo "hearth.board=$1 hearth.lab=http://$LAB:8420 hearth.image=$IMAGE" >cmdline
export HEARTH_CMDLINE="$PWD/cmdline" HEARTH_WORK="$PWD/work" HEARTH_NET="$PWD/net"
exec sh "$AGENT"
"#;

/// A definition whose only case passes, after so many seconds.
fn definition(seconds: f64) -> String {
    format!(
        "metadata: {{format: Lava-Test Test Definition 1.0, name: short}}\n\
         run: {{steps: [\"lava-test-case one --result pass\", \"sleep {seconds}\"]}}\n"
    )
}

pub struct TestLab {
    dir: TempDir,
    address: Ipv4Addr,
    image: String,
}

impl TestLab {
    /// A lab with these boards; `settings` are further lines of its `[lab]`.
    pub fn new(boards: &[&str], settings: &str) -> TestLab {
        let dir = tempfile::tempdir().unwrap();
        let lab = TestLab {
            address: address(),
            image: build(&dir.path().join("out/img")),
            dir,
        };
        fs::write(lab.path("board.sh"), BOARD).unwrap();
        fs::write(lab.path("health.yaml"), definition(0.0)).unwrap();
        let mut text = format!(
            "[lab]\nname = 'queue'\naddress = '{}'\nrecipe = 'img'\n\
             ports = {{ tftp = 6969, nfs = 20049, mount = 20049, portmap = 0, http = 8420 }}\n{settings}\n",
            lab.address
        );
        for (number, board) in boards.iter().enumerate() {
            let mac = format!("52:54:00:12:35:{number:02x}");
            fs::create_dir_all(lab.path(board).join("net/eth0")).unwrap();
            fs::write(lab.path(board).join("net/eth0/address"), format!("{mac}\n")).unwrap();
            text.push_str(&format!(
                "[[board]]\nname = '{board}'\ntype = 'qemu-virt-arm'\nmac = '{mac}'\ntags = ['{board}']\n\
                 console = {{ driver = 'command', run = ['setsid', 'sh', 'board.sh', '{board}'] }}\n\
                 power = {{ driver = 'command', off = ['rm', '-f', '{board}/power'], on = ['sh', '-c', \
                 'cd {board} && for i in $(seq 200); do [ -e ready ] && break; sleep 0.05; done; rm -f ready; touch power'] }}\n\
                 timeouts = {{ power = 4, bootloader = 30, kernel = 30, userspace = 30, shutdown = 3 }}\n\
                 retries = {{ power = 0, bootloader = 0, kernel = 0, userspace = 0, checked-in = 0 }}\n"
            ));
        }
        fs::write(lab.path("lab.toml"), text).unwrap();
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn has_power(&self, board: &str) -> bool {
        self.path(board).join("power").exists()
    }

    /// How often the board was switched on.
    pub fn boots(&self, board: &str) -> usize {
        fs::read_to_string(self.path(board).join("boots"))
            .unwrap_or_default()
            .lines()
            .count()
    }

    /// Whether the board says nothing from its next boot on.
    pub fn set_broken(&self, board: &str, broken: bool) {
        let file = self.path(board).join("broken");
        match broken {
            true => fs::write(file, "").unwrap(),
            false => fs::remove_file(file).unwrap(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}:8420", self.address)
    }

    /// hearth in this lab.
    pub fn hearth(&self, arguments: &[&str]) -> Command {
        let mut command = hearth();
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("HEARTH_STATE", self.path("state"))
            .env("HEARTH_DATA", repository())
            .env("IMAGE", &self.image)
            .env("LAB", self.address.to_string())
            .env("AGENT", agent())
            .env("HEARTH_CONSOLE", "/dev/stdout")
            .env("HEARTH_POWEROFF", "echo reboot: Power down")
            .env_remove("HEARTH_LAB")
            .env_remove("HEARTH_LAB_URL");
        command
    }

    /// `hearth serve`, when it answers. Killed without warning when this is dropped.
    pub fn serve(&self) -> Process {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("serve.log"))
            .unwrap();
        let process = Process::start(self.hearth(&["serve", "-v"]).stderr(log));
        wait_for("the lab", || {
            TcpStream::connect((self.address, 8420)).is_ok()
        });
        process
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap()
    }

    /// Submits a job that takes so many seconds; gives its number.
    pub fn submit(&self, seconds: f64, arguments: &[&str]) -> i64 {
        let file = self.path(&format!("{seconds}.yaml"));
        fs::write(&file, definition(seconds)).unwrap();
        let mut command = self.hearth(&["submit"]);
        command.arg(&file).args(arguments);
        let output = succeed(&mut command);
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    /// What the API says below `/api/v1/`.
    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).1
    }

    /// A call of the API by curl, as somebody else's client: the status, and the answer.
    pub fn call(&self, method: &str, path: &str, body: Option<&str>) -> (u32, Value) {
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--max-time",
                "60",
                "--request",
                method,
                "--write-out",
                "\n%{http_code}",
            ])
            .args(["--header", "content-type: application/json"])
            .args(body.iter().flat_map(|body| ["--data", body]))
            .arg(format!("{}/api/v1/{path}", self.url()));
        let output = String::from_utf8(run(&mut command).stdout).unwrap();
        let (body, status) = output.rsplit_once('\n').unwrap();
        (
            status.parse().unwrap(),
            serde_json::from_str(body).unwrap_or_default(),
        )
    }

    pub fn job(&self, id: i64) -> Value {
        self.get(&format!("jobs/{id}"))
    }

    pub fn board(&self, name: &str) -> Value {
        self.get(&format!("boards/{name}"))
    }

    #[track_caller]
    pub fn wait_for_job(&self, id: i64, state: &str) {
        wait_for(&format!("job {id} to be {state}"), || {
            self.job(id)["state"] == state
        });
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the lab said:\n{}", self.said());
        }
        // Runs outlive a lab that is killed: they end when their boards have no power and their time is over.
        let jobs = self.path("state/jobs");
        for job in fs::read_dir(jobs).into_iter().flatten().flatten() {
            for attempt in fs::read_dir(job.path()).into_iter().flatten().flatten() {
                end_run(&attempt.path());
            }
        }
    }
}

/// Ends a run of this test's lab that goes on.
fn end_run(directory: &std::path::Path) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let held = fs::File::open(directory.join("lock"))
        .is_ok_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)));
    let pid = fs::read_to_string(directory.join("pid"))
        .ok()
        .and_then(|pid| pid.parse().ok());
    if let (true, Some(pid)) = (held, pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// A build whose image is an empty root directory. Gives the image's id.
fn build(directory: &std::path::Path) -> String {
    fs::create_dir_all(directory).unwrap();
    let rootfs = tar(&[dir("./", 0o755).mtime(0)]);
    let hash = sha256(&rootfs);
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
        high & 0xfe,
        low.max(1),
        NEXT.fetch_add(1, Ordering::Relaxed) as u8,
    )
}
