//! Downloads, from servers that misbehave.

use std::process::Stdio;
use std::time::Duration;
use std::{fs, thread};

use hearth::archive::{Cache, FetchError, Wanted};
use hearth::progress::NoProgress;

use crate::{IMPATIENT, PATIENCE, contents, fetcher, lock, locked};
use common::archive::{Act, Archive, Server};
use common::{fail, oracle, succeed};

#[test]
fn packages_are_fetched_in_parallel_verified_and_kept() {
    let (archive, lock) = locked(&[300_000, 1, 70_000, 65_536, 1_000_000]);
    let server = Server::start(archive.dir.path(), |_, _| Act::Serve);
    let mut fetcher = fetcher(&archive, &server.address, IMPATIENT);
    let paths = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap();
    contents(&paths, &lock);
    assert_eq!(server.requests_for("pool").len(), lock.packages.len());
    fetcher.offline = true;
    let again = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap();
    assert_eq!(paths, again);
    fs::remove_file(&paths[1]).unwrap();
    let error = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(error.to_string().contains("not in the cache"), "{error}");
}

#[test]
fn transfers_that_stall_break_or_are_refused_are_resumed() {
    let (archive, lock) = locked(&[400_000]);
    let whole = archive.path("pool/main/p0_1_armhf.deb");
    type Plan = fn(&str, usize) -> Act;
    let plans: [(Plan, &[usize]); 5] = [
        (
            |_, n| {
                if n == 0 {
                    Act::Stall(100_000)
                } else {
                    Act::Serve
                }
            },
            &[0, 100_000],
        ),
        (
            |_, n| if n < 2 { Act::Cut(100_000) } else { Act::Serve },
            &[0, 100_000, 200_000],
        ),
        (
            |_, n| {
                if n == 0 {
                    Act::Cut(100_000)
                } else {
                    Act::IgnoreRange
                }
            },
            &[0, 100_000],
        ),
        (
            |_, n| if n < 2 { Act::Status(503) } else { Act::Serve },
            &[0, 0, 0],
        ),
        (
            |path, _| {
                if path.starts_with("/pool") {
                    Act::Redirect(format!("/./{path}"))
                } else {
                    Act::Serve
                }
            },
            &[0],
        ),
    ];
    for (number, (plan, offsets)) in plans.into_iter().enumerate() {
        let server = Server::start(archive.dir.path(), plan);
        let mut fetcher = fetcher(&archive, &server.address, IMPATIENT);
        fetcher.cache = Cache::at(archive.path(&format!("cache-{number}")));
        let paths = fetcher
            .packages(&lock, archive.dir.path(), &NoProgress)
            .unwrap();
        contents(&paths, &lock);
        let mut seen = server.requests();
        seen.retain(|request| request.path == "/pool/main/p0_1_armhf.deb");
        let seen: Vec<usize> = seen.iter().map(|request| request.from).collect();
        assert_eq!(seen, offsets, "plan {number}");
    }
    assert!(whole.exists());
}

#[test]
fn a_server_that_never_delivers_is_given_up() {
    let (archive, lock) = locked(&[50_000]);
    for (act, says) in [
        (Act::Stall(0), "stalled"),
        (Act::Cut(0), "cut short"),
        (Act::Status(500), "HTTP status 500"),
        (Act::Status(403), "HTTP status 403"),
        (
            Act::Redirect("/pool/main/p0_1_armhf.deb".into()),
            "redirects without end",
        ),
    ] {
        let server = Server::start(archive.dir.path(), move |_, _| act.clone());
        let fetcher = fetcher(&archive, &server.address, IMPATIENT);
        let error = fetcher
            .packages(&lock, archive.dir.path(), &NoProgress)
            .unwrap_err();
        assert!(format!("{error:#}").contains(says), "{says}: {error:#}");
    }
    // A port that nobody listens on.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let fetcher = fetcher(&archive, &closed, IMPATIENT);
    let error = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("cannot be reached"),
        "{error:#}"
    );
    assert_eq!(
        hearth::error::class_of(&error),
        hearth::error::Class::Infrastructure
    );
}

#[test]
fn a_package_that_is_another_or_gone_is_named() {
    let (archive, lock) = locked(&[5_000]);
    let garbling = Server::start(archive.dir.path(), |_, _| Act::Garble);
    let error = fetcher(&archive, &garbling.address, IMPATIENT)
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(
        error.to_string().contains("is not what the lock says"),
        "{error}"
    );

    let deb = archive.path("pool/main/p0_1_armhf.deb");
    let data = fs::read(&deb).unwrap();
    for wrong in [&data[..4_000], &[&data[..], b"more"].concat()] {
        fs::write(&deb, wrong).unwrap();
        let error = fetcher(&archive, &archive.address(), IMPATIENT)
            .packages(&lock, archive.dir.path(), &NoProgress)
            .unwrap_err();
        assert!(
            error.to_string().contains("the package p0 1 is not what"),
            "{error}"
        );
    }
    fs::remove_file(&deb).unwrap();
    let error = fetcher(&archive, &archive.address(), IMPATIENT)
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(
        error.to_string().contains("no longer has the package p0 1"),
        "{error}"
    );
    assert!(
        hearth::error::help_of(&error)
            .unwrap()
            .contains("--update p0")
    );
}

#[test]
fn a_left_over_beginning_of_something_else_does_no_harm() {
    let (archive, lock) = locked(&[50_000]);
    let package = lock
        .packages
        .iter()
        .find(|package| package.name == "p0")
        .unwrap();
    let tmp = archive.path("cache/tmp");
    fs::create_dir_all(&tmp).unwrap();
    for garbage in [b"garbage".to_vec(), vec![7; 50_000], vec![7; 60_000]] {
        fs::write(tmp.join(format!("{}.part", package.sha256)), garbage).unwrap();
        let wanted = Wanted {
            size: package.size,
            sha256: &package.sha256,
        };
        let address = format!("{}/{}", archive.address(), package.path);
        let path = fetcher(&archive, &archive.address(), IMPATIENT)
            .file(&[address], wanted, &|_| ())
            .unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 50_000);
        fs::remove_file(path).unwrap();
    }
    let wanted = Wanted {
        size: 1,
        sha256: &"0".repeat(64),
    };
    let missing = fetcher(&archive, &archive.address(), IMPATIENT).file(
        &[format!("{}/nowhere", archive.address())],
        wanted,
        &|_| (),
    );
    assert!(missing.as_ref().is_err_and(FetchError::is_other_content));
}

#[test]
fn two_processes_download_an_index_once() {
    let mut archive = Archive::new();
    archive.pad(400_000);
    archive.publish();
    let server = Server::start(archive.dir.path(), |path, _| {
        if path.contains("by-hash") {
            Act::Slow(20_000)
        } else {
            Act::Serve
        }
    });
    let recipe = archive.recipe(&["base"]);
    let spawn = || {
        let mut command = lock(&archive, &recipe, &server.address);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for child in [spawn(), spawn()] {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(server.requests_for("by-hash").len(), 1);
}

#[test]
fn a_killed_download_is_resumed() {
    let mut archive = Archive::new();
    archive.pad(400_000);
    archive.publish();
    let server = Server::start(archive.dir.path(), |path, n| {
        if path.contains("by-hash") && n == 0 {
            Act::Slow(10_000)
        } else {
            Act::Serve
        }
    });
    let recipe = archive.recipe(&["base"]);
    let mut child = lock(&archive, &recipe, &server.address)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let parts = || -> u64 {
        let entries = fs::read_dir(archive.path("cache/tmp"))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .map(|entry| entry.metadata().map_or(0, |meta| meta.len()))
            .sum()
    };
    let begun = std::time::Instant::now();
    while parts() < 50_000 {
        assert!(begun.elapsed() < PATIENCE, "the download does not begin");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!recipe.with_extension("lock").exists());
    succeed(&mut lock(&archive, &recipe, &server.address));
    let offsets: Vec<usize> = server
        .requests_for("by-hash")
        .iter()
        .map(|r| r.from)
        .collect();
    assert!(offsets.len() == 2 && offsets[1] >= 50_000, "{offsets:?}");
    assert_eq!(parts(), 0);
}

#[test]
fn a_full_disk_is_told_and_leaves_no_lock() {
    let mut archive = Archive::new();
    archive.pad(400_000);
    archive.publish();
    let recipe = archive.recipe(&["base"]);
    let cache = archive.path("cache");
    fs::create_dir(&cache).unwrap();
    let mut command = oracle("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=200k tmpfs \"$HEARTH_CACHE\" && exec \"$0\" \"$@\"")
        .arg(env!("CARGO_BIN_EXE_hearth"))
        .arg("lock")
        .arg(&recipe)
        .args(["--mirror", &archive.address()])
        .env("HEARTH_CACHE", &cache);
    fail(&mut command, 3, "No space left on device");
    assert!(!recipe.with_extension("lock").exists());
}

/// Each byte came within the time-out, so that the transfer would have taken half a day.
#[test]
fn a_mirror_that_sends_a_byte_at_a_time_is_given_up() {
    let (archive, lock) = locked(&[50_000]);
    let server = Server::start(archive.dir.path(), |_, _| Act::Slow(1));
    let fetcher = fetcher(&archive, &server.address, IMPATIENT);
    let begun = std::time::Instant::now();
    let error = fetcher
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(format!("{error:#}").contains("too slowly"), "{error:#}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}
