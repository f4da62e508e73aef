//! What happens to each resource, before any step is made: its own difference first, then what follows from others.

use std::collections::{BTreeMap, BTreeSet};

use crate::reconcile::desired::{Desired, DesiredResource};
use crate::reconcile::diff::{FieldChange, cost_to, diff};
use crate::reconcile::engine::{Capabilities, Change, Observed, ObservedResource, Phase, RunState};
use crate::reconcile::resource::{
    Config, ContainerConfig, ImageConfig, ImageSource, Kind, MountSource, NamespaceMode, NetworkMode, PullPolicy,
    RETIRED_SUFFIX, ResourceId, Restart,
};

use crate::spec::reaction::Reaction;

use super::PlanOptions;
use super::places::{is_contested, is_kept};
use super::unhealthy::{is_to_be_recreated, spend, with_history};

/// What happens to the thing itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Pull,
    Create,
    Update,
    Restart,
    Replace { start_first: bool },
    Remove,
    Refuse,
}

/// What happens to one resource and why. `config` is the one it shall have; of a removed one the one it has.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub fate: Fate,
    pub config: Config,
    pub fields: Vec<FieldChange>,
    pub reasons: Vec<String>,
    /// Puts back what the host lost, besides `fate`.
    pub repair: bool,
    /// For containers: it shall be started, whatever else happens.
    pub start: bool,
    /// Why a successor that should be started first can't be.
    pub obstacle: Option<String>,
}

impl Decision {
    fn new(fate: Fate, config: &Config) -> Self {
        let config = config.clone();
        Self { fate, config, fields: Vec::new(), reasons: Vec::new(), repair: false, start: false, obstacle: None }
    }

    /// Of something that is found.
    pub fn removal(fate: Fate, found: &Config, reason: Option<&str>) -> Self {
        let decision = Self::new(fate, found);
        match reason {
            Some(reason) => decision.because(reason),
            None => decision,
        }
    }

    fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    pub fn is_change(&self) -> bool {
        self.fate != Fate::Keep || self.repair || self.start
    }

    /// An archive or root file system that holds something else than before. What is built anew may turn out the same.
    fn reloads(&self) -> bool {
        let from_file = matches!(
            &self.config,
            Config::Image(ImageConfig { source: ImageSource::Archive(_) | ImageSource::Rootfs(_), .. })
        );
        self.fate == Fate::Pull && from_file && !self.fields.is_empty()
    }

    /// Whatever runs is stopped, at least for a moment.
    pub fn disrupts(&self) -> bool {
        matches!(self.fate, Fate::Restart | Fate::Replace { .. } | Fate::Remove)
    }
}

pub(super) type Decisions = BTreeMap<ResourceId, Decision>;

/// One decision for every resource that is declared or found; volumes that are no longer declared are left out.
pub(super) fn decide(
    desired: &Desired,
    observed: &Observed,
    engine: &Capabilities,
    options: &PlanOptions,
) -> Decisions {
    let mut decisions = Decisions::new();
    for (id, resource) in &desired.resources {
        let decision = match &resource.config {
            Config::Image(image) => decide_image(image, &resource.config, observed, options),
            _ => match observed.resources.get(id) {
                None => created(resource, "not found"),
                Some(found) => {
                    let mut fields = differences(resource, found, observed, &decisions);
                    let moved = tag_moved(&resource.config, &found.config, desired, &mut fields);
                    let mut decision = decide_found(id, resource, found, fields, observed, engine, options);
                    decision.reasons.extend(moved.map(str::to_owned));
                    decision
                }
            },
        };
        decisions.insert(id.clone(), decision);
    }
    for (id, found) in &observed.resources {
        let removable = matches!(id.kind, Kind::Container | Kind::Network);
        if removable && !desired.resources.contains_key(id) {
            let reason = if is_retired(&found.config) { "gave way to its successor" } else { "no longer declared" };
            decisions.insert(id.clone(), Decision::new(Fate::Remove, &found.config).because(reason));
        }
    }
    cascade(desired, observed, &mut decisions);
    decisions
}

fn created(resource: &DesiredResource, reason: &str) -> Decision {
    let mut decision = Decision::new(Fate::Create, &resource.config).because(reason);
    decision.start = matches!(resource.config, Config::Container(_));
    decision
}

fn is_retired(config: &Config) -> bool {
    matches!(config, Config::Container(config) if config.is_retired())
}

fn decide_image(image: &ImageConfig, config: &Config, observed: &Observed, options: &PlanOptions) -> Decision {
    if image.source.is_of_host() {
        return decide_made(image, config, observed, options);
    }
    let here = observed.digests.contains_key(&image.reference);
    let from_registry = matches!(image.source, ImageSource::Pull { .. });
    match (here, image.pull_policy) {
        (false, PullPolicy::Never) if from_registry => {
            Decision::new(Fate::Refuse, config).because("not in the store, and pull_policy is never")
        }
        (false, _) => Decision::new(Fate::Pull, config).because("not found"),
        (true, PullPolicy::Always) if options.refresh && from_registry => {
            Decision::new(Fate::Pull, config).because("pull_policy: always")
        }
        (true, _) => Decision::new(Fate::Keep, config),
    }
}

/// Built or loaded where it is not here, or was made from something else; a build also where it is asked for, to see
/// whether what it is built on has moved.
fn decide_made(image: &ImageConfig, config: &Config, observed: &Observed, options: &PlanOptions) -> Decision {
    if !observed.digests.contains_key(&image.reference) {
        return Decision::new(Fate::Pull, config).because("not found");
    }
    let Some(found) = observed.made.get(&image.reference) else {
        let builds = matches!(image.source, ImageSource::Build(_));
        return Decision::new(Fate::Pull, config).because(if builds {
            "not built here"
        } else {
            "not loaded from here"
        });
    };
    let found = ImageConfig { pull_policy: image.pull_policy, ..found.clone() };
    let fields = diff(&Config::Image(found), config);
    if !fields.is_empty() {
        return Decision { fields, ..Decision::new(Fate::Pull, config) };
    }
    let ImageSource::Build(build) = &image.source else { return Decision::new(Fate::Keep, config) };
    match options.refresh {
        true if build.pull => Decision::new(Fate::Pull, config).because("build.pull: true"),
        true if image.pull_policy == PullPolicy::Always => {
            Decision::new(Fate::Pull, config).because("pull_policy: build")
        }
        _ => Decision::new(Fate::Keep, config),
    }
}

/// What differs. An image that is loaded because its file changed is another one, which is not known before.
fn differences(
    resource: &DesiredResource,
    found: &ObservedResource,
    observed: &Observed,
    decisions: &Decisions,
) -> Vec<FieldChange> {
    let mut fields = diff(&found.config, &with_history(with_digest(&resource.config, observed), &found.config));
    let (Config::Container(wanted), Config::Container(found)) = (&resource.config, &found.config) else {
        return fields;
    };
    let mut reloaded = |image: &str, path: String, old: &str| {
        let reloads = decisions.get(&ResourceId::new(Kind::Image, image)).is_some_and(Decision::reloads);
        if reloads && fields.iter().all(|field| field.path != path) {
            fields.push(FieldChange { path, old: old.into(), new: "known when it is loaded".into() });
        }
    };
    reloaded(&wanted.image, "image_digest".to_owned(), &found.image_digest);
    for mount in &found.mounts {
        if let MountSource::Image { image, digest, .. } = &mount.source {
            reloaded(image, format!("mounts.{}.digest", mount.target), digest);
        }
    }
    fields.retain(|field| !is_same_tag(field));
    fields
}

/// A mounted image under the same name, pinned or not: its content tells.
fn is_same_tag(field: &FieldChange) -> bool {
    let of_mount = field.path.starts_with("mounts.") && field.path.ends_with(".image");
    let (Some(old), Some(new)) = (field.old.as_str(), field.new.as_str()) else { return false };
    of_mount && tag(old) == tag(new) && !(old.contains('@') && new.contains('@'))
}

/// A tag's name is the same whether it is pinned or not: the content tells. Says so where a registry's tag stands for
/// other content than what runs.
fn tag_moved(
    wanted: &Config,
    found: &Config,
    desired: &Desired,
    fields: &mut Vec<FieldChange>,
) -> Option<&'static str> {
    let (Config::Container(wanted), Config::Container(found)) = (wanted, found) else { return None };
    let id = ResourceId::new(Kind::Image, &wanted.image);
    let image = desired.resources.get(&id).map(|resource| &resource.config);
    let from_registry = matches!(image, Some(Config::Image(ImageConfig { source: ImageSource::Pull { .. }, .. })));
    let by_tag = desired.locked.contains(&wanted.image) || !wanted.image.contains('@');
    if !from_registry || !by_tag || tag(&wanted.image) != tag(&found.image) {
        return None;
    }
    fields.retain(|field| field.path != "image");
    fields.iter().any(|field| field.path == "image_digest").then_some("tag moved")
}

/// `nginx:1.27` of `nginx:1.27@sha256:…`, also with a platform behind it.
fn tag(image: &str) -> (&str, Option<&str>) {
    let (name, platform) = image.split_once(' ').map_or((image, None), |(name, platform)| (name, Some(platform)));
    (name.split('@').next().unwrap_or(name), platform)
}

fn decide_found(
    id: &ResourceId,
    resource: &DesiredResource,
    found: &ObservedResource,
    fields: Vec<FieldChange>,
    observed: &Observed,
    engine: &Capabilities,
    options: &PlanOptions,
) -> Decision {
    let mut config = with_history(with_digest(&resource.config, observed), &found.config);
    if found.phase == Phase::Creating {
        return half_made(id, config, fields);
    }
    let mut decision = match cost_to(&config, id.kind, &fields, engine) {
        _ if is_to_be_recreated(&config, found, observed.now_ms) => {
            spend(&mut config, observed.now_ms);
            replaced(id, resource, &found.config, &config, observed, engine).because("unhealthy")
        }
        None => Decision::new(Fate::Keep, &config),
        Some(Change::InPlace) if !(moves(&fields) && is_contested(id, &config, observed)) => {
            Decision::new(Fate::Update, &config)
        }
        Some(Change::Restart) => Decision::new(Fate::Restart, &config),
        Some(Change::InPlace | Change::Replace) => {
            let anew = with_digest(&resource.config, observed);
            replaced(id, resource, &found.config, &anew, observed, engine)
        }
        Some(Change::LosesData) => loses_data(&config, options),
    };
    if decision.fate == Fate::Update {
        decision.reasons.extend(reactions(&config, &fields));
    }
    decision.fields = fields;
    if !found.drift.is_empty() && !decision.disrupts() && decision.fate != Fate::Refuse {
        decision.repair = true;
        decision.reasons.extend(found.drift.iter().cloned());
    }
    if let (Config::Container(container), Some(run)) = (&config, &found.run)
        && !options.resting.contains(id)
    {
        decide_run(&mut decision, container, run, options);
    }
    decision
}

/// What is done in a container whose files have other content and that goes on running.
fn reactions(config: &Config, fields: &[FieldChange]) -> BTreeSet<String> {
    let Config::Container(container) = config else { return BTreeSet::new() };
    let reactions = fields.iter().filter_map(|field| container.reaction(&field.path));
    let words = reactions.filter_map(|reaction| match reaction {
        Reaction::Signal(signal) => Some(format!("then signal {signal}")),
        Reaction::Exec(words) => Some(format!("then exec {}", words.join(" "))),
        Reaction::Recreate | Reaction::Restart | Reaction::None => None,
    });
    words.collect()
}

fn moves(fields: &[FieldChange]) -> bool {
    fields.iter().any(|field| field.path.starts_with("network."))
}

fn replaced(
    id: &ResourceId,
    resource: &DesiredResource,
    old: &Config,
    new: &Config,
    observed: &Observed,
    engine: &Capabilities,
) -> Decision {
    if !resource.start_first {
        return Decision::new(Fate::Replace { start_first: false }, new);
    }
    let obstacle = if !engine.renames {
        Some(format!("the {} engine can't", engine.name))
    } else if observed.resources.contains_key(&retired(id)) {
        // The one before it still runs, and is the one that is known to work.
        Some(format!("{} still runs", retired(id)))
    } else {
        obstacle(old, new)
    };
    Decision { obstacle: obstacle.clone(), ..Decision::new(Fate::Replace { start_first: obstacle.is_none() }, new) }
}

/// What a container becomes while its successor is started.
pub(super) fn retired(id: &ResourceId) -> ResourceId {
    ResourceId::new(id.kind, format!("{}{RETIRED_SUFFIX}", id.name))
}

/// A create that was interrupted: finished where nothing changed since, made anew otherwise. Volumes are always
/// finished, so that no data of theirs is at stake.
fn half_made(id: &ResourceId, config: Config, fields: Vec<FieldChange>) -> Decision {
    let finish = fields.is_empty() || id.kind == Kind::Volume;
    let fate = if finish { Fate::Create } else { Fate::Replace { start_first: false } };
    let mut decision = Decision::new(fate, &config).because("half made");
    decision.fields = fields;
    decision.start = id.kind == Kind::Container;
    decision
}

fn loses_data(config: &Config, options: &PlanOptions) -> Decision {
    match config {
        Config::Volume(volume) if volume.protect => {
            Decision::new(Fate::Refuse, config).because("the volume is protected")
        }
        _ if options.consent_volumes => {
            Decision::new(Fate::Replace { start_first: false }, config).because("data is lost")
        }
        _ => Decision::new(Fate::Refuse, config).because("data would be lost"),
    }
}

/// The container with the digest that its image stands for now; empty while the store doesn't know it.
fn with_digest(config: &Config, observed: &Observed) -> Config {
    let mut config = config.clone();
    if let Config::Container(container) = &mut config {
        // What was made before, and is only brought back, keeps its own.
        let own = std::mem::take(&mut container.image_digest);
        container.image_digest = digest_of(&container.image, observed).unwrap_or(own);
        for (image, digest) in container.mounted_images_mut() {
            if let Some(found) = digest_of(image, observed) {
                *digest = found;
            }
        }
    }
    config
}

fn digest_of(image: &str, observed: &Observed) -> Option<String> {
    let pinned = || image.split(' ').next()?.split_once('@').map(|(_, digest)| digest.to_owned());
    observed.digests.get(image).cloned().or_else(pinned)
}

fn decide_run(decision: &mut Decision, container: &ContainerConfig, run: &RunState, options: &PlanOptions) {
    if decision.disrupts() {
        decision.start = true;
        return;
    }
    let kept = options.keep_stopped && matches!(run, RunState::Exited { by_hand: true, .. });
    let reason = match run {
        RunState::Created => "never started".to_owned(),
        _ if kept || completed(container, run) || is_live(run) => return,
        RunState::Interrupted => "was interrupted".to_owned(),
        RunState::Exited { by_hand: true, .. } => "stopped by hand".to_owned(),
        RunState::Exited { code, .. } => format!("exited with {code}"),
        RunState::Running { .. } | RunState::Paused | RunState::Restarting => return,
    };
    decision.start = true;
    decision.reasons.push(reason);
}

/// It did its work, and its restart policy agrees that it is done.
pub(super) fn completed(container: &ContainerConfig, run: &RunState) -> bool {
    let once = matches!(container.restart, Restart::No | Restart::OnFailure { .. });
    once && matches!(run, RunState::Exited { code: 0, by_hand: false })
}

/// It has a process, or will have one again without being asked.
pub(super) fn is_live(run: &RunState) -> bool {
    matches!(run, RunState::Running { .. } | RunState::Paused | RunState::Restarting)
}

/// Why both can't run for a moment: a port, an address or a writable volume that they would share.
fn obstacle(old: &Config, new: &Config) -> Option<String> {
    let (Config::Container(old), Config::Container(new)) = (old, new) else { return Some("it is no container".into()) };
    // A port that is given up may be wanted by a container that the new one waits for.
    if let Some(port) = old.ports.iter().find(|port| port.published != 0) {
        return Some(format!("port {}", port.published));
    }
    let shared = new.mounts.iter().filter(|mount| !mount.read_only).find_map(|mount| match &mount.source {
        MountSource::Volume { volume: Some(name), .. } => Some(format!("volume {name}")),
        MountSource::Volume { volume: None, .. } => Some(format!("the volume at {}", mount.target)),
        MountSource::Bind { .. } | MountSource::Tmpfs { .. } | MountSource::Image { .. } => None,
    });
    shared.or_else(|| fixed_place(old)).or_else(|| fixed_place(new))
}

fn fixed_place(container: &ContainerConfig) -> Option<String> {
    match &container.network {
        NetworkMode::Networks(endpoints) => endpoints.values().find_map(|endpoint| {
            let address = endpoint.ipv4_address.as_ref().or(endpoint.mac_address.as_ref());
            address.map(|address| format!("address {address}"))
        }),
        NetworkMode::None => None,
        NetworkMode::Host => Some("the host's network".to_owned()),
        NetworkMode::Container(name) => Some(format!("the network of {name}")),
    }
}

/// Follows what one decision means for others until nothing more follows.
fn cascade(desired: &Desired, observed: &Observed, decisions: &mut Decisions) {
    let names = names(desired);
    loop {
        let mut consequences = Vec::new();
        for (id, resource) in &desired.resources {
            let Config::Container(config) = &resource.config else { continue };
            let Some(found) = observed.resources.get(id) else { continue };
            let own = decisions[id].fate;
            if matches!(own, Fate::Replace { start_first: false } | Fate::Refuse) {
                continue;
            }
            let replaced =
                |it: &&ResourceId| matches!(decisions.get(*it).map(|it| it.fate), Some(Fate::Replace { .. }));
            if let Some(cause) = held(&found.config, observed).iter().find(replaced) {
                consequences.push((id.clone(), Fate::Replace { start_first: false }, format!("{cause} is replaced")));
            } else if !restarts(own) && found.run.as_ref().is_some_and(is_live) {
                let cause = restarts_with(resource).find(|it| restarted(it, decisions)).cloned();
                let cause = cause.map(|cause| format!("{cause} is restarted"));
                let cause = cause.or_else(|| lost_namespace(config, &names, observed, decisions));
                consequences.extend(cause.map(|cause| (id.clone(), Fate::Restart, cause)));
            }
        }
        if consequences.is_empty() {
            return;
        }
        for (id, fate, reason) in consequences {
            let decision = decisions.get_mut(&id).expect("every declared resource has a decision");
            decision.fate = fate;
            decision.repair = false;
            decision.start = true;
            decision.reasons.push(reason);
        }
    }
}

fn restarted(id: &ResourceId, decisions: &Decisions) -> bool {
    decisions.get(id).is_some_and(|decision| restarts(decision.fate))
}

fn restarts(fate: Fate) -> bool {
    matches!(fate, Fate::Restart | Fate::Replace { .. })
}

/// Containers whose restart is one of this container, too.
fn restarts_with(resource: &DesiredResource) -> impl Iterator<Item = &ResourceId> {
    resource.depends_on.iter().filter(|edge| edge.restart).map(|edge| &edge.on)
}

/// Why a container that lives in namespaces of others has to be started again: one of them gets another.
fn lost_namespace(
    config: &ContainerConfig,
    names: &BTreeMap<&str, &ResourceId>,
    observed: &Observed,
    decisions: &Decisions,
) -> Option<String> {
    let network = network_owner(config).and_then(|name| names.get(name));
    let network = network.filter(|owner| !is_kept(owner, observed, decisions));
    let others = process_owners(config).filter_map(|name| names.get(name));
    let mut others = others.filter(|owner| decisions.get(**owner).is_some_and(|it| renews(it.fate)));
    let owner = network.or_else(|| others.next())?;
    let anew = decisions.get(*owner).is_some_and(|decision| decision.fate == Fate::Create);
    Some(format!("{owner} is {}", if anew { "made anew" } else { "restarted" }))
}

/// Its first process is another one afterwards.
fn renews(fate: Fate) -> bool {
    restarts(fate) || fate == Fate::Create
}

/// Names on the engine of the containers whose namespaces this one lives in.
pub(super) fn shared_namespaces(config: &ContainerConfig) -> Vec<&str> {
    network_owner(config).into_iter().chain(process_owners(config)).collect()
}

fn network_owner(config: &ContainerConfig) -> Option<&str> {
    match &config.network {
        NetworkMode::Container(name) => Some(name.as_str()),
        NetworkMode::Networks(_) | NetworkMode::None | NetworkMode::Host => None,
    }
}

/// Of those whose processes or messages it shares.
fn process_owners(config: &ContainerConfig) -> impl Iterator<Item = &str> {
    [&config.pid, &config.ipc].into_iter().filter_map(|mode| match mode {
        NamespaceMode::Container(name) => Some(name.as_str()),
        NamespaceMode::Private | NamespaceMode::Host => None,
    })
}

/// Name on the engine → container of the stack.
pub(super) fn names(desired: &Desired) -> BTreeMap<&str, &ResourceId> {
    let containers = desired.resources.iter().filter_map(|(id, resource)| match &resource.config {
        Config::Container(config) => Some((config.name.as_str(), id)),
        _ => None,
    });
    containers.collect()
}

/// The networks and volumes of the stack that a container holds, by their names on the engine.
pub(super) fn held(config: &Config, observed: &Observed) -> Vec<ResourceId> {
    let Config::Container(container) = config else { return Vec::new() };
    let holds = |found: &Config| match found {
        Config::Network(network) => uses_network(container, &network.name),
        Config::Volume(volume) => uses_volume(container, &volume.name),
        Config::Image(_) | Config::Container(_) => false,
    };
    let found = observed.resources.iter().filter(|(_, found)| holds(&found.config));
    found.map(|(id, _)| id.clone()).collect()
}

pub(super) fn uses_network(container: &ContainerConfig, name: &str) -> bool {
    matches!(&container.network, NetworkMode::Networks(endpoints) if endpoints.contains_key(name))
}

pub(super) fn uses_volume(container: &ContainerConfig, name: &str) -> bool {
    // One without a name is called after its container; that it is there the image may have asked for.
    if name.strip_prefix(&container.name).is_some_and(|rest| rest.starts_with('.')) {
        return true;
    }
    let named = |mount: &MountSource| matches!(mount, MountSource::Volume { volume: Some(it), .. } if it == name);
    container.mounts.iter().any(|mount| named(&mount.source))
}
