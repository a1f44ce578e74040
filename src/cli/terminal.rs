//! Owns what is said while work goes on: log messages and progress, on standard error.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hearth::progress::{Progress, Stage, Unit};
use hearth::sanitise;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::common::Common;

/// Standard error, as the user asked for it: bars on a terminal, a line per stage elsewhere.
#[derive(Clone)]
pub struct Terminal {
    bars: MultiProgress,
    quiet: bool,
    interactive: bool,
}

struct Logger {
    bars: MultiProgress,
}

impl Terminal {
    /// Installs the logger too; call once.
    pub fn start(common: &Common) -> Self {
        static LOGGER: OnceLock<Logger> = OnceLock::new();
        let interactive = std::io::stderr().is_terminal();
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let logger = LOGGER.get_or_init(|| Logger { bars: bars.clone() });
        if log::set_logger(logger).is_ok() {
            log::set_max_level(match (common.quiet, common.verbose) {
                (true, _) => LevelFilter::Error,
                (false, 0) => LevelFilter::Warn,
                (false, 1) => LevelFilter::Info,
                (false, 2) => LevelFilter::Debug,
                _ => LevelFilter::Trace,
            });
        }
        Terminal {
            bars,
            quiet: common.quiet,
            interactive,
        }
    }

    /// A line for the user that is not a result: `wrote …`, `nothing to do`.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            self.bars.suspend(|| {
                let _ = writeln!(std::io::stderr().lock(), "{}", sanitise::block(line));
            });
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Messages of libraries are for debugging. Their traces are never shown: ureq's hold whole
        // requests, and with them passwords.
        metadata.target().starts_with("hearth")
            || (log::max_level() >= LevelFilter::Debug && metadata.level() <= Level::Debug)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let prefix = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        let message = record.args().to_string();
        let message = sanitise::line(&message);
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stderr().lock(), "{prefix}{message}");
        });
    }

    fn flush(&self) {}
}

impl Progress for Terminal {
    fn note(&self, line: &str) {
        self.say(line);
    }

    fn stage(&self, name: &str, total: Option<u64>, unit: Unit) -> Box<dyn Stage> {
        let bar = if self.interactive && !self.quiet {
            let bar = self.bars.add(ProgressBar::new(total.unwrap_or(0)));
            let numbers = match (total, unit) {
                (None, _) => "",
                (_, Unit::Bytes) => " [{bar:20}] {bytes}/{total_bytes}",
                (_, Unit::Items) => " [{bar:20}] {pos}/{len}",
            };
            let style =
                ProgressStyle::with_template(&format!("{{prefix:12}}{numbers} {{wide_msg}}"))
                    .expect("the template is a constant");
            bar.set_style(style.progress_chars("=> "));
            bar.set_prefix(name.to_string());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        } else {
            ProgressBar::hidden()
        };
        Box::new(Line {
            terminal: self.clone(),
            name: name.to_string(),
            begun: Instant::now(),
            bar,
        })
    }
}

struct Line {
    terminal: Terminal,
    name: String,
    begun: Instant,
    bar: ProgressBar,
}

impl Stage for Line {
    fn advance(&self, amount: u64) {
        self.bar.inc(amount);
    }

    fn message(&self, text: &str) {
        self.bar.set_message(sanitise::line(text).into_owned());
    }

    fn finish(self: Box<Self>, summary: &str) {
        self.bar.finish_and_clear();
        let seconds = self.begun.elapsed().as_secs_f64();
        self.terminal
            .say(&format!("{:12} {summary} ({seconds:.1} s)", self.name));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
