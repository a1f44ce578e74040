//! Owns which user and group ids the user namespace has. Never changes the host's users.
//!
//! See user_namespaces(7), newuidmap(1), subuid(5).

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, User};

use crate::error::Fault;

/// Ids that an image may use: 0 to 65535.
const IDS: u32 = 65536;

/// Gives the process `pid`, which has just unshared its user namespace, its ids. Runs in the parent user namespace.
///
/// Root gets the ids it has, unchanged. Another user becomes 0, and ids 1 to 65535 are the user's subordinate
/// ones, so that what the image calls root's is the user's own on disk.
///
/// # Errors
/// [`Fault::host`] where `newuidmap` or the subordinate ids are missing.
pub fn give(pid: u32) -> Result<()> {
    if Uid::effective().is_root() {
        for map in ["uid_map", "gid_map"] {
            let own = fs::read_to_string(format!("/proc/self/{map}"))?;
            fs::write(format!("/proc/{pid}/{map}"), identity(&own))
                .with_context(|| format!("cannot write /proc/{pid}/{map}"))?;
        }
        return Ok(());
    }
    let uid = Uid::current();
    let user = User::from_uid(uid).ok().flatten();
    // newgidmap(1) maps the group of the user database, not one that newgrp(1) gave.
    let gid = user.as_ref().map_or_else(Gid::current, |user| user.gid);
    let name = user.map_or_else(|| uid.to_string(), |user| user.name);
    newidmap("newuidmap", pid, &name, uid.as_raw(), "/etc/subuid")?;
    newidmap("newgidmap", pid, &name, gid.as_raw(), "/etc/subgid")
}

/// The map that gives each id of `map` (as in `/proc/self/uid_map`: inside, outside, count) itself.
fn identity(map: &str) -> String {
    map.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (inside, count) = (fields.next()?, fields.nth(1)?);
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

fn newidmap(program: &str, pid: u32, user: &str, own: u32, file: &str) -> Result<()> {
    let table = fs::read_to_string(Path::new(file)).unwrap_or_default();
    let start = subordinate(&table, user, &Uid::current().to_string())
        .ok_or_else(|| no_range(user, file, &table))?;
    let count = IDS - 1;
    let output = Command::new(program)
        .args([pid, 0, own, 1, 1, start, count].map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Fault::host(format!(
            "{program} refused to give {user} the ids {start} to {} of {file}: {}",
            start + count - 1,
            String::from_utf8_lossy(&output.stderr).trim()
        ))
        .remedy(format!(
            "check that {program} is setuid root, or reinstall the package uidmap"
        ))
        .into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Fault::host(format!(
            "{program} is missing, which hearth needs when it is not run by root"
        ))
        .remedy("install the package uidmap: apt-get install uidmap")
        .into()),
        Err(error) => Err(error).with_context(|| format!("cannot run {program}")),
    }
}

/// The first range in a subuid(5) table that is large enough for an image, and belongs to the user by name or number.
fn subordinate(table: &str, user: &str, uid: &str) -> Option<u32> {
    ranges(table)
        .find(|(owner, _, count)| (*owner == user || *owner == uid) && *count >= u64::from(IDS - 1))
        .and_then(|(_, start, _)| u32::try_from(start).ok())
}

fn ranges(table: &str) -> impl Iterator<Item = (&str, u64, u64)> {
    table.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        Some((
            owner,
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
        ))
    })
}

fn no_range(user: &str, file: &str, table: &str) -> anyhow::Error {
    let free = ranges(table)
        .map(|(_, start, count)| start.saturating_add(count))
        .fold(100_000, u64::max);
    let last = free + u64::from(IDS) - 1;
    Fault::host(format!(
        "{file} gives {user} no range of {IDS} subordinate ids"
    ))
    .remedy(format!(
        "as root, run: usermod --add-subuids {free}-{last} --add-subgids {free}-{last} {user}"
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::help_of;

    #[test]
    fn a_range_is_found_by_name_or_number_and_must_be_large_enough() {
        let table = "alice:100000:1000\nalice:200000:65536\n1001:300000:65536\n\nbad line\n";
        assert_eq!(subordinate(table, "alice", "1000"), Some(200_000));
        assert_eq!(subordinate(table, "bob", "1001"), Some(300_000));
        assert_eq!(subordinate(table, "carol", "1002"), None);
        let error = no_range("carol", "/etc/subuid", table);
        assert!(help_of(&error).unwrap().contains("365536-431071"));
    }

    #[test]
    fn root_keeps_the_ids_it_has() {
        assert_eq!(
            identity("         0          0 4294967295\n"),
            "0 0 4294967295\n"
        );
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
