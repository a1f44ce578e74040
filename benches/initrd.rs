//! Measures the native initrd builder against mkinitramfs under qemu-user, in the sandbox and over the same image, in one run,
//! printed as ratios; and what the chroot builder adds to mkinitramfs, and where mkinitramfs' time goes.
//!
//! Needs qemu-user, a mirror (the first time), and some 2 GiB below the target directory and in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const BOARD: &str = "qemu-virt-arm";
/// The same program, in the same sandbox, starts this many times to tell what one start costs.
const STARTS: u32 = 200;

fn main() {
    let bench = Bench::new();
    bench.hearth(&["build"], &["-o", "out"]);
    let native: f64 = (0..5)
        .map(|_| bench.native(&bench.recipe, "native.img"))
        .fold(f64::INFINITY, f64::min);
    bench.native(Path::new("small.toml"), "small.img");
    let peer = bench.mkinitramfs();
    let chroot = bench.hearth(
        &["initrd"],
        &["--builder", "chroot", "--board", BOARD, "-o", "chroot.img"],
    );
    let size = |name: &str| fs::metadata(bench.directory.join(name)).expect(name).len() as f64;
    println!(
        "native            {native:8.3} s   mkinitramfs {:.1} s   ratio 1/{:.0} (at most 1/300, and 1 s)",
        peer.seconds,
        peer.seconds / native
    );
    println!(
        "its size          {:8.2} MB  mkinitramfs {:.1} MB  ratio 1/{:.1} (at most 1/10)",
        size("native.img") / 1e6,
        peer.size / 1e6,
        peer.size / size("native.img")
    );
    println!(
        "for nfs3 alone    {:8.2} MB  mkinitramfs {:.1} MB  ratio 1/{:.1}",
        size("small.img") / 1e6,
        peer.size / 1e6,
        peer.size / size("small.img")
    );
    println!(
        "chroot builder    {chroot:8.1} s   mkinitramfs {:.1} s   ratio {:.2}   {:.1} MB",
        peer.seconds,
        chroot / peer.seconds,
        size("chroot.img") / 1e6
    );
    println!(
        "mkinitramfs starts {} processes; {STARTS} starts of true take {:.1} s, so that starting alone is {:.0} % of its time",
        peer.processes,
        peer.starts,
        100.0 * peer.starts / f64::from(STARTS) * peer.processes / peer.seconds
    );
}

fn run(command: &mut Command) -> f64 {
    let begun = Instant::now();
    let status = command.status().expect("hearth");
    assert!(status.success(), "{command:?}");
    begun.elapsed().as_secs_f64()
}

struct Bench {
    directory: PathBuf,
    recipe: PathBuf,
}

/// What mkinitramfs took: bytes, and how many processes it started; and seconds for `STARTS` programs.
struct Peer {
    seconds: f64,
    size: f64,
    processes: f64,
    starts: f64,
}

impl Bench {
    fn new() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-initrd");
        let hooks = directory.join("hooks");
        let _ = fs::remove_dir_all(&hooks);
        fs::create_dir_all(&hooks).expect("a directory");
        // mkinitramfs passes over it, but the stage's key does not: the chroot builder runs each time.
        let now = format!("{:?}\n", std::time::SystemTime::now());
        fs::write(hooks.join("README"), now).expect("a file");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/trixie-armhf");
        let text = fs::read_to_string(shipped.with_extension("toml")).expect("the recipe");
        let recipe = directory.join("bench.toml");
        fs::write(&recipe, format!("{text}\n[initrd]\nhooks = \"hooks\"\n")).expect("the recipe");
        fs::write(
            directory.join("small.toml"),
            format!("{text}\n[initrd]\nroots = [\"nfs3\"]\n"),
        )
        .expect("the recipe");
        fs::copy(
            shipped.with_extension("lock"),
            recipe.with_extension("lock"),
        )
        .expect("the lock");
        Bench { directory, recipe }
    }

    fn command(&self, recipe: &Path, before: &[&str], after: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command.arg("-q").args(before).arg(recipe).args(after);
        command.current_dir(&self.directory);
        command
    }

    /// Seconds that hearth takes.
    fn hearth(&self, before: &[&str], after: &[&str]) -> f64 {
        run(&mut self.command(&self.recipe, before, after))
    }

    /// Seconds that the native builder takes for a recipe's initrd of the built image.
    fn native(&self, recipe: &Path, name: &str) -> f64 {
        let options = ["--board", BOARD, "--root", "out/rootfs.tar", "-o", name];
        run(&mut self.command(recipe, &["initrd"], &options))
    }

    /// Runs mkinitramfs as Debian configures it. Its pid namespace tells how many processes there were.
    fn mkinitramfs(&self) -> Peer {
        let script = format!(
            "cd /lib/modules; kernel=$(echo *); begun=$(date +%s.%N)
            mkinitramfs -o /initrd.img $kernel >&2; ended=$(date +%s.%N); sh -c 'echo $$'
            stat -c %s /initrd.img; echo $begun; echo $ended
            for i in $(seq {STARTS}); do /bin/true; done; date +%s.%N"
        );
        let output = self
            .command(&self.recipe, &["run"], &["--", "/bin/sh", "-ec", &script])
            .output()
            .expect("hearth");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let numbers: Vec<f64> = said.lines().filter_map(|line| line.parse().ok()).collect();
        let [processes, size, begun, ended, started] = numbers[..] else {
            panic!("not five numbers: {said}");
        };
        Peer {
            seconds: ended - begun,
            size,
            processes,
            starts: started - ended,
        }
    }
}
