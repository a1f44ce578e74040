//! Owns where hearth keeps things: cache, state, and the recipes and templates it ships.
//! Never creates a directory that was only asked about.

use std::env;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directory for what can be made again: `HEARTH_CACHE`, else `$XDG_CACHE_HOME/hearth`, else
/// `~/.cache/hearth`. Relative values of the environment are taken as the XDG specification
/// says: as unset.
pub fn cache() -> PathBuf {
    from_environment("HEARTH_CACHE", "XDG_CACHE_HOME", ".cache")
}

/// Makes the cache and keeps everybody else out, also where it was made before: images hold setuid programs, which nobody but
/// their boards is to start.
///
/// # Errors
/// If it cannot be made, or belongs to somebody else.
pub fn make_private(cache: &Path) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let mode = fs::metadata(cache)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(cache, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The directory for what must not be lost: `HEARTH_STATE`, else `$XDG_STATE_HOME/hearth`, else
/// `~/.local/state/hearth`.
pub fn state() -> PathBuf {
    from_environment("HEARTH_STATE", "XDG_STATE_HOME", ".local/state")
}

/// The file with the key of [`crate::seal`]: `$XDG_STATE_HOME/hearth/seal.key`, else
/// `~/.local/state/hearth/seal.key`. It is the user's, whatever `HEARTH_STATE` a lab has.
pub fn seal_key() -> PathBuf {
    standard("XDG_STATE_HOME", ".local/state").join("seal.key")
}

fn from_environment(own: &str, xdg: &str, below_home: &str) -> PathBuf {
    absolute(own).unwrap_or_else(|| standard(xdg, below_home))
}

/// hearth's directory as the XDG specification has it.
fn standard(xdg: &str, below_home: &str) -> PathBuf {
    absolute(xdg)
        .unwrap_or_else(|| home().join(below_home))
        .join("hearth")
}

fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_closed_to_others_also_when_it_was_open() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("a/cache");
        for _ in 0..2 {
            make_private(&cache).unwrap();
            let mode = fs::metadata(&cache).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            fs::set_permissions(&cache, Permissions::from_mode(0o755)).unwrap();
        }
    }
}
