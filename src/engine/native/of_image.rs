//! What a container needs of its image: its user, its groups and its program. Looked at before anything that runs is
//! stopped; what a mount of the container's covers is not the image's to have, and nothing is claimed about it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use super::checks::refused;
use super::{failed, images, translate};
use crate::reconcile::engine::EngineError;
use crate::reconcile::resource::ContainerConfig;
use crate::runtime::image::{self, Image, Store};
use crate::runtime::init::{self, InitError};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// What every container has mounted.
const COVERED: [&str; 3] = ["/dev", "/proc", "/sys"];
/// As many symbolic links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// The image knows `user` and `group_add`.
pub fn user(roots: &Roots, wanted: &ContainerConfig) -> Result<(), EngineError> {
    let container = wanted.clone();
    let unknown = look(roots, wanted, move |tree, image| {
        let files = ["/etc/passwd", "/etc/group"].map(|path| tree.find(Path::new(path)));
        if files.iter().any(|found| matches!(found, Found::Covered)) {
            return None;
        }
        let own = || image.config.config().as_ref().and_then(|own| own.user().clone());
        let user = container.user.clone().or_else(own).unwrap_or_default();
        match init::knows(tree.root.as_fd(), &user, &container.group_add).err()? {
            InitError::User { user, reason } if user.is_empty() => Some(format!("group_add: {reason}")),
            other => Some(other.to_string()),
        }
    })?;
    match unknown {
        None => Ok(()),
        Some(reason) => {
            let help = format!("name one that {} has, or give a number", wanted.image);
            Err(refused(&wanted.id().to_string(), reason, &help))
        }
    }
}

/// There is a program, and the image has it.
pub fn program(roots: &Roots, wanted: &ContainerConfig) -> Result<(), EngineError> {
    let container = wanted.clone();
    let missing = look(roots, wanted, move |tree, image| match translate::args(&container, image) {
        Ok(args) => absent(tree, &container, image, &args[0]),
        Err(error) => Some(Missing { reason: error.to_string(), help: None }),
    })?;
    let Some(Missing { reason, help }) = missing else { return Ok(()) };
    match help {
        Some(help) => Err(refused(&wanted.id().to_string(), reason, &help)),
        None => Err(failed(wanted.id(), reason)),
    }
}

struct Missing {
    reason: String,
    help: Option<String>,
}

fn look<T: Send + 'static>(
    roots: &Roots,
    wanted: &ContainerConfig,
    judge: impl FnOnce(&Tree, &Image) -> Option<T> + Send + 'static,
) -> Result<Option<T>, EngineError> {
    let error = |error| failed(wanted.id(), error);
    let store = Store::open(roots);
    let lease = store.lease().map_err(error)?;
    let image = images::held(&store, &lease, || images::present(roots, &wanted.image)).map_err(error)?;
    let (targets, seen) = (targets(wanted, &image), image.clone());
    let looked = image::view(roots, &image, move |root| -> io::Result<Option<T>> {
        let tree = Tree::new(File::open(root)?.into(), &targets);
        Ok(judge(&tree, &seen))
    });
    looked.map_err(error)?.map_err(|error| failed(wanted.id(), error))
}

fn targets(wanted: &ContainerConfig, image: &Image) -> Vec<PathBuf> {
    let own = image.config.config().as_ref().and_then(|own| own.volumes().as_ref());
    let mounts = wanted.mounts.iter().map(|mount| &mount.target);
    let files = wanted.files.iter().map(|file| &file.target);
    let all = mounts.chain(files).chain(own.into_iter().flatten()).map(PathBuf::from);
    all.chain(COVERED.map(PathBuf::from)).collect()
}

/// Why this word does not lead to a program; `None` where it does, or where nobody can say.
fn absent(tree: &Tree, wanted: &ContainerConfig, image: &Image, word: &str) -> Option<Missing> {
    let own = image.config.config().as_ref().and_then(|own| own.working_dir().clone());
    let cwd = PathBuf::from("/").join(wanted.working_dir.clone().or(own).unwrap_or_default());
    let environment = translate::environment(wanted, image, "");
    let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let by_path = !word.contains('/');
    let candidates: Vec<PathBuf> = match by_path {
        true => path.split(':').map(|folder| cwd.join(folder).join(word)).collect(),
        false => vec![cwd.join(word)],
    };
    let mut reason = match by_path {
        true => format!("program {word}: no such file in {}, nor in its PATH ({path})", wanted.image),
        false => format!("program {word}: no such file in {}", wanted.image),
    };
    for candidate in candidates {
        match tree.find(&candidate) {
            Found::Covered => return None,
            Found::Missing(_) => {}
            Found::File(file, _) => match unfit(&file) {
                None => return None,
                Some(what) => reason = format!("program {} of {}: it is {what}", candidate.display(), wanted.image),
            },
        }
    }
    let help = match wanted.entrypoint.is_some() || wanted.command.is_some() {
        true => "correct the path, or take an image that has it",
        false => "take another image, or give `command:` or `entrypoint:`",
    };
    Some(Missing { reason, help: Some(help.to_owned()) })
}

/// Who may execute it, the kernel decides; but nobody may what has no such permission at all.
fn unfit(file: &OwnedFd) -> Option<&'static str> {
    let data = file.try_clone().and_then(|file| File::from(file).metadata()).ok()?;
    match data.is_file() {
        false if data.is_dir() => Some("a directory"),
        false => Some("not a regular file"),
        true if data.permissions().mode() & 0o111 == 0 => Some("not executable"),
        true => None,
    }
}

/// The files of an image below what is mounted over them.
struct Tree {
    root: OwnedFd,
    covered: Vec<PathBuf>,
}

/// What a path leads to, and by which name without links.
enum Found {
    File(OwnedFd, PathBuf),
    Missing(PathBuf),
    /// Something else is mounted there, or on the way.
    Covered,
}

impl Tree {
    fn new(root: OwnedFd, targets: &[PathBuf]) -> Self {
        let mut tree = Self { root, covered: Vec::new() };
        let place = |target: &PathBuf| match tree.find(target) {
            Found::File(_, place) | Found::Missing(place) => place,
            Found::Covered => target.clone(),
        };
        tree.covered = targets.iter().map(place).collect();
        tree
    }

    /// One name after the other, so that a mount on the way is not missed.
    fn find(&self, path: &Path) -> Found {
        let (mut here, mut links) = (PathBuf::from("/"), 0);
        let mut waiting = names(path);
        while let Some(name) = waiting.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            here.push(&name);
            if self.covered.contains(&here) {
                return Found::Covered;
            }
            let Ok(file) = self.open(&here) else { return self.beyond(here, waiting) };
            match link(&file) {
                Some(_) if links == MAX_LINKS => return Found::Missing(here),
                Some(target) => {
                    links += 1;
                    here.pop();
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    waiting = names(&target).into_iter().chain(waiting).collect();
                }
                None => {}
            }
        }
        match self.open(&here) {
            Ok(file) => Found::File(file, here),
            Err(_) => Found::Missing(here),
        }
    }

    /// What the image lacks may be made for the sake of a mount.
    fn beyond(&self, mut here: PathBuf, rest: VecDeque<OsString>) -> Found {
        here.extend(rest);
        let covered = here.ancestors().any(|place| self.covered.iter().any(|target| target == place));
        if covered { Found::Covered } else { Found::Missing(here) }
    }

    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        sys::open_in_root(self.root.as_fd(), path, libc::O_PATH | libc::O_NOFOLLOW, 0)
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|one| match one {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

/// Where it leads, if it is a symbolic link.
fn link(file: &OwnedFd) -> Option<PathBuf> {
    let target = nix::fcntl::readlinkat(file, "").ok()?;
    Some(PathBuf::from(OsString::from_vec(target.into_vec())))
}
