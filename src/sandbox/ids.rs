//! Owns which user and group ids the user namespace has. Never changes the host's users.
//!
//! See user_namespaces(7), newuidmap(1), subuid(5).

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, User};

use crate::error::Fault;

/// Ids that an image may use: 0 to 65535. In hearth's own user namespace they are subordinate ids of the
/// caller's, whoever that is.
pub const IDS: u32 = 65536;
/// The caller's own id in hearth's user namespace, above those of images: files that it owns can be read and written
/// there, and it does not exist in the namespace of programs.
pub const CALLER: u32 = IDS;
/// Where root's range is looked for if `/etc/subuid` gives it none: above what user databases, systemd
/// (524288 to 1879048191) and 31-bit programs use, in steps of [`IDS`].
const UNUSED: u32 = 0x7000_0000;

/// Gives the process `pid`, which has just unshared its user namespace, its ids. Runs in the parent user namespace.
///
/// Ids 0 to 65535 are subordinate ones, [`CALLER`] is the caller. For root all other ids of the host follow, so that
/// hearth's own code reaches what it reached before.
///
/// # Errors
/// [`Fault::host`] where `newuidmap` or the subordinate ids are missing.
pub fn give(pid: u32) -> Result<()> {
    if Uid::effective().is_root() {
        for (map, file, users) in [
            ("uid_map", "/etc/subuid", "/etc/passwd"),
            ("gid_map", "/etc/subgid", "/etc/group"),
        ] {
            let own = own_ranges(map)?;
            let start = range_of_root(&own, file, users)?;
            fs::write(format!("/proc/{pid}/{map}"), all_ids(&own, start))
                .with_context(|| format!("cannot write /proc/{pid}/{map}"))?;
        }
        return Ok(());
    }
    let user = Account::caller();
    newidmap(
        "newuidmap",
        pid,
        &user.name,
        user.uid.as_raw(),
        "/etc/subuid",
    )?;
    newidmap(
        "newgidmap",
        pid,
        &user.name,
        user.gid.as_raw(),
        "/etc/subgid",
    )
}

/// Gives the process `pid`, which has just unshared a user namespace from hearth's, the ids of images and no others.
pub fn give_image_ids(pid: &str) -> Result<()> {
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), format!("0 0 {IDS}\n"))
            .with_context(|| format!("cannot write /proc/{pid}/{map}"))?;
    }
    Ok(())
}

/// The host's ids that own an image's files, as text: what was made with others must not be taken for the same.
///
/// # Errors
/// As `give` where the caller has none.
pub fn owners() -> Result<String> {
    if Uid::effective().is_root() {
        let uid = range_of_root(&own_ranges("uid_map")?, "/etc/subuid", "/etc/passwd")?;
        let gid = range_of_root(&own_ranges("gid_map")?, "/etc/subgid", "/etc/group")?;
        return Ok(format!("{uid}:{gid}"));
    }
    let user = Account::caller();
    let uid = range_of_user(&user.name, "/etc/subuid")?;
    let gid = range_of_user(&user.name, "/etc/subgid")?;
    Ok(format!("{uid}:{gid}"))
}

/// Makes a file that a step has made the caller's own, for hearth outside to link, date and remove.
///
/// # Errors
/// If it belongs to nobody that the namespace knows.
pub fn hand_over(file: &File) -> Result<()> {
    nix::unistd::fchown(
        file,
        Some(Uid::from_raw(CALLER)),
        Some(Gid::from_raw(CALLER)),
    )
    .context("cannot give the caller what was made")
}

struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    fn caller() -> Self {
        let uid = Uid::current();
        let user = User::from_uid(uid).ok().flatten();
        Account {
            uid,
            // newgidmap(1) maps the group of the user database, not one that newgrp(1) gave.
            gid: user.as_ref().map_or_else(Gid::current, |user| user.gid),
            name: user.map_or_else(|| uid.to_string(), |user| user.name),
        }
    }
}

/// First and count of each range of ids that there are in this user namespace, from `/proc/self/uid_map` or its like.
fn own_ranges(map: &str) -> Result<Vec<(u32, u32)>> {
    let path = format!("/proc/self/{map}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
        })
        .collect())
}

/// The first of root's subordinate ids: those of `file` (subuid(5)), else a range that neither `file` gives to anybody nor
/// `users` (passwd(5) or group(5)) has.
fn range_of_root(own: &[(u32, u32)], file: &str, users: &str) -> Result<u32> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    free_range(own, &read(file), &read(users)).ok_or_else(|| {
        Fault::host(format!(
            "this container has no {IDS} ids besides its users'"
        ))
        .remedy("give the container more ids, or run hearth outside it")
        .into()
    })
}

fn free_range(own: &[(u32, u32)], table: &str, users: &str) -> Option<u32> {
    let exists = |start: u32| {
        own.iter().any(|&(first, count)| {
            start >= first
                && u64::from(start) + u64::from(IDS) <= u64::from(first) + u64::from(count)
        })
    };
    if let Some(start) = subordinate(table, "root", "0").filter(|&start| start > 0 && exists(start))
    {
        return Some(start);
    }
    let is_free = |start: u32| {
        let (first, end) = (u64::from(start), u64::from(start) + u64::from(IDS));
        let given =
            ranges(table).any(|(_, from, count)| from < end && first < from.saturating_add(count));
        let taken = users
            .lines()
            .filter_map(|line| line.split(':').nth(2)?.parse::<u64>().ok())
            .any(|id| (first..end).contains(&id));
        !given && !taken
    };
    let places = (0..0x100).map(|step| UNUSED + step * IDS).chain(
        // A container with few ids: the last ones.
        own.iter()
            .rev()
            .map(|&(first, count)| first.saturating_add(count).saturating_sub(IDS)),
    );
    places
        .into_iter()
        .find(|&start| start > 0 && exists(start) && is_free(start))
}

/// The map of root's namespace: 0 to 65535 are the range at `start`, and from [`CALLER`] on come all other ids in order.
fn all_ids(own: &[(u32, u32)], start: u32) -> String {
    let mut map = format!("0 {start} {IDS}\n");
    let mut next = CALLER;
    let end = start + IDS;
    for &(first, count) in own {
        let last = first.saturating_add(count);
        for (from, to) in [(first, last.min(start)), (first.max(end), last)] {
            if from < to {
                map += &format!("{next} {from} {}\n", to - from);
                next += to - from;
            }
        }
    }
    map
}

fn range_of_user(user: &str, file: &str) -> Result<u32> {
    let table = fs::read_to_string(Path::new(file)).unwrap_or_default();
    subordinate(&table, user, &Uid::current().to_string())
        .ok_or_else(|| no_range(user, file, &table))
}

fn newidmap(program: &str, pid: u32, user: &str, own: u32, file: &str) -> Result<()> {
    let start = range_of_user(user, file)?;
    let output = Command::new(program)
        .args([pid, 0, start, IDS, CALLER, own, 1].map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Fault::host(format!(
            "{program} refused to give {user} the ids {start} to {} of {file}: {}",
            start + IDS - 1,
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
        .find(|(owner, _, count)| (*owner == user || *owner == uid) && *count >= u64::from(IDS))
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
    fn root_gets_a_range_that_nobody_has() {
        let all = [(0, u32::MAX)];
        assert_eq!(free_range(&all, "root:300000:65536\n", ""), Some(300_000));
        assert_eq!(free_range(&all, "alice:100000:65536\n", ""), Some(UNUSED));
        let given = format!("alice:{UNUSED}:1\n");
        assert_eq!(free_range(&all, &given, ""), Some(UNUSED + IDS));
        let user = format!("alice:x:{}:100::/:/bin/sh\n", UNUSED + 5);
        assert_eq!(free_range(&all, "", &user), Some(UNUSED + IDS));
        // As in a container of an ordinary user.
        assert_eq!(free_range(&[(0, 1), (1, 65536)], "", ""), Some(1));
        assert_eq!(free_range(&[(0, 65536)], "", ""), None);
    }

    #[test]
    fn no_id_of_an_image_is_one_of_the_host_s_and_hearth_reaches_all() {
        assert_eq!(
            all_ids(&[(0, u32::MAX)], 200_000),
            "0 200000 65536\n65536 0 200000\n265536 265536 4294701759\n"
        );
        assert_eq!(all_ids(&[(0, 1), (1, 65536)], 1), "0 1 65536\n65536 0 1\n");
    }
}
