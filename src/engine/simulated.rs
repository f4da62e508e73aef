//! A world in memory that keeps the rules of a real host, and breaks where it is told to.
//!
//! For tests of everything above the seam: it refuses what a host would refuse (a port that is taken, a network that is
//! still used, a container without its image), its clock stands still unless somebody moves it, and a [`Fault`] can end
//! it before, in the middle of, or after any action, as a crash would.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};

use crate::reconcile::engine::{
    Action, Capabilities, Engine, EngineError, Health, Observed, ObservedResource, RunState, StackName, linux_change,
};
use crate::reconcile::facts::hash;
use crate::reconcile::resource::{Config, ImageConfig, Kind, ResourceId, label};

mod memory;
mod rules;

/// Where in an action the world ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The action fails, having done nothing; later ones work.
    Fail,
    /// The process dies; every further action fails until [`Simulated::revive`].
    CrashBefore,
    /// As `CrashBefore`, with half of the action done.
    CrashHalf,
    /// As `CrashBefore`, with the action done but not reported.
    CrashAfter,
}

/// How the containers of a service behave once started, in milliseconds after the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// When and with which code the process ends; `None`: it runs.
    pub exits: Option<(u64, i32)>,
    /// Its health check never passes.
    pub sick: bool,
    /// When its health check passes.
    pub healthy_after_ms: u64,
}

/// The engine. All methods take `&self`: actions run at once.
pub struct Simulated {
    capabilities: Capabilities,
    world: Mutex<World>,
    hints: watch::Sender<u64>,
}

/// What is there. Keyed by kind and name on the engine, for all stacks.
#[derive(Default)]
struct World {
    now_ms: u64,
    held: BTreeMap<(Kind, String), Held>,
    /// Reference → digest in the store.
    store: BTreeMap<String, String>,
    /// Reference → what it was made from.
    made: BTreeMap<String, ImageConfig>,
    /// Reference → digest at the registry; what is not here has the hash of its name.
    registry: BTreeMap<String, String>,
    /// References that can't be pulled.
    unavailable: BTreeSet<String>,
    foreign_ports: BTreeSet<u16>,
    /// Plugins that do not answer.
    silent_plugins: BTreeSet<String>,
    unreadable: BTreeSet<PathBuf>,
    external: BTreeSet<(Kind, String)>,
    /// What became of stacks, by their names.
    remembered: BTreeMap<String, memory::Remembered>,
    behaviours: BTreeMap<String, Behaviour>,
    performed: usize,
    faults: BTreeMap<usize, Fault>,
    dead: bool,
    in_flight: usize,
    max_in_flight: usize,
}

struct Held {
    resource: ObservedResource,
    started_ms: u64,
}

impl Default for Simulated {
    fn default() -> Self {
        let capabilities = Capabilities {
            name: "simulated",
            platform: "linux/amd64".to_owned(),
            change: linux_change,
            renames: true,
            not_honoured: Vec::new(),
            unsupported: |_| Vec::new(),
        };
        Self { capabilities, world: Mutex::default(), hints: watch::Sender::new(0) }
    }
}

impl Simulated {
    pub fn new() -> Self {
        Self::default()
    }

    /// The nth action from now on, counted from 0, meets this fault.
    pub fn fault(&self, nth: usize, fault: Fault) {
        let mut world = self.world();
        let at = world.performed + nth;
        world.faults.insert(at, fault);
    }

    /// A new process after a crash: what was there is still there.
    pub fn revive(&self) {
        let mut world = self.world();
        world.dead = false;
        world.faults.clear();
    }

    /// How many actions were performed, those that failed included.
    pub fn performed(&self) -> usize {
        self.world().performed
    }

    /// The most actions that ever ran at once.
    pub fn max_in_flight(&self) -> usize {
        self.world().max_in_flight
    }

    pub fn behave(&self, service: &str, behaviour: Behaviour) {
        self.world().behaviours.insert(service.to_owned(), behaviour);
    }

    /// From now on this plugin does not answer, or does again.
    pub fn set_plugin(&self, name: &str, answers: bool) {
        let mut world = self.world();
        if answers {
            world.silent_plugins.remove(name);
        } else {
            world.silent_plugins.insert(name.to_owned());
        }
    }

    /// From now on the registry has other content under this name.
    pub fn publish(&self, reference: &str, digest: &str) {
        self.world().registry.insert(reference.to_owned(), digest.to_owned());
    }

    pub fn make_unavailable(&self, reference: &str, unavailable: bool) {
        let mut world = self.world();
        if unavailable {
            world.unavailable.insert(reference.to_owned());
        } else {
            world.unavailable.remove(reference);
        }
    }

    /// A process that is none of ours takes or gives back a port of the host.
    pub fn occupy(&self, port: u16, occupied: bool) {
        let mut world = self.world();
        if occupied {
            world.foreign_ports.insert(port);
        } else {
            world.foreign_ports.remove(&port);
        }
    }

    pub fn make_unreadable(&self, path: PathBuf) {
        self.world().unreadable.insert(path);
    }

    /// Somebody else makes a network or volume.
    pub fn make_external(&self, kind: Kind, name: &str) {
        self.world().external.insert((kind, name.to_owned()));
    }

    /// Time passes.
    pub fn advance(&self, ms: u64) {
        self.world().now_ms += ms;
        self.hint();
    }

    /// The process of a container ends by itself, its restart policy asleep.
    pub fn kill(&self, name: &str, code: i32) {
        self.set_run(name, RunState::Exited { code, by_hand: false });
    }

    /// The check of a container that runs fails for good.
    pub fn sicken(&self, name: &str) {
        self.set_run(name, RunState::Running { health: Health::Unhealthy });
    }

    /// Somebody stops a container by command.
    pub fn stop_by_hand(&self, name: &str) {
        self.set_run(name, RunState::Exited { code: 143, by_hand: true });
    }

    /// The host loses its power, and comes up again.
    pub fn cut(&self) {
        for held in self.world().held.values_mut() {
            held.resource.run = held.resource.run.take().map(|run| match run {
                RunState::Running { .. } | RunState::Paused | RunState::Restarting => RunState::Interrupted,
                other => other,
            });
        }
        self.hint();
    }

    /// Somebody removes a thing by command, whatever holds it.
    pub fn remove_by_hand(&self, kind: Kind, name: &str) {
        self.world().held.remove(&(kind, name.to_owned()));
        self.hint();
    }

    /// The host loses something of it.
    pub fn drift(&self, kind: Kind, name: &str, what: &str) {
        if let Some(held) = self.world().held.get_mut(&(kind, name.to_owned())) {
            held.resource.drift.push(what.to_owned());
        }
        self.hint();
    }

    /// Kind and engine name of everything that is held, images excepted.
    pub fn contents(&self) -> Vec<(Kind, String)> {
        self.world().held.keys().cloned().collect()
    }

    /// As [`Simulated::kill`], with the hint lost.
    pub fn kill_unheard(&self, name: &str, code: i32) {
        self.set_run_unheard(name, RunState::Exited { code, by_hand: false });
    }

    fn set_run(&self, name: &str, run: RunState) {
        self.set_run_unheard(name, run);
        self.hint();
    }

    fn set_run_unheard(&self, name: &str, run: RunState) {
        if let Some(held) = self.world().held.get_mut(&(Kind::Container, name.to_owned())) {
            held.resource.run = Some(run);
        }
    }

    fn hint(&self) {
        self.hints.send_modify(|count| *count += 1);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the action in; the fault that it meets.
    fn begin(&self) -> Result<Option<Fault>, EngineError> {
        let mut world = self.world();
        let fault = world.faults.get(&world.performed).copied();
        world.performed += 1;
        if world.dead {
            return Err(rules::failed("engine", "the process is dead"));
        }
        world.in_flight += 1;
        world.max_in_flight = world.max_in_flight.max(world.in_flight);
        Ok(fault)
    }

    fn end(&self, action: &Action, fault: Option<Fault>) -> Result<(), EngineError> {
        let mut world = self.world();
        world.in_flight -= 1;
        let injected = || rules::failed("engine", "a fault was injected");
        match fault {
            _ if world.dead => Err(rules::failed("engine", "the process is dead")),
            None => world.perform(action),
            Some(Fault::Fail) => Err(injected()),
            Some(Fault::CrashBefore) => {
                world.dead = true;
                Err(injected())
            }
            Some(Fault::CrashHalf) => {
                world.dead = true;
                world.perform_half(action)?;
                Err(injected())
            }
            Some(Fault::CrashAfter) => {
                world.dead = true;
                world.perform(action)?;
                Err(injected())
            }
        }
    }
}

impl Engine for Simulated {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn observe(&self, stack: &StackName) -> Result<Observed, EngineError> {
        let mut world = self.world();
        world.settle();
        let resources = world.held.values().filter_map(|held| {
            let id = identity(&held.resource.config, stack)?;
            Some((id, held.resource.clone()))
        });
        let (digests, made) = (world.store.clone(), world.made.clone());
        Ok(Observed { resources: resources.collect(), digests, made, now_ms: world.now_ms })
    }

    async fn perform(&self, action: &Action) -> Result<(), EngineError> {
        let fault = self.begin()?;
        // Lets others begin, as an action that takes time would.
        tokio::task::yield_now().await;
        let result = self.end(action, fault);
        self.hint();
        result
    }

    fn hints(&self, _stack: &StackName) -> impl Stream<Item = ()> + Send {
        WatchStream::from_changes(self.hints.subscribe()).map(|_| ())
    }
}

/// The name within the stack, from the labels; `None` for what belongs to another stack.
fn identity(config: &Config, stack: &StackName) -> Option<ResourceId> {
    let (labels, key) = match config {
        Config::Container(config) => (&config.labels, None),
        Config::Network(config) => (&config.labels, Some(label::NETWORK)),
        Config::Volume(config) => (&config.labels, Some(label::VOLUME)),
        Config::Image(_) => return None,
    };
    if labels.get(label::STACK)? != stack.as_str() {
        return None;
    }
    match (config, key) {
        (Config::Container(config), _) => Some(config.id()),
        (Config::Network(_), Some(key)) => Some(ResourceId::new(Kind::Network, labels.get(key)?)),
        (_, key) => Some(ResourceId::new(Kind::Volume, labels.get(key?)?)),
    }
}

/// The digest that the registry serves under a name nobody published.
fn digest_of(reference: &str) -> String {
    format!("sha256:{}", hash(reference.as_bytes()))
}

/// Health that a container has when it starts.
fn first_health(checked: bool) -> Health {
    if checked { Health::Starting } else { Health::None }
}
