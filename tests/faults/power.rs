//! Power that does not come, and switches that are simulated.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::pty::{OpenptyResult, openpty};
use nix::unistd::ttyname;

use common::scripted::Board;
use common::{fail, succeed, wait_for};

const CONSOLE: &str = "{ driver = 'command', run = ['setsid', 'sh', 'board.sh'] }";

#[test]
fn power_that_does_not_come_is_infrastructure() {
    let board = Board::new("boot");
    board.write_lab(
        CONSOLE,
        "{ driver = 'command', on = ['sh', '-c', 'echo relay is stuck >&2; exit 1'], off = ['true'] }",
        "",
    );
    board
        .test("true")
        .failed(4, "infrastructure", "power", "relay is stuck");
    board.write_lab(
        CONSOLE,
        "{ driver = 'usbpowercontrol', device = '/dev/no-such-switch' }",
        "",
    );
    // Nothing was switched yet: there is nothing to report on.
    fail(
        &mut board.command("true"),
        4,
        "the power switch /dev/no-such-switch is not there",
    );
    board.write_lab(CONSOLE, "{ driver = 'manual' }", "");
    board.test("true").failed(
        4,
        "infrastructure",
        "power",
        "nobody switched the board's power",
    );
}

#[test]
fn a_console_that_cannot_be_opened_is_infrastructure() {
    let board = Board::new("boot");
    board.write_lab(
        "{ driver = 'tcp', address = '127.0.0.1:1' }",
        "{ driver = 'command', on = ['sh', '-c', 'sleep 0.3; touch power'], off = ['rm', '-f', 'power'] }",
        "",
    );
    board.test("true").failed(
        4,
        "infrastructure",
        "power",
        "cannot reach the console at 127.0.0.1:1",
    );
}

#[test]
fn a_board_that_cannot_be_switched_off_is_told_with_its_results() {
    let board = Board::new("boot");
    board.write_lab(
        CONSOLE,
        "{ driver = 'command', on = ['sh', '-c', 'sleep 0.3; touch power'], off = ['sh', '-c', '[ -e power ] || exit 0; rm power; exit 1'] }",
        "",
    );
    let run = board.test("lava-test-case one --result pass");
    run.failed(4, "infrastructure", "done", "could not be switched off");
    assert_eq!(run.cases(), ["one=pass"]);
}

/// The LAVA@Home board's switch on a pty: reads digits, and gives the board power.
struct Switch {
    tty: OpenptyResult,
    device: PathBuf,
    digits: Arc<Mutex<Vec<u8>>>,
}

impl Switch {
    /// `power` is the file that stands for the board's power.
    fn new(power: &Path) -> Switch {
        let tty = openpty(None, None).unwrap();
        let device = ttyname(&tty.slave).unwrap();
        let digits = Arc::new(Mutex::new(Vec::new()));
        let (mut wire, seen, power) = (
            File::from(tty.master.try_clone().unwrap()),
            Arc::clone(&digits),
            power.to_path_buf(),
        );
        thread::spawn(move || {
            let mut digit = [0];
            while wire.read_exact(&mut digit).is_ok() {
                seen.lock().unwrap().push(digit[0]);
                if digit[0] & 1 == 1 {
                    // Long enough without power for the board to notice.
                    thread::sleep(Duration::from_millis(300));
                    fs::write(&power, "").unwrap();
                } else {
                    let _ = fs::remove_file(&power);
                }
            }
        });
        Switch {
            tty,
            device,
            digits,
        }
    }

    fn last(&self) -> Option<u8> {
        self.digits.lock().unwrap().last().copied()
    }
}

#[test]
fn usbpowercontrol_switches_a_boards_real_power_and_its_lights_tell_what_it_does() {
    let board = Board::new("boot");
    let switch = Switch::new(&board.path("power"));
    let driver = format!(
        "{{ driver = 'usbpowercontrol', device = '{}' }}",
        switch.device.display()
    );
    board.write_lab(CONSOLE, &driver, "");
    let run = board.run(&mut board.command("sleep 1\nlava-test-case one --result pass"));
    run.passed();
    let digits = String::from_utf8(switch.digits.lock().unwrap().clone()).unwrap();
    // Off, on, lights out, master, testing, off with the lights left as they are.
    assert_eq!(digits, "011376", "{}", run.said);

    for (words, digit) in [
        (&["on"][..], b'7'),
        (&["led", "3", "on"], b'?'),
        (&["led", "2", "off"], b';'),
        (&["off"], b':'),
        (&["cycle"], b';'),
        (&["off"], b':'),
    ] {
        let before = switch.digits.lock().unwrap().len();
        succeed(board.hearth().args(["power", "fake1"]).args(words));
        wait_for("the switch", || {
            switch.digits.lock().unwrap().len() > before && switch.last() == Some(digit)
        });
    }
    let status = succeed(board.hearth().args(["power", "fake1", "status"]));
    assert_eq!(status.stdout, b"fake1 is off\n");
    fail(
        board.hearth().args(["power", "fake1", "led", "4", "on"]),
        2,
        "there is no LED 4",
    );
    drop(switch.tty);
}

/// A Tasmota device with one relay, which stands for the board's power; returns its address.
fn tasmota(power: &Path, password: &'static str) -> String {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let power = power.to_path_buf();
    thread::spawn(move || {
        for client in server.incoming() {
            let mut client = client.unwrap();
            let mut buffer = [0; 2048];
            let count = client.read(&mut buffer).unwrap();
            let request = String::from_utf8_lossy(&buffer[..count]);
            let command = request
                .strip_prefix(&format!(
                    "GET /cm?user=admin&password={password}&cmnd=Power"
                ))
                .and_then(|rest| rest.split(" HTTP").next());
            match command {
                Some("%20On") => {
                    // Long enough without power for the board to notice.
                    thread::sleep(Duration::from_millis(300));
                    fs::write(&power, "").unwrap();
                }
                Some("%20Off") => drop(fs::remove_file(&power)),
                _ => {}
            }
            let body = match (command, power.exists()) {
                (None, _) => r#"{"WARNING":"Need user=<username>&password=<password>"}"#,
                (_, true) => r#"{"POWER":"ON"}"#,
                (_, false) => r#"{"POWER":"OFF"}"#,
            };
            let length = body.len();
            write!(
                client,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    url
}

#[test]
fn a_tasmota_relay_switches_a_boards_power_and_its_password_is_not_logged() {
    let board = Board::new("boot");
    let url = tasmota(&board.path("power"), "joker");
    let password = board.path("password");
    fs::write(&password, "joker\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let driver = format!(
        "{{ driver = 'tasmota', url = '{url}', password-file = '{}' }}",
        password.display()
    );
    board.write_lab(CONSOLE, &driver, "");
    let run = board.test("lava-test-case one --result pass");
    run.passed();
    assert!(!board.path("power").exists());

    for (action, said) in [
        ("on", ""),
        ("status", "fake1 is on\n"),
        ("off", ""),
        ("status", "fake1 is off\n"),
    ] {
        let done = succeed(board.hearth().args(["power", "fake1", action, "-vvv"]));
        assert_eq!(String::from_utf8_lossy(&done.stdout), said);
        let log = String::from_utf8_lossy(&done.stderr);
        assert!(log.contains("debug: GET"), "{log}");
        assert!(!log.contains("joker"), "{log}");
    }
    fs::write(&password, "batman\n").unwrap();
    let error = "refused the password of the user admin";
    fail(board.hearth().args(["power", "fake1", "on"]), 4, error);
    assert!(!board.path("power").exists());
}
