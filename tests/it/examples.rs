//! Every stack of `examples/stacks` is made, used and destroyed, as it stands but for the ports of this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{World, eventually, free_port, get};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/stacks")
}

/// A file of the examples with another port, so that a machine that uses the usual one can run the tests.
fn with_port(world: &World, example: &str, published: &str, port: u16) -> PathBuf {
    let text = fs::read_to_string(examples().join(example)).unwrap();
    assert!(text.contains(published), "{example} does not publish {published}");
    world.file(Path::new(example).file_name().unwrap().to_str().unwrap(), &text.replace(published, &port.to_string()))
}

#[test]
fn all_examples_are_valid() {
    let world = World::new();
    let mut checked = 0;
    for folder in fs::read_dir(examples()).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "yaml" || extension == "toml") {
                world.ok(&["validate", file.to_str().unwrap()]);
                checked += 1;
            }
        }
    }
    assert!(checked >= 4, "{checked}");
}

#[test]
fn hello_talks_to_itself() {
    let world = World::new();
    let port = free_port();
    let file = with_port(&world, "hello/stack.yaml", "8080", port);
    world.ok(&["apply", "--wait", file.to_str().unwrap()]);
    eventually("the visitor has been", || world.field("hello-visitor-1", "state") == "exited");
    assert!(world.ok(&["logs", "hello-visitor-1"]).contains("hits: 1"));
    assert!(get(port, "/").unwrap().contains("hits: 2"));
    world.ok(&["destroy", "hello", "--volumes", "--yes=volumes"]);
}

#[test]
fn the_compose_file_works_as_it_is() {
    let world = World::new();
    let port = free_port();
    let file = with_port(&world, "compose/compose.yaml", "8081", port);
    world.ok(&["apply", "--wait", "-p", "shop", file.to_str().unwrap()]);
    assert_eq!(world.field("shop-api-1", "health"), "healthy");
    assert!(get(port, "/").unwrap().contains("hits: "));
    assert!(world.ok(&["exec", "shop-web-1", "/whoami", "client", "api:8000"]).contains("hits: "));
    assert!(!world.names().contains(&"shop-debug-1".to_owned()));
    world.ok(&["apply", "-p", "shop", "--profile", "debug", file.to_str().unwrap()]);
    assert_eq!(world.field("shop-debug-1", "state"), "running");
    world.ok(&["destroy", "shop"]);
}

#[test]
fn the_toml_file_works() {
    let world = World::new();
    let port = free_port();
    let file = with_port(&world, "toml/stack.toml", "8082", port);
    world.ok(&["apply", file.to_str().unwrap()]);
    eventually("the job is done", || world.field("minimal-job-1", "state") == "exited");
    assert!(get(port, "/").unwrap().contains("hits: "));
    world.ok(&["destroy", "minimal"]);
}

/// Programs that know nothing of us: nginx, PostgreSQL and Redis, from archives.
#[test]
fn a_web_server_a_database_and_a_cache_work_together() {
    let world = World::new();
    let port = free_port();
    let built = Command::new(examples().join("images/build.sh")).status().unwrap();
    assert!(built.success());
    let file = with_port(&world, "web-database-cache/stack.yaml", "8083", port);
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/images");
    let text = fs::read_to_string(&file).unwrap().replace("../../../target/images", images.to_str().unwrap());
    fs::write(&file, text).unwrap();
    fs::copy(examples().join("web-database-cache/password"), world.directory.join("password")).unwrap();
    world.ok(&["apply", "--wait", file.to_str().unwrap()]);
    assert!(get(port, "/").unwrap().contains("It works."));
    world.ok(&["exec", "shop-cache-1", "redis-cli", "set", "greeting", "hello"]);
    let asked = world.ok(&["exec", "shop-web-1", "sh", "-c", "printf 'GET greeting\\r\\nQUIT\\r\\n' | nc cache 6379"]);
    assert!(asked.contains("hello"), "{asked}");
    world.ok(&["exec", "shop-web-1", "nc", "-w", "5", "database", "5432", "-e", "true"]);
    let query = |text: &str| world.ok(&["exec", "shop-database-1", "psql", "-U", "shop", "-Atc", text]);
    query("create table visits as select 7 as n");
    // Neither the database nor the cache runs as root.
    for (container, uid) in [("shop-database-1", 102), ("shop-cache-1", 101)] {
        let pid = world.field(container, "pid");
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let (map, status) = (read("uid_map"), read("status"));
        // As nobody outside, and that inside.
        let first: u32 = map.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(first > 0 && status.contains(&format!("Uid:\t{}\t", first + uid)), "{container}: {map} {status}");
    }
    world.ok(&["destroy", "shop"]);
    world.ok(&["apply", "--wait", file.to_str().unwrap()]);
    assert_eq!(query("select n from visits").trim(), "7");
    // `protect: true` keeps the data even from one who asks for its removal.
    world.run(&["destroy", "shop", "--volumes", "--yes=volumes"]);
    assert!(world.ok(&["volume", "ls"]).contains("shop_data"));
    world.run(&["destroy", "shop"]);
}
