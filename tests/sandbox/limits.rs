//! What programs may take, as a recipe or the command line says it.

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::fixture::*;
use common::small;
use common::{fail, run, succeed};

fn limited(caller: Caller, limit: &str, script: &str) -> Command {
    in_armhf(caller, &["--limit", limit, "--", "sh", "-c", script])
}

#[test]
fn whoever_takes_more_than_its_limit_is_ended_by_name() {
    for caller in callers() {
        for (limit, script, says) in [
            ("memory=64M", "busybox sort /dev/zero", "MiB of memory"),
            (
                "silence=1",
                "busybox sleep 1000",
                "has said nothing for 1 s",
            ),
            ("output=64K", "busybox yes", "MiB of messages"),
        ] {
            let begun = Instant::now();
            let output = fail(&mut limited(caller, limit, script), 2, says);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("hearth: sh in the image "), "{said}");
            assert!(begun.elapsed() < PATIENCE, "{limit}");
        }
    }
}

#[test]
fn no_more_is_written_and_no_more_processes_are_started_than_allowed() {
    for caller in callers() {
        // In the copy of the image the space ends, elsewhere the file.
        for place in ["/f", "/tmp/f"] {
            let script = format!(
                "busybox dd if=/dev/zero of={place} bs=1M count=20 2>/dev/null; busybox stat -c %s {place}"
            );
            let output = run(&mut limited(caller, "disk=8M", &script));
            let size: u64 = String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse()
                .unwrap_or_default();
            assert!(size <= 8 << 20, "{place}: {output:?}");
        }
        let script = "i=0; while [ $i -lt 60 ]; do busybox sleep 3 & i=$((i+1)); done; wait";
        let output = run(&mut limited(caller, "processes=30", script));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("fork"), "{said}");
    }
}

#[test]
fn a_limit_that_is_none_is_refused() {
    for wrong in [
        "memory=1K",
        "silence=0",
        "processes=2",
        "speed=1",
        "memory",
        "disk=x",
    ] {
        let mut command = limited(Caller::Ordinary, wrong, "true");
        fail(&mut command, 2, "hearth: --limit: ");
    }
}

#[test]
fn a_recipe_s_limits_hold_while_its_image_is_built() {
    let directory = small::workshop("limits");
    let (shared, _) = small::small();
    let lock = shared.with_extension("lock");
    let recipe = directory.join("slow.toml");
    fs::copy(lock, recipe.with_extension("lock")).unwrap();
    let slow = small::SMALL.replace("echo made > /srv/made", "echo waiting; sleep 1000");
    fs::write(&recipe, format!("{slow}\n[limits]\nsilence = 2\n")).unwrap();
    let out = directory.join("out");
    let mut command = common::hearth();
    command.arg("build").arg(&recipe).arg("-o").arg(&out);
    fail(&mut command, 2, "has said nothing for 2 s");
    assert!(!out.exists());
    fs::write(&recipe, format!("{slow}\n[limits]\nsilence = \"2 s\"\n")).unwrap();
    fail(&mut command, 2, "slow.toml:");
    // What a recipe allows is no part of what is made.
    let made = directory.join("small.toml");
    fs::copy(shared.with_extension("lock"), made.with_extension("lock")).unwrap();
    fs::write(
        &made,
        format!("{}\n[limits]\noutput = \"1G\"\n", small::SMALL),
    )
    .unwrap();
    let mut command = common::hearth();
    command.arg("build").arg(&made).arg("-o").arg(&out);
    let begun = Instant::now();
    succeed(&mut command);
    assert!(begun.elapsed().as_secs() < 30, "stages were made again");
}
