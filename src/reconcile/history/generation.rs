//! Generations: the states that a stack has reached, to look at and to go back to.
//!
//! A state counts as reached when planning again finds nothing to do. What is kept is what was asked for, which content
//! each image stood for, and the content of configs. Secrets are not kept, nor is what lies in bind-mounted files and in
//! volumes: going back leaves them as they are, and says so.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Author, Key, Memory, now_ms};
use crate::reconcile::desired::Desired;
use crate::reconcile::diff;
use crate::reconcile::engine::{Capabilities, Change, Engine, EngineError, Observed, StackName};
use crate::reconcile::facts::{self, FileFacts};
use crate::reconcile::plan::{Entry, Plan, PlanOptions, Verb, plan};
use crate::reconcile::resource::{
    Config, ContainerConfig, FileMount, FileSource, ImageSource, Kind, MountSource, PullPolicy, ResourceId,
};

const VERSION: u32 = 1;

/// How many are kept of each stack.
pub const KEPT: usize = 20;

/// A state that was reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    version: u32,
    pub number: u64,
    pub at_ms: u64,
    pub author: Author,
    pub desired: Desired,
    /// Reference of each image → digest of the content that it stood for.
    pub digests: BTreeMap<String, String>,
    /// Content of configs, by its hash.
    contents: BTreeMap<String, String>,
}

/// Why a generation can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("stack {stack} has no generation {number}{}", known(.have))]
    NotFound { stack: String, number: u64, have: Vec<u64> },
    #[error("stack {stack} has no generation yet\n  help: each `stack apply` that succeeds makes one")]
    None { stack: String },
    #[error("generation {number} is the only one of stack {stack}: there is nothing to go back to")]
    First { stack: String, number: u64 },
    #[error("generation {number} of stack {stack} can't be read: {reason}")]
    Format { stack: String, number: u64, reason: String },
    #[error("{}", .0.join("\n"))]
    Incomplete(Vec<String>),
    #[error(transparent)]
    Memory(#[from] EngineError),
}

fn known(numbers: &[u64]) -> String {
    let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    if list.is_empty() { String::new() } else { format!("\n  help: there are {}", list.join(", ")) }
}

/// Keeps what is asked for as a generation, if it is reached and another than the last. The number of what it now is.
///
/// # Errors
/// Where it can't be looked at or written down.
pub async fn reached<E: Engine>(engine: &E, desired: &Desired, author: &Author) -> Result<Option<u64>, EngineError> {
    let observed = engine.observe(&desired.stack).await?;
    let again = plan(desired, &observed, engine.capabilities(), &PlanOptions::default());
    if again.is_empty() { keep(engine, desired, &observed, author).map(Some) } else { Ok(None) }
}

/// As [`reached`], where that is known of what was observed. Nothing is written where it is the last one.
pub fn keep(memory: &impl Memory, desired: &Desired, observed: &Observed, author: &Author) -> Result<u64, EngineError> {
    let digests = digests(desired, observed);
    let digest = digest(desired, &digests);
    let kept = memory.kept(&desired.stack)?;
    let last = kept.last().copied().unwrap_or(Key { number: 0, digest: 0 });
    if last.digest == digest && last.number > 0 {
        return Ok(last.number);
    }
    let key = Key { number: last.number + 1, digest };
    let generation = Generation {
        version: VERSION,
        number: key.number,
        at_ms: now_ms(),
        author: author.clone(),
        desired: desired.clone(),
        digests,
        contents: contents(desired),
    };
    let text = serde_json::to_string(&generation).expect("a stack has only string keys and finite numbers");
    memory.keep(&desired.stack, key, &text)?;
    let too_many = (kept.len() + 1).saturating_sub(KEPT);
    kept.into_iter().take(too_many).try_for_each(|old| memory.forget(&desired.stack, old))?;
    Ok(key.number)
}

/// All that can be read, the oldest first.
pub fn all(memory: &impl Memory, stack: &StackName) -> Result<Vec<Generation>, Error> {
    let kept = memory.kept(stack)?.into_iter();
    // Somebody may forget one meanwhile.
    kept.filter_map(|key| read(memory, stack, key).transpose()).collect()
}

/// The one with this number.
pub fn get(memory: &impl Memory, stack: &StackName, number: u64) -> Result<Generation, Error> {
    let kept = memory.kept(stack)?;
    let found = kept.iter().find(|key| key.number == number).map(|key| read(memory, stack, *key)).transpose()?;
    let missing = || {
        let have = kept.iter().map(|key| key.number).collect();
        Error::NotFound { stack: stack.as_str().to_owned(), number, have }
    };
    found.flatten().ok_or_else(missing)
}

/// The number of the last one.
pub fn last(memory: &impl Memory, stack: &StackName) -> Result<u64, Error> {
    let none = || Error::None { stack: stack.as_str().to_owned() };
    memory.kept(stack)?.last().map(|key| key.number).ok_or_else(none)
}

/// The number of the one before the last.
pub fn previous(memory: &impl Memory, stack: &StackName) -> Result<u64, Error> {
    let name = || stack.as_str().to_owned();
    match memory.kept(stack)?.as_slice() {
        [] => Err(Error::None { stack: name() }),
        [only] => Err(Error::First { stack: name(), number: only.number }),
        [.., before, _] => Ok(before.number),
    }
}

fn read(memory: &impl Memory, stack: &StackName, key: Key) -> Result<Option<Generation>, Error> {
    let Some(text) = memory.recall(stack, key)? else { return Ok(None) };
    let wrong = |reason: String| Error::Format { stack: stack.as_str().to_owned(), number: key.number, reason };
    let generation: Generation = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match generation.version {
        VERSION => Ok(Some(generation)),
        other => Err(wrong(format!("it has version {other}; this program reads version {VERSION}"))),
    }
}

/// What each image of the stack stands for, as its containers have it, else the store.
fn digests(desired: &Desired, observed: &Observed) -> BTreeMap<String, String> {
    let of_store = desired.resources.values().filter_map(|resource| match &resource.config {
        Config::Image(image) => observed.digests.get_key_value(&image.reference),
        _ => None,
    });
    let of_containers = observed.resources.values().filter_map(|found| match &found.config {
        Config::Container(container) if !container.image_digest.is_empty() => {
            Some((&container.image, &container.image_digest))
        }
        _ => None,
    });
    of_store.chain(of_containers).map(|(name, digest)| (name.clone(), digest.clone())).collect()
}

/// The first eight bytes of the hash of it.
fn digest(desired: &Desired, digests: &BTreeMap<String, String>) -> u64 {
    let resources: Vec<_> = desired.resources.iter().collect();
    let text = serde_json::json!([resources, desired.external, digests]).to_string();
    u64::from_str_radix(&facts::hash(text.as_bytes())[..16], 16).unwrap_or_default()
}

/// Of the configs whose content is text. What is not is read from its file again.
fn contents(desired: &Desired) -> BTreeMap<String, String> {
    let files = desired.containers().flat_map(|(container, _)| &container.files);
    let configs = files.filter(|file| !file.secret);
    let content = |file: &FileMount| {
        let text = match &file.source {
            FileSource::Content(text) => text.clone(),
            FileSource::File(path) => facts::text(path).ok().flatten()?,
            FileSource::Encrypted { .. } | FileSource::External(_) => return None,
        };
        // One that has changed since it was looked at is not what the stack has.
        (facts::hash(text.as_bytes()) == file.content_hash).then(|| (file.content_hash.clone(), text))
    };
    configs.filter_map(content).collect()
}

impl Generation {
    /// What was asked for then, to be asked for again. `now` is what the files ask for today, where there are any: what
    /// generations don't hold is taken from there.
    ///
    /// # Errors
    /// All that is missing.
    pub fn restore(&self, now: Option<&Desired>) -> Result<Desired, Error> {
        let mut desired = self.desired.clone();
        let (mut missing, mut notes) = (Vec::new(), BTreeSet::new());
        for resource in desired.resources.values_mut() {
            if let Config::Container(container) = &mut resource.config {
                self.fill(container, now, &mut missing, &mut notes);
                bind_as_now(container, &mut notes);
            }
        }
        if !missing.is_empty() {
            return Err(Error::Incomplete(missing));
        }
        self.pin(&mut desired);
        desired.notes = notes.into_iter().collect();
        Ok(desired)
    }

    /// Puts the content of configs and secrets in.
    fn fill(
        &self,
        container: &mut ContainerConfig,
        now: Option<&Desired>,
        missing: &mut Vec<String>,
        notes: &mut BTreeSet<String>,
    ) {
        let service = container.service.clone();
        let today = |file: &FileMount| {
            let same = now?.containers().filter(|(one, _)| one.service == service);
            same.flat_map(|(one, _)| &one.files).find(|one| one.name == file.name && one.secret == file.secret)
        };
        for file in &mut container.files {
            let what = if file.secret { "secret" } else { "config" };
            if let Some(text) = self.contents.get(&file.content_hash).filter(|_| !file.secret) {
                let is_there = matches!(&file.source, FileSource::File(path) if hash_of(path).as_ref() == Some(&file.content_hash));
                if !is_there {
                    file.source = FileSource::Content(text.clone());
                }
                continue;
            }
            let as_today = || today(file).map_or_else(|| file.content_hash.clone(), |one| one.content_hash.clone());
            let found = match &file.source {
                // The engine tells their contents from each other, and looks again.
                FileSource::Encrypted { .. } | FileSource::External(_) => Some((file.source.clone(), as_today())),
                FileSource::File(path) if file.secret => path.exists().then(|| (file.source.clone(), as_today())),
                FileSource::File(path) => hash_of(path).map(|hash| (file.source.clone(), hash)),
                FileSource::Content(_) => today(file).map(|one| (one.source.clone(), one.content_hash.clone())),
            };
            match found {
                Some((source, hash)) => {
                    if hash != file.content_hash {
                        notes.insert(format!("{what} {} is as it is now", file.name));
                    }
                    (file.source, file.content_hash) = (source, hash);
                }
                None => missing.push(format!(
                    "{what} {} of container {service} is not kept with generation {}\n  help: name the stack's file with -f: what it says is taken",
                    file.name, self.number
                )),
            }
        }
    }

    /// Has every image be the content that it stood for. What was made on this host is named by that alone, and is not made
    /// again.
    fn pin(&self, desired: &mut Desired) {
        let mut names = BTreeMap::new();
        desired.resources.retain(|_, resource| match &resource.config {
            Config::Image(image) if image.source.is_of_host() => {
                names
                    .extend(self.digests.get(&image.reference).map(|digest| (image.reference.clone(), digest.clone())));
                false
            }
            _ => true,
        });
        for resource in desired.resources.values_mut() {
            let Config::Image(image) = &mut resource.config else { continue };
            let Some(digest) = self.digests.get(&image.reference) else { continue };
            let pinned = match &image.source {
                ImageSource::Pull { digest: None, .. } => match image.reference.split_once(' ') {
                    Some((name, platform)) => format!("{name}@{digest} {platform}"),
                    None => format!("{}@{digest}", image.reference),
                },
                _ => continue,
            };
            if let ImageSource::Pull { digest: own, .. } = &mut image.source {
                *own = Some(digest.clone());
            }
            image.pull_policy = PullPolicy::Missing;
            names.insert(std::mem::replace(&mut image.reference, pinned.clone()), pinned);
        }
        let resources = std::mem::take(&mut desired.resources);
        let named = |(mut id, mut resource): (ResourceId, _)| {
            if id.kind == Kind::Image
                && let Some(name) = names.get(&id.name)
            {
                id.name.clone_from(name);
            }
            rename(&mut resource, &names);
            (id, resource)
        };
        desired.resources = resources.into_iter().map(named).collect();
        desired.locked.extend(names.into_values());
    }
}

fn rename(resource: &mut crate::reconcile::desired::DesiredResource, names: &BTreeMap<String, String>) {
    if let Config::Container(container) = &mut resource.config {
        let hooks = container.pre_start.iter_mut().filter_map(|hook| hook.image.as_mut());
        for image in std::iter::once(&mut container.image).chain(hooks) {
            if let Some(name) = names.get(image) {
                image.clone_from(name);
            }
        }
    }
}

fn hash_of(path: &std::path::Path) -> Option<String> {
    match facts::look(path) {
        FileFacts::Content { hash } => Some(hash),
        FileFacts::Opaque | FileFacts::Missing | FileFacts::Unreadable { .. } => None,
    }
}

/// Files of the host that are bind-mounted are the host's: their content is what it is.
fn bind_as_now(container: &mut ContainerConfig, notes: &mut BTreeSet<String>) {
    let sources = container.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { source, .. } => Some((mount.target.as_str(), source)),
        _ => None,
    });
    let sources: BTreeMap<&str, _> = sources.collect();
    for (target, hash) in &mut container.bind_contents {
        let Some(source) = sources.get(target.as_str()) else { continue };
        if let Some(now) = hash_of(source).filter(|now| now != hash) {
            notes.insert(format!("{} is of this host, and as it is now", source.display()));
            *hash = now;
        }
    }
}

/// What differs between two generations, as a plan reads: what it costs an engine that can do this.
pub fn between(old: &Generation, new: &Generation, capabilities: &Capabilities) -> Plan {
    let of = |generation: &Generation| -> BTreeMap<ResourceId, Config> {
        let resources = generation.desired.resources.iter();
        resources.map(|(id, resource)| (id.clone(), with_digest(&resource.config, &generation.digests))).collect()
    };
    let (olds, news) = (of(old), of(new));
    let ids: BTreeSet<&ResourceId> = olds.keys().chain(news.keys()).collect();
    let entry = |id: &ResourceId| {
        let (verb, fields) = match (olds.get(id), news.get(id)) {
            (Some(old), Some(new)) => {
                let fields = diff::diff(old, new);
                let verb = match diff::cost(id.kind, &fields, capabilities)? {
                    Change::InPlace => Verb::Update,
                    Change::Restart => Verb::Restart,
                    Change::Replace | Change::LosesData => Verb::Replace,
                };
                (verb, fields)
            }
            (None, _) => (Verb::Create, Vec::new()),
            (_, None) => (Verb::Remove, Vec::new()),
        };
        let (reason, refused, how) = (None, None, None);
        Some(Entry { id: id.clone(), verb, fields, reason, refused, how })
    };
    Plan {
        stack: new.desired.stack.clone(),
        entries: ids.into_iter().filter_map(entry).collect(),
        steps: Vec::new(),
        not_honoured: Vec::new(),
        notes: Vec::new(),
    }
}

fn with_digest(config: &Config, digests: &BTreeMap<String, String>) -> Config {
    let mut config = config.clone();
    if let Config::Container(container) = &mut config
        && let Some(digest) = digests.get(&container.image)
    {
        container.image_digest.clone_from(digest);
    }
    config
}
