//! This host as an engine: resources become calls of the runtime, and what the host holds becomes resources.
//!
//! What was asked for is kept with each object as `declared`, and compared by the plan; what the object became is the
//! runtime's own affair. The runtime is synchronous; each action runs on a thread that may block.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::reconcile::desired::Desired;
use crate::reconcile::engine::{
    Action, Capabilities, Condition, Engine, EngineError, Ignored, Observed, StackName, linux_change,
};
use crate::reconcile::plan::Plan;
use crate::reconcile::resource::{Config, ContainerConfig, ImageConfig, ImageSource, ResourceId};
use crate::runtime::cgroup::Abilities;
use crate::runtime::container;
use crate::runtime::image::{Error as ImageError, Image, Platform, Store};
use crate::runtime::roots::Roots;
use crate::runtime::volume::Removal;
use crate::spec::{Fault, Stack};

pub mod builds;
mod checks;
pub mod commit;
pub mod containers;
mod drivers;
mod files;
mod filters;
mod hooks;
mod images;
mod logging;
mod look;
mod lost;
mod memory;
mod names;
mod naming;
mod networks;
mod observe;
mod of_image;
pub mod places;
mod policy;
mod protection;
mod reload;
mod translate;
mod unsupported;
mod users;
mod volumes;

pub use files::users as object_users;
pub use images::{
    SharedWatcher, Silent, Watcher, ensure as ensure_image, fetched as fetched_digest, newest as newest_digest,
    provide as provide_image,
};
pub use memory::{forget_stack, remembered as remembered_stacks};
pub use networks::{
    DEFAULT_NETWORK, create as create_network, ensure_default as ensure_default_network, remove as remove_network,
};
pub use policy::Admitted;
pub use unsupported::unsupported;
pub use volumes::{
    anonymous as anonymous_volumes, create as create_volume, is_anonymous as is_anonymous_volume, users as volume_users,
};

/// What a file may say and this engine does not do on this host.
fn ignored(host: Abilities) -> Vec<Ignored> {
    let ignored = |key, is_set, reason| Ignored { key, is_set, reason };
    let switch = "control groups of version 2 have no such switch";
    let uncounted = "this kernel does not count swap";
    let unless: [(bool, Ignored); 3] = [
        (host.oom_kill_disable, ignored("oom_kill_disable", |it| it.resources.oom_kill_disable, switch)),
        (host.swappiness, ignored("mem_swappiness", |it| it.resources.memory_swappiness.is_some(), switch)),
        (host.swap, ignored("memswap_limit", |it| it.resources.memory_swap_bytes.is_some(), uncounted)),
    ];
    unless.into_iter().filter(|(can, _)| !can).map(|(_, ignored)| ignored).collect()
}

/// The engine of the host that this program runs on.
#[derive(Clone)]
pub struct Native {
    roots: Roots,
    capabilities: Arc<Capabilities>,
    watcher: SharedWatcher,
    /// Hears of what builds do.
    listener: Option<builds::Listener>,
    /// Keeps the images that a stack is made from, until it is.
    held: Arc<images::Held>,
    /// What becomes of volumes that are removed.
    removal: Removal,
}

impl Native {
    /// The engine with these roots.
    pub fn new(roots: &Roots) -> Self {
        Self {
            roots: roots.clone(),
            capabilities: Arc::new(Self::capabilities_on(Abilities::of_host())),
            watcher: Arc::new(images::Silent),
            listener: None,
            held: Arc::default(),
            removal: Removal::Trash,
        }
    }

    /// What the engine can do on a host whose control groups can do this.
    pub fn capabilities_on(host: Abilities) -> Capabilities {
        Capabilities {
            name: "native",
            platform: Platform::host().to_string(),
            change: linux_change,
            renames: true,
            not_honoured: ignored(host),
            unsupported: unsupported::unsupported,
        }
    }

    /// What becomes of volumes that it removes.
    pub fn with_removal(self, removal: Removal) -> Self {
        Self { removal, ..self }
    }

    /// Tells how far pulls are.
    pub fn with_watcher(self, watcher: SharedWatcher) -> Self {
        Self { watcher, ..self }
    }

    /// Fills in what the stack's images are made from on this host. Returns all that is wrong with it.
    pub fn look(&self, desired: &mut Desired) -> (Vec<Fault>, Vec<builds::Wrong>) {
        look::look(&self.roots, desired)
    }

    /// As [`Self::look`], at configs and secrets alone.
    pub fn look_at_contents(&self, desired: &mut Desired) -> Vec<Fault> {
        look::contents(&self.roots, desired)
    }

    /// From now on nobody who makes room takes away what the stack's images are here, until this engine goes or holds
    /// another stack. Images that come later by its own actions stay as well. Where the store can't be written to, as on a
    /// full disk, there may still be nothing to do that needs it: that is only told.
    pub fn hold(&self, desired: &Desired) {
        let references = desired.resources.values().filter_map(|resource| match &resource.config {
            Config::Image(image) => Some(image.reference.as_str()),
            _ => None,
        });
        if let Err(error) = self.held.anew(&self.roots, references) {
            tracing::warn!("images of the stack can be removed meanwhile: {error}");
        }
    }

    /// What policies say of the stack's images. `newest`: of what is always pulled, the registry's newest is looked at.
    ///
    /// # Errors
    /// Where the host's own files can't be understood: what they forbid must not be forgotten.
    pub fn admit(&self, stack: &Stack, desired: &Desired, newest: bool) -> Result<Admitted, ImageError> {
        policy::admit(&self.roots, stack, desired, newest, &self.watcher)
    }

    /// All that belongs to no stack, as a stack of its own would be observed.
    ///
    /// # Errors
    /// As [`Engine::observe`].
    pub async fn observe_others(&self) -> Result<Observed, EngineError> {
        let roots = self.roots.clone();
        blocking(move || observe::observe(&roots, None)).await
    }

    /// What protects the containers that this plan makes, a line each.
    ///
    /// # Errors
    /// Where the images can't be read.
    pub fn protection(&self, plan: &Plan) -> Result<Vec<String>, EngineError> {
        protection::notes(&self.roots, plan)
    }

    /// The same engine, whose builds are heard of.
    pub fn with_listener(self, listener: builds::Listener) -> Self {
        Self { listener: Some(listener), ..self }
    }
}

/// An error of the runtime about one thing. What comes after `help:` in its text is the help.
pub fn failed(subject: impl ToString, error: impl std::fmt::Display) -> EngineError {
    let text = error.to_string();
    let (reason, help) =
        text.split_once("\n  help: ").map_or((text.as_str(), None), |(reason, help)| (reason, Some(help)));
    EngineError::Failed { subject: subject.to_string(), reason: reason.to_owned(), help: help.map(str::to_owned) }
}

async fn blocking<T: Send + 'static>(
    action: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let joined = tokio::task::spawn_blocking(action).await;
    joined.unwrap_or_else(|error| Err(failed("engine", error)))
}

impl Engine for Native {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn observe(&self, stack: &StackName) -> Result<Observed, EngineError> {
        let (roots, stack) = (self.roots.clone(), stack.clone());
        blocking(move || observe::observe(&roots, Some(&stack))).await
    }

    async fn perform(&self, action: &Action) -> Result<(), EngineError> {
        let (roots, action, watcher) = (self.roots.clone(), action.clone(), self.watcher.clone());
        let (listener, held, removal) = (self.listener.clone(), self.held.clone(), self.removal);
        blocking(move || match &action {
            Action::Create { id, config: Config::Image(image) } => {
                held.hold(&roots, id, || make_image(&roots, id, image, &*watcher, listener.as_ref()))
            }
            Action::Remove { id, config } => remove(&roots, id, config, removal),
            action => perform(&roots, action, &*watcher),
        })
        .await
    }

    fn hints(&self, _stack: &StackName) -> impl Stream<Item = ()> + Send {
        hints(&self.roots)
    }
}

fn make_image(
    roots: &Roots,
    id: &ResourceId,
    image: &ImageConfig,
    watcher: &dyn Watcher,
    listener: Option<&builds::Listener>,
) -> Result<Image, EngineError> {
    match &image.source {
        ImageSource::Build(wanted) => {
            let built = builds::build(roots, image, wanted, listener);
            built.map(|built| built.image).map_err(|error| failed(id, error))
        }
        _ => images::ensure(roots, image, watcher).map_err(|error| failed(id, error)),
    }
}

fn perform(roots: &Roots, action: &Action, watcher: &dyn Watcher) -> Result<(), EngineError> {
    match action {
        Action::Create { id, config } => create(roots, id, config, watcher),
        Action::Update { id, config, fields } => update(roots, id, config, fields, watcher),
        Action::Repair { id, config } => repair(roots, id, config, watcher),
        Action::Remove { id, config } => remove(roots, id, config, Removal::Trash),
        Action::Vacate { id, config } => containers::vacate(roots, config).map_err(|error| failed(id, error)),
        Action::Start { id, name } => containers::start(roots, name).map_err(|error| failed(id, error)),
        Action::Stop { id, name } => {
            let stopped = containers::stop(roots, name, &container::Stop::default());
            gone_is_fine(stopped).map_err(|error| failed(id, error))
        }
        Action::Halt { id, name } => gone_is_fine(containers::halt(roots, name)).map_err(|error| failed(id, error)),
        Action::Rename { id, from, to } => containers::rename(roots, from, to).map_err(|error| failed(id, error)),
        Action::Wait { id, name, condition } => wait(roots, id, name, *condition),
        Action::Check { check } => checks::check(roots, check),
    }
}

fn gone_is_fine(done: Result<(), containers::Error>) -> Result<(), containers::Error> {
    match done {
        Err(containers::Error::Container(container::Error::NotFound(_))) => Ok(()),
        done => done,
    }
}

fn create(roots: &Roots, id: &ResourceId, config: &Config, watcher: &dyn Watcher) -> Result<(), EngineError> {
    match config {
        Config::Image(image) => images::ensure(roots, image, watcher).map(drop).map_err(|error| failed(id, error)),
        Config::Network(network) => networks::create(roots, network).map_err(|error| failed(id, error)),
        Config::Volume(volume) => volumes::create(roots, volume).map_err(|error| failed(id, error)),
        Config::Container(container) => containers::create(roots, container).map_err(|error| failed(id, error)),
    }
}

fn update(
    roots: &Roots,
    id: &ResourceId,
    config: &Config,
    fields: &[String],
    watcher: &dyn Watcher,
) -> Result<(), EngineError> {
    match config {
        Config::Volume(volume) => volumes::update(roots, volume).map_err(|error| failed(id, error)),
        Config::Network(network) => networks::update(roots, network).map_err(|error| failed(id, error)),
        Config::Container(container) => containers::update(roots, container, fields).map_err(|error| failed(id, error)),
        Config::Image(_) => create(roots, id, config, watcher),
    }
}

fn repair(roots: &Roots, id: &ResourceId, config: &Config, watcher: &dyn Watcher) -> Result<(), EngineError> {
    match config {
        Config::Network(_) => networks::repair(roots).map_err(|error| failed(id, error)),
        Config::Container(container) => {
            lost::hold_network(roots, container).map_err(|error| failed(id, error))?;
            networks::repair(roots).map_err(|error| failed(id, error))?;
            places::restore(roots, container).map_err(|error| failed(id, error))?;
            containers::finish_start(roots, container).map_err(|error| failed(id, error))
        }
        Config::Volume(volume) => {
            create(roots, id, config, watcher)?;
            volumes::repair(roots, &volume.name).map_err(|error| failed(id, error))
        }
        Config::Image(_) => create(roots, id, config, watcher),
    }
}

fn remove(roots: &Roots, id: &ResourceId, config: &Config, removal: Removal) -> Result<(), EngineError> {
    match config {
        Config::Image(image) => {
            let removed = Store::open(roots).remove(&image.reference);
            removed.map(drop).map_err(|error| failed(id, error))
        }
        Config::Network(network) => networks::remove(roots, &network.name).map_err(|error| failed(id, error)),
        Config::Volume(volume) => volumes::remove(roots, &volume.name, removal).map_err(|error| failed(id, error)),
        Config::Container(container) => {
            containers::remove(roots, &container.name, true).map_err(|error| failed(id, error))
        }
    }
}

fn wait(roots: &Roots, id: &ResourceId, name: &str, condition: Condition) -> Result<(), EngineError> {
    let found = container::get(roots, name).map_err(|error| failed(id, error))?;
    let ended = |code: i32| {
        let help = format!("`stack logs {name}` shows what it wrote");
        EngineError::Failed { subject: id.to_string(), reason: format!("it ended with code {code}"), help: Some(help) }
    };
    match condition {
        Condition::Healthy if found.config.health.is_some() => {
            container::wait_healthy(roots, name, None).map_err(|error| failed(id, error))
        }
        Condition::Started | Condition::Healthy if found.is_running() => Ok(()),
        Condition::Started | Condition::Healthy if found.status.started_ms == 0 => {
            Err(failed(id, "it was not started"))
        }
        Condition::Started | Condition::Healthy if found.status.exit_code == 0 => Ok(()),
        Condition::Started | Condition::Healthy => Err(ended(found.status.exit_code)),
        Condition::CompletedSuccessfully => match container::wait_completed(roots, name, None) {
            Ok(0) => Ok(()),
            Ok(code) => Err(ended(code)),
            Err(error) => Err(failed(id, error)),
        },
    }
}

/// Says "look again" when a supervisor has written or a container has come or gone.
fn hints(roots: &Roots) -> impl Stream<Item = ()> + Send + use<> {
    use notify::Watcher;
    let (sender, receiver) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let looked_at = event.as_ref().is_ok_and(|event| event.kind.is_access());
        if !looked_at {
            // One hint that waits is as good as many.
            sender.try_send(()).ok();
        }
    });
    let directories = [roots.volatile("containers"), roots.durable("containers"), roots.durable("networks")];
    let watcher = watcher.and_then(|mut watcher| {
        for directory in &directories {
            crate::runtime::state::make_private(directory).map_err(notify::Error::io)?;
            watcher.watch(directory, notify::RecursiveMode::Recursive)?;
        }
        Ok(watcher)
    });
    // Without hints there is still the timer. The watcher lives as long as the stream.
    ReceiverStream::new(receiver).map(move |()| {
        // Moved in here, so that it is dropped with the stream.
        let _alive = &watcher;
    })
}

/// What a container was made from, as its makers declared it.
pub fn declared(container: &container::Container) -> Option<ContainerConfig> {
    let declared: ContainerConfig = container.config.declared.read().ok()?;
    // It may have got another name since.
    Some(ContainerConfig { name: container.config.name.clone(), ..declared })
}
