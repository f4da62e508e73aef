//! The watch loop: it converges on files, on the host and on time, and leaves what runs alone when it ends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stack::engine::simulated::{Behaviour, Simulated};
use stack::reconcile::controller::{Source, SourceError, WatchEvent, WatchOptions, watch};
use stack::reconcile::desired::Desired;
use stack::reconcile::engine::{Engine, RunState};
use stack::reconcile::resource::Kind;
use stack::spec::Stack;
use tokio::sync::{mpsc, watch as channel};

use crate::stacks::{container, desired, image, replicas, stack, world};

/// Files that a test writes.
struct Files {
    now: Arc<Mutex<Result<Desired, SourceError>>>,
    changed: channel::Receiver<()>,
}

impl Source for Files {
    async fn load(&mut self) -> Result<Desired, SourceError> {
        self.now.lock().unwrap().clone()
    }

    async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A watcher that runs, and what it tells.
struct Watch {
    world: Arc<Simulated>,
    files: Arc<Mutex<Result<Desired, SourceError>>>,
    touch: channel::Sender<()>,
    stop: channel::Sender<bool>,
    told: mpsc::UnboundedReceiver<String>,
    task: tokio::task::JoinHandle<()>,
}

fn options() -> WatchOptions {
    WatchOptions {
        interval: Duration::from_secs(3600),
        debounce: Duration::from_millis(5),
        backoff: Duration::from_millis(50),
        backoff_limit: Duration::from_millis(400),
        parallel: 4,
        ..WatchOptions::default()
    }
}

impl Watch {
    fn begin(world: Arc<Simulated>, shop: &Stack, options: WatchOptions) -> Self {
        let files = Arc::new(Mutex::new(Ok(desired(shop))));
        let (touch, changed) = channel::channel(());
        let (stop, stopped) = channel::channel(false);
        let (tell, told) = mpsc::unbounded_channel();
        let mut source = Files { now: Arc::clone(&files), changed };
        let engine = Arc::clone(&world);
        let task = tokio::spawn(async move {
            watch(&engine, &mut source, &options, stopped, &|event| {
                let line = match event {
                    WatchEvent::Invalid(error) => format!("invalid: {error}"),
                    WatchEvent::ObserveFailed(error) => format!("observe: {error}"),
                    WatchEvent::Refused(_, objections) => format!("refused: {}", objections[0]),
                    WatchEvent::Planned(plan) => format!("plan: {}", plan.summary()),
                    WatchEvent::Converged(_) => "converged".to_owned(),
                    WatchEvent::Failed { report, .. } => format!("failed: {}", report.failures().count()),
                    WatchEvent::Step(..) => return,
                };
                tell.send(line).unwrap();
            })
            .await;
        });
        Self { world, files, touch, stop, told, task }
    }

    fn write(&self, files: Result<&Stack, &str>) {
        *self.files.lock().unwrap() = files.map(desired).map_err(|text| SourceError { diagnostics: text.to_owned() });
        self.touch.send(()).unwrap();
    }

    async fn hears(&mut self, expected: &str) {
        let mut heard = Vec::new();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.told.recv()).await;
            let Ok(Some(line)) = next else { panic!("never heard `{expected}`, but {heard:?}") };
            if line == expected {
                return;
            }
            heard.push(line);
        }
    }

    async fn running(&self) -> Vec<String> {
        let name = stack::reconcile::engine::StackName::new("shop").unwrap();
        let observed = self.world.observe(&name).await.unwrap();
        let live = observed.resources.iter().filter(|(_, it)| matches!(it.run, Some(RunState::Running { .. })));
        live.map(|(id, _)| id.name.clone()).collect()
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn it_follows_the_files_and_keeps_the_last_good_one() {
    let mut watch = Watch::begin(world(), &stack([("web", container())]), options());
    watch.hears("converged").await;
    watch.write(Err("stack.yaml:3:5: unknown key"));
    watch.hears("invalid: stack.yaml:3:5: unknown key").await;
    watch.hears("converged").await;
    assert_eq!(watch.running().await, ["web-1"]);
    watch.write(Ok(&stack([("web", replicas(container(), 2))])));
    watch.hears("plan: 1 to create").await;
    watch.hears("converged").await;
    assert_eq!(watch.running().await, ["web-1", "web-2"]);
    watch.end().await;
}

#[tokio::test]
async fn it_waits_for_a_first_good_file() {
    let mut watch = Watch::begin(world(), &stack([]), options());
    watch.write(Err("nothing there"));
    watch.hears("invalid: nothing there").await;
    watch.write(Ok(&stack([("web", container())])));
    watch.hears("plan: 1 to pull, 1 to create").await;
    watch.hears("converged").await;
    watch.end().await;
}

#[tokio::test]
async fn it_brings_back_what_dies_is_removed_or_drifts_but_not_what_was_stopped() {
    let mut watch = Watch::begin(world(), &stack([("web", container())]), options());
    watch.hears("converged").await;
    watch.world.kill("shop-web-1", 137);
    watch.hears("plan: 1 to start").await;
    watch.hears("converged").await;
    watch.world.remove_by_hand(Kind::Container, "shop-web-1");
    watch.hears("plan: 1 to create").await;
    watch.hears("converged").await;
    watch.world.drift(Kind::Container, "shop-web-1", "rule flushed");
    watch.hears("plan: 1 to update").await;
    watch.hears("converged").await;
    watch.world.stop_by_hand("shop-web-1");
    watch.write(Ok(&stack([("web", container()), ("db", container())])));
    watch.hears("converged").await;
    assert_eq!(watch.running().await, ["db-1", "web-1"], "a new file means all of it");
    watch.world.stop_by_hand("shop-web-1");
    watch.world.kill("shop-db-1", 1);
    watch.hears("plan: 1 to start").await;
    watch.hears("converged").await;
    assert_eq!(watch.running().await, ["db-1"]);
    watch.end().await;
}

#[tokio::test]
async fn what_fails_rests_longer_and_longer_and_holds_up_nothing_else() {
    let world = world();
    world.make_unavailable("postgres:17", true);
    let shop = stack([("db", image(container(), "postgres:17")), ("web", container())]);
    let mut watch = Watch::begin(world, &shop, options());
    watch.hears("failed: 1").await;
    assert_eq!(watch.running().await, ["web-1"]);
    watch.world.kill("shop-web-1", 1);
    watch.hears("plan: 1 to start").await;
    watch.hears("failed: 1").await;
    watch.world.make_unavailable("postgres:17", false);
    watch.hears("converged").await;
    assert_eq!(watch.running().await, ["db-1", "web-1"]);
    watch.end().await;
}

#[tokio::test]
async fn a_container_that_keeps_ending_is_not_restarted_in_a_circle() {
    let world = world();
    world.behave("web", Behaviour { exits: Some((0, 1)), ..Behaviour::default() });
    let watch = Watch::begin(world, &stack([("web", container())]), options());
    tokio::time::sleep(Duration::from_millis(500)).await;
    // 50, 100, 200 and 400 ms of rest: pull, create and start, then a handful of starts.
    let performed = watch.world.performed();
    assert!((4..=10).contains(&performed), "{performed} actions");
    watch.end().await;
}

#[tokio::test]
async fn a_refused_plan_is_told_once_and_nothing_is_done() {
    let mut shop = stack([("db", crate::stacks::with_volume(container(), "data"))]);
    let mut watch = Watch::begin(world(), &shop, options());
    watch.hears("converged").await;
    let performed = watch.world.performed();
    shop.volumes.get_mut("data").unwrap().driver = Some("tape".into());
    watch.write(Ok(&shop));
    watch.hears("refused: volume/data: refused: data would be lost").await;
    watch.world.advance(1);
    watch.world.advance(1);
    assert_eq!(watch.world.performed(), performed);
    watch.end().await;
}

#[tokio::test]
async fn a_file_that_changed_unheard_is_found_on_the_timer() {
    let quick = WatchOptions { interval: Duration::from_millis(20), ..options() };
    let mut watch = Watch::begin(world(), &stack([("web", container())]), quick);
    watch.hears("converged").await;
    watch.world.stop_by_hand("shop-web-1");
    *watch.files.lock().unwrap() = Err(SourceError { diagnostics: "a slip".to_owned() });
    watch.hears("invalid: a slip").await;
    *watch.files.lock().unwrap() = Ok(desired(&stack([("web", container()), ("db", container())])));
    watch.hears("plan: 1 to create, 1 to start").await;
    watch.hears("converged").await;
    assert_eq!(watch.running().await, ["db-1", "web-1"]);
    watch.end().await;
}

#[tokio::test]
async fn it_looks_on_its_timer_without_any_hint() {
    let quick = WatchOptions { interval: Duration::from_millis(20), ..options() };
    let world = world();
    let mut watch = Watch::begin(Arc::clone(&world), &stack([("web", container())]), quick);
    watch.hears("converged").await;
    world.kill_unheard("shop-web-1", 9);
    watch.hears("plan: 1 to start").await;
    watch.end().await;
    assert_eq!(world.contents().len(), 1, "what ran still runs");
}
