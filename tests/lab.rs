//! The lab's API with the real agent: checks in, runs jobs, survives a lab that dies. The agent runs here under dash
//! and busybox; curl, awk and tar are the host's, or all of them busybox's.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{set_agent_paths, wait_for};
use hearth::job::{Collector, JobSettings, Loader, Merger, NumberedLine, Outcome, Trust, payload};
use hearth::lab::{Claim, JobState, Known, LabStore, List, OPENAPI, ROUTES, listing, router};
use hearth::netboot::http;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sha2::Digest;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
    fn confirm(&self, store: &LabStore, board: &str) {
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
fn serve(store: &Path, address: &str, boards: &[&str]) -> (Runtime, SocketAddr, Arc<LabStore>) {
    let runtime = Runtime::new().unwrap();
    let store = Arc::new(LabStore::open(store).unwrap());
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

fn finished(store: &LabStore, id: i64) -> bool {
    store.job(id).unwrap().unwrap().state == JobState::Finished
}

/// The programs of Debian's busybox, by their names. None of them is curl; wget is.
fn applets() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let listed = common::succeed(Command::new("busybox").arg("--list")).stdout;
    for applet in String::from_utf8(listed)
        .unwrap()
        .lines()
        .chain(["busybox"])
    {
        let path = directory.path().join(applet);
        if !path.exists() {
            symlink("/usr/bin/busybox", path).unwrap();
        }
    }
    directory
}

#[test]
fn the_agent_runs_a_job_under_dash_and_busybox_and_then_powers_off() {
    let applets = applets();
    let nothing_above_busybox = format!("env PATH={} busybox sh", applets.path().display());
    for shell in ["dash", "busybox sh", &nothing_above_busybox] {
        let dir = tempfile::tempdir().unwrap();
        let (_runtime, at, store) = serve(&dir.path().join("lab.sqlite"), "127.0.0.1:0", &["neo1"]);
        let id = store
            .submit("neo1", &job("    - lava-test-case one --shell true\n    - printf 'nul\\000here\\n'\n    - seq 20000\n    - lava-test-case two --result fail\n"))
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
        assert!(store.with_problem().unwrap().is_empty(), "{shell}");
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
fn an_unknown_board_gets_no_job_and_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (_runtime, at, store) = serve(&dir.path().join("lab.sqlite"), "127.0.0.1:0", &["neo1"]);
    let id = store.submit("unknown", &job("    - true\n")).unwrap();
    let _agent = Agent::start("dash", at, "unknown");
    wait_for("the unknown", || !store.with_problem().unwrap().is_empty());
    let unknown = &store.with_problem().unwrap()[0];
    // It has the MAC of a board that is known: another board's card is in it.
    assert!(
        unknown
            .problem
            .as_ref()
            .unwrap()
            .contains("another board's card"),
        "{unknown:?}"
    );
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(store.job(id).unwrap().unwrap().state, JobState::Submitted);
}

/// One request with curl: its status code and its body.
fn ask(at: SocketAddr, path: &str, token: &str, body: Option<&str>) -> (String, String) {
    let mut command = Command::new("curl");
    command.args(["-s", "-w", "\n%{http_code}", "-H"]);
    command.arg(format!("Authorization: Bearer {token}"));
    if let Some(body) = body {
        command.args(["-X", "POST", "--data-binary", body]);
    }
    let output = common::run(command.arg(format!("http://{at}/api/v1/{path}")));
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.into(), body.into())
}

/// Checks in as `board`, and gives the token and the rest of the answer.
fn check_in(at: SocketAddr, board: &str, mac: &str, image: &str) -> (String, serde_json::Value) {
    let claim = serde_json::json!({"board": board, "mac": mac, "image": image, "boot": "b", "secret": board});
    let (code, body) = ask(at, "checkin", "", Some(&claim.to_string()));
    assert_eq!(code, "200", "{body}");
    let mut answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    let token = answer["token"].take().as_str().unwrap().to_string();
    (token, answer)
}

/// Any host of the network may try out names, MACs, images and numbers of jobs.
#[test]
fn answers_tell_another_host_nothing_about_boards_and_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let (_runtime, at, store) = serve(
        &dir.path().join("lab.sqlite"),
        "127.0.0.1:0",
        &["busy", "held"],
    );
    // A board that works, with a twin that keeps talking; one that is held, and has a job waiting.
    let claim = |boot: &str| Claim {
        board: "busy".into(),
        mac: common::MAC.into(),
        image: "img-1".into(),
        boot: boot.into(),
        secret: boot.into(),
        ..Claim::default()
    };
    let running = store.submit("busy", b"secrets").unwrap();
    let hash = |secret: &str| hex::encode(sha2::Sha256::digest(secret.as_bytes()));
    store.confirm("busy", &hash("one")).unwrap();
    let one = store.check_in(&claim("one"), None).unwrap();
    assert!(store.take(&one).unwrap().is_some());
    store.hold("held", 3600.0).unwrap();
    let waiting = store.submit("held", b"secrets").unwrap();
    let mut answers = Vec::new();
    for (board, mac, image) in [
        ("nobody", "02:00:00:00:00:99", "img-1"),
        ("held", "02:00:00:00:00:99", "img-1"),
        ("held", common::MAC, "img-0"),
        ("held", common::MAC, "img-1"),
        ("busy", common::MAC, "img-1"),
    ] {
        let (token, answer) = check_in(at, board, mac, image);
        let mut said = vec![answer.to_string()];
        // Past the time that any boot may stay on for.
        std::thread::sleep(Duration::from_secs_f64(IDLE + 0.1));
        said.push(format!("{:?}", ask(at, "job?wait=0", &token, None)));
        for job in [running, waiting, 4711] {
            let (code, body) = ask(at, &format!("jobs/{job}/output?start=0"), &token, Some("x"));
            said.push(format!("{code} {}", body.replace(&job.to_string(), "N")));
            let (code, body) = ask(at, &format!("jobs/{job}/done"), &token, Some(""));
            said.push(format!("{code} {}", body.replace(&job.to_string(), "N")));
        }
        answers.push(said);
    }
    for said in &answers[1..] {
        assert_eq!(said, &answers[0]);
    }
    assert_eq!(store.output(running, 0).unwrap(), b"");
    // Whose console the lab follows is told.
    store.confirm("held", &hash("held")).unwrap();
    let (token, answer) = check_in(at, "held", common::MAC, "img-0");
    assert!(answer["problem"].is_string(), "{answer}");
    assert_eq!(ask(at, "job?wait=0", &token, None).0, "409");
}

/// 120 claims of 1 MB each took 1.4 GB of the store.
#[test]
fn a_claim_has_at_most_4_kib() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lab.sqlite");
    let (_runtime, at, store) = serve(&file, "127.0.0.1:0", &["neo1"]);
    let claim = |size: usize| {
        let head = r#"{"board":"neo1","boot":"b","model":""#;
        format!("{head}{}\"}}", "x".repeat(size - head.len() - 2))
    };
    let largest = claim(4096);
    assert_eq!(largest.len(), 4096);
    assert_eq!(ask(at, "checkin", "", Some(&largest)).0, "200");
    assert_eq!(ask(at, "checkin", "", Some(&claim(4097))).0, "413");
    let mb = dir.path().join("mb");
    fs::write(&mb, claim(1 << 20)).unwrap();
    for _ in 0..120 {
        let body = format!("@{}", mb.display());
        // Refused, or cut off before all of it was sent.
        let (code, _) = ask(at, "checkin", "", Some(&body));
        assert!(code == "413" || code == "000", "{code}");
    }
    assert_eq!(store.with_problem().unwrap().len(), 1);
    let size: u64 = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("lab.sqlite")
        })
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(size < 1 << 20, "the store has {size} bytes");
}

/// The answer to `GET /` for a peer at this address.
fn list_for(peer: &str, token: &str) -> String {
    let runtime = Runtime::new().unwrap();
    let list: List = Arc::new(|| Ok(br#"{"boards":["neo1"]}"#.to_vec()));
    let routes = listing(list, "192.168.7.1".parse().unwrap(), "right");
    let peer = SocketAddr::new(peer.parse().unwrap(), 40_000);
    runtime.block_on(async move {
        let (mut here, there) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(http::serve_connection(there, peer, routes));
        let request = format!(
            "GET / HTTP/1.1\r\nHost: lab\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        here.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        here.read_to_string(&mut answer).await.unwrap();
        served.await.unwrap().unwrap();
        answer
    })
}

#[test]
fn the_list_of_boards_is_for_the_labs_own_host_and_the_operator() {
    for (peer, token) in [
        ("127.0.0.1", ""),
        ("192.168.7.1", ""),
        ("::ffff:192.168.7.1", ""),
        ("192.168.7.9", "right"),
    ] {
        let answer = list_for(peer, token);
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("neo1"),
            "{peer}: {answer}"
        );
    }
    for (peer, token) in [
        ("192.168.7.9", ""),
        ("192.168.7.9", "wrong"),
        ("10.0.0.1", "righ"),
    ] {
        let answer = list_for(peer, token);
        assert!(
            answer.starts_with("HTTP/1.1 403") && !answer.contains("neo1"),
            "{peer}: {answer}"
        );
    }
    // The token is the store's own, and lasts.
    let dir = tempfile::tempdir().unwrap();
    let token = |name: &str| {
        LabStore::open(&dir.path().join(name))
            .unwrap()
            .operator_token()
            .unwrap()
    };
    assert_eq!(token("a"), token("a"));
    assert_ne!(token("a"), token("b"));
}

#[test]
fn the_api_does_what_its_description_says() {
    let dir = tempfile::tempdir().unwrap();
    let (_runtime, at, _store) = serve(&dir.path().join("lab.sqlite"), "127.0.0.1:0", &["neo1"]);
    let spec: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    // Those for people are served by a lab with a queue: see tests/queue.
    let paths = spec["paths"].as_object().unwrap().iter();
    for (path, methods) in paths.filter(|(path, _)| !ROUTES.contains(&path.as_str())) {
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
