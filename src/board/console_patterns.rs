//! Owns the patterns of what firmware, kernel, initrd and programs print on a console, and who prints each.
//! Never decides whether a match counts.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

use super::numbered::PRINTK_STAMP;

/// What a line of the board's own is compared with; the first match names it. Patterns of the kernel match the whole
/// message behind printk's prefix, as the kernel's sources print it.
pub(super) const PATTERNS: [(Kind, Source, &str); 23] = [
    (
        Kind::Bootloader,
        Source::Firmware,
        // A reset leaves noise on the line.
        r"^[^ -~]*U-Boot ([STV]PL )?20\d\d\.\d\d",
    ),
    (
        Kind::BootloaderTrouble,
        Source::Firmware,
        r"^(TFTP error: .*|Retry count exceeded.*|Wrong Image (Format|Type).*|Bad Linux .*[Mm]agic.*|.*Bad (Data|Header) CRC.*|.*ERROR: can't get kernel image.*)",
    ),
    (
        Kind::BootScript,
        Source::Firmware,
        r"^hearth: (?P<board>\S+) boots (?P<image>\S+) from",
    ),
    (Kind::Kernel, Source::Kernel, r"Linux version \d+\.\d+"),
    (
        Kind::Userspace,
        Source::Kernel,
        r"systemd\[1\]: (systemd .*running in system mode|Detected architecture)",
    ),
    (Kind::Userspace, Source::Program, r"^Welcome to .*!"),
    (
        Kind::Shutdown,
        Source::Kernel,
        r"reboot: (Restarting system|Power down|Power off not available|System halted)",
    ),
    (
        Kind::Shutdown,
        Source::Program,
        r"^Requesting system (reboot|poweroff)",
    ),
    (
        Kind::Crash("kernel panic"),
        Source::Kernel,
        r"(---\[ end )?Kernel panic - not syncing: ?(?P<message>.*)",
    ),
    (
        Kind::Crash("kernel oops"),
        Source::Kernel,
        r"(?P<message>Internal error: .*\[#\d+\].*)",
    ),
    (
        Kind::Crash("kernel oops"),
        Source::Kernel,
        r"(?P<message>Unable to handle kernel .* at virtual address .*)",
    ),
    (
        Kind::Crash("kernel oops"),
        Source::Kernel,
        r"(?P<message>Oops: .*\[#\d+\].*|Oops \[#\d+\].*)",
    ),
    (
        Kind::Crash("kernel oops"),
        Source::Kernel,
        r"(?P<message>Unhandled fault: .* at 0x.*|Insufficient stack space to handle exception!)",
    ),
    (
        Kind::Crash("kernel BUG"),
        Source::Kernel,
        r"(?P<message>kernel BUG at \S+:\d+!.*)",
    ),
    (
        Kind::Crash("kernel BUG"),
        Source::Stamped,
        r"(?P<message>BUG: .*)",
    ),
    (
        Kind::Crash("RCU stall"),
        Source::Stamped,
        r"(?P<message>(rcu: )?INFO: rcu_\w+ (self-)?detected (expedited )?stalls?.*)",
    ),
    (
        Kind::Crash("soft lockup"),
        Source::Stamped,
        r"(?P<message>(NMI )?watchdog: BUG: soft lockup - CPU#\d+.*|(NMI )?watchdog: (CPU\d+: )?Watchdog detected hard LOCKUP.*)",
    ),
    (
        Kind::Crash("hung task"),
        Source::Stamped,
        r"(?P<message>INFO: task .*:\d+ blocked for more than \d+ seconds.*)",
    ),
    (
        Kind::Login,
        Source::Program,
        r"(^|\W)[\w.-]+ login: \S+ \(automatic login\)",
    ),
    (
        Kind::Crash("emergency mode"),
        Source::Program,
        r"^(?P<message>You are in (emergency|rescue) mode.*)",
    ),
    (
        Kind::Crash("initrd failure"),
        Source::Initrd,
        r"^hearth: (?P<message>(cannot|gave up|giving up|failed).*)",
    ),
    (
        Kind::Crash("initrd failure"),
        Source::Initrd,
        r"^(?P<message>ALERT! .*|Dropping to a shell!)",
    ),
    (
        Kind::Crash("full overlay"),
        Source::Program,
        // Anywhere: the agent says it while a line of the job's may be half written.
        r"hearth: (?P<message>the overlay is full.*)",
    ),
];

/// Who prints what a pattern describes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// At the beginning of a line, before the kernel or after a reset.
    Firmware,
    /// With printk's prefix anywhere in a line, or without it at the beginning of one.
    Kernel,
    /// The same, but without the prefix only if this kernel prints none: the words are common ones.
    Stamped,
    /// At the beginning of a line, until the init system runs.
    Initrd,
    /// Programs that write to the console.
    Program,
}

/// What may stand before a line of another program: the agent's own line was written in two pieces.
const TORN_HEAD: &str = r"(?:hearth:[\d:]*|hearth|heart|hear|hea|he|h)?";

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Bootloader,
    BootloaderTrouble,
    BootScript,
    Kernel,
    Userspace,
    Login,
    Shutdown,
    Crash(&'static str),
}

pub(super) static EACH: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    PATTERNS
        .iter()
        .map(|(_, source, pattern)| {
            Regex::new(&anchored(*source, pattern)).expect("the patterns are constants")
        })
        .collect()
});
pub(super) static SET: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new(EACH.iter().map(Regex::as_str)).expect("the patterns are constants")
});

fn anchored(source: Source, pattern: &str) -> String {
    match source {
        Source::Kernel | Source::Stamped => {
            format!("(?:^{TORN_HEAD}|(?P<stamp>{PRINTK_STAMP}))(?:{pattern})")
        }
        Source::Firmware | Source::Initrd | Source::Program => match pattern.strip_prefix('^') {
            Some(rest) => format!("^{TORN_HEAD}(?:{rest})"),
            None => pattern.to_string(),
        },
    }
}
