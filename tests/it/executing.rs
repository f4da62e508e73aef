//! Executing plans: what a failure, a cancellation, a saved plan and a target do to the simulated world.

use std::sync::{Arc, Mutex};

use stack::engine::simulated::{Fault, Simulated};
use stack::reconcile::controller::{ConvergeError, converge};
use stack::reconcile::desired::Desired;
use stack::reconcile::engine::{Engine, Observed};
use stack::reconcile::execute::{Event, ExecuteOptions, Outcome, Report, Skip, execute};
use stack::reconcile::plan::{Plan, PlanOptions, RestoreError, SavedPlan, describe, plan, target};
use stack::reconcile::resource::{Config, FileMount, FileSource, Kind, ResourceId};
use stack::spec::{Condition, PullPolicy};

use crate::stacks::{
    container, desired, image, needs, on_network, replicas, stack, with, with_port, with_volume, world,
};

fn options() -> ExecuteOptions {
    ExecuteOptions::default()
}

async fn plan_now(world: &Arc<Simulated>, desired: &Desired) -> (Plan, Observed) {
    let observed = world.observe(&desired.stack).await.unwrap();
    (plan(desired, &observed, world.capabilities(), &PlanOptions::default()), observed)
}

async fn apply(world: &Arc<Simulated>, desired: &Desired) -> Report {
    let (plan, _) = plan_now(world, desired).await;
    execute(world, &plan, &options(), &|_| {}).await
}

/// The steps that were not done, with the reason.
fn undone(plan: &Plan, report: &Report) -> Vec<String> {
    let outcomes = plan.steps.iter().zip(&report.outcomes).filter(|(_, outcome)| **outcome != Outcome::Done);
    let lines = outcomes.map(|(step, outcome)| match outcome {
        Outcome::Failed(error) => format!("{}: {error}", describe(&step.action)),
        Outcome::Skipped(Skip::Requires(index)) => {
            format!("{}: requires {}", describe(&step.action), describe(&plan.steps[*index].action))
        }
        other => format!("{}: {other:?}", describe(&step.action)),
    });
    lines.collect()
}

async fn running(world: &Arc<Simulated>, desired: &Desired) -> Vec<String> {
    let observed = world.observe(&desired.stack).await.unwrap();
    let live = observed
        .resources
        .iter()
        .filter(|(_, it)| matches!(it.run, Some(stack::reconcile::engine::RunState::Running { .. })));
    live.map(|(id, _)| id.name.clone()).collect()
}

#[tokio::test]
async fn a_failure_skips_its_dependents_and_nothing_else() {
    let world = world();
    world.make_unavailable("postgres:17", true);
    let db = image(container(), "postgres:17");
    let shop = stack([("db", db), ("web", needs(container(), "db", Condition::Started)), ("other", container())]);
    let desired = desired(&shop);
    let (plan, _) = plan_now(&world, &desired).await;
    let report = execute(&world, &plan, &options(), &|_| {}).await;
    assert_eq!(
        undone(&plan, &report),
        [
            "pull image/postgres:17: postgres:17: the registry does not have it",
            "create container/db-1: requires pull image/postgres:17",
            "start container/db-1: requires pull image/postgres:17",
            "start container/web-1: requires start container/db-1",
        ]
    );
    assert_eq!(running(&world, &desired).await, ["other-1"]);
    world.make_unavailable("postgres:17", false);
    assert!(apply(&world, &desired).await.succeeded());
}

#[tokio::test]
async fn a_plugin_that_does_not_answer_fails_its_volumes_and_who_mounts_them_only() {
    let world = world();
    let mut shop = stack([("db", with_volume(container(), "data")), ("other", container())]);
    shop.volumes.get_mut("data").unwrap().driver = Some("disks".to_owned());
    let desired = desired(&shop);
    world.set_plugin("disks", false);
    let (plan, _) = plan_now(&world, &desired).await;
    let report = execute(&world, &plan, &options(), &|_| {}).await;
    let undone = undone(&plan, &report);
    assert!(undone[0].ends_with("plugin disks does not answer"), "{undone:?}");
    assert_eq!(running(&world, &desired).await, ["other-1"]);
    world.set_plugin("disks", true);
    assert!(apply(&world, &desired).await.succeeded());
    assert_eq!(running(&world, &desired).await, ["db-1", "other-1"]);
}

#[tokio::test]
async fn nothing_running_is_stopped_for_what_cannot_succeed() {
    let world = world();
    let before = stack([("db", container()), ("web", with_port(needs(container(), "db", Condition::Started), 80))]);
    assert!(apply(&world, &desired(&before)).await.succeeded());
    world.make_unavailable("nginx:2", true);
    let after = stack([("db", image(container(), "nginx:2")), ("web", with_port(container(), 80))]);
    assert!(!apply(&world, &desired(&after)).await.succeeded());
    assert_eq!(running(&world, &desired(&before)).await, ["db-1", "web-1"]);
    world.occupy(81, true);
    let after = stack([("db", container()), ("web", with_port(container(), 81))]);
    assert!(!apply(&world, &desired(&after)).await.succeeded());
    assert_eq!(running(&world, &desired(&before)).await, ["db-1", "web-1"]);
}

#[tokio::test]
async fn cancelling_starts_no_further_step() {
    let world = world();
    let desired = desired(&stack([("web", replicas(container(), 9))]));
    let (plan, _) = plan_now(&world, &desired).await;
    let (cancel, cancelled) = tokio::sync::watch::channel(false);
    let finished = Mutex::new(0);
    let options = ExecuteOptions { parallel: 1, cancel: Some(cancelled), ..ExecuteOptions::default() };
    let report = execute(&world, &plan, &options, &|event| {
        if matches!(event, Event::Finished { .. }) {
            *finished.lock().unwrap() += 1;
            cancel.send(*finished.lock().unwrap() == 3).unwrap();
        }
    })
    .await;
    assert!(report.cancelled());
    assert_eq!((*finished.lock().unwrap(), world.performed()), (3, 3));
    assert!(apply(&world, &desired).await.succeeded());
}

#[tokio::test]
async fn no_more_steps_run_at_once_than_allowed() {
    for parallel in [1, 2, 5] {
        let world = world();
        let (plan, _) = plan_now(&world, &desired(&stack([("web", replicas(container(), 20))]))).await;
        let options = ExecuteOptions { parallel, ..ExecuteOptions::default() };
        assert!(execute(&world, &plan, &options, &|_| {}).await.succeeded());
        assert_eq!(world.max_in_flight(), parallel);
    }
}

#[tokio::test]
async fn an_image_that_moved_at_its_registry_replaces_in_a_second_round() {
    let world = world();
    let shop = desired(&stack([("web", with(container(), |it| it.pull_policy = PullPolicy::Always))]));
    let refresh = PlanOptions { refresh: true, ..PlanOptions::default() };
    let rounds = |rounds: Vec<stack::reconcile::controller::Round>| {
        rounds.iter().map(|round| round.plan.summary().to_string()).collect::<Vec<_>>()
    };
    let once = || async { rounds(converge(&world, &shop, &refresh, &options(), &|_, _| {}).await.unwrap()) };
    assert_eq!(once().await, ["1 to pull, 1 to create"]);
    assert_eq!(once().await, ["1 to pull"]);
    world.publish("nginx:1.27", "sha256:new");
    assert_eq!(once().await, ["1 to pull", "1 to replace"]);
}

#[tokio::test]
async fn without_consent_nothing_happens_at_all() {
    let world = world();
    let mut shop = stack([("db", with_volume(container(), "data"))]);
    assert!(apply(&world, &desired(&shop)).await.succeeded());
    shop.volumes.get_mut("data").unwrap().driver = Some("tape".into());
    shop.containers.insert("web".into(), container());
    let before = world.performed();
    let (plan_options, desired) = (PlanOptions::default(), desired(&shop));
    let refused = converge(&world, &desired, &plan_options, &options(), &|_, _| {}).await.unwrap_err();
    assert_eq!(refused.to_string(), "volume/data: refused: data would be lost");
    assert!(matches!(refused, ConvergeError::Refused(_)));
    assert_eq!(world.performed(), before);
    let consent = PlanOptions { consent_volumes: true, ..PlanOptions::default() };
    let rounds = converge(&world, &desired, &consent, &options(), &|_, _| {}).await.unwrap();
    assert!(rounds[0].report.succeeded());
}

fn with_secret(value: &str) -> Desired {
    let mut desired = desired(&stack([("web", container())]));
    let web = desired.resources.get_mut(&ResourceId::new(Kind::Container, "web-1")).unwrap();
    let Config::Container(config) = &mut web.config else { panic!() };
    config.files.push(FileMount {
        name: "token".into(),
        target: "/run/secrets/token".into(),
        uid: None,
        gid: None,
        mode: 0o400,
        secret: true,
        source: FileSource::Content(value.into()),
        content_hash: stack::reconcile::facts::hash(value.as_bytes()),
        on_change: Default::default(),
    });
    desired
}

#[tokio::test]
async fn a_saved_plan_is_executed_as_it_is_or_not_at_all() {
    let world = world();
    let desired = with_secret("hush");
    let (plan, observed) = plan_now(&world, &desired).await;
    let text = SavedPlan::new(&plan, &observed).to_json();
    assert!(!text.contains("hush"));
    let restore =
        |desired: &Desired, observed: &Observed| SavedPlan::from_json(&text).unwrap().restore(desired, observed);
    assert_eq!(restore(&desired, &observed).unwrap(), plan);
    assert!(matches!(restore(&with_secret("loud"), &observed), Err(RestoreError::ContentMoved { .. })));
    let stranger = Desired { stack: stack::reconcile::engine::StackName::new("other").unwrap(), ..desired.clone() };
    assert!(matches!(restore(&stranger, &observed), Err(RestoreError::Stack { .. })));
    assert!(execute(&world, &restore(&desired, &observed).unwrap(), &options(), &|_| {}).await.succeeded());
    let moved = world.observe(&desired.stack).await.unwrap();
    assert!(matches!(restore(&desired, &moved), Err(RestoreError::HostMoved(_))));
    let other_version = text.replacen("\"version\": 2", "\"version\": 1", 1);
    assert!(matches!(SavedPlan::from_json(&other_version), Err(RestoreError::Version(1))));
    // What moved is named.
    let text = SavedPlan::new(&plan, &moved).to_json();
    let moves = |world: &Arc<Simulated>| {
        let (world, desired, text) = (Arc::clone(world), desired.clone(), text.clone());
        async move {
            let now = world.observe(&desired.stack).await.unwrap();
            SavedPlan::from_json(&text).unwrap().restore(&desired, &now).map(drop).unwrap_err().to_string()
        }
    };
    world.kill("shop-web-1", 3);
    let said = moves(&world).await;
    assert_eq!(said, "the host has changed since the plan was made: container/web-1 is not what it was; plan again");
    world.remove_by_hand(Kind::Container, "shop-web-1");
    assert!(moves(&world).await.contains(": container/web-1 is gone, image/nginx:1.27 is gone; plan again"));
}

#[tokio::test]
async fn a_target_takes_what_it_needs_and_leaves_the_rest() {
    let world = world();
    let db = on_network(container(), "back");
    let shop = stack([("db", db), ("web", needs(container(), "db", Condition::Started)), ("other", container())]);
    let desired = desired(&shop);
    let observed = world.observe(&desired.stack).await.unwrap();
    let (part, _) = target(&desired, &observed, &["web".to_owned()]).unwrap();
    let ids: Vec<String> = part.resources.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["image/nginx:1.27", "network/back", "container/db-1", "container/web-1"]);
    assert!(apply(&world, &part).await.succeeded());
    let observed = world.observe(&desired.stack).await.unwrap();
    let (part, seen) = target(&desired, &observed, &["container/other-1".to_owned()]).unwrap();
    let plan = plan(&part, &seen, world.capabilities(), &PlanOptions::default());
    assert_eq!(plan.summary().to_string(), "1 to create");
    let error = target(&desired, &observed, &["wbe".to_owned()]).unwrap_err();
    assert_eq!(error.to_string(), "nothing is named `wbe`: neither declared nor found");
}

#[tokio::test]
async fn a_plan_for_programs_hides_what_is_nobodys_business() {
    let world = world();
    let password = |value: &str| {
        desired(&stack([(
            "db",
            with(container(), |it| {
                it.environment.insert("DB_PASSWORD".into(), value.into());
            }),
        )]))
    };
    apply(&world, &password("first-word")).await;
    let (plan, _) = plan_now(&world, &password("second-word")).await;
    let json = serde_json::to_string(&plan.view()).unwrap();
    assert!(json.contains("DB_PASSWORD") && !json.contains("-word"), "{json}");
}

#[tokio::test]
async fn start_first_never_leaves_a_moment_without_a_container() {
    let world = world();
    let rolling = |reference: &str| {
        let it = image(replicas(container(), 2), reference);
        desired(&stack([("web", with(it, |it| it.update.order = stack::spec::UpdateOrder::StartFirst))]))
    };
    apply(&world, &rolling("nginx:1")).await;
    let after = rolling("nginx:2");
    let (plan, _) = plan_now(&world, &after).await;
    for step in 0..plan.steps.len() {
        let world = self::world();
        apply(&world, &rolling("nginx:1")).await;
        world.fault(step, Fault::CrashAfter);
        execute(&world, &plan, &options(), &|_| {}).await;
        assert!(running(&world, &after).await.len() >= 2, "after {}", describe(&plan.steps[step].action));
        world.revive();
        assert!(apply(&world, &after).await.succeeded());
        assert_eq!(running(&world, &after).await, ["web-1", "web-2"]);
    }
}

#[tokio::test]
async fn a_port_passes_on_to_a_container_that_the_next_one_waits_for() {
    let world = world();
    let start_first =
        |it| with(it, |it: &mut stack::spec::Container| it.update.order = stack::spec::UpdateOrder::StartFirst);
    apply(&world, &desired(&stack([("web", start_first(with_port(container(), 80)))]))).await;
    let web = start_first(needs(container(), "proxy", Condition::Started));
    let after = desired(&stack([("proxy", with_port(container(), 80)), ("web", web)]));
    let (plan, _) = plan_now(&world, &after).await;
    let report = execute(&world, &plan, &options(), &|_| {}).await;
    assert_eq!(undone(&plan, &report), Vec::<String>::new());
}
