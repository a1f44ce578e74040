//! Owns how a console's bytes become lines and events: bootloader, kernel, login, and every kind of crash.
//! Never acts on them, and never waits.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

/// A line longer than this, in bytes, is cut in two: a board may send noise without an end.
const LONGEST_LINE: usize = 8 << 10;

/// Something that a console showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
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
    },
}

/// What each line is compared with; the first match names it.
const PATTERNS: [(Kind, &str); 20] = [
    (Kind::Bootloader, r"^U-Boot (SPL )?20\d\d\.\d\d"),
    (
        Kind::BootloaderTrouble,
        r"^(TFTP error: .*|Retry count exceeded.*|Wrong Image (Format|Type).*|Bad Linux .*[Mm]agic.*|.*Bad (Data|Header) CRC.*|.*ERROR: can't get kernel image.*)",
    ),
    (
        Kind::BootScript,
        r"^hearth: (?P<board>\S+) boots (?P<image>\S+) from",
    ),
    (Kind::Kernel, r"Linux version \d"),
    (
        Kind::Userspace,
        r"(systemd\[1\]: (systemd .*running in system mode|Detected architecture)|Welcome to .*!)",
    ),
    (
        Kind::Shutdown,
        r"reboot: (Restarting system|Power down|Power off not available|System halted)|Requesting system (reboot|poweroff)",
    ),
    (
        Kind::Crash("kernel panic"),
        r"Kernel panic - not syncing: ?(?P<message>.*)",
    ),
    (
        Kind::Crash("kernel oops"),
        r"(?P<message>Internal error: .*)",
    ),
    (
        Kind::Crash("kernel oops"),
        r"(?P<message>Unable to handle kernel .*)",
    ),
    (
        Kind::Crash("kernel oops"),
        r"(?P<message>Oops: .*|Oops \[#\d.*)",
    ),
    (Kind::Crash("kernel BUG"), r"(?P<message>kernel BUG at .*)"),
    (Kind::Crash("kernel BUG"), r"(?:^|\] )(?P<message>BUG: .*)"),
    (
        Kind::Crash("RCU stall"),
        r"(?P<message>rcu: INFO: rcu_\w+ (self-)?detected (expedited )?stall.*)",
    ),
    (
        Kind::Crash("soft lockup"),
        r"(?P<message>watchdog: BUG: soft lockup.*)",
    ),
    (
        Kind::Crash("hung task"),
        r"(?P<message>INFO: task .* blocked for more than \d+ seconds.*)",
    ),
    (Kind::Login, r"(^|\W)[\w.-]+ login: \S+ \(automatic login\)"),
    (
        Kind::Crash("emergency mode"),
        r"(?P<message>You are in (emergency|rescue) mode.*)",
    ),
    (
        Kind::Crash("initrd failure"),
        r"^hearth: (?P<message>(cannot|gave up|giving up|failed).*)",
    ),
    (
        Kind::Crash("initrd failure"),
        r"(?P<message>ALERT! .*|Dropping to a shell!)",
    ),
    (
        Kind::Crash("full overlay"),
        r"^hearth: (?P<message>the overlay is full.*)",
    ),
];

#[derive(Clone, Copy)]
enum Kind {
    Bootloader,
    BootloaderTrouble,
    BootScript,
    Kernel,
    Userspace,
    Login,
    Shutdown,
    Crash(&'static str),
}

static SET: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new(PATTERNS.map(|(_, pattern)| pattern)).expect("the patterns are constants")
});
static EACH: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    PATTERNS
        .iter()
        .map(|(_, pattern)| Regex::new(pattern).expect("the patterns are constants"))
        .collect()
});
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
pub struct Watch {
    /// What came since the last line ending.
    partial: Vec<u8>,
    /// Whether the prompt that stands in `partial` was told already.
    prompted: bool,
    /// Whether the kernel has started: after that `=>` is no prompt of U-Boot's.
    kernel: bool,
}

impl Watch {
    /// Takes what was read and gives what it means, in order.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' => self.line(&mut events),
                // U-Boot and the kernel end lines with both; a lone CR is a progress display.
                b'\r' | 0 => {}
                _ => {
                    self.partial.push(byte);
                    if self.partial.len() >= LONGEST_LINE {
                        self.line(&mut events);
                    }
                }
            }
        }
        self.prompt(&mut events);
        events
    }

    /// No more will come: gives what has no line ending.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if !self.partial.is_empty() {
            self.line(&mut events);
        }
        events
    }

    fn line(&mut self, events: &mut Vec<Event>) {
        let raw = std::mem::take(&mut self.partial);
        let line = clean(&raw);
        self.prompted = false;
        let seen: Vec<usize> = SET.matches(&line).into_iter().collect();
        events.push(Event::Line {
            text: line.clone(),
            raw,
        });
        // Several patterns may know one line; the first one names it.
        if let Some(&index) = seen.first() {
            events.push(self.event(index, &line));
        }
    }

    fn event(&mut self, index: usize, line: &str) -> Event {
        let part = |name: &str| {
            EACH[index]
                .captures(line)
                .and_then(|found| Some(found.name(name)?.as_str().trim().to_string()))
                .unwrap_or_else(|| line.trim().to_string())
        };
        match PATTERNS[index].0 {
            Kind::Bootloader => {
                self.kernel = false;
                Event::Bootloader
            }
            Kind::BootloaderTrouble => Event::BootloaderTrouble(line.trim().to_string()),
            Kind::BootScript => Event::BootScript {
                board: part("board"),
                image: part("image"),
            },
            Kind::Kernel => {
                self.kernel = true;
                Event::Kernel
            }
            Kind::Userspace => Event::Userspace,
            Kind::Login => Event::Login,
            Kind::Shutdown => Event::Shutdown,
            Kind::Crash(kind) => Event::Crash {
                kind,
                message: part("message"),
            },
        }
    }

    fn prompt(&mut self, events: &mut Vec<Event>) {
        if self.prompted || self.partial.is_empty() {
            return;
        }
        let text = clean(&self.partial);
        let event = if !self.kernel && PROMPT.is_match(&text) {
            Event::BootloaderPrompt
        } else if LOGIN.is_match(&text) {
            Event::Login
        } else {
            return;
        };
        self.prompted = true;
        events.push(event);
    }
}

/// A line as text: noise becomes U+FFFD, control sequences and other control characters go.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = CONTROL.replace_all(&text, "");
    text.chars()
        .filter(|c| !c.is_control() || *c == '\t')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(bytes: &[u8]) -> Vec<Event> {
        let mut events = Watch::default().feed(bytes);
        events.retain(|event| !matches!(event, Event::Line { .. }));
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
                Event::Bootloader,
                Event::Bootloader,
                Event::Kernel,
                Event::Userspace,
                Event::Login
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
                [Event::Crash {
                    kind,
                    message: message.into()
                }],
                "{line}"
            );
        }
    }

    #[test]
    fn a_prompt_is_told_once_and_not_after_the_kernel_started() {
        let mut watch = Watch::default();
        assert_eq!(watch.feed(b"=>"), []);
        assert_eq!(watch.feed(b" "), [Event::BootloaderPrompt]);
        assert_eq!(watch.feed(b""), []);
        watch.feed(b"boot\r\nLinux version 6.1\r\n");
        assert_eq!(watch.feed(b"=> "), []);
    }

    #[test]
    fn a_line_without_an_end_does_not_grow_for_ever() {
        let mut watch = Watch::default();
        watch.feed(&vec![b'x'; 1 << 20]);
        assert!(watch.partial.len() < LONGEST_LINE);
    }

    proptest! {
        #[test]
        fn no_noise_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            Watch::default().feed(&noise);
        }

        #[test]
        fn how_the_bytes_are_cut_is_of_no_matter(cut in 0usize..60) {
            let console = b"U-Boot 2025.01 x\r\n[ 1.0] Linux version 6.12\r\nneo login: ";
            let cut = cut.min(console.len());
            let mut watch = Watch::default();
            let mut events = watch.feed(&console[..cut]);
            events.extend(watch.feed(&console[cut..]));
            prop_assert_eq!(events, Watch::default().feed(console));
        }
    }
}
