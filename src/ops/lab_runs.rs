//! Owns the processes in which a lab's jobs run: a copy of hearth for each, which goes on when the lab's own process ends,
//! and is found again by the lock that it holds. Never runs a job in the lab's process.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::board::power;
use crate::error::Fault;
use crate::image::Manifest;
use crate::lab::service::{EVENTS, Notifier, Order, Runner, image_directory};
use crate::netboot::serve::{Images, Pin};
use crate::recipe::Board;

/// The hidden subcommand that runs a job, given the directory of its order.
pub const COMMAND: &str = "__run-job";
/// Held, as its standard input, by the process that runs the attempt.
const LOCK: &str = "lock";
/// The number of that process.
pub const PID: &str = "pid";

/// Runs each job in a process of its own.
pub struct Processes {
    images: Arc<Images>,
    /// The runs' process numbers, by attempt.
    pids: Arc<Mutex<HashMap<i64, Pid>>>,
    watches: Arc<Watches>,
}

impl Processes {
    /// `images` are those that the lab serves: a board is pinned to what its job boots.
    ///
    /// # Errors
    /// If the system has no more inotify instances.
    pub fn new(images: Arc<Images>) -> Result<Self> {
        let watches = Arc::new(Watches {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC).context("cannot watch files")?,
            runs: Mutex::default(),
        });
        let watching = Arc::clone(&watches);
        std::thread::spawn(move || watching.forward());
        Ok(Processes {
            images,
            pids: Arc::default(),
            watches,
        })
    }

    /// Tells of the run, and waits for its end in a thread.
    fn watch(&self, order: &Order, child: Option<Child>, notifier: Notifier) -> Result<()> {
        let watch = self.watches.add(&order.directory, notifier.clone())?;
        let lock = File::open(order.directory.join(LOCK)).context("cannot open a run's lock")?;
        let (images, board, attempt) =
            (Arc::clone(&self.images), order.board.clone(), order.attempt);
        let (pids, watches) = (Arc::clone(&self.pids), Arc::clone(&self.watches));
        std::thread::spawn(move || {
            if let Err(error) = lock.lock() {
                log::error!("cannot wait for the run on {board}: {error}");
            }
            if let Some(mut child) = child {
                let _ = child.wait();
            }
            watches.remove(watch);
            lock_pids(&pids).remove(&attempt);
            images.pin(&board, None);
            notifier.progress();
            notifier.ended();
        });
        Ok(())
    }
}

impl Runner for Processes {
    fn start(&self, order: &Order, notifier: Notifier) -> Result<()> {
        let lock = File::create(order.directory.join(LOCK)).context("cannot make a run's lock")?;
        lock.try_lock().context("the run's lock is taken")?;
        let log = File::create(order.directory.join("runner.log"))?;
        self.images.pin(&order.board, pin(order)?);
        // The lock is the process's standard input: it is held before the process begins, and as long as it lives.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(COMMAND)
            .arg(&order.directory)
            .stdin(lock)
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C at the lab's terminal is for the lab, which ends its runs itself.
            .process_group(0);
        let child = command.spawn().context("cannot start a process");
        drop(command);
        let child = child.inspect_err(|_| self.images.pin(&order.board, None))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        lock_pids(&self.pids).insert(order.attempt, pid);
        self.watch(order, Some(child), notifier)
    }

    fn resume(&self, order: &Order, notifier: Notifier) -> Result<bool> {
        let Ok(lock) = File::open(order.directory.join(LOCK)) else {
            return Ok(false);
        };
        match lock.try_lock() {
            Ok(()) => return Ok(false),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        self.images.pin(&order.board, pin(order)?);
        self.watch(order, None, notifier)?;
        Ok(true)
    }

    fn stop(&self, order: &Order) {
        let known = lock_pids(&self.pids).get(&order.attempt).copied();
        let written = || {
            let text = fs::read_to_string(order.directory.join(PID)).ok()?;
            text.trim().parse().ok().map(Pid::from_raw)
        };
        // The number in the file is the run's as long as that holds its lock.
        if let Some(pid) = known.or_else(|| is_held(&order.directory).then(written)?)
            && let Err(error) = kill(pid, Signal::SIGTERM)
        {
            log::warn!("cannot stop the run on {}: {error}", order.board);
        }
    }

    fn power_off(&self, board: &Board) -> Result<()> {
        let entry = board
            .power
            .as_ref()
            .ok_or_else(|| Fault::input(format!("{} has no power switch", board.name)))?;
        // Nobody sits beside a lab.
        power::open(entry, Box::new(|_| Ok(false)))?.off()
    }
}

fn lock_pids(pids: &Mutex<HashMap<i64, Pid>>) -> MutexGuard<'_, HashMap<i64, Pid>> {
    pids.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_held(directory: &Path) -> bool {
    File::open(directory.join(LOCK))
        .is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// What the job's board boots, if it is not the board's own.
fn pin(order: &Order) -> Result<Option<Pin>> {
    if let Some(name) = &order.spec.image {
        let directory = image_directory(&order.images, name).map_err(Fault::input)?;
        return Ok(Some(Pin::Image(Manifest::load(&directory)?.image)));
    }
    Ok(order.spec.recipe.clone().map(Pin::Recipe))
}

/// Whether the run has told of a stage: its board is on. Before that there are notes at most.
fn is_on(events: &Path) -> bool {
    fs::read_to_string(events).is_ok_and(|text| text.contains("\"event\":\"stage\""))
}

/// The directories of runs, watched for what they write.
struct Watches {
    inotify: Inotify,
    runs: Mutex<HashMap<WatchDescriptor, Watched>>,
}

struct Watched {
    notifier: Notifier,
    events: PathBuf,
    running: bool,
}

impl Watches {
    fn add(&self, directory: &Path, notifier: Notifier) -> Result<WatchDescriptor> {
        let flags =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = self
            .inotify
            .add_watch(directory, flags)
            .with_context(|| format!("cannot watch {}", directory.display()))?;
        runs.insert(
            watch,
            Watched {
                notifier,
                events: directory.join(EVENTS),
                running: false,
            },
        );
        Ok(watch)
    }

    fn remove(&self, watch: WatchDescriptor) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.remove(&watch);
        let _ = self.inotify.rm_watch(watch);
    }

    /// Tells of all that the runs write, for as long as the process lives.
    fn forward(&self) {
        while let Ok(events) = self.inotify.read_events() {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                let Some(run) = runs.get_mut(&event.wd) else {
                    continue;
                };
                if !run.running && is_on(&run.events) {
                    run.running = true;
                    run.notifier.running();
                }
                run.notifier.progress();
            }
        }
    }
}
