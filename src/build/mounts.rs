//! `RUN --mount`: what a step sees besides its root file system. Files of contexts, stages and images are copied to a
//! directory of the build's own first: nothing that another step or the caller changes meanwhile is mounted, and nothing
//! that the step writes there comes back.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::copy::{self, Target};
use super::dockerfile::{MountKind, MountOptions, Run, Sharing, Word};
use super::graph::Place;
use super::ignore::Ignore;
use super::stage::Worker;
use super::steps::SCRIPT;
use super::tree::{Source, Tree};
use super::workshop::Workshop;
use super::{Error, Secret, io_at};
use crate::diagnostics::Diagnostic;
use crate::runtime::image::Digest;
use crate::runtime::init::spec::{Mount, MountSource};
use crate::runtime::state::{self, Contention, Lock};

/// The mounts of one step.
#[derive(Default)]
pub(super) struct Attached {
    /// What of them counts for the step's result.
    pub key: Vec<Value>,
    planned: Vec<Planned>,
    pub mounts: Vec<Mount>,
    /// Variables that hold secrets.
    pub env: Vec<String>,
    /// Caches that nobody else may use meanwhile.
    locks: Vec<Lock>,
}

/// A mount whose values are known, before anything is made for it.
struct Planned {
    target: PathBuf,
    what: What,
    word: Word,
}

enum What {
    Files { tree: Arc<Tree>, sources: Vec<Source>, writable: bool },
    Cache { id: String, sharing: Sharing, mode: u32, owner: (u32, u32), read_only: bool },
    Tmpfs { size: Option<u64> },
    Secret { secret: Secret, mode: u32, owner: (u32, u32) },
}

impl Attached {
    /// A script that names its interpreter.
    pub fn script(&mut self, workshop: &Workshop, text: &str) -> Result<(), Error> {
        let path = workshop.directory()?.join("script");
        fs::write(&path, text).map_err(io_at(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(io_at(&path))?;
        self.mounts.push(bind(Path::new(SCRIPT), path, true));
        Ok(())
    }
}

fn bind(target: &Path, source: PathBuf, read_only: bool) -> Mount {
    Mount {
        target: target.to_owned(),
        read_only,
        source: MountSource::Bind { source, propagation: None, mapped: false },
    }
}

impl Worker<'_, '_> {
    /// Reads the mounts of a step. Nothing is made yet: the step may be remembered.
    pub(super) fn attach(&self, run: &Run) -> Result<Attached, Error> {
        let mut attached = Attached::default();
        for options in &run.mounts {
            self.one(options, &mut attached)?;
        }
        Ok(attached)
    }

    fn word(&self, word: Option<&Word>) -> Result<Option<String>, Error> {
        word.map(|word| self.expand(word)).transpose()
    }

    fn one(&self, options: &MountOptions, attached: &mut Attached) -> Result<(), Error> {
        let word = Word { text: String::new(), span: options.span };
        let target = self.word(options.target.as_ref())?;
        let path = target.as_deref().map(|target| self.draft.resolve(target));
        let mut plan = |target: PathBuf, what: What, key: Value| {
            attached.key.push(json!([target, key]));
            attached.planned.push(Planned { target, what, word: word.clone() });
        };
        let needed = || self.at(options, "this mount has no target");
        match &options.kind {
            MountKind::Bind { from, source, writable } => {
                let place = from.as_ref().map_or(Ok(Place::Context), |word| self.place(word))?;
                let tree = self.tree(&place, from.as_ref().unwrap_or(&word))?;
                let path = path.ok_or_else(needed)?;
                let source = self.word(source.as_ref())?.unwrap_or_default();
                let sources = tree.find(&escape(&source), &Ignore::default());
                let sources = sources.map_err(|error| self.at(options, &error.to_string()))?;
                let digest = tree.digest(&sources)?;
                let key = json!({"files": digest, "writable": writable});
                plan(path, What::Files { tree, sources, writable: *writable }, key);
            }
            MountKind::Cache { id, from, source, sharing, mode, uid, gid, read_only } => {
                if from.is_some() || source.is_some() {
                    return Err(self.at(options, "a cache that begins with files is not there yet"));
                }
                let path = path.ok_or_else(needed)?;
                let id = self.word(id.as_ref())?.unwrap_or_else(|| path.display().to_string());
                let key = json!({"cache": id});
                let owner = (*uid, *gid);
                plan(path, What::Cache { id, sharing: *sharing, mode: *mode, owner, read_only: *read_only }, key);
            }
            MountKind::Tmpfs { size } => plan(path.ok_or_else(needed)?, What::Tmpfs { size: *size }, json!("tmpfs")),
            MountKind::Secret { id, env, required, mode, uid, gid } => {
                let by_target =
                    path.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
                let id =
                    self.word(id.as_ref())?.or(by_target).ok_or_else(|| self.at(options, "this secret has no id"))?;
                let env = self.word(env.as_ref())?;
                let Some(secret) = self.shared.request.secrets.get(&id) else {
                    if *required {
                        let message = format!("secret `{id}` is required and was not given");
                        let error = Diagnostic::error(message, options.span);
                        return Err(Error::at(&self.sources, error.help(format!("--secret id={id},src=FILE"))));
                    }
                    return Ok(());
                };
                // Which secret counts, its content does not: nothing must tell one from another by what is remembered.
                attached.key.push(json!({"secret": id, "env": env, "target": path}));
                if let Some(name) = &env {
                    attached.env.push(format!("{name}={}", text(secret)?));
                }
                if env.is_none() || path.is_some() {
                    let target = path.unwrap_or_else(|| Path::new("/run/secrets").join(&id));
                    let what = What::Secret { secret: secret.clone(), mode: *mode, owner: (*uid, *gid) };
                    attached.planned.push(Planned { target, what, word });
                }
            }
        }
        Ok(())
    }

    fn at(&self, options: &MountOptions, message: &str) -> Error {
        Error::at(&self.sources, Diagnostic::error(message, options.span))
    }

    /// Makes what is to be mounted.
    pub(super) fn materialise(&self, mut attached: Attached) -> Result<Attached, Error> {
        let workshop = self.shared.workshop;
        for planned in std::mem::take(&mut attached.planned) {
            let mount = match planned.what {
                What::Files { tree, sources, writable } => {
                    let path = self.files(&tree, &sources, &planned.word)?;
                    bind(&planned.target, path, !writable)
                }
                What::Cache { id, sharing, mode, owner, read_only } => {
                    let (path, lock) = cache(workshop, &id, sharing)?;
                    attached.locks.extend(lock);
                    // One that is there keeps what earlier steps made of it.
                    if make(&path)? {
                        chown(&path, Some(owner.0), Some(owner.1)).map_err(io_at(&path))?;
                        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io_at(&path))?;
                    }
                    bind(&planned.target, path, read_only)
                }
                What::Tmpfs { size } => {
                    let source = MountSource::Tmpfs { size, mode: None, options: Vec::new() };
                    Mount { target: planned.target, read_only: false, source }
                }
                What::Secret { secret, mode, owner } => {
                    let path = workshop.secret_directory()?.join("secret");
                    fs::write(&path, content(&secret)?).map_err(io_at(&path))?;
                    chown(&path, Some(owner.0), Some(owner.1)).map_err(io_at(&path))?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io_at(&path))?;
                    bind(&planned.target, path, true)
                }
            };
            attached.mounts.push(mount);
        }
        Ok(attached)
    }

    /// The files, or the one file, in a place of their own.
    fn files(&self, tree: &Tree, sources: &[Source], word: &Word) -> Result<PathBuf, Error> {
        let directory = self.shared.workshop.directory()?;
        let root = fs::File::open(&directory).map_err(io_at(&directory))?;
        let target = Target {
            path: PathBuf::from("/files"),
            is_directory: false,
            owner: None,
            mode: None,
            time: None,
            parents: false,
            unpack: false,
        };
        let copied = copy::copy(tree, sources, root.as_fd(), &target);
        copied.map_err(|error| Error::at(&self.sources, Diagnostic::error(error.to_string(), word.span)))?;
        Ok(directory.join("files"))
    }
}

/// Whether it was not there before.
fn make(path: &Path) -> Result<bool, Error> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io_at(path)(error)),
    }
}

/// A name that is not to be taken for a pattern.
fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if "*?[\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}

/// The directory of a cache, by a digest of its id: no id leads anywhere else. Made by whoever mounts it first.
fn cache(workshop: &Workshop, id: &str, sharing: Sharing) -> Result<(PathBuf, Option<Lock>), Error> {
    let wrong = |error: state::Error| Error::Workshop(error.into());
    let name = Digest::of(id.as_bytes());
    let directory = workshop.roots.durable("cache").join(name.hex());
    state::make_directory(&directory).map_err(wrong)?;
    let lock = |number: usize, how| Lock::take(&directory.join(format!("lock-{number}")), how);
    match sharing {
        Sharing::Shared => Ok((directory.join("0"), None)),
        Sharing::Locked => Ok((directory.join("0"), Some(lock(0, Contention::Wait).map_err(wrong)?))),
        Sharing::Private => {
            let mut number = 0;
            loop {
                match lock(number, Contention::Refuse) {
                    Ok(held) => return Ok((directory.join(number.to_string()), Some(held))),
                    Err(state::Error::Held { .. }) => number += 1,
                    Err(error) => return Err(wrong(error)),
                }
            }
        }
    }
}

fn content(secret: &Secret) -> Result<Vec<u8>, Error> {
    match secret {
        Secret::File(path) => fs::read(path).map_err(io_at(path)),
        Secret::Value(bytes) => Ok(bytes.clone()),
    }
}

fn text(secret: &Secret) -> Result<String, Error> {
    let bytes = content(secret)?;
    String::from_utf8(bytes).map_err(|_| Error::Input {
        path: PathBuf::from("secret"),
        reason: "a secret in a variable must be text".into(),
    })
}
