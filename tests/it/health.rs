//! Health checks: the image's own, and what containers make of it.

use serde_json::json;

use crate::support::{World, eventually};

/// An image whose containers are healthy while /tmp/sick is not there.
fn world() -> World {
    let world = World::new();
    world.busybox("root");
    let words = json!({
        "Cmd": ["sleep", "1000"],
        "Healthcheck": {"Test": ["CMD-SHELL", "test ! -e /tmp/sick"], "Interval": 100_000_000, "Retries": 1},
    });
    world.archive("app.tar", "root", &words);
    world
}

fn stack(more: &str) -> String {
    let head = "name: care\nimages: {app: {archive: app.tar}}\ncontainers:\n";
    let app = "image: app, network_mode: none, stop_grace_period: 1s, init: true";
    format!("{head}  web: {{{app}{more}}}\n  late: {{{app}, depends_on: {{web: {{condition: service_healthy}}}}}}\n")
}

#[test]
fn the_images_own_check_is_run_and_can_be_disabled() {
    let world = world();
    let file = world.file("stack.yaml", &stack(""));
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    assert_eq!(world.field("care-web-1", "health"), "healthy");
    let pid = world.field("care-web-1", "pid");
    world.ok(&["exec", "care-web-1", "touch", "/tmp/sick"]);
    eventually("it is unhealthy", || world.field("care-web-1", "health") == "unhealthy");
    // What the container says counts, the rest stays the image's; and that changes nothing that runs.
    world.file("stack.yaml", &stack(", healthcheck: {test: [CMD, test, -e, /tmp/sick]}"));
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("update in place"), "{plan}");
    world.ok(&["apply", file]);
    eventually("it is healthy", || world.field("care-web-1", "health") == "healthy");
    let text =
        stack(", healthcheck: {disable: true}").replace("condition: service_healthy", "condition: service_started");
    world.file("stack.yaml", &text);
    world.ok(&["apply", file]);
    assert_eq!(world.field("care-web-1", "health"), "none");
    assert_eq!(world.field("care-web-1", "pid"), pid);
    world.ok(&["destroy", "care"]);
}

#[test]
fn what_is_unhealthy_is_stopped_for_good_where_that_is_asked_for() {
    let world = world();
    let text = stack(", restart: always, healthcheck: {on_failure: stop}");
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    let said = world.run(&["apply", file]);
    assert!(said.code == 0 && !said.stderr.contains("not honoured"), "{said:?}");
    world.ok(&["exec", "care-web-1", "touch", "/tmp/sick"]);
    eventually("it is stopped", || world.field("care-web-1", "state") == "exited");
    assert_eq!(world.field("care-late-1", "state"), "running");
    assert_eq!(world.field("care-web-1", "restarts"), 0);
    // An apply asks for it again.
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("stopped by hand"), "{plan}");
    world.ok(&["destroy", "care"]);
}

#[test]
fn what_stays_unhealthy_is_started_again_as_often_as_the_budget_allows() {
    let world = world();
    let check = "test: [CMD, test, -e, /never], on_failure: {action: restart, max: 2, within: 1h}";
    let text = stack(&format!(", healthcheck: {{{check}}}")).replace("service_healthy", "service_started");
    let file = world.file("stack.yaml", &text);
    world.ok(&["apply", file.to_str().unwrap()]);
    let status = || world.field("care-web-1", "status").as_str().unwrap().to_owned();
    eventually("the budget is spent", || status().contains("(unhealthy, budget spent)"));
    assert_eq!(
        (world.field("care-web-1", "restarts"), world.field("care-web-1", "state")),
        (2.into(), "running".into())
    );
    let pid = world.field("care-web-1", "pid");
    let inspected = world.ok(&["inspect", "--format", "{{.State.Health.BudgetSpent}}", "care-web-1"]);
    assert_eq!(inspected, "true\n");
    // Said once, although the check goes on failing.
    let streak = || {
        let text = world.ok(&["inspect", "--format", "{{.State.Health.FailingStreak}}", "care-web-1"]);
        text.trim().parse::<u32>().unwrap()
    };
    eventually("it goes on failing", || streak() > 3);
    let events = world.ok(&["events", "--since", "0", "--until", "0s", "--format", "{{.Action}}"]);
    assert_eq!(events.lines().filter(|line| *line == "health_budget_spent").count(), 1, "{events}");
    assert_eq!(world.field("care-web-1", "pid"), pid);
    world.ok(&["destroy", "care"]);
}

#[test]
fn what_is_unhealthy_is_made_anew_by_the_next_apply_where_that_is_asked_for() {
    let world = world();
    let file = world.file("stack.yaml", &stack(", healthcheck: {on_failure: recreate}"));
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let id = world.field("care-web-1", "id");
    world.ok(&["exec", "care-web-1", "touch", "/tmp/sick"]);
    eventually("it is unhealthy", || world.field("care-web-1", "health") == "unhealthy");
    assert_eq!(world.field("care-web-1", "id"), id);
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("replace") && plan.contains("unhealthy"), "{plan}");
    world.ok(&["apply", "--wait", file]);
    assert_ne!(world.field("care-web-1", "id"), id);
    assert_eq!(world.field("care-web-1", "health"), "healthy");
    assert!(!world.ok(&["plan", file]).contains("unhealthy"));
    world.ok(&["destroy", "care"]);
}

#[test]
fn what_never_gets_healthy_is_made_anew_as_often_as_the_budget_allows() {
    let world = world();
    let check = "test: [CMD, test, -e, /never], on_failure: {action: recreate, max: 2, within: 1h}";
    let text = stack(&format!(", healthcheck: {{{check}}}")).replace("service_healthy", "service_started");
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let status = || world.field("care-web-1", "status").as_str().unwrap().to_owned();
    let mut ids = Vec::new();
    for _ in 0..2 {
        eventually("it is unhealthy", || world.field("care-web-1", "health") == "unhealthy");
        assert!(!status().contains("budget"), "{}", status());
        ids.push(world.field("care-web-1", "id"));
        world.ok(&["apply", file]);
        assert!(!ids.contains(&world.field("care-web-1", "id")));
    }
    eventually("the budget is spent", || status().contains("(unhealthy, budget spent)"));
    let id = world.field("care-web-1", "id");
    let said = world.run(&["status", file]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("container/web-1 is unhealthy and was made anew 2 times"), "{said:?}");
    world.ok(&["apply", file]);
    assert_eq!(world.field("care-web-1", "id"), id);
    let inspected =
        world.ok(&["inspect", "--format", "{{.State.Health.Cures}} {{.State.Health.BudgetSpent}}", "care-web-1"]);
    assert_eq!(inspected, "2 true\n");
    world.ok(&["destroy", "care"]);
}
