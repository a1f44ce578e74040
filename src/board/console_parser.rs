//! Owns how a console's bytes become lines and events: bootloader, kernel, login, and every kind of crash.
//! Never acts on them, and never waits.

use std::sync::LazyLock;

use regex::Regex;

use super::console_patterns::{EACH, Kind, PATTERNS, SET, Source};
use super::numbered::{Head, Own, Splitter};
use crate::sanitise::is_unsafe;

/// A line longer than this, in bytes, is cut in two: a board may send noise without an end.
const LONGEST_LINE: usize = 8 << 10;

/// Something that a console showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// U-Boot or its SPL began.
    Bootloader,
    /// U-Boot waits for commands: nothing will boot any more.
    BootloaderPrompt,
    /// U-Boot could not load or start something; it may try again.
    BootloaderTrouble(String),
    /// The boot script told which board boots which image.
    BootScript {
        board: String,
        image: String,
    },
    Kernel,
    /// The init system began.
    Userspace,
    /// A login prompt.
    Login,
    /// The kernel is going to be reset or powered off on purpose.
    Shutdown,
    /// The kernel or the initrd gave up, with what it said: a panic, an oops, a BUG, a stall, a hung task,
    /// an emergency shell, a message of hearth's own initrd.
    Crash {
        kind: &'static str,
        message: String,
    },
    /// A whole line without its line ending. Comes before what was seen in it.
    Line {
        /// Without control sequences.
        text: String,
        raw: Vec<u8>,
        /// Whether any of it is a job's output, numbered by the agent, whole or torn.
        of_job: bool,
    },
}

/// What terminals understand and people don't: colours, cursor movements, window titles.
static CONTROL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[@-Z\\-_]|\x1b[()][A-Z0-9]",
    )
    .expect("the pattern is a constant")
});
/// A prompt has no line ending; it is recognised in what stands after the last one.
static PROMPT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(=>|[A-Za-z0-9_-]+>|U-Boot>) $").expect("the pattern is a constant")
});
static LOGIN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(^|[^\w ])[\w.-]+ login: $").expect("the pattern is a constant"));

/// Reads a console's bytes.
#[derive(Debug, Default)]
pub struct ConsoleParser {
    /// What came since the last line ending.
    partial: Vec<u8>,
    /// Whether the prompt that stands in `partial` was told already.
    prompted: bool,
    /// Whether the kernel has started: after that `=>` is no prompt of U-Boot's.
    kernel: bool,
    /// Whether this kernel puts a time before its messages.
    stamped: bool,
    /// Whether the init system has started.
    userspace: bool,
    splitter: Splitter,
}

impl ConsoleParser {
    /// Takes what was read and gives what it means, in order.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<ConsoleEvent> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' => self.line(&mut events, false),
                // U-Boot and the kernel end lines with both; a lone CR is a progress display.
                b'\r' | 0 => {}
                _ => {
                    self.partial.push(byte);
                    if self.partial.len() >= LONGEST_LINE {
                        self.line(&mut events, true);
                    }
                }
            }
        }
        self.prompt(&mut events);
        events
    }

    /// No more will come: gives what has no line ending.
    pub fn finish(&mut self) -> Vec<ConsoleEvent> {
        let mut events = Vec::new();
        if !self.partial.is_empty() {
            self.line(&mut events, false);
        }
        events
    }

    /// Ends a line; `cut`: only because it is too long.
    fn line(&mut self, events: &mut Vec<ConsoleEvent>, cut: bool) {
        let raw = std::mem::take(&mut self.partial);
        self.prompted = false;
        let own = self.splitter.own(&raw, cut);
        let of_job = own.len() != 1 || own[0].torn || own[0].text.len() != raw.len();
        events.push(ConsoleEvent::Line {
            text: clean(&raw),
            of_job: of_job && !raw.is_empty(),
            raw,
        });
        for part in own {
            self.judge(&part, events);
        }
    }

    /// Adds what a part of a line that is the board's own means.
    fn judge(&mut self, part: &Own, events: &mut Vec<ConsoleEvent>) {
        let text = clean(&part.text);
        // Several patterns may know one line; the first one names it.
        let seen = SET.matches(&text).into_iter();
        let told = seen.filter_map(|index| self.told(index, &text, part.torn));
        if let Some(index) = { told }.next() {
            events.push(self.event(index, &text));
        }
    }

    /// Whether what a pattern found in a text of the board's counts now; gives the pattern back.
    fn told(&self, index: usize, text: &str, torn: bool) -> Option<usize> {
        let (kind, source, _) = PATTERNS[index];
        let stamp = EACH[index].captures(text)?.name("stamp");
        let counts = match source {
            Source::Kernel | Source::Stamped if stamp.is_some() => true,
            // Inside a torn line, and behind something else, it may be what the job or another program says.
            _ if torn => false,
            Source::Kernel => !(matches!(kind, Kind::Kernel) && self.kernel && self.stamped),
            Source::Stamped => !self.stamped,
            Source::Initrd => !self.userspace,
            Source::Firmware | Source::Program => true,
        };
        // A start of the kernel that a torn line shows may be the job's own text, and a real one is seen in whole lines.
        let starts = !matches!(kind, Kind::Crash(_) | Kind::Shutdown);
        (counts && !(torn && starts)).then_some(index)
    }

    fn event(&mut self, index: usize, line: &str) -> ConsoleEvent {
        let part = |name: &str| {
            EACH[index]
                .captures(line)
                .and_then(|found| Some(found.name(name)?.as_str().trim().to_string()))
                .unwrap_or_else(|| line.trim().to_string())
        };
        match PATTERNS[index].0 {
            Kind::Bootloader => {
                (self.kernel, self.stamped, self.userspace) = (false, false, false);
                ConsoleEvent::Bootloader
            }
            Kind::BootloaderTrouble => ConsoleEvent::BootloaderTrouble(line.trim().to_string()),
            Kind::BootScript => ConsoleEvent::BootScript {
                board: part("board"),
                image: part("image"),
            },
            Kind::Kernel => {
                self.kernel = true;
                self.stamped = EACH[index]
                    .captures(line)
                    .is_some_and(|found| found.name("stamp").is_some());
                ConsoleEvent::Kernel
            }
            Kind::Userspace => {
                self.userspace = true;
                ConsoleEvent::Userspace
            }
            Kind::Login => ConsoleEvent::Login,
            Kind::Shutdown => ConsoleEvent::Shutdown,
            Kind::Crash(kind) => ConsoleEvent::Crash {
                kind,
                message: part("message"),
            },
        }
    }

    fn prompt(&mut self, events: &mut Vec<ConsoleEvent>) {
        if self.prompted || !matches!(self.partial.last(), Some(b' ')) {
            return;
        }
        // The job's own text, the agent's line of which is not whole yet.
        if self.splitter.owes() || Head::find(&self.partial, 0).is_some() {
            return;
        }
        let text = clean(&self.partial);
        let event = if !self.kernel && PROMPT.is_match(&text) {
            ConsoleEvent::BootloaderPrompt
        } else if LOGIN.is_match(&text) {
            ConsoleEvent::Login
        } else {
            return;
        };
        self.prompted = true;
        events.push(event);
    }
}

/// A line as text: noise becomes U+FFFD, control sequences and other control characters go.
pub(super) fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = CONTROL.replace_all(&text, "");
    text.chars()
        .filter(|c| *c == '\t' || !is_unsafe(*c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(bytes: &[u8]) -> Vec<ConsoleEvent> {
        let mut events = ConsoleParser::default().feed(bytes);
        events.retain(|event| !matches!(event, ConsoleEvent::Line { .. }));
        events
    }

    #[test]
    fn a_boot_is_seen_stage_by_stage() {
        let console = b"\r\nU-Boot SPL 2025.01-3 (Apr 01 2025)\r\nDRAM: 512 MiB\r\n\
            U-Boot 2025.01-3 (Apr 01 2025)\r\nHit any key to stop autoboot:  0 \r\n\
            [    0.000000] Linux version 6.12.74+deb13-armmp (debian)\r\n\
            [    3.1] systemd[1]: systemd 257.9-1 running in system mode (+PAM)\r\n\
            \x1b[0;32m  OK  \x1b[0m done\r\nDebian GNU/Linux 13 neo1 ttyS0\r\n\r\nneo1 login: ";
        assert_eq!(
            seen(console),
            [
                ConsoleEvent::Bootloader,
                ConsoleEvent::Bootloader,
                ConsoleEvent::Kernel,
                ConsoleEvent::Userspace,
                ConsoleEvent::Login
            ]
        );
    }

    #[test]
    fn crashes_are_named_with_what_the_kernel_said() {
        for (line, kind, message) in [
            (
                "[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs",
                "kernel panic",
                "VFS: Unable to mount root fs",
            ),
            (
                "[ 1.0] Internal error: Oops: 5 [#1] SMP ARM",
                "kernel oops",
                "Internal error: Oops: 5 [#1] SMP ARM",
            ),
            (
                "[ 1.0] kernel BUG at mm/slub.c:123!",
                "kernel BUG",
                "kernel BUG at mm/slub.c:123!",
            ),
            (
                "[ 1.0] rcu: INFO: rcu_sched self-detected stall on CPU",
                "RCU stall",
                "rcu: INFO: rcu_sched self-detected stall on CPU",
            ),
            (
                "[ 1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
                "soft lockup",
                "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            ),
            (
                "[ 1.0] INFO: task sh:1 blocked for more than 120 seconds.",
                "hung task",
                "INFO: task sh:1 blocked for more than 120 seconds.",
            ),
        ] {
            let events = seen(format!("{line}\n").as_bytes());
            assert_eq!(
                events,
                [ConsoleEvent::Crash {
                    kind,
                    message: message.into()
                }],
                "{line}"
            );
        }
    }

    /// A board that has booted, with a kernel that prints times, and then these lines.
    fn after_boot(lines: &str) -> Vec<ConsoleEvent> {
        let boot = "U-Boot 2025.01 (Apr 01 2025)\r\n[    0.000000] Linux version 6.12.0 (debian)\r\n\
            [    1.000000] systemd[1]: systemd 257 running in system mode (+X)\r\n";
        seen(format!("{boot}{lines}").as_bytes()).split_off(3)
    }

    const WORDS: [&str; 16] = [
        "[    0.000000] Linux version 6.12.48+deb13-armmp (builder@example.org)",
        "Linux version 6.12.48+deb13-armmp (builder@example.org) (gcc 14) #1 SMP",
        "U-Boot 2025.01 (Apr 01 2025)",
        "=> ",
        "neo1 login: ",
        "neo1 login: root (automatic login)",
        "[   12.000000][    T1] Kernel panic - not syncing: Fatal exception",
        "<0>[   12.000000] Internal error: Oops: 5 [#1] SMP ARM",
        "Unable to handle kernel NULL pointer dereference at virtual address 00000000 when read",
        "[   12.000000] BUG: sleeping function called from invalid context at x.c:1",
        "kernel BUG at mm/slub.c:4!",
        "[   12.000000] INFO: task jbd2:99 blocked for more than 120 seconds.",
        "[   12.000000] reboot: Restarting system",
        "hearth: cannot mount the root",
        "hearth: the overlay is full: old log",
        "ALERT!  /dev/nfs does not exist.  Dropping to a shell!",
    ];

    #[test]
    fn what_a_job_prints_is_never_judged_whole_cut_or_repeated() {
        for words in WORDS {
            let line = format!("hearth:3:{}:{words}", words.len());
            for console in [
                format!("{line}\r\n"),
                format!("{line}\r\n{line}\r\n"),
                format!("{line}{line}\r\n"),
                // Characters lost at its end, with and without the line's end, and at its beginning.
                format!("{}\r\nhearth:4:2:ok\r\n", &line[..line.len() - 2]),
                format!("{}hearth:4:2:ok\r\n", &line[..line.len() - 2]),
                format!("{}\r\n", &line[4..]),
                // Its end is not there yet.
                line.clone(),
                format!(
                    "hearth:3:{}:{}{words}\n",
                    9000 + words.len(),
                    "x".repeat(9000)
                ),
                // A message of the kernel in the middle of it.
                format!(
                    "hearth:3:{}:{}[   13.000000] usb 1-1: new device\r\n{}\r\n",
                    words.len(),
                    &words[..2],
                    &words[2..]
                ),
            ] {
                assert_eq!(after_boot(&console), [], "{console}");
            }
        }
    }

    #[test]
    fn a_panic_in_the_middle_of_a_job_is_found_however_it_stands_there() {
        let crash = ConsoleEvent::Crash {
            kind: "kernel panic",
            message: "Fatal exception".into(),
        };
        for console in [
            "[   99.000000] Kernel panic - not syncing: Fatal exception\r\n",
            "<0>[   99.000000][   C0] Kernel panic - not syncing: Fatal exception\r\n",
            "Kernel panic - not syncing: Fatal exception\r\n",
            "hearth:3:30:the first wo[   99.000000] Kernel panic - not syncing: Fatal exception\r\nrds\r\n",
            "hearth:3:5:hello[   99.000000] Kernel panic - not syncing: Fatal exception\r\n",
            "neo1 login: [   99.000000] Kernel panic - not syncing: Fatal exception\r\n",
            "hearth:3:60:half of a li\r\n[   99.000000] Kernel panic - not syncing: Fatal exception\r\n",
            "hearth:3:30:[   99.000000] Kernel panic - not syncing: Fatal exception\r\n",
            "hearth:3:99:half[   99.000000] Kernel panic - not syncing: Fatal exception\r\n[   99.100000] CPU: 0\r\n",
            "hearth:3:99:[   99.000000] Kernel panic - not syncing: Fatal exception\r\n[   99.100000] CPU: 0\r\n",
            "hea[   99.000000] Kernel panic - not syncing: Fatal exception\r\n",
        ] {
            assert_eq!(
                after_boot(console),
                std::slice::from_ref(&crash),
                "{console}"
            );
        }
        for reset in [
            "hearth:3:60:half of a li\r\nU-Boot SPL 2025.01 (Apr 01 2025)\r\n",
            "hearth:3:60:half of\u{0}\u{fffd}\r\n\u{fffd}\u{fffd}U-Boot TPL 2025.01 (Apr 01 2025)\r\n",
        ] {
            assert_eq!(after_boot(reset), [ConsoleEvent::Bootloader], "{reset}");
        }
    }

    #[test]
    fn a_shutdown_is_seen_with_a_time_and_without() {
        for line in [
            "reboot: Restarting system",
            "[   99.000000] reboot: Power down",
            "Requesting system poweroff",
            // Between two writes of the agent's.
            "hearreboot: Power down",
        ] {
            assert_eq!(
                after_boot(&format!("{line}\r\n")),
                [ConsoleEvent::Shutdown],
                "{line}"
            );
        }
    }

    #[test]
    fn programs_that_write_to_the_console_themselves_are_not_the_kernel() {
        for words in [
            "looked for: Oops: 0005",
            "configure: Internal error: cannot find a fixture",
            "Linux version 6.12.48 (in an old log)",
            "BUG: in my own program",
            "INFO: task sh:1 blocked for more than 120 seconds.",
            "ALERT! this is our own alert",
            "expected: Kernel panic - not syncing: test",
        ] {
            assert_eq!(after_boot(&format!("{words}\r\n")), [], "{words}");
        }
    }

    #[test]
    fn a_prompt_is_told_once_and_not_after_the_kernel_started() {
        let mut watch = ConsoleParser::default();
        assert_eq!(watch.feed(b"=>"), []);
        assert_eq!(watch.feed(b" "), [ConsoleEvent::BootloaderPrompt]);
        assert_eq!(watch.feed(b""), []);
        watch.feed(b"boot\r\nLinux version 6.1\r\n");
        assert_eq!(watch.feed(b"=> "), []);
    }

    #[test]
    fn a_line_without_an_end_does_not_grow_for_ever() {
        let mut watch = ConsoleParser::default();
        watch.feed(&vec![b'x'; 1 << 20]);
        assert!(watch.partial.len() < LONGEST_LINE);
    }

    proptest! {
        #[test]
        fn no_noise_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            ConsoleParser::default().feed(&noise);
        }

        #[test]
        fn how_the_bytes_are_cut_is_of_no_matter(cut in 0usize..60) {
            let console = b"U-Boot 2025.01 x\r\n[ 1.0] Linux version 6.12\r\nneo login: ";
            let cut = cut.min(console.len());
            let mut watch = ConsoleParser::default();
            let mut events = watch.feed(&console[..cut]);
            events.extend(watch.feed(&console[cut..]));
            prop_assert_eq!(events, ConsoleParser::default().feed(console));
        }
    }
}
