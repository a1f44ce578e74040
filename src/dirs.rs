//! Owns where hearth keeps things: cache, state, and the recipes and templates it ships.
//! Never creates a directory that was only asked about.

use std::env;
use std::path::PathBuf;

/// The directory for what can be made again: `HEARTH_CACHE`, else `$XDG_CACHE_HOME/hearth`, else
/// `~/.cache/hearth`. Relative values of the environment are taken as the XDG specification
/// says: as unset.
pub fn cache() -> PathBuf {
    from_environment("HEARTH_CACHE", "XDG_CACHE_HOME", ".cache")
}

/// The directory for what must not be lost: `HEARTH_STATE`, else `$XDG_STATE_HOME/hearth`, else
/// `~/.local/state/hearth`.
pub fn state() -> PathBuf {
    from_environment("HEARTH_STATE", "XDG_STATE_HOME", ".local/state")
}

fn from_environment(own: &str, xdg: &str, below_home: &str) -> PathBuf {
    let absolute = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(path) = absolute(own) {
        return path;
    }
    if let Some(path) = absolute(xdg) {
        return path.join("hearth");
    }
    home().join(below_home).join("hearth")
}

/// `$HOME`, or what the user database says; the temporary directory for users who have neither.
fn home() -> PathBuf {
    if let Some(home) = env::var_os("HOME").map(PathBuf::from)
        && home.is_absolute()
    {
        return home;
    }
    nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map_or_else(env::temp_dir, |user| user.dir)
}

/// Directories in which `recipes/` and `boot-scripts/` are looked for, nearest first: `HEARTH_DATA`,
/// the working directory, and `share/hearth` beside the executable's directory. What none of
/// them has, the copies built into the binary provide.
pub fn data() -> Vec<PathBuf> {
    let mut found = Vec::new();
    found.extend(env::var_os("HEARTH_DATA").map(PathBuf::from));
    found.push(PathBuf::from("."));
    if let Ok(exe) = env::current_exe()
        && let Some(prefix) = exe.parent().and_then(|bin| bin.parent())
    {
        found.push(prefix.join("share/hearth"));
    }
    found
}
