//! The instructions that make layers: `COPY`, `ADD`, `WORKDIR`, `RUN`. Each first says what it depends on, as a key,
//! and is carried out only where nothing is remembered under it.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::copy::{self, CopyError, Target};
use super::dockerfile::expand::Quotes;
use super::dockerfile::{self, Command, Instruction, Word};
use super::graph::{self, Place};
use super::ignore::Ignore;
use super::mode::Mode;
use super::mounts::Attached;
use super::run::{self, Network, Program};
use super::stage::{Worker, image, key};
use super::tree::{Source, Tree};
use super::workshop::Workshop;
use super::{Error, Event, NamedContext, StepName, io_at};
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::runtime::image::{Digest, Pack, Step, pack, stubs};
use crate::runtime::init;
use crate::runtime::overlay::{self, Changes};

/// How many lines of a failed program's output are told with the error.
const TOLD_LINES: usize = 40;
/// And how many bytes of them are kept at all.
const KEPT_BYTES: usize = 64 << 10;

/// A root file system that is being changed.
struct Change {
    directory: PathBuf,
    root: OwnedFd,
}

impl Change {
    fn begin(workshop: &Workshop, layers: &[PathBuf]) -> Result<Self, Error> {
        let directory = workshop.directory()?;
        let (upper, work) = (directory.join("upper"), directory.join("work"));
        for path in [&upper, &work] {
            fs::create_dir(path).map_err(io_at(path))?;
        }
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&upper, readable).map_err(io_at(&upper))?;
        let root = overlay::open(layers, Some(Changes { upper: &upper, work: &work })).map_err(io_at(&upper))?;
        Ok(Self { directory, root })
    }

    fn upper(&self) -> Result<OwnedFd, Error> {
        let upper = self.directory.join("upper");
        Ok(File::open(&upper).map_err(io_at(&upper))?.into())
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One tree that files are taken from, and what is taken.
struct Taken {
    tree: Arc<Tree>,
    sources: Vec<Source>,
}

impl Worker<'_, '_> {
    pub fn layers(&self) -> Vec<PathBuf> {
        self.draft.layers.iter().map(|layer| self.shared.store.layer(layer)).collect()
    }

    fn created(&self) -> u64 {
        self.shared.request.epoch.unwrap_or_else(now)
    }

    fn below(&self) -> Value {
        json!({"layers": self.draft.layers, "epoch": self.shared.request.epoch})
    }

    /// What `change` did, as the result of the step.
    fn commit(&self, key: &Digest, change: &Change) -> Result<Step, Error> {
        let upper = change.upper()?;
        let options = Pack { latest: self.shared.request.epoch, ..Pack::default() };
        let written =
            self.shared.store.commit_step(key, self.created(), move |out| pack(upper.as_fd(), None, &options, out));
        Ok(written?)
    }

    // --- WORKDIR --------------------------------------------------------------------------------------------------

    pub fn workdir(&mut self, one: &Instruction, word: &Word) -> Result<(), Error> {
        let path = self.expand(word)?;
        self.draft.set_working_directory(&path);
        let path = self.draft.working_directory();
        let user = self.draft.user();
        let key = key(&json!({"op": "workdir", "below": self.below(), "path": path, "user": user}));
        self.step(one, &key, |worker, _| {
            let change = Change::begin(worker.shared.workshop, &worker.layers())?;
            let owner = if user.is_empty() { None } else { Some(worker.ids(&change, &user, word)?) };
            let made =
                copy::make_directories(change.root.as_fd(), Path::new(&path), owner, worker.shared.request.epoch);
            made.map_err(|error| worker.copy_error(error, word))?;
            worker.commit(&key, &change)
        })
    }

    fn ids(&self, change: &Change, user: &str, word: &Word) -> Result<(u32, u32), Error> {
        let found = init::ids_of(change.root.as_fd(), user);
        found.map_err(|error| Error::at(&self.sources, Diagnostic::error(error.to_string(), word.span)))
    }

    fn copy_error(&self, error: CopyError, word: &Word) -> Error {
        Error::at(&self.sources, Diagnostic::error(error.to_string(), word.span))
    }

    // --- COPY and ADD ---------------------------------------------------------------------------------------------

    pub fn copy(&mut self, one: &Instruction, copy: &dockerfile::Copy) -> Result<(), Error> {
        let mut exclude = Ignore::default();
        for word in &copy.exclude {
            let text = self.expand(word)?;
            exclude.add(&text).map_err(|_| self.wrong(word, "is not a pattern: a bracket is not closed"))?;
        }
        let taken = self.taken(copy, &exclude)?;
        let target = self.target(copy)?;
        let owner = copy.owner.as_ref().map(|word| self.expand(word)).transpose()?;
        let digests = taken.iter().map(|taken| taken.tree.digest(&taken.sources)).collect::<Result<Vec<_>, _>>()?;
        let key = key(&json!({
            "op": "copy", "below": self.below(), "files": digests, "target": target.path,
            "directory": target.is_directory, "owner": owner, "mode": target.mode, "parents": target.parents,
            "unpack": target.unpack,
        }));
        self.step(one, &key, |worker, _| {
            let change = Change::begin(worker.shared.workshop, &worker.layers())?;
            let owner = match (&owner, &copy.owner) {
                (Some(text), Some(word)) => Some(worker.owner(&change, text, word)?),
                _ => None,
            };
            let target = Target { owner, ..target };
            for (taken, digest) in taken.iter().zip(&digests) {
                let copied = copy::copy(&taken.tree, &taken.sources, change.root.as_fd(), &target);
                let copied = copied.map_err(|error| worker.copy_error(error, &copy.target))?;
                if copied != *digest {
                    let message = format!("files of {} have changed while they were copied", taken.tree.name);
                    return Err(Error::at(&worker.sources, Diagnostic::error(message, one.span).help("build again")));
                }
            }
            worker.commit(&key, &change)
        })
    }

    /// A number alone is both user and group; a name brings its own group.
    fn owner(&self, change: &Change, text: &str, word: &Word) -> Result<(u32, u32), Error> {
        match text.parse::<u32>() {
            Ok(id) => self.ids(change, &format!("{id}:{id}"), word),
            Err(_) => self.ids(change, text, word),
        }
    }

    fn target(&self, copy: &dockerfile::Copy) -> Result<Target, Error> {
        let text = self.expand(&copy.target)?;
        let several = copy.sources.len() + copy.heredocs.len() > 1;
        let marked = text.ends_with('/') || text == "." || text.ends_with("/.");
        if several && !marked {
            let error = Diagnostic::error(format!("`{text}`: several sources need a directory"), copy.target.span);
            return Err(Error::at(&self.sources, error.help("write the target with a `/` at its end")));
        }
        let mode = match &copy.mode {
            None => None,
            Some(word) => {
                let text = self.expand(word)?;
                Some(Mode::parse(&text).ok_or_else(|| self.wrong(word, "is not a mode"))?)
            }
        };
        Ok(Target {
            path: self.draft.resolve(&text),
            is_directory: marked,
            owner: None,
            mode,
            time: self.shared.request.epoch,
            parents: copy.parents,
            unpack: copy.add && copy.unpack != Some(false),
        })
    }

    fn taken(&self, copy: &dockerfile::Copy, exclude: &Ignore) -> Result<Vec<Taken>, Error> {
        let mut taken = Vec::new();
        if !copy.sources.is_empty() {
            let first = &copy.sources[0];
            let place = match &copy.from {
                None => Place::Context,
                Some(word) => self.place(word)?,
            };
            let tree = self.tree(&place, copy.from.as_ref().unwrap_or(first))?;
            let mut sources = Vec::new();
            for word in &copy.sources {
                let text = self.expand(word)?;
                let found = tree.find(&text, exclude);
                let found = found.map_err(|error| Error::at(&self.sources, missing(&error, word)))?;
                sources.extend(found);
            }
            taken.push(Taken { tree, sources });
        }
        if !copy.heredocs.is_empty() {
            taken.push(self.heredocs(copy)?);
        }
        Ok(taken)
    }

    /// Here-documents as files of a tree of their own.
    fn heredocs(&self, copy: &dockerfile::Copy) -> Result<Taken, Error> {
        let directory = self.shared.workshop.directory()?;
        let mut sources = Vec::new();
        for one in &copy.heredocs {
            let word = Word { text: one.content.clone(), span: one.span };
            let content = match one.expand {
                true => self.scope.expand(&word, Quotes::Document, self.shared.given, &self.draft),
                false => Ok(one.content.clone()),
            };
            let content = content.map_err(|problem| self.problem(problem))?;
            if one.name.contains('/') {
                return Err(self.wrong(&Word { text: one.name.clone(), span: one.span }, "can't be a file's name"));
            }
            let path = directory.join(&one.name);
            fs::write(&path, content).map_err(io_at(&path))?;
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs::set_permissions(&path, readable).map_err(io_at(&path))?;
            sources.push(one.name.clone());
        }
        let tree = Tree::of_directory(&directory, "the here-documents", Ignore::default())?;
        let mut found = Vec::new();
        for name in sources {
            // The name may look like a pattern.
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            found.extend(tree.find(&escaped, &Ignore::default())?);
        }
        Ok(Taken { tree: tree.into(), sources: found })
    }

    pub fn place(&self, word: &Word) -> Result<Place, Error> {
        let shared = self.shared;
        graph::place(word, self.node.stage, &shared.file.stages, &shared.contexts)
            .map_err(|error| Error::at(&self.sources, error))
    }

    /// The files of a place. Waits for a stage that is still being built.
    pub fn tree(&self, place: &Place, word: &Word) -> Result<Arc<Tree>, Error> {
        let shared = self.shared;
        let of_layers = |layers: &[Digest], name: String| -> Result<Tree, Error> {
            let layers: Vec<PathBuf> = layers.iter().map(|layer| shared.store.layer(layer)).collect();
            if layers.is_empty() {
                return Ok(Tree::of_directory(&shared.workshop.directory()?, name, Ignore::default())?);
            }
            let root = overlay::open(&layers, None).map_err(io_at(&layers[0]))?;
            Ok(Tree::of_layers(root, name))
        };
        let of_image = |reference: &str| {
            let image = {
                let _permit = shared.permit()?;
                image(shared, reference)?
            };
            of_layers(&image.diff_ids, format!("image {reference}"))
        };
        let tree = match place {
            Place::Context => match shared.context {
                Some(tree) => return Ok(Arc::clone(tree)),
                None => {
                    let error = Diagnostic::error("there is no context to take files from", word.span);
                    return Err(Error::at(&self.sources, error.help("give the build a directory")));
                }
            },
            Place::Scratch => of_layers(&[], "scratch".to_owned()),
            Place::Stage(index) => {
                let draft = shared.result(*index)?;
                let name = shared.file.stages[*index].name.clone().unwrap_or_else(|| index.to_string());
                of_layers(&draft.layers, format!("stage {name}"))
            }
            Place::Image(reference) => of_image(reference),
            Place::Named(name) => match shared.request.contexts.get(name) {
                Some(NamedContext::Image(reference)) => of_image(reference),
                Some(NamedContext::Directory(path)) => super::inputs::named(path, name),
                None => Err(Error::Cancelled),
            },
        };
        Ok(tree?.into())
    }

    // --- RUN ------------------------------------------------------------------------------------------------------

    pub fn run(&mut self, one: &Instruction, run: &dockerfile::Run) -> Result<(), Error> {
        let attached = self.attach(run)?;
        let script = script(run);
        let args = match &script {
            Script::Words(words) => words.clone(),
            Script::Text(text) => self.draft.shell().into_iter().chain([text.clone()]).collect(),
            Script::File(_) => vec![SCRIPT.to_owned()],
        };
        let request = self.shared.request;
        let network = match run.network.as_ref().map(|word| word.text.as_str()) {
            Some("none") => Network::None,
            Some("host") => Network::Host,
            Some(_) => Network::Default,
            None => request.network,
        };
        let env = self.scope.environment(&self.draft);
        let (cwd, user) = (self.draft.working_directory(), self.draft.user());
        let content = if let Script::File(text) = &script { Some(text) } else { None };
        let key = key(&json!({
            "op": "run", "below": self.below(), "args": args, "env": env, "cwd": cwd, "user": user,
            "mounts": attached.key, "network": format!("{network:?}"), "script": content,
            "hosts": request.extra_hosts, "shm": request.shm_size, "ulimits": request.ulimits,
        }));
        let span = one.span;
        self.step(one, &key, |worker, name| {
            let mut attached = worker.materialise(attached)?;
            if let Script::File(text) = &script {
                attached.script(worker.shared.workshop, text)?;
            }
            let layers = worker.layers();
            let program = Program {
                contents: worker.shared.store.contents_of(&layers)?,
                layers,
                args,
                env: [env, worker.shared.given.proxies(), attached.env.clone()].concat(),
                cwd,
                user,
                mounts: attached.mounts.clone(),
                network,
                extra_hosts: request.extra_hosts.clone(),
                shm_size: request.shm_size,
                ulimits: request.ulimits.clone(),
            };
            worker.program(&key, name, &program, &attached, span)
        })
    }

    /// Runs it, and keeps what it changed.
    fn program(
        &self,
        key: &Digest,
        name: &StepName,
        program: &Program,
        attached: &Attached,
        span: crate::diagnostics::Span,
    ) -> Result<Step, Error> {
        let shared = self.shared;
        let below = match program.layers.is_empty() {
            true => None,
            false => Some(overlay::open(&program.layers, None).map_err(io_at(&program.layers[0]))?),
        };
        let targets = program.mounts.iter().map(|mount| mount.target.as_path());
        let stubs = stubs(targets, below.as_ref().map(OwnedFd::as_fd));
        let mut log = Vec::new();
        let mut container = None;
        let ran = run::run(
            shared.workshop,
            program,
            &mut |name| {
                shared.runs(name);
                container = Some(name.to_owned());
            },
            &mut |stderr, bytes| {
                keep(&mut log, bytes);
                (shared.events)(Event::Output { step: name, stderr, bytes });
            },
        );
        container.iter().for_each(|name| shared.has_run(name));
        if shared.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let failed = |message: String| Error::Failed {
            log: told(&log, name),
            diagnostics: Box::new(Diagnostics::new(vec![Diagnostic::error(message, span)], self.sources.clone())),
        };
        let ran = ran.map_err(|error| failed(error.to_string()))?;
        if ran.code != 0 {
            return Err(failed(format!("this step ended with code {}", ran.code)));
        }
        let upper: OwnedFd = File::open(&ran.upper).map_err(io_at(&ran.upper))?.into();
        let options = Pack { latest: shared.request.epoch, stubs, ..Pack::default() };
        let created = self.created();
        let step = shared.store.commit_step(key, created, move |out| {
            pack(upper.as_fd(), below.as_ref().map(AsFd::as_fd), &options, out)
        })?;
        // Held until here: others may wait for a cache.
        let _held = attached;
        Ok(step)
    }
}

/// Where a here-document with an interpreter of its own is put.
pub(super) const SCRIPT: &str = "/dev/pipes/script";

/// What a `RUN` runs.
enum Script {
    Words(Vec<String>),
    Text(String),
    /// A text that begins with `#!`.
    File(String),
}

fn script(run: &dockerfile::Run) -> Script {
    let text = match &run.command {
        Command::Exec(words) => return Script::Words(words.clone()),
        Command::Shell(text) => text,
    };
    match run.heredocs.as_slice() {
        [] => Script::Text(text.clone()),
        [only] if text.trim() == only.word => match only.content.starts_with("#!") {
            true => Script::File(only.content.clone()),
            false => Script::Text(only.content.clone()),
        },
        all => {
            let documents: String = all.iter().map(|one| one.verbatim.as_str()).collect();
            Script::Text(format!("{text}\n{documents}"))
        }
    }
}

fn missing(error: &super::tree::TreeError, word: &Word) -> Diagnostic {
    let help = match error {
        super::tree::TreeError::Missing { .. } => "sources are paths below it; nothing outside can be reached",
        super::tree::TreeError::Ignored { .. } => "except it with `!` in that file",
        _ => return Diagnostic::error(error.to_string(), word.span),
    };
    Diagnostic::error(error.to_string(), word.span).help(help)
}

/// Keeps the end of what is written.
fn keep(log: &mut Vec<u8>, bytes: &[u8]) {
    log.extend_from_slice(bytes);
    if log.len() > 2 * KEPT_BYTES {
        log.drain(..log.len() - KEPT_BYTES);
    }
}

/// The last lines, as they are told with an error. Control characters are shown, not sent to a terminal.
fn told(log: &[u8], name: &StepName) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TOLD_LINES)..];
    let clean = |line: &&str| -> String {
        line.chars()
            .flat_map(|c| if c.is_control() && c != '\t' { c.escape_default().collect() } else { vec![c] })
            .collect()
    };
    let mut out = format!("{} {}\n", name.tag(), name.text);
    last.iter().for_each(|line| out.push_str(&format!("  | {}\n", clean(line))));
    out
}
