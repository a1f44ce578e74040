//! Owns the tree that an import grows, name after name, before it is written. Never holds a file's bytes.
//!
//! Names are taken as tar(1) takes them when it extracts: a later one replaces an earlier one, missing directories are
//! made, a name below a symbolic link goes where the link leads, as long as that is in the tree.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::image::reader::Piece;

/// PATH_MAX and NAME_MAX of Linux, without the NUL.
const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;
/// The most symbolic links that Linux follows on one path.
const MAX_LINKS: usize = 40;

/// The place of a node in its tree.
pub type Place = u32;

/// The root directory's.
pub const ROOT: Place = 0;

/// A file, directory, link or device.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub kind: Kind,
    pub attributes: Attributes,
    /// The number of its names; a directory has one.
    pub links: u32,
}

/// What every kind of file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// At most 0o7777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Extended attributes with their whole names, sorted; `None` for none.
    pub extended: Option<Box<Extended>>,
}

pub type Extended = Vec<(String, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Directory(BTreeMap<Box<[u8]>, Place>),
    File { size: u64, content: Content },
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Where the bytes of a file are in its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Together, from this offset on.
    At(u64),
    Pieces(Box<[Piece]>),
    /// The source's own number of it.
    Number(u32),
    /// The source finds it by the file's path.
    ByPath,
}

/// A tree of nodes.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// The directory that the last name was in: most names come after their neighbours.
    last: Option<(Box<[u8]>, Place)>,
    /// Whether a name began with a slash, which was taken off.
    pub had_absolute_names: bool,
}

impl Default for Tree {
    fn default() -> Self {
        Tree {
            nodes: vec![implied_directory()],
            last: None,
            had_absolute_names: false,
        }
    }
}

impl Tree {
    pub fn node(&self, place: Place) -> &Node {
        &self.nodes[place as usize]
    }

    /// Adds a file of any kind under its path; returns its place.
    ///
    /// # Errors
    /// If the path leads out of the tree, or is below something that is no directory.
    pub fn add(&mut self, path: &[u8], kind: Kind, attributes: Attributes) -> Result<Place> {
        let (directory, name) = self.resolve(path)?;
        let Some(name) = name else {
            ensure!(
                matches!(kind, Kind::Directory(_)),
                "the root is no directory"
            );
            self.nodes[directory as usize].attributes = attributes;
            return Ok(directory);
        };
        let is_directory = matches!(kind, Kind::Directory(_));
        if let Some(known) = self.entry(directory, &name)
            && is_directory
            && self.is_directory(known)
        {
            self.nodes[known as usize].attributes = attributes;
            return Ok(known);
        }
        let place = self.push(Node {
            kind,
            attributes,
            links: 0,
        })?;
        self.enter(directory, &name, place)?;
        Ok(place)
    }

    /// Gives a node one more name.
    ///
    /// # Errors
    /// As [`Tree::add`]; if it is a directory.
    pub fn add_link(&mut self, path: &[u8], place: Place) -> Result<()> {
        ensure!(!self.is_directory(place), "a hard link to a directory");
        let (directory, name) = self.resolve(path)?;
        let name = name.context("the root is no directory")?;
        if self.entry(directory, &name) == Some(place) {
            return Ok(());
        }
        self.enter(directory, &name, place)
    }

    /// The node at a path, whose last component is not followed.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(&mut self, path: &[u8]) -> Result<Place> {
        let missing = || format!("`{}` is not there", String::from_utf8_lossy(path));
        let (directory, name) = self.resolve(path).with_context(missing)?;
        match name {
            None => Ok(directory),
            Some(name) => self.entry(directory, &name).with_context(missing),
        }
    }

    /// Adds an entry to a directory that is known by its place; for sources that are trees themselves.
    ///
    /// # Errors
    /// If the name is none, or is there already.
    pub fn insert(&mut self, directory: Place, name: &[u8], node: Node) -> Result<Place> {
        check_name(name)?;
        let place = self.push(node)?;
        self.put(directory, name, place)?;
        Ok(place)
    }

    /// As [`Tree::insert`], for one more name of a node.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn insert_link(&mut self, directory: Place, name: &[u8], place: Place) -> Result<()> {
        check_name(name)?;
        self.put(directory, name, place)
    }

    /// Takes an entry out of a directory.
    pub fn remove(&mut self, directory: Place, name: &[u8]) {
        if let Some(place) = self.entries_mut(directory).remove(name) {
            let links = &mut self.nodes[place as usize].links;
            *links = links.saturating_sub(1);
        }
    }

    /// Replaces the attributes of a node.
    pub fn set_attributes(&mut self, place: Place, attributes: Attributes) {
        self.nodes[place as usize].attributes = attributes;
    }

    /// Replaces what a node that is no directory is.
    pub fn set_kind(&mut self, place: Place, kind: Kind) {
        self.nodes[place as usize].kind = kind;
    }

    /// The entry of a directory; `None` for anything else.
    pub fn entry(&self, directory: Place, name: &[u8]) -> Option<Place> {
        match &self.node(directory).kind {
            Kind::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    fn is_directory(&self, place: Place) -> bool {
        matches!(self.node(place).kind, Kind::Directory(_))
    }

    fn push(&mut self, node: Node) -> Result<Place> {
        let place = Place::try_from(self.nodes.len()).context("more than 2^32 files")?;
        self.nodes.push(node);
        Ok(place)
    }

    fn put(&mut self, directory: Place, name: &[u8], place: Place) -> Result<()> {
        let former = self.entries_mut(directory).insert(name.into(), place);
        ensure!(
            former.is_none(),
            "the name `{}` comes twice in one directory",
            String::from_utf8_lossy(name)
        );
        self.nodes[place as usize].links += 1;
        Ok(())
    }

    /// A later entry replaces an earlier one, unless that is a directory that is not empty.
    fn enter(&mut self, directory: Place, name: &[u8], place: Place) -> Result<()> {
        if let Some(known) = self.entry(directory, name) {
            if let Kind::Directory(entries) = &self.node(known).kind {
                ensure!(
                    entries.is_empty(),
                    "it takes the place of a directory that is not empty"
                );
            }
            self.last = None;
            self.remove(directory, name);
        }
        self.put(directory, name, place)
    }

    fn entries_mut(&mut self, directory: Place) -> &mut BTreeMap<Box<[u8]>, Place> {
        match &mut self.nodes[directory as usize].kind {
            Kind::Directory(entries) => entries,
            _ => unreachable!("only directories are resolved to"),
        }
    }

    /// The directory that a path's last component is in, and that component; none for the root.
    fn resolve(&mut self, path: &[u8]) -> Result<(Place, Option<Box<[u8]>>)> {
        self.had_absolute_names |= path.starts_with(b"/");
        ensure!(
            path.len() <= LONGEST_PATH,
            "a name of more than {LONGEST_PATH} bytes"
        );
        let path = without_end_slashes(path);
        let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        if let Some((known, place)) = &self.last
            && **known == *above
            && check_name(name).is_ok()
        {
            return Ok((*place, Some(name.into())));
        }
        let mut names = components(path)?;
        let Some(name) = names.pop() else {
            return Ok((ROOT, None));
        };
        let name: Box<[u8]> = name.into();
        let names = names.into_iter().map(<[u8]>::to_vec).collect();
        let directory = self.directory(names)?;
        self.last = Some((above.into(), directory));
        Ok((directory, Some(name)))
    }

    /// The directory at these components; missing ones are made.
    fn directory(&mut self, names: Vec<Vec<u8>>) -> Result<Place> {
        let mut ahead: Vec<Vec<u8>> = names.into_iter().rev().collect();
        let (mut here, mut links) = (ROOT, 0);
        while let Some(name) = ahead.pop() {
            let next = match self.entry(here, &name) {
                Some(next) => next,
                None => {
                    let made = self.push(implied_directory())?;
                    self.put(here, &name, made)?;
                    made
                }
            };
            here = match &self.node(next).kind {
                Kind::Directory(_) => next,
                Kind::Symlink(target) => {
                    links += 1;
                    ensure!(links <= MAX_LINKS, "it is below too many symbolic links");
                    let target = followed(target, &name)?;
                    ahead.extend(target.into_iter().rev());
                    here
                }
                _ => bail!(
                    "it is below `{}`, which is no directory",
                    String::from_utf8_lossy(&name)
                ),
            };
        }
        Ok(here)
    }
}

/// Where a link leads that a name goes through.
fn followed(target: &[u8], link: &[u8]) -> Result<Vec<Vec<u8>>> {
    let out = target.starts_with(b"/") || components(target).is_err();
    ensure!(
        !out,
        "it is below the symbolic link `{}`, which leads to `{}`: that may be outside of the root",
        String::from_utf8_lossy(link),
        String::from_utf8_lossy(target)
    );
    Ok(components(target)?
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect())
}

/// A directory that nothing was said about.
fn implied_directory() -> Node {
    Node {
        kind: Kind::Directory(BTreeMap::new()),
        attributes: Attributes {
            mode: 0o755,
            ..Attributes::default()
        },
        links: 1,
    }
}

/// The components of a path, without empty ones and `.`.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let mut found = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        if component.is_empty() || component == b"." {
            continue;
        }
        check_name(component)?;
        found.push(component);
    }
    Ok(found)
}

fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b".." => bail!("`..` in a name leads out of the root"),
        b"" | b"." => bail!("an empty name"),
        _ if name.len() > LONGEST_NAME => bail!("a name of more than {LONGEST_NAME} bytes"),
        _ if name.contains(&0) || name.contains(&b'/') => bail!("a NUL or a slash in a name"),
        _ => Ok(()),
    }
}

fn without_end_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte != b'/');
    &path[..end.map_or(0, |end| end + 1)]
}
