//! What was done to a stack, and going back: in the simulated world, and through the command line on this host.

use std::sync::Arc;

use serde_json::Value;
use stack::engine::simulated::{Fault, Simulated};
use stack::reconcile::controller::converge;
use stack::reconcile::desired::Desired;
use stack::reconcile::execute::ExecuteOptions;
use stack::reconcile::history::generation::{self, KEPT};
use stack::reconcile::history::journal::{Fate, Round, rounds};
use stack::reconcile::history::{Author, Memory};
use stack::reconcile::plan::PlanOptions;
use stack::spec::Container;

use crate::stacks::{container, desired, image, on_network, stack, with, with_volume, world as simulated};
use crate::support::{World, free_port};

fn options() -> ExecuteOptions {
    let author = Author { user: "ann".to_owned(), command: "apply".to_owned(), ..Author::default() };
    ExecuteOptions { parallel: 1, author, ..ExecuteOptions::default() }
}

async fn apply(world: &Arc<Simulated>, desired: &Desired) {
    converge(world, desired, &PlanOptions::default(), &options(), &|_, _| {}).await.unwrap();
}

fn numbers(world: &Simulated, desired: &Desired) -> Vec<u64> {
    world.kept(&desired.stack).unwrap().iter().map(|key| key.number).collect()
}

fn journal(world: &Simulated, desired: &Desired) -> Vec<Round> {
    rounds(&world.notes(&desired.stack).unwrap())
}

fn colored(color: &str) -> Container {
    with(on_network(container(), "front"), |it| {
        it.environment.insert("COLOR".to_owned(), color.to_owned());
    })
}

fn color(desired: &Desired) -> Value {
    let web = desired.resources.iter().find(|(id, _)| id.name == "web-1").unwrap().1;
    serde_json::to_value(&web.config).unwrap()["environment"]["COLOR"].clone()
}

#[tokio::test]
async fn each_state_that_is_reached_is_a_generation_and_can_be_gone_back_to() {
    let world = simulated();
    let blue = desired(&stack([("web", colored("blue")), ("old", with_volume(container(), "data"))]));
    let green = desired(&stack([("web", colored("green")), ("new", image(container(), "redis:8"))]));
    apply(&world, &blue).await;
    apply(&world, &blue).await;
    apply(&world, &green).await;
    assert_eq!(numbers(&world, &blue), [1, 2], "what changes nothing is no generation");
    let first = generation::get(world.as_ref(), &blue.stack, 1).unwrap();
    assert_eq!((first.author.user.as_str(), color(&first.desired)), ("ann", "blue".into()));
    let second = generation::get(world.as_ref(), &blue.stack, 2).unwrap();
    let between = generation::between(&first, &second, stack::reconcile::engine::Engine::capabilities(world.as_ref()));
    assert_eq!(
        between
            .text()
            .lines()
            .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>(),
        [
            "+ image/redis:8 create",
            "- volume/data remove",
            "+ container/new-1 create",
            "- container/old-1 remove",
            "± container/web-1 replace",
        ]
    );
    // The content that the tag stood for then, whatever it stands for now.
    let then = first.digests["nginx:1.27"].clone();
    world.publish("nginx:1.27", "sha256:moved");
    let back = first.restore(None).unwrap();
    apply(&world, &back).await;
    assert_eq!(numbers(&world, &blue), [1, 2, 3]);
    let observed = stack::reconcile::engine::Engine::observe(world.as_ref(), &blue.stack).await.unwrap();
    let web = observed.resources.iter().find(|(id, _)| id.name == "web-1").unwrap().1;
    let config = serde_json::to_value(&web.config).unwrap();
    assert_eq!(
        (&config["environment"]["COLOR"], config["image_digest"].as_str()),
        (&"blue".into(), Some(then.as_str()))
    );
    assert!(
        observed.resources.keys().any(|id| id.name == "old-1")
            && observed.resources.keys().all(|id| id.name != "new-1")
    );
}

#[tokio::test]
async fn so_many_generations_are_kept_and_no_more() {
    let world = simulated();
    for color in 0..KEPT + 3 {
        apply(&world, &desired(&stack([("web", colored(&color.to_string()))]))).await;
    }
    let shop = desired(&stack([]));
    let expected: Vec<u64> = (4..=KEPT as u64 + 3).collect();
    assert_eq!(numbers(&world, &shop), expected);
    let said = generation::get(world.as_ref(), &shop.stack, 1).unwrap_err().to_string();
    assert!(said.starts_with("stack shop has no generation 1\n  help: there are 4, 5, "), "{said}");
    assert_eq!(generation::previous(world.as_ref(), &shop.stack).unwrap(), KEPT as u64 + 2);
}

#[tokio::test]
async fn the_journal_tells_what_was_done_and_what_was_not() {
    let world = simulated();
    world.make_unavailable("redis:8", true);
    let shop = desired(&stack([("cache", image(container(), "redis:8")), ("web", colored("blue"))]));
    apply(&world, &shop).await;
    assert_eq!(numbers(&world, &shop), Vec::<u64>::new(), "what was not reached is no generation");
    let told = journal(&world, &shop);
    let fate = |name: &str| &told[0].changes.iter().find(|(change, _)| change.id.to_string() == name).unwrap().1;
    assert!(matches!(fate("image/redis:8"), Fate::Failed { error, .. } if error.contains("redis:8")));
    assert_eq!(fate("container/cache-1"), &Fate::Skipped);
    assert!(matches!(fate("container/web-1"), Fate::Done { .. }));
    // Who dies of it leaves it open.
    world.make_unavailable("redis:8", false);
    world.fault(1, Fault::CrashBefore);
    apply(&world, &shop).await;
    world.revive();
    let told = journal(&world, &shop);
    assert_eq!(told.len(), 2);
    assert!(told[1].changes.iter().any(|(_, fate)| *fate == Fate::Open), "{told:?}");
    apply(&world, &shop).await;
    assert_eq!(numbers(&world, &shop), [1]);
    // Drift is told with what was lost.
    world.drift(stack::reconcile::resource::Kind::Network, "shop_front", "link gone");
    apply(&world, &shop).await;
    let told = journal(&world, &shop);
    let change = serde_json::to_value(&told.last().unwrap().changes[0].0).unwrap();
    assert_eq!((&change["verb"], &change["reason"]), (&"repair".into(), &"link gone".into()));
    assert_eq!(numbers(&world, &shop), [1]);
}

fn shop(port: u16, color: &str, greeting: &str) -> String {
    format!(
        r#"name: shop
containers:
  web:
    build: ./context
    command: [sleep, forever]
    environment: {{COLOR: {color}, API_TOKEN: {color}}}
    configs: [greeting]
    secrets: [word]
    ports: ["127.0.0.1:{port}:80"]
    volumes: ["data:/data", "./bound:/bound"]
    stop_grace_period: 0s
configs: {{greeting: {{content: {greeting}}}}}
secrets: {{word: {{file: ./word}}}}
volumes: {{data: {{}}}}
"#
    )
}

fn json(world: &World, words: &[&str]) -> Value {
    serde_json::from_str(&world.ok(words)).unwrap()
}

/// The newest first.
fn generations(world: &World) -> Vec<Value> {
    serde_json::from_str(&world.ok(&["history", "--format", "json"])).unwrap()
}

#[test]
fn a_stack_goes_back_to_what_it_was() {
    let world = World::new();
    let port = free_port();
    world.file("context/Dockerfile", "FROM builtin:whoami\nENV VERSION=1\n");
    world.file("word", "early");
    world.file("bound", "early");
    world.file("stack.yaml", &shop(port, "blue", "hello"));
    world.ok(&["apply"]);
    world.ok(&["exec", "shop-web-1", "/whoami", "write", "/data/word", "first"]);
    world.file("context/Dockerfile", "FROM builtin:whoami\nENV VERSION=2\n");
    world.file("word", "late");
    world.file("bound", "late");
    world.file("stack.yaml", &shop(port, "green", "goodbye"));
    world.ok(&["apply", "--snapshot", "--yes"]);
    world.ok(&["exec", "shop-web-1", "/whoami", "write", "/data/word", "second"]);
    let found = generations(&world);
    assert_eq!(found.iter().map(|one| one["generation"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(found[0]["command"], "apply");
    let differs = world.ok(&["diff", "1", "2"]);
    assert!(
        differs.contains("environment.COLOR: blue -> green") && differs.contains("/greeting: content changed"),
        "{differs}"
    );
    assert!(differs.contains("environment.API_TOKEN: (hidden) -> (hidden)"), "{differs}");
    // Looking changes nothing.
    let seen = world.run(&["rollback", "--dry-run"]);
    assert!(seen.code == 0 && seen.stdout.contains("COLOR: green -> blue"), "{seen:?}");
    assert_eq!(world.ok(&["exec", "shop-web-1", "/whoami", "cat", "/greeting"]), "goodbye");
    let said = world.fails(1, &["rollback", "2", "--with-data", "--yes=volumes"]);
    assert!(said.contains("no snapshot of generation 2 of volume shop_data"), "{said}");
    // From elsewhere, by the stack's name.
    let back = world.run(&["-p", "shop", "-f", "stack.yaml", "rollback", "1", "--with-data", "--yes=volumes"]);
    assert_eq!(back.code, 0, "{back:?}");
    for (file, now) in
        [("/greeting", "hello"), ("/data/word", "first"), ("/run/secrets/word", "late"), ("/bound", "late")]
    {
        assert_eq!(world.ok(&["exec", "shop-web-1", "/whoami", "cat", file]).trim_end(), now, "{file}");
    }
    assert!(back.stderr.contains("note: secret word is as it is now"), "{back:?}");
    assert!(back.stderr.contains("/bound is of this host, and as it is now"), "{back:?}");
    let environment = world.ok(&["inspect", "shop-web-1", "--format", "{{.Config.Env}}"]);
    assert!(environment.contains("COLOR=blue") && environment.contains("VERSION=1"), "{environment}");
    assert_eq!((generations(&world).len(), &generations(&world)[0]["command"]), (3, &"rollback 1".into()));
    // The file says something else, and counts.
    assert_eq!(world.run(&["status"]).code, 2);
    world.ok(&["apply"]);
    assert_eq!(world.ok(&["exec", "shop-web-1", "/whoami", "cat", "/greeting"]), "goodbye");
    assert_eq!(generations(&world).len(), 4);
    // No secret is written down.
    let kept = std::fs::read_dir(world.roots.root.join("stacks/shop/generations")).unwrap();
    for file in kept.map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("early") && !text.contains("late\""), "{}", file.display());
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap()) & 0o077, 0);
    }
    world.ok(&["destroy", "--volumes", "--yes=volumes", "--now"]);
    assert!(world.ok(&["why", "-n", "1"]).contains("  - remove container/web-1"));
    world.ok(&["system", "prune", "--force"]);
    assert!(!world.roots.root.join("stacks/shop").exists());
}

#[test]
fn an_apply_that_fails_is_taken_back() {
    let world = World::new();
    let file = |check: &str| {
        format!(
            r#"name: shop
containers:
  web:
    image: "builtin:whoami"
    command: [sleep, forever]
    network_mode: none
    stop_grace_period: 0s
    healthcheck: {{test: [CMD, /whoami, {check}], interval: 100ms, retries: 1}}
"#
        )
    };
    world.file("stack.yaml", &file("echo"));
    world.ok(&["apply", "--rollback-on-failure"]);
    world.file("stack.yaml", &file("no-such-word"));
    let said = world.fails(1, &["apply", "--rollback-on-failure"]);
    assert!(said.contains("going back to generation 1") && said.contains("as in generation 1 again"), "{said}");
    assert_eq!(world.field("shop-web-1", "state"), "running");
    let told = json(&world, &["why", "web", "--format", "json"]);
    let told = told.as_array().unwrap();
    assert_eq!(told.len(), 3);
    let change = &told[1]["changes"][0];
    assert_eq!((&change["id"], &change["fields"][0]["path"]), (&"container/web-1".into(), &"healthcheck.test".into()));
    assert!(change["place"].as_str().unwrap().starts_with("stack.yaml:8:"), "{change}");
    assert!(change["outcome"]["failed"]["error"].as_str().unwrap().contains("unhealthy"), "{change}");
    assert_eq!(told[2]["command"], "rollback 1 after a failed apply");
    // What changed nothing is told by nobody.
    world.file("stack.yaml", &file("echo"));
    world.ok(&["apply"]);
    assert_eq!(json(&world, &["why", "--format", "json"]).as_array().unwrap().len(), 3);
    let said = world.fails(1, &["why", "nobody"]);
    assert!(said.contains("nothing is known of \"nobody\""), "{said}");
    world.ok(&["destroy"]);
}
