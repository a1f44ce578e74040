//! pdudaemon's HTTP interface: `/power/control/{on|off|reboot}?hostname=H&port=N` or `?alias=A`.

use std::time::Duration;

use anyhow::Result;

use super::switch::Power;
use crate::error::Fault;

const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Pdudaemon {
    base: String,
    query: Vec<(&'static str, String)>,
}

impl Pdudaemon {
    pub(super) fn new(
        url: &str,
        hostname: Option<&str>,
        port: Option<&str>,
        alias: Option<&str>,
    ) -> Result<Self> {
        let query = match (alias, hostname, port) {
            (Some(alias), None, None) => vec![("alias", alias.to_string())],
            (None, Some(hostname), Some(port)) => vec![
                ("hostname", hostname.to_string()),
                ("port", port.to_string()),
            ],
            _ => {
                return Err(Fault::input(
                    "pdudaemon needs either `alias`, or `hostname` and `port`",
                )
                .into());
            }
        };
        Ok(Pdudaemon {
            base: url.trim_end_matches('/').to_string(),
            query,
        })
    }

    fn request(&self, verb: &str) -> Result<()> {
        let url = format!("{}/power/control/{verb}", self.base);
        let mut request = ureq::get(&url)
            .config()
            .timeout_global(Some(TIMEOUT))
            .build();
        for (key, value) in &self.query {
            request = request.query(*key, value);
        }
        request.call().map_err(|error| {
            let place = &self.query[self.query.len() - 1].1;
            // It says 500 for a board that it does not know.
            let hint = match error {
                ureq::Error::StatusCode(500) => ": does pdudaemon know it?",
                _ => "",
            };
            Fault::infrastructure(format!(
                "pdudaemon at {} did not switch {place} {verb}: {error}{hint}",
                self.base
            ))
        })?;
        Ok(())
    }
}

impl Power for Pdudaemon {
    fn on(&mut self) -> Result<()> {
        self.request("on")
    }

    fn off(&mut self) -> Result<()> {
        self.request("off")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// Answers one request with `status` and gives the request line.
    fn daemon(status: &'static str) -> (String, thread::JoinHandle<String>) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let answered = thread::spawn(move || {
            let (mut client, _) = server.accept().unwrap();
            let mut buffer = [0; 2048];
            let count = client.read(&mut buffer).unwrap();
            write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8_lossy(&buffer[..count])
                .lines()
                .next()
                .unwrap()
                .to_string()
        });
        (url, answered)
    }

    #[test]
    fn it_asks_as_pdudaemon_wants_to_be_asked() {
        let (url, answered) = daemon("200 OK");
        Pdudaemon::new(&url, Some("pdu 1"), Some("3"), None)
            .unwrap()
            .on()
            .unwrap();
        assert_eq!(
            answered.join().unwrap(),
            "GET /power/control/on?hostname=pdu%201&port=3 HTTP/1.1"
        );
    }

    #[test]
    fn an_unknown_board_is_infrastructure() {
        let (url, _answered) = daemon("500 Internal Server Error");
        let error = Pdudaemon::new(&url, None, None, Some("neo1"))
            .unwrap()
            .off()
            .unwrap_err();
        assert_eq!(
            crate::error::class_of(&error),
            crate::error::Class::Infrastructure
        );
        assert!(
            error.to_string().contains("does pdudaemon know it"),
            "{error}"
        );
    }
}
