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

/// hearth's directory as the XDG specification has it; one for temporary files where the user has no home.
fn standard(xdg: &str, below_home: &str) -> PathBuf {
    user_directory(xdg, below_home)
        .unwrap_or_else(|| env::temp_dir().join(below_home).join("hearth"))
}

/// hearth's directory below one of the XDG base directories; `None` for users without a home.
fn user_directory(xdg: &str, below_home: &str) -> Option<PathBuf> {
    let base = absolute(xdg).or_else(|| Some(home()?.join(below_home)))?;
    Some(base.join("hearth"))
}

/// The XDG specification has relative paths ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// `$HOME`, or the home in the user database.
fn home() -> Option<PathBuf> {
    absolute("HOME").or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid());
        user.ok().flatten().map(|user| user.dir)
    })
}

/// Directories in which `recipes/` and `boot-scripts/` are looked for, in this order: `HEARTH_DATA`, the
/// working directory, `$XDG_DATA_HOME/hearth` (`~/.local/share/hearth`), and `share/hearth` beside the
/// directory of the executable. Files in none of them are taken from the binary.
pub fn data() -> Vec<PathBuf> {
    let mut found = Vec::new();
    found.extend(env::var_os("HEARTH_DATA").map(PathBuf::from));
    found.push(PathBuf::from("."));
    found.extend(user_directory("XDG_DATA_HOME", ".local/share"));
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
