//! Owns the image's user database (passwd(5), group(5), shadow(5), gshadow(5)): looks up names,
//! adds the recipe's users.
//! Never reads the host's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tree::{Attributes, Kind, Tree};
use crate::error::Fault;
use crate::recipe::User;

const DAY: i64 = 24 * 60 * 60;

/// The four tables, line by line.
pub struct Users {
    passwd: Vec<String>,
    group: Vec<String>,
    shadow: Vec<String>,
    gshadow: Vec<String>,
}

impl Users {
    pub fn load(tree: &mut Tree) -> Result<Self> {
        let mut lines = |name: &str| -> Result<Vec<String>> {
            Ok(tree.read_text(name)?.lines().map(str::to_string).collect())
        };
        Ok(Users {
            passwd: lines("etc/passwd")?,
            group: lines("etc/group")?,
            shadow: lines("etc/shadow")?,
            gshadow: lines("etc/gshadow")?,
        })
    }

    fn save(&self, tree: &mut Tree, epoch: i64) -> Result<()> {
        let shadow_group = self.gid("shadow").unwrap_or(0);
        for (name, lines, mode, gid) in [
            ("etc/passwd", &self.passwd, 0o644, 0),
            ("etc/group", &self.group, 0o644, 0),
            ("etc/shadow", &self.shadow, 0o640, shadow_group),
            ("etc/gshadow", &self.gshadow, 0o640, shadow_group),
        ] {
            let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            let attributes = Attributes {
                uid: 0,
                gid,
                mode,
                mtime: epoch,
            };
            tree.replace(
                Path::new(name),
                attributes,
                &mut text.as_bytes(),
                &mut |_| {},
            )
            .with_context(|| format!("cannot write /{name} of the image"))?;
        }
        Ok(())
    }

    /// The uid of a user, given by name or number.
    pub fn uid(&self, user: &str) -> Option<u32> {
        user.parse()
            .ok()
            .or_else(|| field(&self.passwd, user, 2)?.parse().ok())
    }

    /// The gid of a group, given by name or number.
    pub fn gid(&self, group: &str) -> Option<u32> {
        group
            .parse()
            .ok()
            .or_else(|| field(&self.group, group, 2)?.parse().ok())
    }

    /// Adds a user, with a group of the same name and number, or changes an existing one.
    fn put(&mut self, user: &User, epoch: i64) -> Result<()> {
        if user.name.is_empty() || user.name.contains([':', '\n', '/', ' ']) {
            return Err(Fault::input(format!("`{}` is no name for a user", user.name)).into());
        }
        let password = user.password_hash.as_deref();
        if field(&self.passwd, &user.name, 2).is_none() {
            self.add(user, epoch)?;
        } else {
            for (index, value) in [(5, &user.home), (6, &user.shell)] {
                if let Some(value) = value {
                    set_field(&mut self.passwd, &user.name, index, value);
                }
            }
            let uid = user.uid.map(|uid| uid.to_string());
            if uid.is_some() && uid.as_deref() != field(&self.passwd, &user.name, 2) {
                return Err(Fault::input(format!(
                    "the image has a user {} already, with another uid",
                    user.name
                ))
                .remedy("leave `uid` out of the recipe's [[user]]")
                .into());
            }
        }
        if let Some(password) = password {
            set_field(&mut self.shadow, &user.name, 1, password);
        }
        for group in &user.groups {
            self.join(&user.name, group)?;
        }
        Ok(())
    }

    fn add(&mut self, user: &User, epoch: i64) -> Result<()> {
        let name = &user.name;
        let taken = |lines: &[String], id: u32| {
            lines
                .iter()
                .any(|line| line.split(':').nth(2) == Some(&id.to_string()))
        };
        let free = |id: &u32| !taken(&self.passwd, *id) && !taken(&self.group, *id);
        let uid = match user.uid {
            Some(uid) if taken(&self.passwd, uid) => {
                return Err(
                    Fault::input(format!("the uid {uid} of {name} is taken in the image"))
                        .remedy("choose another one, or leave `uid` out of the recipe's [[user]]")
                        .into(),
                );
            }
            Some(uid) => uid,
            None => (1000..60000).find(free).context("there is no uid left")?,
        };
        let gid = match self.gid(name) {
            Some(gid) => gid,
            None => {
                let gid = if taken(&self.group, uid) {
                    (1000..60000).find(free).context("there is no gid left")?
                } else {
                    uid
                };
                self.group.push(format!("{name}:x:{gid}:"));
                self.gshadow.push(format!("{name}:!::"));
                gid
            }
        };
        let home = home_of(user);
        let shell = user.shell.as_deref().unwrap_or("/bin/bash");
        self.passwd
            .push(format!("{name}:x:{uid}:{gid}::{}:{shell}", home.display()));
        self.shadow
            .push(format!("{name}:!:{}:0:99999:7:::", epoch / DAY));
        Ok(())
    }

    fn join(&mut self, user: &str, group: &str) -> Result<()> {
        if field(&self.group, group, 2).is_none() {
            return Err(Fault::input(format!(
                "the image has no group {group}, which the user {user} is to be in"
            ))
            .remedy("install the package that makes it, or take it out of the recipe's `groups`")
            .into());
        }
        for lines in [&mut self.group, &mut self.gshadow] {
            let members = field(lines, group, 3).unwrap_or_default().to_string();
            if !members.split(',').any(|member| member == user) {
                let joined = if members.is_empty() {
                    user.to_string()
                } else {
                    format!("{members},{user}")
                };
                set_field(lines, group, 3, &joined);
            }
        }
        Ok(())
    }

    fn home(&self, user: &str) -> Option<PathBuf> {
        field(&self.passwd, user, 5).map(PathBuf::from)
    }
}

/// Adds the recipe's users, their homes and keys.
pub fn apply(tree: &mut Tree, wanted: &[User], epoch: i64) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut users = Users::load(tree)?;
    for user in wanted {
        users.put(user, epoch)?;
    }
    users.save(tree, epoch)?;
    for user in wanted {
        let (Some(uid), Some(home)) = (users.uid(&user.name), users.home(&user.name)) else {
            continue;
        };
        let gid = field(&users.passwd, &user.name, 3)
            .and_then(|gid| gid.parse().ok())
            .unwrap_or(uid);
        let own = Attributes {
            uid,
            gid,
            mode: 0o700,
            mtime: epoch,
        };
        if tree.make_directory(&home)? {
            tree.set_attributes(&home, own)?;
            copy_skeleton(tree, Path::new("etc/skel"), &home, own)?;
        }
        if !user.authorized_keys.is_empty() {
            let ssh = home.join(".ssh");
            tree.make_directory(&ssh)?;
            tree.set_attributes(&ssh, own)?;
            let text: String = user
                .authorized_keys
                .iter()
                .flat_map(|key| [key, "\n"])
                .collect();
            let file = Attributes { mode: 0o600, ..own };
            tree.replace(
                &ssh.join("authorized_keys"),
                file,
                &mut text.as_bytes(),
                &mut |_| {},
            )?;
        }
    }
    Ok(())
}

fn copy_skeleton(tree: &mut Tree, from: &Path, to: &Path, own: Attributes) -> Result<()> {
    if tree.kind(from) != Some(Kind::Directory) {
        return Ok(());
    }
    for name in tree.list(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        match tree.kind(&source) {
            Some(Kind::File) => {
                let data = tree.read(&source)?.unwrap_or_default();
                let mode = tree.stat(&source)?.st_mode & 0o7777;
                let attributes = Attributes { mode, ..own };
                tree.replace(&target, attributes, &mut &data[..], &mut |_| {})?;
            }
            Some(Kind::Directory) => {
                tree.make_directory(&target)?;
                let mode = tree.stat(&source)?.st_mode & 0o7777;
                tree.set_attributes(&target, Attributes { mode, ..own })?;
                copy_skeleton(tree, &source, &target, own)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn home_of(user: &User) -> PathBuf {
    match &user.home {
        Some(home) => PathBuf::from(home),
        None => Path::new("/home").join(&user.name),
    }
}

fn field<'a>(lines: &'a [String], name: &str, index: usize) -> Option<&'a str> {
    lines.iter().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(index - 1))?
    })
}

fn set_field(lines: &mut [String], name: &str, index: usize, value: &str) {
    for line in lines {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields.first() == Some(&name) && index < fields.len() {
            fields[index] = value;
            *line = fields.join(":");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> User {
        toml::from_str(&format!("name = '{name}'")).unwrap()
    }

    fn tables() -> Users {
        let lines = |text: &str| text.lines().map(str::to_string).collect();
        Users {
            passwd: lines("root:x:0:0:root:/root:/bin/bash\nold:x:1000:1000::/home/old:/bin/sh"),
            group: lines("root:x:0:\nold:x:1000:\nvideo:x:44:old"),
            shadow: lines("root:*:20000:0:99999:7:::\nold:!:20000:0:99999:7:::"),
            gshadow: lines("root:*::\nold:!::\nvideo:*::old"),
        }
    }

    #[test]
    fn a_new_user_gets_the_next_free_number_and_its_groups() {
        let mut users = tables();
        let mut new = user("board");
        new.groups = vec!["video".into()];
        users.put(&new, 20_000 * DAY).unwrap();
        assert_eq!(users.passwd[2], "board:x:1001:1001::/home/board:/bin/bash");
        assert_eq!(users.shadow[2], "board:!:20000:0:99999:7:::");
        assert_eq!(users.group[2], "video:x:44:old,board");
        assert_eq!(users.gshadow[2], "video:*::old,board");
        assert_eq!(
            (users.uid("board"), users.gid("44")),
            (Some(1001), Some(44))
        );
    }

    #[test]
    fn a_user_that_is_there_is_changed_and_contradictions_are_told() {
        let mut users = tables();
        let mut root = user("root");
        root.password_hash = Some(String::new());
        users.put(&root, 0).unwrap();
        assert_eq!(users.shadow[0], "root::20000:0:99999:7:::");
        let mut other = user("x");
        other.uid = Some(1000);
        assert!(
            users
                .put(&other, 0)
                .unwrap_err()
                .to_string()
                .contains("taken")
        );
        let mut other = user("x");
        other.groups = vec!["nothing".into()];
        assert!(
            users
                .put(&other, 0)
                .unwrap_err()
                .to_string()
                .contains("no group nothing")
        );
        assert!(users.put(&user("a:b"), 0).is_err());
    }
}
