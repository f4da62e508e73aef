//! Where `COPY` takes files from: a directory of the host, a stage, an image. Whoever wrote its content is not trusted:
//! every path is resolved by openat2(2) as if the tree were the whole file system.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use sha2::{Digest as _, Sha256};

use super::ignore::Ignore;
use super::pattern::{self, Pattern};
use crate::runtime::image::Digest;
use crate::runtime::sys;

/// More than any honest tree holds.
const MOST_ENTRIES: usize = 2_000_000;

/// A file system to take files from.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// For errors: `the context`, `stage build`.
    pub name: String,
    ignore: Ignore,
    /// Owners are kept; those of a context are root's.
    pub keeps_owners: bool,
}

/// What one source of a `COPY` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path in the tree.
    pub path: PathBuf,
    pub is_directory: bool,
    /// Itself (with an empty path) unless it is the tree's root, then all that is in it, directories first.
    pub entries: Vec<Entry>,
}

impl Source {
    /// Where an entry of it is in the tree.
    pub fn path_of(&self, entry: &Entry) -> PathBuf {
        // Joined to nothing, a file's path would end with a slash.
        if entry.path.as_os_str().is_empty() { self.path.clone() } else { self.path.join(&entry.path) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Below the source.
    pub path: PathBuf,
    pub kind: EntryKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Directory,
    File { size: u64 },
    Link { target: OsString },
    Fifo,
}

/// Why nothing could be taken.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("there is no `{path}` in {tree}")]
    Missing { path: String, tree: String },
    #[error("`{path}` is left out of {tree} by its `.dockerignore`")]
    Ignored { path: String, tree: String },
    #[error("`{0}` is not a pattern: a bracket is not closed")]
    Pattern(String),
    #[error("{tree} has more than {MOST_ENTRIES} files")]
    TooLarge { tree: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} has changed while it was read")]
    Changed { path: PathBuf },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| TreeError::Io { path, source }
}

impl Tree {
    /// A directory of the host. What `ignore` says is not seen.
    pub fn of_directory(path: &Path, name: impl Into<String>, ignore: Ignore) -> Result<Self, TreeError> {
        let root = File::open(path).map_err(at(path))?;
        if !root.metadata().map_err(at(path))?.is_dir() {
            return Err(at(path)(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self { root: root.into(), name: name.into(), ignore, keeps_owners: false })
    }

    /// The tree of a stage or an image.
    pub fn of_layers(root: OwnedFd, name: impl Into<String>) -> Self {
        Self { root, name: name.into(), ignore: Ignore::default(), keeps_owners: true }
    }

    fn stat(&self, path: &Path) -> Option<FileStat> {
        let found = sys::open_in_root(self.root.as_fd(), relative(path), libc::O_PATH, 0).ok()?;
        fstat(&found).ok()
    }

    fn hides(&self, path: &Path, is_directory: bool) -> bool {
        let text = path.to_string_lossy();
        self.ignore.excludes(&text) && !(is_directory && self.ignore.has_exceptions_below(&text))
    }

    /// The files that a source names, which may be a pattern. A pattern may stand for nothing, a name may not.
    pub fn find(&self, source: &str, exclude: &Ignore) -> Result<Vec<Source>, TreeError> {
        let paths = match pattern::is_pattern(source) {
            true => self.matching(source)?,
            false => {
                let path: PathBuf = pattern::clean(source).iter().collect();
                let missing = || TreeError::Missing { path: source.to_owned(), tree: self.name.clone() };
                let stat = self.stat(&path).ok_or_else(missing)?;
                if self.hides(&path, is_directory(&stat)) {
                    return Err(TreeError::Ignored { path: source.to_owned(), tree: self.name.clone() });
                }
                vec![path]
            }
        };
        paths.into_iter().filter_map(|path| self.source(path, exclude).transpose()).collect()
    }

    fn matching(&self, source: &str) -> Result<Vec<PathBuf>, TreeError> {
        let mut found = vec![PathBuf::new()];
        for part in pattern::clean(source) {
            let mut next = Vec::new();
            let wanted = Pattern::parse(part).ok_or_else(|| TreeError::Pattern(source.to_owned()))?;
            for directory in found {
                if !pattern::is_pattern(part) {
                    next.push(directory.join(part));
                    continue;
                }
                for name in self.names(&directory).unwrap_or_default() {
                    let matches = name.to_str().is_some_and(|name| wanted.matches(&[name]));
                    next.extend(matches.then(|| directory.join(&name)));
                }
            }
            found = next;
        }
        let is_there = |path: &PathBuf| self.stat(path).is_some_and(|stat| !self.hides(path, is_directory(&stat)));
        found.retain(is_there);
        Ok(found)
    }

    /// In order; none where it is no directory.
    fn names(&self, directory: &Path) -> io::Result<BTreeSet<OsString>> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK;
        let opened = sys::open_in_root(self.root.as_fd(), relative(directory), flags, 0)?;
        let mut names = BTreeSet::new();
        for entry in Dir::from_fd(opened)?.iter() {
            let entry = entry?;
            let name = std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
            let name: &std::ffi::OsStr = name;
            if name != "." && name != ".." {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }

    /// The source with all that is in it. A link that is named itself is followed, one that is found is kept.
    fn source(&self, path: PathBuf, exclude: &Ignore) -> Result<Option<Source>, TreeError> {
        let Some(stat) = self.stat(&path) else { return Ok(None) };
        let mut entries = Vec::new();
        if !is_directory(&stat) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if exclude.excludes(&name) {
                return Ok(None);
            }
            entries.extend(self.entry(&path, PathBuf::new(), &stat)?);
            return Ok(Some(Source { path, is_directory: false, entries }));
        }
        if !path.as_os_str().is_empty() {
            entries.extend(self.entry(&path, PathBuf::new(), &stat)?);
        }
        self.walk(&path, Path::new(""), exclude, &mut entries)?;
        Ok(Some(Source { path, is_directory: true, entries }))
    }

    fn walk(&self, top: &Path, below: &Path, exclude: &Ignore, found: &mut Vec<Entry>) -> Result<(), TreeError> {
        let directory = top.join(below);
        for name in self.names(&directory).map_err(at(&directory))? {
            let (path, inner) = (directory.join(&name), below.join(&name));
            let stat = self.stat_link(&path)?;
            let text = inner.to_string_lossy();
            let hidden = self.ignore.excludes(&path.to_string_lossy()) || exclude.excludes(&text);
            if !is_directory(&stat) {
                found.extend(if hidden { None } else { self.entry(&path, inner, &stat)? });
            } else if !hidden {
                found.extend(self.entry(&path, inner.clone(), &stat)?);
                self.walk(top, &inner, exclude, found)?;
            } else if self.ignore.has_exceptions_below(&path.to_string_lossy()) || exclude.has_exceptions_below(&text) {
                // There only for what is in it.
                let length = found.len();
                found.extend(self.entry(&path, inner.clone(), &stat)?);
                self.walk(top, &inner, exclude, found)?;
                if found.len() == length + 1 {
                    found.pop();
                }
            }
            if found.len() > MOST_ENTRIES {
                return Err(TreeError::TooLarge { tree: self.name.clone() });
            }
        }
        Ok(())
    }

    fn stat_link(&self, path: &Path) -> Result<FileStat, TreeError> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let found = sys::open_in_root(self.root.as_fd(), relative(path), flags, 0).map_err(at(path))?;
        fstat(&found).map_err(|error| at(path)(error.into()))
    }

    /// `None` for what is not copied: sockets and devices.
    fn entry(&self, path: &Path, below: PathBuf, stat: &FileStat) -> Result<Option<Entry>, TreeError> {
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => EntryKind::Directory,
            SFlag::S_IFREG => EntryKind::File { size: stat.st_size as u64 },
            SFlag::S_IFLNK => EntryKind::Link { target: self.link_target(path)? },
            SFlag::S_IFIFO => EntryKind::Fifo,
            _ => return Ok(None),
        };
        let (uid, gid) = if self.keeps_owners { (stat.st_uid, stat.st_gid) } else { (0, 0) };
        let modified = (stat.st_mtime, stat.st_mtime_nsec);
        Ok(Some(Entry { path: below, kind, mode: stat.st_mode & 0o7777, uid, gid, modified }))
    }

    fn link_target(&self, path: &Path) -> Result<OsString, TreeError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let parent = sys::open_in_root(self.root.as_fd(), relative(parent), flags, 0).map_err(at(path))?;
        let name = path.file_name().unwrap_or_default();
        fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|error| at(path)(error.into()))?;
        readlinkat(&parent, name).map_err(|error| at(path)(error.into()))
    }

    /// Opens a regular file of a source; nothing else, whatever has become of its name.
    pub fn open(&self, source: &Source, entry: &Entry) -> Result<File, TreeError> {
        let path = source.path_of(entry);
        // The source itself may be a link; what is in it was found not to be one.
        let follow = if entry.path.as_os_str().is_empty() { 0 } else { libc::O_NOFOLLOW };
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | follow;
        let path = path.strip_prefix("/").unwrap_or(&path);
        let opened = sys::open_in_root(self.root.as_fd(), relative(path), flags, 0).map_err(at(path))?;
        let file = File::from(opened);
        if file.metadata().map_err(at(path))?.is_file() {
            Ok(file)
        } else {
            Err(TreeError::Changed { path: path.to_owned() })
        }
    }

    /// The digest of everything that counts of these sources: names, kinds, modes, owners where they are kept, content.
    /// Not times.
    pub fn digest(&self, sources: &[Source]) -> Result<Digest, TreeError> {
        let mut hasher = Hasher::default();
        for source in sources {
            hasher.source(source);
            for entry in &source.entries {
                hasher.entry(entry);
                if let EntryKind::File { size } = entry.kind {
                    let path = source.path_of(entry);
                    let mut file = self.open(source, entry)?.take(size);
                    let read = io::copy(&mut file, &mut hasher).map_err(at(&path))?;
                    if read != size {
                        return Err(TreeError::Changed { path });
                    }
                }
            }
        }
        Ok(hasher.finish())
    }
}

fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

fn relative(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Hashes what counts of files, in order; fed once when the key of a step is computed, and again when they are copied.
#[derive(Default)]
pub struct Hasher(Sha256);

impl Hasher {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub fn source(&mut self, source: &Source) {
        let name = source.path.file_name().unwrap_or_default();
        self.field(name.as_encoded_bytes());
        self.field(if source.is_directory { b"d" } else { b"f" });
        self.0.update((source.entries.len() as u64).to_le_bytes());
    }

    /// The content of a file follows by itself, as many bytes as the entry says.
    pub fn entry(&mut self, entry: &Entry) {
        self.field(entry.path.as_os_str().as_encoded_bytes());
        for number in [entry.mode, entry.uid, entry.gid] {
            self.0.update(number.to_le_bytes());
        }
        match &entry.kind {
            EntryKind::Directory => self.field(b"d"),
            EntryKind::File { size } => {
                self.field(b"f");
                self.0.update(size.to_le_bytes());
            }
            EntryKind::Link { target } => {
                self.field(b"l");
                self.field(target.as_encoded_bytes());
            }
            EntryKind::Fifo => self.field(b"p"),
        }
    }

    pub fn finish(self) -> Digest {
        Digest::finish(self.0)
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tree-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("src/deep")).unwrap();
            fs::create_dir_all(path.join("target")).unwrap();
            for (name, text) in
                [("a.txt", "a"), ("b.txt", "b"), ("src/m.rs", "m"), ("src/deep/n.rs", "n"), ("target/x", "x")]
            {
                fs::write(path.join(name), text).unwrap();
            }
            symlink("/etc", path.join("escape")).unwrap();
            symlink("../../../../../etc/passwd", path.join("up")).unwrap();
            symlink("a.txt", path.join("alias")).unwrap();
            Self(path)
        }

        fn tree(&self, ignore: &str) -> Tree {
            Tree::of_directory(&self.0, "the context", Ignore::parse(ignore).unwrap()).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn names(sources: &[Source]) -> Vec<String> {
        let of = |source: &Source| {
            let entries = source.entries.iter().map(|entry| source.path_of(entry));
            entries.map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        sources.iter().flat_map(of).collect()
    }

    #[test]
    fn sources_are_names_directories_and_patterns() {
        let folder = Folder::new("sources");
        let tree = folder.tree("target\n*.md\n");
        let none = Ignore::default();
        for (source, expected) in [
            ("a.txt", vec!["a.txt"]),
            ("./src/../b.txt", vec!["b.txt"]),
            ("src", vec!["src", "src/deep", "src/deep/n.rs", "src/m.rs"]),
            ("*.txt", vec!["a.txt", "b.txt"]),
            ("s*/m.rs", vec!["src/m.rs"]),
            ("*.none", vec![]),
            ("alias", vec!["alias"]),
        ] {
            assert_eq!(names(&tree.find(source, &none).unwrap()), expected, "{source}");
        }
        let all = names(&tree.find(".", &none).unwrap());
        assert!(!all.iter().any(|name| name.starts_with("target")), "{all:?}");
        assert!(matches!(tree.find("target/x", &none), Err(TreeError::Ignored { .. })));
        assert!(matches!(tree.find("nosuch", &none), Err(TreeError::Missing { .. })));
        let exclude = Ignore::parse("deep").unwrap();
        assert_eq!(names(&tree.find("src", &exclude).unwrap()), ["src", "src/m.rs"]);
        let kept = folder.tree("**\n!src/deep/**\n");
        assert_eq!(names(&kept.find(".", &none).unwrap()), ["src", "src/deep", "src/deep/n.rs"]);
    }

    #[test]
    fn nothing_outside_is_ever_reached() {
        let folder = Folder::new("escape");
        let tree = folder.tree("");
        let none = Ignore::default();
        for source in ["escape", "escape/passwd", "up", "../../etc/passwd", "/etc/passwd"] {
            assert!(matches!(tree.find(source, &none), Err(TreeError::Missing { .. })), "{source}");
        }
        let all = tree.find(".", &none).unwrap();
        let link = all[0].entries.iter().find(|entry| entry.path == Path::new("escape")).unwrap();
        assert_eq!(link.kind, EntryKind::Link { target: "/etc".into() });
    }

    #[test]
    fn times_do_not_count_and_all_else_does() {
        let folder = Folder::new("digest");
        let tree = folder.tree("");
        let digest = || tree.digest(&tree.find("src", &Ignore::default()).unwrap()).unwrap();
        let first = digest();
        let file = folder.0.join("src/m.rs");
        fs::write(&file, "m").unwrap();
        assert_eq!(digest(), first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let changed = digest();
        assert_ne!(changed, first);
        fs::write(&file, "x").unwrap();
        assert_ne!(digest(), changed);
        fs::write(folder.0.join("b.txt"), "not read").unwrap();
        fs::write(&file, "m").unwrap();
        assert_eq!(digest(), changed);
    }
}
