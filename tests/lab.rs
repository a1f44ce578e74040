//! The lab's API with the real agent: checks in, runs jobs, survives a lab that dies. The agent runs here under dash
//! and busybox; curl, awk and tar are its own programs.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{set_agent_paths, wait_for};
use hearth::job::{Collector, JobSettings, Loader, Merger, NumberedLine, Outcome, Trust, payload};
use hearth::lab::{JobState, Known, OPENAPI, Store, router};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long, in seconds, a board stays on without a job.
const IDLE: f64 = 1.0;

struct Agent {
    child: Child,
    dir: TempDir,
}

impl Agent {
    fn start(shell: &str, lab: SocketAddr, board: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        common::interfaces(dir.path());
        Agent::start_in(dir, shell, lab, board)
    }

    /// The same in a directory whose `net` has the board's network interfaces.
    fn start_in(dir: TempDir, shell: &str, lab: SocketAddr, board: &str) -> Self {
        let path = |name: &str| dir.path().join(name);
        fs::write(
            path("cmdline"),
            format!("quiet hearth.board={board} hearth.lab=http://{lab} hearth.image=img-1\n"),
        )
        .unwrap();
        fs::write(path("console"), "").unwrap();
        let mut words = shell.split(' ');
        let mut command = Command::new(words.next().unwrap());
        set_agent_paths(&mut command, dir.path());
        let child = command
            .args(words)
            .arg(common::agent())
            .env("HEARTH_CONSOLE", path("console"))
            .env(
                "HEARTH_POWEROFF",
                format!("touch {}", path("off").display()),
            )
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Agent { child, dir }
    }

    /// Plays the lab that follows this board's console: waits for the hash that it shows.
    fn confirm(&self, store: &Store, board: &str) {
        let mut hash = None;
        wait_for("the hash on the console", || {
            let console = self.console();
            hash = console
                .lines()
                .find_map(|line| line.strip_prefix("hearth: check-in "))
                .filter(|hash| hash.len() == 64)
                .map(String::from);
            hash.is_some()
        });
        store.confirm(board, &hash.unwrap()).unwrap();
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // With what it has started.
        let _ = killpg(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = self.child.wait();
    }
}

/// Serves the lab until the runtime is dropped, as a killed lab would stop.
fn serve(store: &Path, address: &str, boards: &[&str]) -> (Runtime, SocketAddr, Arc<Store>) {
    let runtime = Runtime::new().unwrap();
    let store = Arc::new(Store::open(store).unwrap());
    let known: Vec<Known> = boards
        .iter()
        .map(|name| Known {
            name: (*name).into(),
            mac: common::MAC.parse().unwrap(),
            images: vec!["img-1".into()],
        })
        .collect();
    let app = router(Arc::clone(&store), Arc::new(move || known.clone()), IDLE);
    let listener = TcpListener::bind(address).unwrap();
    let at = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        axum::serve(listener, app).await.unwrap();
    });
    (runtime, at, store)
}

fn job(steps: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.yaml");
    fs::write(
        &file,
        format!(
            "metadata: {{format: Lava-Test Test Definition 1.0, name: t}}\nrun:\n  steps:\n{steps}"
        ),
    )
    .unwrap();
    let mut loader = Loader::default();
    let loaded = loader.load(file.to_str().unwrap()).unwrap();
    let settings = JobSettings {
        parameters: Vec::new(),
        trust: Trust::Remote,
        board_type: "qemu-virt-arm".into(),
    };
    let mut tar = Vec::new();
    payload(&mut tar, &loaded, &mut loader, &settings).unwrap();
    tar
}

fn finished(store: &Store, id: i64) -> bool {
    store.job(id).unwrap().unwrap().state == JobState::Finished
}

#[test]
fn the_agent_runs_a_job_under_dash_and_busybox_and_then_powers_off() {
    for shell in ["dash", "busybox sh"] {
        let dir = tempfile::tempdir().unwrap();
        let (_runtime, at, store) = serve(&dir.path().join("lab.sqlite"), "127.0.0.1:0", &["neo1"]);
        let id = store
            .submit("neo1", &job("    - lava-test-case one --shell true\n    - seq 20000\n    - lava-test-case two --result fail\n"))
            .unwrap();
        let agent = Agent::start(shell, at, "neo1");
        agent.confirm(&store, "neo1");
        wait_for("the job's end", || finished(&store, id));
        let output = String::from_utf8(store.output(id, 0).unwrap()).unwrap();
        let mut collector = Collector::default();
        output.lines().for_each(|line| collector.line(line, 0.0));
        let (suites, problems) = collector.finish(0.0);
        assert_eq!(problems, Vec::<String>::new(), "{shell}");
        assert_eq!(suites[0].count(Outcome::Pass), 1, "{shell}: {output}");
        assert_eq!(suites[0].count(Outcome::Fail), 1, "{shell}");
        assert!(output.contains("\n20000\n"));

        // The console alone tells the same.
        let mut merger = Merger::default();
        let console = agent.console();
        let lines: Vec<String> = console
            .lines()
            .filter_map(|line| NumberedLine::from_console(line.as_bytes()))
            .flat_map(|line| merger.add(line))
            .collect();
        assert_eq!(lines, output.lines().collect::<Vec<_>>(), "{shell}");
        wait_for("the board to power off", || {
            agent.dir.path().join("off").exists()
        });
    }
}

/// udev renames the interfaces at about the time that the agent starts.
#[test]
fn an_interface_that_is_renamed_while_the_agent_looks_at_it_is_found_by_its_new_name() {
    for shell in ["dash", "busybox sh"] {
        let store = tempfile::tempdir().unwrap();
        let (_runtime, at, store) =
            serve(&store.path().join("lab.sqlite"), "127.0.0.1:0", &["neo1"]);
        let id = store.submit("neo1", &job("    - true\n")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // The old name is listed, and cannot be read any more.
        let net = dir.path().join("net");
        fs::create_dir_all(net.join("eth0")).unwrap();
        let agent = Agent::start_in(dir, shell, at, "neo1");
        std::thread::sleep(Duration::from_millis(1500));
        fs::create_dir(net.join("enp0s2")).unwrap();
        fs::write(net.join("enp0s2/address"), common::MAC).unwrap();
        agent.confirm(&store, "neo1");
        wait_for("the job's end", || finished(&store, id));
        assert!(store.strangers().unwrap().is_empty(), "{shell}");
    }
}

#[test]
fn a_lab_that_is_killed_and_restarted_loses_nothing_of_a_running_job() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lab.sqlite");
    let (runtime, at, store) = serve(&file, "127.0.0.1:0", &["neo1"]);
    let id = store
        .submit("neo1", &job("    - for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 1; done\n    - lava-test-case end --result pass\n"))
        .unwrap();
    let agent = Agent::start("dash", at, "neo1");
    agent.confirm(&store, "neo1");
    wait_for("the first line", || {
        String::from_utf8_lossy(&store.output(id, 0).unwrap()).contains("\nline 2\n")
    });
    runtime.shutdown_timeout(Duration::from_millis(10));
    drop(store);
    std::thread::sleep(Duration::from_secs(3));
    let (_runtime, _, store) = serve(&file, &at.to_string(), &["neo1"]);
    wait_for("the job's end", || finished(&store, id));
    let output = String::from_utf8(store.output(id, 0).unwrap()).unwrap();
    for line in 1..=8 {
        assert_eq!(
            output.matches(&format!("\nline {line}\n")).count(),
            1,
            "{output}"
        );
    }
    assert!(output.contains("TEST_CASE_ID=end RESULT=pass"));
}

#[test]
fn a_board_that_nobody_knows_gets_no_job_and_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (_runtime, at, store) = serve(&dir.path().join("lab.sqlite"), "127.0.0.1:0", &["neo1"]);
    let id = store.submit("stranger", &job("    - true\n")).unwrap();
    let _agent = Agent::start("dash", at, "stranger");
    wait_for("the stranger", || !store.strangers().unwrap().is_empty());
    let stranger = &store.strangers().unwrap()[0];
    // It has the MAC of a board that is known: somebody put another board's card in.
    assert!(
        stranger
            .problem
            .as_ref()
            .unwrap()
            .contains("another board's card"),
        "{stranger:?}"
    );
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(store.job(id).unwrap().unwrap().state, JobState::Submitted);
}

#[test]
fn the_api_does_what_its_description_says() {
    let dir = tempfile::tempdir().unwrap();
    let (_runtime, at, _store) = serve(&dir.path().join("lab.sqlite"), "127.0.0.1:0", &["neo1"]);
    let spec: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    for (path, methods) in spec["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let url = format!("http://{at}{}?start=0", path.replace("{id}", "1"));
            let output = common::succeed(
                Command::new("curl")
                    .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X"])
                    .arg(method.to_uppercase())
                    .arg(&url),
            );
            let code = String::from_utf8(output.stdout).unwrap();
            // Without a token or a body: refused as described, never 404 or 405.
            assert!(
                operation["responses"].get(&code).is_some(),
                "{method} {path} answered {code}"
            );
        }
    }
}
