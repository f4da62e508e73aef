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
