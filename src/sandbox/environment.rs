//! Owns the environment of programs of an image. Never passes anything of the host's on.

use super::mounts::SHIMS;
use super::root::Root;

/// The search path of programs.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that every program gets; `terminal` is the caller's `TERM` where it has a terminal.
///
/// The hash seeds make Perl and Python walk their tables in one order, which ends up in generated files.
pub fn fixed(root: &Root, terminal: Option<String>) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = [
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/sh"),
        ("LC_ALL", "C.UTF-8"),
        ("LANG", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("PERL_HASH_SEED", "0"),
        ("PERL_PERTURB_KEYS", "0"),
        ("PYTHONHASHSEED", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let path = if root.shims.is_empty() {
        PATH.to_owned()
    } else {
        format!("{SHIMS}:{PATH}")
    };
    variables.push(("PATH".into(), path));
    variables.push(("SOURCE_DATE_EPOCH".into(), root.epoch.to_string()));
    variables.extend(terminal.map(|term| ("TERM".into(), term)));
    variables
}
