//! Measures the lab's API: what 500 boards that wait for jobs cost `hearth serve`, and how long jobs take to reach 50 boards
//! on a disk that needs 8 ms for each sync.
//!
//! The slow disk is made with strace, which holds each fsync, fdatasync and sync_file_range up for 8 ms and counts them.
//! Waits on loopback alone; takes a minute.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth::lab::{Known, LabStore, router};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;

const IDLE_BOARDS: usize = 500;
const SECONDS: u64 = 30;
const BOARDS: usize = 50;
/// A job's tar, in bytes.
const PAYLOAD: usize = 64 << 10;
/// Tells this program, run again under strace, that it is to hand out jobs.
const UNDER_STRACE: &str = "HEARTH_BENCH_HAND_OUT";
/// The file with the times at which the hand-out began and ended.
const WINDOW: &str = "window";
/// Linux' clock ticks per second in `/proc/PID/stat` (proc(5)): USER_HZ.
const TICKS: f64 = 100.0;

fn main() {
    let runtime = Runtime::new().expect("threads");
    if let Some(directory) = env::var_os(UNDER_STRACE) {
        runtime.block_on(hand_out(Path::new(&directory)));
        return;
    }
    runtime.block_on(idle());
    slow_disk();
}

/// A board's side of the API, as the agent in the image uses it: one connection for each call.
#[derive(Clone)]
struct Agent {
    lab: SocketAddr,
    board: String,
    token: String,
}

impl Agent {
    async fn check_in(lab: SocketAddr, board: &str) -> Agent {
        let mut agent = Agent {
            lab,
            board: board.into(),
            token: String::new(),
        };
        let claim = serde_json::json!({
            "board": board, "mac": mac(board).to_string(), "boot": board, "secret": secret(board),
        });
        let (status, body) = agent.call("POST", "checkin", &claim.to_string()).await;
        assert_eq!(status, 200, "{body}");
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        agent.token = answer["token"].as_str().expect("a token").into();
        agent
    }

    /// Waits for a job, as long as it takes.
    async fn wait(&self) -> Instant {
        loop {
            match self.call("GET", "job?wait=25", "").await.0 {
                200 => return Instant::now(),
                204 => {}
                status => panic!("{} got {status}", self.board),
            }
        }
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.lab).await.expect("the lab");
        let request = format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nHost: lab\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.token,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.expect("a status"), body.into())
    }
}

fn name(number: usize) -> String {
    format!("board{number}")
}

fn secret(board: &str) -> String {
    format!("secret of {board}")
}

fn mac(board: &str) -> hearth::recipe::Mac {
    let hash = Sha256::digest(board);
    hearth::recipe::Mac([2, hash[0], hash[1], hash[2], hash[3], hash[4]])
}

/// `hearth serve` with 500 boards that wait for jobs.
async fn idle() {
    let directory = tempfile::tempdir().expect("a directory");
    let (port, nfs) = (free_port(), free_port());
    let mut lab = format!(
        "[lab]\nname = 'bench'\naddress = '127.0.0.1'\nidle = 3600\n\
         ports = {{ tftp = {}, nfs = {nfs}, mount = {nfs}, portmap = 0, http = {port} }}\n",
        free_port()
    );
    for number in 0..IDLE_BOARDS {
        let board = name(number);
        lab += &format!(
            "[[board]]\nname = '{board}'\ntype = 'qemu-virt-arm'\nmac = '{}'\n",
            mac(&board)
        );
    }
    fs::write(directory.path().join("lab.toml"), lab).expect("the lab file");
    fs::create_dir(directory.path().join("out")).expect("a directory");
    let mut server = Server(
        Command::new(env!("CARGO_BIN_EXE_hearth"))
            .args(["-q", "serve", "--lab", "lab.toml"])
            .current_dir(directory.path())
            .env("HEARTH_STATE", directory.path().join("state"))
            .env("HEARTH_DATA", env!("CARGO_MANIFEST_DIR"))
            .spawn()
            .expect("hearth"),
    );
    let lab = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while TcpStream::connect(lab).await.is_err() {
        let ended = server.0.try_wait().expect("the process");
        assert!(ended.is_none(), "hearth serve ended");
        sleep(Duration::from_millis(50)).await;
    }
    // Ended when it is dropped, before the server is.
    let mut agents = JoinSet::new();
    for number in 0..IDLE_BOARDS {
        let agent = Agent::check_in(lab, &name(number)).await;
        agents.spawn(async move { agent.wait().await });
    }
    sleep(Duration::from_secs(5)).await;
    let before = (server.processor_time(), server.written());
    let begun = Instant::now();
    sleep(Duration::from_secs(SECONDS)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let used = server.processor_time() - before.0;
    println!(
        "{IDLE_BOARDS} boards that wait: {used:.2} s of the processor in {seconds:.0} s: {:.1} % of a core (at most 5), {:.0} kB/s written",
        100.0 * used / seconds,
        (server.written() - before.1) / seconds / 1000.0
    );
    agents.shutdown().await;
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A server that ends with the measurement.
struct Server(Child);

impl Server {
    /// Seconds of the processor, user and system, all threads (proc(5), `/proc/PID/stat`).
    fn processor_time(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("the process");
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .expect("a name")
            .1
            .split_whitespace()
            .collect();
        let ticks = |field: &str| field.parse::<f64>().expect("a number");
        (ticks(fields[11]) + ticks(fields[12])) / TICKS
    }

    /// Bytes given to write calls (proc(5), `/proc/PID/io`).
    fn written(&self) -> f64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.0.id())).expect("the process");
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        line.and_then(|number| number.parse().ok())
            .expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds since 1970, as strace gives them.
fn unix_time() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs_f64()
}

/// Runs this program again under strace.
fn slow_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("trace");
    let calls = "fsync,fdatasync,sync_file_range";
    let status = Command::new("strace")
        .args(["-f", "-ttt", "-qq", "--seccomp-bpf"])
        .args(["-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:delay_enter=8000"), "-o"])
        .arg(&trace)
        .arg(env::current_exe().expect("this program"))
        .env(UNDER_STRACE, directory.path())
        .stdin(Stdio::null())
        .status()
        .expect("strace: install the package strace");
    assert!(status.success(), "the hand-out failed");
    let trace = fs::read_to_string(trace).expect("the trace");
    let window = fs::read_to_string(directory.path().join(WINDOW)).expect("the times");
    let (begin, end) = window.split_once(' ').expect("two times");
    let number = |text: &str| text.parse::<f64>().expect("a time");
    let window = number(begin)..=number(end);
    let syncs = trace
        .lines()
        .filter(|line| line.contains("sync") && !line.contains("resumed"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .filter(|at| window.contains(at))
        .count();
    println!("  {syncs} syncs of 8 ms while they were handed out");
}

/// Jobs for 50 waiting boards, from another connection to the store than the server's, as `hearth test` has it.
async fn hand_out(directory: &Path) {
    let file: PathBuf = directory.join("state/lab.sqlite");
    let store = Arc::new(LabStore::open(&file).expect("the store"));
    let known: Vec<Known> = (0..BOARDS)
        .map(|number| Known {
            name: name(number),
            mac: mac(&name(number)),
            images: Vec::new(),
        })
        .collect();
    let app = router(store, Arc::new(move || known.clone()), 3600.0);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let lab = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });

    let other = LabStore::open(&file).expect("the store");
    let mut waiting = Vec::new();
    for number in 0..BOARDS {
        let board = name(number);
        let hash = hex::encode(Sha256::digest(secret(&board)));
        other.confirm(&board, &hash).expect("the store");
        let agent = Agent::check_in(lab, &board).await;
        waiting.push((board, tokio::spawn(async move { agent.wait().await })));
    }
    sleep(Duration::from_secs(1)).await;
    let payload = vec![b'x'; PAYLOAD];
    let begin = unix_time();
    let mut seconds = Vec::new();
    // One after another, as runs begin; and then wait for all.
    let submitted: Vec<Instant> = waiting
        .iter()
        .map(|(board, _)| {
            let at = Instant::now();
            other.submit(board, &payload).expect("the store");
            at
        })
        .collect();
    for ((_, taken), submitted) in waiting.into_iter().zip(submitted) {
        let taken = taken.await.expect("a job");
        seconds.push(taken.duration_since(submitted).as_secs_f64());
    }
    fs::write(directory.join(WINDOW), format!("{begin} {}", unix_time())).expect("the times");
    seconds.sort_by(f64::total_cmp);
    println!(
        "{BOARDS} jobs at once, 8 ms for each sync: from submission to the board {:.3} s median, {:.3} s worst (at most 0.3)",
        seconds[BOARDS / 2],
        seconds[BOARDS - 1]
    );
}
