//! Measures `hearth build` against mmdebstrap, and its unpacking against `xz -d`, in one run, printed as ratios; and what a
//! second build costs. With `--kernel` the set has a kernel and initramfs-tools, which takes the peer minutes, and in bookworm,
//! whose mkinitramfs is slower and reads modules that are not compressed, a quarter of an hour.
//! `unpack` is what is unpacked before any script runs, without packages that have a preinst which must come first.
//!
//! Needs root, mmdebstrap, qemu-user registered with binfmt_misc, a mirror, and some 3 GiB below the target directory.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use hearth::recipe::{Lock, Role};
use nix::sys::resource::{UsageWho, getrusage};

const PLAIN: &str = "apt,busybox,curl,iproute2,python3,systemd-sysv,udev";
const KERNEL: &str =
    "apt,busybox,curl,initramfs-tools,linux-image-armmp,nfs-common,systemd-sysv,udev";

fn main() {
    if env::args().any(|argument| argument == "--kernel") {
        let trixie = measure("trixie", KERNEL, "1/30");
        measure("bookworm", KERNEL, "1/30").remove_forgotten();
        trixie.remove_forgotten();
    } else {
        measure("trixie", PLAIN, "1/3").remove_forgotten();
    }
}

fn measure(suite: &'static str, packages: &str, bound: &str) -> Bench {
    let bench = Bench::new(suite, packages);
    bench.hearth("fetch", &["build", "--locked"]);
    bench.forget();
    let unpack = bench.hearth("unpack", &["run", "--unpacked", "--offline"]);
    let xz = bench.xz();
    bench.forget();
    let whole = bench.hearth("build", &["build", "--locked", "--offline"]);
    let nothing = bench.hearth("again", &["build", "--locked", "--offline"]);
    fs::write(bench.directory.join("file"), "changed").expect("the overlay's file");
    let one = bench.hearth("one", &["build", "--locked", "--offline"]);
    let memory = getrusage(UsageWho::RUSAGE_CHILDREN)
        .expect("getrusage")
        .max_rss()
        / 1024;
    println!("packages          {suite}: {packages}");
    println!(
        "unpack            {unpack:8.2} s   xz -d {xz:.2} s   ratio {:.2} (at most 3)",
        unpack / xz
    );
    println!("nothing changed   {nothing:8.2} s   (at most 0.3)");
    println!("one file changed  {one:8.2} s   (at most 3)");
    println!("peak memory       {memory:8} MiB (at most 300)");
    let peer = bench.mmdebstrap(packages);
    println!(
        "build             {whole:8.2} s   mmdebstrap {peer:.1} s   ratio 1/{:.1} (at most {bound})",
        peer / whole
    );
    bench
}

struct Bench {
    suite: &'static str,
    directory: PathBuf,
    recipe: PathBuf,
    cache: PathBuf,
}

impl Bench {
    fn new(suite: &'static str, packages: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-build");
        fs::create_dir_all(&directory).expect("a directory");
        let recipe = directory.join("bench.toml");
        let list: Vec<String> = packages
            .split(',')
            .map(|name| format!("\"{name}\""))
            .collect();
        let text = format!(
            "description = \"bench\"\narch = \"armhf\"\npackages = [{}]\n\
             [archive]\nsuites = [\"{suite}\"]\n\
             [[file]]\npath = \"/etc/bench\"\nsource = \"file\"\n",
            list.join(", ")
        );
        fs::write(&recipe, text).expect("the recipe");
        fs::write(directory.join("file"), "first").expect("the overlay's file");
        let bench = Bench {
            suite,
            cache: directory.join("cache"),
            recipe,
            directory,
        };
        bench.hearth("lock", &["lock"]);
        bench
    }

    /// Seconds that hearth takes for a subcommand on the recipe.
    fn hearth(&self, what: &str, arguments: &[&str]) -> f64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command.arg("-q").args(arguments).arg(&self.recipe);
        match arguments[0] {
            "build" => command.arg("-o").arg(self.directory.join("out")),
            "run" => command.args(["--", "true"]),
            _ => &mut command,
        };
        command.env("HEARTH_CACHE", &self.cache);
        let begun = Instant::now();
        let status = command.status().expect("hearth");
        assert!(status.success(), "{what}");
        begun.elapsed().as_secs_f64()
    }

    /// Forgets all stages; the downloads stay. They are only moved aside: ext4 looks for free inodes past those that
    /// were deleted in the last minute, one by one, so that the next run would pay for what this one removes.
    fn forget(&self) {
        let forgotten = self.forgotten();
        fs::create_dir_all(&forgotten).expect("a directory");
        let number = fs::read_dir(&forgotten).expect("a directory").count();
        for part in ["cache/stages", "cache/tmp", "out"] {
            let name = part.replace('/', "-");
            let _ = fs::rename(
                self.directory.join(part),
                forgotten.join(format!("{number}-{name}")),
            );
        }
    }

    fn forgotten(&self) -> PathBuf {
        self.directory.join("forgotten")
    }

    fn remove_forgotten(&self) {
        let _ = fs::remove_dir_all(self.forgotten());
    }

    /// Seconds that `xz -d` takes for all data members, as many at once as hearth has threads.
    fn xz(&self) -> f64 {
        let members = self.directory.join("members");
        // Of an earlier run, with other packages.
        let _ = fs::remove_dir_all(&members);
        fs::create_dir_all(&members).expect("a directory");
        let lock = Lock::load(&self.recipe.with_extension("lock")).expect("the lock");
        for package in lock.packages.iter().filter(|p| p.role == Role::Root) {
            let hash = &package.sha256;
            let deb = self.cache.join("blobs/sha256").join(&hash[..2]).join(hash);
            let member = fs::File::create(members.join(hash)).expect("a file");
            // Packages with another compression give an empty file.
            let _ = Command::new("ar")
                .arg("p")
                .arg(deb)
                .arg("data.tar.xz")
                .stdout(member)
                .stderr(Stdio::null())
                .status();
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let script =
            "find \"$1\" -type f -size +0 -print0 | xargs -0 -n 4 -P \"$2\" xz -dc > /dev/null";
        let begun = Instant::now();
        let status = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&members)
            .arg(threads.to_string())
            .status()
            .expect("sh");
        assert!(status.success(), "xz -d");
        begun.elapsed().as_secs_f64()
    }

    /// Seconds that mmdebstrap takes for the same packages. Its downloads come from the mirror each time.
    fn mmdebstrap(&self, packages: &str) -> f64 {
        let script = "mirror=${HEARTH_MIRROR:-$(grep -hs ^URIs /etc/apt/sources.list.d/*.sources | head -1 | cut -d' ' -f2)}
            exec mmdebstrap --quiet --arch=armhf --variant=required --mode=root --include=\"$1\" \"$3\" \"$2\" \"deb $mirror $3 main\"";
        let begun = Instant::now();
        let status = Command::new("sh")
            .args(["-c", script, "sh", packages])
            .arg(self.directory.join("peer.tar"))
            .arg(self.suite)
            .status()
            .expect("mmdebstrap is missing: run `make deps`");
        assert!(status.success(), "mmdebstrap");
        begun.elapsed().as_secs_f64()
    }
}
