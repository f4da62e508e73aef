//! The README's tour, command by command, as a new user types it.

use std::path::Path;

use crate::support::{World, free_port};

#[test]
fn every_command_of_the_tour_succeeds() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(home.join("README.md")).unwrap();
    let world = World::new();
    // The port of the example may be taken on the machine that tests.
    let hello = std::fs::read_to_string(home.join("examples/stacks/hello/stack.yaml")).unwrap();
    let hello = world.file("hello.yaml", &hello.replace("8080:80", &format!("{}:80", free_port())));
    let mut commands = 0;
    for block in readme.split("```tour\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            let line = line.strip_prefix("$ stack ").unwrap_or_else(|| panic!("not a command: {line}"));
            let line = line.replace("examples/stacks/hello/stack.yaml", hello.to_str().unwrap());
            let line = line.replace("examples/", &format!("{}/examples/", home.display()));
            let line = line.replace("README.md", &format!("{}/README.md", home.display()));
            world.ok(&line.split_whitespace().collect::<Vec<_>>());
            commands += 1;
        }
    }
    assert!(commands > 20, "{commands}");
}
