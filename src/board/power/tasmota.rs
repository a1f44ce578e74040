//! Tasmota's HTTP interface: `/cm?cmnd=Power2%20On` answers `{"POWER2":"ON"}`, and `Power2` alone
//! says the state. Source: "Commands", "With web requests", of Tasmota's documentation.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use ureq::Agent;

use super::switch::Power;
use crate::error::Fault;
use crate::sanitise;

/// For one request, from looking up the name to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer to `Power` has some 20 bytes; rules on the device may add more.
const LARGEST_ANSWER: u64 = 16 << 10;
const LARGEST_PASSWORD_FILE: u64 = 4 << 10;
/// How much of an answer that is not understood is shown, in characters.
const SHOWN: usize = 120;
/// The user that Tasmota itself has.
const ADMIN: &str = "admin";

pub(super) struct Tasmota {
    url: String,
    relay: Option<u8>,
    login: Option<Login>,
    agent: Agent,
}

struct Login {
    user: String,
    password: String,
}

impl Tasmota {
    pub(super) fn open(
        url: &str,
        relay: Option<u8>,
        user: Option<&str>,
        password_file: Option<&Path>,
    ) -> Result<Self> {
        let login = password_file
            .map(|path| -> Result<Login> {
                Ok(Login {
                    user: user.unwrap_or(ADMIN).to_string(),
                    password: password(path)?,
                })
            })
            .transpose()?;
        Ok(Tasmota {
            url: url.trim_end_matches('/').to_string(),
            relay,
            login,
            agent: agent(TIMEOUT),
        })
    }

    /// Switches, and asks whether the relay followed: an interlock, a pulse time or a rule on the
    /// device may have switched it back.
    fn set(&self, on: bool) -> Result<()> {
        let word = if on { "On" } else { "Off" };
        self.ask(Some(word))?;
        if self.ask(None)? == on {
            return Ok(());
        }
        let state = if on { "off" } else { "on" };
        Err(Fault::infrastructure(format!(
            "{} did not switch {}: it is still {state}",
            self.name(),
            word.to_lowercase()
        ))
        .remedy("look at Interlock, PulseTime, PowerLock and the rules in the device's console")
        .into())
    }

    /// Sends the command `Power`, with a word or as a question; returns the relay's state.
    fn ask(&self, word: Option<&str>) -> Result<bool> {
        let mut command = String::from("Power");
        if let Some(relay) = self.relay {
            command += &relay.to_string();
        }
        if let Some(word) = word {
            command = format!("{command} {word}");
        }
        let answer = self.get(&command)?;
        let answer: Map<String, Value> =
            serde_json::from_str(&answer).map_err(|_| self.not_understood(&answer))?;
        if let Some(warning) = answer.get("WARNING") {
            return Err(self.warning(&warning.to_string()).into());
        }
        let state = self
            .keys()
            .iter()
            .find_map(|key| answer.get(key))
            .ok_or_else(|| self.not_understood(&Value::Object(answer.clone()).to_string()))?;
        match state.as_str().map(str::to_ascii_uppercase).as_deref() {
            Some("ON") => Ok(true),
            Some("OFF") => Ok(false),
            _ => Err(self
                .not_understood(&state.to_string())
                .remedy("set the device's StateText1 to OFF and StateText2 to ON")
                .into()),
        }
    }

    /// The keys under which the relay's state may be: a device with one relay leaves the number of the
    /// first one out, unless its SetOption26 is set.
    fn keys(&self) -> Vec<String> {
        match self.relay {
            None | Some(1) => vec!["POWER".into(), "POWER1".into()],
            Some(relay) => vec![format!("POWER{relay}")],
        }
    }

    fn get(&self, command: &str) -> Result<String> {
        let mut request = self.agent.get(format!("{}/cm", self.url));
        if let Some(login) = &self.login {
            request = request
                .query("user", &login.user)
                .query("password", &login.password);
        }
        let mut response = request
            .query("cmnd", command)
            .call()
            .map_err(|error| self.unreachable(&error))?;
        let text = response
            .body_mut()
            .with_config()
            .limit(LARGEST_ANSWER)
            .lossy_utf8(true)
            .read_to_string()
            .map_err(|error| self.unreachable(&error))?;
        match response.status().as_u16() {
            200 => Ok(text),
            401 => Err(self.unauthorised().into()),
            status => Err(Fault::infrastructure(format!(
                "{} answered `{command}` with HTTP status {status}",
                self.name()
            ))
            .remedy("is this the address of a device with Tasmota, and is its SetOption128 1?")
            .into()),
        }
    }

    /// The device and its relay, for messages.
    fn name(&self) -> String {
        match self.relay {
            Some(relay) => format!("relay {relay} of the Tasmota device at {}", self.url),
            None => format!("the Tasmota device at {}", self.url),
        }
    }

    /// ureq's own text is left out where it may quote the request, which has the password.
    fn unreachable(&self, error: &ureq::Error) -> Fault {
        let why = match error {
            ureq::Error::Timeout(_) => format!("no answer within {} s", self.seconds()),
            ureq::Error::BodyExceedsLimit(limit) => {
                format!("its answer is longer than {limit} bytes")
            }
            ureq::Error::HostNotFound => "there is no host of this name".into(),
            ureq::Error::Io(error) => error.to_string(),
            _ => "it does not speak HTTP".into(),
        };
        Fault::infrastructure(format!("cannot talk to {}: {why}", self.name()))
    }

    fn seconds(&self) -> f32 {
        let timeout = self.agent.config().timeouts().global;
        timeout.unwrap_or_default().as_secs_f32()
    }

    /// Before 8.2.3, a wrong password was a warning with status 200; the text may be translated.
    fn warning(&self, text: &str) -> Fault {
        if text.contains("user") && text.contains("password") {
            return self.unauthorised();
        }
        self.not_understood(text)
    }

    fn unauthorised(&self) -> Fault {
        let name = self.name();
        match &self.login {
            Some(login) => Fault::infrastructure(format!(
                "{name} refused the password of the user {}",
                login.user
            ))
            .remedy("put the device's web password into the first line of `password-file`"),
            None => Fault::infrastructure(format!("{name} wants a password"))
                .remedy("add `password-file = \"/…\"` to the board's power in the lab file"),
        }
    }

    fn not_understood(&self, answer: &str) -> Fault {
        let answer = match &self.login {
            Some(login) => answer.replace(&login.password, "***"),
            None => answer.to_string(),
        };
        let shown: String = answer.trim().chars().take(SHOWN).collect();
        Fault::infrastructure(format!(
            "{} answered `{}`, not with the state of a relay",
            self.name(),
            sanitise::line(&shown)
        ))
        .remedy("does the device have this relay? `relay` counts from 1")
    }
}

impl Power for Tasmota {
    fn on(&mut self) -> Result<()> {
        self.set(true)
    }

    fn off(&mut self) -> Result<()> {
        self.set(false)
    }

    fn is_on(&mut self) -> Result<Option<bool>> {
        self.ask(None).map(Some)
    }
}

/// The device is in the lab's own network: a proxy must not see the password. It never redirects, but
/// its captive portal does.
fn agent(timeout: Duration) -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .build();
    Agent::new_with_config(config)
}

/// The first line of a file that other users cannot read.
fn password(path: &Path) -> Result<String> {
    let failed = || format!("cannot read the password file {}", path.display());
    let metadata = fs::metadata(path).with_context(failed)?;
    if !metadata.is_file() {
        let wrong = format!("the password file {} is not a file", path.display());
        return Err(Fault::input(wrong).into());
    }
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(Fault::input(format!(
            "every user can use the password file {}",
            path.display()
        ))
        .remedy(format!("chmod o= {}", path.display()))
        .into());
    }
    let mut text = String::new();
    File::open(path)
        .with_context(failed)?
        .take(LARGEST_PASSWORD_FILE)
        .read_to_string(&mut text)
        .with_context(failed)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_string()),
        _ => Err(Fault::input(format!(
            "the first line of the password file {} is empty",
            path.display()
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::error::{Class, class_of, help_of};

    const UNAUTHORISED: &str = r#"{"WARNING":"Need user=<username>&password=<password>"}"#;

    /// A device as Tasmota 14 answers: what it does with a command is in [`Device::answer`].
    #[derive(Clone, Default)]
    struct Device {
        relays: Vec<bool>,
        password: Option<&'static str>,
        /// The status of an answer to a wrong password: 401, before 8.2.3 200.
        refusal: u16,
        /// SetOption26: the first of one relay has a number too.
        numbered: bool,
        /// PowerLock: commands are answered, and the relays stay as they are.
        locked: bool,
    }

    impl Device {
        fn with(relays: &[bool]) -> Self {
            Device {
                relays: relays.to_vec(),
                refusal: 401,
                ..Device::default()
            }
        }

        /// The status and the body for a request's path and query.
        fn answer(&mut self, target: &str) -> (u16, String) {
            let query = target.strip_prefix("/cm?").expect(target);
            let value = |key: &str| {
                let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                pairs.find_map(|(name, value)| (name == key).then(|| value.replace("%20", " ")))
            };
            let password = value("password");
            if self.password.is_some()
                && (value("user").as_deref() != Some("admin")
                    || password.as_deref() != self.password)
            {
                return (self.refusal, UNAUTHORISED.into());
            }
            let command = value("cmnd").unwrap();
            let (name, word) = command.split_once(' ').unwrap_or((&command, ""));
            let Some(number) = name.strip_prefix("Power") else {
                return (200, r#"{"Command":"Unknown"}"#.into());
            };
            let number: usize = number.parse().unwrap_or(1);
            let single = self.relays.len() == 1 && !self.numbered;
            let Some(relay) = self.relays.get_mut(number - 1) else {
                return (200, r#"{"Command":"Error"}"#.into());
            };
            let wanted = match word {
                "On" => true,
                "Off" => false,
                _ => *relay,
            };
            if !self.locked {
                *relay = wanted;
            }
            let key = if single {
                "POWER".to_string()
            } else {
                format!("POWER{number}")
            };
            let state = if wanted { "ON" } else { "OFF" };
            (200, format!("{{\"{key}\":\"{state}\"}}"))
        }

        /// Serves on loopback until the test ends; returns its address.
        fn serve(mut self) -> String {
            serve(move |client, target| {
                let (status, body) = self.answer(target);
                reply(client, status, "", &body);
            })
        }
    }

    /// Calls `answer` with each request's path and query.
    fn serve(mut answer: impl FnMut(&mut TcpStream, &str) + Send + 'static) -> String {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        thread::spawn(move || {
            for client in server.incoming() {
                let mut client = client.unwrap();
                let mut request = BufReader::new(client.try_clone().unwrap()).lines();
                let line = request.next().unwrap().unwrap();
                while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                let target = line.split(' ').nth(1).unwrap();
                answer(&mut client, target);
            }
        });
        url
    }

    fn reply(client: &mut TcpStream, status: u16, header: &str, body: &str) {
        let length = body.len();
        write!(
            client,
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{header}\r\n{body}"
        )
        .unwrap();
    }

    fn open(url: &str, relay: Option<u8>) -> Tasmota {
        Tasmota::open(url, relay, None, None).unwrap()
    }

    /// The sentence and the remedy of a failure of the infrastructure.
    fn failure<T: std::fmt::Debug>(result: Result<T>) -> String {
        let error = result.unwrap_err();
        assert_eq!(class_of(&error), Class::Infrastructure, "{error:#}");
        format!("{error:#}\n{}", help_of(&error).unwrap_or_default())
    }

    #[test]
    fn one_relay_is_switched_and_tells_its_state() {
        for numbered in [false, true] {
            let mut device = Device::with(&[false]);
            device.numbered = numbered;
            let url = device.serve();
            for relay in [None, Some(1)] {
                let mut power = open(&url, relay);
                power.on().unwrap();
                assert_eq!(power.is_on().unwrap(), Some(true));
                power.off().unwrap();
                assert_eq!(power.is_on().unwrap(), Some(false));
            }
        }
    }

    #[test]
    fn only_the_relay_that_is_meant_is_switched() {
        let url = Device::with(&[false, false, true]).serve();
        open(&url, Some(2)).on().unwrap();
        let states = [1, 2, 3].map(|relay| open(&url, Some(relay)).is_on().unwrap());
        assert_eq!(states, [Some(false), Some(true), Some(true)]);
        let told = failure(open(&url, Some(4)).on());
        assert!(told.contains("relay 4 of the Tasmota device at"), "{told}");
        assert!(told.contains(r#"answered `{"Command":"Error"}`"#), "{told}");
    }

    #[test]
    fn the_requests_are_those_of_the_documentation() {
        let (sender, requests) = std::sync::mpsc::channel();
        let url = serve(move |client, target| {
            sender.send(target.to_string()).unwrap();
            reply(client, 200, "", r#"{"POWER2":"ON"}"#);
        });
        open(&url, Some(2)).on().unwrap();
        let requests: Vec<String> = requests.try_iter().collect();
        assert_eq!(requests, ["/cm?cmnd=Power2%20On", "/cm?cmnd=Power2"]);
    }

    #[test]
    fn a_relay_that_stays_as_it_was_is_told() {
        let mut device = Device::with(&[true]);
        device.locked = true;
        let url = device.serve();
        open(&url, None).on().unwrap();
        let told = failure(open(&url, None).off());
        assert!(
            told.contains("did not switch off: it is still on"),
            "{told}"
        );
    }

    #[test]
    fn the_password_comes_from_a_file_and_never_appears() {
        const PASSWORD: &str = "j&o=k%e r#+ü";
        const WRONG: &str = "not-the-password";
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let write = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        };
        // Tasmota decodes what a URL encodes.
        let url = serve(|client, target| {
            let right = "user=admin&password=j%26o%3Dk%25e%20r%23%2B%C3%BC&cmnd=Power";
            match target.starts_with(&format!("/cm?{right}")) {
                true => reply(client, 200, "", r#"{"POWER":"ON"}"#),
                false => reply(client, 401, "", UNAUTHORISED),
            }
        });
        let with_file = || Tasmota::open(&url, None, None, Some(&file));
        write(&format!("{PASSWORD}\nsecond line\n"), 0o640);
        with_file().unwrap().on().unwrap();

        write(WRONG, 0o600);
        let told = failure(with_file().unwrap().on());
        assert!(
            told.contains("refused the password of the user admin"),
            "{told}"
        );
        assert!(!told.contains(WRONG), "{told}");
        let told = failure(open(&url, None).on());
        assert!(told.contains("wants a password"), "{told}");

        for (text, mode, expected) in [
            (PASSWORD, 0o644, "every user can use the password file"),
            ("\n", 0o600, "is empty"),
        ] {
            write(text, mode);
            let error = with_file().err().unwrap();
            assert_eq!(class_of(&error), Class::Input);
            assert!(error.to_string().contains(expected), "{error:#}");
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(class_of(&with_file().err().unwrap()), Class::Input);
    }

    #[test]
    fn a_wrong_password_is_known_by_either_status() {
        for refusal in [401, 200] {
            let mut device = Device::with(&[false]);
            (device.password, device.refusal) = (Some("joker"), refusal);
            let told = failure(open(&device.serve(), None).on());
            assert!(told.contains("wants a password"), "{told}");
        }
    }

    #[test]
    fn an_answer_that_quotes_the_password_is_shown_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "joker").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let url = serve(|client, target| {
            let body = format!("{}{target}\x1b[2J", " ".repeat(SHOWN - 20));
            reply(client, 200, "", &body);
        });
        let told = failure(Tasmota::open(&url, None, None, Some(&file)).unwrap().on());
        assert!(told.contains("password=***&cmnd=Power%20On"), "{told}");
        assert!(!told.contains("joker") && !told.contains('\x1b'), "{told}");
    }

    #[test]
    fn what_is_not_tasmota_is_told() {
        for (status, header, body, expected) in [
            (
                200,
                "",
                r#"{"Command":"Unknown"}"#,
                r#"answered `{"Command":"Unknown"}`"#,
            ),
            (200, "", "<html>", "answered `<html>`, not with the state"),
            (200, "", r#"{"POWER":"EIN"}"#, "set the device's StateText1"),
            (200, "", r#"{"POWER":1}"#, "set the device's StateText1"),
            (
                200,
                "",
                r#"{"POWER2":"ON"}"#,
                "not with the state of a relay",
            ),
            (404, "", "", "with HTTP status 404"),
            (
                302,
                "Location: http://127.0.0.1:1/\r\n",
                "",
                "with HTTP status 302",
            ),
        ] {
            let url = serve(move |client, _| reply(client, status, header, body));
            let told = failure(open(&url, None).is_on());
            assert!(told.contains(expected), "{told}\n  not: {expected}");
        }
    }

    #[test]
    fn an_endless_answer_and_silence_have_an_end() {
        let url = serve(|client, _| {
            let head = b"HTTP/1.1 200 OK\r\n\r\n";
            let chunk = [b' '; 4096];
            let _ = client.write_all(head);
            while client.write_all(&chunk).is_ok() {}
        });
        let told = failure(open(&url, None).is_on());
        assert!(
            told.contains("its answer is longer than 16384 bytes"),
            "{told}"
        );

        let url = serve(|client, _| {
            // A byte now and then is no answer either.
            let mut sent = client.write_all(b"HTTP/1.1 200 OK\r\nX: ");
            while sent.is_ok() {
                thread::sleep(Duration::from_millis(20));
                sent = client.write_all(b"x");
            }
        });
        let mut power = open(&url, None);
        power.agent = agent(Duration::from_millis(300));
        let told = failure(power.is_on());
        assert!(told.contains("no answer within 0.3 s"), "{told}");

        let told = failure(open("http://127.0.0.1:1", None).on());
        assert!(told.contains("Connection refused"), "{told}");
    }
}
