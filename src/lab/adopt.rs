//! Owns the adoption of boards: those that checked in and that the lab does not know, and their entry in the lab file.
//! Never changes what the lab file has already.

use std::path::Path;

use anyhow::Result;

use super::store::{Boot, LabStore};
use crate::data;
use crate::error::Fault;
use crate::input;
use crate::output::write_atomically;
use crate::recipe::{LoadedLab, Mac, suggestion};
use crate::sanitise;

/// The last boot of each board that checked in with an Ethernet address that the lab does not know, newest first.
pub fn unknown_boards(store: &LabStore, lab: &LoadedLab) -> Result<Vec<Boot>> {
    let mut found: Vec<Boot> = Vec::new();
    for boot in store.with_problem()? {
        let Ok(mac) = boot.claim.mac.parse::<Mac>() else {
            continue;
        };
        let seen = found.iter().any(|other| other.claim.mac == boot.claim.mac);
        if !seen && lab.board_with_mac(mac).is_none() {
            found.push(boot);
        }
    }
    Ok(found)
}

/// The unknown board that a user means, by its MAC or by the name that it claims.
///
/// # Errors
/// If there is none, or several claim the name.
pub fn choose(unknown: Vec<Boot>, which: &str) -> Result<Boot> {
    let known: Vec<String> = unknown.iter().map(|boot| boot.claim.mac.clone()).collect();
    let mut chosen = unknown
        .into_iter()
        .filter(|boot| boot.claim.mac.eq_ignore_ascii_case(which) || boot.claim.board == which);
    match (chosen.next(), chosen.next()) {
        (Some(boot), None) => Ok(boot),
        (Some(_), Some(_)) => Err(Fault::input(format!(
            "several boards call themselves `{which}`"
        ))
        .remedy("name one by its MAC")
        .into()),
        (None, _) => {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            Err(
                Fault::input(format!("no board that the lab does not know is `{which}`"))
                    .remedy(suggestion(which, &known))
                    .into(),
            )
        }
    }
}

/// Adds the board to the end of the lab file, whose text before that stays as it is.
///
/// # Errors
/// If the file with the new entry would not be sound: the name or the type is wrong.
pub fn adopt(lab: &LoadedLab, boot: &Boot, name: &str, board_type: &str) -> Result<()> {
    let Some(path) = &lab.path else {
        return Err(Fault::input("there is no lab file to write the board to").into());
    };
    let text = extended(path, boot, name, board_type)?;
    let source = data::Source {
        path: path.clone(),
        text,
    };
    LoadedLab::from_source(&source, lab.types.clone())?;
    write_atomically(path, source.text.as_bytes())
}

fn extended(path: &Path, boot: &Boot, name: &str, board_type: &str) -> Result<String> {
    let mut text = input::read_text(path)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let quoted = |value: &str| toml::Value::String(value.into()).to_string();
    let claim = &boot.claim;
    text.push_str("\n[[board]]\n");
    for (key, value) in [("name", name), ("type", board_type), ("mac", &claim.mac)] {
        text.push_str(&format!("{key} = {}\n", quoted(value)));
    }
    for (what, value) in [("model", &claim.model), ("serial number", &claim.serial)] {
        if !value.is_empty() {
            text.push_str(&format!("# {what}: {}\n", sanitise::line(value)));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Claim;
    use crate::recipe::board_types;
    use std::fs;

    const LAB: &str = "[lab] # my desk\nname = 'desk'\naddress = '192.168.7.1'\n";

    fn claim(board: &str, last: u8) -> Claim {
        Claim {
            board: board.into(),
            mac: format!("02:00:00:00:00:{last:02x}"),
            model: "FriendlyARM \"NEO\"".into(),
            boot: format!("boot-{last}"),
            ..Claim::default()
        }
    }

    #[test]
    fn an_adopted_board_is_written_behind_what_the_lab_file_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        fs::write(&path, LAB).unwrap();
        let lab = LoadedLab::load(&path).unwrap();
        let store = LabStore::open(&dir.path().join("lab.sqlite")).unwrap();
        store
            .check_in(&claim("neo1", 1), Some("not known"))
            .unwrap();
        store
            .check_in(&claim("neo2", 2), Some("not known"))
            .unwrap();
        let found = unknown_boards(&store, &lab).unwrap();
        assert_eq!(found.len(), 2);
        assert!(choose(found.clone(), "neo3").is_err());
        let neo = choose(found, "02:00:00:00:00:01").unwrap();

        let wrong = adopt(&lab, &neo, "neo1", "nanopi").unwrap_err();
        assert!(
            wrong.to_string().contains("no board type `nanopi`"),
            "{wrong}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), LAB);

        adopt(&lab, &neo, "neo1", "nanopi-neo").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(LAB), "{text}");
        let lab =
            LoadedLab::from_source(&data::Source { path, text }, board_types().unwrap()).unwrap();
        assert_eq!(
            lab.board("neo1").unwrap().mac,
            neo.claim.mac.parse().unwrap()
        );
        let left = unknown_boards(&store, &lab).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].claim.board, "neo2");
    }
}
