//! What each action does to the world, and when the world refuses it.

use super::{Behaviour, Held, World, digest_of, first_health};
use crate::reconcile::desired::clash;
use crate::reconcile::diff::field_cost;
use crate::reconcile::engine::{
    Action, Change, Check, Condition, EngineError, Health, ObservedResource, Phase, RunState, linux_change,
};
use crate::reconcile::resource::{
    Config, ContainerConfig, FileSource, ImageConfig, ImageSource, Kind, MountSource, NamespaceMode, NetworkMode,
};

pub(super) fn failed(subject: &str, reason: &str) -> EngineError {
    EngineError::Failed { subject: subject.to_owned(), reason: reason.to_owned(), help: None }
}

fn refused(subject: &str, reason: &str) -> EngineError {
    EngineError::Refused { subject: subject.to_owned(), reason: reason.to_owned(), help: None }
}

/// Kind and name on the engine.
fn key(config: &Config) -> (Kind, String) {
    match config {
        Config::Image(image) => (Kind::Image, image.reference.clone()),
        Config::Network(network) => (Kind::Network, network.name.clone()),
        Config::Volume(volume) => (Kind::Volume, volume.name.clone()),
        Config::Container(container) => (Kind::Container, container.name.clone()),
    }
}

fn has_process(run: Option<&RunState>) -> bool {
    matches!(run, Some(RunState::Running { .. } | RunState::Paused | RunState::Restarting))
}

impl World {
    pub(super) fn perform(&mut self, action: &Action) -> Result<(), EngineError> {
        self.settle();
        match action {
            Action::Create { config: Config::Image(image), .. } => self.pull(image),
            Action::Create { config, .. } => self.create(config, Phase::Created),
            Action::Update { config, fields, .. } => self.update(config, fields),
            Action::Repair { config, .. } => self.repair(config),
            Action::Remove { config, .. } => self.remove(config),
            Action::Vacate { config, .. } => self.vacate(&config.name),
            Action::Start { name, .. } => self.start(name),
            Action::Stop { name, .. } => self.stop(name, RunState::Exited { code: 143, by_hand: true }),
            Action::Halt { name, .. } => self.stop(name, RunState::Interrupted),
            Action::Rename { from, to, .. } => self.rename(from, to),
            Action::Wait { name, condition, .. } => self.wait(name, *condition),
            Action::Check { check } => self.check(check),
        }
    }

    /// What is on disk when the process dies in the middle: makers and removers leave a half-made thing, the others
    /// have one effect that happens or does not.
    pub(super) fn perform_half(&mut self, action: &Action) -> Result<(), EngineError> {
        match action {
            Action::Create { config: Config::Image(_), .. } => Ok(()),
            Action::Create { config, .. } => {
                let there = self.held.get(&key(config)).is_some_and(|held| held.resource.phase == Phase::Created);
                if there { Ok(()) } else { self.create(config, Phase::Creating) }
            }
            Action::Remove { config, .. } => {
                self.removable(config)?;
                if let Some(held) = self.held.get_mut(&key(config)) {
                    held.resource.phase = Phase::Creating;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Lets happen what has come due by now.
    pub(super) fn settle(&mut self) {
        let (now, behaviours) = (self.now_ms, &self.behaviours);
        for held in self.held.values_mut() {
            let Config::Container(config) = &held.resource.config else { continue };
            let Some(RunState::Running { health }) = &mut held.resource.run else { continue };
            let behaviour = behaviours.get(&config.service).copied().unwrap_or_default();
            let age = now - held.started_ms;
            if let Some((_, code)) = behaviour.exits.filter(|(after, _)| age >= *after) {
                held.resource.run = Some(RunState::Exited { code, by_hand: false });
            } else if *health == Health::Starting && !behaviour.sick && age >= behaviour.healthy_after_ms {
                *health = Health::Healthy;
            }
        }
    }

    fn pull(&mut self, image: &ImageConfig) -> Result<(), EngineError> {
        if self.unavailable.contains(&image.reference) {
            return Err(failed(&image.reference, "the registry does not have it"));
        }
        let digest = match &image.source {
            ImageSource::Pull { digest: Some(digest), .. } => digest.clone(),
            ImageSource::Build(_) | ImageSource::Archive(_) | ImageSource::Rootfs(_) => {
                digest_of(&serde_json::to_string(&image.source).expect("a source has only string keys"))
            }
            _ => self.registry.get(&image.reference).cloned().unwrap_or_else(|| digest_of(&image.reference)),
        };
        self.store.insert(image.reference.clone(), digest);
        if image.source.is_of_host() {
            self.made.insert(image.reference.clone(), image.clone());
        }
        Ok(())
    }

    fn create(&mut self, config: &Config, phase: Phase) -> Result<(), EngineError> {
        let key = key(config);
        if let Config::Volume(volume) = config {
            self.plugin_answers(&volume.driver, &volume.name)?;
        }
        let mut config = config.clone();
        if let Config::Container(container) = &mut config {
            self.ingredients(container)?;
            container.image_digest = self.store[&container.image].clone();
        }
        if let Some(held) = self.held.get(&key) {
            let same = crate::reconcile::diff::diff(&held.resource.config, &config).is_empty();
            if held.resource.phase == Phase::Created {
                return if same { Ok(()) } else { Err(failed(&key.1, "the name is taken")) };
            }
        }
        let run = matches!(config, Config::Container(_)).then_some(RunState::Created);
        let resource = ObservedResource { phase, config, run, drift: Vec::new() };
        self.held.insert(key, Held { resource, started_ms: 0 });
        Ok(())
    }

    /// A volume is made, mounted and removed by its driver.
    fn plugin_answers(&self, driver: &str, subject: &str) -> Result<(), EngineError> {
        match self.silent_plugins.contains(driver) {
            true => Err(failed(subject, &format!("plugin {driver} does not answer"))),
            false => Ok(()),
        }
    }

    /// The plugins of a container's volumes mount them.
    fn mounted(&self, container: &ContainerConfig) -> Result<(), EngineError> {
        for mount in &container.mounts {
            let MountSource::Volume { volume: Some(name), .. } = &mount.source else { continue };
            let held = self.held.get(&(Kind::Volume, name.clone())).map(|held| &held.resource.config);
            if let Some(Config::Volume(volume)) = held {
                self.plugin_answers(&volume.driver, &container.name)?;
            }
        }
        Ok(())
    }

    /// Image, networks and volumes of a container are there, whole.
    fn ingredients(&self, container: &ContainerConfig) -> Result<(), EngineError> {
        if !self.store.contains_key(&container.image) {
            return Err(failed(&container.name, "its image is not in the store"));
        }
        let networks = match &container.network {
            NetworkMode::Networks(endpoints) => endpoints.keys().map(|name| (Kind::Network, name.clone())).collect(),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => Vec::new(),
        };
        let volumes = container.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume { volume: Some(name), .. } => Some((Kind::Volume, name.clone())),
            _ => None,
        });
        for needed in networks.into_iter().chain(volumes) {
            let whole = self.held.get(&needed).is_some_and(|held| held.resource.phase == Phase::Created);
            if !whole && !self.external.contains(&needed) {
                return Err(failed(&container.name, &format!("{} {} is missing", needed.0, needed.1)));
            }
        }
        Ok(())
    }

    fn update(&mut self, config: &Config, fields: &[String]) -> Result<(), EngineError> {
        let key = key(config);
        if let Config::Container(container) = config {
            self.ingredients(container)?;
        }
        let held = self.held.get_mut(&key).ok_or_else(|| failed(&key.1, "not found"))?;
        let running = has_process(held.resource.run.as_ref());
        let most = if running { Change::InPlace } else { Change::Restart };
        if let Some(field) = fields.iter().find(|field| field_cost(config, key.0, field, linux_change) > most) {
            return Err(failed(&key.1, &format!("{field} can't be changed in place")));
        }
        held.resource.config = config.clone();
        Ok(())
    }

    fn repair(&mut self, config: &Config) -> Result<(), EngineError> {
        let key = key(config);
        let held = self.held.get_mut(&key).ok_or_else(|| failed(&key.1, "not found"))?;
        held.resource.drift.clear();
        Ok(())
    }

    fn removable(&self, config: &Config) -> Result<(), EngineError> {
        let key = key(config);
        if self.held.get(&key).is_some_and(|held| has_process(held.resource.run.as_ref())) {
            return Err(failed(&key.1, "it is running"));
        }
        let holds = |held: &&Held| match &held.resource.config {
            Config::Container(container) => match key.0 {
                Kind::Network => {
                    matches!(&container.network, NetworkMode::Networks(endpoints) if endpoints.contains_key(&key.1))
                }
                Kind::Volume => container.mounts.iter().any(
                    |mount| matches!(&mount.source, MountSource::Volume { volume: Some(name), .. } if *name == key.1),
                ),
                Kind::Image | Kind::Container => false,
            },
            _ => false,
        };
        match self.held.values().find(holds) {
            Some(_) => Err(failed(&key.1, "a container still holds it")),
            None => Ok(()),
        }
    }

    fn remove(&mut self, config: &Config) -> Result<(), EngineError> {
        self.removable(config)?;
        if let Config::Volume(volume) = config {
            self.plugin_answers(&volume.driver, &volume.name)?;
        }
        self.held.remove(&key(config));
        Ok(())
    }

    fn vacate(&mut self, name: &str) -> Result<(), EngineError> {
        let Some(held) = self.held.get_mut(&(Kind::Container, name.to_owned())) else { return Ok(()) };
        if has_process(held.resource.run.as_ref()) {
            return Err(failed(name, "it is running"));
        }
        (held.resource.phase, held.resource.run) = (Phase::Creating, Some(RunState::Created));
        Ok(())
    }

    fn container(&self, name: &str) -> Option<(&ContainerConfig, &Held)> {
        let held = self.held.get(&(Kind::Container, name.to_owned()))?;
        match &held.resource.config {
            Config::Container(config) => Some((config, held)),
            _ => None,
        }
    }

    fn running(&self) -> impl Iterator<Item = &ContainerConfig> {
        self.held.values().filter(|held| has_process(held.resource.run.as_ref())).filter_map(|held| {
            match &held.resource.config {
                Config::Container(config) => Some(&**config),
                _ => None,
            }
        })
    }

    fn start(&mut self, name: &str) -> Result<(), EngineError> {
        let (config, held) = self.container(name).ok_or_else(|| failed(name, "not found"))?;
        if held.resource.phase == Phase::Creating {
            return Err(failed(name, "half made"));
        }
        if has_process(held.resource.run.as_ref()) {
            return Ok(());
        }
        self.ports_free(config, &[])?;
        self.mounted(config)?;
        let owners = [&config.pid, &config.ipc].into_iter().filter_map(|mode| match mode {
            NamespaceMode::Container(owner) => Some(owner),
            NamespaceMode::Private | NamespaceMode::Host => None,
        });
        let network = match &config.network {
            NetworkMode::Container(owner) => Some(owner),
            NetworkMode::Networks(_) | NetworkMode::None | NetworkMode::Host => None,
        };
        for owner in owners.chain(network) {
            if !self.running().any(|other| other.name == *owner) {
                return Err(failed(name, &format!("{owner}, whose namespace it joins, is not running")));
            }
        }
        let none = |test: &[String]| test.first().is_some_and(|word| word == "NONE");
        let checked = config.healthcheck.as_ref().is_some_and(|check| !none(&check.test));
        let now = self.now_ms;
        if let Some(held) = self.held.get_mut(&(Kind::Container, name.to_owned())) {
            held.resource.run = Some(RunState::Running { health: first_health(checked) });
            held.started_ms = now;
        }
        self.settle();
        Ok(())
    }

    fn stop(&mut self, name: &str, ended: RunState) -> Result<(), EngineError> {
        if let Some(held) = self.held.get_mut(&(Kind::Container, name.to_owned()))
            && has_process(held.resource.run.as_ref())
        {
            held.resource.run = Some(ended);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), EngineError> {
        if self.container(to).is_some() && self.container(from).is_none() {
            return Ok(());
        }
        if self.container(to).is_some() {
            return Err(failed(to, "the name is taken"));
        }
        let mut held =
            self.held.remove(&(Kind::Container, from.to_owned())).ok_or_else(|| failed(from, "not found"))?;
        if let Config::Container(config) = &mut held.resource.config {
            config.name = to.to_owned();
        }
        self.held.insert((Kind::Container, to.to_owned()), held);
        Ok(())
    }

    /// Moves the clock to the moment when the condition holds.
    fn wait(&mut self, name: &str, condition: Condition) -> Result<(), EngineError> {
        let (config, held) = self.container(name).ok_or_else(|| failed(name, "not found"))?;
        let behaviour: Behaviour = self.behaviours.get(&config.service).copied().unwrap_or_default();
        let due = match (condition, &held.resource.run) {
            (Condition::Healthy, Some(RunState::Running { health: Health::Starting })) => behaviour.healthy_after_ms,
            (Condition::CompletedSuccessfully, Some(RunState::Running { .. })) => {
                behaviour.exits.ok_or_else(|| failed(name, "it does not complete"))?.0
            }
            _ => 0,
        };
        self.now_ms = self.now_ms.max(held.started_ms + due);
        self.settle();
        let run = self.container(name).and_then(|(_, held)| held.resource.run.clone());
        match (condition, run) {
            (Condition::Started, Some(RunState::Running { .. }))
            | (Condition::Healthy, Some(RunState::Running { health: Health::Healthy | Health::None }))
            | (_, Some(RunState::Exited { code: 0, .. })) => Ok(()),
            (_, run) => Err(failed(name, &format!("is not {condition:?}: {run:?}"))),
        }
    }

    fn check(&self, check: &Check) -> Result<(), EngineError> {
        match check {
            Check::PortsFree { container, freed } => self.ports_free(container, freed),
            Check::SourcesReadable { container } => {
                let binds = container.mounts.iter().filter_map(|mount| match &mount.source {
                    MountSource::Bind { source, create: false, .. } => Some(source),
                    _ => None,
                });
                let files = container.files.iter().filter_map(|file| match &file.source {
                    FileSource::File(path) => Some(path),
                    FileSource::Encrypted { path, .. } => Some(path),
                    FileSource::Content(_) | FileSource::External(_) => None,
                });
                match binds.chain(files).find(|path| self.unreadable.contains(*path)) {
                    Some(path) => Err(refused(&container.name, &format!("{} can't be read", path.display()))),
                    None => Ok(()),
                }
            }
            // Images of this world are names only.
            Check::UserKnown { .. } | Check::ProgramPresent { .. } => Ok(()),
            // In this world every network can be made.
            Check::NetworkPossible { .. } => Ok(()),
            Check::External { kind, name } if self.external.contains(&(*kind, name.clone())) => Ok(()),
            Check::External { kind, name } => Err(refused(name, &format!("there is no such {kind}"))),
        }
    }

    fn ports_free(&self, config: &ContainerConfig, freed: &[String]) -> Result<(), EngineError> {
        if let Some(port) = config.ports.iter().find(|port| self.foreign_ports.contains(&port.published)) {
            return Err(refused(&config.name, &format!("port {} is taken by another process", port.published)));
        }
        let others = self.running().filter(|other| other.name != config.name && !freed.contains(&other.name));
        for other in others {
            if config.ports.iter().any(|port| other.ports.iter().any(|held| clash(port, held))) {
                return Err(refused(&config.name, &format!("{} has one of its ports", other.name)));
            }
        }
        Ok(())
    }
}
