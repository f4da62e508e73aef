//! What every engine has to keep, whoever it is. One case a sentence of the seam's contract; each engine runs all.
//!
//! To add an engine: write a function that makes a [`Subject`] and a module that calls [`conformance!`] with it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stack::engine::simulated::{Behaviour, Simulated};
use stack::reconcile::controller::{Round, converge};
use stack::reconcile::desired::{Desired, lower};
use stack::reconcile::diff::diff;
use stack::reconcile::engine::{
    Action, Capabilities, Check, Condition, Engine, EngineError, Observed, Phase, RunState, StackName,
};
use stack::reconcile::execute::{ExecuteOptions, execute};
use stack::reconcile::facts::Files;
use stack::reconcile::history::{Key, Memory};
use stack::reconcile::plan::{DestroyOptions, Plan, PlanOptions, boot, destroy, halt, plan};
use stack::reconcile::resource::{Config, ContainerConfig, Kind, RETIRED_SUFFIX, ResourceId};
use stack::spec::{Container, Stack};
use tokio_stream::Stream;

use crate::stacks::{self, container, needs, on_network, restarts_with, with, with_port, with_volume};

/// An empty engine and containers that it can run.
pub struct Subject<E> {
    pub engine: Arc<E>,
    /// Runs until it is stopped.
    pub runs: Container,
    /// Ends soon with code 0. Used as container `succeeds`.
    pub succeeds: Container,
    /// Ends soon with another code. Used as container `fails`.
    pub fails: Container,
    /// A free port of the host.
    pub port: u16,
    /// Cleans up when dropped.
    pub _guard: Box<dyn Any>,
}

/// The simulated world as a subject.
pub fn simulated() -> Subject<Simulated> {
    let engine = stacks::world();
    engine.behave("succeeds", Behaviour { exits: Some((10, 0)), ..Behaviour::default() });
    engine.behave("fails", Behaviour { exits: Some((10, 3)), ..Behaviour::default() });
    Subject { engine, runs: container(), succeeds: container(), fails: container(), port: 8080, _guard: Box::new(()) }
}

/// Every case as a test of this engine.
macro_rules! conformance {
    ($make:expr) => {
        conformance!($make; an_empty_engine_holds_nothing what_was_applied_is_observed_without_loss
            performing_again_changes_nothing limits_change_in_place environment_replaces stopping_is_by_hand
            removing_what_is_gone_succeeds waiting_tells_success_from_failure ports_are_checked
            missing_external_things_are_noticed renaming_keeps_it_running dependents_start_after_their_dependencies
            halting_is_no_stop_by_hand volumes_outlive_their_stack destroying_leaves_nothing stacks_do_not_see_each_other
            cut_off_anywhere_the_next_apply_converges what_became_of_a_stack_is_remembered);
    };
    ($make:expr; $($case:ident)*) => {
        $(#[test]
        fn $case() {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(super::$case($make));
        })*
    };
}

mod simulated_engine {
    conformance!(super::simulated());
}

mod native_engine {
    conformance!(crate::native::native());
}

impl<E: Engine + 'static> Subject<E> {
    fn lower(&self, shop: &Stack) -> Desired {
        lower(shop, self.engine.capabilities(), &Files::new()).unwrap()
    }

    async fn observe(&self, desired: &Desired) -> Observed {
        self.engine.observe(&desired.stack).await.unwrap()
    }

    async fn perform(&self, action: Action) {
        self.engine.perform(&action).await.unwrap();
    }

    /// Applies, and asserts that all steps succeeded and that nothing is left to do.
    async fn apply(&self, shop: &Stack) -> Desired {
        let desired = self.lower(shop);
        let (plan_options, options) = (PlanOptions::default(), ExecuteOptions::default());
        let rounds = converge(&self.engine, &desired, &plan_options, &options, &|_, _| {}).await.unwrap();
        assert_done(&rounds);
        let left = plan(&desired, &self.observe(&desired).await, self.engine.capabilities(), &plan_options);
        assert!(left.is_empty(), "left to do:\n{}", left.text());
        desired
    }

    async fn destroy(&self, desired: &Desired, options: DestroyOptions) {
        let plan = destroy(&desired.stack, &self.observe(desired).await, options);
        let report = execute(&self.engine, &plan, &ExecuteOptions::default(), &|_| {}).await;
        assert!(report.succeeded(), "{report:#?}");
    }

    /// A stack with one container that runs.
    fn one(&self) -> Stack {
        stacks::stack([("web", self.runs.clone())])
    }
}

fn assert_done(rounds: &[Round]) {
    for round in rounds {
        let failures: Vec<_> = round.report.failures().collect();
        assert!(failures.is_empty(), "{failures:#?}\n{}", round.plan.text());
    }
}

fn web() -> ResourceId {
    ResourceId::new(Kind::Container, "web-1")
}

fn run_of<'a>(observed: &'a Observed, id: &ResourceId) -> Option<&'a RunState> {
    observed.resources.get(id)?.run.as_ref()
}

fn config_of(observed: &Observed, id: &ResourceId) -> Box<ContainerConfig> {
    match &observed.resources[id].config {
        Config::Container(config) => config.clone(),
        other => panic!("{id} is {other:?}"),
    }
}

fn runs(observed: &Observed, id: &ResourceId) -> bool {
    matches!(run_of(observed, id), Some(RunState::Running { .. }))
}

async fn an_empty_engine_holds_nothing<E: Engine + 'static>(subject: Subject<E>) {
    let observed = subject.observe(&subject.lower(&subject.one())).await;
    assert_eq!(observed.resources.len(), 0);
}

async fn what_was_applied_is_observed_without_loss<E: Engine + 'static>(subject: Subject<E>) {
    let web = with_volume(on_network(subject.runs.clone(), "back"), "data");
    let desired = subject.apply(&stacks::stack([("web", web)])).await;
    let observed = subject.observe(&desired).await;
    for (id, resource) in desired.resources.iter().filter(|(id, _)| id.kind != Kind::Image) {
        let found = observed.resources.get(id).unwrap_or_else(|| panic!("{id} is not observed"));
        assert_eq!(found.phase, Phase::Created);
        assert_eq!(diff(&found.config, &resource.config), vec![]);
        assert_eq!(found.drift, Vec::<String>::new());
        assert_eq!(found.run.is_some(), id.kind == Kind::Container);
    }
    assert!(runs(&observed, &self::web()));
    assert_ne!(config_of(&observed, &self::web()).image_digest, "");
    subject.destroy(&desired, DestroyOptions { volumes: true, consent_volumes: true }).await;
}

async fn performing_again_changes_nothing<E: Engine + 'static>(subject: Subject<E>) {
    let web = with_volume(on_network(subject.runs.clone(), "back"), "data");
    let desired = subject.lower(&stacks::stack([("web", web)]));
    let observed = subject.observe(&desired).await;
    let plan = plan(&desired, &observed, subject.engine.capabilities(), &PlanOptions::default());
    for step in &plan.steps {
        subject.perform(step.action.clone()).await;
        let once = subject.observe(&desired).await;
        subject.perform(step.action.clone()).await;
        assert_eq!(subject.observe(&desired).await.resources.len(), once.resources.len());
    }
    assert!(runs(&subject.observe(&desired).await, &self::web()));
    subject.destroy(&desired, DestroyOptions { volumes: true, consent_volumes: true }).await;
}

async fn limits_change_in_place<E: Engine + 'static>(subject: Subject<E>) {
    subject.apply(&subject.one()).await;
    let limited = with(subject.runs.clone(), |it| it.resources.memory_bytes = Some(64 << 20));
    let desired = subject.apply(&stacks::stack([("web", limited)])).await;
    let observed = subject.observe(&desired).await;
    assert_eq!(config_of(&observed, &web()).resources.memory, Some(64 << 20));
    assert!(runs(&observed, &web()));
    subject.destroy(&desired, DestroyOptions::default()).await;
}

async fn environment_replaces<E: Engine + 'static>(subject: Subject<E>) {
    subject.apply(&subject.one()).await;
    let changed = with(subject.runs.clone(), |it| {
        it.environment.insert("COLOUR".to_owned(), "blue".to_owned());
    });
    let desired = subject.apply(&stacks::stack([("web", changed)])).await;
    let observed = subject.observe(&desired).await;
    assert_eq!(config_of(&observed, &web()).environment["COLOUR"], "blue");
    assert!(runs(&observed, &web()));
    subject.destroy(&desired, DestroyOptions::default()).await;
}

async fn stopping_is_by_hand<E: Engine + 'static>(subject: Subject<E>) {
    let desired = subject.apply(&subject.one()).await;
    let stop = Action::Stop { id: web(), name: "shop-web-1".to_owned() };
    subject.perform(stop.clone()).await;
    let observed = subject.observe(&desired).await;
    assert!(matches!(run_of(&observed, &web()), Some(RunState::Exited { by_hand: true, .. })));
    subject.perform(stop).await;
    subject.apply(&subject.one()).await;
    assert!(runs(&subject.observe(&desired).await, &web()));
    subject.destroy(&desired, DestroyOptions::default()).await;
}

async fn halting_is_no_stop_by_hand<E: Engine + 'static>(subject: Subject<E>) {
    let always = |it: &mut Container| it.restart.policy = stack::spec::RestartPolicy::UnlessStopped;
    let web = needs(with(subject.runs.clone(), always), "db", stack::spec::Condition::Started);
    let shop = stacks::stack([("db", with(subject.runs.clone(), always)), ("web", web)]);
    let desired = subject.apply(&shop).await;
    let carry_out = async |plan: Plan| {
        let report = execute(&subject.engine, &plan, &ExecuteOptions::default(), &|_| {}).await;
        assert!(report.succeeded(), "{report:#?}");
        subject.observe(&desired).await
    };
    let ended = carry_out(halt(&desired.stack, &subject.observe(&desired).await)).await;
    assert_eq!(run_of(&ended, &self::web()), Some(&RunState::Interrupted));
    let back = carry_out(boot(&desired.stack, &ended, subject.engine.capabilities())).await;
    assert!(runs(&back, &self::web()) && runs(&back, &ResourceId::new(Kind::Container, "db-1")));
    subject.destroy(&desired, DestroyOptions::default()).await;
}

async fn removing_what_is_gone_succeeds<E: Engine + 'static>(subject: Subject<E>) {
    let desired = subject.apply(&stacks::stack([("web", on_network(subject.runs.clone(), "back"))])).await;
    let observed = subject.observe(&desired).await;
    subject.destroy(&desired, DestroyOptions::default()).await;
    for (id, found) in observed.resources {
        subject.perform(Action::Remove { id, config: found.config }).await;
    }
    assert_eq!(subject.observe(&desired).await.resources.len(), 0);
}

async fn waiting_tells_success_from_failure<E: Engine + 'static>(subject: Subject<E>) {
    let shop = stacks::stack([("succeeds", subject.succeeds.clone()), ("fails", subject.fails.clone())]);
    let desired = subject.lower(&shop);
    let (plan_options, options) = (PlanOptions::default(), ExecuteOptions::default());
    assert_done(&converge(&subject.engine, &desired, &plan_options, &options, &|_, _| {}).await.unwrap());
    let wait = |service: &str| Action::Wait {
        id: ResourceId::new(Kind::Container, format!("{service}-1")),
        name: format!("shop-{service}-1"),
        condition: Condition::CompletedSuccessfully,
    };
    subject.perform(wait("succeeds")).await;
    assert!(subject.engine.perform(&wait("fails")).await.is_err());
    let observed = subject.observe(&desired).await;
    let ended = run_of(&observed, &ResourceId::new(Kind::Container, "succeeds-1"));
    assert_eq!(ended, Some(&RunState::Exited { code: 0, by_hand: false }));
    subject.destroy(&desired, DestroyOptions::default()).await;
}

async fn ports_are_checked<E: Engine + 'static>(subject: Subject<E>) {
    let published = with_port(on_network(subject.runs.clone(), "back"), subject.port);
    let desired = subject.apply(&stacks::stack([("web", published)])).await;
    let mut other = config_of(&subject.observe(&desired).await, &web());
    let check = |container: &ContainerConfig, freed: &[&str]| Action::Check {
        check: Check::PortsFree {
            container: Box::new(container.clone()),
            freed: freed.iter().map(|name| (*name).to_owned()).collect(),
        },
    };
    subject.perform(check(&other, &[])).await;
    other.name = "shop-other-1".to_owned();
    assert!(subject.engine.perform(&check(&other, &[])).await.is_err());
    subject.perform(check(&other, &["shop-web-1"])).await;
    subject.destroy(&desired, DestroyOptions::default()).await;
    subject.perform(check(&other, &[])).await;
}

async fn missing_external_things_are_noticed<E: Engine + 'static>(subject: Subject<E>) {
    for kind in [Kind::Network, Kind::Volume] {
        let check = Check::External { kind, name: "nobody-made-this".to_owned() };
        assert!(subject.engine.perform(&Action::Check { check }).await.is_err());
    }
}

async fn renaming_keeps_it_running<E: Engine + 'static>(subject: Subject<E>) {
    if !subject.engine.capabilities().renames {
        return;
    }
    let desired = subject.apply(&subject.one()).await;
    let (from, to) = ("shop-web-1".to_owned(), format!("shop-web-1{RETIRED_SUFFIX}"));
    let rename = Action::Rename { id: web(), from, to: to.clone() };
    subject.perform(rename.clone()).await;
    subject.perform(rename).await;
    let observed = subject.observe(&desired).await;
    let retired = ResourceId::new(Kind::Container, format!("web-1{RETIRED_SUFFIX}"));
    assert!(runs(&observed, &retired));
    assert_eq!(config_of(&observed, &retired).name, to);
    subject.apply(&subject.one()).await;
    let observed = subject.observe(&desired).await;
    assert!(runs(&observed, &web()) && !observed.resources.contains_key(&retired));
    subject.destroy(&desired, DestroyOptions::default()).await;
}

async fn dependents_start_after_their_dependencies<E: Engine + 'static>(subject: Subject<E>) {
    let web = needs(subject.runs.clone(), "succeeds", stack::spec::Condition::CompletedSuccessfully);
    let desired = subject.apply(&stacks::stack([("succeeds", subject.succeeds.clone()), ("web", web)])).await;
    assert!(runs(&subject.observe(&desired).await, &self::web()));
    subject.destroy(&desired, DestroyOptions::default()).await;
    let web = needs(subject.runs.clone(), "fails", stack::spec::Condition::CompletedSuccessfully);
    let desired = subject.lower(&stacks::stack([("fails", subject.fails.clone()), ("web", web)]));
    let (plan_options, options) = (PlanOptions::default(), ExecuteOptions::default());
    let rounds = converge(&subject.engine, &desired, &plan_options, &options, &|_, _| {}).await.unwrap();
    assert!(!rounds[0].report.succeeded());
    assert!(!runs(&subject.observe(&desired).await, &self::web()));
    subject.destroy(&desired, DestroyOptions::default()).await;
}

async fn volumes_outlive_their_stack<E: Engine + 'static>(subject: Subject<E>) {
    let desired = subject.apply(&stacks::stack([("web", with_volume(subject.runs.clone(), "data"))])).await;
    subject.destroy(&desired, DestroyOptions::default()).await;
    let left: Vec<_> = subject.observe(&desired).await.resources.into_keys().collect();
    assert_eq!(left, [ResourceId::new(Kind::Volume, "data")]);
    subject.destroy(&desired, DestroyOptions { volumes: true, consent_volumes: true }).await;
}

async fn destroying_leaves_nothing<E: Engine + 'static>(subject: Subject<E>) {
    let db = with_volume(on_network(subject.runs.clone(), "back"), "data");
    let web = needs(on_network(subject.runs.clone(), "back"), "db", stack::spec::Condition::Started);
    let desired = subject.apply(&stacks::stack([("db", db), ("web", web)])).await;
    subject.destroy(&desired, DestroyOptions { volumes: true, consent_volumes: true }).await;
    assert_eq!(subject.observe(&desired).await.resources.len(), 0);
}

async fn stacks_do_not_see_each_other<E: Engine + 'static>(subject: Subject<E>) {
    let desired = subject.apply(&subject.one()).await;
    let other = subject.lower(&Stack { name: "other".to_owned(), ..subject.one() });
    assert_eq!(subject.observe(&other).await.resources.len(), 0);
    subject.destroy(&other, DestroyOptions::default()).await;
    assert!(runs(&subject.observe(&desired).await, &web()));
    subject.destroy(&desired, DestroyOptions::default()).await;
}

/// An engine that dies after so many actions.
struct CutOff<E> {
    inner: Arc<E>,
    left: AtomicUsize,
}

/// What it has forgotten by its end is no matter here.
impl<E: Engine> Memory for CutOff<E> {
    fn note(&self, stack: &StackName, line: &str, durable: bool) -> Result<(), EngineError> {
        self.inner.note(stack, line, durable)
    }

    fn notes(&self, stack: &StackName) -> Result<Vec<String>, EngineError> {
        self.inner.notes(stack)
    }

    fn keep(&self, stack: &StackName, key: Key, text: &str) -> Result<(), EngineError> {
        self.inner.keep(stack, key, text)
    }

    fn kept(&self, stack: &StackName) -> Result<Vec<Key>, EngineError> {
        self.inner.kept(stack)
    }

    fn recall(&self, stack: &StackName, key: Key) -> Result<Option<String>, EngineError> {
        self.inner.recall(stack, key)
    }

    fn forget(&self, stack: &StackName, key: Key) -> Result<(), EngineError> {
        self.inner.forget(stack, key)
    }
}

impl<E: Engine> Engine for CutOff<E> {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn observe(&self, stack: &StackName) -> Result<Observed, EngineError> {
        self.inner.observe(stack).await
    }

    async fn perform(&self, action: &Action) -> Result<(), EngineError> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => self.inner.perform(action).await,
            Err(_) => {
                Err(EngineError::Failed { subject: "engine".to_owned(), reason: "cut off".to_owned(), help: None })
            }
        }
    }

    fn hints(&self, stack: &StackName) -> impl Stream<Item = ()> + Send {
        self.inner.hints(stack)
    }
}

async fn what_became_of_a_stack_is_remembered<E: Engine + 'static>(subject: Subject<E>) {
    let engine = subject.engine.as_ref();
    let [shop, other] = ["shop", "other"].map(|name| StackName::new(name).unwrap());
    assert!(engine.notes(&shop).unwrap().is_empty() && engine.kept(&shop).unwrap().is_empty());
    for (line, durable) in [("one", true), ("two", false)] {
        engine.note(&shop, line, durable).unwrap();
    }
    assert_eq!(engine.notes(&shop).unwrap(), ["one", "two"]);
    let [tenth, second] = [Key { number: 10, digest: u64::MAX }, Key { number: 2, digest: 0 }];
    for key in [tenth, second] {
        engine.keep(&shop, key, &format!("the {}th", key.number)).unwrap();
    }
    assert_eq!(engine.kept(&shop).unwrap(), [second, tenth]);
    assert_eq!(engine.recall(&shop, tenth).unwrap().as_deref(), Some("the 10th"));
    for _ in 0..2 {
        engine.forget(&shop, second).unwrap();
    }
    assert_eq!((engine.recall(&shop, second).unwrap(), engine.kept(&shop).unwrap()), (None, vec![tenth]));
    assert!(engine.notes(&other).unwrap().is_empty() && engine.kept(&other).unwrap().is_empty());
}

async fn cut_off_anywhere_the_next_apply_converges<E: Engine + 'static>(subject: Subject<E>) {
    let db = with_volume(on_network(subject.runs.clone(), "back"), "data");
    let web = restarts_with(on_network(subject.runs.clone(), "back"), "db");
    let before = stacks::stack([("db", db.clone()), ("web", web.clone()), ("gone", subject.runs.clone())]);
    let changed = with(db, |it| {
        it.environment.insert("COLOUR".to_owned(), "blue".to_owned());
    });
    let after = stacks::stack([("db", changed), ("web", web)]);
    let desired = subject.lower(&after);
    let options = ExecuteOptions { parallel: 1, ..ExecuteOptions::default() };
    for actions in 0.. {
        subject.apply(&before).await;
        let engine = Arc::new(CutOff { inner: Arc::clone(&subject.engine), left: AtomicUsize::new(actions) });
        let rounds = converge(&engine, &desired, &PlanOptions::default(), &options, &|_, _| {}).await.unwrap();
        subject.apply(&after).await;
        if rounds[0].report.succeeded() {
            break;
        }
    }
    subject.destroy(&desired, DestroyOptions { volumes: true, consent_volumes: true }).await;
    assert_eq!(subject.observe(&desired).await.resources.len(), 0);
}
