//! Owns that a console which was lost is opened again: a USB adapter that was unplugged, a console server that restarted.
//! Never gives up by itself, never waits longer than it is asked to, and never hides what was missed.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::line::Console;

/// How long after its return a console that shows nothing counts as back: a console server may accept a connection only
/// to close it.
const PROBATION: Duration = Duration::from_secs(1);

/// How long to wait before a lost console is opened again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) first: Duration,
    /// Each pause is twice the one before, up to this.
    pub(super) longest: Duration,
}

type Opener = Box<dyn FnMut() -> Result<Box<dyn Console>> + Send>;

/// A console that is opened anew, with all its settings, whenever it was lost.
pub(super) struct Reopened {
    /// How it is called in messages, such as `/dev/ttyUSB0`.
    name: String,
    open: Opener,
    pace: Pace,
    console: Option<Box<dyn Console>>,
    gap: Option<Gap>,
    /// What was missed, until [`Console::missed`] takes it.
    missed: Option<String>,
}

/// A time without console.
struct Gap {
    since: Instant,
    why: String,
    /// As [`Console::gone`] tells it.
    told: String,
    pause: Duration,
    next: Instant,
    /// When it was opened again, while that is on probation.
    opened: Option<Instant>,
}

impl Reopened {
    /// # Errors
    /// If it does not open the first time: then the lab file is wrong, or nothing is plugged in.
    pub(super) fn open(name: String, pace: Pace, mut open: Opener) -> Result<Self> {
        let console = open()?;
        Ok(Reopened {
            name,
            open,
            pace,
            console: Some(console),
            gap: None,
            missed: None,
        })
    }

    fn lose(&mut self, error: &io::Error) {
        // Closed before it is opened again: the device is for one program alone, and keeps its name as long as it is open.
        self.console = None;
        let now = Instant::now();
        match &mut self.gap {
            Some(gap) => {
                gap.opened = None;
                gap.pause = (gap.pause * 2).min(self.pace.longest);
                gap.next = now + gap.pause;
            }
            None => {
                self.gap = Some(Gap {
                    since: now,
                    why: error.to_string(),
                    told: format!("the console was lost: {error} ({})", self.name),
                    pause: self.pace.first,
                    next: now + self.pace.first,
                    opened: None,
                });
            }
        }
    }

    /// Opens it again if it is time to, else waits for at most `patience`.
    fn try_again(&mut self, patience: Duration) {
        let Some(gap) = &mut self.gap else {
            return;
        };
        let now = Instant::now();
        if now < gap.next {
            return sleep(patience.min(gap.next - now));
        }
        match (self.open)() {
            Ok(console) => {
                gap.opened = Some(Instant::now());
                self.console = Some(console);
            }
            Err(error) => {
                gap.told = format!(
                    "the console was lost: {} ({}); it does not open again: {error:#}",
                    gap.why, self.name
                );
                gap.pause = (gap.pause * 2).min(self.pace.longest);
                gap.next = Instant::now() + gap.pause;
            }
        }
    }

    /// Ends the gap once the console shows something, or stays open without.
    fn settle_gap(&mut self, shown: bool) {
        if let Some(gap) = &self.gap
            && let Some(opened) = gap.opened
            && (shown || opened.elapsed() >= PROBATION)
        {
            let length = opened.duration_since(gap.since).as_secs_f64();
            self.missed = Some(format!(
                "the console was gone for {length:.1} s ({}: {}); what the board printed in that time is missing",
                self.name, gap.why
            ));
            self.gap = None;
        }
    }
}

impl Console for Reopened {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        let Some(console) = &mut self.console else {
            self.try_again(patience);
            return Ok(0);
        };
        match console.read(buffer, patience) {
            Ok(count) => {
                self.settle_gap(count > 0);
                Ok(count)
            }
            Err(error) => {
                self.lose(&error);
                Ok(0)
            }
        }
    }

    /// What is typed while the console is gone is lost.
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if let Some(console) = &mut self.console
            && let Err(error) = console.write(data)
        {
            self.lose(&error);
        }
        Ok(())
    }

    fn gone(&self) -> Option<&str> {
        self.gap.as_ref().map(|gap| gap.told.as_str())
    }

    fn missed(&mut self) -> Option<String> {
        self.missed.take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What each opening gives: an error, or what the console shows before it is lost.
    type Script = Arc<Mutex<VecDeque<Result<Vec<&'static str>, &'static str>>>>;

    struct Fake(VecDeque<&'static str>);

    impl Console for Fake {
        fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
            match self.0.pop_front() {
                Some("") => Ok(0),
                Some(text) => {
                    buffer[..text.len()].copy_from_slice(text.as_bytes());
                    Ok(text.len())
                }
                None => Err(io::Error::other("unplugged")),
            }
        }

        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            Err(io::Error::other("unplugged"))
        }
    }

    fn console(openings: Vec<Result<Vec<&'static str>, &'static str>>) -> Reopened {
        let script: Script = Arc::new(Mutex::new(openings.into()));
        let pace = Pace {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(4),
        };
        let open = move || match script.lock().unwrap().pop_front() {
            Some(Ok(shown)) => Ok(Box::new(Fake(shown.into())) as Box<dyn Console>),
            Some(Err(why)) => Err(anyhow::anyhow!(why)),
            None => Err(anyhow::anyhow!("no such device")),
        };
        Reopened::open("tty".into(), pace, Box::new(open)).unwrap()
    }

    /// Everything that comes within 50 looks, and what is told to be missing where.
    fn seen(console: &mut Reopened) -> String {
        let mut buffer = [0; 64];
        let mut seen = String::new();
        for _ in 0..50 {
            let count = console.read(&mut buffer, Duration::from_millis(2)).unwrap();
            if let Some(missed) = console.missed() {
                assert!(missed.contains("the console was gone for"), "{missed}");
                seen += "|";
            }
            seen += std::str::from_utf8(&buffer[..count]).unwrap();
        }
        seen
    }

    #[test]
    fn what_comes_after_a_gap_is_read_and_the_gap_is_told_before_it() {
        let refused = || Err("permission denied");
        let mut console = console(vec![
            Ok(vec!["a", "", "b"]),
            refused(),
            refused(),
            Ok(vec!["c"]),
            Ok(vec!["d"]),
        ]);
        assert_eq!(seen(&mut console), "ab|c|d");
        let gone = console.gone().unwrap();
        assert!(
            gone.contains("the console was lost: unplugged (tty)")
                && gone.contains("no such device"),
            "{gone}"
        );
    }

    #[test]
    fn openings_that_show_nothing_are_one_gap() {
        let mut console = console(vec![Ok(vec!["a"]), Ok(vec![]), Ok(vec![""]), Ok(vec!["b"])]);
        assert_eq!(seen(&mut console), "a|b");
    }

    #[test]
    fn typing_into_a_console_that_is_gone_is_no_failure() {
        let mut console = console(vec![Ok(vec!["a"])]);
        console.write(b"x").unwrap();
        assert!(console.gone().is_some());
        console.write(b"y").unwrap();
    }

    #[test]
    fn a_console_that_does_not_open_at_first_is_refused() {
        let pace = Pace {
            first: Duration::ZERO,
            longest: Duration::ZERO,
        };
        let open = || Err(anyhow::anyhow!("no such device"));
        assert!(Reopened::open("tty".into(), pace, Box::new(open)).is_err());
    }
}
