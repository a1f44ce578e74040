//! Owns how the command line finds a lab, and who it says is calling.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hearth::error::Fault;
use hearth::input;
use hearth::lab::client::Client;
use hearth::lab::network;
use hearth::lab::service::BoardStatus;
use hearth::recipe::{LabSettings, LoadedLab, Ports, board_or_type};

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

/// Tells a command which board its caller has reserved for it.
pub const RESERVED: &str = "HEARTH_RESERVED";

/// The running lab that has a board of this name, and the board as it is now. `None` if no lab runs, or the board is
/// reserved for this very command or its user: then it is used as if there were none.
pub fn lab_of(lab: Option<&Path>, board: &str) -> Result<Option<(Client, BoardStatus)>> {
    let is_reserved = env::var_os(RESERVED).is_some_and(|name| name == board);
    if network::is_inside() || is_reserved {
        return Ok(None);
    }
    let (lab, board) = board_or_type(lab, board)?;
    if lab.path.is_none() {
        return Ok(None);
    }
    let Some(client) = running(&lab.settings) else {
        return Ok(None);
    };
    let found = client
        .boards()?
        .into_iter()
        .find(|it| it.name == board.name);
    let free = found.filter(|it| it.holder.as_deref() != Some(&*user()));
    Ok(free.map(|board| (client, board)))
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
