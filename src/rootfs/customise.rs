//! Owns the recipe's changes to an image whose packages are configured: files, users, locale,
//! units, commands.
//! Never touches anything outside the image.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::locale::{self, Locale};
use super::tree::{Attributes, Kind, Tree};
use super::users::{self, Users};
use super::{secrets, strip};
use crate::agent::{self, Content};
use crate::error::Fault;
use crate::input;
use crate::recipe::{Arch, Command, FileEntry, Recipe, Strip, System, User};
use crate::sandbox::{Limits, Program, Root};

/// The parts of a recipe that are applied to a configured image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Customisation {
    /// The recipe's directory, for relative paths.
    pub directory: PathBuf,
    pub system: System,
    pub users: Vec<User>,
    pub files: Vec<FileEntry>,
    pub commands: Vec<Command>,
    pub strip: Strip,
    pub values: BTreeMap<String, toml::Value>,
    /// Packages installed only as dependencies of others.
    pub auto: Vec<String>,
}

/// The image to customise.
pub struct Context<'a> {
    pub root: &'a Path,
    pub arch: Arch,
    pub epoch: i64,
    pub limits: &'a Limits,
}

impl Customisation {
    pub fn new(recipe: &Recipe, directory: &Path, auto: Vec<String>) -> Self {
        Customisation {
            directory: directory.to_path_buf(),
            system: recipe.system.clone(),
            users: recipe.users.clone(),
            files: recipe.files.clone(),
            commands: recipe.commands.clone(),
            strip: recipe.strip.clone(),
            values: recipe.values.clone(),
            auto,
        }
    }

    /// All inputs of the result, named, for the stage's key: the recipe's text, and the content and
    /// mode of every file that it names.
    ///
    /// # Errors
    /// If a file cannot be read; all are checked before anything is built.
    pub fn inputs(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut inputs = vec![
            (
                "recipe: [system]".to_string(),
                serde_json::to_vec(&self.system)?,
            ),
            (
                "recipe: [[user]]".to_string(),
                serde_json::to_vec(&self.users)?,
            ),
            (
                "recipe: [[command]]".to_string(),
                serde_json::to_vec(&self.commands)?,
            ),
            (
                "recipe: [strip]".to_string(),
                serde_json::to_vec(&self.strip)?,
            ),
            (
                "recipe: [values]".to_string(),
                serde_json::to_vec(&self.values)?,
            ),
            (
                "automatically installed packages".to_string(),
                serde_json::to_vec(&self.auto)?,
            ),
            (
                "recipe: [[file]]".to_string(),
                serde_json::to_vec(&self.files)?,
            ),
        ];
        for file in agent::FILES {
            let (Content::Text(text) | Content::Link(text)) = file.content;
            inputs.push((format!("hearth's {}", file.path), text.as_bytes().to_vec()));
        }
        for file in &self.files {
            check(file)?;
            for source in [&file.source, &file.template].into_iter().flatten() {
                let path = self.directory.join(source);
                let named = || format!("the recipe's [[file]] for {}", file.path);
                digest(&path, Path::new(source), &mut inputs).with_context(named)?;
            }
        }
        Ok(inputs)
    }
}

/// Adds the digest of a file, or of every file in a directory.
fn digest(path: &Path, shown: &Path, inputs: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let failed = || format!("cannot read {}", path.display());
    let meta = fs::symlink_metadata(path).with_context(failed)?;
    let name = format!("file {}", shown.display());
    if meta.is_symlink() {
        let target = fs::read_link(path).with_context(failed)?;
        inputs.push((name, target.as_os_str().as_bytes().to_vec()));
    } else if meta.is_dir() {
        inputs.push((name, b"directory".to_vec()));
        for entry in sorted_names(path)? {
            digest(&path.join(&entry), &shown.join(&entry), inputs)?;
        }
    } else {
        let mut hash = Sha256::new();
        hash.update([u8::from(is_executable(&meta))]);
        let mut file = input::open(path).with_context(failed)?;
        let mut piece = vec![0; 1 << 16];
        loop {
            match file.read(&mut piece).with_context(failed)? {
                0 => break,
                length => hash.update(&piece[..length]),
            }
        }
        inputs.push((name, hash.finalize().to_vec()));
    }
    Ok(())
}

fn sorted_names(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    let failed = || format!("cannot read {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(failed)? {
        names.push(entry.with_context(failed)?.file_name());
    }
    names.sort();
    Ok(names)
}

fn is_executable(meta: &fs::Metadata) -> bool {
    meta.permissions().mode() & 0o111 != 0
}

/// Checks of a `[[file]]` that do not need the image.
fn check(file: &FileEntry) -> Result<()> {
    let kinds = usize::from(file.source.is_some())
        + usize::from(file.content.is_some())
        + usize::from(file.template.is_some())
        + usize::from(file.link.is_some())
        + usize::from(file.directory);
    let wrong = |what: &str, help: &str| {
        Err(
            Fault::input(format!("the recipe's [[file]] for {} {what}", file.path))
                .remedy(help)
                .into(),
        )
    };
    if kinds != 1 {
        return wrong(
            "does not say what it is",
            "give exactly one of source, content, template, link and directory",
        );
    }
    if !file.path.starts_with('/') || file.path.split('/').any(|part| part == "..") {
        return wrong(
            "has no absolute path",
            "write the path in the image, such as /etc/motd",
        );
    }
    match file
        .mode
        .as_deref()
        .map(|mode| u32::from_str_radix(mode, 8))
    {
        Some(Err(_) | Ok(0o10000..)) => wrong(
            "has no octal mode",
            "write the mode as a string, such as \"0644\"",
        ),
        _ => Ok(()),
    }
}

/// Applies everything in a fixed order: removes keys made by scripts, strips files of packages,
/// then adds users, settings, files, units, and runs the recipe's commands. Returns the warnings
/// for the user.
pub fn apply(context: &Context<'_>, custom: &Customisation) -> Result<Vec<String>> {
    let mut tree = Tree::open(context.root)?;
    let brought: Vec<&Path> = custom
        .files
        .iter()
        .map(|file| Path::new(&file.path))
        .collect();
    let told = secrets::leave_out(&mut tree, &brought, context.epoch)?;
    strip::apply(&mut tree, &custom.strip, context.epoch)?;
    users::apply(&mut tree, &custom.users, context.epoch)?;
    apt(&mut tree, context, &custom.auto)?;
    hosts(&mut tree, context.epoch)?;
    host_keys(&mut tree, context.epoch)?;
    agent(&mut tree, context.epoch)?;
    timezone(&mut tree, custom.system.timezone.as_deref(), context.epoch)?;
    let users = Users::load(&mut tree)?;
    for file in &custom.files {
        lay(&mut tree, context, custom, &users, file)
            .with_context(|| format!("the recipe's [[file]] for {}", file.path))?;
    }
    drop(tree);
    set_locale(context, custom.system.locale.as_deref())?;
    units(context, custom)?;
    for command in &custom.commands {
        run(context, &command.run, command.network)?;
    }
    secrets::remove_ssh_host_keys(&mut Tree::open(context.root)?, &brought)?;
    Ok(told)
}

/// APT's state on the board: no mirror, and which packages were installed automatically.
fn apt(tree: &mut Tree, context: &Context<'_>, auto: &[String]) -> Result<()> {
    if tree.kind(Path::new("etc/apt")).is_none() {
        return Ok(());
    }
    let sources = "# This image was built by hearth, which writes no mirror's address into it.\n\
                   # To install packages on the board, name one here, or in sources.list.d.\n";
    tree.write(
        "etc/apt/sources.list",
        0o644,
        sources.as_bytes(),
        context.epoch,
    )?;
    let states: String = auto
        .iter()
        .map(|name| {
            format!(
                "Package: {name}\nArchitecture: {}\nAuto-Installed: 1\n\n",
                context.arch
            )
        })
        .collect();
    tree.write(
        "var/lib/apt/extended_states",
        0o644,
        states.as_bytes(),
        context.epoch,
    )
}

/// No package contains `/etc/hosts` (hosts(5)), but programs expect that `localhost` resolves.
fn hosts(tree: &mut Tree, epoch: i64) -> Result<()> {
    if tree.kind(Path::new("etc/hosts")).is_some() {
        return Ok(());
    }
    let text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    tree.write("etc/hosts", 0o644, text.as_bytes(), epoch)
}

/// Lets boards make their own ssh host keys when they boot: the image has none, and as its
/// `machine-id` is empty rather than `uninitialized`, systemd's first-boot units (Debian's
/// `sshd-keygen.service`) do not run. One key type is enough: an RSA key at every boot takes a
/// small board many seconds.
fn host_keys(tree: &mut Tree, epoch: i64) -> Result<()> {
    const UNIT: &str = "[Unit]\n\
        Description=Make the ssh host keys that this board does not have yet\n\
        ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n\
        Before=ssh.service sshd.service ssh.socket\n\
        \n\
        [Service]\n\
        Type=oneshot\n\
        ExecStart=/usr/bin/ssh-keygen -q -N \"\" -t ed25519 -f /etc/ssh/ssh_host_ed25519_key\n\
        RemainAfterExit=yes\n";
    const NAME: &str = "hearth-ssh-host-keys.service";
    let has = |tree: &mut Tree, path: &str| tree.kind(Path::new(path)).is_some();
    if !has(tree, "usr/sbin/sshd") || !has(tree, "usr/lib/systemd/systemd") {
        return Ok(());
    }
    tree.write(
        format!("usr/lib/systemd/system/{NAME}"),
        0o644,
        UNIT.as_bytes(),
        epoch,
    )?;
    for wanting in ["ssh.service.wants", "ssh.socket.wants"] {
        let link = Path::new("usr/lib/systemd/system").join(wanting).join(NAME);
        symlink(tree, &link, Path::new("..").join(NAME).as_path(), epoch)?;
    }
    Ok(())
}

/// Installs the agent, which checks in with the lab, in images that can run it.
fn agent(tree: &mut Tree, epoch: i64) -> Result<()> {
    let needed = ["usr/lib/systemd/systemd", "usr/bin/curl"];
    if needed
        .iter()
        .any(|path| tree.kind(Path::new(path)).is_none())
    {
        return Ok(());
    }
    for file in agent::FILES {
        let path = Path::new(file.path.trim_start_matches('/'));
        match file.content {
            Content::Text(text) => tree.write(path, file.mode, text.as_bytes(), epoch)?,
            Content::Link(target) => symlink(tree, path, Path::new(target), epoch)?,
        }
    }
    Ok(())
}

fn symlink(tree: &mut Tree, path: &Path, target: &Path, epoch: i64) -> Result<()> {
    let attributes = Attributes {
        uid: 0,
        gid: 0,
        mode: 0o777,
        mtime: epoch,
    };
    tree.replace_with_symlink(path, target, attributes)
        .with_context(|| format!("cannot make the link {}", path.display()))
}

fn timezone(tree: &mut Tree, zone: Option<&str>, epoch: i64) -> Result<()> {
    let zone = match zone {
        Some(zone) => zone,
        None if tree.kind(Path::new("usr/share/zoneinfo/Etc/UTC")).is_some() => "Etc/UTC",
        None => return Ok(()),
    };
    let file = locale::zone(tree, zone)?;
    symlink(tree, Path::new("etc/localtime"), &file, epoch)?;
    if tree.kind(Path::new("etc/timezone")).is_some() {
        tree.write("etc/timezone", 0o644, format!("{zone}\n").as_bytes(), epoch)?;
    }
    Ok(())
}

fn set_locale(context: &Context<'_>, asked: Option<&str>) -> Result<()> {
    let mut tree = Tree::open(context.root)?;
    let Locale { name, generate } = locale::locale(&mut tree, asked.unwrap_or("C.UTF-8"))?;
    // In trixie, /etc/default/locale is a link to this file; in bookworm it is the file itself.
    let link = Path::new("etc/default/locale");
    let place = match tree.kind(link) {
        Some(Kind::Link) => "etc/locale.conf",
        _ => "etc/default/locale",
    };
    tree.write(
        place,
        0o644,
        format!("LANG={name}\n").as_bytes(),
        context.epoch,
    )?;
    let Some(charset) = generate else {
        return Ok(());
    };
    let line = format!("{name} {charset}\n");
    tree.write("etc/locale.gen", 0o644, line.as_bytes(), context.epoch)?;
    drop(tree);
    run(context, "locale-gen", false)
}

/// Puts one file, directory or link into the image.
fn lay(
    tree: &mut Tree,
    context: &Context<'_>,
    custom: &Customisation,
    users: &Users,
    file: &FileEntry,
) -> Result<()> {
    let (uid, gid) = owner(users, file)?;
    let mode = match &file.mode {
        Some(mode) => Some(u32::from_str_radix(mode, 8)?),
        None => None,
    };
    let attributes = |default: u32| Attributes {
        uid,
        gid,
        mode: mode.unwrap_or(default),
        mtime: context.epoch,
    };
    let path = Path::new(&file.path);
    if file.directory {
        tree.make_directory(path)?;
        return Ok(tree.set_attributes(path, attributes(0o755))?);
    }
    if let Some(parent) = path.parent() {
        tree.make_directory(parent)?;
    }
    if let Some(target) = &file.link {
        return Ok(tree.replace_with_symlink(path, Path::new(target), attributes(0o777))?);
    }
    if let Some(source) = &file.source {
        return copy(tree, &custom.directory.join(source), path, &|meta| {
            attributes(match meta.is_dir() || is_executable(meta) {
                true => 0o755,
                false => 0o644,
            })
        });
    }
    let text = match (&file.content, &file.template) {
        (Some(content), _) => content.clone(),
        (None, Some(template)) => render(&custom.directory.join(template), &custom.values)?,
        (None, None) => String::new(),
    };
    tree.replace(path, attributes(0o644), &mut text.as_bytes(), &mut |_| {})?;
    Ok(())
}

fn owner(users: &Users, file: &FileEntry) -> Result<(u32, u32)> {
    let owner = file.owner.as_deref().unwrap_or("root:root");
    let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
    let unknown = |what: &str, name: &str| {
        Fault::input(format!("the image has no {what} {name}"))
            .remedy("use a number, or a name that its packages or the recipe's [[user]]s make")
    };
    let uid = users.uid(user).ok_or_else(|| unknown("user", user))?;
    let gid = match group {
        "" => users.gid(user).unwrap_or(uid),
        group => users.gid(group).ok_or_else(|| unknown("group", group))?,
    };
    Ok((uid, gid))
}

/// Copies a file, a link, or a directory recursively.
fn copy(
    tree: &mut Tree,
    from: &Path,
    to: &Path,
    attributes: &dyn Fn(&fs::Metadata) -> Attributes,
) -> Result<()> {
    let failed = || format!("cannot copy {} into the image", from.display());
    let meta = fs::symlink_metadata(from).with_context(failed)?;
    if meta.is_symlink() {
        let target = fs::read_link(from).with_context(failed)?;
        let link = Attributes {
            mode: 0o777,
            ..attributes(&meta)
        };
        tree.replace_with_symlink(to, &target, link)
            .with_context(failed)
    } else if meta.is_dir() {
        if tree.make_directory(to).with_context(failed)? {
            let directory = Attributes {
                mode: 0o755,
                ..attributes(&meta)
            };
            tree.set_attributes(to, directory).with_context(failed)?;
        }
        for name in sorted_names(from)? {
            copy(tree, &from.join(&name), &to.join(&name), attributes)?;
        }
        Ok(())
    } else {
        let mut file = input::open(from).with_context(failed)?;
        tree.replace(to, attributes(&meta), &mut file, &mut |_| {})
            .with_context(failed)
    }
}

fn render(template: &Path, values: &BTreeMap<String, toml::Value>) -> Result<String> {
    let text = input::read_text(template)
        .with_context(|| format!("cannot read {}", template.display()))?;
    let mut handlebars = handlebars::Handlebars::new();
    handlebars.set_strict_mode(true);
    // The output is a configuration file: no HTML escapes.
    handlebars.register_escape_fn(handlebars::no_escape);
    handlebars.render_template(&text, values).map_err(|error| {
        Fault::input(format!("{}: {error}", template.display()))
            .remedy("the template sees the recipe's [values]")
            .into()
    })
}

/// Enables, disables and masks units with the image's own systemctl, which reads their `[Install]`
/// sections.
fn units(context: &Context<'_>, custom: &Customisation) -> Result<()> {
    let units = &custom.system.units;
    for (verb, names) in [
        ("enable", &units.enable),
        ("disable", &units.disable),
        ("mask", &units.mask),
    ] {
        if !names.is_empty() {
            let quoted: Vec<String> = names.iter().map(|name| quote(name)).collect();
            run(
                context,
                &format!("systemctl --quiet {verb} {}", quoted.join(" ")),
                false,
            )?;
        }
    }
    Ok(())
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs shell commands inside the image.
fn run(context: &Context<'_>, script: &str, network: bool) -> Result<()> {
    let root = Root {
        network,
        epoch: u64::try_from(context.epoch)?,
        limits: context.limits.clone(),
        ..Root::new(context.root)
    };
    let mut lines: Vec<String> = Vec::new();
    let status = root.run(&Program::shell(script), &mut |line| {
        log::info!("  | {line}");
        lines.push(line.to_string());
    })?;
    if status.success() {
        return Ok(());
    }
    let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
    Err(Fault::input(format!(
        "`{script}` failed inside the image ({status}):\n  {last}"
    ))
    .remedy(
        "correct the recipe; `hearth shell RECIPE` shows the image as it was before its commands",
    )
    .into())
}

#[cfg(test)]
mod tests;
