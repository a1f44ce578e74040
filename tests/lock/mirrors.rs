//! Several mirrors, of which some do not deliver; and mirrors that deliver without end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hearth::archive::{Limits, Options, Policy, Update, make_lock};
use hearth::progress::NoProgress;
use hearth::recipe::RecipeFile;

use crate::bombs::peak;
use crate::{IMPATIENT, contents, fetcher, lock, locked, now};
use common::archive::{Act, Archive, Server};
use common::fail;

/// Half of the files come, and then nothing, a byte at a time, or an error.
#[test]
fn the_next_mirror_is_asked_where_one_does_not_deliver() {
    let (archive, before) = locked(&[30_000, 30_000, 30_000]);
    let file = RecipeFile::open(archive.path("test.toml").to_str().unwrap()).unwrap();
    for act in [
        Act::Stall(100),
        Act::Slow(1),
        Act::Status(503),
        Act::Status(403),
        Act::Cut(0),
    ] {
        let deaf = act.clone();
        let bad = Server::start(archive.dir.path(), move |_, _| deaf.clone());
        let good = Server::start(archive.dir.path(), |_, _| Act::Serve);
        let _ = std::fs::remove_dir_all(archive.path("cache"));
        let both = format!("{} {}", bad.address, good.address);
        let fetcher = fetcher(&archive, &both, IMPATIENT);
        let options = Options {
            update: Update::All,
            policy: Policy {
                now: now(),
                allow_expired: false,
            },
            allow_rollback: false,
        };
        let made = make_lock(&fetcher, &file, None, &options, &NoProgress).unwrap();
        assert_eq!(made, before, "{act:?}");
        let paths = fetcher
            .packages(&made, archive.dir.path(), &NoProgress)
            .unwrap();
        contents(&paths, &made);
        // Once it has failed it is asked no more.
        assert!(bad.requests_for("InRelease").len() <= IMPATIENT.attempts as usize);
        assert!(bad.requests_for("pool").is_empty(), "{act:?}");
    }
}

#[test]
fn a_mirror_whose_files_are_others_does_not_hide_one_that_is_right() {
    let (archive, before) = locked(&[30_000]);
    let bad = Server::start(archive.dir.path(), |_, _| Act::Garble);
    let good = Server::start(archive.dir.path(), |_, _| Act::Serve);
    let both = format!("{} {}", bad.address, good.address);
    let fetcher = fetcher(&archive, &both, IMPATIENT);
    let paths = fetcher
        .packages(&before, archive.dir.path(), &NoProgress)
        .unwrap();
    contents(&paths, &before);
}

/// Each attempt brings something, so that no time-out for silence ends it.
#[test]
fn a_mirror_that_brings_a_byte_with_each_attempt_is_given_up() {
    let (archive, lock) = locked(&[2_000]);
    let server = Server::start(archive.dir.path(), |_, _| Act::Cut(1));
    let limits = Limits {
        stall: Duration::from_millis(50),
        pause: Duration::from_millis(1),
        ..IMPATIENT
    };
    let begun = Instant::now();
    let error = fetcher(&archive, &server.address, limits)
        .packages(&lock, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(format!("{error:#}").contains("takes too long"), "{error:#}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(server.requests_for("pool").len() < 2_000);
}

/// A server that answers each request with `head`, and then with `chunk` for ever.
fn endless(head: &'static [u8], chunk: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serve = move |mut stream: TcpStream| -> std::io::Result<()> {
        let _ = stream.read(&mut [0; 4096])?;
        stream.write_all(head)?;
        let chunks = chunk.repeat((1 << 16) / chunk.len());
        // At most 4 GiB.
        for _ in 0..1 << 16 {
            stream.write_all(&chunks)?;
        }
        Ok(())
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // It ends when the client hangs up.
            thread::spawn(move || serve(stream));
        }
    });
    address
}

#[test]
fn answers_without_end_end_in_bounded_time_and_memory() {
    let mut archive = Archive::new();
    archive.pad(1000);
    archive.publish();
    let recipe = archive.recipe(&["base"]);
    let answers: [(&[u8], &[u8]); 6] = [
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 ", b"2"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"0",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"body"),
    ];
    for (head, chunk) in answers {
        let address = endless(head, chunk);
        let begun = Instant::now();
        fail(
            &mut lock(&archive, &recipe, &address),
            4,
            "cannot fetch the suite trixie",
        );
        let what = String::from_utf8_lossy(head);
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        assert!(peak() < 200, "{what}: {} MiB", peak());
    }
}
