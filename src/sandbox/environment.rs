//! Owns the environment of programs of an image. Never passes anything of the host's on.

/// Variables that every program gets; `terminal` is the caller's `TERM` where it has a terminal.
///
/// The hash seeds make Perl and Python walk their tables in one order, which ends up in generated files.
pub fn fixed(epoch: u64, terminal: Option<String>) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
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
    variables.push(("SOURCE_DATE_EPOCH".into(), epoch.to_string()));
    variables.extend(terminal.map(|term| ("TERM".into(), term)));
    variables
}
