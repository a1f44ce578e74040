//! Owns how the command line finds a lab, and who it says is calling.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hearth::error::Fault;
use hearth::input;
use hearth::lab::client::Client;
use hearth::recipe::{LabSettings, LoadedLab, Ports};

/// Which lab
#[derive(Debug, Clone, Args)]
pub struct LabArguments {
    /// The lab's address [default: $HEARTH_LAB_URL, else the lab file's]
    #[arg(long, value_name = "URL")]
    lab_url: Option<String>,
    /// A file with the token for a lab on another host
    ///
    /// [default: $HEARTH_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
}

impl LabArguments {
    /// The lab that is meant, whether it answers or not.
    pub fn client(&self) -> Result<Client> {
        let url = match (&self.lab_url, env::var("HEARTH_LAB_URL")) {
            (Some(url), _) => url.clone(),
            (None, Ok(url)) if !url.is_empty() => url,
            _ => self.of_file()?,
        };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Fault::input(format!("`{url}` is not the address of a lab"))
                .remedy("write it as http://HOST:8420")
                .into());
        }
        let given = self.token_file.clone();
        let given = given.or_else(|| env::var_os("HEARTH_TOKEN_FILE").map(PathBuf::from));
        let token = given.as_deref().map(token).transpose()?;
        Ok(Client::new(&url, &user(), token))
    }

    fn of_file(&self) -> Result<String> {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, Ports::default().http));
        let found = LoadedLab::find(self.lab.as_deref())?;
        let address = found.map_or(here, |lab| lab.settings.http());
        Ok(format!("http://{address}"))
    }
}

/// The lab of a lab file, if it runs now and is the one of this file.
pub fn running(settings: &LabSettings) -> Option<Client> {
    let client = Client::new(&format!("http://{}", settings.http()), &user(), None);
    let lab = client.probe()?;
    (lab.name == settings.name).then_some(client)
}

fn token(path: &Path) -> Result<String> {
    let text = input::read_text(path)
        .with_context(|| format!("cannot read the token {}", path.display()))?;
    Ok(text.trim().to_string())
}

/// Who calls, by name.
fn user() -> String {
    let known = nix::unistd::User::from_uid(nix::unistd::getuid());
    known
        .ok()
        .flatten()
        .map_or_else(|| "unknown".into(), |user| user.name)
}
